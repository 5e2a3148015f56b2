"""Pictures of the pages: images of pairs, their maps as overlays, thumbnails, mean maps, and templates of overlays.

No part of a URL becomes a path: the image of a pair is found by the row that the run stored.
"""

import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from fastapi import APIRouter, Request, Response
from PIL import Image

import sql
from corpora import CorpusError, Place, RowError, open_image
from review.presentation import drawing
from review.presentation.drawing import Box, Grid
from review.presentation.pairs import MeanMap, average_maps, average_views, select_averaged, sum_maps, to_grid
from review.site.lake_cache import LakeCache, UnknownError
from review.site.pages.cards import round_up
from review.site.pages.rendering import Lake, get_choice, get_number, get_text

router = APIRouter()
PIXEL_RATIO: Final = 2
"""Pixels of an image file per pixel of the page, for sharp display."""
_CACHE_CONTROL: Final = "private, max-age=600"


def load_pair(lake: LakeCache, run_id: str, pair_id: str) -> dict[str, Any]:
    """Load a pair with its attribution, and the `boxes` of each region that it has. Raises UnknownError."""
    row = lake.cache_for_run(run_id, ("pair", pair_id), lambda: _query_pairs(lake, run_id, [pair_id]).get(pair_id))
    if row is None:
        raise UnknownError(f"Run {run_id} has no attributed pair {pair_id}.")
    return row


def preload_pairs(lake: LakeCache, run_id: str, pair_ids: Iterable[str]) -> None:
    """Load pairs with one query, so that the thumbnails of a list need none."""
    for pair_id, row in _query_pairs(lake, run_id, pair_ids).items():
        lake.cache_for_run(run_id, ("pair", pair_id), lambda row=row: row)  # type: ignore[misc]


