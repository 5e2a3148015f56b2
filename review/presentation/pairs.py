"""Pairs prepared for display, each with its pictures, tokens and numbers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import sql
from corpora import Corpus, CorpusError, Place, RowError
from review.presentation import drawing
from review.presentation.drawing import Box, Grid

MOST_PATCHES = 1024
"""Maximum number of patches per side of a map that is drawn."""
AVERAGED_IMAGES = 32
"""Number of images that are averaged under a mean map."""
_CACHED_VIEWS = 1024  # of 83 kB, for the pairs that the samples of several alerts have in common
SHADES = 12
"""Number of shades that represent the nats of a token, without the lightest shade."""


@dataclass(frozen=True)
class Token:
    """A token of a caption; `shade` from 0 to SHADES represents its nats; `phrases` are the phrases that contain it."""

    text: str
    nats: float | None
    special: bool
    shade: int
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class RegionShare:
    """The share of a pair's attribution in a region or phrase; `area` is its share of the image or of the words."""

    side: str
    region: str
    share: float | None
    area: float
    nats: float | None


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and the size in pixels at which it is shown."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class ShownPair:
    """One pair with its pictures; `problem` is why image or map are missing, `strongest` the nats of its top patch."""

    row: dict[str, Any]
    view: Picture | None
    overlay: Picture | None
    problem: str | None
    tokens: list[Token]
    region_shares: list[RegionShare]
    strongest: float | None


