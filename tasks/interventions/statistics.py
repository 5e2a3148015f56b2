"""Statistics of an intervention: effect, interval, test, floor, and whether they are significant.

The sampling unit is a set of pairs that depend on each other: see the view `pair_units`. All values of a unit's pairs
are averaged first. This module reads neither model nor lake. All random numbers depend on a key alone.
"""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEAST_UNITS = 5
"""Smallest number of units of a test. With four controls, p can then be as small as 1 / 5**5 = .0003."""
LEAST_OUTSIDE = 16
"""Smallest number of units outside of a slice whose comparison with the slice decides about a finding.

Comparisons with `LEAST_UNITS` or more are made, too: they decide which of several slices leads.
"""
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Margins:
    """Margins of each pair of a sample: unchanged, with the region covered, and with controls covered."""

    clean: Numbers  # of the unchanged pairs, (pairs,)
    region: Numbers  # with the region covered, (pairs,)
    controls: Numbers  # with each control covered, (pairs, controls); NaN where a pair has fewer controls
    units: NDArray[np.intp]  # number of the unit of each pair, (pairs,)

    def drops(self) -> tuple[Numbers, Numbers]:
        """Return the mean loss of margin of each unit: when the region is covered, and when each control is covered.

        A unit has as many controls as the pair of it that has the fewest; the others are NaN.
        """
        lost = self.clean[:, None] - np.column_stack([self.region, self.controls])
        numbers, members = np.unique(self.units, return_inverse=True)
        sums = np.zeros((len(numbers), lost.shape[1]))
        np.add.at(sums, members, lost)  # NaN if a pair of the unit lacks the control
        means = sums / np.bincount(members)[:, None]
        return means[:, 0], means[:, 1:]

    def reverse(self) -> "Margins":
        """Return margins whose losses are the gains of these, to test whether a region lowers the score."""
        region, controls = 2 * self.clean - self.region, 2 * self.clean[:, None] - self.controls
        return Margins(self.clean, region, controls, self.units)

    def differences(self) -> Numbers:
        """Return for each unit the loss caused by the region minus the mean loss caused by its controls."""
        region, controls = self.drops()
        difference: Numbers = region - np.nanmean(controls, axis=1)
        return difference


@dataclass(frozen=True)
class Evidence:
    """Statistics of a sample with one fill."""

    n: int  # number of pairs
    units: int  # number of units
    effect: float  # mean of `Margins.differences`
    se: float  # standard error of the effect
    low: float  # lower end of the effect's 95 % interval
    high: float  # upper end of this interval
    drop: float  # mean loss of margin when the region is covered
    control_drop: float  # mean loss of margin when a control is covered
    margin: float  # mean absolute margin of the unchanged pairs
    losing: float  # share of pairs with a negative margin: a foil wins
    p: float  # of `place_p`
    floor: float  # smallest relevant effect; see `effect_floor`


@dataclass(frozen=True)
class Look:
    """A look at the first units of a test, after which it may end; see `plan_looks`."""

    units: int
    weight: float  # share of the significance level that is spent at this look; 0: the test cannot succeed here
    futile: float  # the test ends without success if p is larger


def plan_looks(units: int) -> list[Look]:
    """Return the looks of a test that has a number of units.

    A test of 48 units or more succeeds or fails at 32 units if the case is clear. Before, at 16 units, tests without a
    sign of an effect end. The level is divided equally among the looks at which a test can succeed: an alpha-spending
    function (Lan and DeMets, Biometrika 70, 1983) that ignores that looks depend on each other, so it holds for any
    number of units and any rule of stopping.
    """
    last = Look(units, 1.0, 1.0)
    if units < 24:
        return [last]
    first = Look(16, 0.0, 0.4)
    return [first, last] if units < 48 else [first, Look(32, 0.5, 0.2), Look(units, 0.5, 1.0)]


def first_pairs(units: NDArray[np.intp], count: int) -> list[int]:
    """Return the places of the first pair of each of the first `count` units, given the number of each pair's unit."""
    _, places = np.unique(units, return_index=True)
    return [int(place) for place in places[:count]]


def average_units(values: Numbers, units: NDArray[np.intp]) -> Numbers:
    """Return the mean of the values of each unit's pairs; NaN where a pair has none. Units without values are left out.

    Args:
        values: Of each pair, (pairs,).
        units: Number of the unit of each pair, (pairs,).
    """
    has = ~np.isnan(values)
    sums, counts = np.bincount(units[has], values[has]), np.bincount(units[has])
    means: Numbers = sums[counts > 0] / counts[counts > 0]
    return means


def describe_mean(values: Numbers) -> tuple[float, float | None, float | None]:
    """Return the mean of the values of units, and its 95 % interval, which fewer than `LEAST_UNITS` units have not."""
    low, high = mean_interval(values) if len(values) >= LEAST_UNITS else (None, None)
    return float(values.mean()), low, high


