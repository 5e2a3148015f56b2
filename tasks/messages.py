"""Messages about alerts and runs: events as data, which `tasks.notify` sends, their text, and Prefect artifacts.

Captions, slices and regions are untrusted text. Sentences that contain them are passed through `sanitize`; other fields
of an event's payload have the exact values. Artifacts are only an overview of the lake and the report. If one cannot be
written, this is logged and does not fail the audit.
"""

import hashlib
import itertools
import logging
import math
import re
import time
import unicodedata
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
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
from review.presentation.formatting import (
    ALERT_STATUSES,
    format_alert_update,
    format_audit,
    format_outcome,
    format_status,
)
from review.presentation.numbers import format_count
from stores import format_command
from tasks.execution import log_failure, run_logger
from tasks.lake.run import Run

MAX_DIGEST_LINES = 40
"""Maximum number of alerts in a digest: mail and chat truncate long messages, and the size of an event is limited."""

_NAMESPACE = uuid.UUID("5b3c2e0a-6a2e-5d0c-9c54-2f6a0f3f7d11")
_PAYLOAD_COLUMNS = (
    *("life_id", "alert_id", "life", "why", "state", "severity", "rule", "side", "region", "slice_kind", "slice"),
    *("direction", "reliance"),
    *("first_run", "last_run", "runs", "previous_run"),
    *("n", "share", "area", "effect", "score_effect", "score_low", "score_high", "margin"),
    *("effect_before", "score_effect_before"),
)
_UPDATE_SECONDS = 5.0  # least time between two updates of the progress: each is a request to the server
_MAX_ALERTS, _MAX_LOGGED = 100, 20
_COLUMNS = {
    "status": "life",
    "state": "state",
    "severity": "severity",
    "region": "region",
    "slice": "slice",
    "pairs": "n",
    "share": "share",
    "area": "area",
    "concentration": "effect",
    "score loss": "score_effect",
    "first seen": "first_seen",
}
"""Columns of the table of alerts by their titles."""


@dataclass(frozen=True)
class Event:
    """A Prefect event to send, such as `m2ib.alert.new`, and the message about it."""

    event: str
    key: str  # for deduplication: the same whenever the same event is sent again
    resource: dict[str, str]  # what it is about, as labels of a Prefect resource
    payload: dict[str, Any]
    life_ids: tuple[str, ...] = ()  # the alerts that it is about

    @property
    def event_id(self) -> uuid.UUID:
        """The id of the event, made from the key, so that a server ignores the event when it is sent again."""
        return uuid.uuid5(_NAMESPACE, self.key)

    @property
    def subject(self) -> str:
        """The subject of the message: audit, status, and the region of an alert."""
        status = format_status(self.event.rpartition(".")[2].replace("-", " "))
        region = f", {self.resource['prefect.resource.name']}" if self.event.startswith("m2ib.alert.") else ""
        return f"{self.payload['audit']}: {status}{region}"

    @property
    def body(self) -> str:
        """The text of the message: what happened, and where to read more."""
        facts = {key.replace("_", " "): self.payload.get(key) for key in ("audit", "run_id", "first_seen", "url")}
        facts["deduplication key"] = self.key
        return "\n".join([self.payload["text"], *(f"{key}: {value}" for key, value in facts.items() if value)])


def sanitize(text: str, limit: int = 160) -> str:
    """Return untrusted text as one line of at most `limit` characters without templates, links, mentions or markup.

    Prefect renders templates, and web hooks fill placeholders afterwards, so braces could name a secret of the web
    hook. Chats interpret <!channel>, @everyone and [text](link).
    """
    categories = [(unicodedata.category(mark), mark) for mark in text]
    line = "".join(" " if category[0] in "CZ" else mark for category, mark in categories if category != "Cf")
    line = re.sub(r"(?<=[{}])(?=[{}%#])|(?<=[%#])(?=})", " ", " ".join(line.split()))
    line = line.replace("](", "] (").replace("://", ": //")
    line = line.translate({ord("<"): "‹", ord(">"): "›", ord("@"): "＠", ord("`"): "'", ord("|"): "¦"})
    return line if len(line) <= limit else line[: limit - 1] + "…"


def audit_name(record: Mapping[str, Any]) -> str:
    """Return the name of a run's audit in a message."""
    return sanitize(format_audit(record))


