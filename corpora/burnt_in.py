"""A detector of burnt-in text: letters that a machine drew in the brightest or the darkest value of an image.

What it looks for no anatomy and no scene does: three or more marks in a row, equal in height and on one line, each of
one extreme value with a sharp edge. Written for capitals and digits: small letters are found where three of a height
stand side by side. It knows nothing of what is written, nor whether it matters.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_LETTERS = 3
LEAST_HEIGHT = 5
"""In pixels: the smallest in which capitals can be told from one another."""

_BUSY = 2000  # candidates of one brightness above which a picture is all texture: pairs of them are compared


def detect(image: NDArray[np.uint8], caption: str) -> Mapping[str, Sequence[tuple[float, float, float, float]]]:  # noqa: ARG001  # the form of a detector
    """Boxes of the lines of text in an image (height, width, 3), in shares, under the name `text`."""
    grey = image.mean(axis=2)
    low, high = float(grey.min()), float(grey.max())
    span = high - low
    if span < 64:  # nothing stands out that a reader could read
        return {}
    # A sixteenth of the span: as much as JPEG adds around an edge.
    lines = [
        line for extreme in (grey >= high - span / 16, grey <= low + span / 16) for line in _lines(extreme, grey, span)
    ]
    height, width = grey.shape
    boxes = [
        (
            max(left - 1, 0) / width,
            max(top - 1, 0) / height,
            min(right + 1, width) / width,
            min(end + 1, height) / height,
        )
        for top, end, left, right in lines
    ]
    return {"text": boxes} if boxes else {}


def _lines(mask: NDArray[np.bool_], grey: NDArray[Any], span: float) -> list[tuple[int, int, int, int]]:
    """Top, bottom, left, right of each row of letters among the components of a mask."""
    from scipy.ndimage import find_objects, label
    from scipy.sparse.csgraph import connected_components

    labels, _ = label(mask, np.ones((3, 3)))
    letters = [
        (rows.start, rows.stop, columns.start, columns.stop)
        for number, (rows, columns) in enumerate(find_objects(labels), 1)
        if LEAST_HEIGHT <= rows.stop - rows.start <= mask.shape[0] / 4
        and columns.stop - columns.start <= 2 * (rows.stop - rows.start)
        and _is_sharp(labels, number, rows, columns, grey, span)
    ]
    if not LEAST_LETTERS <= len(letters) <= _BUSY:
        return []
    top, bottom, left, right = np.array(letters).T
    heights = bottom - top
    slack = np.maximum(1, heights / 8)[:, None]
    level = (abs(top[:, None] - top) <= slack) & (abs(bottom[:, None] - bottom) <= slack)
    gap = left - right[:, None]
    found, group = connected_components(level & (gap >= 0) & (gap <= heights[:, None]), directed=False)
    rows_of = [np.flatnonzero(group == number) for number in range(found)]
    return [
        (int(top[row].min()), int(bottom[row].max()), int(left[row].min()), int(right[row].max()))
        for row in rows_of
        if len(row) >= LEAST_LETTERS
    ]


def _is_sharp(
    labels: NDArray[np.int32], number: int, rows: slice, columns: slice, grey: NDArray[Any], span: float
) -> bool:
    """Whether what lies around a component differs from it by a quarter of the span on average, at once."""
    from scipy.ndimage import binary_dilation

    around = (slice(max(rows.start - 1, 0), rows.stop + 1), slice(max(columns.start - 1, 0), columns.stop + 1))
    inside = labels[around] == number
    ring = binary_dilation(inside, np.ones((3, 3))) & ~inside
    values = grey[around]
    return bool(ring.any() and abs(values[ring].mean() - values[inside].mean()) >= span / 4)
