"""Events about alerts and runs, as data: `tasks.notify` sends them.

Captions, slices and regions are untrusted text. What is made of them for people to read goes through `sanitize`; the
exact values are in the payload as well.
"""

import hashlib
import re
import unicodedata
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sql
from review.presentation.formatting import (
    ALERT_STATUSES,
    format_alert_status,
    format_alert_update,
    format_count,
    format_run_status,
)

MAX_DIGEST_LINES = 40
"""Alerts that a digest describes at most: mail and chat truncate long messages, and the size of an event is limited."""

_NAMESPACE = uuid.UUID("5b3c2e0a-6a2e-5d0c-9c54-2f6a0f3f7d11")
_PAYLOAD_COLUMNS = (
    *("life_id", "alert_id", "life", "why", "state", "severity", "rule", "side", "region", "slice_kind", "slice"),
    *("first_run", "last_run", "runs", "previous_run"),
    *("n", "share", "area", "effect", "score_effect", "score_low", "score_high", "margin"),
    *("effect_before", "score_effect_before"),
)


@dataclass(frozen=True)
class Event:
    """An event to send.

    Attributes:
        event: name, such as `m2ib.alert.new`.
        key: deduplication key; the same whenever the same event is sent again.
        resource: what the event is about, as labels of a Prefect resource.
        payload: facts and text.
        life_id: lasting id of the alert that the event is about; None if it is about a run.
    """

    event: str
    key: str
    resource: dict[str, str]
    payload: dict[str, Any]
    life_id: str | None = None

    @property
    def event_id(self) -> uuid.UUID:
        """Id made from the key, so that a server ignores the event when it is sent again."""
        return uuid.uuid5(_NAMESPACE, self.key)


def sanitize(text: str, limit: int = 160) -> str:
    """Return untrusted text as one short line without templates, links, mentions or markup.

    Prefect renders templates, and web hooks fill placeholders afterwards, so braces could name a secret of the web
    hook. Chats interpret <!channel>, @everyone and [text](link).

    Args:
        text: text from a corpus, a configuration or an error.
        limit: maximum number of characters; longer text ends with an ellipsis.
    """
    categories = [(unicodedata.category(mark), mark) for mark in text]
    line = "".join(" " if category[0] in "CZ" else mark for category, mark in categories if category != "Cf")
    line = re.sub(r"(?<=[{}])(?=[{}%#])|(?<=[%#])(?=})", " ", " ".join(line.split()))
    line = line.replace("](", "] (").replace("://", ": //")
    line = line.translate({ord("<"): "‹", ord(">"): "›", ord("@"): "＠", ord("`"): "'", ord("|"): "¦"})
    return line if len(line) <= limit else line[: limit - 1] + "…"


def audit_name(record: Mapping[str, Any]) -> str:
    """Return the name of a run's audit: its corpus and model, without the corpus's folders."""
    return sanitize(f"{record['corpus'].rstrip('/').rsplit('/', 1)[-1]} with {record['model']}")


def is_notifiable(row: Mapping[str, Any]) -> bool:
    """Return whether a row of the alert history concerns people: an independent alert, or the end of one."""
    if row["life"] == "resolved":
        return bool(row["announced"])
    return row["explained_by"] is None


