"""The statistics of a verdict, compared with numbers computed by hand."""

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


def make_margins(region, controls, clean=1.0):
    region, controls = np.asarray(region, dtype=float), np.asarray(controls, dtype=float)
    return Margins(np.full(len(region), clean), clean - region, clean - controls)


def test_adjusted_p_values_equal_those_computed_by_hand():
    # Five tests, sorted: .01 * 5/1, .02 * 5/2, .03 * 5/3, .04 * 5/4, .50 * 5/5, and the running minimum from above.
    assert adjust_p_values([0.04, 0.01, 0.5, 0.02, 0.03]) == pytest.approx([0.05, 0.05, 0.5, 0.05, 0.05])
    assert adjust_p_values([0.001, 0.8, 0.9]) == pytest.approx([0.003, 0.9, 0.9])
    assert adjust_p_values([0.03]) == pytest.approx([0.03])
    assert adjust_p_values([]) == []


def test_difference_is_the_drop_of_the_region_minus_the_mean_of_its_controls():
    margins = make_margins([0.5, 0.25], [[0.1, 0.3], [0.05, np.nan]])
    assert margins.differences() == pytest.approx([0.3, 0.2])
    evidence = evaluate(margins, 0.1, "key")
    assert (evidence.n, evidence.effect, evidence.drop) == (2, pytest.approx(0.25), pytest.approx(0.375))
    assert evidence.control_drop == pytest.approx(0.125)
    assert evidence.margin == 1


def test_signed_rank_p_equals_that_computed_by_hand():
    assert signed_rank_p(np.array([1.0, 2, 3, 4, 5])) == pytest.approx(1 / 2**5)
    # Only the rank sums 15 and 14 (all but the smallest) are as large: two of 32 signs.
    assert signed_rank_p(np.array([-1.0, 2, 3, 4, 5])) == pytest.approx(2 / 2**5)
    assert signed_rank_p(np.zeros(5)) == 1
    assert smallest_sample(0.01) == 7
    assert signed_rank_p(np.arange(1.0, 8)) < 0.01 <= signed_rank_p(np.arange(1.0, 7))


def test_interval_contains_the_mean_and_depends_only_on_its_key():
    values = np.random.default_rng(0).normal(0.3, 0.1, 64)
    low, high = bootstrap_interval(values, "a")
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 8, rel=0.15)
    assert bootstrap_interval(values, "a") == (low, high) != bootstrap_interval(values, "b")


def test_floor_is_a_part_of_the_margin_or_the_effect_of_the_place():
    without_drops = make_margins(np.zeros(32), np.zeros((32, 3)), clean=-0.4)
    assert effect_floor(without_drops, 0.1) == pytest.approx(0.04)  # a tenth of the size of the margin
    drops = np.zeros((32, 3))
    drops[:, 1] = 0.3  # one place always costs .3 more than the mean of the other two
    assert effect_floor(make_margins(np.zeros(32), drops, clean=0.4), 0.1) == pytest.approx(0.3)


def test_failure_has_actual_and_expected_values():
    rng = np.random.default_rng(0)
    strong = evaluate(make_margins(rng.normal(0.5, 0.1, 32), rng.normal(0, 0.01, (32, 3))), 0.1, "k")
    assert explain_failure(strong, 1e-6, 0.01) is None
    assert explain_failure(strong, 0.2, 0.01) == "got q = 0.2, expected less than 0.01"
    weak = evaluate(make_margins(rng.normal(0.05, 0.01, 32), rng.normal(0, 0.01, (32, 3))), 0.1, "k")
    assert weak.p < 0.01  # p alone would have confirmed it
    assert "expected more than the floor of 0.1000" in explain_failure(weak, weak.p, 0.01)
    outlier = evaluate(make_margins([0.0] * 31 + [20.0], np.zeros((32, 3))), 0.1, "k")  # one pair has the whole effect
    assert "expected one above zero" in explain_failure(outlier, 0.0, 0.01)


def test_larger_effect_is_confirmed_more_often():
    rng = np.random.default_rng(0)
    samples = [make_margins(rng.normal(0, 0.2, 32), rng.normal(0, 0.01, (32, 3))) for _ in range(2)]
    shares = [estimate_sensitivity(samples, size, [0.05, 0.05], 0.001, 0, sets=50) for size in (0.0, 0.15, 0.5)]
    assert shares[0] == 0
    assert shares[0] < shares[1] < shares[2] == 1


def test_sensitivity_does_not_depend_on_the_last_digits_of_the_margins():
    rng = np.random.default_rng(0)
    measured = make_margins(rng.normal(0, 0.2, 32), rng.normal(0, 0.01, (32, 3)))
    other_batches = Margins(measured.clean + 1e-9, measured.region, measured.controls - 1e-9)
    for size in (0.08, 0.1, 0.11):
        shares = [
            estimate_sensitivity([margins], size + noise, [0.05 + noise], 0.001, 0, sets=50)
            for margins, noise in ((measured, 0), (other_batches, 1e-9))
        ]
        assert shares[0] == shares[1]
        assert 0 < shares[0] < 1
