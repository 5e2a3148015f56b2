"""Error rates of the audit's tests in simulations, and that the bounds notice when a correction is missing.

`python -m benchmarks.null` has the long version.
"""

import json

import numpy as np
import pytest
from scipy.stats import false_discovery_control

import tasks.confirm
from benchmarks import null
from tasks.interventions.statistics import contrast_p

SIMULATIONS = {"nested slices": 1000}
LIMIT = 0.04
"""Highest rate that is accepted of some hundred simulations; the bound is .01, or .04 for intervals."""


def measure(name):
    return null.measure(name, SIMULATIONS.get(name, 150))


@pytest.mark.parametrize("name", null.RATES)
def test_the_rate_is_within_its_bound(name):
    measured = measure(name)
    assert measured["rate"] <= (LIMIT if measured["bound"] == null.LEVEL else 2 * LIMIT)


def ignore_units(monkeypatch):
    draw = null.draw_dependent
    monkeypatch.setattr(null, "draw_dependent", lambda *key: null.sample_independent(draw(*key).losses))


def ignore_families(monkeypatch):
    monkeypatch.setattr(null, "adjust_p_values", lambda p, *_: false_discovery_control(p).tolist())


def ignore_other_pairs(monkeypatch):
    monkeypatch.setattr(tasks.confirm, "_compare_outside", lambda *_: {"outside_units": 64, "outside_p": 0.0})


def average_pairs(monkeypatch):
    monkeypatch.setattr(null.Sample, "first_pairs", null.Sample.first_units)


def measure_inside_with_the_foils_of_the_slice(monkeypatch):
    sample = null._Interventions.sample_claim
    monkeypatch.setattr(
        null._Interventions, "sample_claim", lambda self, _, pair_ids: sample(self, ("region", "word", "w"), pair_ids)
    )


def choose_donors_at_random(monkeypatch):
    monkeypatch.setattr(
        null, "share_out", lambda _, candidates, count, __: {one: own[:count] for one, own in candidates.items()}
    )


def average_four_hosts(monkeypatch):
    monkeypatch.setattr(
        null,
        "share_out",
        lambda _, candidates, count, __: {one: own[: max(count, null.CONTROLS)] for one, own in candidates.items()},
    )


def count_pairs_of_transplants(monkeypatch):
    monkeypatch.setattr(tasks.confirm, "average_units", lambda values, _: values)


def propose_and_test_on_the_same_units(monkeypatch):
    draw = null.draw

    def draw_twice(rng, *shape, skewed=False):
        losses = draw(rng, *shape, skewed=skewed)
        return np.repeat(losses[:, :1], 2, axis=1) if shape[:2] == (20, 2) else losses

    monkeypatch.setattr(null, "draw", draw_twice)


@pytest.mark.parametrize(
    ("name", "remove"),
    [
        ("dependent pairs", ignore_units),
        ("dependent pairs, interval", ignore_units),
        ("selected corner", ignore_other_pairs),
        ("selected slice", propose_and_test_on_the_same_units),
        ("places", ignore_other_pairs),
        ("repeated pairs", average_pairs),
        ("other foils", measure_inside_with_the_foils_of_the_slice),
        ("dependent pairs, transplant", count_pairs_of_transplants),
        ("exchange", choose_donors_at_random),
        ("exchange", average_four_hosts),
        ("nested slices", ignore_families),
    ],
)
def test_the_bound_notices_a_missing_correction(name, remove, monkeypatch):
    remove(monkeypatch)
    measured = measure(name)
    assert measured["rate"] > (LIMIT if measured["bound"] == null.LEVEL else 2 * LIMIT)


def test_every_test_uses_all_units_unless_it_ends_early():
    rng = np.random.default_rng(0)
    assert [null.count_units(rng, effect) for effect in (0.0, 3.0)] == [16, 32]


def test_a_test_passes_early_only_at_the_level_that_the_run_can_demand():
    losses = null.draw(np.random.default_rng(2), 64, 5) + 0.8 * np.eye(5)[0]
    sample = null.sample_independent(losses)
    looks = {}
    for threshold in (null.LEVEL, 1e-9):
        evidence, looks[threshold], reason = tasks.confirm._test_fill(
            null._Interventions(sample, None), sample, "mean", null._PLAN, threshold, "region"
        )
        assert reason is None
        assert evidence.p < null.LEVEL
    assert looks == {null.LEVEL: 2, 1e-9: 3}


def test_a_test_that_ends_without_a_sign_of_an_effect_has_p_1():
    losses = null.draw(np.random.default_rng(3), 64, 5) - 0.5 * np.eye(5)[0]
    row = null.judge_one(null.sample_independent(losses))[0]
    assert (row["units"], row["p"], row["q"]) == (16, 1.0, 1.0)
    assert "ended after 16 of 64 units" in row["reason"]


def test_a_comparison_at_an_early_look_costs_its_share_of_the_level():
    """Large effects end a test early: without this, a corner that each pair's map selects is confirmed in .015."""
    rng = np.random.default_rng(1)
    inside, outside = (null.sample_independent(null.draw(rng, 64, 5) + effect * np.eye(5)[0]) for effect in (2, 1.7))
    row = null.judge_one(inside, outside)[0]
    differences = [
        null._Interventions(one, None).margins(one, "mean").differences() for one in (inside.first_units(32), outside)
    ]
    assert row["units"] == 32
    assert row["outside_p"] == pytest.approx(min(1, 2 * contrast_p(*differences)))
    assert 0 < row["outside_p"] < 1


def test_the_last_line_has_every_rate_and_what_exceeds_its_bound(capsys, monkeypatch):
    monkeypatch.setattr(null, "RATES", {"looks": null.RATES["looks"], "always": (lambda _: True, 0.01)})
    with pytest.raises(SystemExit, match="1"):
        null.main(["--simulations", "8"])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["exceeded"] == ["always"]
    assert record["always"]["rate"] == 1
    assert record["looks"]["simulations"] == 8
    assert set(record) == {"looks", "always", "exceeded", *null.OTHERS}
