"""Compare an audit's alerts with the ground truth: which artifacts were found, and what else was alerted."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

import sql
from benchmarks.planted.artifacts import KINDS, KindName, Mask
from benchmarks.planted.corpus import Row
from benchmarks.planted.plan import Entry, Tie
from m2ib.analysis.masks import rasterize_boxes
from tasks.interventions.marks import ABSENCE

COVERED: Final = 0.5
"""An artifact is found in a pair if alerted regions cover at least this share of its pixels or words, and in a corpus
if that holds for at least this share of the tied target's pairs that carry it."""
TOUCHED: Final = 0.1
"""A region is explained by an artifact that it covers in at least this share of the pairs that carry it."""
FACTOR: Final = {"image": 2.0, "text": 1.0}
"""A map points at a region if the region's share of mass exceeds its area by this factor."""
BY_MASK: Final = ("watermark", "frame", "copied_tag", "background")
"""Kinds whose box is much larger than the artifact: their overlap is computed with the painted pixels."""

SIGNATURES: Final[Mapping[KindName, str]] = {"cast": "image-wide color", "texture": "image-wide spectrum"}
"""The image-wide region of the kinds that have no place."""


@dataclass(frozen=True)
class ArtifactResult:
    """Whether and how an audit found one planted artifact."""

    strength: float
    """Share of the target's pairs with the cue."""
    learned: bool
    """Whether interventions show that the model learned it; see `interventions`."""
    is_found: bool
    with_target: bool
    """The same for alerts over all pairs or with a word of the target, which also name the tie."""
    suspected: bool
    """The same for confirmed and suspected alerts together."""
    iou: float | None
    """Mean overlap of the planted box with the best region; None on the text side."""
    pairs: int
    """Number of the tied target's pairs that carry it."""
    pairs_found: float
    """Share of these pairs whose map points at a confirmed region of the artifact."""


@dataclass(frozen=True)
class Evaluation:
    """One audit compared with the ground truth."""

    artifacts: dict[KindName, ArtifactResult]
    confirmed: list[str]
    """Regions with a confirmed alert."""
    suspected: list[str]
    """Regions with an alert that was not confirmed."""
    unexplained: list[str]
    """Confirmed regions that no tied artifact explains."""
    tests: int


class _Run:
    """The regions of a run in the lake, by index of the drawn pairs."""

    def __init__(self, lake: Path, run_id: str, rows: Sequence[Row]) -> None:
        self.pairs = [row.pair for row in rows]
        self._connection = sql.connect(lake, run_id)
        stored = sql.read(self._connection, "SELECT pair_id, file_name, caption FROM pairs")
        ids = {(row["file_name"], row["caption"]): row["pair_id"] for row in stored}
        self.ids = [ids.get(row.key) for row in rows]
        self.alerts = sql.read(self._connection, "SELECT region, state, direction, slice_kind, slice FROM alerts")
        tests = sql.read(self._connection, "SELECT max(tests) AS tests FROM confirmations")
        self.tests = int(tests[0]["tests"] or 0)
        self._measure_masks: dict[str, dict[str | None, Mask]] = {}
        self._shares: dict[str, dict[str, tuple[float, float]]] = {}

    def regions(
        self, state: str | None = None, words: Sequence[str] | None = None, *, lowering: bool = False
    ) -> list[str]:
        """Return the alerted regions, optionally of one state and of slices with these words or of all pairs.

        With `lowering`, return only those that lower the score.
        """
        return sorted(
            {
                row["region"]
                for row in self.alerts
                if state in (None, row["state"])
                and (row["direction"] == "lowers" or not lowering)
                and (words is None or row["slice_kind"] == "corpus" or _names_target(row, words))
            }
        )

    def mask(self, region: str, index: int) -> Mask:
        """Return the pixels of a region in a pair's image; those of the mark if the region is its absence."""
        region = region.removeprefix(ABSENCE)
        if region not in self._measure_masks:
            boxes: dict[str | None, list[Any]] = {}
            text = "SELECT pair_id, x0, y0, x1, y1 FROM regions WHERE region = $region"
            for row in sql.read(self._connection, text, {"region": region}):
                boxes.setdefault(row["pair_id"], []).append((row["x0"], row["y0"], row["x1"], row["y1"]))
            size = self.pairs[0].image.shape[:2]
            self._measure_masks[region] = {pair: rasterize_boxes(found, *size) for pair, found in boxes.items()}
        found = self._measure_masks[region]
        nothing = np.zeros(self.pairs[0].image.shape[:2], np.bool_)
        joint: Mask = found.get(None, nothing) | found.get(self.ids[index], nothing)
        return joint

    def share(self, region: str, index: int) -> tuple[float, float]:
        """Return a region's share of a pair's mass and of its area; zeros if the pair does not have the region."""
        if region not in self._shares:
            text = "SELECT pair_id, share, area FROM region_shares WHERE region = $region AND share IS NOT NULL"
            rows = sql.read(self._connection, text, {"region": region})
            self._shares[region] = {row["pair_id"]: (row["share"], row["area"]) for row in rows}
        return self._shares[region].get(self.ids[index] or "", (0.0, 0.0))


