"""A region drawn as a picture: white pixels become boxes, as every other region is made of."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpora import ImageError, Limits, read_image
from tasks.errors import BadInputError
from tasks.records import Box

CELLS = (64, 32, 16)
"""Cells a side at most, the finest first; a coarser one is taken where more than MAX_BOXES boxes would be needed."""

MAX_BOXES = 64


def read_mask(name: str, path: Path, limits: Limits) -> tuple[str, list[Box]]:
    """sha256 of a mask's file, and boxes for its white part (half of the brightness and up), which do not overlap.

    A cell counts if at least half of it is white. Raises BadInputError that names the mask and says what to change.
    """
    try:
        image = read_image(path, limits)
    except ImageError as error:
        raise BadInputError(f"regions.masks.{name}: {path}: {error}") from error
    white = image.pixels.convert("L").point(lambda value: 255 * (value >= 128))
    boxes: list[Box] = []
    for cells in CELLS:
        size = min(cells, image.width), min(cells, image.height)
        inside = np.asarray(white.resize(size, Image.Resampling.BOX)) >= 128
        if not inside.any() or inside.all():
            what = "all" if inside.all() else "nothing"
            raise BadInputError(
                f"regions.masks.{name}: {path}: got a mask of which {what} is white once it is reduced to {size[0]} x "
                f"{size[1]} cells, expected the region in white on black, in strokes of a cell or more"
            )
        boxes = rectangles(inside)
        if len(boxes) <= MAX_BOXES:
            break
    return image.sha256, boxes


def rectangles(inside: NDArray[np.bool_]) -> list[Box]:
    """Boxes in shares that cover the true cells and no others, once each: runs of a row, for as long as they repeat."""
    height, width = inside.shape
    open_runs: dict[tuple[int, int], int] = {}
    boxes: list[Box] = []
    for row in range(height + 1):
        runs = _runs(inside[row]) if row < height else set()
        for left, right in sorted(open_runs.keys() - runs):
            boxes.append((left / width, open_runs.pop((left, right)) / height, right / width, row / height))
        for run in runs - open_runs.keys():
            open_runs[run] = row
    return boxes


def _runs(cells: NDArray[np.bool_]) -> set[tuple[int, int]]:
    """First and one past the last of each run of true cells."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], cells, [False]))))
    return {(int(first), int(last)) for first, last in zip(edges[::2], edges[1::2], strict=True)}
