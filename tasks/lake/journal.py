"""Records of a run in the lake's ledger: its end and its report. Rewrites of a run are recorded by `Run.rewrite`.

A failure to write a record is logged and does not fail the run; `m2ib-audit verify` reports the missing record.
"""

from typing import Any

import sql
import stores
from stores import ledger
from stores.keys import SigningKey
from stores.ledger import Record
from tasks.execution import log_failure
from tasks.lake.run import MANIFEST, REPORT, Run


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


def adopt_run(run: Run, signer: SigningKey | None = None) -> bool:
    """Record a run that has ended but is not in the ledger, and its report, as stored now; return whether it was added.

    This is for runs written before the lake had a ledger, and for runs whose process was killed before it could record
    them. The record is marked as late, because it proves nothing about the time before.
    """
    body = _read_run_end(run)
    if body["status"] == "running" or _read_records(run):
        return False
    ledger.append(run.lake, "run", {**body, "late": True}, signer)
    if stores.is_file(run.folder / REPORT):
        _record_report(run, REPORT, signer)
    return True


def lacks_record(run: Run) -> bool:
    """Return whether a run has ended and should have a record in the ledger, but has none."""
    manifest = run.read_manifest()
    is_expected = ledger.expects_record(manifest, ledger.read_records(run.lake))
    return manifest["status"] != "running" and is_expected and not _read_records(run)


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
