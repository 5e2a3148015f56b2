"""Pictures of the pages: images of pairs, their maps as overlays, mean maps, and plots.

No part of a URL becomes a path: the image of a pair is found by the row that the run stored.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from fastapi import APIRouter, Request, Response

from corpora import Place, RowError
from review.presentation import drawing
from review.presentation.drawing import Box, Grid
from review.presentation.pairs import MeanMap, average_maps, sum_maps, to_bits_grid
from review.site.lake_cache import LakeCache, UnknownError
from review.site.pages import plots
from review.site.pages.rendering import Lake, get_choice, get_lake, get_number

router = APIRouter()
PIXEL_RATIO: Final = 2
"""Pixels of an image file per pixel of the page, for sharp display."""
_CACHE_CONTROL: Final = "private, max-age=600"


def load_pair(lake: LakeCache, run_id: str, pair_id: str) -> dict[str, Any]:
    """Load a pair with its attribution. Raises UnknownError."""
    rows = lake.query_run(run_id, "review/pairs", pair_ids=[pair_id])
    if not rows:
        raise UnknownError(f"Run {run_id} has no attributed pair {pair_id}.")
    return rows[0]


def make_picture(lake: LakeCache, run_id: str, row: dict[str, Any]) -> tuple[str, bytes]:
    """Return media type and data of a pair's image, as the model saw it. Raises UnknownError if it cannot be shown."""
    key = (run_id, row["pair_id"], row["image_sha256"])
    return lake.get_or_compute(lake.pictures, key, lambda: _encode_image(lake, run_id, row))


def explain_missing_picture(lake: LakeCache, run_id: str, row: dict[str, Any]) -> str | None:
    """Return why the image of a pair cannot be shown; None if it can."""
    try:
        make_picture(lake, run_id, row)
    except UnknownError as error:
        return str(error)
    return None


def _encode_image(lake: LakeCache, run_id: str, row: dict[str, Any]) -> tuple[str, bytes]:
    # An image without a map has the size of a map of one patch.
    width, height = drawing.picture_size(*(get_bits(row).shape if row["image_map"] else (1, 1)))
    corpus = lake.open_corpus(run_id)
    try:
        with lake.corpus_lock:
            image = corpus.read_image(Place(row["file_name"], row["container"], row["position"]))
    except (RowError, OSError) as error:
        raise UnknownError(f"The image cannot be read: {error}") from error
    if image.sha256 != row["image_sha256"]:
        raise UnknownError("The image file has changed since the audit: its sha256 differs.")
    box = (row["view_x0"], row["view_y0"], row["view_x1"], row["view_y1"])
    return drawing.encode_view(drawing.draw_view(image.pixels, box, (PIXEL_RATIO * width, PIXEL_RATIO * height)))


@router.get("/runs/{run_id}/pairs/{pair_id}/image")
def send_image(request: Request, lake: Lake, run_id: str, pair_id: str) -> Response:
    """Send the image of a pair, as the model saw it."""
    media_type, data = make_picture(lake, run_id, load_pair(lake, run_id, pair_id))
    return _send(request, data, media_type)


@router.get("/runs/{run_id}/pairs/{pair_id}/overlay")
def send_overlay(request: Request, lake: Lake, run_id: str, pair_id: str) -> Response:
    """Send the map of a pair as an overlay for its image, one pixel per patch."""
    bits = get_bits(load_pair(lake, run_id, pair_id))
    return _send_png(request, drawing.draw_layer(bits, _get_scale(request, bits), get_color_map(request)))


@router.get("/runs/{run_id}/pairs/{pair_id}/difference")
def send_difference(request: Request, lake: Lake, run_id: str, pair_id: str) -> Response:
    """Send the map of a pair minus its map in another run, which the parameter `than` of the URL names."""
    bits = get_bits(load_pair(lake, run_id, pair_id))
    other = get_bits(load_pair(lake, request.query_params.get("than", ""), pair_id))
    difference = bits - resize_map(other, bits.shape)
    return _send_png(request, drawing.draw_difference_layer(difference, _get_scale(request, np.abs(difference))))


@router.get("/runs/{run_id}/alerts/{alert_id}/mean/{half}")
def send_mean_map(request: Request, lake: Lake, run_id: str, alert_id: str, half: str) -> Response:
    """Send the mean map of an alert's slice (`inside`), or of the other pairs (`outside`)."""
    rows = lake.query_run(run_id, "review/alert", alert_id=alert_id)
    maps = compute_mean_maps(lake, rows[0]) if rows else {}
    if half not in maps:
        raise UnknownError("The mean map does not exist.")
    scale_bits = max(float(each.bits.max()) for each in maps.values()) or 1.0
    boxes = list_common_boxes(lake, run_id, rows[0]["region"])
    return _send_png(request, drawing.draw_mean_map(maps[half].bits, scale_bits, boxes))


