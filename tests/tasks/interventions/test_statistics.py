"""The figures behind a verdict, against numbers worked out by hand."""

import numpy as np
import pytest

from tasks.interventions.statistics import (
    Margins,
    adjust_p_values,
    bootstrap_interval,
    effect_floor,
    estimate_sensitivity,
    evaluate,
    explain_failure,
    signed_rank_p,
    smallest_sample,
)


def margins(region, controls, clean=1.0):
    region, controls = np.asarray(region, dtype=float), np.asarray(controls, dtype=float)
    return Margins(np.full(len(region), clean), clean - region, clean - controls)


def test_adjust_p_values_as_worked_out_by_hand():
    # Five tests, sorted: .01 * 5/1, .02 * 5/2, .03 * 5/3, .04 * 5/4, .50 * 5/5, and the running minimum from above.
    assert adjust_p_values([0.04, 0.01, 0.5, 0.02, 0.03]) == pytest.approx([0.05, 0.05, 0.5, 0.05, 0.05])
    assert adjust_p_values([0.001, 0.8, 0.9]) == pytest.approx([0.003, 0.9, 0.9])
    assert adjust_p_values([0.03]) == pytest.approx([0.03])
    assert adjust_p_values([]) == []


def test_the_difference_is_the_region_s_drop_less_the_mean_of_the_controls_that_are_there():
    found = margins([0.5, 0.25], [[0.1, 0.3], [0.05, np.nan]])
    assert found.differences() == pytest.approx([0.3, 0.2])
    evidence = evaluate(found, 0.1, "key")
    assert (evidence.n, evidence.effect, evidence.drop) == (2, pytest.approx(0.25), pytest.approx(0.375))
    assert evidence.control_drop == pytest.approx(0.125)
    assert evidence.margin == 1


def test_signed_rank_p_as_worked_out_by_hand():
    assert signed_rank_p(np.array([1.0, 2, 3, 4, 5])) == pytest.approx(1 / 2**5)
    # Only the rank sums 15 and 14 (all but the smallest) are as large: two of 32 signs.
    assert signed_rank_p(np.array([-1.0, 2, 3, 4, 5])) == pytest.approx(2 / 2**5)
    assert signed_rank_p(np.zeros(5)) == 1
    assert smallest_sample(0.01) == 7
    assert signed_rank_p(np.arange(1.0, 8)) < 0.01 <= signed_rank_p(np.arange(1.0, 7))


def test_an_interval_holds_the_mean_and_depends_on_its_key_alone():
    values = np.random.default_rng(0).normal(0.3, 0.1, 64)
    low, high = bootstrap_interval(values, "a")
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 8, rel=0.15)
    assert bootstrap_interval(values, "a") == (low, high) != bootstrap_interval(values, "b")


def test_the_floor_is_a_part_of_the_margin_or_what_place_alone_does():
    still = margins(np.zeros(32), np.zeros((32, 3)), clean=-0.4)
    assert effect_floor(still, 0.1) == pytest.approx(0.04)  # of the margin's size
    moved = np.zeros((32, 3))
    moved[:, 1] = 0.3  # one place always costs .3 more than the mean of the other two
    assert effect_floor(margins(np.zeros(32), moved, clean=0.4), 0.1) == pytest.approx(0.3)


def test_what_falls_short_says_what_it_got_and_what_was_expected():
    rng = np.random.default_rng(0)
    strong = evaluate(margins(rng.normal(0.5, 0.1, 32), rng.normal(0, 0.01, (32, 3))), 0.1, "k")
    assert explain_failure(strong, 1e-6, 0.01) is None
    assert explain_failure(strong, 0.2, 0.01) == "got q = 0.2, expected less than 0.01"
    weak = evaluate(margins(rng.normal(0.05, 0.01, 32), rng.normal(0, 0.01, (32, 3))), 0.1, "k")
    assert weak.p < 0.01  # p alone would have confirmed it
    assert "expected more than the floor of 0.1000" in explain_failure(weak, weak.p, 0.01)
    wild = evaluate(margins([0.0] * 31 + [20.0], np.zeros((32, 3))), 0.1, "k")  # one pair makes all of it
    assert "expected one above zero" in explain_failure(wild, 0.0, 0.01)


def test_a_larger_effect_is_found_more_often():
    rng = np.random.default_rng(0)
    found = [margins(rng.normal(0, 0.2, 32), rng.normal(0, 0.01, (32, 3))) for _ in range(2)]
    shares = [estimate_sensitivity(found, size, [0.05, 0.05], 0.001, 0, sets=50) for size in (0.0, 0.15, 0.5)]
    assert shares[0] == 0
    assert shares[0] < shares[1] < shares[2] == 1


def test_sensitivity_does_not_depend_on_the_last_digits_of_the_margins():
    rng = np.random.default_rng(0)
    measured = margins(rng.normal(0, 0.2, 32), rng.normal(0, 0.01, (32, 3)))
    other_batches = Margins(measured.clean + 1e-9, measured.region, measured.controls - 1e-9)
    for size in (0.08, 0.1, 0.11):
        shares = [
            estimate_sensitivity([found], size + noise, [0.05 + noise], 0.001, 0, sets=50)
            for found, noise in ((measured, 0), (other_batches, 1e-9))
        ]
        assert shares[0] == shares[1]
        assert 0 < shares[0] < 1
