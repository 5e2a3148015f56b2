"""Regions of an image as boxes in shares of the image: clipped to the model's view, read from masks or detected.

A detector is a function of the entry point group `m2ib_audit.detectors`, enabled by name in AUDIT.toml. It is code of
the user's choice and runs with the rights of the audit; see docs/rules.md.
"""

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpora import ImageError, Limits, read_image
from m2ib.analysis.masks import cover_with_rectangles
from tasks.errors import BadInputError
from tasks.records import Box, parse_box

GROUP = "m2ib_audit.detectors"
"""Entry point group of detectors."""
CELLS = (64, 32, 16)
"""Sizes of the grid to which a mask is reduced, in cells per side. The first that takes at most MAX_BOXES is used."""

MAX_BOXES = 64
"""Maximum number of boxes of a mask, or of a region that a detector finds in one image."""


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
    return cells_to_boxes(*_mark_cells(boxes))


def complement_boxes(boxes: Sequence[Box]) -> list[Box]:
    """Return boxes that cover the rest of the image and do not overlap."""
    inside, xs, ys = _mark_cells([*boxes, (0.0, 0.0, 1.0, 1.0)], len(boxes))
    return cells_to_boxes(~inside, xs, ys)


def _mark_cells(
    boxes: Sequence[Box], marked: int | None = None
) -> tuple[NDArray[np.bool_], Sequence[float], Sequence[float]]:
    """Divide the plane by the edges of boxes; return which cells the first `marked` boxes cover, and the edges."""
    xs = sorted({x for box in boxes for x in (box[0], box[2])})
    ys = sorted({y for box in boxes for y in (box[1], box[3])})
    inside = np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0)), dtype=np.bool_)
    for x0, y0, x1, y1 in boxes[:marked]:
        inside[ys.index(y0) : ys.index(y1), xs.index(x0) : xs.index(x1)] = True
    return inside, xs, ys


def outline_boxes(white: Image.Image) -> list[Box]:
    """Return boxes that cover the white part of a mask and do not overlap, as shares of its width and height.

    The mask is reduced to cells, which are white if at least half of their pixels are: as many cells as take at most
    `MAX_BOXES` boxes, or the fewest of `CELLS`.
    """
    boxes: list[Box] = []
    for cells in CELLS:
        size = min(cells, white.width), min(cells, white.height)
        boxes = cells_to_boxes(np.asarray(white.resize(size, Image.Resampling.BOX)) >= 128)
        if len(boxes) <= MAX_BOXES:
            break
    return boxes


def read_mask(name: str, path: Path, limits: Limits) -> tuple[str, list[Box]]:
    """Read the mask of a region; return the file's sha256, and boxes that cover its white part and do not overlap.

    A pixel is white if its brightness is at least half the maximum; see `outline_boxes`. Raises BadInputError if the
    mask cannot be read, is all white or black, or is too complex.
    """
    try:
        image = read_image(path, limits)
    except ImageError as error:
        raise BadInputError(f"regions.masks.{name}: {path}: {error}") from error
    boxes = outline_boxes(image.pixels.convert("L").point(lambda value: 255 * (value >= 128)))
    if not boxes or boxes == [(0, 0, 1, 1)]:
        raise BadInputError(
            f"regions.masks.{name}: {path}: got a mask that is all {'white' if boxes else 'black'} once it is "
            f"reduced to {min(CELLS[0], image.width)} x {min(CELLS[0], image.height)} cells, expected the region in "
            "white on black, at least one cell wide"
        )
    if len(boxes) > MAX_BOXES:
        raise BadInputError(
            f"regions.masks.{name}: {path}: got a mask that takes {len(boxes)} boxes once it is reduced to "
            f"{CELLS[-1]} x {CELLS[-1]} cells, expected at most {MAX_BOXES}; draw the region with fewer and "
            "simpler shapes"
        )
    return image.sha256, boxes


