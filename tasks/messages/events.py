"""What is told about alerts and runs: events as data, in words that cannot do harm where they arrive.

Captions, slices and regions are foreign text: what is made of them for people to read goes through `plain`. The exact
values stand beside it in the payload.
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

LIVES = ("new", "worse", "still_firing", "not_seen", "resolved")
"""Most urgent first."""

LINES = 40
"""Alerts that a digest spells out, at most: mail and chat cut what is longer, and an event has a largest size."""

_NAMESPACE = uuid.UUID("5b3c2e0a-6a2e-5d0c-9c54-2f6a0f3f7d11")
_SAID = {"new": "NEW", "worse": "WORSE", "still_firing": "STILL FIRING", "not_seen": "NOT SEEN", "resolved": "RESOLVED"}
_FIGURES = (
    *("n", "share", "area", "effect", "score_effect", "score_low", "score_high", "margin"),
    *("effect_before", "score_effect_before"),
)
_NAMED = (
    *("life_id", "alert_id", "life", "why", "state", "severity", "rule", "side", "region", "slice_kind", "slice"),
    *("first_run", "last_run", "runs", "previous_run"),
)


@dataclass(frozen=True)
class Event:
    """One event to send: its name, what it is about, what it says; `key` is the same whenever it is sent again."""

    event: str
    key: str
    resource: dict[str, str]
    payload: dict[str, Any]
    life_id: str | None = None

    @property
    def event_id(self) -> uuid.UUID:
        """Made from the key: a server that has seen it does not act on it twice."""
        return uuid.uuid5(_NAMESPACE, self.key)


def sanitize(text: str, limit: int = 160) -> str:
    """Foreign text as one short line in which no template, link, mention or markup of a chat is left.

    Prefect renders templates once and web hooks fill placeholders in turn, so braces that came along could name a
    secret of the hook; chats take <!channel>, @everyone and [text](link) for orders.
    """
    kinds = [(unicodedata.category(mark), mark) for mark in text]
    shown = "".join(" " if kind[0] in "CZ" else mark for kind, mark in kinds if kind != "Cf")
    shown = re.sub(r"(?<=[{}])(?=[{}%#])|(?<=[%#])(?=})", " ", " ".join(shown.split()))
    shown = shown.replace("](", "] (").replace("://", ": //")
    shown = shown.translate({ord("<"): "‹", ord(">"): "›", ord("@"): "＠", ord("`"): "'", ord("|"): "¦"})
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def audit_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """Identity and name of the audit that a run is one of: same corpus, same model."""
    return sql.audit_id(record), sanitize(f"{record['corpus'].rstrip('/').rsplit('/', 1)[-1]} with {record['model']}")


def sentence(row: Mapping[str, Any]) -> str:
    """One row of `lives`, said in one line."""
    if row["slice_kind"] == "corpus":
        where = "over all pairs"
    else:
        said = {"word": "with the word", "phrase": "with the words", "attribute": "with", "cluster": "of"}
        where = f"in pairs {said[row['slice_kind']]} '{sanitize(row['slice'])}'"
    severity = f", {row['severity']}" if row["severity"] else ""
    text = f"{_SAID[row['life']]} ({row['state']}{severity}): {sanitize(row['region'])} {where}"
    if row["score_effect"] is not None:
        done = "leaving it out" if row["side"] == "text" else "covering it"
        text += f"; {done} costs {row['score_effect']:.3f} of a margin of {row['margin']:.3f}"
        if row["score_effect_before"] is not None and row["alert_id"] is not None:
            text += f", before {row['score_effect_before']:.3f}"
    text += f"; {row['share']:.0%} of the attribution on {row['area']:.1%} in {row['n']} pairs"
    return f"{text}; {sanitize(row['why'])}" if row["why"] else text


def is_notifiable(row: Mapping[str, Any]) -> bool:
    """Whether an alert's life is for people: it stands on its own, or its end is that of one that did."""
    if row["life"] == "resolved":
        return bool(row["announced"])
    return row["explained_by"] is None


