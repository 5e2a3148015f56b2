"""Screening measures what covering a region costs, before findings and independently of the maps."""

from dataclasses import replace

import pytest

import sql
from tasks.confirm import confirm
from tasks.flag import flag
from tasks.interventions.foils import FoilFinder
from tasks.interventions.regions import RegionInterventions
from tasks.interventions.samples import load_samples
from tasks.screen import screen
from tasks.settings import AlertsConfig, ConfirmConfig

ALERTS = AlertsConfig(factor=2.0, min_pairs=8, examples=2)


def query_rows(run, text):
    with run.connect() as connection:
        return sql.read(connection, text)


def test_region_without_attribution_is_proposed_by_its_cost_and_confirmed(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    use_toy_model(1.0)
    screened = screen.fn(run, plan)
    # The pairs that propose, of each slice with twice 8 units, and all of smaller slices; four corners and the frame.
    assert screened == 43 * 5
    flag.fn(run, ALERTS, {})
    findings = {(row["region"], row["slice"]) for row in query_rows(run, "FROM findings")}
    # Uniform maps propose nothing, and only shadows need the corner.
    assert ("corner top-left", "shadow") in findings
    assert not {region for region, _ in findings} & {"corner top-right", "corner bottom-left", "corner bottom-right"}
    assert {row["rule"] for row in query_rows(run, "FROM findings")} == {"region_cost", "region_sufficiency"}
    assert confirm.fn(run, plan)
    confirmed = query_rows(run, "SELECT DISTINCT region, slice, tests FROM verdicts WHERE confirmed")
    assert ("corner top-left", "shadow") in {(row["region"], row["slice"]) for row in confirmed}
    # Of small slices, whose units propose and are tested, screened regions that were not proposed also count as tests.
    tests = query_rows(run, "FROM confirmations WHERE split")
    split = {(row["region"], row["slice"], row["reliance"]) for row in tests}
    small = {"normal", "chest", "large", "heart"}
    assert {row["tests"] for row in confirmed} == {3 * 5 * len(small) + len(split)}  # in both directions, and pasted


def test_no_region_is_proposed_for_a_model_that_needs_none(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    use_toy_model(0.0)
    screen.fn(run, plan)
    flag.fn(run, ALERTS, {})
    assert query_rows(run, "FROM findings") == []


def test_costs_are_those_of_the_pairs(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    use_toy_model(1.0)
    screen.fn(run, plan)
    text = "SELECT region, slice, n, drop, margin FROM slice_costs WHERE slice IN ('shadow', 'normal')"
    costs = {(row["region"], row["slice"]): row for row in query_rows(run, text)}
    assert costs["corner top-left", "shadow"]["n"] == 13
    assert costs["corner top-left", "shadow"]["drop"] > 0.5 * costs["corner top-left", "shadow"]["margin"]
    assert costs["corner top-left", "normal"]["drop"] == pytest.approx(0, abs=0.02)
    assert costs["corner top-right", "shadow"]["drop"] == pytest.approx(0, abs=1e-6)


def test_foils_that_say_nearly_the_same_do_not_hide_what_a_region_costs(run_with_findings, use_toy_model):
    """The toy model cannot tell two captions with a shadow apart, so that the margin between them is zero."""
    run, plan = run_with_findings
    use_toy_model(1.0)
    interventions = RegionInterventions(load_samples(run, plan))
    interventions._find_hosts = lambda *_: []  # no pair has "large shadow" as caption
    captions = ["a shadow", "large shadow", "normal chest", "large heart"]
    interventions._samples.foils = FoilFinder(captions, plan.seed)
    (row,) = interventions.screen("corner top-left", ["pair-0000"], {None: [(0.0, 0.0, 0.25, 0.25)]})
    assert row["drop"] > 0.1
    assert row["rise"] is None
    interventions._samples.foils = FoilFinder(captions[:2], plan.seed)  # no other foils
    (row,) = interventions.screen("corner top-left", ["pair-0000"], {None: [(0.0, 0.0, 0.25, 0.25)]})
    assert row["drop"] == pytest.approx(0)


def test_a_pair_that_cannot_be_measured_is_left_out(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    (plan.inputs.corpus.root / "3.png").write_bytes(b"no image any more")
    use_toy_model(1.0)
    assert screen.fn(run, plan) == 42 * 5


def test_a_region_is_covered_in_the_pairs_that_have_it_if_they_are_enough_for_a_slice(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    pairs = [f"pair-{number:04d}" for number in range(plan.min_pairs)]
    own = [("own", (0, 0, 0.5, 0.5), pair_id) for pair_id in pairs]
    rare = [("rare", (0, 0, 0.5, 0.5), pair_id) for pair_id in pairs[1:]]
    run.add_regions(("everything", (0, 0, 1, 1)), *own, *rare)  # a region of the whole image cannot be covered
    use_toy_model(1.0)
    screen.fn(run, plan)
    assert [(row["region"], row["pair_id"]) for row in query_rows(run, "FROM screenings ORDER BY pair_id")] == [
        ("own", pair_id) for pair_id in pairs
    ]


@pytest.mark.parametrize("kind", ["detected", "recurrent", "corner", "outside"])
def test_detected_regions_and_overlays_are_covered_and_others_are_not(run_with_findings, use_toy_model, kind):
    run, plan = run_with_findings
    boxes = [("own", (0, 0, 0.25, 0.25), f"pair-{number:04d}") for number in range(30)]  # those with a shadow
    run.add_regions(*boxes, kind=kind)
    use_toy_model(1.0)
    screen.fn(run, plan)
    flag.fn(run, ALERTS, {})
    # No other pair has the region, so there is nothing to compare with but how often.
    findings = {(row["rule"], row["slice"]) for row in query_rows(run, "FROM findings WHERE rule <> 'overlay_absence'")}
    assert findings == (
        set()
        if kind in ("corner", "outside")
        else {(rule, one) for rule in ("region_cost", "region_sufficiency") for one in ("shadow", "a", "all pairs")}
    )


def test_screening_is_off_if_confirmation_is_disabled(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    model = use_toy_model(1.0)
    assert screen.fn(run, replace(plan, confirm=ConfirmConfig(enabled=False))) == 0
    assert model.num_embedded == 0
    assert query_rows(run, "FROM screenings") == []