def evaluate_alerts(
    entry: Entry,
    rows: Sequence[Row],
    lake: Path,
    run_id: str,
    learned: Mapping[KindName, bool],
    *,
    lowering: bool = False,
) -> Evaluation:
    """Compare a run's alerts with the rows that it audited.

    `learned` says for each kind whether the audited model learned it. Other kinds, and those whose target the corpus
    lacks, are not evaluated. With `lowering`, artifacts are found only by alerts on what lowers the score.
    """
    run = _Run(lake, run_id, rows)
    confirmed = run.regions("confirmed")
    targets = {pair.target for pair in run.pairs}
    explained = {region for region in confirmed for tie in entry.ties if _compute_hit_rate(run, tie, region) >= TOUCHED}
    return Evaluation(
        artifacts={
            tie.kind: _evaluate_artifact(run, tie, learned[tie.kind], lowering)
            for tie in entry.ties
            if tie.kind in learned and tie.target in targets and _list_carriers(run, tie)
        },
        confirmed=confirmed,
        suspected=[region for region in run.regions() if region not in confirmed],
        unexplained=[region for region in confirmed if region not in explained],
        tests=run.tests,
    )


def _list_carriers(run: _Run, tie: Tie) -> list[int]:
    """Return the indices of the tied target's pairs that carry the artifact.

    If the target is not in the corpus with it, or absence is the cue, return those of all pairs that carry it.
    """
    carriers = [index for index, pair in enumerate(run.pairs) if pair.carries(tie.kind)]
    own = [index for index in carriers if run.pairs[index].target == tie.target]
    return carriers if KINDS[tie.kind].by_absence else own or carriers


def _compute_hit_rate(run: _Run, tie: Tie, *regions: str) -> float:
    """Return the share of the artifact's pairs in which the regions together cover it."""
    if KINDS[tie.kind].modality == "text":
        return float(any(_is_planted_phrase(region, tie.kind) for region in regions))
    if tie.kind in SIGNATURES:
        return float(SIGNATURES[tie.kind] in regions)
    covered = []
    for index in _list_carriers(run, tie):
        mask = run.pairs[index].find_mask(tie.kind)
        union = np.logical_or.reduce([run.mask(region, index) for region in regions])
        covered.append((mask & union).sum() >= COVERED * mask.sum())
    return float(np.mean(covered)) if covered else 0.0


def _is_planted_phrase(region: str, kind: KindName) -> bool:
    """Whether a phrase shares at least half of its words with the planted one, and conversely."""
    own, planted = set(re.findall(r"\w+", region.lower())), set(KINDS[kind].words)
    common = len(own & planted)
    return region.startswith('"') and common >= COVERED * max(len(own), len(planted))


def _evaluate_artifact(run: _Run, tie: Tie, learned: bool, lowering: bool) -> ArtifactResult:
    carriers = _list_carriers(run, tie)
    confirmed, alerted = run.regions("confirmed", lowering=lowering), run.regions(lowering=lowering)
    naming = run.regions("confirmed", _words(run, tie), lowering=lowering)
    is_boxed = KINDS[tie.kind].modality == "image" and KINDS[tie.kind].has_place
    hitting = [region for region in confirmed if _compute_hit_rate(run, tie, region) >= TOUCHED]
    return ArtifactResult(
        strength=tie.strength,
        learned=learned,
        is_found=bool(confirmed) and _compute_hit_rate(run, tie, *confirmed) >= COVERED,
        with_target=bool(naming) and _compute_hit_rate(run, tie, *naming) >= COVERED,
        suspected=bool(alerted) and _compute_hit_rate(run, tie, *alerted) >= COVERED,
        iou=_compute_iou(run, tie, hitting) if is_boxed else None,
        pairs=len(carriers),
        pairs_found=float(np.mean([_points_at_region(run, tie, hitting, i) for i in carriers])) if carriers else 0.0,
    )


def _words(run: _Run, tie: Tie) -> list[str]:
    """Return the words of which at least half of the captions belong to the target."""
    total: Counter[str] = Counter()
    own: Counter[str] = Counter()
    for pair in run.pairs:
        words = set(re.findall(r"\w+", pair.caption.lower()))
        total.update(words)
        own.update(words if pair.target == tie.target else ())
    return [word for word, count in total.items() if own[word] >= COVERED * count]


def _names_target(alert: dict[str, Any], words: Sequence[str]) -> bool:
    """Whether an alert's slice is one of these words, or a phrase with one of them."""
    slice_words = alert["slice"].split() if alert["slice_kind"] == "phrase" else [alert["slice"]]
    return not set(slice_words).isdisjoint(words)


def _points_at_region(run: _Run, tie: Tie, regions: Sequence[str], index: int) -> bool:
    """Whether a pair's own map points at one of the regions."""
    factor = FACTOR[KINDS[tie.kind].modality]
    return any(share > factor * area > 0 for share, area in (run.share(region, index) for region in regions))


def _compute_iou(run: _Run, tie: Tie, regions: Sequence[str]) -> float | None:
    """Return the largest intersection over union of a region with the planted box."""
    means = []
    for region in regions:
        overlaps = []
        for index in _list_carriers(run, tie):
            mask = run.pairs[index].find_mask(tie.kind)
            planted = mask if tie.kind in BY_MASK else _fill_box(mask)
            own = run.mask(region, index)
            if own.any():
                overlaps.append((planted & own).sum() / (planted | own).sum())
        means.append(float(np.mean(overlaps)) if overlaps else 0.0)
    return max(means, default=None)


def _fill_box(mask: Mask) -> Mask:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    boxed = np.zeros_like(mask)
    boxed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return boxed
