"""Pairs as the report shows them: pictures, tokens and the numbers beside them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from PIL import Image

import sql
from corpora import Corpus, Place, RowError
from review.presentation import overlays
from review.presentation.formatting import BITS_PER_NAT, nats_to_bits
from review.presentation.overlays import Box, Grid

MOST_PATCHES = 1024
"""Along a side of a map that is drawn."""
SHADES = 12


@dataclass(frozen=True)
class Token:
    """A token of a caption; `shade` from 0 to SHADES stands for its bits, `phrases` are those that it belongs to."""

    text: str
    bits: float | None
    special: bool
    shade: int
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class RegionShare:
    """What a region or phrase of a pair holds."""

    side: str
    region: str
    share: float | None
    area: float
    bits: float | None


@dataclass(frozen=True)
class Picture:
    """A picture in the page."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class ShownPair:
    """One pair in one place of the report; `fault` says why the image or its map is not shown."""

    row: dict[str, Any]
    view: Picture | None
    overlay: Picture | None
    fault: str | None
    tokens: list[Token]
    held: list[RegionShare]
    image_bits: float | None
    strongest: float | None
    text_bits: float | None
    attributes: list[tuple[str, str]]


def picture(image: Image.Image, shrink: int = 1) -> Picture:
    """Encode an image for the page, `shrink` times as large as it is shown."""
    return Picture(overlays.data_uri(image), image.width // shrink, image.height // shrink)


def grid(row: dict[str, Any]) -> Grid | None:
    """Return the image map in bits, or None if what is stored is not a whole grid, or too large a one to draw."""
    nats, rows, columns = row["image_map"], row["grid_h"], row["grid_w"]
    if not nats or not rows or not columns or len(nats) != rows * columns:
        return None
    if not 1 <= rows <= MOST_PATCHES or not 1 <= columns <= MOST_PATCHES:
        return None
    return np.array(nats, dtype=np.float64).reshape(rows, columns) * BITS_PER_NAT


def _largest(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and np.isfinite(value)]
    return max(known, default=0.0) or 1.0


class Album:
    """All pairs that a report shows, read once, and the scales that make their pictures comparable."""

    def __init__(self, connection: sql.Connection, run_id: str, pair_ids: Iterable[str], corpus: Corpus | None) -> None:
        """corpus: None where it is not there any more."""
        chosen = {"run_id": run_id, "pair_ids": sorted(set(pair_ids))}
        self._rows = {row["pair_id"]: row for row in sql.rows(connection, "review/pairs_shown", **chosen)}
        self._held: dict[str, list[RegionShare]] = defaultdict(list)
        for row in sql.rows(connection, "review/regions_shown", **chosen):
            self._held[row["pair_id"]].append(
                RegionShare(row["side"], row["region"], row["share"], row["area"], nats_to_bits(row["nats"]))
            )
        self._phrases: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for row in sql.rows(connection, "review/phrases_shown", **chosen):
            self._phrases[row["pair_id"]].append((row["first"], row["last"], row["region"]))
        self._boxes: dict[tuple[str | None, str], list[Box]] = defaultdict(list)
        for row in sql.rows(connection, "review/boxes_shown", **chosen):
            self._boxes[row["pair_id"], row["region"]].append((row["x0"], row["y0"], row["x1"], row["y1"]))
        self._corpus = corpus
        self._views: dict[str, tuple[Image.Image | None, str | None]] = {}
        self._pictures: dict[str, Picture] = {}
        rows = self._rows.values()
        self.image_top = _largest(nats_to_bits(patch) for row in rows for patch in row["image_map"] or ())
        self.text_top = _largest(nats_to_bits(token) for row in rows for token in row["text_map"] or ())

    def boxes(self, region: str, pair_id: str | None = None) -> list[Box]:
        """Return the boxes of a region: those for all pairs, and those of a pair of its own."""
        own = self._boxes[pair_id, region] if pair_id is not None else []
        return self._boxes[None, region] + own

    def row(self, pair_id: str) -> dict[str, Any] | None:
        """Return a pair with its attribution as it is stored; None if the run does not have it."""
        return self._rows.get(pair_id)

    def held(self, pair_id: str) -> list[RegionShare]:
        """Return what each region and phrase of a pair holds, regions first, the most telling of each first."""
        return self._held[pair_id]

    def outlines(self, pair_id: str) -> dict[str, list[Box]]:
        """Return the boxes of all regions of a pair, by their names."""
        named = sorted({region for owner, region in self._boxes if owner in (None, pair_id)})
        return {region: self.boxes(region, pair_id) for region in named}

    def tokens(self, pair_id: str) -> list[Token]:
        """Return the tokens of a pair's caption with their bits."""
        return self._tokens(self._rows[pair_id])

    def show(self, pair_ids: Iterable[str], regions: Sequence[str]) -> list[ShownPair]:
        """Pairs in the order given, with regions outlined; ids that the run does not have are left out."""
        return [self._shown(self._rows[pair_id], regions) for pair_id in pair_ids if pair_id in self._rows]

    def _shown(self, row: dict[str, Any], regions: Sequence[str]) -> ShownPair:
        pair_id, bits = row["pair_id"], grid(row)
        seen, fault, drawn = None, None, None
        if bits is None:
            fault = (
                f"The stored map has {len(row['image_map'] or ())} values, expected {row['grid_h']} x "
                f"{row['grid_w']}: it is not drawn."
            )
        else:
            if pair_id not in self._views:
                self._views[pair_id] = self._view(row, overlays.picture_size(*bits.shape))
            seen, fault = self._views[pair_id]
            outlines = [self.boxes(region, pair_id) for region in regions]
            drawn = picture(overlays.overlay(seen, bits, self.image_top, outlines))
            if not np.isfinite(bits).all():
                fault = f"{fault or ''} {(~np.isfinite(bits)).sum()} values of the map are not finite.".strip()
        if seen is not None and pair_id not in self._pictures:
            self._pictures[pair_id] = picture(seen)
        return ShownPair(
            row=row,
            view=self._pictures.get(pair_id),
            overlay=drawn,
            fault=fault,
            tokens=self._tokens(row),
            held=[held for held in self._held[pair_id] if held.region in regions]
            or [held for held in self._held[pair_id] if held.side == "image"][:1],
            image_bits=nats_to_bits(row["image_nats"]),
            strongest=None if bits is None else float(bits.max()),
            text_bits=nats_to_bits(row["text_nats"]),
            attributes=list(row["attributes"] or ()),
        )

    def _view(self, row: dict[str, Any], size: tuple[int, int]) -> tuple[Image.Image | None, str | None]:
        if self._corpus is None:
            return None, "Image not shown: the corpus is not there."
        try:
            image = self._corpus.read_image(Place(row["file_name"], row["container"], row["position"]))
        except (RowError, OSError) as error:
            return None, f"Image not shown: {error}"
        if image.sha256 != row["image_sha256"]:
            return None, "Image not shown: the file has changed since the audit (its sha256 is another)."
        box = (row["view_x0"], row["view_y0"], row["view_x1"], row["view_y1"])
        return overlays.view(image.pixels, box, size), None

    def _tokens(self, row: dict[str, Any]) -> list[Token]:
        found = []
        columns = (row["tokens"] or (), row["text_map"] or (), row["special"] or ())
        for position, (text, nats, special) in enumerate(zip_longest(*columns), start=1):
            bits = nats_to_bits(nats)
            level = 0.0 if bits is None or not np.isfinite(bits) else min(max(bits / self.text_top, 0.0), 1.0)
            phrases = tuple(name for first, last, name in self._phrases[row["pair_id"]] if first <= position <= last)
            found.append(Token(text or "", bits, bool(special), round(level * SHADES), phrases))
        return found
