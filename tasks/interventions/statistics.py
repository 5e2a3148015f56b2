"""Statistics of an intervention: effect, interval, test, floor, and whether they are significant.

This module reads neither model nor lake. All random numbers depend on a key alone.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Margins:
    """Margins of each pair of a sample: unchanged, with the region covered, and with controls covered."""

    clean: Numbers  # of the unchanged pairs, (pairs,)
    region: Numbers  # with the region covered, (pairs,)
    controls: Numbers  # with each control covered, (pairs, controls); NaN where a pair has fewer controls

    def drops(self) -> tuple[Numbers, Numbers]:
        """Return the loss of each pair's margin when the region is covered, and when each control is covered."""
        return self.clean - self.region, self.clean[:, None] - self.controls

    def differences(self) -> Numbers:
        """Return for each pair the loss caused by the region minus the mean loss caused by its controls."""
        region, controls = self.drops()
        difference: Numbers = region - np.nanmean(controls, axis=1)
        return difference


@dataclass(frozen=True)
class Evidence:
    """Statistics of a sample with one fill."""

    n: int  # number of pairs
    effect: float  # mean of `Margins.differences`
    low: float  # lower end of the effect's 95 % bootstrap interval
    high: float  # upper end of this interval
    drop: float  # mean loss of margin when the region is covered
    control_drop: float  # mean loss of margin when a control is covered
    margin: float  # mean absolute margin of the unchanged pairs
    p: float  # of the one-sided Wilcoxon signed-rank test
    floor: float  # smallest relevant effect; see `effect_floor`


def generator(*key: object) -> np.random.Generator:
    """Return a random generator that is seeded by the key alone."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8]))


def evaluate(margins: Margins, floor_share: float, *key: object) -> Evidence:
    """Compute all statistics of a sample. `floor_share` is explained in `effect_floor`; `key` seeds the resampling."""
    region, controls = margins.drops()
    differences = margins.differences()
    low, high = bootstrap_interval(differences, *key)
    return Evidence(
        n=len(differences),
        effect=float(differences.mean()),
        low=low,
        high=high,
        drop=float(region.mean()),
        control_drop=float(np.nanmean(controls, axis=1).mean()),
        margin=float(np.abs(margins.clean).mean()),
        p=signed_rank_p(differences),
        floor=effect_floor(margins, floor_share, *key),
    )


def bootstrap_interval(values: Numbers, *key: object, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of values; `key` seeds the resampling."""
    chosen = generator("interval", *key).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[chosen].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def signed_rank_p(differences: Numbers) -> float:
    """Return the p value of the one-sided Wilcoxon signed-rank test that differences exceed zero; 1 if all are zero."""
    from scipy.stats import wilcoxon  # takes a second to import

    if not differences.any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # with ties and zeros p is approximate, which is sufficient here
        return float(wilcoxon(differences, alternative="greater").pvalue)


def effect_floor(margins: Margins, floor_share: float, *key: object) -> float:
    """Return the smallest relevant effect: the larger of two values.

    (a) The effect that chance and location can have: the 95 % quantile of the absolute mean difference between one
    control and the other controls, over resampled pairs. (b) `floor_share` times the mean absolute margin of the
    unchanged pairs; absolute, because margins around zero would otherwise give a floor of zero.
    """
    _, controls = margins.drops()
    null: list[Numbers] = []
    chosen = generator("floor", *key).integers(len(controls), size=(RESAMPLES // 2, len(controls)))
    for number in range(controls.shape[1]):
        others = np.delete(controls, number, axis=1)
        present = ~np.isnan(controls[:, number]) & ~np.isnan(others).all(axis=1)
        difference = np.zeros(len(controls))
        difference[present] = controls[present, number] - np.nanmean(others[present], axis=1)
        counts = present[chosen].sum(axis=1)
        null.append(np.abs(difference[chosen].sum(axis=1) / np.maximum(counts, 1)))
    by_chance = float(np.quantile(np.concatenate(null), 0.95)) if null else 0.0
    return max(by_chance, floor_share * float(np.abs(margins.clean).mean()))


def adjust_p_values(p: Sequence[float]) -> list[float]:
    """Return q values (Benjamini-Hochberg): the smallest false discovery rate at which each test is significant."""
    from scipy.stats import false_discovery_control  # takes a second to import

    return [float(q) for q in false_discovery_control(p)] if p else []


def explain_failure(evidence: Evidence, q: float, level: float) -> str | None:
    """Return one sentence on why the effect in a sample is not significant, or None if it is significant.

    An effect is significant if it exceeds the floor, its interval is above zero, and p and q are below the level.
    """
    if evidence.effect <= evidence.floor:
        return f"got a score loss of {evidence.effect:.4f}, expected more than the floor of {evidence.floor:.4f}"
    if evidence.low <= 0:
        return f"got an interval from {evidence.low:.4f} to {evidence.high:.4f}, expected one above zero"
    if evidence.p >= level:
        return f"got p = {evidence.p:.3g}, expected less than {level:g}"
    if q >= level:
        return f"got q = {q:.3g}, expected less than {level:g}"
    return None


def smallest_sample(level: float) -> int:
    """Return the smallest number of pairs with which the signed-rank test can reach a p value below the level."""
    return int(np.ceil(np.log2(1 / level)))


def estimate_sensitivity(
    margins_by_fill: Sequence[Margins], size: float, floors: Sequence[float], level: float, *key: int, sets: int
) -> float:
    """Return the share of sets of pairs in which the test detects a region that costs every pair `size` of its margin.

    The `sets` are resampled from pairs on which a region was measured, with all fills. The effect of that region is
    replaced by `size`, so that only the variation between pairs remains. `level` applies to p, since there are no other
    tests to adjust for. `key` seeds the resampling. It has whole numbers only: measured numbers differ in their last
    digits between batch sizes, and would resample different sets.
    """
    n = len(margins_by_fill[0].clean)
    chosen = generator("sensitivity", *key).integers(n, size=(sets, n))
    passed = np.ones(sets, dtype=np.bool_)
    for margins, floor in zip(margins_by_fill, floors, strict=True):
        differences = margins.differences()
        shifted = differences - differences.mean() + size
        for index in np.flatnonzero(passed):
            values = shifted[chosen[index]]
            low, _ = bootstrap_interval(values, "set", index, resamples=500)
            passed[index] = values.mean() > floor and low > 0 and signed_rank_p(values) < level
    return float(passed.mean())
