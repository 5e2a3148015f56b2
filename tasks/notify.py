"""Alerts -> alert history -> messages: compare the alerts of a run with earlier runs, and notify people of changes.

The stage stores the alert history (table `lives`). When the run has ended, messages are sent to recipients, and each
attempt is recorded in the lake's ledger: the next run of the audit sends what was not delivered. The same is sent as
Prefect events (`notifications`), for other automations. A failure to send is logged and never fails a run.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.events.worker import EventsWorker

import sql
from sql.row_types import AlertHistoryRow
from stores import format_command
from stores.keys import SigningKey
from tasks import messages
from tasks.execution import log_failure, run_logger
from tasks.lake.run import Run
from tasks.messages import Event
from tasks.outbox import Outbox, deliver, find_recipients
from tasks.recipients import is_enabled
from tasks.settings import NotifyConfig

_MEMORY = 6  # earlier runs whose images are compared: one before these is at most a twentieth of an average
_SEND_SECONDS = 10.0  # a server that is down must not block the audit


def _find_neighbors(run: Run) -> tuple[list[str], bool]:
    """Return the last complete runs of the same audit, oldest first, and whether a later run of it is complete.

    A run made by re-flagging is compared with the run whose attributions it copied. Later runs are not compared with a
    run made by re-flagging, nor with a run that the ledger lacks.
    """
    records = {record["run_id"]: record for record in sql.read_manifests(run.lake)}
    audits = sql.audit_ids(records.values())
    series = [
        run_id
        for run_id, record in records.items()
        if sql.is_complete(record)
        and sql.is_trusted(record)
        and not record.get("reflags")
        and audits[run_id] == audits[run.run_id]
    ]
    place = run.run_id
    while (reflags := records.get(place, {}).get("reflags")) and reflags < place:  # a forged run may name itself
        place = reflags
    order = {run_id: number for number, run_id in enumerate(records)}
    earlier = [run_id for run_id in series if order[run_id] <= order[place] and run_id != run.run_id]
    return earlier[-_MEMORY:], any(order[run_id] > order[place] for run_id in series)


def _match_numbered_names(connection: sql.Connection, run: Run, previous: str) -> list[dict[str, Any]]:
    """Match overlays and clusters of this run with the same ones of open alerts: each run numbers them anew, from 1."""
    numbered = {row["last_run"] for row in sql.rows(connection, "derive/renumbered_runs", previous=previous)}
    if not numbered:
        return []
    with sql.connect(run.lake, run.run_id, sorted({previous, *numbered})) as all_named:
        return sql.rows(all_named, "derive/matching_names", run_id=run.run_id, previous=previous)


def _settings_without_place(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run without the model and the place of the corpus, which a named audit may change."""
    settings = {name: section for name, section in record["config"].items() if name != "model"}
    corpus = {key: value for key, value in settings.get("corpus", {}).items() if key != "path"}
    return settings | {"corpus": corpus}


def _is_fresh(run: Run, earlier: Sequence[str]) -> bool:
    """Return whether at most a hundredth of a run's images are images of some earlier runs, given oldest first."""
    digests = {record["run_id"]: record["corpus_digest"] for record in sql.read_manifests(run.lake)}
    if not earlier or digests[run.run_id] == digests[earlier[-1]]:
        return False
    with sql.connect(run.lake, run.run_id, earlier) as connection:
        (row,) = sql.rows(connection, "derive/repeated_images", run_id=run.run_id)
    return bool(row["repeated"] <= 0.01 * row["images"])


def _compute_alert_history(run: Run, past: Sequence[str], min_pairs: int) -> list[AlertHistoryRow]:
    previous = past[-1] if past else None
    record = run.read_manifest()
    own = _settings_without_place(record)
    earlier = sql.read_manifests(run.lake) if previous else []
    parameters = {
        "run_id": run.run_id,
        "previous": previous,
        "fresh": _is_fresh(run, past),
        "min_pairs": min_pairs,
        "rules": list(record["rules"]),
        "digests": list(record["rules"].values()),
        "failed_rules": record.get("failed_rules") or [],
        "failed_detectors": record.get("failed_detectors") or [],
        "same_settings": [each["run_id"] for each in earlier if _settings_without_place(each) == own],
    }
    with sql.connect(run.lake, run.run_id, [previous] if previous else []) as connection:
        names = _match_numbered_names(connection, run, previous) if previous else []
        parameters |= {"names": [row["name"] for row in names], "lasting": [row["lasting"] for row in names]}
        return cast("list[AlertHistoryRow]", sql.rows(connection, "derive/alert_history", **parameters))


