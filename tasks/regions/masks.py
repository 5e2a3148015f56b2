"""A region drawn as a picture: white pixels become boxes, as every other region is made of."""

from pathlib import Path

import numpy as np
from PIL import Image

from corpora import ImageError, Limits, read_image
from tasks.errors import BadInputError
from tasks.records import Box
from tasks.regions.boxes import cells_to_boxes

CELLS = (64, 32, 16)
"""Cells a side at most, the finest first; a coarser one is taken where more than MAX_BOXES boxes would be needed."""

MAX_BOXES = 64
"""Of a mask. The coarsest cells could still take twice as many, as a chequered mask does: it is refused."""


def read_mask(name: str, path: Path, limits: Limits) -> tuple[str, list[Box]]:
    """sha256 of a mask's file, and boxes for its white part (half of the brightness and up), which do not overlap.

    A cell counts if at least half of it is white. Raises BadInputError that names the mask and says what to change.
    """
    try:
        image = read_image(path, limits)
    except ImageError as error:
        raise BadInputError(f"regions.masks.{name}: {path}: {error}") from error
    white = image.pixels.convert("L").point(lambda value: 255 * (value >= 128))
    for cells in CELLS:
        size = min(cells, image.width), min(cells, image.height)
        inside = np.asarray(white.resize(size, Image.Resampling.BOX)) >= 128
        if not inside.any() or inside.all():
            what = "all" if inside.all() else "nothing"
            raise BadInputError(
                f"regions.masks.{name}: {path}: got a mask of which {what} is white once it is reduced to {size[0]} x "
                f"{size[1]} cells, expected the region in white on black, in strokes of a cell or more"
            )
        boxes = cells_to_boxes(inside)
        if len(boxes) <= MAX_BOXES:
            return image.sha256, boxes
    raise BadInputError(
        f"regions.masks.{name}: {path}: got a mask that takes {len(boxes)} boxes once it is reduced to {size[0]} x "
        f"{size[1]} cells, expected at most {MAX_BOXES}; draw the region in fewer and plainer parts"
    )
