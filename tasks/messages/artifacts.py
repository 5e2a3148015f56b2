"""What Prefect's pages show of a run: its progress, a summary, its alerts, where the report is.

The lake and the report are the record; artifacts are for a glance. None of them may fail the audit: what goes wrong is
logged.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

import sql
from tasks.execution import run_logger
from tasks.lake.run import Run
from tasks.messages.events import LIVES, audit_of, is_notifiable, sanitize, sentence

_EVERY = 5.0  # seconds between two updates of the progress, at least: each is a request to the server
_ROWS = 100  # alerts in the table, at most
_TABLE = ("life", "state", "severity", "region", "slice", "n", "share", "area", "effect", "score_effect", "first_seen")


@contextmanager
def _only_logged(run: Run, what: str) -> Iterator[None]:
    try:
        yield
    except Exception:  # noqa: BLE001  # a page of Prefect is not worth an audit
        run_logger().log(logging.WARNING, "run %s: no %s for Prefect's pages", run.run_id, what, exc_info=True)


def artifact_key(record: Mapping[str, Any], kind: str) -> str:
    """Key of an artifact: the same for all runs of an audit, which Prefect then shows as its versions."""
    identity, name = audit_of(record)
    slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-")
    return f"audit-{kind}-{slug}-{identity[:6]}"


class Progress:
    """The progress of the attribution as an artifact, updated as shards end, within reason."""

    def __init__(self, run: Run, shards: int, pairs: int) -> None:
        self._run, self._shards, self._pairs = run, shards, pairs
        self._done = self._shards_done = 0
        self._artifact: UUID | None = None
        self._said = time.monotonic()
        with _only_logged(run, "progress"):
            key = artifact_key(run.read_manifest(), "progress")
            self._artifact = create_progress_artifact(0.0, key, self._description())  # type: ignore[assignment]

    def _description(self) -> str:
        return (
            f"run {self._run.run_id}: {self._shards_done} of {self._shards} shards, "
            f"{self._done} of {self._pairs} pairs attributed"
        )

    def finish_shard(self, index: int, pairs: int) -> None:
        """Count a shard, and say so."""
        self._done += pairs
        self._shards_done += 1
        run_logger().info("run %s shard %d ended: %s", self._run.run_id, index, self._description().split(": ", 1)[1])
        last = self._shards_done == self._shards
        if self._artifact is None or not (last or time.monotonic() - self._said >= _EVERY):
            return
        self._said = time.monotonic()
        with _only_logged(self._run, "progress"):
            update_progress_artifact(self._artifact, 100 * self._done / self._pairs, self._description())


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else sanitize(str(value))


def _escaped(text: str) -> str:
    r"""Text that markdown shows as it is: `a_b` would be set in italics, `# x` in a heading."""
    return re.sub(r"([\\*_#\[\]~>|!-])", r"\\\1", text)


def summary(record: Mapping[str, Any], lives: Sequence[Mapping[str, Any]], report: str) -> str:
    """A run on one page of markdown."""
    counts = [str(record["counts"][key]) for key in ("pairs", "attributions", "errors", "alerts", "confirmed")]
    lines = [
        f"# Run {record['run_id']}: {record['status'].replace('_', ' ')}",
        "",
        _escaped(audit_of(record)[1]),
        "",
        "| pairs | attributed | error rows | alerts | confirmed |",
        "| --: | --: | --: | --: | --: |",
        f"| {' | '.join(counts)} |",
        "",
    ]
    if record["reason"]:
        lines += [_escaped(sanitize(record["reason"], 600)), ""]
    told = sorted((row for row in lives if is_notifiable(row)), key=lambda row: LIVES.index(row["life"]))
    lines += [f"- {_escaped(sentence(row))}" for row in told[:_ROWS]]
    if not told:
        lines.append("No alert stands on its own, and none has been resolved.")
    elif len(told) > _ROWS:
        lines.append(f"- and {len(told) - _ROWS} more")
    return "\n".join([*lines, "", f"Report: `{sanitize(report, 400)}`", ""])


def read_alert_history(run: Run) -> list[dict[str, Any]]:
    """The run's rows of `lives`, none if it did not come that far."""
    with run.connect() as connection:
        return sql.read(connection, "FROM lives WHERE run_id = $run_id AND life IS NOT NULL", {"run_id": run.run_id})


def publish_outcome(run: Run) -> None:
    """Summary, table of alerts and link to the report of a run that has ended."""
    with _only_logged(run, "summary"):
        record, report = run.read_manifest(), run.report_path
        lives = read_alert_history(run)
        create_markdown_artifact(summary(record, lives, report), artifact_key(record, "summary"), f"run {run.run_id}")
        rows = [{column: _cell(row[column]) for column in _TABLE} for row in lives if is_notifiable(row)]
        key = artifact_key(record, "alerts")
        create_table_artifact(rows[:_ROWS], key, f"alerts of run {run.run_id} and what became of them")
        # A link is all that Prefect can show of a file: a browser follows it on the machine that has the lake.
        link = report if "://" in report else f"file://{quote(report)}"
        create_link_artifact(link, report, artifact_key(record, "report"), f"run {run.run_id}")
