"""Lifecycle of a run: lock it while its stages run, then store its status, notify and record it in the ledger.

This is done for every outcome: completed, stopped by a gate, failed or interrupted.
"""

import atexit
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger
from prefect._internal.concurrency import threads
from prefect.exceptions import TerminationSignal

import sql
from review.report.html import ReportError, write_report
from stores import Root, format_command
from stores.keys import SigningKey
from tasks.errors import GateError, ResumeError, ShardsError
from tasks.lake.journal import note_head, record_report, record_run_end
from tasks.lake.lock import lock_run
from tasks.lake.run import REPORT, Run
from tasks.messages import log_outcome, publish_outcome
from tasks.notify import notify_run_end
from tasks.progress import Stages, bar, format_seconds_per_stage
from tasks.settings import NotifyConfig

_SECONDS_TO_STOP = 2.0


@atexit.register
def _stop_event_loops() -> None:
    """Stop the threads of Prefect's event loops before the interpreter ends.

    They are daemon threads, which outlive the interpreter's objects, and their contexts hold the flow. DuckDB's binding
    would then report all its classes, which the flow's modules use, as leaked.
    """
    for name in ("_global_loop", "_run_sync_loop"):
        if (loop := getattr(threads, name, None)) is not None and loop.running:
            loop.shutdown()
            loop.thread.join(_SECONDS_TO_STOP)


@dataclass(frozen=True)
class AuditResult:
    """Result of an audit: the status of its run, with counts and messages."""

    run_id: str
    status: str
    reason: str | None
    pairs: int
    attributions: int
    errors: int
    alerts: int
    confirmed: int
    raised: int  # independent alerts that people are notified of; see `[alerts] raise`
    report: "Root | None"


@contextlib.contextmanager
def run_lifecycle(
    run: Run, notify: NotifyConfig, signer: SigningKey | None = None, head_file: Path | None = None
) -> Iterator[Stages]:
    """Lock a run while its stages run in the block; then notify people, and record its status.

    `head_file` is where the head of the ledger is noted if the run fails; see `note_head`.

    Yields the timer of the stages: a resumed run adds to the times of its earlier attempts. Raises ResumeError if
    another process has locked the run, or has completed it in the meantime.
    """
    with lock_run(run):
        record = run.read_manifest()
        if record["status"] != "running":
            raise ResumeError(
                f"resume: run {run.run_id} is already {record['status']}, expected a running one; see its report"
            )
        stages = Stages(record.get("stage_seconds") or {})
        try:
            with bar("audit"):
                yield stages
        except BaseException as error:
            abort(run, error, notify, signer, stages)
            note_head(run, head_file)
            raise
        if stages:
            get_run_logger().info("run %s: %s", run.run_id, format_seconds_per_stage(stages))
        notify_run_end(run, notify, signer)  # writes the manifest, so the lock is still needed
        record_run_end(run, signer)


def conclude(run: Run, signer: SigningKey | None = None, head_file: Path | None = None) -> AuditResult:
    """Write the report of a run whose stages have ended, and return the run's result.

    `head_file` is where the head of the ledger is noted then; see `note_head`.

    Raises GateError if a gate stopped the run, and ShardsError if it completed but some shards failed.
    """
    record = run.read_manifest()
    counts = {key: record["counts"][key] for key in ("pairs", "attributions", "errors", "alerts", "confirmed")}
    with run.connect() as connection:
        found = sql.rows(connection, "review/alerts", run_id=run.run_id)
    counts["raised"] = sum(row["raised"] and row["explained_by"] is None for row in found)
    result = AuditResult(run.run_id, record["status"], record["reason"], report=_write_report(run, signer), **counts)
    note_head(run, head_file)
    publish_outcome(run)
    log_outcome(run)
    if result.status == "stopped":
        raise GateError(f"run {run.run_id} was stopped by a gate: {result.reason}", result)
    if result.status == "completed_with_errors":
        raise ShardsError(f"run {run.run_id} completed with errors: {result.reason}", result)
    return result


def abort(
    run: Run, error: BaseException, notify: NotifyConfig, signer: SigningKey | None = None, stages: Stages | None = None
) -> None:
    """Set the final status of a run that an error or an interrupt ended, unless the run already has a final status.

    If the lake cannot be reached, the status is not set, and only the original error is raised.
    """
    status = "failed" if isinstance(error, Exception) else "interrupted"
    terminated = isinstance(error, TerminationSignal)
    reason = "terminated by a signal" if terminated else f"{type(error).__name__}: {error}".removesuffix(": ")
    with contextlib.suppress(OSError, sql.LakeError):
        if run.read_manifest()["status"] == "running":
            run.finish(status, reason, stage_seconds=stages or {})
    notify_run_end(run, notify, signer)
    record_run_end(run, signer)


def _write_report(run: Run, signer: SigningKey | None) -> "Root | None":
    """Write the report. A failure is only logged, because the report can be written later with `m2ib-audit report`."""
    try:
        written = write_report(run.lake, run.run_id)
    except (ReportError, sql.LakeError):
        get_run_logger().exception(
            "the report could not be written; try: %s", format_command(run.lake, "report", run.run_id)
        )
        return None
    record_report(run, REPORT, signer)
    return written
