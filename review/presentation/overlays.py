"""Pictures of maps: what the model sees, the patch grid over it, mean maps, and their colour scale.

A patch is drawn as the square that it is: smoothing would move attribution to where none was measured.
Colours stand for bits on a scale from 0 to `top`, which the caller chooses and states.
"""

import base64
import io
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in shares of a picture."""
Grid = NDArray[np.float64]
"""Bits of the patches, rows by columns."""

SIDE = 288
_LARGEST_PNG = 48 * 1024
_GREY = 128  # what lies outside the image, where preprocessing pads
_DARK = 40.0
# Colour maps of matplotlib (public domain) in nine steps, evenly ordered in lightness. Their darkest fifth is left
# out: it could not be told from the dark of a radiograph.
_STEPS = {
    "inferno": "000004 210c4a 56106e 89226a bb3754 e35932 f98c0a f9c932 fcffa4",
    "viridis": "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725",
    "cividis": "00224e 1a386f 434e6c 61656f 7d7c78 9b9476 bcae6c dec958 fee838",
}
_COLOURS = {
    name: np.array([list(bytes.fromhex(code)) for code in codes.split()], dtype=np.float64)
    for name, codes in _STEPS.items()
}
COLOURS = tuple(_STEPS)
"""Names of the colour maps; cividis is for eyes that tell red from green badly."""
# A difference: less to the one side, more to the other, of one lightness each step away from nothing.
_LESS, _MORE = np.array((64.0, 140.0, 255.0)), np.array((255.0, 130.0, 30.0))
_FIRST = 0.2
_OPACITY = 0.75
_OPAQUE_FROM = 0.05  # of the scale; below, a patch fades out so that the image is seen where nothing was attributed


def picture_size(rows: int, columns: int) -> tuple[int, int]:
    """Width and height of a picture whose patches are whole squares of pixels."""
    cell = max(1, SIDE // max(rows, columns))
    return cell * columns, cell * rows


def view(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """Cut out what the model sees: the box, in shares of the image, grey where it lies outside."""
    canvas = Image.new("RGB", size, (_GREY, _GREY, _GREY))
    x0, y0, x1, y1 = box
    inner = (max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0))
    if inner[0] >= inner[2] or inner[1] >= inner[3]:
        return canvas
    left, right = (round((x - x0) / (x1 - x0) * size[0]) for x in (inner[0], inner[2]))
    upper, lower = (round((y - y0) / (y1 - y0) * size[1]) for y in (inner[1], inner[3]))
    part = image.resize(
        (max(1, right - left), max(1, lower - upper)),
        Image.Resampling.LANCZOS if image.width * (inner[2] - inner[0]) > right - left else Image.Resampling.BICUBIC,
        box=(
            inner[0] * image.width,
            inner[1] * image.height,
            inner[2] * image.width,
            inner[3] * image.height,
        ),
    )
    canvas.paste(part, (min(left, size[0] - 1), min(upper, size[1] - 1)))
    return canvas


def overlay(seen: Image.Image | None, bits: Grid, top: float, regions: Sequence[Sequence[Box]]) -> Image.Image:
    """Draw the patch grid over what the model sees, in grey and dimmed, and outline each region."""
    size = picture_size(*bits.shape)
    if seen is None:
        ground = np.full((size[1], size[0], 3), _DARK)
    else:
        grey = np.asarray(seen.resize(size).convert("L"), dtype=np.float64)
        ground = np.repeat(grey[:, :, None] * 0.8, 3, axis=2)
    cell = size[0] // bits.shape[1]
    tinted = _tint(ground, _enlarged(bits, cell), top)
    image = Image.fromarray(tinted)
    for boxes in regions:
        image = _outlined(image, boxes, width=2)
    return image


def mean_map(bits: Grid, top: float, boxes: Sequence[Box]) -> Image.Image:
    """Draw a grid alone, twice as large so that it prints crisply, with its bits where a patch has room."""
    cell = 2 * picture_size(*bits.shape)[0] // bits.shape[1]
    ground = np.full((cell * bits.shape[0], cell * bits.shape[1], 3), _DARK)
    image = Image.fromarray(_tint(ground, _enlarged(bits, cell), top))
    draw = ImageDraw.Draw(image)
    for row, column in itertools.product(*(range(count) for count in bits.shape)):
        corner = (column * cell, row * cell, (column + 1) * cell - 1, (row + 1) * cell - 1)
        draw.rectangle(corner, outline=(0, 0, 0))
        if cell >= 34:
            level = bits[row, column] / top
            text = f"{bits[row, column]:.0f}" if np.isfinite(level) else "?"
            ink = (20, 20, 20) if level > 0.62 else (235, 235, 235) if level > 0.02 else (150, 150, 150)
            middle = ((column + 0.5) * cell, (row + 0.5) * cell)
            draw.text(middle, text, fill=ink, font=ImageFont.load_default(min(26, cell * 0.4)), anchor="mm")
    return _outlined(image, boxes, width=4)


def scale_bar(colours: str = "inferno") -> Image.Image:
    """Draw the colours from 0 to the top of the scale, as they appear over a dark image."""
    levels = np.broadcast_to(np.linspace(0, 1, SIDE), (14, SIDE))
    return Image.fromarray(_tint(np.full((14, SIDE, 3), _DARK), levels, 1.0, colours))


def layer(bits: Grid, top: float, colours: str = "inferno") -> Image.Image:
    """Draw the patch grid alone, to be laid over what the model sees: a pixel a patch, clear where nothing is."""
    level = np.clip(np.nan_to_num(bits / top, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    return _clear(_coloured(level, colours), np.minimum(level / _OPAQUE_FROM, 1))


def difference_layer(bits: Grid, top: float) -> Image.Image:
    """Draw a difference of two grids: blue where it is below nothing, orange where it is above."""
    level = np.clip(np.nan_to_num(bits / top, nan=0.0, posinf=1.0, neginf=-1.0), -1, 1)
    return _clear(np.where(level[..., None] < 0, _LESS, _MORE), np.abs(level))


def encoded_png(image: Image.Image) -> bytes:
    """Encode as PNG."""
    return _encoded(image, format="PNG", optimize=True)


def encoded_view(image: Image.Image) -> tuple[str, bytes]:
    """Encode what the model sees: a media type, and the bytes. Nothing of the original file is left but its pixels."""
    return "image/jpeg", _encoded(image.convert("RGB"), format="JPEG", quality=88, subsampling=0)


def _clear(colour: NDArray[np.float64], opacity: NDArray[np.float64]) -> Image.Image:
    alpha = 255 * opacity[..., None]
    return Image.fromarray(np.concatenate((colour, alpha), axis=-1).round().astype(np.uint8))


def _coloured(level: NDArray[np.float64], colours: str) -> NDArray[np.float64]:
    steps = _COLOURS[colours]
    place = (_FIRST + (1 - _FIRST) * level) * (len(steps) - 1)
    step = np.minimum(place.astype(np.int64), len(steps) - 2)
    found: NDArray[np.float64] = steps[step] + (place - step)[..., None] * (steps[step + 1] - steps[step])
    return found


def data_uri(image: Image.Image) -> str:
    """Encode as a data URI: PNG, or JPEG of high quality where a photograph would make a large PNG."""
    pixels = np.asarray(image)
    grey = bool((pixels == pixels[:, :, :1]).all())
    # Not optimised: that takes seven times as long for six parts in a hundred.
    kind, data = "png", _encoded(image.convert("L") if grey else image, format="PNG")
    if len(data) > _LARGEST_PNG:
        kind, data = "jpeg", _encoded(image, format="JPEG", quality=90, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encoded(image: Image.Image, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **settings)  # type: ignore[arg-type]  # each format has settings of its own
    return file.getvalue()


def _enlarged(bits: Grid, cell: int) -> Grid:
    return bits.repeat(cell, axis=0).repeat(cell, axis=1)


def _tint(ground: NDArray[np.float64], bits: Grid, top: float, colours: str = "inferno") -> NDArray[np.uint8]:
    level = np.clip(np.nan_to_num(bits / top, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
    colour = _coloured(level, colours)
    opacity = (_OPACITY * np.minimum(level / _OPAQUE_FROM, 1))[..., None]
    mixed: NDArray[np.uint8] = (ground * (1 - opacity) + colour * opacity).round().astype(np.uint8)
    return mixed


def _outlined(image: Image.Image, boxes: Sequence[Box], width: int) -> Image.Image:
    """Outline a region, the union of its boxes, just inside it: white between black, to show on every ground."""
    inside = np.zeros((image.height + 2, image.width + 2), dtype=bool)  # a margin: the picture's edge is a border too
    for x0, y0, x1, y1 in boxes:
        rows = slice(1 + round(max(y0, 0) * image.height), 1 + round(min(y1, 1) * image.height))
        columns = slice(1 + round(max(x0, 0) * image.width), 1 + round(min(x1, 1) * image.width))
        inside[rows, columns] = True
    pixels = np.array(image)
    for colour, rings in ((0, 1), (255, width), (0, 1)):
        for _ in range(rings):
            eroded = _eroded(inside)
            pixels[(inside & ~eroded)[1:-1, 1:-1]] = colour
            inside = eroded
    return Image.fromarray(pixels)


def _eroded(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    eroded = inside.copy()
    for rows, columns in itertools.product((-1, 0, 1), repeat=2):
        eroded &= np.roll(inside, (rows, columns), axis=(0, 1))
    return eroded
