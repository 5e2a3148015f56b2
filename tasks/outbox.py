"""The outbox of a run: messages to recipients, and the record of their delivery in the lake's ledger."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sql
from review.presentation.numbers import format_count
from stores import Root, ledger
from stores.keys import SigningKey
from tasks import messages, recipients
from tasks.execution import run_logger
from tasks.lake.run import Run
from tasks.messages import Event, Links
from tasks.recipients import Recipient, RecipientsError
from tasks.settings import NotifyConfig

RETRY_DAYS = 7
"""Number of days for which later runs try to deliver a message."""


def find_recipients() -> list[Recipient]:
    """Return the recipients that the Prefect server knows; log a server that does not answer."""
    try:
        return recipients.read_recipients()
    except RecipientsError as error:
        run_logger().warning("nobody is notified: %s", error)
        return []


def deliver(block: str, events: Sequence[Event]) -> list[str | None]:
    """Send messages to a recipient, and log in one line what was not delivered; see `recipients.deliver`."""
    reasons = recipients.deliver(block, [(event.subject, event.body) for event in events])
    if failed := [reason for reason in reasons if reason is not None]:
        run_logger().warning(
            "%d of %s not delivered to %s (%s); the next run tries again", len(failed),
            format_count(len(events), "message"), block, ", ".join(Counter(failed)),
        )  # fmt: skip
    elif events:
        run_logger().info("delivered to %s: %s", block, format_count(len(events), "message"))
    return reasons


def describe_attempt(
    event: Event, run_id: str, recipient: str | None, outcome: str, reason: str | None
) -> dict[str, Any]:
    """Return what the ledger stores about an attempt to deliver a message: ids only, since it is never changed."""
    facts = {"run_id": run_id, "event_id": str(event.event_id), "event": event.event, "life_ids": [*event.life_ids]}
    return facts | {"recipient": recipient, "outcome": outcome, "reason": reason}


def record_attempts(lake: Root, attempts: Sequence[Mapping[str, Any]], signer: SigningKey | None = None) -> None:
    """Append attempts to deliver messages to the lake's ledger."""
    if attempts:
        ledger.append(lake, "notification", {"messages": [*attempts]}, signer)


class Outbox:
    """The messages of a run, and those of earlier runs of its audit that were not delivered."""

    def __init__(self, run: Run, settings: NotifyConfig) -> None:
        self._run, self._settings = run, settings
        self._attempts: list[dict[str, Any]] = []
        with self._connect() as connection:
            self._past = sql.read(connection, "SELECT event_id, recipient FROM deliveries")
            self._failed = sql.read(connection, "FROM undelivered ORDER BY first_tried, event_id")
            self.never_notified = sql.rows(connection, "review/never_notified", run_id=run.run_id)

    def _connect(self) -> sql.Connection:
        try:
            return sql.connect(self._run.lake, self._run.run_id, with_decisions=True)
        except ledger.LedgerError as error:  # a repeated message is better than a missing one
            run_logger().warning("messages may be repeated, because the ledger cannot be read: %s", error)
            return self._run.connect()

    def send(self, events: Sequence[Event], everyone: Sequence[Recipient]) -> None:
        """Send to each recipient what was not delivered before, and the events that it wants and has not got."""
        for recipient in everyone:
            known = {row["event_id"] for row in self._past if row["recipient"] == recipient.block}
            todo = self._list_retries(recipient)
            todo += [(event, self._run.run_id) for event in events if str(event.event_id) not in known]
            todo = [(event, run_id) for event, run_id in todo if recipient.wants(event)]
            if backlog := self._build_backlog(recipient, {i for event, _ in todo for i in event.life_ids}):
                todo.insert(0, (backlog, self._run.run_id))
            reasons = deliver(recipient.block, [event for event, _ in todo])
            for (event, run_id), reason in zip(todo, reasons, strict=True):
                outcome = "failed" if reason else "delivered"
                self._attempts.append(describe_attempt(event, run_id, recipient.block, outcome, reason))

    def _list_retries(self, recipient: Recipient) -> list[tuple[Event, str]]:
        """Build the messages of this audit again that were not delivered; record those that are dropped."""
        found = []
        ended = {
            row["life_id"] for row in self._run.iter_rows("lives", ["life_id", "life"]) if row["life"] == "resolved"
        }
        audit = sql.audit_id(self._run.read_manifest())
        own = {
            row["run_id"]: row
            for row in sql.read_manifests(self._run.lake)
            if sql.audit_id(row) == audit and (sql.is_trusted(row) or row["run_id"] == self._run.run_id)
        }
        for row in self._failed:
            if row["recipient"] != recipient.block or row["run_id"] not in own:
                continue
            is_old = row["first_tried"] < datetime.now(UTC) - timedelta(days=RETRY_DAYS)
            is_over = row["event"].startswith("m2ib.alert.") and ended.issuperset(row["life_ids"])
            event = None if is_old or is_over else self._rebuild(own[row["run_id"]], row)
            if event is not None and str(event.event_id) == row["event_id"] and recipient.wants(event):
                found.append((event, row["run_id"]))
                continue
            keys = ("run_id", "event_id", "event", "life_ids", "recipient")
            reason = (
                f"not delivered within {RETRY_DAYS} days" if is_old else "it is out of date, or not wanted any more"
            )
            self._attempts.append({key: row[key] for key in keys} | {"outcome": "dropped", "reason": reason})
        return found

    def _rebuild(self, record: Mapping[str, Any], failed: Mapping[str, Any]) -> Event | None:
        """Build an event of an earlier run again; None if the run's rows were deleted."""
        run = Run(self._run.lake, record["run_id"])
        about = record, Links(str(run.report_path), self._settings.review_url)
        if not failed["life_ids"]:
            return messages.build_run_event(*about)
        lives = {row["life_id"]: row for row in run.iter_rows("lives")}
        rows = [lives[life_id] for life_id in failed["life_ids"] if life_id in lives]
        if len(rows) < len(failed["life_ids"]):
            return None
        if failed["event"] == "m2ib.audit.open-alerts":
            return messages.build_backlog_event(rows, *about, failed["recipient"])
        if failed["event"] == "m2ib.audit.digest":
            return messages.build_digest_event(rows, *about)
        return messages.build_alert_event(rows[0], *about)

    def _build_backlog(self, recipient: Recipient, sent: set[str]) -> Event | None:
        """Build the message about open alerts that nobody was notified of; None without any."""
        rows = [
            row
            for row in self.never_notified
            if row["alert_id"] is not None
            and row["life_id"] not in sent
            and (row["state"] == "confirmed" or not recipient.confirmed)
        ]
        record = self._run.read_manifest()
        is_wanted = "new" in recipient.on and "new" in self._settings.tell and not self._settings.digest
        if not rows or not is_wanted or not sql.is_complete(record):
            return None
        links = Links(str(self._run.report_path), self._settings.review_url)
        return messages.build_backlog_event(rows, record, links, recipient.block)

    def record(self, events: Sequence[Event], signer: SigningKey | None = None) -> None:
        """Record the attempts in the ledger, and the alerts of which nobody had asked to be notified."""
        known = {row["event_id"] for row in [*self._past, *self._attempts]}
        for event in events:
            if event.life_ids and str(event.event_id) not in known:
                self._attempts.append(describe_attempt(event, self._run.run_id, None, "nobody", None))
        record_attempts(self._run.lake, self._attempts, signer)
