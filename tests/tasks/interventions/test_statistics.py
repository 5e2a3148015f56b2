"""The statistics of a verdict, compared with numbers computed by hand."""

import numpy as np
import pytest

from tasks.interventions.statistics import (
    LEAST_UNITS,
    Margins,
    adjust_p_values,
    average_units,
    contrast_p,
    describe_mean,
    effect_floor,
    evaluate,
    explain_failure,
    mean_interval,
    place_p,
    plan_looks,
)


def make_margins(region, controls, clean=1.0, units=None):
    region, controls = np.asarray(region, dtype=float), np.asarray(controls, dtype=float)
    units = np.arange(len(region)) if units is None else np.asarray(units)
    return Margins(np.full(len(region), clean), clean - region, clean - controls, units)


def test_q_values_equal_those_computed_by_hand():
    # Adjusted in family a: .02, .002, .5; in b: .06, .06; in c: .9. Simes, adjusted: .006, .09, .9.
    p, families = [0.02 / 1.5, 0.002 / 3, 0.5, 0.06, 0.03, 0.9], ["a", "a", "a", "b", "b", "c"]
    # At level .05, one of three families is selected: its tests are adjusted by another factor of 3.
    assert adjust_p_values(p, families, 0.05) == pytest.approx([0.06, 0.006, 1, 0.18, 0.18, 1])
    # At level .1 two are selected.
    assert adjust_p_values(p, families, 0.1) == pytest.approx([0.03, 0.006, 0.75, 0.09, 0.09, 1])
    assert adjust_p_values([0.03], ["a"], 0.05) == pytest.approx([0.03])
    assert adjust_p_values([], [], 0.05) == []


def test_difference_is_the_drop_of_the_region_minus_the_mean_of_its_controls():
    margins = make_margins([0.5, 0.25], [[0.1, 0.3], [0.05, np.nan]])
    assert margins.differences() == pytest.approx([0.3, 0.2])
    evidence = evaluate(margins, 0.1, "key")
    assert (evidence.n, evidence.effect, evidence.drop) == (2, pytest.approx(0.25), pytest.approx(0.375))
    assert evidence.control_drop == pytest.approx(0.125)
    assert evidence.margin == 1


def test_pairs_of_one_unit_count_once():
    margins = make_margins([0.5, 0.3, 0.1], [[0.1, 0.2], [0.3, np.nan], [0.0, 0.0]], units=[0, 0, 1])
    region, controls = margins.drops()
    assert region == pytest.approx([0.4, 0.1])
    assert controls == pytest.approx(np.array([[0.2, np.nan], [0, 0]]), nan_ok=True)  # the second pair has one control
    repeated = make_margins(np.full(64, 0.3), np.zeros((64, 4)), units=np.arange(64) % 4)
    evidence = evaluate(repeated, 0.1, "key")
    assert (evidence.n, evidence.units, evidence.p) == (64, 4, pytest.approx(5**-4))
    assert evaluate(make_margins([0.1] * 4, [[0.0, 0.0]] * 4, clean=-1), 0.1, "key").losing == 1


def test_place_p_equals_that_computed_by_hand():
    # The region is first among 5 and 3 places: one of 15 outcomes; first and second: the ranks 4 + 1 or 3 + 2 and more.
    assert place_p(np.array([1.0, 1.0]), np.array([[0, 0, 0, 0.0], [0, 0, np.nan, np.nan]])) == pytest.approx(1 / 15)
    second = place_p(np.array([1.0, 1.0]), np.array([[0, 0, 0, 0.0], [0, 2, np.nan, np.nan]]))
    assert second == pytest.approx(3 / 15)  # centered ranks (2, 1), (2, 0), (1, 1)
    ties = place_p(np.zeros(3), np.zeros((3, 4)))
    assert 0.5 < ties < 0.6  # all ranks are in the middle
    assert place_p(np.ones(LEAST_UNITS), np.zeros((LEAST_UNITS, 4))) == pytest.approx(5.0**-LEAST_UNITS)


@pytest.mark.parametrize("draw", ["exponential", "standard_normal", "standard_t"])
def test_place_p_keeps_its_level_whatever_the_distribution(draw):
    rng = np.random.default_rng(0)
    values = -(rng.standard_t(2, (2000, 64, 5)) if draw == "standard_t" else getattr(rng, draw)(size=(2000, 64, 5)))
    rejected = np.mean([place_p(one[:, 0], one[:, 1:]) < 0.01 for one in values])
    assert rejected == pytest.approx(0.01, abs=0.006)  # a signed-rank test of the differences: .085 for `exponential`