def _common(record: Mapping[str, Any], report: str) -> dict[str, Any]:
    identity, name = audit_of(record)
    return {
        "audit": name,
        "audit_id": identity,
        "run_id": record["run_id"],
        "corpus": record["corpus"],
        "model": record["model"],
        "report": report,
    }


def _about_run(record: Mapping[str, Any]) -> dict[str, str]:
    identity, name = audit_of(record)
    return {
        "prefect.resource.id": f"m2ib.audit.{identity}",
        "prefect.resource.name": name,
        "m2ib.run": record["run_id"],
    }


def build_alert_event(row: Mapping[str, Any], record: Mapping[str, Any], report: str) -> Event:
    """The event of one row of `lives`. Its labels can be matched on by automations, its payload cannot."""
    key = f"{row['life_id']}:{row['life']}:{row['run_id']}"
    labels = {
        "prefect.resource.id": f"m2ib.alert.{row['life_id']}",
        "prefect.resource.name": sanitize(row["region"]),
        "m2ib.run": row["run_id"],
        "m2ib.state": row["state"],
        "m2ib.severity": row["severity"] or "none",
        "m2ib.side": row["side"],
    }
    times = {key: row[key].isoformat() for key in ("first_seen", "last_seen")}
    payload = _common(record, report) | {key: row[key] for key in (*_NAMED, *_FIGURES)} | times
    payload |= {"dedup_key": key, "text": sentence(row)}
    return Event(f"m2ib.alert.{row['life'].replace('_', '-')}", key, labels, payload, row["life_id"])


def build_digest_event(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any], report: str) -> Event:
    """One event for all alerts of a run: how many of each life, and a line each, most urgent first."""
    key = f"digest:{record['run_id']}"
    counts = Counter(row["life"] for row in rows)
    told = sorted(rows, key=lambda row: (LIVES.index(row["life"]), row["state"], -row["effect"], row["life_id"]))
    lines = [sentence(row) for row in told[:LINES]]
    if len(told) > LINES:
        lines.append(f"and {len(told) - LINES} more, see the report")
    said = ", ".join(f"{counts[life]} {life.replace('_', ' ')}" for life in LIVES)
    payload = _common(record, report) | {
        "counts": {life: counts[life] for life in LIVES},
        "lines": lines,
        "dedup_key": key,
        "text": "\n".join([said, *lines]),
    }
    return Event("m2ib.audit.digest", key, _about_run(record), payload)


def build_run_event(record: Mapping[str, Any], report: str) -> Event:
    """The event of a run that has ended: `m2ib.audit.completed`, `.stopped` (by a gate), `.failed`, ...

    A run that fails again for the same reason after it was resumed is the same event.
    """
    # The store was out of reach when the run was to be sealed: it goes on to say `running`, and does not.
    record = dict(record) | ({"status": "failed"} if record["status"] == "running" else {})
    reason = record["reason"] or ""
    key = f"{record['status']}:{record['run_id']}:{hashlib.sha256(reason.encode()).hexdigest()[:12]}"
    status = sanitize(record["status"])
    payload = _common(record, report) | {"status": record["status"], "reason": record["reason"]}
    counts = record["counts"]
    figures = f"{counts['attributions']} of {counts['pairs']} pairs attributed, {counts['alerts']} alerts"
    text = f"run {record['run_id']} {status}: {figures}" + (f"; {sanitize(reason, 600)}" if reason else "")
    payload |= {"dedup_key": key, "text": text}
    return Event(f"m2ib.audit.{_slug(status)}", key, _about_run(record), payload)


def build_failed_start_event(facts: Mapping[str, Any], reason: str) -> Event:
    """The event of an audit that could not begin, and so left no run: facts has `corpus` and `model`.

    Nothing is stored of it, so each attempt tells.
    """
    record = {**facts, "run_id": ""}
    key = f"not begun:{uuid.uuid4().hex}"
    payload = _common(record, "") | {"status": "failed", "reason": reason, "dedup_key": key}
    payload["text"] = f"the audit could not begin: {sanitize(reason, 600)}"
    return Event("m2ib.audit.failed", key, _about_run(record), payload)


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