def encode_picture(image: Image.Image, shrink: int = 1) -> Picture:
    """Encode an image for display at 1/`shrink` of its size."""
    return Picture(drawing.encode_data_uri(image), image.width // shrink, image.height // shrink)


def to_grid(row: dict[str, Any]) -> Grid | None:
    """Return the image map of a row in nats; None if it is not a complete grid, or is too large to draw."""
    values, rows, columns = row["image_map"], row["grid_h"], row["grid_w"]
    if not values or not 1 <= (rows or 0) <= MOST_PATCHES or not 1 <= (columns or 0) <= MOST_PATCHES:
        return None
    if len(values) != rows * columns:
        return None
    return np.array(values, dtype=np.float64).reshape(rows, columns)


@dataclass(frozen=True)
class MeanMap:
    """The mean image map of `n` pairs, with the mean nats in a region and in the whole image."""

    nats: Grid
    n: int
    region_nats: float
    image_nats: float


def sum_maps(
    connection: sql.Connection, run_id: str, region: str, slice_kind: str | None = None, slice_name: str | None = None
) -> Grid:
    """Return the number of pairs that have a region, and their summed nats in the region, the image, and each patch.

    Without a slice, all pairs of the run are counted; an empty array means that none has the region.
    """
    selection = {"run_id": run_id, "region": region, "slice_kind": slice_kind, "slice": slice_name}
    rows = sql.rows(connection, "review/map_sums", **selection)
    if not rows:
        return np.zeros(0)
    totals = [rows[0][key] for key in ("n", "region_nats", "image_nats")]
    return np.array([*totals, *(row["nats"] for row in rows)], dtype=np.float64)


def average_maps(inside: Grid, total: Grid, shape: tuple[int, int]) -> dict[str, MeanMap]:
    """Return the mean maps of pairs `inside` and `outside` a slice, from results of `sum_maps`; {} without pairs."""
    sums = {"inside": inside, "outside": np.maximum(total - inside, 0) if inside.size else total}
    return {
        half: MeanMap(values[3:].reshape(shape) / values[0], int(values[0]), *(values[1:3] / values[0]).tolist())
        for half, values in sums.items()
        if len(values) == 3 + shape[0] * shape[1] and values[0] > 0
    }


def average_views(views: Iterable[Image.Image | NDArray[np.uint8]]) -> Image.Image | None:
    """Return the mean of gray images of one size; None without images."""
    pixels = [np.asarray(view, dtype=float) for view in views]
    return Image.fromarray(np.mean(pixels, axis=0).round().astype(np.uint8)) if pixels else None


def read_view(corpus: Corpus | None, row: dict[str, Any], size: tuple[int, int]) -> tuple[Image.Image | None, str]:
    """Return what the model sees of the image of a pair; or None, and why it cannot be shown."""
    if corpus is None:
        return None, "Image not shown: the corpus is not available."
    try:
        image = corpus.read_image(Place(row["file_name"], row["container"], row["position"]))
    except (CorpusError, RowError, OSError) as error:
        return None, f"Image not shown: {error}"
    if image.sha256 != row["image_sha256"]:
        return None, "Image not shown: the file has changed since the audit (its sha256 differs)."
    return drawing.draw_view(image.pixels, (row["view_x0"], row["view_y0"], row["view_x1"], row["view_y1"]), size), ""


class AverageImages:
    """Average gray images of samples of pairs, over which mean maps are drawn."""

    def __init__(self, connection: sql.Connection, run_id: str, corpus: Corpus | None) -> None:
        self._connection, self._run_id, self._corpus = connection, run_id, corpus
        self._views: dict[str, NDArray[np.uint8] | None] = {}

    def average(self, alert: Mapping[str, Any], inside: bool) -> Image.Image | None:
        """Return the average image of a sample of an alert's pairs, or of the others; None without images."""
        if self._corpus is None:
            return None
        query, selection = "review/page_slice_sample", select_averaged(alert, inside)
        pair_ids = [row["pair_id"] for row in sql.rows(self._connection, query, run_id=self._run_id, **selection)]
        if len(self._views) > _CACHED_VIEWS:
            self._views.clear()
        missing = [pair_id for pair_id in pair_ids if pair_id not in self._views]
        for row in sql.rows(self._connection, "review/pairs", run_id=self._run_id, pair_ids=missing) if missing else ():
            view, _ = read_view(self._corpus, row, drawing.picture_size(row["grid_h"], row["grid_w"]))
            self._views[row["pair_id"]] = None if view is None else np.asarray(view.convert("L"))
        views = (self._views.get(pair_id) for pair_id in pair_ids)
        return average_views(pixels for pixels in views if pixels is not None)


def select_averaged(alert: Mapping[str, Any], inside: bool) -> dict[str, Any]:
    """Return parameters of the query page_slice_sample: the pairs whose images are averaged."""
    members = {key: alert[key] for key in ("region", "slice_kind", "slice")}
    return {**members, "inside": inside, "seed": 0, "limit": AVERAGED_IMAGES}


def _largest(values: Iterable[float | None]) -> float:
    return max((value for value in values if value is not None and np.isfinite(value)), default=0.0) or 1.0


class Album:
    """Pairs of a run, read once, with common scales that make their pictures comparable.

    `image_top` and `text_top` are the nats of the strongest patch and token of all pairs. By pair id,
    `rows` has the stored pairs and `region_shares` their shares of regions and phrases (regions first, then by size).
    """

    def __init__(self, connection: sql.Connection, run_id: str, pair_ids: Iterable[str], corpus: Corpus | None) -> None:
        """Read pairs of a run; unknown ids are ignored. Without a corpus, the pairs are shown without images."""
        parameters = {"run_id": run_id, "pair_ids": sorted(set(pair_ids))}
        self.rows = {row["pair_id"]: row for row in sql.rows(connection, "review/pairs", **parameters)}
        self.region_shares: dict[str, list[RegionShare]] = defaultdict(list)
        for row in sql.rows(connection, "review/region_shares_of_pairs", **parameters):
            self.region_shares[row["pair_id"]].append(
                RegionShare(row["side"], row["region"], row["share"], row["area"], row["nats"])
            )
        self._phrases: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for row in sql.rows(connection, "review/phrases_of_pairs", **parameters):
            self._phrases[row["pair_id"]].append((row["first"], row["last"], row["region"]))
        self._boxes: dict[tuple[str | None, str], list[Box]] = defaultdict(list)
        for row in sql.rows(connection, "review/boxes_of_pairs", **parameters):
            self._boxes[row["pair_id"], row["region"]].append((row["x0"], row["y0"], row["x1"], row["y1"]))
        self._corpus = corpus
        self._views: dict[str, tuple[Image.Image | None, Picture | None, str | None]] = {}
        rows = self.rows.values()
        self.image_top = _largest(patch for row in rows for patch in row["image_map"] or ())
        self.text_top = _largest(token for row in rows for token in row["text_map"] or ())

    def boxes(self, region: str, pair_id: str | None = None) -> list[Box]:
        """Return the boxes that a region has in all pairs, and those that it has in the given pair."""
        return self._boxes[None, region] + (self._boxes[pair_id, region] if pair_id is not None else [])

    def outlines(self, pair_id: str) -> dict[str, list[Box]]:
        """Return the boxes of all regions of a pair, by name of the region."""
        names = sorted({region for owner, region in self._boxes if owner in (None, pair_id)})
        return {region: self.boxes(region, pair_id) for region in names}

    def show(self, pair_ids: Iterable[str], regions: Sequence[str]) -> list[ShownPair]:
        """Return the pairs with these ids, in this order, with regions outlined; unknown ids are left out."""
        return [self._show_pair(self.rows[pair_id], regions) for pair_id in pair_ids if pair_id in self.rows]

    def _show_pair(self, row: dict[str, Any], regions: Sequence[str]) -> ShownPair:
        pair_id, nats = row["pair_id"], to_grid(row)
        picture, problem, overlay = None, None, None
        if nats is None:
            problem = (
                f"Map not shown: it has {len(row['image_map'] or ())} values, expected "
                f"{row['grid_h'] or 0} x {row['grid_w'] or 0}."
            )
        else:
            if pair_id not in self._views:
                view, reason = read_view(self._corpus, row, drawing.picture_size(*nats.shape))
                self._views[pair_id] = (view, None if view is None else encode_picture(view), reason or None)
            view, picture, problem = self._views[pair_id]
            outlines = [self.boxes(region, pair_id) for region in regions]
            overlay = encode_picture(drawing.draw_overlay(view, nats, self.image_top, outlines))
            if not np.isfinite(nats).all():
                problem = f"{problem or ''} {(~np.isfinite(nats)).sum()} values of the map are not finite.".strip()
        shares = self.region_shares[pair_id]
        return ShownPair(
            row=row,
            view=picture,
            overlay=overlay,
            problem=problem,
            tokens=self.tokens(row),
            region_shares=[share for share in shares if share.region in regions]
            or [share for share in shares if share.side == "image"][:1],
            strongest=None if nats is None else float(nats.max()),
        )

    def tokens(self, row: dict[str, Any]) -> list[Token]:
        """Return the tokens of the caption of a pair with their nats."""
        tokens = []
        columns = (row["tokens"] or (), row["text_map"] or (), row["special"] or ())
        for position, (text, nats, special) in enumerate(zip_longest(*columns), start=1):
            level = 0.0 if nats is None or not np.isfinite(nats) else min(max(nats / self.text_top, 0.0), 1.0)
            phrases = tuple(name for first, last, name in self._phrases[row["pair_id"]] if first <= position <= last)
            tokens.append(Token(text or "", nats, bool(special), round(level * SHADES), phrases))
        return tokens
