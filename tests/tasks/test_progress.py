"""Progress: lines where there is no terminal, bars in one, and the seconds of each stage."""

import sys
import time

import pytest

from tasks import progress
from tasks.progress import Bar, Stages, bar, format_seconds_per_stage, track


def test_without_a_terminal_a_line_is_printed_at_intervals(monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    with Stages() as stage, stage("confirm"):
        for _ in track(range(4), description="confirming findings"):
            time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 12
    assert all(line.startswith("m2ib-audit: confirming findings: ") for line in lines)
    assert any(" of 4, " in line and line.endswith(" left") for line in lines)
    time.sleep(0.15)
    assert capsys.readouterr().err == ""  # nothing is printed once the work is done


def test_short_work_prints_nothing(capsys):
    assert list(track(iter("abc"), 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_in_a_terminal_bars_are_drawn(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Stages() as stage, stage("store"), bar("storing", 10) as shown:
        shown.advance(4)
        progress._display._rich.refresh()
        assert [task.completed for task in progress._display._rich.tasks] == [0, 0, 4]
    assert "storing" in capsys.readouterr().err
    assert progress._display._rich is None


def test_a_line_estimates_the_time_left(monkeypatch):
    monkeypatch.setattr(progress, "monotonic", lambda: 100.0)
    work = Bar("attributing pairs", 200)
    monkeypatch.setattr(progress, "monotonic", lambda: 130.0)
    assert work.line() == "attributing pairs: 0 of 200, 30 s so far"
    work.done = 50
    assert work.line() == "attributing pairs: 50 of 200, 30 s so far, about 1 min 30 s left"
    assert Bar("ingest").line() == "ingest: 0.0 s so far"


def test_seconds_of_a_resumed_run_are_added_to_those_of_its_stages(monkeypatch):
    clock = iter(range(0, 1000, 5))
    with Stages({"ingest": 1.0}) as stage:
        monkeypatch.setattr(progress, "monotonic", lambda: float(next(clock)))
        with pytest.raises(ValueError, match="x"), stage("ingest"):
            raise ValueError("x")
        with stage("store"):
            pass
        assert stage.seconds["ingest"] > 1.0
        assert list(stage.rounded()) == ["ingest", "store"]
    assert (
        format_seconds_per_stage({"ingest": 1.0, "store": 70.0}) == "1 min 11 s in all: store 1 min 10 s, ingest 1.0 s"
    )