def _query_pairs(lake: LakeCache, run_id: str, pair_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    connection, selection = lake.connect_runs(run_id), {"run_id": run_id, "pair_ids": sorted(set(pair_ids))}
    boxes: dict[tuple[str | None, str], list[Box]] = defaultdict(list)
    for box in sql.rows(connection, "review/boxes_of_pairs", **selection):
        boxes[box["pair_id"], box["region"]].append((box["x0"], box["y0"], box["x1"], box["y1"]))
    return {
        row["pair_id"]: row
        | {"boxes": {region: each for (owner, region), each in boxes.items() if owner in (None, row["pair_id"])}}
        for row in sql.rows(connection, "review/pairs", **selection)
    }


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
    return drawing.encode_view(_draw_view(lake, run_id, row, PIXEL_RATIO))


def _draw_view(lake: LakeCache, run_id: str, row: dict[str, Any], pixel_ratio: int) -> Image.Image:
    """Read the image of a pair, and draw what the model saw of it. Raises UnknownError if it cannot be shown."""
    # An image without a map has the size of a map of one patch.
    width, height = drawing.picture_size(*(get_map(row).shape if row["image_map"] else (1, 1)))
    box = (row["view_x0"], row["view_y0"], row["view_x1"], row["view_y1"])
    size = (pixel_ratio * width, pixel_ratio * height)
    corpus = lake.open_corpus(run_id)
    try:
        with lake.corpus_lock:
            data = corpus.reader.image(Place(row["file_name"], row["container"], row["position"]))
        # Twice as many pixels as in the picture, before they are resized to it.
        needed = [2 * side / max(end - start, 1e-6) for side, start, end in zip(size, box[:2], box[2:], strict=True)]
        image = open_image(data, corpus.limits, (math.ceil(needed[0]), math.ceil(needed[1])))
    except (CorpusError, RowError, OSError) as error:
        raise UnknownError(f"The image cannot be read: {error}") from error
    if image.sha256 != row["image_sha256"]:
        raise UnknownError("The image file has changed since the audit: its sha256 differs.")
    return drawing.draw_view(image.pixels, box, size)


def _load_small_view(lake: LakeCache, run_id: str, row: dict[str, Any]) -> Image.Image | None:
    """Return the gray image of a pair at the size of a thumbnail; None if the image cannot be shown."""

    def encode() -> bytes:
        return drawing.encode_view(_draw_view(lake, run_id, row, 1).convert("L"))[1]

    try:
        data = lake.get_or_compute(lake.small_views, (run_id, row["pair_id"], row["image_sha256"]), encode)
    except UnknownError:
        return None
    return Image.open(io.BytesIO(data))


@router.get("/runs/{run_id}/pairs/{pair_id}/image")
def send_image(request: Request, lake: Lake, run_id: str, pair_id: str) -> Response:
    """Send the image of a pair, as the model saw it."""
    media_type, data = make_picture(lake, run_id, load_pair(lake, run_id, pair_id))
    return _send(request, data, media_type)


@router.get("/runs/{run_id}/pairs/{pair_id}/thumbnail")
def send_thumbnail(request: Request, lake: Lake, run_id: str, pair_id: str) -> Response:
    """Send a small picture of a pair: its map over its image, or the map alone if the image cannot be shown.

    The color scale is that of the run. The parameter `outline` names a region to outline, by default all overlays.
    """
    row = load_pair(lake, run_id, pair_id)
    outlined = get_text(request, "outline")
    boxes = [each for region, each in row["boxes"].items() if is_outlined(region, outlined)]
    nats, view = get_map(row), _load_small_view(lake, run_id, row)
    return _send_view(request, drawing.draw_overlay(view, nats, get_run_scale(lake, run_id), boxes))


def is_outlined(region: str, name: str | None) -> bool:
    """Return whether a region is outlined on a picture: the one with this name, or without a name every overlay."""
    return region == name if name else region.startswith("stamp ")


def get_run_scale(lake: LakeCache, run_id: str) -> float:
    """Return the top of the color scale of a run, in nats: the 99.5th percentile of the strongest patches."""
    rows = lake.query_run(run_id, "review/page_map_scale")
    return round_up((rows[0]["nats"] if rows else None) or 1.0)


@router.get("/runs/{run_id}/pairs/{pair_id}/overlay")
def send_overlay(request: Request, lake: Lake, run_id: str, pair_id: str) -> Response:
    """Send the map of a pair as an overlay for its image, one pixel per patch."""
    nats = get_map(load_pair(lake, run_id, pair_id))
    return _send_png(request, drawing.draw_layer(nats, _get_scale(request, nats), get_color_map(request)))


@router.get("/runs/{run_id}/pairs/{pair_id}/difference")
def send_difference(request: Request, lake: Lake, run_id: str, pair_id: str) -> Response:
    """Send the map of a pair minus its map in another run, which the parameter `than` of the URL names."""
    nats = get_map(load_pair(lake, run_id, pair_id))
    other = get_map(load_pair(lake, request.query_params.get("than", ""), pair_id))
    difference = nats - resize_map(other, nats.shape)
    return _send_png(request, drawing.draw_difference_layer(difference, _get_scale(request, np.abs(difference))))


@router.get("/runs/{run_id}/alerts/{alert_id}/mean/{half}")
def send_mean_map(request: Request, lake: Lake, run_id: str, alert_id: str, half: str) -> Response:
    """Send the mean map of an alert's slice (`inside`), or of the other pairs (`outside`)."""
    rows = lake.query_run(run_id, "review/alert", alert_id=alert_id)
    maps = compute_mean_maps(lake, rows[0]) if rows else {}
    if half not in maps:
        raise UnknownError("The mean map does not exist.")
    scale_nats = max(float(each.nats.max()) for each in maps.values()) or 1.0
    boxes = list_common_boxes(lake, run_id, rows[0]["region"])
    view = _average_views(lake, rows[0], half == "inside")
    return _send_view(request, drawing.draw_mean_map(maps[half].nats, scale_nats, boxes, view))


def _average_views(lake: LakeCache, alert: dict[str, Any], inside: bool) -> Image.Image | None:
    """Return the average gray image of a sample of an alert's pairs, or of the others; None without images."""
    run_id, selection = alert["run_id"], select_averaged(alert, inside)

    def average() -> Image.Image | None:
        sample = lake.query_run(run_id, "review/page_slice_sample", **selection)
        rows = _query_pairs(lake, run_id, [row["pair_id"] for row in sample]).values()
        return average_views(view for row in rows if (view := _load_small_view(lake, run_id, row)))

    if lake.explain_missing_corpus(run_id):
        return None
    return lake.get_or_compute(lake.pictures, ("average", run_id, *selection.values()), average)


@router.get("/runs/{run_id}/overlays/{region}/template")
def send_template(request: Request, lake: Lake, run_id: str, region: str) -> Response:
    """Send the template of a recurring overlay, enlarged."""
    rows = [row for row in lake.query("review/overlays_of_run", run_id=run_id) if row["region"] == region]
    if not rows or (picture := drawing.draw_template(rows[0])) is None:
        raise UnknownError(f"Run {run_id} has no template of {region}.")
    return _send_png(request, picture)


@router.get("/scale")
def send_scale(request: Request) -> Response:
    """Send the color scale of the maps."""
    return _send_png(request, drawing.draw_color_scale(get_color_map(request)))


def get_color_map(request: Request) -> str:
    """Return the color map that the URL names, or else the first of COLOR_MAPS. Raises BadFilterError."""
    return get_choice(request, "map", drawing.COLOR_MAPS) or drawing.COLOR_MAPS[0]


def _send_png(request: Request, pixels: Any) -> Response:
    return _send(request, drawing.encode_png(pixels), "image/png")


def _send_view(request: Request, picture: Image.Image) -> Response:
    media_type, data = drawing.encode_view(picture)
    return _send(request, data, media_type)


def _send(request: Request, data: bytes, media_type: str) -> Response:
    """Send a picture that the browser may cache; respond with 304 if the browser already has it."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
    headers = {"ETag": tag, "Cache-Control": _CACHE_CONTROL}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)


def get_map(row: dict[str, Any]) -> Grid:
    """Return the map of a pair in nats. Raises UnknownError if the stored map does not fit its grid."""
    nats = to_grid(row)
    if nats is None:
        raise UnknownError("The stored map does not fit its grid, so it is not shown.")
    return nats


def resize_map(nats: Grid, shape: tuple[int, ...]) -> Grid:
    """Resize a map to another grid without changing its sum, to compare models with different grids."""
    if nats.shape == shape:
        return nats
    resized: Grid = _overlap(nats.shape[0], shape[0]) @ nats @ _overlap(nats.shape[1], shape[1]).T
    return resized


def _overlap(old: int, new: int) -> Grid:
    """Divide a line into `old` and into `new` equal parts; return the share of old parts (columns) in new (rows)."""
    old_edges, new_edges = np.linspace(0, 1, old + 1), np.linspace(0, 1, new + 1)
    lengths = np.minimum(new_edges[1:, None], old_edges[None, 1:]) - np.maximum(
        new_edges[:-1, None], old_edges[None, :-1]
    )
    shares: Grid = np.maximum(lengths, 0) * old
    return shares


def _get_scale(request: Request, nats: Grid) -> float:
    """Return the top of the color scale in nats: the parameter `top` of the URL, or the largest value."""
    largest = nats[np.isfinite(nats)].max(initial=0.0)
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
