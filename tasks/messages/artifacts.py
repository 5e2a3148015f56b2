"""Prefect artifacts of a run: progress, a summary, its alerts and a link to the report.

Artifacts are only an overview of the lake and the report. If one cannot be written, this is logged and does not fail
the audit.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

import sql
from review.presentation.formatting import format_status
from tasks.execution import log_failure, run_logger
from tasks.lake.run import Run
from tasks.messages.events import audit_name, describe_alerts, sanitize, select_notifiable, slugify

_UPDATE_SECONDS = 5.0  # least time between two updates of the progress: each is a request to the server
_MAX_ALERTS = 100
_COLUMNS = (
    *("life", "state", "severity", "region", "slice"),
    *("n", "share", "area", "effect", "score_effect", "first_seen"),
)


def _log_failure(run: Run, artifact: str) -> AbstractContextManager[None]:
    message = "run %s: the Prefect artifact %r was not written"
    return log_failure(message, run.run_id, artifact, level=logging.WARNING)


def artifact_key(record: Mapping[str, Any], kind: str) -> str:
    """Return the key of an artifact, which all runs of an audit share: Prefect shows artifacts of a key as versions."""
    return f"audit-{kind}-{slugify(audit_name(record))[:60].strip('-')}-{sql.audit_id(record)[:6]}"


class Progress:
    """Progress artifact of the attribution, updated at most every few seconds as shards end."""

    def __init__(self, run: Run, shards: int, pairs: int) -> None:
        self._run, self._shards, self._pairs = run, shards, pairs
        self._shards_done = self._pairs_done = 0
        self._artifact: Any = None
        self._updated = time.monotonic()
        with _log_failure(run, "progress"):
            key = artifact_key(run.read_manifest(), "progress")
            self._artifact = create_progress_artifact(0.0, key, self._describe())

    def _describe(self) -> str:
        done = f"{self._shards_done} of {self._shards} shards, {self._pairs_done} of {self._pairs} pairs attributed"
        return f"run {self._run.run_id}: {done}"

    def finish_shard(self, index: int, pairs: int) -> None:
        """Count a shard that has ended, log it, and update the artifact."""
        self._shards_done += 1
        self._pairs_done += pairs
        run_logger().info("shard %d has ended; %s", index, self._describe())
        is_due = self._shards_done == self._shards or time.monotonic() - self._updated >= _UPDATE_SECONDS
        if self._artifact is not None and is_due:
            self._updated = time.monotonic()
            with _log_failure(self._run, "progress"):
                update_progress_artifact(self._artifact, 100 * self._pairs_done / self._pairs, self._describe())


def _format_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else sanitize(str(value))


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\*_#\[\]~>|!-])", r"\\\1", text)


def format_summary(record: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]], report: str) -> str:
    """Return a Markdown summary of a run and its notifiable alerts, with the path or URL of the run's report."""
    blocks = [
        f"# Run {record['run_id']}: {format_status(record['status'])}",
        _escape_markdown(audit_name(record)),
        "| pairs | attributed | error rows | alerts | confirmed |\n| --: | --: | --: | --: | --: |\n| "
        + " | ".join(str(record["counts"][key]) for key in ("pairs", "attributions", "errors", "alerts", "confirmed"))
        + " |",
        _escape_markdown(sanitize(record["reason"] or "", 600)),
        "\n".join(f"- {_escape_markdown(line)}" for line in describe_alerts(alerts, _MAX_ALERTS))
        or "There is no independent alert, and none has been resolved.",
        f"Report: `{sanitize(report, 400)}`",
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def publish_outcome(run: Run) -> None:
    """Create the artifacts of a run that has ended: summary, table of alerts and link to the report."""
    with _log_failure(run, "summary"):
        record, report = run.read_manifest(), run.report_path
        with run.connect() as connection:
            history = "FROM lives WHERE run_id = $run_id AND life IS NOT NULL"
            alerts = select_notifiable(sql.read(connection, history, {"run_id": run.run_id}))
        summary = format_summary(record, alerts, report)
        create_markdown_artifact(summary, artifact_key(record, "summary"), f"run {run.run_id}")
        rows = [{column: _format_cell(row[column]) for column in _COLUMNS} for row in alerts[:_MAX_ALERTS]]
        create_table_artifact(rows, artifact_key(record, "alerts"), f"alerts of run {run.run_id} and their status")
        # Prefect can show a file only as a link, which works on the machine that has the lake.
        link = report if "://" in report else f"file://{quote(report)}"
        create_link_artifact(link, report, artifact_key(record, "report"), f"run {run.run_id}")
