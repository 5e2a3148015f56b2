"""Who is notified: notification blocks of Prefect as recipients, their automations, and messages sent on request.

Runs send their messages themselves (`tasks.outbox`). Automations report what a run cannot: that it crashed, was refused
or did not start, and that no audit has completed in time. Their templates read only the event.
"""

import contextlib
import re
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from prefect.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.blocks import notifications
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import SendNotification
from prefect.exceptions import ObjectNotFound

import sql
from stores import Root
from tasks import recipients
from tasks.errors import BadInputError
from tasks.lake.run import Run
from tasks.mail import Email
from tasks.messages import Links, build_backlog_event
from tasks.outbox import describe_attempt, record_attempts
from tasks.recipients import ALERT_KINDS, RUN_KINDS, Recipient

FLOW_RUNS = {"late": "prefect.flow-run.Late", "crashed": "prefect.flow-run.Crashed"}
"""Prefect's own events, for runs that end before they can notify. Prefect emits them only with a running server."""

REFUSED = "refused"
"""A flow run whose parameters are invalid: it fails before the flow's own code runs."""

CHOICES = (*ALERT_KINDS, *(kind for kind in RUN_KINDS.values() if kind not in ALERT_KINDS), *FLOW_RUNS, REFUSED)
DEFAULT = tuple(name for name in CHOICES if name not in ("still-firing", "not-seen", "completed"))

_FLOW_RUN_SUBJECT = "{{ event.event.split('.')[-1] }}: flow run {{ event.resource.name }}"
_FLOW_RUN_BODY = """the audit's flow run {{ event.resource.name }} is {{ event.event.split('.')[-1] }}
time: {{ event.occurred }}
id of the flow run: {{ event.resource.id }}"""
_REFUSED_BODY = """the audit's flow run {{ event.resource.name }} could not begin: its parameters are not a valid
configuration
time: {{ event.occurred }}
id of the flow run: {{ event.resource.id }}"""
_SILENT_SUBJECT = "no audit has completed in time"
_SILENT_BODY = "no audit of this server has completed within {hours:g} hours; see its flow runs, worker and schedule"


def automations(
    block: str, block_id: Any, on: Collection[str], silent_after: float | None
) -> Iterator[tuple[str, AutomationCore | None]]:
    """Yield (name, automation) for each automation of a notification block; (name, None) for one to be removed.

    `on` lists the kinds of messages, each one of `CHOICES`; `silent_after` is the number of hours without a completed
    audit after which to notify.
    """
    of_audit = ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": ["audit", "reflag"]})

    def reactive(events: set[str], **match: Any) -> EventTrigger | None:
        reacts: dict[str, Any] = {"posture": Posture.Reactive, "threshold": 1, "match_related": of_audit}
        return EventTrigger(expect=events, **reacts, **match) if events else None

    refused = reactive(
        {"prefect.flow-run.Failed"} if REFUSED in on else set(),
        match=ResourceSpecification({"prefect.state-message": "Validation of flow parameters failed*"}),
    )
    silence = silent_after and EventTrigger(
        expect={"m2ib.audit.completed", "m2ib.audit.completed-with-errors"}, posture=Posture.Proactive, threshold=1,
        within=timedelta(hours=silent_after),
    )  # fmt: skip
    flow_run = reactive({FLOW_RUNS[name] for name in on if name in FLOW_RUNS})
    silent_body = _SILENT_BODY.format(hours=silent_after or 0)
    for about, description, trigger, subject, body in (
        ("flow runs", "audits that crashed or did not start", flow_run, _FLOW_RUN_SUBJECT, _FLOW_RUN_BODY),
        ("refusals", "audits whose parameters are invalid", refused, _FLOW_RUN_SUBJECT, _REFUSED_BODY),
        ("silence", "no audit has completed", silence or None, _SILENT_SUBJECT, silent_body),
        ("alerts", "", None, "", ""),  # of earlier releases: runs now send these messages themselves
        ("runs", "", None, "", ""),
    ):
        name = f"m2ib-audit {about} to {block}"
        actions: list[Any] = [SendNotification(block_document_id=block_id, subject=subject, body=body)]
        core = AutomationCore(name=name, description=description, trigger=trigger, actions=actions) if trigger else None
        yield name, core


