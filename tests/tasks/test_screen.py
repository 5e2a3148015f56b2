"""What covering a named region costs is looked at before anything is flagged, whatever the maps say of it."""

from dataclasses import replace

import pytest

import sql
from tasks.confirm import confirm
from tasks.flag import flag
from tasks.screen import screen
from tasks.settings import AlertsConfig, ConfirmConfig

ALERTS = AlertsConfig(factor=2.0, min_pairs=8, examples=2)


def read(run, text):
    with run.connect() as connection:
        return sql.read(connection, text)


def test_a_region_that_the_maps_do_not_show_is_proposed_by_what_it_costs_and_confirmed(flagged, toy):
    run, plan = flagged
    toy(1.0)
    screened = screen.fn(run, plan)
    assert screened == (24 + 15 + 15) * 5  # of each slice what a test would draw; four corners and the frame
    flag.fn(run, ALERTS, {})
    found = {(row["region"], row["slice"]) for row in read(run, "FROM findings")}
    # Maps that are the same all over propose nothing, and the corner is needed where there is a shadow.
    assert ("corner top-left", "shadow") in found
    assert not {region for region, _ in found} & {"corner top-right", "corner bottom-left", "corner bottom-right"}
    assert {row["rule"] for row in read(run, "FROM findings")} == {"region_cost"}
    assert confirm.fn(run, plan)
    confirmed = read(run, "SELECT DISTINCT region, slice, tests FROM verdicts WHERE confirmed")
    assert ("corner top-left", "shadow") in {(row["region"], row["slice"]) for row in confirmed}
    # All pairs and seven words, five regions: what was not proposed counts as a test as well.
    words = {"shadow", "a", "normal", "chest", "large", "heart"}
    assert {row["tests"] for row in confirmed} == {5 * (1 + len(words))}


def test_a_model_that_needs_no_region_has_none_proposed(flagged, toy):
    run, plan = flagged
    toy(0.0)
    screen.fn(run, plan)
    flag.fn(run, ALERTS, {})
    assert read(run, "FROM findings") == []


def test_costs_are_those_of_the_pairs(flagged, toy):
    run, plan = flagged
    toy(1.0)
    screen.fn(run, plan)
    text = "SELECT region, slice, n, drop, margin FROM slice_costs WHERE slice IN ('shadow', 'normal')"
    costs = {(row["region"], row["slice"]): row for row in read(run, text)}
    assert costs["corner top-left", "shadow"]["n"] == 24
    assert costs["corner top-left", "shadow"]["drop"] > 0.5 * costs["corner top-left", "shadow"]["margin"]
    assert costs["corner top-left", "normal"]["drop"] == pytest.approx(0, abs=0.02)
    assert costs["corner top-right", "shadow"]["drop"] == pytest.approx(0, abs=1e-6)


def test_a_pair_that_cannot_be_measured_is_left_out(flagged, toy):
    run, plan = flagged
    (plan.corpus.root / "3.png").write_bytes(b"no image any more")
    toy(1.0)
    assert screen.fn(run, plan) == 53 * 5


def test_a_region_that_is_the_whole_image_has_nothing_to_be_covered_from(flagged, toy):
    run, plan = flagged
    run.add_regions(("everything", (0, 0, 1, 1)), ("own", (0, 0, 0.5, 0.5), "pair-0003"))
    toy(1.0)
    screen.fn(run, plan)
    assert [(row["region"], row["pair_id"]) for row in read(run, "FROM screenings")] == [("own", "pair-0003")]


def test_nothing_is_covered_where_nothing_is_tested(flagged, toy):
    run, plan = flagged
    model = toy(1.0)
    assert screen.fn(run, replace(plan, confirm=ConfirmConfig(enabled=False))) == 0
    assert model.seen == 0
    assert read(run, "FROM screenings") == []
