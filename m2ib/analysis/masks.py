"""Boxes and pixel masks of regions, without torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in shares of the image as the model sees it."""
Mask = NDArray[np.bool_]
"""(height, width), true inside the region."""


def rasterize_boxes(boxes: Sequence[Box], height: int, width: int) -> Mask:
    """Return the union of boxes as pixels: those that a box covers by half or more, and at least one for each box."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for x0, y0, x1, y1 in boxes:
        top, left = (min(round(start * size), size - 1) for start, size in ((y0, height), (x0, width)))
        mask[top : max(top + 1, round(y1 * height)), left : max(left + 1, round(x1 * width))] = True
    return mask


def count_touched_borders(mask: Mask) -> int:
    """Count the sides of the image that a mask touches: four for a frame, two for a corner, none for an island."""
    return sum(bool(border.any()) for border in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def is_frame(mask: Mask) -> bool:
    """Return whether a mask touches all four sides and encloses the rest of the image."""
    if count_touched_borders(mask) < 4 or mask.all():
        return False
    first, last, near, far = extent_of(~mask)
    return not mask[first:last, near:far].any()


def extent_of(mask: Mask) -> tuple[int, int, int, int]:
    """Return the half-open range of rows, then of columns, of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def cover_with_rectangles(mask: Mask) -> list[tuple[int, int, int, int]]:
    """Return disjoint boxes (x0, y0, x1, y1) in pixels whose union is the mask.

    Runs of a row become boxes, which extend over the rows below for as long as the run repeats.
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
