"""Boxes in shares of an image, (x0, y0, x1, y1) from the top-left corner, and masks that are converted to boxes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpora import ImageError, Limits, read_image
from m2ib.analysis.masks import cover_with_rectangles
from tasks.errors import BadInputError
from tasks.records import Box

CELLS = (64, 32, 16)
"""Cells of a mask per side, finest first. A coarser grid is used where a finer one needs more than MAX_BOXES boxes."""

MAX_BOXES = 64
"""Boxes of a mask, or of a region that a detector finds in one image. More, such as of a checkerboard, are refused."""


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


def read_mask(name: str, path: Path, limits: Limits) -> tuple[str, list[Box]]:
    """Read a picture of a region: its sha256, and boxes that cover its white part and do not overlap.

    A pixel is white if its brightness is at least half the maximum; a cell is white if at least half of its pixels are.
    Raises BadInputError, which begins with the name of the region, if the picture cannot be read, is all white or all
    black, or needs too many boxes.
    """
    try:
        image = read_image(path, limits)
    except ImageError as error:
        raise BadInputError(f"regions.masks.{name}: {path}: {error}") from error
    white = image.pixels.convert("L").point(lambda value: 255 * (value >= 128))
    for cells in CELLS:
        size = min(cells, image.width), min(cells, image.height)
        inside = np.asarray(white.resize(size, Image.Resampling.BOX)) >= 128
        reduced = f"once it is reduced to {size[0]} x {size[1]} cells"
        if not inside.any() or inside.all():
            raise BadInputError(
                f"regions.masks.{name}: {path}: got a mask that is all {'white' if inside.all() else 'black'} "
                f"{reduced}, expected the region in white on black, in strokes of a cell or more"
            )
        boxes = cells_to_boxes(inside)
        if len(boxes) <= MAX_BOXES:
            return image.sha256, boxes
    raise BadInputError(
        f"regions.masks.{name}: {path}: got a mask that takes {len(boxes)} boxes {reduced}, expected at most "
        f"{MAX_BOXES}; draw the region with fewer and simpler shapes"
    )
