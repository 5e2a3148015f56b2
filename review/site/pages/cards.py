"""Cards: pairs as the pages show them, with the map over the image, outlined regions, and shaded tokens."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from review.presentation import drawing
from review.presentation.pairs import Album, to_grid
from review.site.lake_cache import LakeCache

MAX_BOXES: Final = 400
"""Maximum number of boxes of an outlined region; a watermark has some hundred."""


def round_up(value: float) -> float:
    """Round a number up to 1, 1.5, 2, 3, 5, 7 or 10 times a power of ten, for the top of a scale."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 1.5, 2, 3, 5, 7, 10) if step * power >= value * (1 - 1e-6)))


def make_cards(
    lake: LakeCache,
    run_id: str,
    pair_ids: Iterable[str],
    regions: Sequence[str] | None,
    scale_nats: float | None = None,
) -> list[dict[str, Any]]:
    """Make cards of pairs, in the order given and on one scale; ids that the run does not have are skipped.

    A card has the values that templates show: the pair's row, the boxes of outlined regions (x, y, width and height in
    pixels), and the tokens. `regions` are outlined and listed; None selects overlays, and regions whose share of
    attribution is at least twice their area. `scale_nats` is the top of the color scale, by default the nats of the
    strongest patch.
    """
    pair_ids = list(pair_ids)
    album = Album(lake.connect_runs(run_id), run_id, pair_ids, None)
    scale = scale_nats or round_up(album.image_top)
    return [_make_card(album, album.rows[pair_id], regions, scale) for pair_id in pair_ids if pair_id in album.rows]


def _make_card(album: Album, row: dict[str, Any], regions: Sequence[str] | None, scale_nats: float) -> dict[str, Any]:
    nats = to_grid(row)
    width, height = drawing.picture_size(row["grid_h"] or 1, row["grid_w"] or 1)
    shares = album.region_shares[row["pair_id"]]
    if regions is None:
        regions = [
            each.region
            for each in shares
            if each.side == "image" and (each.region.startswith("stamp ") or (each.share or 0.0) >= 2 * each.area > 0)
        ]
    boxes = album.outlines(row["pair_id"])
    return {
        "row": row,
        "width": width,
        "height": height,
        "scale_nats": scale_nats,
        "max_nats": None if nats is None else float(np.nanmax(nats)),
        "outlines": {
            name: [
                (round(x0 * width, 1), round(y0 * height, 1), round((x1 - x0) * width, 1), round((y1 - y0) * height, 1))
                for x0, y0, x1, y1 in boxes[name][:MAX_BOXES]
            ]
            for name in regions
            if boxes.get(name)
        },
        "regions": [share for share in shares if share.region in regions] or shares[:1],
        "tokens": album.tokens(row),
        "image_nats": row["image_nats"],
        "text_nats": row["text_nats"],
    }
