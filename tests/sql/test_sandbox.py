"""Strangers' queries, in a process that is ended: what DuckDB's own limits do not hold."""

import time
from pathlib import Path

import pytest

import sql
from sql import sandbox


@pytest.fixture
def ask(tmp_path: Path):
    def ask(text: str, **limits):
        given = sandbox.Limits(**{"rows": 100, "seconds": 10.0, **limits})
        return sandbox.read_table(tmp_path, None, True, text, given).to_pylist()

    return ask


def test_an_ordinary_query_is_answered(ask):
    assert ask("SELECT 1 AS x, [1, 2] AS y, 'ü' AS z") == [{"x": 1, "y": [1, 2], "z": "ü"}]
    assert ask("SELECT * FROM runs") == []
    assert len(ask("SELECT * FROM range(1000000000)", rows=7)) == 7


@pytest.mark.parametrize(
    ("text", "limits", "said"),
    [
        # DuckDB's interrupt is not looked at within a row: 40 seconds and 14 GB.
        (
            "SELECT list_sum(range(200000000))",
            {"seconds": 0.3, "memory": 2 << 30},
            "timed out after 0.3 seconds|memory",
        ),
        ("SELECT length(repeat('x', 2000000000))", {"seconds": 0.3}, "timed out after 0.3 seconds|memory"),
        ("SELECT list_sum(list_sort(range(3000000))) + n FROM range(1000) t(n)", {"seconds": 0.3}, "timed out|memory"),
        ("SELECT count(*) FROM range(1000000000) a, range(1000) b", {"seconds": 0.3}, "timed out after 0.3 seconds"),
        ("SELECT repeat('x', 2000000)", {}, "a value of 1953 KiB in column .*, expected at most 1024 KiB"),
        ("SELECT repeat('x', 900000) FROM range(30)", {}, "a result of .* KiB, expected at most 16384 KiB"),
        ("SELECT nothing FROM runs", {}, "Binder Error"),
        ("SELEC", {}, "Parser Error"),
        ("COPY (SELECT 1) TO '/dev/null'", {}, "expected one SELECT"),
        ("SELECT * FROM read_text('/etc/hostname')", {}, "disabled by configuration"),
    ],
)
def test_what_takes_too_much_or_fails_is_said(ask, text, limits, said):
    began = time.monotonic()
    with pytest.raises(sql.QueryError, match=said):
        ask(text, **limits)
    assert time.monotonic() - began < 30  # of which the most is the start of a process on a busy machine


def test_two_at_a_time(ask, monkeypatch):
    monkeypatch.setattr(sandbox, "_QUEUE_SECONDS", 0.01)
    for _ in range(sandbox.MAX_CONCURRENT):
        sandbox._slots.acquire()
    try:
        with pytest.raises(sql.QueryError, match="busy: 2 others are running"):
            ask("SELECT 1")
    finally:
        for _ in range(sandbox.MAX_CONCURRENT):
            sandbox._slots.release()
    assert ask("SELECT 1 AS x") == [{"x": 1}]