def generator(*key: object) -> np.random.Generator:
    """Return a random generator that is seeded by the key alone."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8]))


def evaluate(margins: Margins, floor_share: float, *key: object) -> Evidence:
    """Compute all statistics of a sample. `floor_share` is explained in `effect_floor`; `key` seeds the resampling."""
    region, controls = margins.drops()
    differences = margins.differences()
    low, high = mean_interval(differences)
    return Evidence(
        n=len(margins.clean),
        units=len(differences),
        effect=float(differences.mean()),
        se=standard_error(differences),
        low=low,
        high=high,
        drop=float(region.mean()),
        control_drop=float(np.nanmean(controls, axis=1).mean()),
        margin=float(np.abs(margins.clean).mean()),
        losing=float((margins.clean < 0).mean()),
        p=place_p(region, controls),
        floor=effect_floor(margins, floor_share, *key),
    )


def standard_error(values: Numbers) -> float:
    """Return the standard error of the mean of values; 0 for a single one."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def mean_interval(values: Numbers) -> tuple[float, float]:
    """Return the 95 % interval of the mean of values: Student's, corrected for their skewness.

    It keeps its coverage for few and for skewed values, where a percentile bootstrap is too short, and it is stable
    where many values are equal, unlike a studentized bootstrap (Hesterberg, The American Statistician 69, 2015, section
    5.2; Johnson, Journal of the American Statistical Association 73, 1978).
    """
    from scipy.stats import skew, t  # takes a second to import

    n, mean, error = len(values), float(values.mean()), standard_error(values)
    if error <= 1e-12 * abs(mean):
        return mean, mean
    quantile = t.ppf(0.975, n - 1)
    shift = skew(values) / (6 * np.sqrt(n)) * (1 + 2 * quantile**2)
    return float(mean + error * (shift - quantile)), float(mean + error * (shift + quantile))


def place_p(region: Numbers, controls: Numbers) -> float:
    """Return the exact one-sided p value of the test that covering a region costs more than covering its controls.

    Null hypothesis: in each unit, the region is like any of its controls, so that each rank of its loss among theirs is
    equally likely. The statistic is the sum over units of these ranks, less their means, and its distribution is the
    convolution of uniform ones. Nothing is assumed about the distribution of losses: a signed-rank test of differences
    needs a symmetric one, which a difference from a mean of several controls does not have if losses are skewed. Units
    must be independent. (With two blocks per unit this is the sign test; see Lehmann, Nonparametrics, 1975, section 6.)

    Args:
        region: Loss of each unit when the region is covered, (units,).
        controls: Loss when each control is covered, (units, controls); NaN where there are fewer.
    """
    counts = (~np.isnan(controls)).sum(axis=1)
    # Twice the centered rank, which is a whole number; a tie counts half.
    below, ties = (compare(controls, region[:, None]).sum(axis=1) for compare in (np.less, np.equal))
    observed = int((2 * below + ties - counts).sum())
    distribution = np.ones(1)
    for count in counts.tolist():
        step = np.zeros(2 * count + 1)
        step[::2] = 1 / (count + 1)
        distribution = np.convolve(distribution, step)
    return float(min(1.0, distribution[observed + int(counts.sum()) :].sum()))


def contrast_p(inside: Numbers, outside: Numbers) -> float:
    """Return the one-sided p value of the Mann-Whitney test that values of a slice exceed those of other units.

    Null hypothesis: both have the same distribution, whatever it is. Units must be independent. Each value is that of
    one pair: a mean of several pairs has another distribution than a single one, even if nothing distinguishes them.
    """
    from scipy.stats import mannwhitneyu  # takes a second to import

    return float(mannwhitneyu(inside, outside, alternative="greater").pvalue)


def deciding_p(row: Mapping[str, Any]) -> float | None:
    """Return the p value of the comparison in a row of `confirmations`; None if it has too few units to decide."""
    return row.get("outside_p") if (row.get("outside_units") or 0) >= LEAST_OUTSIDE else None


def effect_floor(margins: Margins, floor_share: float, *key: object) -> float:
    """Return the smallest relevant effect: the larger of two values.

    (a) The effect that chance and location can have: the 95 % quantile of the absolute mean difference between one
    control and the other controls, over resampled units. (b) `floor_share` times the mean absolute margin of the
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


def adjust_p_values(p: Sequence[float], families: Sequence[Hashable], level: float) -> list[float]:
    """Return a q value for each test of a run: the test is significant if q is below the level.

    The tests of one region are a family. Families are selected by the Benjamini-Hochberg procedure on their Simes p
    values, and the tests of a selected family by the same procedure at the level times the share of selected families
    (Benjamini and Bogomolov, Journal of the Royal Statistical Society B 76, 2014). Both rates are controlled at the
    level: the expected share of selected regions in which no test is a true one, and the expected share of false
    tests, averaged over the selected regions. Assumption: within and between families, the p values of true null
    hypotheses are independent or depend positively (PRDS).
    """
    from scipy.stats import false_discovery_control  # takes a second to import

    members: dict[Hashable, list[int]] = {}
    for place, family in enumerate(families):
        members.setdefault(family, []).append(place)
    within = {family: false_discovery_control([p[place] for place in places]) for family, places in members.items()}
    # The smallest adjusted p value of a family is its Simes p value.
    simes = false_discovery_control([values.min() for values in within.values()]) if within else np.zeros(0)
    ratio = len(members) / max(1, int((simes < level).sum()))
    q = np.ones(len(p))
    for places, values, least in zip(members.values(), within.values(), simes, strict=True):
        q[places] = np.maximum(least, np.minimum(1, values * ratio))
    return [float(value) for value in q]


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
