"""A query of a stranger's, asked in a process of its own that the system ends when it takes too long or too much.

DuckDB looks whether it was interrupted between chunks only, and what a function makes within a row is not in its memory
limit: `SELECT list_sum(range(200000000))` holds neither. So the limits are the system's, on a process that can be lost.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa

import sql
import stores
from stores import Root

AT_A_TIME: Final = 2
"""Queries that are answered at a time."""
_PATIENCE: Final = 1.0
"""Seconds to wait for one of the others to end."""
_OPENING: Final = 120.0
"""Seconds that the lake may take to open, beside those of the query."""
_LATE: Final = 0.5
"""Seconds after which a query is ended that DuckDB could not break off."""
_THREADS: Final = 2
_ANSWER: Final = b"A"
_FAULT: Final = b"F"
_turns = threading.BoundedSemaphore(AT_A_TIME)


@dataclass(frozen=True)
class Limits:
    """What a query may take."""

    rows: int
    """Rows after these are not computed."""
    seconds: float
    memory: int = 4 << 30
    """Bytes of address space of the whole process: DuckDB itself takes about one GB of it."""
    answer: int = 16 << 20
    """Bytes of the answer."""
    cell: int = 1 << 20
    """Bytes of one value."""


def read_table(
    lake: Root, run_ids: Sequence[str] | None, reviewed: bool, text: str, limits: Limits, folder: Path | None = None
) -> pa.Table:
    """As `sql.read_table`, over these runs (all if None) of a lake that is opened for this query alone.

    folder: of copies that were fetched of a lake in object storage; default: this process's.

    Raises QueryError, also where the query was ended or too many others are being answered.
    """
    asked = {
        "lake": str(lake),
        "run_ids": run_ids,
        "reviewed": reviewed,
        "text": text,
        "limits": vars(limits),
        "folder": str(folder or stores.scratch_folder()),
    }
    if not _turns.acquire(timeout=_PATIENCE):
        raise sql.QueryError(f"query: busy: {AT_A_TIME} others are being answered; ask again in a moment")
    try:
        return _answered(json.dumps(asked).encode(), limits)
    finally:
        _turns.release()


def _answered(asked: bytes, limits: Limits) -> pa.Table:
    # -P: what lies in the working directory is not taken for a module of ours.
    command = [sys.executable, "-P", "-m", "sql.sandbox"]
    found = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(  # noqa: S603  # ourselves
            command,
            input=asked,
            capture_output=True,
            timeout=limits.seconds + _OPENING,
            check=False,
            env={**os.environ, "PYTHONPATH": found},
        )
    except subprocess.TimeoutExpired as error:
        raise sql.QueryError(_too_long(limits)) from error
    kind, said = done.stdout[:1], done.stdout[1:]
    if done.returncode == 0 and kind == _ANSWER:
        return pa.ipc.open_stream(said).read_all()
    if done.returncode == 0 and kind == _FAULT:
        raise sql.QueryError(said.decode(errors="replace"))
    if done.returncode in (-signal.SIGALRM, -signal.SIGXCPU):
        raise sql.QueryError(_too_long(limits))
    raise sql.QueryError(
        f"query: ended (exit code {done.returncode}), most likely for want of memory: it may take "
        f"{limits.memory >> 20} MiB; ask for less, or use m2ib-audit sql, which has no limit"
    )


def _too_long(limits: Limits) -> str:
    return f"query: timed out after {limits.seconds:g} seconds; ask for less, or use m2ib-audit sql, which has no limit"


def _table(asked: dict[str, Any], limits: Limits) -> pa.Table:
    stores.use_scratch_folder(Path(asked["folder"]))
    run_ids = asked["run_ids"]
    first, rest = (None, ()) if run_ids is None else (run_ids[0], run_ids[1:])
    lake = stores.parse_root(asked["lake"], "lake")
    connection = sql.connect(lake, first, rest, asked["reviewed"], f"{limits.memory >> 21}MiB", _THREADS)
    _hold(limits)
    return _small(sql.read_table(connection, asked["text"], None, limits.rows, limits.seconds), limits)


def _hold(limits: Limits) -> None:
    """From here on the system ends this process if it takes more than it may."""
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = math.ceil(used.ru_utime + used.ru_stime + (limits.seconds + _LATE) * _THREADS) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # by the system itself, whatever code is running
        signal.setitimer(signal.ITIMER_REAL, limits.seconds + _LATE)


def _small(table: pa.Table, limits: Limits) -> pa.Table:
    """An answer that is not too large. Raises QueryError."""
    if table.nbytes > limits.answer:
        raise sql.QueryError(
            f"query: got an answer of {table.nbytes >> 10} KiB, expected at most {limits.answer >> 10} KiB; ask for "
            "fewer columns or rows, or use m2ib-audit sql, which has no limit"
        )
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.nbytes <= limits.cell:
            continue
        largest = max(column.slice(row, 1).nbytes for row in range(len(column)))
        if largest > limits.cell:
            raise sql.QueryError(
                f"query: got a value of {largest >> 10} KiB in column {name[:100]}, expected at most "
                f"{limits.cell >> 10} KiB; ask for a part of it, such as left(text, 1000)"
            )
    return table


def _answer(given: BinaryIO, out: BinaryIO) -> None:
    asked = json.load(given)
    limits = Limits(**asked["limits"])
    try:
        table = _table(asked, limits)
    except (sql.QueryError, sql.LakeError) as error:
        out.write(_FAULT + str(error)[:20_000].encode(errors="replace"))
        return
    except MemoryError:
        out.write(_FAULT + f"query: it needs more than {limits.memory >> 20} MiB of memory; ask for less".encode())
        return
    out.write(_ANSWER)
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)


if __name__ == "__main__":
    _answer(sys.stdin.buffer, sys.stdout.buffer)
    sys.stdout.flush()
    os._exit(0)  # nothing to put in order, and DuckDB's threads need not be waited for