@router.get("/scale")
def send_scale(request: Request) -> Response:
    """Send the color scale of the maps."""
    return _send_png(request, drawing.draw_color_scale(get_color_map(request)))


def get_color_map(request: Request) -> str:
    """Return the color map that the URL names, or else the first of COLOR_MAPS. Raises BadFilterError."""
    return get_choice(request, "map", drawing.COLOR_MAPS) or drawing.COLOR_MAPS[0]


@router.get("/audits/{audit_id}/trend.svg")
def send_trend(request: Request, lake: Lake, audit_id: str) -> Response:
    """Send a plot of an audit's alerts and errors over its runs."""
    rows = lake.query("review/page_runs", audit=audit_id, status="any", limit=60, offset=0)
    if not rows or audit_id == "all":
        raise UnknownError(f"This lake has no audit {audit_id}.")
    return _send_plot(request, ("trend", repr(rows)), lambda theme: plots.plot_trend(rows[::-1], theme))


@router.get("/runs/{run_id}/alerts/{alert_id}/effect.svg")
def send_effect(request: Request, lake: Lake, run_id: str, alert_id: str) -> Response:
    """Send a plot of an alert's tests."""
    rows = lake.query_run(run_id, "review/tests", alert_id=alert_id)
    tests = [row for row in rows if row["effect"] is not None]
    if not tests:
        raise UnknownError(f"Run {run_id} has no tested alert {alert_id}.")
    return _send_plot(request, ("effect", repr(tests)), lambda theme: plots.plot_effect(tests, theme))


def _send_plot(request: Request, key: tuple[str, str], plot: Callable[[str], bytes]) -> Response:
    theme = get_choice(request, "theme", plots.THEMES) or "light"
    lake = get_lake(request)
    return _send(request, lake.get_or_compute(lake.pictures, (*key, theme), lambda: plot(theme)), "image/svg+xml")


def _send_png(request: Request, pixels: Any) -> Response:
    return _send(request, drawing.encode_png(pixels), "image/png")


def _send(request: Request, data: bytes, media_type: str) -> Response:
    """Send a picture that the browser may cache; respond with 304 if the browser already has it."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
    headers = {"ETag": tag, "Cache-Control": _CACHE_CONTROL}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)


def get_bits(row: dict[str, Any]) -> Grid:
    """Return the map of a pair in bits. Raises UnknownError if the stored map does not fit its grid."""
    bits = to_bits_grid(row)
    if bits is None:
        raise UnknownError("The stored map does not fit its grid, so it is not shown.")
    return bits


def resize_map(bits: Grid, shape: tuple[int, ...]) -> Grid:
    """Resize a map to another grid without changing its sum, to compare models with different grids."""
    if bits.shape == shape:
        return bits
    resized: Grid = _overlap(bits.shape[0], shape[0]) @ bits @ _overlap(bits.shape[1], shape[1]).T
    return resized


def _overlap(old: int, new: int) -> Grid:
    """Divide a line into `old` and into `new` equal parts; return the share of old parts (columns) in new (rows)."""
    old_edges, new_edges = np.linspace(0, 1, old + 1), np.linspace(0, 1, new + 1)
    lengths = np.minimum(new_edges[1:, None], old_edges[None, 1:]) - np.maximum(
        new_edges[:-1, None], old_edges[None, :-1]
    )
    shares: Grid = np.maximum(lengths, 0) * old
    return shares


def _get_scale(request: Request, bits: Grid) -> float:
    """Return the top of the color scale in bits: the parameter `top` of the URL, or the largest value."""
    largest = bits[np.isfinite(bits)].max(initial=0.0)
    return get_number(request, "top") or float(largest) or 1.0


def compute_mean_maps(lake: LakeCache, alert: dict[str, Any]) -> dict[str, MeanMap]:
    """Compute the mean maps of pairs `inside` and `outside` an alert's slice; {} if the run has several grids."""
    run_id, region = alert["run_id"], alert["region"]
    grids = lake.query_run(run_id, "review/grid_shapes")
    if len(grids) != 1:
        return {}
    key = ("sums", region, alert["slice_kind"], alert["slice"])
    inside = lake.cache_for_run(run_id, key, lambda: sum_maps(lake.connect_runs(run_id), run_id, *key[1:]))
    total = lake.cache_for_run(run_id, key[:2], lambda: sum_maps(lake.connect_runs(run_id), run_id, region))
    return average_maps(inside, total, (grids[0]["grid_h"], grids[0]["grid_w"]))


def list_common_boxes(lake: LakeCache, run_id: str, region: str) -> list[Box]:
    """List the boxes of a region that are the same for every pair."""
    rows = lake.query_run(run_id, "review/boxes_of_pairs", pair_ids=[])
    return [(row["x0"], row["y0"], row["x1"], row["y1"]) for row in rows if row["region"] == region]