def store_alert_history(run: Run, min_pairs: int) -> list[AlertHistoryRow]:
    """Compute, store and return the alert history of a run.

    If earlier runs cannot be read, all alerts count as new: a repeated notification is better than a missing one.
    `min_pairs` is the smallest slice that rules examine: an absent alert of a smaller slice is not resolved.
    """
    try:
        rows = _compute_alert_history(run, _find_neighbors(run)[0], min_pairs)
    except sql.LakeError:
        run_logger().exception("run %s: earlier runs of the lake cannot be read: every alert counts as new", run.run_id)
        rows = _compute_alert_history(run, [], min_pairs)
    run.write_table("lives", rows)
    return rows


@task(name="notify", cache_policy=NO_CACHE, persist_result=False)
def update_history(run: Run, min_pairs: int) -> None:
    """Store the alert history (see `store_alert_history`). A failure is logged, and does not fail the run."""
    with log_failure("run %s: its alert history could not be stored", run.run_id):
        store_alert_history(run, min_pairs)


def _send(news: Sequence[Event]) -> list[Event]:
    """Hand events to Prefect and wait until they are sent; return the events that Prefect accepted."""
    accepted = [
        event for event in news if emit_event(event.event, event.resource, payload=event.payload, id=event.event_id)
    ]
    if accepted:
        # In a daemon thread, because the worker's own wait has no timeout.
        waiting = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
        waiting.start()
        waiting.join(_SEND_SECONDS)
        if waiting.is_alive():
            run_logger().warning("Prefect has not sent all events after %.0f s; the others may be lost", _SEND_SECONDS)
    return accepted


def send_new_events(run: Run, news: Sequence[Event]) -> int:
    """Send the events that no attempt of this run has sent to Prefect yet, and store which events were sent.

    If the process ends between sending and storing, the resumed run sends the event again with the same id, and the
    server ignores it. Returns the number of events sent.
    """
    sent = {row["event_id"] for row in run.iter_rows("notifications", ["event_id"])}
    rows = [
        {
            "event_id": str(event.event_id),
            "event": event.event,
            "dedup_key": event.key,
            "life_id": event.payload.get("life_id"),
        }
        | {"told_at": datetime.now(UTC)}
        for event in _send([event for event in news if str(event.event_id) not in sent])
    ]
    parts = sum(entry["table"] == "notifications" for entry in run.read_manifest()["files"])
    if rows or not parts:  # an empty file shows that there was nothing to send
        with run.changes() as changes:
            changes.write_table("notifications", rows, f"part-{parts:05d}")
    return len(rows)


def notify_run_end(run: Run, settings: NotifyConfig, signer: SigningKey | None = None) -> None:
    """Notify people of the end of a run, of changes of alerts, and of what was not delivered before.

    Nothing is sent about alerts if a later run of the audit is already complete, for example because this run was
    resumed late or re-flags an old run: its alerts are outdated. A failure is logged, so that the audit's own error is
    not hidden.
    """
    command = format_command(run.lake, "alerts", run.run_id)
    with log_failure("run %s: nobody could be notified; list its alerts with: %s", run.run_id, command):
        outbox = Outbox(run, settings)
        events = _list_events(run, settings, {row["life_id"] for row in outbox.never_notified})
        if is_enabled(settings):
            send_new_events(run, events)
            outbox.send(events, find_recipients())
        outbox.record(events, signer)


def _list_events(run: Run, settings: NotifyConfig, never_notified: Collection[str]) -> list[Event]:
    """List the events of a run: its end and, if it is complete and not outdated, changes of alerts.

    The end of an alert that nobody was notified of is no news.
    """
    about = run.read_manifest(), messages.Links(str(run.report_path), settings.review_url)
    events = [messages.build_run_event(*about)]
    if not sql.is_complete(about[0]):
        return events
    if _find_neighbors(run)[1]:
        message = "run %s: nobody is notified of its alerts, because a later run of this audit is complete"
        run_logger().warning(message, run.run_id)
        return events
    found = messages.list_notifiable(run)
    rows = [row for row in found if row["life"] != "resolved" or row["life_id"] not in never_notified]
    if settings.digest:
        return [messages.build_digest_event(rows, *about), *events]
    return [*(messages.build_alert_event(row, *about) for row in rows if row["life"] in settings.tell), *events]


def notify_failed_start(facts: Mapping[str, Any], reason: str, settings: NotifyConfig) -> None:
    """Notify people of an audit that could not begin; see `build_failed_start_event`. A failure is logged."""
    with log_failure("the audit could not begin, and nobody could be notified of it"):
        if is_enabled(settings):
            event = messages.build_failed_start_event(facts, reason)
            _send([event])
            for recipient in find_recipients():
                if recipient.wants(event):
                    deliver(recipient.block, [event])
