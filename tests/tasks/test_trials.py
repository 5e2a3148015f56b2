"""Verdicts of the trials of the self-audit, from rows of tests."""

from types import SimpleNamespace

import pytest

from tasks import self_audit
from tasks.self_audit import OpenTrial, Trial, judge_trial


@pytest.fixture
def judge_corner(run_with_findings, monkeypatch):
    """judge_corner(trial, tests): judge a trial whose tag in the top-left corner was confirmed with p = .005."""
    run, plan = run_with_findings
    claim = {"slice_kind": "word", "slice": "shadow", "fill": "mean", "n": 8, "effect": 0.2, "p": 0.005}
    regions = [("corner top-left", True), ("corner bottom-right", False)]
    rows = [claim | {"region": name, "confirmed": is_true} for name, is_true in regions]
    pasted = claim | {"region": "corner top-left", "reliance": "sufficient", "fill": "transplant", "p": 0.9}
    run.write_table("confirmations", [*rows, pasted | {"confirmed": False}])

    def judge(trial, tests):
        monkeypatch.setattr(self_audit, "count_tests", lambda _: tests)
        sample = SimpleNamespace(pairs=[{"pair_id": f"pair-{number:04d}"} for number in range(8)], tagged=8)
        return judge_trial(run, run, OpenTrial(trial, sample, plan.inputs, [], [], {"area": 0.03}, 0), plan)

    return judge


def test_a_tag_is_found_at_the_level_that_the_tests_of_the_run_demand(judge_corner):
    assert judge_corner(Trial("implanted"), 1)["confirmed"] == 1
    row = judge_corner(Trial("implanted"), 10)
    assert row["confirmed"] == 0
    assert "the number of the run's tests demands" in row["reason"]


def test_regions_that_the_run_confirmed_are_no_false_alarms(judge_corner):
    row = judge_corner(Trial("permuted"), 1)
    assert (row["tests"], row["known"], row["confirmed"]) == (
        1,
        2,
        0,
    )  # one region is tested for both kinds of reliance
