"""Convert and measure boxes and pixel masks of image regions. The module does not import PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""Box of a region: x0, y0, x1, y1 in shares of the width and height of the preprocessed image."""
Mask = NDArray[np.bool_]
"""Boolean array (height, width), True inside the region."""


def rasterize_boxes(boxes: Sequence[Box], height: int, width: int) -> Mask:
    """Return the mask of the union of boxes, in pixels of an image of `height` x `width` pixels.

    A pixel is in the mask if a box covers at least half of it in each direction. Each box gives at least one pixel.
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    for x0, y0, x1, y1 in boxes:
        top, left = (min(round(start * size), size - 1) for start, size in ((y0, height), (x0, width)))
        mask[top : max(top + 1, round(y1 * height)), left : max(left + 1, round(x1 * width))] = True
    return mask


def count_touched_borders(mask: Mask) -> int:
    """Count the sides of the image that a mask touches: four for a frame, two for a corner, 0 in the middle."""
    return sum(bool(border.any()) for border in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def is_frame(mask: Mask) -> bool:
    """Return True if a mask touches all four sides of the image and the rest of the image is a rectangle."""
    if count_touched_borders(mask) < 4 or mask.all():
        return False
    first, last, near, far = extent_of(~mask)
    return not mask[first:last, near:far].any()


def extent_of(mask: Mask) -> tuple[int, int, int, int]:
    """Return the bounding box of a mask in pixels: first row, last row + 1, first column, last column + 1."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def measure_overlaps(edges: NDArray[np.float64], points: NDArray[Any]) -> NDArray[np.float64]:
    """Return the length that each interval of successive `edges` (rows) shares with each of successive `points`."""
    stop: NDArray[np.float64] = np.minimum(edges[1:, None], points[1:])
    return np.maximum(stop - np.maximum(edges[:-1, None], points[:-1]), 0)


def cover_with_rectangles(mask: Mask) -> list[tuple[int, int, int, int]]:
    """Split a mask into disjoint boxes (x0, y0, x1, y1) in pixels.

    Each run of True in a row becomes a box, which extends downwards as long as the next row has the same run.
    """
    open_runs: dict[tuple[int, int], int] = {}
    found: list[tuple[int, int, int, int]] = []
    for y, row in enumerate([*mask, np.zeros(mask.shape[1], np.bool_)]):
        edges = np.flatnonzero(np.diff(np.concatenate(([False], row, [False])))).tolist()
        runs = set(zip(edges[::2], edges[1::2], strict=True))
        found.extend((x0, open_runs.pop((x0, x1)), x1, y) for x0, x1 in sorted(open_runs.keys() - runs))
        for run in runs - open_runs.keys():
            open_runs[run] = y
    return found
