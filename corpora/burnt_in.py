"""A detector of burnt-in text: lines and single letters that a machine drew into an image.

The detector searches for rows of three or more marks of equal height on one baseline. Each mark consists of pixels
near the minimum or maximum gray value and has a sharp edge, which anatomy and natural scenes do not have. The detector
is meant for capitals and digits. It finds lower-case letters only where three of equal height are adjacent. It does
not read the text.

Single letters, such as the side markers L and R, may have any gray value. They are flat marks on a flat ground near the
border, with nothing beside them, and with a straight vertical stem: A, C, O, S, V, X and others are missed.
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

_MAX_SINGLE = 4
_MARGIN = 0.2  # distance of a single letter from the border, as a share of the image's side
_SIDE = 640  # longest side, in pixels, of images that are searched for single letters


def detect(image: NDArray[np.uint8], caption: str) -> Mapping[str, Sequence[tuple[float, float, float, float]]]:  # noqa: ARG001  # the interface of a detector
    """Detect lines of burnt-in text in an image.

    Args:
        image: RGB image of shape (height, width, 3).
        caption: Ignored. The interface of detectors includes it.

    Returns:
        A box (x0, y0, x1, y1) per line of text under the key `text`, and per single letter under the key `letter`, as
        fractions of the image's width and height. Keys without a box are left out.
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
    found: dict[str, Sequence[tuple[float, float, float, float]]] = {
        "text": lines,
        "letter": _single_letters(gray, span),
    }
    height, width = gray.shape
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    for name, extents in found.items():
        for left, top, right, bottom in extents:
            edges = (left - 1) / width, (top - 1) / height, (right + 1) / width, (bottom + 1) / height
            x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in edges)
            boxes.setdefault(name, []).append((x0, y0, x1, y1))
    return boxes


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


def _single_letters(gray: NDArray[Any], span: float) -> list[tuple[float, float, float, float]]:
    """Return the box of each single letter near the border as (left, top, right, bottom) in pixels.

    An image is reduced by whole factors to a side of at most `_SIDE` pixels first. More than `_MAX_SINGLE` letters mean
    texture, and count as none.
    """
    from scipy.ndimage import black_tophat, find_objects, label, white_tophat

    step = -(-max(gray.shape) // _SIDE)
    height, width = (side // step for side in gray.shape)
    if min(height, width) < 4 * MIN_HEIGHT:
        return []
    small = gray[: height * step, : width * step].reshape(height, step, width, step).mean(axis=(1, 3))
    window = max(7, height // 14) | 1  # strokes are thinner
    found: list[tuple[float, float, float, float]] = []
    for tophat, sign in ((white_tophat, 1), (black_tophat, -1)):
        marked = tophat(small, size=(window, window)) > span / 4
        labels, count = label(marked, np.ones((3, 3)))
        for number, (rows, columns) in enumerate(find_objects(labels) if count <= _MAX_CANDIDATES else [], 1):
            left, top, right, bottom = columns.start, rows.start, columns.stop, rows.stop
            near = min(left / width, 1 - right / width, top / height, 1 - bottom / height)
            if (
                MIN_HEIGHT <= bottom - top <= height / 8
                and 0 < near <= _MARGIN
                and _has_stem(labels[rows, columns] == number)
                and _is_flat_and_alone(labels, number, rows, columns, sign * small, span)
            ):
                found.append((left * step, top * step, right * step, bottom * step))
    return found if len(found) <= _MAX_SINGLE else []


def _has_stem(ink: NDArray[np.bool_]) -> bool:
    """Return whether a mark has the proportions of a capital, thin strokes and a straight vertical stem."""
    from scipy.ndimage import distance_transform_cdt

    height, width = ink.shape
    if not (0.4 * height <= width <= 1.2 * height and 0.25 <= ink.mean() <= 0.85):
        return False
    thickness = 2 * int(distance_transform_cdt(np.pad(ink, 1), "chessboard").max()) - 1
    stems = ink.mean(axis=0) >= 0.95
    return thickness <= max(2, 0.4 * height) and bool(stems.any()) and float(stems.mean()) <= 0.7


def _is_flat_and_alone(
    labels: NDArray[np.int32], number: int, rows: slice, columns: slice, values: NDArray[Any], span: float
) -> bool:
    """Return whether a mark and the ground around it are flat, differ by a quarter of `span`, and have no other marks.

    `labels` has the number of the connected component at each pixel, and `values` are higher inside marks. `rows` and
    `columns` are the bounding box of the component `number`.
    """
    from scipy.ndimage import binary_dilation

    around = (slice(max(rows.start - 2, 0), rows.stop + 2), slice(max(columns.start - 2, 0), columns.stop + 2))
    inside = labels[around] == number
    near = binary_dilation(inside, np.ones((3, 3)))  # pixels of the edge, which are between both values
    ground = values[around][binary_dilation(near, np.ones((3, 3))) & ~near]
    ink = values[around][inside]
    contrast = ink.mean() - ground.mean() if ground.size else 0.0
    if contrast < span / 4 or max(ink.std(), ground.std()) > contrast / 4:
        return False
    reach = (rows.stop - rows.start) // 2
    top, left = max(rows.start - reach, 0), max(columns.start - reach, 0)
    margin = labels[top : rows.stop + reach, left : columns.stop + reach]
    return bool(((margin > 0) & (margin != number)).mean() <= 0.02)
