"""Progress: bars in a terminal, lines without one, and the seconds of each stage."""

import sys
import time

import pytest
from rich.progress import Progress

from tasks import progress
from tasks.progress import Stages, advance_bar, bar, format_progress, format_seconds_per_stage, track


def test_without_a_terminal_a_line_is_printed_at_intervals(monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    with Stages()("confirm"):
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


def test_in_a_terminal_bars_are_shown(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    for _ in range(2):
        with Stages()("store"), bar("storing", 10) as advance:
            advance(4)
            progress._display.refresh()
            assert [task.completed for task in progress._display.tasks] == [0, 4]
        assert "storing" in capsys.readouterr().err
        assert not progress._display.live.is_started


def test_steps_that_are_reported_twice_do_not_exceed_the_total():
    with bar("attributing pairs", 10):
        for _ in range(2):
            advance_bar("attributing pairs", 8)
        assert [task.completed for task in progress._display.tasks] == [10]


def test_a_line_estimates_the_time_left():
    now = [100.0]
    display = Progress(disable=True, get_time=lambda: now[0])
    work, unknown = (
        display.add_task(name, total=total) for name, total in (("attributing pairs", 200), ("ingest", None))
    )
    assert format_progress(display.tasks[unknown]) == "ingest: 0.0 s so far"
    now[0] = 130.0
    assert format_progress(display.tasks[work]) == "attributing pairs: 0 of 200, 30 s so far"
    display.advance(work, 50)
    assert format_progress(display.tasks[work]) == "attributing pairs: 50 of 200, 30 s so far, about 1 min 30 s left"


def test_seconds_of_a_resumed_run_are_added_to_those_of_its_stages(monkeypatch):
    clock = iter(range(0, 1000, 5))
    stage = Stages({"ingest": 1.0})
    monkeypatch.setattr(progress, "monotonic", lambda: float(next(clock)))
    with pytest.raises(ValueError, match="x"), stage("ingest"):
        raise ValueError("x")
    with stage("store"):
        pass
    assert stage == {"ingest": 6.0, "store": 5.0}
    assert (
        format_seconds_per_stage({"ingest": 1.0, "store": 70.0}) == "1 min 11 s in all: store 1 min 10 s, ingest 1.0 s"
    )


def test_a_bar_is_advanced_by_its_description_while_it_is_shown():
    advance_bar("work", 5)  # no such bar: nothing to advance
    with bar("work", 10) as advance:
        advance_bar("work", 3)
        advance(1)
        (task,) = progress._display.tasks
        assert task.completed == 4
    assert progress._open_bars == {}