@dataclass(frozen=True)
class Detector:
    """A function that finds regions in an image, from an entry point of an installed package.

    Attributes:
        name: name of the entry point, which prefixes the names of its regions.
        find: function of the image (read-only, RGB bytes, shape (height, width, 3)) and the caption, which returns
            lists of boxes, in shares of the image, by name of the region.
        lock: held while `find` runs, which need not be safe in several threads.
    """

    name: str
    find: Callable[[NDArray[np.uint8], str], Mapping[str, Sequence[Box]]]
    lock: threading.Lock = field(default_factory=threading.Lock, compare=False)


@dataclass(frozen=True)
class Detections:
    """The boxes that detectors found in an image, by region, and the error of each detector that failed, by its name.

    The boxes are in shares of the image.
    """

    boxes: Mapping[str, Sequence[Box]]
    errors: Mapping[str, str]


def _find_entry_point(name: str) -> EntryPoint:
    matches = list(entry_points(group=GROUP, name=name))
    if not matches:
        names = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        raise BadInputError(f"regions.detectors: got {name!r}, which no package provides; installed are: {names}")
    if len(matches) > 1:
        packages = ", ".join(sorted(entry.dist.name for entry in matches if entry.dist))
        raise BadInputError(f"regions.detectors: got {name!r}, which is provided by {packages}; uninstall all but one")
    return matches[0]


def detector_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the package and version of each detector. Raises BadInputError unless exactly one package provides it."""
    distributions = {name: _find_entry_point(name).dist for name in names}
    return {name: f"{dist.name} {dist.version}" if dist else "unknown" for name, dist in distributions.items()}


def load_detectors(names: Iterable[str]) -> list[Detector]:
    """Import detectors. Raises BadInputError for one that is not installed, cannot be imported or is not a function."""
    return [Detector(name, _load(_find_entry_point(name))) for name in names]


def _load(entry: EntryPoint) -> Any:
    try:
        function = entry.load()
        if not callable(function):
            raise TypeError(f"got {type(function).__name__}, expected a function")  # noqa: TRY301  # one message
    except Exception as error:  # importing third-party code can raise anything
        raise BadInputError(
            f"regions.detectors: {entry.name!r} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}; "
            "fix or reinstall its package"
        ) from error
    return function


def describe_detectors() -> list[dict[str, str]]:
    """Return name, package and first line of the docstring (of the function or its module) of installed detectors."""
    rows = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            function = _load(entry)
            described = inspect.getdoc(function) or inspect.getdoc(inspect.getmodule(function)) or "(no docstring)"
        except BadInputError as error:
            described = str(error)
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
        rows.append({"name": entry.name, "package": package, "finds": described.splitlines()[0]})
    return rows


def run_detector(detector: Detector, image: NDArray[np.uint8], caption: str) -> dict[str, list[Box]]:
    """Run a detector on an RGB image, and return boxes that do not overlap, by region name `DETECTOR: REGION`.

    A region without boxes is left out. Raises ValueError or TypeError for invalid or too many boxes, and any error that
    the detector raises.
    """
    image = image.view()
    image.flags.writeable = False  # all detectors get the same image
    regions = {}
    for region, boxes in detector.find(image, caption).items():
        if len(boxes) > MAX_BOXES:
            raise ValueError(f"{region!r}: got {len(boxes)} boxes, expected at most {MAX_BOXES}")
        if boxes:
            merged = merge_boxes([parse_box(" ".join(str(float(edge)) for edge in box)) for box in boxes])
            if len(merged) > MAX_BOXES:  # crossing bars: each box cuts all others
                raise ValueError(
                    f"{region!r}: got {len(boxes)} boxes, which overlap so much that {len(merged)} boxes without "
                    f"overlap are needed, expected at most {MAX_BOXES}; return boxes that overlap less"
                )
            regions[f"{detector.name}: {region}"] = merged
    return regions


def run_detectors(detectors: Sequence[Detector], pixels: Image.Image, caption: str) -> Detections:
    """Run detectors on an image and its caption. Threads may call this function at the same time."""
    image = np.asarray(pixels)
    boxes: dict[str, Sequence[Box]] = {}
    errors: dict[str, str] = {}
    for detector in detectors:
        try:
            with detector.lock:
                boxes |= run_detector(detector, image, caption)
        except Exception as error:  # noqa: BLE001  # a detector is code of another package
            errors[detector.name] = f"{type(error).__name__}: {error}"
    return Detections(boxes, errors)
