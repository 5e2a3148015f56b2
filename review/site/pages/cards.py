"""Pairs as the pages show them: an image with its map laid over it, regions outlined, tokens shaded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from review.presentation import overlays
from review.presentation.formatting import nats_to_bits
from review.presentation.overlays import Box
from review.presentation.pairs import Album, RegionShare, Token, grid
from review.site.lake_cache import Lens

MOST_BOXES: Final = 400
"""Of a region that is outlined; a watermark has some hundred."""


@dataclass(frozen=True)
class Outline:
    """A region's boxes in pixels of the picture, as x, y, width and height."""

    region: str
    boxes: list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Card:
    """A pair to look at. `top` is that of the colour scale, in bits, which all cards of a page share."""

    row: dict[str, Any]
    width: int
    height: int
    top: float
    largest: float | None
    outlines: list[Outline]
    held: list[RegionShare]
    tokens: list[Token]
    image_bits: float | None
    text_bits: float | None

    @property
    def pair_id(self) -> str:
        """The pair's id."""
        return str(self.row["pair_id"])


def rounded_up(value: float) -> float:
    """A value that a scale can end at: the next of 1, 1.5, 2, 3, 5, 7 or 10 times a power of ten."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 1.5, 2, 3, 5, 7, 10) if step * power >= value * (1 - 1e-6)))


def cards(
    lens: Lens, run_id: str, pair_ids: Iterable[str], regions: Sequence[str] | None, top: float | None = None
) -> list[Card]:
    """Pairs in the order given, on one scale; ids that the run does not have are left out.

    regions: those to outline and to tell about; None: those that hold at least twice their share of a pair.
    """
    wanted = list(pair_ids)
    album = Album(lens.run(run_id), run_id, wanted, None)
    scale = top or rounded_up(album.image_top)
    return [_card(album, row, regions, scale) for pair_id in wanted if (row := album.row(pair_id)) is not None]


def _card(album: Album, row: dict[str, Any], regions: Sequence[str] | None, top: float) -> Card:
    bits = grid(row)
    width, height = overlays.picture_size(row["grid_h"] or 1, row["grid_w"] or 1)
    held = album.held(row["pair_id"])
    named = _telling(held) if regions is None else list(regions)
    drawn = album.outlines(row["pair_id"])
    return Card(
        row=row,
        width=width,
        height=height,
        top=top,
        largest=None if bits is None else float(np.nanmax(bits)),
        outlines=[Outline(name, _pixels(drawn[name], (width, height))) for name in named if drawn.get(name)],
        held=[each for each in held if each.region in named] or held[:1],
        tokens=album.tokens(row["pair_id"]),
        image_bits=nats_to_bits(row["image_nats"]),
        text_bits=nats_to_bits(row["text_nats"]),
    )


def _telling(held: Sequence[RegionShare]) -> list[str]:
    return [
        each.region
        for each in held
        if each.side == "image" and each.share is not None and each.share >= 2 * each.area > 0
    ]


def _pixels(boxes: Sequence[Box], size: tuple[int, int]) -> list[tuple[float, float, float, float]]:
    width, height = size
    return [
        (round(x0 * width, 1), round(y0 * height, 1), round((x1 - x0) * width, 1), round((y1 - y0) * height, 1))
        for x0, y0, x1, y1 in boxes[:MOST_BOXES]
    ]
