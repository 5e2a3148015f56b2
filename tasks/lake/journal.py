"""Records of a run in the lake's ledger: its begin, its end and its report. `Run.rewrite` records rewrites.

A failure to write a record is logged and does not fail the run; `m2ib-audit verify` reports the missing record.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sql
import stores
from stores import ledger
from stores.keys import SigningKey
from stores.ledger import Record
from stores.run_records import list_recorded
from tasks.execution import log_failure, run_logger
from tasks.lake.run import MANIFEST, REPORT, Run, utc_timestamp


def record_run_begin(run: Run, signer: SigningKey | None = None) -> None:
    """Record that a run began, after its first manifest was written. It is not the record of an end."""
    with log_failure("run %s: its begin could not be recorded in the lake's ledger", run.run_id):
        ledger.append(run.lake, "begun", {"run_id": run.run_id}, signer)


def record_run_end(run: Run, signer: SigningKey | None = None) -> None:
    """Record a run's status and its manifest's sha256 in the ledger, unless its last record has the same values."""
    with log_failure("run %s: its end could not be recorded in the lake's ledger", run.run_id):
        body = _read_run_end(run)
        records = _read_records(run)
        if not records or (records[-1].kind, records[-1].body) != ("run", body):
            ledger.append(run.lake, "run", body, signer)


def record_report(run: Run, name: str, signer: SigningKey | None = None) -> None:
    """Record the sha256 of a report, a file in the run's folder, unless the ledger already has this record."""
    with log_failure("run %s: its report could not be recorded in the lake's ledger", run.run_id):
        _record_report(run, name, signer)


def note_head(run: Run, file: Path | None) -> None:
    """Log the head of the ledger, and append it to a file outside of the lake, for `verify --head`."""
    with log_failure("run %s: the head of the lake's ledger could not be noted", run.run_id):
        if (head := ledger.read_head(run.lake)) is None:
            return
        number, sha256 = head
        run_logger().info("run %s: the head of the ledger is record %d, %s", run.run_id, number, sha256)
        if file is not None:
            with file.open("a", encoding="utf-8") as lines:  # one write, which does not mix with others
                lines.write(f"{utc_timestamp()} {number} {sha256}\n")


def adopt_run(run: Run, signer: SigningKey | None = None) -> bool:
    """Record a run that is not in the ledger, and its report, as stored now; return whether it was added.

    This is for runs written before the lake had a ledger, and for runs whose process was killed before it could record
    them. The record is marked as late, because it proves nothing about the time before.
    """
    body = _read_run_end(run)
    if body["status"] == "running":
        if run.run_id in list_recorded(ledger.read_records(run.lake)).runs:
            return False
        ledger.append(run.lake, "begun", {"run_id": run.run_id, "late": True}, signer)
        return True
    if _read_records(run):
        return False
    ledger.append(run.lake, "run", {**body, "late": True}, signer)
    if stores.is_file(run.folder / REPORT):
        _record_report(run, REPORT, signer)
    return True


def list_missing(runs: Sequence[Run]) -> list[str]:
    """List the runs that have ended but have no record, although they should have one.

    These are runs whose begin was recorded, or whose manifest of an earlier release says so. All of them should once
    runs were adopted, or this release has recorded the begin of a run.
    """
    if not runs:
        return []
    records = ledger.read_records(runs[0].lake)
    known = list_recorded(records).runs
    is_settled = any(record.kind == "begun" or record.body.get("late") for record in records)
    missing = []
    for run in runs:
        if run.run_id not in known or not known[run.run_id].ends:
            manifest = run.read_manifest()
            is_expected = is_settled or run.run_id in known or manifest.get("chained")
            missing += [run.run_id] if is_expected and manifest["status"] != "running" else []
    return missing


def _read_records(run: Run) -> list[Record]:
    records = ledger.select_kinds(ledger.read_records(run.lake), "run", "rewrite")
    return [record for record in records if record.body.get("run_id") == run.run_id]


def _read_run_end(run: Run) -> dict[str, Any]:
    data = stores.read_bytes(run.folder / MANIFEST)
    status = sql.parse_manifest(data, run.run_id)["status"]
    return {"run_id": run.run_id, "status": status, "manifest_sha256": ledger.sha256(data)}


def _record_report(run: Run, name: str, signer: SigningKey | None) -> None:
    data, extension = stores.read_bytes(run.folder / name), name.rpartition(".")[2]
    ledger.record_report(run.lake, run.run_id, extension, data, signer, path=run.relative_path(name))
