"""Pictures that the pages show: images of pairs, maps to lay over them, mean maps, plots.

Nothing of a URL becomes a path: a pair's image is found by the row that the run stored of it.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from fastapi import APIRouter, Request, Response

import sql
from corpora import Place, RowError
from review.presentation import corpus as audited
from review.presentation import overlays
from review.presentation.formatting import BITS_PER_NAT
from review.presentation.overlays import Box, Grid
from review.presentation.pairs import grid
from review.site.lake_cache import Lens, UnknownError
from review.site.pages import plots
from review.site.pages.rendering import choice_of, lens_of, number_of

router = APIRouter()
LARGER: Final = 2
"""Times that an image has the pixels it is shown with."""
_KEPT: Final = "private, max-age=600"


@dataclass(frozen=True)
class MeanMap:
    """The mean image map of some pairs, in bits."""

    bits: Grid
    n: int
    region_bits: float
    image_bits: float


def stored_pair(lens: Lens, run_id: str, pair_id: str) -> dict[str, Any]:
    """A pair with its attribution. Raises UnknownError."""
    found: list[dict[str, Any]] = lens.remember(
        run_id,
        ("pair", pair_id),
        lambda: sql.rows(lens.run(run_id), "review/pairs_shown", run_id=run_id, pair_ids=[pair_id]),
    )
    if not found:
        raise UnknownError(f"Run {run_id} has no attributed pair {pair_id}.")
    return found[0]


def picture_of(lens: Lens, run_id: str, row: dict[str, Any]) -> tuple[str, bytes] | str:
    """What the model saw of a pair's image, encoded anew; or a sentence that says why it cannot be shown."""
    size = shown_size(row)
    if size is None:
        return "The stored map is no whole grid: its image is not drawn."
    corpus = lens.corpus(run_id)
    if corpus is None:
        return lens.no_corpus(run_id) or audited.GONE
    try:
        with lens.reading:
            image = corpus.read_image(Place(row["file_name"], row["container"], row["position"]))
    except (RowError, OSError) as error:
        return f"The image cannot be read: {error}"
    if image.sha256 != row["image_sha256"]:
        return "The file has changed since the audit: its sha256 is another."
    width, height = size
    box = (row["view_x0"], row["view_y0"], row["view_x1"], row["view_y1"])
    return overlays.encoded_view(overlays.view(image.pixels, box, (LARGER * width, LARGER * height)))


def shown_size(row: dict[str, Any]) -> tuple[int, int] | None:
    """How large a pair's image is shown: as its map, or where it has none, as by one patch. None: the map is broken."""
    if not row["image_map"]:
        return overlays.picture_size(1, 1)
    bits = grid(row)
    return None if bits is None else overlays.picture_size(*bits.shape)


def kept_picture(lens: Lens, run_id: str, row: dict[str, Any]) -> tuple[str, bytes] | str:
    """As `picture_of`, kept for a while if there is one."""
    key = (run_id, row["pair_id"], row["image_sha256"])
    found: tuple[str, bytes] | None = lens.pictures.get(key)
    if found is not None:
        return found
    made = picture_of(lens, run_id, row)
    if not isinstance(made, str):
        lens.pictures.put(key, made)
    return made


@router.get("/runs/{run_id}/pairs/{pair_id}/image")
def image(request: Request, run_id: str, pair_id: str) -> Response:
    """What the model saw."""
    lens = lens_of(request)
    made = kept_picture(lens, run_id, stored_pair(lens, run_id, pair_id))
    if isinstance(made, str):
        raise UnknownError(made)
    return answer(request, made[1], made[0])


@router.get("/runs/{run_id}/pairs/{pair_id}/overlay")
def overlay(request: Request, run_id: str, pair_id: str) -> Response:
    """The pair's map, to be laid over its image: a pixel a patch."""
    bits = bits_of(stored_pair(lens_of(request), run_id, pair_id))
    colours = choice_of(request, "map", overlays.COLOURS) or overlays.COLOURS[0]
    drawn = overlays.layer(bits, top_of(request, bits), colours)
    return answer(request, overlays.encoded_png(drawn), "image/png")


