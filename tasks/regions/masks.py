"""Masks: regions given as pictures, whose white pixels are converted to boxes."""

from pathlib import Path

import numpy as np
from PIL import Image

from corpora import ImageError, Limits, read_image
from tasks.errors import BadInputError
from tasks.records import Box
from tasks.regions.boxes import cells_to_boxes

CELLS = (64, 32, 16)
"""Cells per side, finest first. A coarser grid is used where a finer one would need more than MAX_BOXES boxes."""

MAX_BOXES = 64
"""Boxes of a mask. A mask that needs more on the coarsest grid, such as a checkerboard, is refused."""


def read_mask(name: str, path: Path, limits: Limits) -> tuple[str, list[Box]]:
    """Read a mask: the sha256 of the file, and boxes that cover its white part and do not overlap.

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
