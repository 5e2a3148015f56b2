"""Simulate what an audit confirms where there is nothing to confirm: `python -m benchmarks.null`.

Tests, contrasts, corrections and verdicts are the project's own. Only the losses that a model would show are replaced
by random numbers. The last line is JSON with each rate, its number of simulations, its Wilson interval, and the bound
that is claimed. Where pairs outside of the slice play no part, the rate is that of the p value alone, without the
floor, which lowers it further.

- `dependent pairs`: 64 pairs of 8 images, half of whose variance is the image's.
- `dependent pairs, interval`: how often the 95 % interval of the effect lies above zero there. Nominally .025; an
  interval of 8 units is a little too short.
- `looks`: 64 independent pairs, tested in looks at more and more of them.
- `selected corner`: the region is each pair's corner with the most mass; mass and loss are correlated.
- `selected slice`: of 20 slices the one with the largest loss in one half of its units is tested in the other half.
- `places`: each place costs something else, the same in all pairs, in the slice and outside of it.
- `repeated pairs`: a place matters in 21 units of three pairs in the slice as in 64 of one pair outside of it, with
  skewed losses; p of the comparison of both.
- `other foils`: a place matters in the slice as outside of it, but the foils of the slice are more sensitive to it.
- `dependent pairs, transplant`: how often the interval of a transplant without effect lies above zero.
- `exchange`: a region, or a property of the whole image, is taken over from donors, and only the donor matters.
- `pasted`: a region of 64 pairs is pasted into hosts, in which its place matters more than other places; what is pasted
  there does not.
- `nested slices`: one of 20 regions has an effect, in each of 20 nested slices; share of confirmed regions without one.

`skewed` losses have a skewness of 2.8. Two more figures say what is found: `power at E`, the share of confirmed claims
whose region costs E standard deviations more than its controls, and `units at E`, how many of 64 units a test used.
`pasted, shared controls` is what `pasted` would be if all donors were compared with the same four pairs.
`python -m benchmarks.nights` simulates nights without any change.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from benchmarks.commands import create_parser
from tasks.confirm import _judge, _test_finding
from tasks.interventions.donors import share_out
from tasks.interventions.samples import InterventionPlan
from tasks.interventions.statistics import Margins, adjust_p_values, first_pairs, generator
from tasks.records import Claim, claim_of
from tasks.settings import ConfirmConfig, CorpusConfig, Inputs, ModelConfig

CONTROLS: Final = 4
SIMULATIONS: Final = 4000
_CONFIRM: Final = ConfirmConfig()
LEVEL: Final = _CONFIRM.level
INTERVAL: Final = 0.04
_PLAN: Final = InterventionPlan(
    Inputs(corpus=CorpusConfig(path="."), model=ModelConfig(architecture="m")), _CONFIRM, 20, 0
)

Losses = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Losses of pairs when the region and each of its controls is covered; every fill measures the same."""

    losses: Losses
    """The region's, then those of the controls, (pairs, 1 + controls); in standard deviations."""
    units: NDArray[np.intp]

    def first_units(self, count: int) -> "Sample":
        """Return the pairs of the first units."""
        return Sample(self.losses[self.units < count], self.units[self.units < count])

    def first_pairs(self, count: int) -> "Sample":
        """Return the first pair of each of the first units."""
        chosen = first_pairs(self.units, count)
        return Sample(self.losses[chosen], self.units[chosen])


@dataclass(frozen=True)
class _Interventions:
    """What `tasks.confirm` needs: samples of the slice and of the pairs outside of it."""

    inside: Sample
    outside: Sample | None
    fills: tuple[str, ...] = ("mean", "blur", "swap")
    foil_effect: float = 0.0
    """Loss that the foils of a slice add, which pairs outside of it do not have."""
    rises: Losses | None = None
    """What the transplant measures in each pair."""
    exchanged: Sample | None = None
    """What is measured with the fill `exchange`."""

    def sample_claim(self, claim: Claim, pair_ids: Sequence[str]) -> Sample | None:
        if pair_ids == ["outside"]:
            return self.outside
        added = self.foil_effect * (claim[1] != "any") * np.eye(1, self.inside.losses.shape[1])
        return Sample(self.inside.losses + added, self.inside.units)

    def margins(self, sample: Sample, fill: str) -> Margins:
        if fill == "exchange" and self.exchanged:
            sample = self.exchanged.first_units(int(sample.units.max()) + 1)
        clean = np.ones(len(sample.losses))
        lost = clean[:, None] - sample.losses
        return Margins(clean, lost[:, 0], lost[:, 1:], sample.units)

    def transplant(self, _sample: Sample) -> Losses | None:
        return self.rises

    def minimal_differences(self, _sample: Sample, _fill: str) -> None:
        return None

    num_images: int = 0