@router.get("/runs/{run_id}/pairs/{pair_id}/difference")
def difference(request: Request, run_id: str, pair_id: str) -> Response:
    """What the same pair's map has more or less in the run `than`."""
    lens = lens_of(request)
    than = request.query_params.get("than", "")
    bits = bits_of(stored_pair(lens, run_id, pair_id)) - resized(
        bits_of(stored_pair(lens, than, pair_id)), bits_of(stored_pair(lens, run_id, pair_id)).shape
    )
    return answer(
        request, overlays.encoded_png(overlays.difference_layer(bits, top_of(request, np.abs(bits)))), "image/png"
    )


@router.get("/runs/{run_id}/alerts/{alert_id}/mean/{half}")
def mean(request: Request, run_id: str, alert_id: str, half: str) -> Response:
    """The mean map of an alert's slice (`inside`), or of the other pairs (`outside`)."""
    lens = lens_of(request)
    found = sql.rows(lens.run(run_id), "review/page_alert", run_id=run_id, alert_id=alert_id)
    maps = mean_maps(lens, found[0]) if found else {}
    if half not in maps:
        raise UnknownError("There is no such mean map.")
    top = max(float(each.bits.max()) for each in maps.values()) or 1.0
    drawn = overlays.mean_map(maps[half].bits, top, common_boxes(lens, run_id, found[0]["region"]))
    return answer(request, overlays.encoded_png(drawn), "image/png")


@router.get("/scale")
def scale(request: Request) -> Response:
    """The colours from nothing to the top of a scale."""
    colours = choice_of(request, "map", overlays.COLOURS) or overlays.COLOURS[0]
    return answer(request, overlays.encoded_png(overlays.scale_bar(colours)), "image/png")


@router.get("/audits/{audit_id}/trend.svg")
def trend(request: Request, audit_id: str) -> Response:
    """How an audit went."""
    rows = sql.rows(lens_of(request).whole(), "review/page_runs", audit=audit_id, status="any", limit=60, offset=0)
    if not rows or audit_id == "all":
        raise UnknownError(f"There is no audit {audit_id} in this lake.")
    return plotted(request, ("trend", repr(rows)), lambda theme: plots.trend(rows[::-1], theme))


@router.get("/runs/{run_id}/alerts/{alert_id}/effect.svg")
def effect(request: Request, run_id: str, alert_id: str) -> Response:
    """What covering an alert's region cost."""
    tests = [
        test
        for test in sql.rows(lens_of(request).run(run_id), "review/page_tests", run_id=run_id, alert_id=alert_id)
        if test["effect"] is not None
    ]
    if not tests:
        raise UnknownError(f"Run {run_id} has no tested alert {alert_id}.")
    return plotted(request, ("effect", repr(tests)), lambda theme: plots.effect(tests, theme))


def plotted(request: Request, key: tuple[str, str], draw: Any) -> Response:
    """A plot in the colours asked for, kept by what it shows."""
    theme = choice_of(request, "theme", plots.THEMES) or "light"
    kept = lens_of(request).pictures
    data = kept.get((*key, theme))
    if data is None:
        data = draw(theme)
        kept.put((*key, theme), data)
    return answer(request, data, "image/svg+xml")


def answer(request: Request, data: bytes, media: str) -> Response:
    """A picture, which the browser may keep for a while, or not at all if it has it."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
    headers = {"ETag": tag, "Cache-Control": _KEPT}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media, headers=headers)


def bits_of(row: dict[str, Any]) -> Grid:
    """A pair's map in bits. Raises UnknownError where what is stored is no whole grid."""
    bits = grid(row)
    if bits is None:
        raise UnknownError("The stored map is no whole grid: it is not drawn.")
    return bits


