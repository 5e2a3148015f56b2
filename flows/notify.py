"""Notifications: Prefect automations that send the audit's events to a notification block, managed by name."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any

from prefect.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import SendNotification
from prefect.exceptions import ObjectNotFound

from tasks.errors import BadInputError

ALERTS = {life: f"m2ib.alert.{life}" for life in ("new", "worse", "resolved", "still-firing", "not-seen")}
RUNS = {
    "digest": "m2ib.audit.digest",
    "failed": "m2ib.audit.failed",
    "stopped": "m2ib.audit.stopped",
    "interrupted": "m2ib.audit.interrupted",
    "errors": "m2ib.audit.completed-with-errors",
    "completed": "m2ib.audit.completed",
}
PREFECT = {"late": "prefect.flow-run.Late", "crashed": "prefect.flow-run.Crashed"}
"""Prefect's own events, for runs that end before they can send one. Prefect emits them only with a running server."""

REFUSED = "refused"
"""A flow run whose parameters are invalid: it fails before the flow's own code runs."""

CHOICES = (*ALERTS, *RUNS, *PREFECT, REFUSED)
DEFAULT = tuple(name for name in CHOICES if name not in ("still-firing", "not-seen", "completed"))

# Templates read only the event. Prefect renders them once: braces in a value stay text, and `text` contains
# none that a web hook could read as its own placeholder (tasks.messages.sanitize).
_ALERT_SUBJECT = "{{ event.payload.audit }}: {{ event.payload.life | replace('_', ' ') }}, {{ event.resource.name }}"
_ALERT_BODY = """{{ event.payload.text }}
audit: {{ event.payload.audit }}
run: {{ event.payload.run_id }}
first seen: {{ event.payload.first_seen }} (run {{ event.payload.first_run }})
report: {{ event.payload.report }}
deduplication key: {{ event.payload.dedup_key }}"""
_RUN_SUBJECT = "{{ event.resource.name }}: {{ event.event.split('.')[-1] | replace('-', ' ') }}"
_RUN_BODY = """{{ event.payload.text }}
audit: {{ event.payload.audit }}
run: {{ event.payload.run_id }}
report: {{ event.payload.report }}
deduplication key: {{ event.payload.dedup_key }}"""
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
    block: str, block_id: Any, on: Collection[str], confirmed_only: bool, silent_after: float | None
) -> Iterator[tuple[str, AutomationCore | None]]:
    """Yield (name, automation) for each automation of a notification block; (name, None) for one to be removed.

    `on` lists the kinds of events to send, each one of `CHOICES`; `silent_after` is the number of hours without a
    completed audit after which to notify.
    """

    def reactive(events: set[str], **match: Any) -> EventTrigger | None:
        return EventTrigger(expect=events, posture=Posture.Reactive, threshold=1, **match) if events else None

    alerts, runs, flow_runs = ({known[name] for name in on if name in known} for known in (ALERTS, RUNS, PREFECT))
    labels = {"match": ResourceSpecification({"m2ib.state": "confirmed"})} if confirmed_only else {}
    of_audit = ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": ["audit", "reflag"]})
    refused = reactive(
        {"prefect.flow-run.Failed"} if REFUSED in on else set(),
        match=ResourceSpecification({"prefect.state-message": "Validation of flow parameters failed*"}),
        match_related=of_audit,
    )
    silence = silent_after and EventTrigger(
        expect={RUNS["completed"], RUNS["errors"]}, posture=Posture.Proactive, threshold=1,
        within=timedelta(hours=silent_after),
    )  # fmt: skip
    flow_run = reactive(flow_runs, match_related=of_audit)
    silent_body = _SILENT_BODY.format(hours=silent_after or 0)
    for about, description, trigger, subject, body in (
        ("alerts", "new, changed and resolved alerts", reactive(alerts, **labels), _ALERT_SUBJECT, _ALERT_BODY),
        ("runs", "how audits ended, and digests", reactive(runs), _RUN_SUBJECT, _RUN_BODY),
        ("flow runs", "audits that crashed or did not start", flow_run, _FLOW_RUN_SUBJECT, _FLOW_RUN_BODY),
        ("refusals", "audits whose parameters are invalid", refused, _FLOW_RUN_SUBJECT, _REFUSED_BODY),
        ("silence", "no audit has completed", silence or None, _SILENT_SUBJECT, silent_body),
    ):
        name = f"m2ib-audit {about} to {block}"
        actions: list[Any] = [SendNotification(block_document_id=block_id, subject=subject, body=body)]
        core = AutomationCore(name=name, description=description, trigger=trigger, actions=actions) if trigger else None
        yield name, core


def _block_id(client: SyncPrefectClient, block: str) -> Any:
    kind, _, name = block.partition("/")
    document = None
    if kind and name:
        with contextlib.suppress(ObjectNotFound):
            document = client.read_block_document_by_name(name, kind, include_secrets=False)
    if document is None or "notify" not in ((document.block_schema and document.block_schema.capabilities) or ()):
        raise BadInputError(
            f"--block: got {block}, expected TYPE/NAME of a notification block (web hook, Slack, Teams, PagerDuty or "
            f"e-mail) of the server {client.api_url}; list its blocks with: prefect block ls"
        )
    return document.id


def set_up(
    block: str, on: Sequence[str], confirmed_only: bool = False, silent_after: float | None = None
) -> list[tuple[str, str]]:
    """Create, update or delete the automations of a block; see `automations` for the settings.

    Returns (name, action) for each automation; the action is `created`, `updated` or `removed`.
    """
    if unknown := [name for name in on if name not in CHOICES]:
        raise BadInputError(f"--on: got {', '.join(unknown)}, expected any of: {', '.join(CHOICES)}")
    done = []
    with get_client(sync_client=True) as client:
        for name, core in automations(block, _block_id(client, block), on, confirmed_only, silent_after):
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