def build_block(kind: str, target: str, server: str | None = None, sender: str | None = None) -> tuple[str, Block]:
    """Return a notification block that is not saved yet, and its TYPE/NAME, which depends on the target alone.

    Args:
        kind: webhook, slack, teams or email.
        target: URL of the web hook, or addresses for email, separated by commas.
        server: URL of the SMTP server, for email.
        sender: Address of the sender, for email.
    """
    place = target if kind == "email" else urlsplit(target).hostname or ""
    name = f"m2ib-audit-{re.sub('[^a-z0-9]+', '-', place.lower()).strip('-')[:40]}-{sql.text_digest(target)[:6]}"
    if kind == "email":
        return f"smtp-email/{name}", Email.through(server or "", sender or "", target)
    if not target.startswith(("http://", "https://")):
        raise BadInputError(f"--{kind}: expected a URL that begins with https:// or http://")
    try:
        if kind == "slack":
            return f"slack-webhook/{name}", notifications.SlackWebhook(url=target)
        if kind == "teams":
            return f"ms-teams-webhook/{name}", notifications.MicrosoftTeamsWebhook(url=target)
    except ValueError as error:
        raise BadInputError(f"--{kind}: {str(error).splitlines()[-1]}") from error
    message = {"subject": "{{subject}}", "text": "{{body}}"}
    return f"custom-webhook/{name}", notifications.CustomWebhookNotificationBlock(
        name="m2ib-audit", url=target, json_data=message
    )


def _block_id(client: SyncPrefectClient, block: str) -> Any:
    kind, _, name = block.partition("/")
    document = None
    if kind and name:
        with contextlib.suppress(ObjectNotFound):
            document = client.read_block_document_by_name(name, kind, include_secrets=False)
    if document is None or "notify" not in ((document.block_schema and document.block_schema.capabilities) or ()):
        raise BadInputError(
            f"--block: got {block}, expected TYPE/NAME of a notification block of the server {client.api_url}; list "
            "its blocks with: prefect block ls"
        )
    return document.id


def set_up(
    block: str, on: Sequence[str], confirmed_only: bool = False, silent_after: float | None = None
) -> list[tuple[str, str]]:
    """Create, update or remove a recipient and its automations; see `automations` for the settings.

    Returns (name, action) for the recipient and each automation; the action is `created`, `updated` or `removed`.
    """
    if unknown := [name for name in on if name not in CHOICES]:
        raise BadInputError(f"--on: got {', '.join(unknown)}, expected any of: {', '.join(CHOICES)}")
    done = []
    with get_client(sync_client=True) as client:
        block_id = _block_id(client, block)
        known = {recipient.block: recipient for recipient in recipients.read_recipients()}
        if on or block in known:
            done.append((block, ("updated" if block in known else "created") if on else "removed"))
        known.pop(block, None)
        recipients.write_recipients([*known.values(), *([Recipient(block, tuple(on), confirmed_only)] if on else [])])
        for name, core in automations(block, block_id, on, silent_after):
            before = client.read_automations_by_name(name)
            for extra in before[1:] if core else before:
                client.delete_automation(extra.id)
            if core and before:
                client.update_automation(before[0].id, core)
            elif core:
                client.create_automation(core)
            if core or before:
                done.append((name, ("updated" if before else "created") if core else "removed"))
    return done


def list_open_alerts(lake: Root, recipient: Recipient | None) -> list[tuple[Run, list[dict[str, Any]]]]:
    """Return the undecided alerts of each audit's newest complete run that a recipient has not been notified of.

    Without a recipient, those that nobody was notified of. Runs without such alerts are left out.
    """
    complete = [row for row in sql.read_manifests(lake) if sql.is_complete(row) and sql.is_trusted(row)]
    newest = {sql.audit_id(row): row["run_id"] for row in complete}
    found = []
    for run_id in newest.values():
        with sql.connect(lake, run_id, with_decisions=True) as connection:
            if recipient is None:
                rows = sql.rows(connection, "review/never_notified", run_id=run_id)
            else:
                rows = sql.rows(connection, "review/not_delivered", run_id=run_id, recipient=recipient.block)
        is_confirmed_only = recipient is not None and recipient.confirmed
        rows = [row for row in rows if row["state"] == "confirmed" or not is_confirmed_only]
        if rows := [row for row in rows if row["alert_id"] is not None]:
            found.append((Run(lake, run_id), rows))
    return found


def send_backlog(recipient: Recipient, backlog: Sequence[tuple[Run, list[dict[str, Any]]]]) -> tuple[int, str | None]:
    """Send one message for each run with its open alerts; see `list_open_alerts`.

    Returns the number of alerts that were delivered, and why others were not.
    """
    delivered, reason = 0, None
    for run, rows in backlog:
        event = build_backlog_event(rows, run.read_manifest(), Links(str(run.report_path)), recipient.block)
        (failure,) = recipients.deliver(recipient.block, [(event.subject, event.body)])
        outcome = "failed" if failure else "delivered"
        record_attempts(run.lake, [describe_attempt(event, run.run_id, recipient.block, outcome, failure)])
        delivered, reason = delivered + (0 if failure else len(rows)), failure or reason
    return delivered, reason


def send_test(block: str) -> str | None:
    """Send a sample message; return None if it was delivered, and otherwise why not."""
    body = (
        "This is a test message. A message about an alert begins like this:\n"
        "NEW (suspected): attribution concentrates on the region “corner” in pairs whose caption contains “example”"
    )
    return recipients.deliver(block, [("m2ib-audit: test message", body)])[0]
