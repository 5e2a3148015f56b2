"""A detector of burnt-in text: letters that a machine drew in the brightest or darkest value of an image.

The detector searches for rows of three or more marks of equal height on one baseline. Each mark consists of pixels
near the minimum or maximum gray value and has a sharp edge, which anatomy and natural scenes do not have. The detector
is meant for capitals and digits. It finds lower-case letters only where three of equal height are adjacent. It does
not read the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_LETTERS = 3
MIN_HEIGHT = 5
"""Height in pixels of the smallest legible capitals."""

# Components in the dark or the bright mask. More of them mean texture, and all pairs of them would be compared.
_MAX_CANDIDATES = 2000


def detect(image: NDArray[np.uint8], caption: str) -> Mapping[str, Sequence[tuple[float, float, float, float]]]:  # noqa: ARG001  # the interface of a detector
    """Detect lines of burnt-in text in an image.

    Args:
        image: RGB image of shape (height, width, 3).
        caption: Ignored. The interface of detectors includes it.

    Returns:
        Under the key `text`, a box (x0, y0, x1, y1) per line of text, as fractions of the image's width and height.
        The mapping is empty if no text is found.
    """
    gray = image.mean(axis=2)
    low, high = float(gray.min()), float(gray.max())
    span = high - low
    if span < 64:  # too little contrast for legible text
        return {}
    # A sixteenth of the span: as much as JPEG adds around an edge.
    lines = [
        line for extreme in (gray >= high - span / 16, gray <= low + span / 16) for line in _lines(extreme, gray, span)
    ]
    if not lines:
        return {}
    height, width = gray.shape
    boxes = np.clip(np.add(lines, (-1, -1, 1, 1)) / (width, height, width, height), 0, 1)
    return {"text": [(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes.tolist()]}


def _lines(mask: NDArray[np.bool_], gray: NDArray[Any], span: float) -> list[tuple[int, int, int, int]]:
    """Return the box of each row of letters as (left, top, right, bottom) in pixels.

    Args:
        mask: Pixels near the minimum or near the maximum gray value, of shape (height, width).
        gray: Gray values of the image, of shape (height, width).
        span: Difference between the maximum and the minimum of `gray`.
    """
    from scipy.ndimage import find_objects, label
    from scipy.sparse.csgraph import connected_components

    labels, _ = label(mask, np.ones((3, 3)))
    letters = [
        (rows.start, rows.stop, columns.start, columns.stop)
        for number, (rows, columns) in enumerate(find_objects(labels), 1)
        if MIN_HEIGHT <= rows.stop - rows.start <= mask.shape[0] / 4
        and columns.stop - columns.start <= 2 * (rows.stop - rows.start)
        and _is_sharp(labels, number, rows, columns, gray, span)
    ]
    if not MIN_LETTERS <= len(letters) <= _MAX_CANDIDATES:
        return []
    top, bottom, left, right = np.array(letters).T
    heights = bottom - top
    slack = np.maximum(1, heights / 8)[:, None]
    level = (abs(top[:, None] - top) <= slack) & (abs(bottom[:, None] - bottom) <= slack)
    gap = left - right[:, None]
    count, group = connected_components(level & (gap >= 0) & (gap <= heights[:, None]), directed=False)
    rows_of = [np.flatnonzero(group == number) for number in range(count)]
    return [
        (int(left[row].min()), int(top[row].min()), int(right[row].max()), int(bottom[row].max()))
        for row in rows_of
        if len(row) >= MIN_LETTERS
    ]


def _is_sharp(
    labels: NDArray[np.int32], number: int, rows: slice, columns: slice, gray: NDArray[Any], span: float
) -> bool:
    """Return whether a component's mean gray value differs from that of its border by at least a quarter of `span`.

    `labels` has the number of the connected component at each pixel. `rows` and `columns` are the bounding box of the
    component `number`. For `gray` and `span` see `_lines`.
    """
    from scipy.ndimage import binary_dilation

    around = (slice(max(rows.start - 1, 0), rows.stop + 1), slice(max(columns.start - 1, 0), columns.stop + 1))
    inside = labels[around] == number
    ring = binary_dilation(inside, np.ones((3, 3))) & ~inside
    values = gray[around]
    return bool(ring.any() and abs(values[ring].mean() - values[inside].mean()) >= span / 4)