def judge(
    claims: Mapping[Claim, tuple[Sample, Sample | None]], foil_effect: float = 0.0
) -> dict[Claim, list[dict[str, Any]]]:
    """Test claims as an audit does; return the rows of each, with the verdict in `confirmed`."""
    rows: list[dict[str, Any]] = []
    for claim, (inside, outside) in claims.items():
        about = dict(zip(("region", "slice_kind", "slice"), claim, strict=True)) | {"rule": "r", "side": "image"}
        inputs = {"pair_ids": ["inside"], "outside_ids": ["outside"] if outside else [], "split": False}
        families = len({region for region, *_ in claims})
        own = sum(region == claim[0] for region, *_ in claims)
        finding = about | inputs | {"threshold": _CONFIRM.level / families / own}
        rows += _test_finding(finding, _Interventions(inside, outside, foil_effect=foil_effect), _PLAN)
    judged: dict[Claim, list[dict[str, Any]]] = {}
    for row in _judge(rows, [], _CONFIRM.level):
        judged.setdefault(claim_of(row), []).append(row)
    return judged


def judge_one(
    inside: Sample, outside: Sample | None = None, region: str = "region", foil_effect: float = 0.0
) -> list[dict[str, Any]]:
    """Test a single claim; return its rows."""
    (rows,) = judge({(region, "word", "w"): (inside, outside)}, foil_effect).values()
    return rows