def test_looks_spend_the_level_once():
    assert [look.units for look in plan_looks(64)] == [16, 32, 64]
    assert [look.units for look in plan_looks(30)] == [16, 30]
    assert [look.units for look in plan_looks(8)] == [8]
    for units in range(1, 100):
        assert sum(look.weight for look in plan_looks(units)) == 1
        assert plan_looks(units)[-1].units == units
        assert plan_looks(units)[-1].futile == 1


def test_contrast_is_significant_if_only_the_slice_loses():
    rng = np.random.default_rng(0)
    assert contrast_p(rng.normal(0.3, 0.1, 32), rng.normal(0, 0.1, 64)) < 1e-9
    assert contrast_p(rng.normal(0.3, 0.1, 32), rng.normal(0.3, 0.1, 64)) > 0.01
    assert contrast_p(rng.normal(0, 0.1, 32), rng.normal(0.3, 0.1, 64)) > 0.99


def test_interval_is_student_s_shifted_towards_the_longer_tail():
    values = np.array([1.0, 2, 3, 4, 5])
    assert mean_interval(values) == pytest.approx((3 - 2.776445 * 0.5**0.5, 3 + 2.776445 * 0.5**0.5), rel=1e-6)
    low, high = mean_interval(np.array([0.0] * 15 + [16.0]))
    assert 1 - low < high - 1
    assert mean_interval(np.full(8, 0.25)) == (0.25, 0.25)
    low, high = mean_interval(np.array([0.53] * 10 + [-0.8] * 3))  # few values: a studentized bootstrap explodes
    assert -0.5 < low < 0.222 < high < 1


@pytest.mark.parametrize(("draw", "n"), [("normal", 8), ("exponential", 16)])
def test_interval_of_few_or_skewed_values_has_its_coverage(draw, n):
    rng = np.random.default_rng(0)
    values = 1 - getattr(rng, draw)(size=(2000, n))
    intervals = np.array([mean_interval(one) for one in values])
    above = np.mean(intervals[:, 0] > (1 if draw == "normal" else 0))
    assert above < 0.06  # nominal .025; percentile bootstrap: .058 and .095


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
    outlier = evaluate(make_margins([0.0] * 31 + [20.0], np.zeros((32, 3))), 0.1, "k")  # one unit has the whole effect
    assert explain_failure(outlier, 0.0, 0.01) == "got p = 0.407, expected less than 0.01"
    varied = evaluate(make_margins([2.0, -1.5] * 4, np.zeros((8, 3))), 0.1, "k")
    assert "expected one above zero" in explain_failure(varied, 0.0, 0.01)


def test_reversed_margins_test_whether_a_region_lowers_the_score():
    rng = np.random.default_rng(3)
    margins = Margins(rng.normal(1, 0.1, 20), rng.normal(1.5, 0.1, 20), rng.normal(1, 0.1, (20, 4)), np.arange(20))
    region, controls = margins.drops()
    other, others = margins.reverse().drops()
    np.testing.assert_allclose(other, -region)
    np.testing.assert_allclose(others, -controls)
    assert place_p(region, controls) > 0.99
    assert evaluate(margins.reverse(), 0.1, "key").p < 1e-6
    assert evaluate(margins.reverse(), 0.1, "key").margin == evaluate(margins, 0.1, "key").margin


def test_a_direction_that_the_data_chose_keeps_the_level_if_both_directions_count():
    """Two one-sided tests of each region, in one family; 2,000 null regions whose losses are skewed."""
    rng = np.random.default_rng(4)
    found, naive = 0, 0
    for values in -rng.exponential(size=(2000, 32, 5)):
        p = [place_p(sign * values[:, 0], sign * values[:, 1:]) for sign in (1, -1)]
        found += min(adjust_p_values(p, ["region", "region"], 0.01)) < 0.01
        naive += min(p) < 0.01
    assert found / 2000 < 0.0155  # 0.01 and 2.5 standard errors
    assert naive / 2000 > found / 2000


def test_few_units_have_no_interval():
    assert describe_mean(np.array([0.3])) == (0.3, None, None)
    mean, low, high = describe_mean(np.arange(5.0))
    assert low < mean == 2 < high


def test_values_of_a_unit_are_averaged_and_missing_ones_left_out():
    values = np.array([1.0, 3.0, np.nan, 5.0, np.nan])
    np.testing.assert_allclose(average_units(values, np.array([0, 0, 1, 2, 2])), [2, 5])
