"""Draw attribution maps: as a grid of patches over the image that the model sees, as mean maps, and the color scale.

Patches are drawn as squares: smoothing would show attribution where none was measured. Colors represent nats on a
scale from 0 to `top`, which the caller chooses and shows.
"""

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from m2ib.colors import OPACITY, OPAQUE_LEVEL, get_color_map

Box = tuple[float, float, float, float]
"""A box in an image: x0, y0, x1, y1 as shares of its width and height."""
Grid = NDArray[np.float64]
"""A map: the nats of each patch, shape (rows, columns)."""

SIDE = 288
_LARGEST_PNG = 48 * 1024
_GRAY = 128  # padding outside the image
_DARK_GRAY = 40.0
COLOR_MAPS = ("inferno", "viridis", "cividis")
"""Color maps of matplotlib that a reader can choose; cividis suits color vision deficiency."""
# Ends of the diverging scale of differences, of equal lightness.
_NEGATIVE, _POSITIVE = np.array((64.0, 140.0, 255.0)), np.array((255.0, 130.0, 30.0))


def picture_size(rows: int, columns: int) -> tuple[int, int]:
    """Return width and height of a picture in which each patch is a square of whole pixels."""
    cell = max(1, SIDE // max(rows, columns))
    return cell * columns, cell * rows


def draw_view(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """Return the part of the image that the model sees (a box); areas of the box outside the image are gray."""
    canvas = Image.new("RGB", size, (_GRAY, _GRAY, _GRAY))
    x0, y0, x1, y1 = box
    visible = (max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0))
    if visible[0] >= visible[2] or visible[1] >= visible[3]:
        return canvas
    left, right = (round((x - x0) / (x1 - x0) * size[0]) for x in visible[::2])
    upper, lower = (round((y - y0) / (y1 - y0) * size[1]) for y in visible[1::2])
    pixels = [share * side for share, side in zip(visible, image.size * 2, strict=True)]
    method = Image.Resampling.LANCZOS if pixels[2] - pixels[0] > right - left else Image.Resampling.BICUBIC
    part = image.resize(
        (max(1, right - left), max(1, lower - upper)),
        method,
        box=(pixels[0], pixels[1], pixels[2], pixels[3]),
        reducing_gap=3.0,  # a large image is first reduced by a whole factor, five times faster
    )
    canvas.paste(part, (min(left, size[0] - 1), min(upper, size[1] - 1)))
    return canvas


def draw_overlay(view: Image.Image | None, nats: Grid, top: float, regions: Sequence[Sequence[Box]]) -> Image.Image:
    """Draw the nats of each patch over the dimmed gray image, and outline regions; `top` nats have full color."""
    size = picture_size(*nats.shape)
    if view is None:
        ground = np.full((size[1], size[0], 3), _DARK_GRAY)
    else:
        gray = np.asarray(view.resize(size).convert("L"), dtype=np.float64)
        ground = np.repeat(gray[:, :, None] * 0.8, 3, axis=2)
    cell = size[0] // nats.shape[1]
    image = Image.fromarray(_tint(ground, nats.repeat(cell, axis=0).repeat(cell, axis=1), top))
    for boxes in regions:
        image = draw_outline(image, boxes, width=2)
    return image


def draw_mean_map(nats: Grid, top: float, boxes: Sequence[Box], view: Image.Image | None = None) -> Image.Image:
    """Draw a mean map at twice the picture size, with numbers if they fit; `top` nats have full color.

    With `view`, an average image, the map is drawn over it, and weak patches are more transparent.
    """
    cell = 2 * picture_size(*nats.shape)[0] // nats.shape[1]
    size = (cell * nats.shape[1], cell * nats.shape[0])
    large = nats.repeat(cell, axis=0).repeat(cell, axis=1)
    if view is None:
        image = Image.fromarray(_tint(np.full((size[1], size[0], 3), _DARK_GRAY), large, top))
    else:
        ground = np.asarray(view.resize(size).convert("RGB"), dtype=np.float64) * 0.8
        image = Image.fromarray(_tint(ground, large, top, opacity=0.05 + 0.7 * _scale_level(large, top)))
    draw = ImageDraw.Draw(image)
    for row, column in itertools.product(*(range(count) for count in nats.shape)):
        if view is None:
            corner = (column * cell, row * cell, (column + 1) * cell - 1, (row + 1) * cell - 1)
            draw.rectangle(corner, outline=(0, 0, 0))
        if cell >= 34:
            level = nats[row, column] / top
            text = f"{nats[row, column]:.0f}" if np.isfinite(level) else "?"
            ink = (20, 20, 20) if level > 0.62 else (235, 235, 235) if level > 0.02 else (150, 150, 150)
            middle = ((column + 0.5) * cell, (row + 0.5) * cell)
            draw.text(middle, text, fill=ink, font=ImageFont.load_default(min(26, cell * 0.4)), anchor="mm")
    return draw_outline(image, boxes, width=4)


def draw_template(overlay: Mapping[str, Any]) -> Image.Image | None:
    """Draw the template of a recurring overlay (a row of `overlays`) in gray, enlarged; None if it is not complete."""
    shape = tuple(overlay[key] or 0 for key in ("channels", "height", "width"))
    if min(shape) < 1 or len(overlay["template"] or ()) != int(np.prod(shape)):
        return None
    contrast = np.nan_to_num(np.array(overlay["template"], dtype=np.float64).reshape(shape).mean(axis=0))
    level = contrast / (2 * np.abs(contrast).max() or 1.0) + 0.5  # the background is medium gray
    image = Image.fromarray((255 * level).round().astype(np.uint8))
    scale = max(1, SIDE // max(image.size))
    return image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST)


def draw_color_scale(color_map: str = "inferno") -> Image.Image:
    """Draw the color scale of maps, from zero to full color, over a dark background."""
    levels = np.broadcast_to(np.linspace(0, 1, SIDE), (14, SIDE))
    return Image.fromarray(_tint(np.full((14, SIDE, 3), _DARK_GRAY), levels, 1.0, color_map))


def draw_layer(nats: Grid, top: float, color_map: str = "inferno") -> Image.Image:
    """Draw a map with one pixel per patch, transparent where there is no attribution; `top` nats have full color."""
    level = _scale_level(nats, top)
    return _to_rgba(_to_colors(level, color_map), np.minimum(level / OPAQUE_LEVEL, 1))


def draw_difference_layer(nats: Grid, top: float) -> Image.Image:
    """Draw the difference of two maps, one pixel per patch: blue is negative, orange positive; `top` has full color."""
    level = _scale_level(nats, top, lowest=-1.0)
    return _to_rgba(np.where(level[..., None] < 0, _NEGATIVE, _POSITIVE), np.abs(level))


def encode_png(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    return _encode(image, format="PNG", optimize=True)


def encode_view(image: Image.Image) -> tuple[str, bytes]:
    """Encode an image as JPEG without any metadata; return the media type and the bytes."""
    return "image/jpeg", _encode(image.convert("RGB"), format="JPEG", quality=88, subsampling=0)


def _scale_level(nats: Grid, top: float, lowest: float = 0.0) -> Grid:
    return np.clip(np.nan_to_num(nats / top, nan=0.0, posinf=1.0, neginf=lowest), lowest, 1.0)


def _to_rgba(color: Grid, opacity: Grid) -> Image.Image:
    alpha = 255 * opacity[..., None]
    return Image.fromarray(np.concatenate((color, alpha), axis=-1).round().astype(np.uint8))


def _to_colors(level: Grid, color_map: str) -> Grid:
    colors: Grid = 255 * get_color_map(color_map)(level)[..., :3]
    return colors


def encode_data_uri(image: Image.Image) -> str:
    """Encode an image as a data URI: PNG, or JPEG of high quality if the PNG is large."""
    pixels = np.asarray(image)
    gray = bool((pixels == pixels[:, :, :1]).all())
    # Not optimized: that takes seven times as long and saves 6%.
    kind, data = "png", _encode(image.convert("L") if gray else image, format="PNG")
    if len(data) > _LARGEST_PNG:
        kind, data = "jpeg", _encode(image, format="JPEG", quality=90, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _encode(image: Image.Image, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **settings)  # type: ignore[arg-type]  # settings depend on the format
    return file.getvalue()


def _tint(
    ground: NDArray[np.float64], nats: Grid, top: float, color_map: str = "inferno", opacity: Grid | None = None
) -> NDArray[np.uint8]:
    level = _scale_level(nats, top)
    color = _to_colors(level, color_map)
    opacity = (OPACITY * np.minimum(level / OPAQUE_LEVEL, 1) if opacity is None else opacity)[..., None]
    mixed: NDArray[np.uint8] = (ground * (1 - opacity) + color * opacity).round().astype(np.uint8)
    return mixed


def draw_outline(image: Image.Image, boxes: Sequence[Box], width: int) -> Image.Image:
    """Outline the union of the boxes along its inside, in white between black lines, visible on any image."""
    # Padded, so that the edge of the picture counts as a border.
    inside = np.zeros((image.height + 2, image.width + 2), dtype=np.uint8)
    for x0, y0, x1, y1 in boxes:
        rows = slice(1 + round(max(y0, 0) * image.height), 1 + round(min(y1, 1) * image.height))
        columns = slice(1 + round(max(x0, 0) * image.width), 1 + round(min(x1, 1) * image.width))
        inside[rows, columns] = 255
    shape = Image.fromarray(inside)
    pixels = np.array(image)
    for color in (0, *[255] * width, 0):
        smaller = shape.filter(ImageFilter.MinFilter(3))
        pixels[(np.asarray(shape) != np.asarray(smaller))[1:-1, 1:-1]] = color
        shape = smaller
    return Image.fromarray(pixels)
