"""Execution of untrusted queries in a child process with time and memory limits from the operating system.

DuckDB's own limits are not sufficient. It checks for interrupts only between chunks of rows, and its memory limit does
not include memory that a function allocates for a single row. `SELECT list_sum(range(200000000))` exceeds both.
"""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa

import sql
import stores
from stores import Root

MAX_CONCURRENT: Final = 2
"""Number of queries that can run at the same time."""
_QUEUE_SECONDS: Final = 1.0
"""Time in seconds that a query waits for one of the running queries to end."""
_OPEN_SECONDS: Final = 120.0
"""Time limit in seconds for opening the lake, in addition to the time limit of the query."""
_THREADS: Final = 2
_RESULT: Final = b"A"
_ERROR: Final = b"F"
_slots = threading.BoundedSemaphore(MAX_CONCURRENT)


@dataclass(frozen=True)
class Limits:
    """Limits on the time, the memory and the result of a query. A query that exceeds one (other than `rows`) fails."""

    rows: int  # of the result; further ones are not computed
    seconds: float
    memory: int = 4 << 30  # address space of the child process in bytes; DuckDB itself needs about 1 GB of it
    result: int = 16 << 20  # bytes
    cell: int = 1 << 20  # bytes of a single value


def read_table(
    lake: Root,
    with_decisions: bool,
    text: str,
    limits: Limits,
) -> pa.Table:
    """Run a single SELECT statement in a child process, and return its rows as an Arrow table.

    Args:
        lake: Folder or URL of the lake.
        with_decisions: Whether the query can read people's decisions.
        text: The SQL statement.
        limits: Limits of the query.

    Raises:
        QueryError: The query fails or exceeds a limit, or too many other queries are running.
    """
    request = {
        "lake": str(lake),
        "with_decisions": with_decisions,
        "text": text,
        "limits": vars(limits),
        "folder": str(stores.scratch_folder()),
    }
    if not _slots.acquire(timeout=_QUEUE_SECONDS):
        raise sql.QueryError(f"query: busy: {MAX_CONCURRENT} other queries are running; try again in a moment")
    try:
        return _run_child(json.dumps(request).encode(), limits)
    finally:
        _slots.release()


def _run_child(request: bytes, limits: Limits) -> pa.Table:
    # With -P, files in the working directory cannot shadow modules.
    command = [sys.executable, "-P", "-m", "sql.sandbox"]
    found = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(  # noqa: S603  # this module
            command,
            input=request,
            capture_output=True,
            timeout=limits.seconds + _OPEN_SECONDS,
            check=False,
            env={**os.environ, "PYTHONPATH": found},
        )
        code, kind, payload = done.returncode, done.stdout[:1], done.stdout[1:]
    except subprocess.TimeoutExpired:
        code, kind, payload = -signal.SIGALRM, b"", b""
    if code == 0 and kind == _RESULT:
        return pa.ipc.open_stream(payload).read_all()
    if code == 0 and kind == _ERROR:
        raise sql.QueryError(payload.decode(errors="replace"))
    if code in (-signal.SIGALRM, -signal.SIGXCPU):
        fault = f"it timed out after {limits.seconds:g} seconds"
    else:
        fault = f"its process ended (exit code {code}), most likely over the memory limit, {limits.memory >> 20} MiB"
    raise sql.QueryError(f"query: {fault}; select less, or use m2ib-audit sql, which has no limit")


def _execute(request: dict[str, Any], limits: Limits) -> pa.Table:
    stores.use_scratch_folder(Path(request["folder"]))
    lake, memory = stores.parse_root(request["lake"], "lake"), f"{limits.memory >> 21}MiB"
    connection = sql.connect(lake, None, (), request["with_decisions"], memory, _THREADS)
    _apply_limits(limits)
    return _check_size(sql.read_table(connection, request["text"], None, limits.rows), limits)


def _apply_limits(limits: Limits) -> None:
    """Make the operating system end this process when it exceeds the limits on time or memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(used.ru_utime + used.ru_stime + limits.seconds * _THREADS) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the operating system ends the process, even in native code
    signal.setitimer(signal.ITIMER_REAL, limits.seconds)


def _check_size(table: pa.Table, limits: Limits) -> pa.Table:
    """Return the result of a query unchanged if its size is within the limits. Otherwise raise QueryError."""
    if table.nbytes > limits.result:
        raise sql.QueryError(
            f"query: got a result of {table.nbytes >> 10} KiB, expected at most {limits.result >> 10} KiB; select "
            "fewer columns or rows, or use m2ib-audit sql, which has no limit"
        )
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.nbytes <= limits.cell:
            continue
        largest = max(column.slice(row, 1).nbytes for row in range(len(column)))
        if largest > limits.cell:
            raise sql.QueryError(
                f"query: got a value of {largest >> 10} KiB in column {name[:100]}, expected at most "
                f"{limits.cell >> 10} KiB; select a part of it, such as left(text, 1000)"
            )
    return table


def _main(given: BinaryIO, out: BinaryIO) -> None:
    """Read a JSON request, run its query, and write `_RESULT` and an Arrow stream, or `_ERROR` and a message."""
    request = json.load(given)
    limits = Limits(**request["limits"])
    try:
        table = _execute(request, limits)
    except (sql.QueryError, sql.LakeError) as error:
        out.write(_ERROR + str(error)[:20_000].encode(errors="replace"))
        return
    out.write(_RESULT)
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)


if __name__ == "__main__":
    _main(sys.stdin.buffer, sys.stdout.buffer)
    sys.stdout.flush()
    os._exit(0)  # exit without waiting for DuckDB's threads
