"""An audit's alerts held against the truth: which artefacts were found, how exactly, and what was alerted besides."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

import sql
from benchmarks.planted.artifacts import KINDS, KindName, Mask
from benchmarks.planted.corpus import file_name
from benchmarks.planted.generators import Pair
from benchmarks.planted.plan import Entry, Tie
from m2ib.analysis.masks import rasterize_boxes

COVERED: Final = 0.5
"""An artefact is found in a pair where alerted regions cover at least half of its pixels, or of its words; it is found
in a corpus where that holds for at least half of the tied target's pairs that carry it."""
TOUCHED: Final = 0.1
"""A region in which no artefact is found in at least this share of the pairs that carry it is alerted for something
else."""
FACTOR: Final = {"image": 2.0, "text": 1.0}
"""Times its part that a region of one map must hold to be pointed at; words have fewer rivals than pixels."""
BY_MASK: Final = ("watermark", "frame")
"""Kinds whose box is the whole image: there the overlap is taken with the pixels themselves."""


@dataclass(frozen=True)
class Found:
    """What an audit says of one planted artefact."""

    found: bool
    of_target: bool
    """The same, counting only alerts over all pairs, or with a word of the target's: these tell the tie as well."""
    suspected: bool
    """As `found`, counting alerts that were not confirmed."""
    iou: float | None
    """Of the region that overlaps most with the planted box, mean over pairs that carry it; None on the text side."""
    pairs: int
    """Of the tied target, that carry it."""
    pairs_found: float
    """Share of them whose own map shows it: a confirmed region of the artefact holds over `FACTOR` times its part."""


@dataclass(frozen=True)
class Judged:
    """One audit against the truth."""

    artefacts: dict[KindName, Found]
    confirmed: list[str]
    """Regions with a confirmed alert."""
    suspected: list[str]
    """Regions with an alert that was not confirmed."""
    elsewhere: list[str]
    """Confirmed regions in which no tied artefact lies."""
    tests: int