def is_significant(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the p value of the first fill is below the level: a verdict without the floor, which lowers the rate."""
    return bool(rows[0]["p"] < LEVEL)


def draw(rng: np.random.Generator, *shape: int, skewed: bool = False) -> Losses:
    """Draw losses with mean 0 and standard deviation 1."""
    return rng.gamma(0.5, np.sqrt(2), shape) - np.sqrt(0.5) if skewed else rng.normal(size=shape)


def sample_independent(losses: Losses) -> Sample:
    """Return a sample in which each pair is a unit."""
    return Sample(losses, np.arange(len(losses)))


def draw_dependent(rng: np.random.Generator, skewed: bool = False) -> Sample:
    """Draw 64 pairs of 8 images."""
    units = np.repeat(np.arange(8), 8)
    own = draw(rng, 8, 1 + CONTROLS, skewed=skewed)[units]
    return Sample(np.sqrt(0.5) * (own + draw(rng, 64, 1 + CONTROLS, skewed=skewed)), units)


def simulate_dependence(rng: np.random.Generator, skewed: bool = False) -> bool:
    """Whether a region without effect is significant in dependent pairs."""
    return is_significant(judge_one(draw_dependent(rng, skewed)))


def simulate_interval(rng: np.random.Generator, skewed: bool = False) -> bool:
    """Whether its interval lies above zero."""
    return bool(judge_one(draw_dependent(rng, skewed))[0]["low"] > 0)


def simulate_looks(rng: np.random.Generator, skewed: bool = False) -> bool:
    """Whether a region without effect is significant at any look."""
    return is_significant(judge_one(sample_independent(draw(rng, 64, 1 + CONTROLS, skewed=skewed))))


def simulate_selected_corner(rng: np.random.Generator, correlation: float = 0.5) -> bool:
    """Whether the corner with each pair's most mass is confirmed; other pairs have such corners, too."""

    def draw_corners() -> Sample:
        mass = draw(rng, 64, 4)
        losses = correlation * mass + np.sqrt(1 - correlation**2) * draw(rng, 64, 4)
        return sample_independent(np.take_along_axis(losses, np.argsort(-mass, axis=1), axis=1))

    return bool(judge_one(draw_corners(), draw_corners(), "hottest corner")[0]["confirmed"])


def simulate_selected_slice(rng: np.random.Generator) -> bool:
    """Whether the slice that was proposed by one half of its units is significant in the other."""
    losses = draw(rng, 20, 2, 32, 1 + CONTROLS)
    effects = losses[:, 0, :, 0] - losses[:, 0, :, 1:].mean(axis=-1)
    return is_significant(judge_one(sample_independent(losses[effects.mean(axis=-1).argmax(), 1])))


def simulate_places(rng: np.random.Generator) -> bool:
    """Whether a place is confirmed that costs as much in the slice as outside of it."""
    places = 0.5 * draw(rng, 1 + CONTROLS)
    inside, outside = (sample_independent(places + draw(rng, 64, 1 + CONTROLS)) for _ in range(2))
    return bool(judge_one(inside, outside)[0]["confirmed"])


def simulate_repeated_pairs(rng: np.random.Generator) -> bool:
    """Whether a place that matters everywhere differs in units of three pairs from others of one pair."""
    place = np.eye(1, 1 + CONTROLS)
    spread = 0.1 + 0.9 * place
    inside = Sample(3 * place + spread * draw(rng, 63, 1 + CONTROLS, skewed=True), np.repeat(np.arange(21), 3))
    outside = sample_independent(3 * place + spread * draw(rng, 64, 1 + CONTROLS, skewed=True))
    return bool(judge_one(inside, outside)[0].get("outside_p", 1.0) < LEVEL)


def simulate_foils(rng: np.random.Generator) -> bool:
    """Whether a place that matters everywhere is confirmed because the slice's foils are more sensitive to it."""
    inside, outside = (sample_independent(np.eye(1, 1 + CONTROLS) + draw(rng, 64, 1 + CONTROLS)) for _ in range(2))
    return bool(judge_one(inside, outside, foil_effect=1.0)[0]["confirmed"])


def simulate_transplant(rng: np.random.Generator) -> bool:
    """Whether the interval of a transplant without effect lies above zero, in 64 pairs of 8 images."""
    dependent = draw_dependent(rng)
    inside = Sample(dependent.losses + 9 * np.eye(1, 1 + CONTROLS), dependent.units)
    interventions = _Interventions(inside, None, rises=dependent.losses[:, 1])
    finding = {"region": "region", "slice_kind": "word", "slice": "w", "rule": "r", "side": "image"}
    rows = [*_test_finding(finding | {"pair_ids": [], "outside_ids": [], "threshold": LEVEL}, interventions, _PLAN)]
    return bool(rows[0]["transplant_low"] > 0)


@dataclass(frozen=True)
class _Units:
    """What `share_out` needs: pairs, each of which is a unit."""

    def load(self, _pair_ids: Iterable[str]) -> None:
        pass

    def unit_of(self, pair_id: str) -> str:
        return pair_id


def simulate_exchange(rng: np.random.Generator) -> bool:
    """Whether the region of hosts is significant if each loss is that of the donor's region, and nothing else.

    48 units have 20 possible hosts, so that 20 can be tested, and 96 partners, of which half are units of the test.
    """
    partners, hosts = [f"in {number}" for number in range(96)], [f"out {number}" for number in range(20)]
    loss = dict(zip([*partners, *hosts], draw(rng, 116, skewed=True).tolist(), strict=True))
    taken: set[str] = set()
    first, controls = (
        share_out(cast("Any", _Units()), {one: rng.permutation(pool).tolist() for one in partners[:48]}, count, taken)
        for pool, count in ((hosts, 1), (partners, CONTROLS))
    )
    tested = [one for one in first if one in controls]
    losses = np.full((len(tested), 1 + CONTROLS), np.nan)
    for place, one in enumerate(tested):
        losses[place, 0] = np.mean([loss[donor] for donor in first[one]])
        losses[place, 1 : 1 + len(controls[one])] = [loss[donor] for donor in controls[one]]
    return is_significant(judge_one(sample_independent(losses)))


def simulate_pasting(rng: np.random.Generator, shared: bool = False) -> bool:
    """Whether a region without effect is significant if it is pasted where pasting as such matters.

    With `shared`, the second kind of controls comes from the same four pairs for all donors.
    """
    places, donors = np.array([1.0, *[0.0] * CONTROLS]), draw(rng, 64)
    others = draw(rng, 1 if shared else 64, CONTROLS)
    transplanted = sample_independent(places + draw(rng, 64, 1 + CONTROLS))
    pasted = np.column_stack([donors, np.broadcast_to(others, (64, CONTROLS))]) + 0.3 * draw(rng, 64, 1 + CONTROLS)
    interventions = _Interventions(transplanted, None, ("transplant", "exchange"), exchanged=sample_independent(pasted))
    inputs = {"pair_ids": ["inside"], "outside_ids": [], "split": True, "threshold": LEVEL, "side": "image"}
    claim = {"rule": "r", "region": "region", "slice_kind": "word", "slice": "w", "reliance": "sufficient"}
    return max(row.get("p", 1.0) for row in _test_finding(claim | inputs, interventions, _PLAN)) < LEVEL


def simulate_nested_slices(rng: np.random.Generator, regions: int = 20, slices: int = 20) -> float:
    """Return the share of confirmed regions without an effect, by p values of the means of 64 of a slice's losses."""
    losses = draw(rng, regions, 512)
    losses[0] += 1.2
    p, families = [], []
    for size in np.geomspace(512, 64, slices).astype(int):
        means = losses[:, rng.permutation(size)[:64]].mean(axis=1)
        p += norm.sf(8 * means).tolist()
        families += list(range(regions))
    q = adjust_p_values(p, families, LEVEL)
    confirmed = {family for family, value in zip(families, q, strict=True) if value < LEVEL}
    return len(confirmed - {0}) / max(1, len(confirmed))


def simulate_power(rng: np.random.Generator, effect: float) -> bool:
    """Whether a region with an effect is confirmed."""
    losses = draw(rng, 64, 1 + CONTROLS)
    losses[:, 0] += effect
    return bool(judge_one(sample_independent(losses), sample_independent(draw(rng, 64, 1 + CONTROLS)))[0]["confirmed"])


def count_units(rng: np.random.Generator, effect: float) -> float:
    """Return the number of units after which its test ended."""
    losses = draw(rng, 64, 1 + CONTROLS)
    losses[:, 0] += effect
    return float(judge_one(sample_independent(losses))[0]["units"])


RATES: Final[dict[str, tuple[Callable[[np.random.Generator], float], float]]] = {
    "dependent pairs": (simulate_dependence, LEVEL),
    "dependent pairs, skewed": (partial(simulate_dependence, skewed=True), LEVEL),
    "dependent pairs, interval": (simulate_interval, INTERVAL),
    "dependent pairs, interval, skewed": (partial(simulate_interval, skewed=True), INTERVAL),
    "looks": (simulate_looks, LEVEL),
    "looks, skewed": (partial(simulate_looks, skewed=True), LEVEL),
    "selected corner": (simulate_selected_corner, LEVEL),
    "selected slice": (simulate_selected_slice, LEVEL),
    "places": (simulate_places, LEVEL),
    "repeated pairs": (simulate_repeated_pairs, LEVEL),
    "other foils": (simulate_foils, LEVEL),
    "dependent pairs, transplant": (simulate_transplant, INTERVAL),
    "exchange": (simulate_exchange, LEVEL),
    "pasted": (simulate_pasting, LEVEL),
    "nested slices": (simulate_nested_slices, LEVEL),
}
"""Simulations by name, with the bound of their rate."""
OTHERS: Final[dict[str, Callable[[np.random.Generator], float]]] = {
    **{f"power at {effect:g}": partial(simulate_power, effect=effect) for effect in (0.5, 0.8, 1.2)},
    "pasted, shared controls": partial(simulate_pasting, shared=True),
    **{f"units at {effect:g}": partial(count_units, effect=effect) for effect in (0.0, 0.5, 0.8, 1.2)},
}


def measure(name: str, simulations: int) -> dict[str, Any]:
    """Run a simulation of `RATES` a number of times; return its rate, interval and bound."""
    simulate, bound = RATES[name]
    rng = generator("null", name)
    values = np.array([simulate(rng) for _ in range(simulations)], float)
    interval = binomtest(round(values.sum()), simulations).proportion_ci(method="wilson")
    rate = {"rate": float(values.mean()), "interval": [float(interval.low), float(interval.high)]}
    return rate | {"bound": bound, "simulations": simulations}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all simulations, print a line for each and a last line of JSON; exit with 1 if a rate exceeds its bound."""
    parser = create_parser("null", __doc__)
    parser.add_argument("--simulations", type=int, default=SIMULATIONS, help="of each rate (default: %(default)s)")
    options = parser.parse_args(arguments)
    record: dict[str, Any] = {}
    for name in RATES:
        record[name] = measure(name, options.simulations)
        low, high = record[name]["interval"]
        print(
            f"{name:<36} {record[name]['rate']:.4f}  ({low:.4f} to {high:.4f}), bound {record[name]['bound']}",
            flush=True,
        )
    for name, simulate in OTHERS.items():
        rng = generator("null", name)
        number = max(1, options.simulations // 4)
        record[name] = {"mean": float(np.mean([simulate(rng) for _ in range(number)])), "simulations": number}
        print(f"{name:<36} {record[name]['mean']:.4g}", flush=True)
    record["exceeded"] = [name for name in RATES if record[name]["interval"][0] > record[name]["bound"]]
    print(json.dumps(record))
    sys.exit(1 if record["exceeded"] else 0)


if __name__ == "__main__":
    main()