def resized(bits: Grid, shape: tuple[int, ...]) -> Grid:
    """A grid on other patches, its sum as before: two models need not have the same."""
    if bits.shape == shape:
        return bits
    fitted: Grid = _parts(bits.shape[0], shape[0]) @ bits @ _parts(bits.shape[1], shape[1]).T
    return fitted


def _parts(before: int, after: int) -> Grid:
    """Which part of each of `before` equal intervals lies in each of `after`."""
    old, new = np.linspace(0, 1, before + 1), np.linspace(0, 1, after + 1)
    inside = np.minimum(new[1:, None], old[None, 1:]) - np.maximum(new[:-1, None], old[None, :-1])
    parts: Grid = np.maximum(inside, 0) * before
    return parts


def top_of(request: Request, bits: Grid) -> float:
    """The top of the scale in bits: what the URL says, else the largest value."""
    given = number_of(request, "top")
    if given is not None and given > 0:
        return given
    known = bits[np.isfinite(bits)]
    return float(known.max()) if known.size and known.max() > 0 else 1.0


def mean_maps(lens: Lens, alert: dict[str, Any]) -> dict[str, MeanMap]:
    """The mean maps `inside` an alert's slice and `outside`; none where maps have several shapes."""
    run_id, region = alert["run_id"], alert["region"]
    grids = lens.remember(run_id, "grids", lambda: sql.rows(lens.run(run_id), "review/grids", run_id=run_id))
    if len(grids) != 1:
        return {}
    shape = (grids[0]["grid_h"], grids[0]["grid_w"])
    chosen = ("sums", region, alert["slice_kind"], alert["slice"])
    inside = lens.remember(run_id, chosen, lambda: _sums(lens, run_id, region, members(lens, alert)))
    everywhere = lens.remember(run_id, ("sums", region), lambda: _sums(lens, run_id, region, None))
    found = {"inside": inside, "outside": everywhere - inside if everywhere.shape == inside.shape else everywhere * 0}
    return {
        name: MeanMap(sums[3:].reshape(shape) / sums[0], int(sums[0]), sums[1] / sums[0], sums[2] / sums[0])
        for name, sums in found.items()
        if len(sums) == 3 + math.prod(shape) and sums[0] > 0
    }


def members(lens: Lens, alert: dict[str, Any]) -> list[str]:
    """The pairs that an alert is about: those of its slice that have its region."""
    chosen = {key: alert[key] for key in ("region", "slice_kind", "slice")}
    run_id = alert["run_id"]
    table = lens.remember(
        run_id,
        ("members", *chosen.values()),
        lambda: sql.table(lens.run(run_id), "review/page_members", run_id=run_id, **chosen),
    )
    found: list[str] = table["pair_id"].to_pylist()
    return found


def _sums(lens: Lens, run_id: str, region: str, pair_ids: list[str] | None) -> Grid:
    """Of pairs that have a region: their number, the summed bits of region and image, and of each patch."""
    rows = sql.rows(lens.run(run_id), "review/page_mean_maps", run_id=run_id, region=region, pair_ids=pair_ids)
    if not rows:
        return np.zeros(0)
    patches = [row["nats"] * BITS_PER_NAT for row in rows]
    head = (rows[0]["n"], rows[0]["region_nats"] * BITS_PER_NAT, rows[0]["image_nats"] * BITS_PER_NAT)
    return np.array([*head, *patches], dtype=np.float64)


def common_boxes(lens: Lens, run_id: str, region: str) -> list[Box]:
    """The boxes of a region that are the same for every pair."""
    rows = lens.remember(
        run_id, "boxes", lambda: sql.rows(lens.run(run_id), "review/boxes_shown", run_id=run_id, pair_ids=[])
    )
    return [(row["x0"], row["y0"], row["x1"], row["y1"]) for row in rows if row["region"] == region]