class _Run:
    """What a run of the lake says about regions, in terms of the drawn pairs."""

    def __init__(self, lake: Path, run_id: str, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs
        self._connection = sql.connect(lake, run_id)
        names = sql.read(self._connection, "SELECT pair_id, file_name FROM pairs")
        by_file = {row["file_name"]: row["pair_id"] for row in names}
        self.ids = [by_file.get(file_name(index)) for index in range(len(pairs))]
        self.alerts = sql.read(self._connection, "SELECT region, state, slice_kind, slice FROM alerts")
        tests = sql.read(self._connection, "SELECT max(tests) AS tests FROM confirmations")
        self.tests = int(tests[0]["tests"] or 0)
        self._masks: dict[str, dict[str | None, Mask]] = {}
        self._shares: dict[str, dict[str, tuple[float, float]]] = {}

    def regions(self, state: str | None = None, words: Sequence[str] | None = None) -> list[str]:
        """Alerted regions, in this state if one is given, and of all pairs or these words if they are."""
        return sorted(
            {
                row["region"]
                for row in self.alerts
                if state in (None, row["state"])
                and (words is None or row["slice_kind"] == "corpus" or _tells(row, words))
            }
        )

    def mask(self, region: str, index: int) -> Mask:
        """Pixels of a region in a pair's image."""
        if region not in self._masks:
            boxes: dict[str | None, list[Any]] = {}
            text = "SELECT pair_id, x0, y0, x1, y1 FROM regions WHERE region = $region"
            for row in sql.read(self._connection, text, {"region": region}):
                boxes.setdefault(row["pair_id"], []).append((row["x0"], row["y0"], row["x1"], row["y1"]))
            size = self.pairs[0].image.shape[:2]
            self._masks[region] = {pair: rasterize_boxes(found, *size) for pair, found in boxes.items()}
        found = self._masks[region]
        nothing = np.zeros(self.pairs[0].image.shape[:2], np.bool_)
        joint: Mask = found.get(None, nothing) | found.get(self.ids[index], nothing)
        return joint

    def share(self, region: str, index: int) -> tuple[float, float]:
        """A region's share of a pair's mass, and of its area; zeros where the pair does not have it."""
        if region not in self._shares:
            text = "SELECT pair_id, share, area FROM region_shares WHERE region = $region AND share IS NOT NULL"
            rows = sql.read(self._connection, text, {"region": region})
            self._shares[region] = {row["pair_id"]: (row["share"], row["area"]) for row in rows}
        return self._shares[region].get(self.ids[index] or "", (0.0, 0.0))


def judge(entry: Entry, pairs: Sequence[Pair], lake: Path, run_id: str) -> Judged:
    """Hold a run's alerts against the pairs that it audited."""
    run = _Run(lake, run_id, pairs)
    confirmed = run.regions("confirmed")
    explained = {region for region in confirmed for tie in entry.ties if _hits(run, tie, region) >= TOUCHED}
    return Judged(
        artefacts={tie.kind: _found(run, tie) for tie in entry.ties},
        confirmed=confirmed,
        suspected=[region for region in run.regions() if region not in confirmed],
        elsewhere=[region for region in confirmed if region not in explained],
        tests=run.tests,
    )


def _carriers(run: _Run, tie: Tie) -> list[int]:
    """The pairs of the tied target that carry the artefact."""
    return [i for i, pair in enumerate(run.pairs) if pair.target == tie.target and pair.carries(tie.kind)]


def _planted(pair: Pair, kind: KindName) -> Mask:
    found = next(p.mask for p in pair.planted if p.kind == kind)
    if found is None:
        raise ValueError(f"kind: got {kind!r}, expected one that paints")
    return found


def _hits(run: _Run, tie: Tie, *regions: str) -> float:
    """Share of the artefact's pairs in which the regions together cover it."""
    if KINDS[tie.kind].modality == "text":
        return float(any(_names(region, tie.kind) for region in regions))
    covered = []
    for index in _carriers(run, tie):
        mask = _planted(run.pairs[index], tie.kind)
        union = np.logical_or.reduce([run.mask(region, index) for region in regions])
        covered.append((mask & union).sum() >= COVERED * mask.sum())
    return float(np.mean(covered)) if covered else 0.0


def _names(region: str, kind: KindName) -> bool:
    """Whether a phrase is the planted one: half of either's words are the other's."""
    own, planted = set(re.findall(r"\w+", region.lower())), set(KINDS[kind].words)
    common = len(own & planted)
    return region.startswith('"') and common >= COVERED * max(len(own), len(planted))


def _found(run: _Run, tie: Tie) -> Found:
    carriers = _carriers(run, tie)
    confirmed, alerted = run.regions("confirmed"), run.regions()
    telling = run.regions("confirmed", _words(run, tie))
    hitting = [region for region in confirmed if _hits(run, tie, region) >= TOUCHED]
    return Found(
        found=bool(confirmed) and _hits(run, tie, *confirmed) >= COVERED,
        of_target=bool(telling) and _hits(run, tie, *telling) >= COVERED,
        suspected=bool(alerted) and _hits(run, tie, *alerted) >= COVERED,
        iou=_iou(run, tie, hitting) if KINDS[tie.kind].modality == "image" else None,
        pairs=len(carriers),
        pairs_found=float(np.mean([_points(run, tie, hitting, i) for i in carriers])) if carriers else 0.0,
    )


def _words(run: _Run, tie: Tie) -> list[str]:
    """Words that tell the target: at least half of the captions that have one are the target's."""
    total: Counter[str] = Counter()
    own: Counter[str] = Counter()
    for pair in run.pairs:
        said = set(re.findall(r"\w+", pair.caption.lower()))
        total.update(said)
        own.update(said if pair.target == tie.target else ())
    return [word for word, count in total.items() if own[word] >= COVERED * count]


def _tells(alert: dict[str, Any], words: Sequence[str]) -> bool:
    """Whether an alert's slice is one of these words, or two words with one of them."""
    said = alert["slice"].split() if alert["slice_kind"] == "phrase" else [alert["slice"]]
    return not set(said).isdisjoint(words)


def _points(run: _Run, tie: Tie, regions: Sequence[str], index: int) -> bool:
    """Whether a pair's own map points at one of the regions."""
    factor = FACTOR[KINDS[tie.kind].modality]
    return any(share > factor * area > 0 for share, area in (run.share(region, index) for region in regions))


def _iou(run: _Run, tie: Tie, regions: Sequence[str]) -> float | None:
    """Intersection over union with the planted box, of the region with the largest."""
    means = []
    for region in regions:
        overlaps = []
        for index in _carriers(run, tie):
            mask = _planted(run.pairs[index], tie.kind)
            planted = mask if tie.kind in BY_MASK else _boxed(mask)
            own = run.mask(region, index)
            if own.any():
                overlaps.append((planted & own).sum() / (planted | own).sum())
        means.append(float(np.mean(overlaps)) if overlaps else 0.0)
    return max(means, default=None)


def _boxed(mask: Mask) -> Mask:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    boxed = np.zeros_like(mask)
    boxed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return boxed