def select_notifiable(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of the alert history that people are notified of, most urgent first: by status, then by rank.

    These are alerts that no stronger one explains, and resolved alerts of which people were notified before; by default
    confirmed ones (`[alerts] raise`).
    """

    def urgency(row: Mapping[str, Any]) -> tuple[Any, ...]:
        status = ALERT_STATUSES.index(row["life"])  # an alert that the run did not raise has no rank
        return status, row["rank"] or math.inf, row["state"], -row["effect"], row["life_id"]

    notifiable = (
        row["raised"] and (row["announced"] if row["life"] == "resolved" else row["explained_by"] is None)
        for row in rows
    )
    return sorted(itertools.compress(rows, notifiable), key=urgency)


def list_notifiable(run: Run) -> list[Mapping[str, Any]]:
    """Return `select_notifiable` of the alert history of a run. Alerts of unknown status are left out."""
    with run.connect() as connection:
        rows = sql.rows(connection, "review/alert_history_of_run", run_id=run.run_id, alert_id=None)
    return select_notifiable([row for row in rows if row["life"] is not None])


def _describe_alert(row: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    # An alert that this run did not raise has the figures of another run.
    run_pairs = record["counts"]["attributions"] if row["alert_id"] is not None else None
    return format_alert_update({"run_pairs": run_pairs, **row}, sanitize)


def describe_alerts(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any], limit: int) -> list[str]:
    """Return a line for each of the first `limit` rows of a run's alert history, and a line that counts the others."""
    lines = [_describe_alert(row, record) for row in rows[:limit]]
    return lines + ([f"and {len(rows) - limit} more, see the report"] if len(rows) > limit else [])


@dataclass(frozen=True)
class Links:
    """Where people read about a run: its report, and its pages on the review site if that has a URL."""

    report: str
    review_url: str | None = None

    def page(self, run_id: str, alert_id: str | None = None) -> str | None:
        """Return the URL of the page of an alert or run; None without a review site."""
        if self.review_url is None:
            return None
        alert = f"/alerts/{quote(alert_id, safe='')}" if alert_id else ""
        return f"{self.review_url.rstrip('/')}/runs/{quote(run_id, safe='')}{alert}"


def _event(
    name: str, key: str, record: Mapping[str, Any], links: Links, alert: Mapping[str, Any] | None = None, **facts: Any
) -> Event:
    """Build an event about an alert (a row of the alert history), or about the run itself."""
    audit, audit_id, run_id = audit_name(record), sql.audit_id(record), record["run_id"]
    resource = {"prefect.resource.id": f"m2ib.audit.{audit_id}", "prefect.resource.name": audit, "m2ib.run": run_id}
    if alert is not None:  # automations can match on the resource, but not on the payload
        resource |= {
            "prefect.resource.id": f"m2ib.alert.{alert['life_id']}",
            "prefect.resource.name": sanitize(alert["region"]),
            "m2ib.state": alert["state"],
            "m2ib.severity": alert["severity"] or "none",
            "m2ib.side": alert["side"],
        }
    about = {"audit": audit, "audit_id": audit_id, "run_id": run_id, "report": links.report, "dedup_key": key}
    about["url"] = links.page(run_id, alert["alert_id"] if alert else None)
    payload = about | facts | {name: record[name] for name in ("corpus", "model")}
    return Event(name, key, resource, payload, (alert["life_id"],) if alert else ())


def build_alert_event(row: Mapping[str, Any], record: Mapping[str, Any], links: Links) -> Event:
    """Build the event about an alert, which is a row of the alert history."""
    key = f"{row['life_id']}:{row['life']}:{row['run_id']}"
    facts = {column: row.get(column) for column in _PAYLOAD_COLUMNS} | {"text": _describe_alert(row, record)}
    facts |= {column: row[column].isoformat() for column in ("first_seen", "last_seen")}
    return _event(f"m2ib.alert.{slugify(row['life'])}", key, record, links, row, **facts)


def build_digest_event(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any], links: Links) -> Event:
    """Build one event for all notifiable alerts: their number per status, and a line for each of the most urgent."""
    counts = dict.fromkeys(ALERT_STATUSES, 0) | Counter(row["life"] for row in rows)
    lines = describe_alerts(rows, record, MAX_DIGEST_LINES)
    text = "\n".join([", ".join(f"{count} {format_status(status)}" for status, count in counts.items()), *lines])
    event = _event(
        "m2ib.audit.digest", f"digest:{record['run_id']}", record, links, counts=counts, lines=lines, text=text
    )
    return replace(event, life_ids=tuple(row["life_id"] for row in rows))


