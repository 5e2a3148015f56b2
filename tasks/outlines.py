"""Regions of single images, as metadata columns describe them: boxes, mask files, polygons and COCO's run lengths.

All of them become boxes in shares of the image. They are untrusted input: sizes are checked before anything is decoded.
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from tasks.records import Box, parse_box
from tasks.regions import MAX_BOXES, merge_boxes, outline_boxes

_CANVAS = 512
"""Longer side, in pixels, of the image into which polygons and run lengths are drawn."""
_OUTSIDE = 1.0
"""Pixels by which a polygon may leave the image: annotation tools round."""
_BOX_CHARACTERS = frozenset("0123456789.,;+-eE[]() \t\n")
_EXPECTED = (
    "expected boxes x0,y0,x1,y1 in shares of the image, separated by semicolons, the name of a mask file in the "
    "corpus, or polygons or run lengths (COCO) as JSON"
)


def parse_region(
    text: str, size: tuple[int, int], read_mask: Callable[[str], Image.Image], max_pixels: int
) -> list[Box]:
    """Return boxes without overlap that cover a region of one image, in shares of the image; none for an empty mask.

    Args:
        text: Boxes `x0,y0,x1,y1` in shares of the image, separated by semicolons; or JSON: polygons `[x0,y0,x1,y1,...]`
            in pixels, at most `_OUTSIDE` outside of the image, COCO's run lengths `{"size": [height, width], "counts":
            ...}`, or lists of these (an empty list is no region); or the name of a mask file.
        size: Width and height of the image in pixels, to which polygons refer.
        read_mask: Function that reads a mask file of the corpus; see `parse_mask`.
        max_pixels: Largest size of a mask in run lengths.

    Raises:
        ValueError: The text is none of these, or the region is too complex.
    """
    brackets = "".join(text.split())
    if not set(text) - _BOX_CHARACTERS and "[[" not in brackets and brackets != "[]":
        boxes = merge_boxes([parse_box(box) for box in text.split(";") if box.strip()])
    else:
        is_json = text.lstrip()[:1] in ("[", "{")
        mask = _draw(_parse_json(text), size, max_pixels) if is_json else parse_mask(read_mask(text))
        boxes = outline_boxes(mask)
        if not boxes and (extent := mask.getbbox()):  # less than half of any cell
            (x0, y0, x1, y1), (width, height) = extent, mask.size
            boxes = [(x0 / width, y0 / height, x1 / width, y1 / height)]
    if len(boxes) > MAX_BOXES:
        raise ValueError(
            f"got a region that takes {len(boxes)} boxes, expected at most {MAX_BOXES}; use fewer and simpler shapes"
        )
    return boxes


def parse_mask(pixels: Image.Image) -> Image.Image:
    """Return a mask as an image that is white inside the region.

    A pixel is inside if its brightness is at least half the maximum. In a mask of zeros and ones, ones are inside.
    """
    gray = pixels.convert("L")
    least = 128 if np.asarray(gray).max() > 1 else 1
    return gray.point(lambda value: 255 * (value >= least))


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"got {text[:100]!r}, which is no JSON ({error}), {_EXPECTED}") from error


def _draw(value: Any, size: tuple[int, int], max_pixels: int) -> Image.Image:
    """Draw polygons and run lengths white on black, in an image of the given proportions."""
    width, height = size
    scale = min(1, _CANVAS / max(size))
    canvas = Image.new("L", (max(1, round(width * scale)), max(1, round(height * scale))))
    for shape in _iter_shapes(value):
        if isinstance(shape, dict):
            mask = Image.fromarray(_decode_runs(shape, max_pixels)).resize(canvas.size, Image.Resampling.BOX)
            canvas = ImageChops.lighter(canvas, mask)
        else:
            points = np.array(shape, dtype=float).reshape(-1, 2)
            _check_polygon(points, size)
            scaled = points / (width, height) * canvas.size - 0.5
            ImageDraw.Draw(canvas).polygon([(x, y) for x, y in scaled.tolist()], fill=255)
    return canvas.point(lambda value: 255 * (value >= 128))


def _check_polygon(points: NDArray[np.float64], size: tuple[int, int]) -> None:
    """Raise ValueError for a polygon (points, 2) that leaves the image by more than `_OUTSIDE`, or has no area."""
    low, high = points.min(axis=0), points.max(axis=0)
    if (low < -_OUTSIDE).any() or (high > np.add(size, _OUTSIDE)).any():
        (x0, y0), (x1, y1) = low.tolist(), high.tolist()
        raise ValueError(
            f"got a polygon from x = {x0:g} to {x1:g} and y = {y0:g} to {y1:g}, expected one within the image of "
            f"{size[0]} x {size[1]} pixels"
        )
    if np.linalg.matrix_rank(points - points[0]) < 2:
        raise ValueError(
            f"got a polygon without an area, {points.ravel().tolist()[:8]}, expected points around an area"
        )


def _iter_shapes(value: Any, depth: int = 0) -> Iterator[dict[str, Any] | list[float]]:
    """Yield the run lengths and polygons of a JSON value, in which they may be in lists of lists.

    An empty list has none: COCO writes it for an image without the object.
    """
    if isinstance(value, dict):
        yield value
    elif isinstance(value, list) and all(isinstance(one, (list, dict)) for one in value) and depth < 3:
        for one in value:
            yield from _iter_shapes(one, depth + 1)
    elif isinstance(value, list) and len(value) > 5 and len(value) % 2 == 0 and all(map(_is_coordinate, value)):
        yield value
    else:
        raise ValueError(f"got {str(value)[:100]}, {_EXPECTED}")


def _is_coordinate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e9


def _decode_runs(value: dict[str, Any], max_pixels: int) -> NDArray[np.uint8]:
    """Return a mask (height, width) of 0 and 255 from run lengths in COCO's formats: a list, or a text that encodes it.

    Runs of zeros and ones alternate, column by column, and begin with zeros.
    """
    shape, counts = value.get("size"), value.get("counts")
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and side > 0 for side in shape)):
        raise ValueError(f"got run lengths of size {str(shape)[:100]}, expected [height, width]")
    height, width = shape
    if height * width > max_pixels:
        raise ValueError(f"got run lengths of {width} x {height} pixels, expected at most {max_pixels} pixels")
    runs = _decode_text(counts) if isinstance(counts, str) else counts
    if not (
        isinstance(runs, list)
        and all(type(run) is int and 0 <= run <= height * width for run in runs)
        and sum(runs) == height * width
    ):
        raise ValueError(f"got run lengths that do not sum up to {width} x {height}, {_EXPECTED}")
    inside = np.arange(len(runs)) % 2 * 255
    return np.repeat(inside.astype(np.uint8), runs).reshape(width, height).T


def _decode_text(text: str) -> list[int]:
    """Decode COCO's compressed run lengths.

    Each number is a series of characters with six bits above 48: five bits of the number, least significant first, and
    one that is set if more follow. The last has the sign in its highest bit. From the fourth number on, they are
    differences from the number two places before.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"got run lengths {text[:50]!r}, expected those of COCO")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits >> 4 & 1) << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs
