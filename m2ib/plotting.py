"""Draw attribution maps over images, and plot pairs with matplotlib. The module does not import PyTorch."""

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from m2ib.colors import OPACITY, OPAQUE_LEVEL, get_color_map

if TYPE_CHECKING:
    from m2ib.attribution import PairAttribution

SIDE = 448  # pixels


def crop_view(image: Image.Image, view: tuple[float, float, float, float]) -> Image.Image:
    """Return the part of an image that the model sees, a box in shares of width and height; black outside the image."""
    box = [round(share * side) for share, side in zip(view, image.size * 2, strict=True)]
    return image.convert("RGB").crop((box[0], box[1], box[2], box[3]))


def draw_overlay(view: Image.Image, nats: NDArray[np.floating], top: float) -> Image.Image:
    """Draw the nats of each patch (rows, columns) as colored squares over a gray image; `top` nats are brightest."""
    rows, columns = nats.shape
    cell = max(1, SIDE // max(rows, columns))
    ground = np.asarray(view.convert("L").resize((columns * cell, rows * cell)), dtype=np.float64)[..., None]
    level = np.clip(nats / max(top, np.finfo(float).tiny), 0, 1).repeat(cell, axis=0).repeat(cell, axis=1)
    opacity = OPACITY * np.minimum(level / OPAQUE_LEVEL, 1)[..., None]
    return Image.fromarray(np.uint8((1 - opacity) * 0.8 * ground + opacity * 255 * get_color_map()(level)[..., :3]))


def plot_pairs(pairs: Sequence[tuple[Image.Image, "PairAttribution"]], top: float) -> Figure:
    """Plot the overlay and the nats of the tokens of each pair; `top` is the largest value of the color scale."""
    figure = Figure(figsize=(8, 3 * len(pairs)), layout="constrained")
    axes = figure.subplots(len(pairs), 2, sharex="col", squeeze=False)
    for (left, right), (overlay, pair) in zip(axes, pairs, strict=True):
        left.imshow(overlay)
        left.set_axis_off()
        caption = wrap(pair.text.replace("$", r"\$"), 36, max_lines=2, placeholder=" …")  # dollars would be formulas
        left.set_title("\n".join([*caption, f"cosine {pair.cosine:.3f}"]), fontsize="medium")
        places = range(len(pair.tokens))
        right.barh(places, pair.text_map.numpy(), color=["0.7" if special else "C0" for special in pair.special])
        right.set_yticks(places, pair.tokens)
        right.invert_yaxis()
        right.set_xlabel("nats per token")
    scale, left = ScalarMappable(Normalize(0, top), get_color_map()), axes[:, 0].tolist()
    figure.colorbar(scale, ax=left, label="nats per patch", shrink=1 / len(pairs), anchor=(0, 1))
    return figure
