"""Boxes in shares of an image, (x0, y0, x1, y1) from the top-left corner."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from m2ib.analysis.masks import cover_with_rectangles
from tasks.records import Box


def clip_to_view(box: Box, view: Box) -> Box | None:
    """Convert a box in shares of the image into shares of the part that the model sees; None if it is outside."""
    width, height = view[2] - view[0], view[3] - view[1]
    x0, x1 = ((min(max(x, view[0]), view[2]) - view[0]) / width for x in (box[0], box[2]))
    y0, y1 = ((min(max(y, view[1]), view[3]) - view[1]) / height for y in (box[1], box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def cells_to_boxes(
    inside: NDArray[np.bool_], xs: Sequence[float] | None = None, ys: Sequence[float] | None = None
) -> list[Box]:
    """Cover the true cells of a grid (rows, columns) by boxes that do not overlap.

    The edges of columns (`xs`) and rows (`ys`) are shares of the image, evenly spaced by default.
    """
    height, width = inside.shape
    xs = [column / width for column in range(width + 1)] if xs is None else xs
    ys = [row / height for row in range(height + 1)] if ys is None else ys
    return [(xs[x0], ys[y0], xs[x1], ys[y1]) for x0, y0, x1, y1 in cover_with_rectangles(inside)]


def merge_boxes(boxes: Sequence[Box]) -> list[Box]:
    """Return boxes that cover the same area and do not overlap."""
    xs = sorted({x for box in boxes for x in (box[0], box[2])})
    ys = sorted({y for box in boxes for y in (box[1], box[3])})
    inside = np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0)), dtype=np.bool_)
    for x0, y0, x1, y1 in boxes:
        inside[ys.index(y0) : ys.index(y1), xs.index(x0) : xs.index(x1)] = True
    return cells_to_boxes(inside, xs, ys)
