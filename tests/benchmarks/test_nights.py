"""Nights without a change disturb nobody, and a real change is reported."""

import json

import numpy as np
import pytest

from benchmarks import nights as command
from benchmarks.nights import Claims, nights, read_history, run_nights


@pytest.mark.parametrize("overlap", ["fresh", "same"])
def test_nights_without_a_change_disturb_nobody(overlap):
    counts = nights(4, 12, overlap, seed=5)
    assert counts["alerts"] >= 8
    assert counts["any"] <= (1 if overlap == "fresh" else 0)


def test_a_score_loss_that_grows_to_three_times_is_reported_within_four_nights(tmp_path):
    claims = Claims(np.full(5, 3.0), np.full(5, 0.3), np.full(5, 0.25))
    run_nights(tmp_path, claims, 5, "fresh", seed=5, change=(1, 3.0))
    worse = {row["region"] for row in read_history(tmp_path) if row["life"] == "worse"}
    assert len(worse) >= 4


def test_the_last_line_has_the_counts_of_each_overlap(capsys, monkeypatch):
    monkeypatch.setattr(command, "nights", lambda count, claims, *_: {"alerts": claims, "worse": count, "any": 1})
    command.main(["--nights", "3", "--claims", "5"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert json.loads(last)["fresh"] == {"alerts": 5, "worse": 3, "any": 1}
