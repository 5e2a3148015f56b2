"""What happened to a run, as records of the lake's ledger: that it ended, and its report.

`Run.rewrite` has a record of its own. A run that cannot be recorded is none the worse for it, but `m2ib-audit verify`
says so: like telling, recording fails no audit.
"""

import hashlib
import json
from collections.abc import Sequence

import sql
import stores
from stores import ledger
from stores.ledger import Record, Signer
from tasks.lake.run import REPORT, Run
from tasks.execution import run_logger


def adopt(run: Run, signer: Signer | None = None) -> bool:
    """Record a run that has ended and that the ledger does not know, as it lies here now, and its report.

    For runs of releases without a ledger, and for those whose process was killed before it could record them. The
    record says that it came late: it proves nothing about the time before. Tells whether there was something to record.

    Raises OSError or LakeError if the lake or its ledger cannot be read or written.
    """
    data = stores.read_bytes(run.folder / "manifest.json")
    status = json.loads(data)["status"]
    if status == "running" or _is_known(run, ledger.read_records(run.lake)):
        return False
    body = {"run_id": run.run_id, "status": status, "manifest_sha256": hashlib.sha256(data).hexdigest(), "late": True}
    ledger.append(run.lake, "run", body, signer)
    if stores.is_file(run.folder / REPORT):
        _chain_report(run, REPORT, signer)
    return True


def lacks_record(run: Run) -> bool:
    """Whether a run has ended and should have a record, but has none. Raises OSError, LakeError."""
    manifest, known = run.read_manifest(), ledger.read_records(run.lake)
    return manifest["status"] != "running" and not _is_known(run, known) and ledger.expects_record(manifest, known)


def _is_known(run: Run, records: Sequence[Record]) -> bool:
    return any(record.body.get("run_id") == run.run_id for record in ledger.select_kinds(records, "run", "rewrite"))


def record_run_end(run: Run, signer: Signer | None = None) -> None:
    """Record how a run ended: its status, and the sha256 of its manifest. The same end is recorded once.

    Whatever goes wrong is logged: the run's own outcome counts.
    """
    try:
        data = stores.read_bytes(run.folder / "manifest.json")
        body = {
            "run_id": run.run_id,
            "status": json.loads(data)["status"],
            "manifest_sha256": hashlib.sha256(data).hexdigest(),
        }
        if _last(ledger.read_records(run.lake), "run", run.run_id) != body:
            ledger.append(run.lake, "run", body, signer)
    except (OSError, ValueError, sql.LakeError):
        run_logger().exception("run %s: its end could not be recorded in the lake's ledger", run.run_id)


def record_report(run: Run, name: str, signer: Signer | None = None) -> None:
    """Record the report that lies in a run's folder, unless the ledger knows it. Failures are logged."""
    try:
        _chain_report(run, name, signer)
    except (OSError, sql.LakeError):
        run_logger().exception("run %s: its report could not be recorded in the lake's ledger", run.run_id)


def _chain_report(run: Run, name: str, signer: Signer | None) -> None:
    path = run.folder / name
    kind, where = name.rpartition(".")[2], stores.relative_path(path, run.lake)
    ledger.record_report(run.lake, run.run_id, kind, stores.read_bytes(path), signer, path=where)


def _last(records: Sequence[Record], kind: str, run_id: str) -> dict[str, object] | None:
    """The body of a run's last record, if it is of a kind."""
    of_run = [record for record in records if record.body.get("run_id") == run_id and record.kind in ("run", "rewrite")]
    return of_run[-1].body if of_run and of_run[-1].kind == kind else None