def select_notifiable(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the notifiable rows of the alert history, most urgent first."""
    rows = [row for row in rows if is_notifiable(row)]
    return sorted(
        rows, key=lambda row: (ALERT_STATUSES.index(row["life"]), row["state"], -row["effect"], row["life_id"])
    )


def describe_alerts(rows: Sequence[Mapping[str, Any]], limit: int) -> list[str]:
    """Return a line for each of the first `limit` rows of the alert history, and one that counts the others."""
    lines = [format_alert_update(row, sanitize) for row in rows[:limit]]
    return lines + ([f"and {len(rows) - limit} more, see the report"] if len(rows) > limit else [])


def _payload(record: Mapping[str, Any], report: str, key: str, **facts: Any) -> dict[str, Any]:
    return {
        "audit": audit_name(record),
        "audit_id": sql.audit_id(record),
        "run_id": record["run_id"],
        "corpus": record["corpus"],
        "model": record["model"],
        "report": report,
        "dedup_key": key,
        **facts,
    }


def _run_resource(record: Mapping[str, Any]) -> dict[str, str]:
    return {
        "prefect.resource.id": f"m2ib.audit.{sql.audit_id(record)}",
        "prefect.resource.name": audit_name(record),
        "m2ib.run": record["run_id"],
    }


def build_alert_event(row: Mapping[str, Any], record: Mapping[str, Any], report: str) -> Event:
    """Build the event of one alert.

    Automations can match on the labels of the resource, but not on the payload.

    Args:
        row: row of the alert history (table `lives`).
        record: manifest of the run.
        report: path or URL of the run's report.
    """
    key = f"{row['life_id']}:{row['life']}:{row['run_id']}"
    resource = {
        "prefect.resource.id": f"m2ib.alert.{row['life_id']}",
        "prefect.resource.name": sanitize(row["region"]),
        "m2ib.run": row["run_id"],
        "m2ib.state": row["state"],
        "m2ib.severity": row["severity"] or "none",
        "m2ib.side": row["side"],
    }
    facts = {column: row[column] for column in _PAYLOAD_COLUMNS}
    facts |= {column: row[column].isoformat() for column in ("first_seen", "last_seen")}
    payload = _payload(record, report, key, text=format_alert_update(row, sanitize), **facts)
    return Event(f"m2ib.alert.{row['life'].replace('_', '-')}", key, resource, payload, row["life_id"])


def build_digest_event(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any], report: str) -> Event:
    """Build one event for all alerts of a run: how many there are of each status, and a line for the most urgent.

    Args:
        rows: notifiable rows of the alert history, most urgent first.
        record: manifest of the run.
        report: path or URL of the run's report.
    """
    key = f"digest:{record['run_id']}"
    counted = Counter(row["life"] for row in rows)
    counts = {status: counted[status] for status in ALERT_STATUSES}
    lines = describe_alerts(rows, MAX_DIGEST_LINES)
    summary = ", ".join(f"{count} {format_alert_status(status)}" for status, count in counts.items())
    payload = _payload(record, report, key, counts=counts, lines=lines, text="\n".join([summary, *lines]))
    return Event("m2ib.audit.digest", key, _run_resource(record), payload)


def build_run_event(record: Mapping[str, Any], report: str) -> Event:
    """Build the event of a run that has ended: `m2ib.audit.completed`, `.stopped` (by a gate), `.failed`, ...

    A run that is resumed and fails again for the same reason gives the same event.

    Args:
        record: manifest of the run.
        report: path or URL of the run's report.
    """
    # If the lake was unreachable when the run ended, its manifest still says `running`.
    status = "failed" if record["status"] == "running" else record["status"]
    reason = record["reason"] or ""
    key = f"{status}:{record['run_id']}:{hashlib.sha256(reason.encode()).hexdigest()[:12]}"
    counts = record["counts"]
    text = (
        f"run {record['run_id']} {format_run_status(sanitize(status))}: {counts['attributions']} of "
        f"{format_count(counts['pairs'], 'pair')} attributed, {format_count(counts['alerts'], 'alert')}"
    )
    text += f"; {sanitize(reason, 600)}" if reason else ""
    payload = _payload(record, report, key, status=status, reason=record["reason"], text=text)
    return Event(f"m2ib.audit.{slugify(status)}", key, _run_resource(record), payload)


def build_failed_start_event(facts: Mapping[str, Any], reason: str) -> Event:
    """Build the event of an audit that could not begin and has no run; each attempt gives a different event.

    Args:
        facts: `corpus` and `model` as in a manifest.
        reason: the error.
    """
    record = {**facts, "run_id": ""}
    key = f"not begun:{uuid.uuid4().hex}"
    text = f"the audit could not begin: {sanitize(reason, 600)}"
    payload = _payload(record, "", key, status="failed", reason=reason, text=text)
    return Event("m2ib.audit.failed", key, _run_resource(record), payload)


def slugify(text: str) -> str:
    """Return text in lower case with a hyphen for everything but letters and digits of ASCII."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
