"""What a set of margins proves: effect, interval, test, floor, and the rule that turns them into a verdict.

Plain numbers in, plain numbers out: no model, no lake. All that is random here is drawn from a key.
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
    """Margins over the foils: of the images as they are, with the region filled, and with each control filled.

    controls: (pairs, controls), NaN where a pair has fewer controls than others.
    """

    clean: Numbers
    region: Numbers
    controls: Numbers

    def drops(self) -> tuple[Numbers, Numbers]:
        """What the fill takes from each pair: in the region, and in each control."""
        return self.clean - self.region, self.clean[:, None] - self.controls

    def differences(self) -> Numbers:
        """How much more each pair loses by the region than by its controls on average."""
        region, controls = self.drops()
        difference: Numbers = region - np.nanmean(controls, axis=1)
        return difference


@dataclass(frozen=True)
class Evidence:
    """One set, one fill. effect: mean difference of the drops, low and high its bootstrap interval (95 %).

    margin: mean of the clean margins' sizes. p: one-sided, paired, Wilcoxon's signed ranks.
    floor: what an effect must exceed, see `floor_of`.
    """

    n: int
    effect: float
    low: float
    high: float
    drop: float
    control_drop: float
    margin: float
    p: float
    floor: float


def generator(*key: object) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8]))


def weigh(margins: Margins, floor_share: float, *key: object) -> Evidence:
    """All figures of one set; key: what its resampling is drawn from."""
    region, controls = margins.drops()
    differences = margins.differences()
    low, high = interval(differences, *key)
    return Evidence(
        n=len(differences),
        effect=float(differences.mean()),
        low=low,
        high=high,
        drop=float(region.mean()),
        control_drop=float(np.nanmean(controls, axis=1).mean()),
        margin=float(np.abs(margins.clean).mean()),
        p=signed_ranks(differences),
        floor=floor_of(margins, floor_share, *key),
    )


def interval(values: Numbers, *key: object, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % interval of the mean, by resampling the values (percentile bootstrap)."""
    drawn = generator("interval", *key).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def signed_ranks(differences: Numbers) -> float:
    """One-sided p of Wilcoxon's signed ranks: that the differences are not larger than zero. 1 if all are zero."""
    from scipy.stats import wilcoxon  # takes a second to import

    if not differences.any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties and zeros make the p approximate, which is good enough
        return float(wilcoxon(differences, alternative="greater").pvalue)


def floor_of(margins: Margins, floor_share: float, *key: object) -> float:
    """The least effect that counts, from the model and the pairs at hand: the larger of two.

    (a) What chance and place alone do: each control in turn is held against the other controls over resampled sets of
    the pairs; the 95 % quantile of the size of the mean. (b) `floor_share` of the mean size of the clean margins:
    sizes, since margins around zero would otherwise leave no floor.
    """
    _, controls = margins.drops()
    count = controls.shape[1]
    null: list[Numbers] = []
    drawn = generator("floor", *key).integers(len(controls), size=(RESAMPLES // 2, len(controls)))
    for one in range(count):
        others = np.delete(controls, one, axis=1)
        both = ~np.isnan(controls[:, one]) & ~np.isnan(others).all(axis=1)
        difference = np.zeros(len(controls))
        difference[both] = controls[both, one] - np.nanmean(others[both], axis=1)
        held = both[drawn].sum(axis=1)
        null.append(np.abs(difference[drawn].sum(axis=1) / np.maximum(held, 1)))
    by_chance = float(np.quantile(np.concatenate(null), 0.95)) if null else 0.0
    return max(by_chance, floor_share * float(np.abs(margins.clean).mean()))


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """The q of each test: the smallest false discovery rate at which it would still be called.

    Source: Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995), as adjusted p values.
    """
    if not p:
        return []
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values)
    adjusted = values[order] * len(values) / np.arange(1, len(values) + 1)
    q = np.empty_like(values)
    q[order] = np.minimum(np.minimum.accumulate(adjusted[::-1])[::-1], 1.0)
    return [float(value) for value in q]


def shortfall(evidence: Evidence, q: float, level: float) -> str | None:
    """Why a set does not pass, in one sentence; None if it does: q below the level, interval and effect high enough."""
    if evidence.effect <= evidence.floor:
        return f"got an effect of {evidence.effect:.4f}, expected more than the floor of {evidence.floor:.4f}"
    if evidence.low <= 0:
        return f"got an interval from {evidence.low:.4f} to {evidence.high:.4f}, expected one above zero"
    if evidence.p >= level:
        return f"got p = {evidence.p:.3g}, expected less than {level:g}"
    if q >= level:
        return f"got q = {q:.3g}, expected less than {level:g}"
    return None


def least_pairs(level: float) -> int:
    """The smallest set in which the signed ranks can give a p below the level at all."""
    return int(np.ceil(np.log2(1 / level)))


def sensitivity(
    measured: Sequence[Margins], size: float, floors: Sequence[float], level: float, *key: object, sets: int
) -> float:
    """In which share of sets a region that moves every pair's margin by `size` would pass, by all fills at once.

    The sets are resampled from a region that was measured on this model, with its own effect taken out: what is left
    is how unevenly pairs react. level: for p, since there are no other tests to rank a q among.
    """
    n = len(measured[0].clean)
    drawn = generator("sensitivity", size, *key).integers(n, size=(sets, n))
    passed = np.ones(sets, dtype=np.bool_)
    for margins, floor in zip(measured, floors, strict=True):
        differences = margins.differences()
        moved = differences - differences.mean() + size
        for index, chosen in enumerate(drawn):
            if passed[index]:
                values = moved[chosen]
                low, _ = interval(values, "set", index, resamples=500)
                passed[index] = values.mean() > floor and low > 0 and signed_ranks(values) < level
    return float(passed.mean())