def build_backlog_event(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any], links: Links, key: str) -> Event:
    """Build one event for the open alerts of earlier runs that nobody was notified of; `key` distinguishes events."""
    lines = describe_alerts(rows, record, MAX_DIGEST_LINES)
    text = "\n".join([f"{format_count(len(rows), 'alert')} of earlier runs, open and not notified before:", *lines])
    event = _event("m2ib.audit.open-alerts", f"backlog:{record['run_id']}:{key}", record, links, lines=lines, text=text)
    return replace(event, life_ids=tuple(row["life_id"] for row in rows))


def build_run_event(record: Mapping[str, Any], links: Links) -> Event:
    """Build the event of a run that has ended: `m2ib.audit.completed`, `.stopped` (by a gate), `.failed`, ...

    If a resumed run fails again for the same reason, the event has the same id as before.
    """
    # If the lake was unreachable when the run ended, its manifest still says `running`.
    status = "failed" if record["status"] == "running" else record["status"]
    reason, counts = record["reason"] or "", record["counts"]
    key = f"{status}:{record['run_id']}:{hashlib.sha256(reason.encode()).hexdigest()[:12]}"
    text = (
        f"run {record['run_id']} {format_status(sanitize(status))}: {counts['attributions']} of "
        f"{format_count(counts['pairs'], 'pair')} attributed, {format_count(counts['alerts'], 'alert')}"
    )
    text += f"; {sanitize(reason, 600)}" if reason else ""
    facts = {"status": status, "reason": record["reason"], "text": text}
    return _event(f"m2ib.audit.{slugify(status)}", key, record, links, **facts)


def build_failed_start_event(facts: Mapping[str, Any], reason: str) -> Event:
    """Build the event of an audit that could not begin and has no run; the event of each attempt has a different id."""
    about = {"status": "failed", "reason": reason, "text": f"the audit could not begin: {sanitize(reason, 600)}"}
    return _event(
        "m2ib.audit.failed", f"not begun:{uuid.uuid4().hex}", {**facts, "run_id": ""}, Links(""), None, **about
    )


def slugify(text: str) -> str:
    """Return text in lower case, with everything except ASCII letters and digits replaced by hyphens."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def _log_failure(run: Run, artifact: str) -> AbstractContextManager[None]:
    message = "run %s: the Prefect artifact %r was not written"
    return log_failure(message, run.run_id, artifact, level=logging.WARNING)


def artifact_key(record: Mapping[str, Any], kind: str) -> str:
    """Return the key of a Prefect artifact. All runs of an audit share it: Prefect shows the artifacts as versions."""
    return f"audit-{kind}-{slugify(audit_name(record))[:60].strip('-')}-{sql.audit_id(record)[:6]}"


class Progress:
    """The Prefect progress artifact of the attribution, updated at most every few seconds as shards end."""

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
        "\n".join(f"- {_escape_markdown(line)}" for line in describe_alerts(alerts, record, _MAX_ALERTS))
        or "No alert is raised, and none has been resolved.",
        f"Report: `{sanitize(report, 400)}`",
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def publish_outcome(run: Run) -> None:
    """Create the Prefect artifacts of a run that has ended: summary, alerts, link to the report."""
    with _log_failure(run, "summary"):
        record, report = run.read_manifest(), run.report_path
        alerts = list_notifiable(run)
        summary = format_summary(record, alerts, report)
        create_markdown_artifact(summary, artifact_key(record, "summary"), f"run {run.run_id}")
        rows = [{title: _format_cell(row[key]) for title, key in _COLUMNS.items()} for row in alerts[:_MAX_ALERTS]]
        create_table_artifact(rows, artifact_key(record, "alerts"), f"alerts of run {run.run_id} and their status")
        # Prefect can show a file only as a link, which works on the machine that has the lake.
        link = report if "://" in report else f"file://{quote(report)}"
        create_link_artifact(link, report, artifact_key(record, "report"), f"run {run.run_id}")


def log_outcome(run: Run) -> None:
    """Log what a run that has ended found, and where to read more: the end of a worker's log."""
    with log_failure("run %s: its outcome could not be logged", run.run_id, level=logging.WARNING):
        record, about = run.read_manifest(), {"run_id": run.run_id}
        with run.connect() as connection:
            alerts = sql.read(connection, "FROM alerts WHERE run_id = $run_id", about)
        lines = [
            format_outcome(record, alerts),
            *([sanitize(record["reason"], 600)] if record["reason"] else []),
            *describe_alerts(list_notifiable(run), record, _MAX_LOGGED),
            f"report: {run.report_path}",
            f"alerts: {format_command(run.lake, 'alerts', run.run_id)}",
        ]
        for line in lines:
            run_logger().info("%s", line)
