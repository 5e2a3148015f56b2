"""Untrusted queries in a separate process, with limits that DuckDB does not enforce. Each query takes a second."""

import time

import pyarrow as pa
import pytest

import sql
from sql import sandbox


@pytest.fixture
def query(tmp_path):
    def run(text, **limits):
        limits = sandbox.Limits(**{"rows": 100, "seconds": 10.0, **limits})
        return sandbox.read_table(tmp_path, True, text, limits).to_pylist()

    return run


def test_an_ordinary_query_returns_rows_up_to_the_limit(query):
    text = "SELECT x, [1, 2] AS y, 'ü' AS z, (SELECT count(*) FROM runs) AS n FROM range(1000000000) t(x)"
    assert query(text, rows=3) == [{"x": x, "y": [1, 2], "z": "ü", "n": 0} for x in range(3)]


@pytest.mark.parametrize(
    ("text", "limits", "message"),
    [
        # DuckDB does not check for interrupts within a row: without the limits this takes 40 seconds and 14 GB.
        (
            "SELECT list_sum(range(200000000))",
            {"seconds": 0.3, "memory": 2 << 30},
            "timed out after 0.3 seconds|memory",
        ),
        ("SELECT count(*) FROM range(1000000000) a, range(1000) b", {"seconds": 0.3}, "timed out after 0.3 seconds"),
        ("SELECT repeat('x', 2000000)", {}, "a value of 1953 KiB in column .*, expected at most 1024 KiB"),
        ("SELECT * FROM read_text('/etc/hostname')", {}, "disabled by configuration"),
    ],
)
def test_a_query_that_exceeds_a_limit_or_fails_is_an_error(query, text, limits, message):
    start = time.monotonic()
    with pytest.raises(sql.QueryError, match=message):
        query(text, **limits)
    assert time.monotonic() - start < 30  # most of it is the start of the process on a busy machine


def test_total_size_of_a_result_is_limited():
    table = pa.table({"x": ["x" * 900_000] * 30})
    limits = sandbox.Limits(rows=100, seconds=1.0)
    with pytest.raises(sql.QueryError, match=r"a result of .* KiB, expected at most 16384 KiB"):
        sandbox._check_size(table, limits)
    assert sandbox._check_size(table.slice(0, 3), limits).num_rows == 3


def test_two_queries_run_at_a_time(query, monkeypatch):
    monkeypatch.setattr(sandbox, "_QUEUE_SECONDS", 0.01)
    monkeypatch.setattr(sandbox, "_run_child", lambda *_: pa.table({"x": [1]}))
    for _ in range(sandbox.MAX_CONCURRENT):
        sandbox._slots.acquire()
    try:
        with pytest.raises(sql.QueryError, match="busy: 2 other queries are running"):
            query("SELECT 1")
    finally:
        for _ in range(sandbox.MAX_CONCURRENT):
            sandbox._slots.release()
    for _ in range(sandbox.MAX_CONCURRENT + 1):  # a query releases its slot
        assert query("SELECT 1 AS x") == [{"x": 1}]
