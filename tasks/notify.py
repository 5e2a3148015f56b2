"""Alerts -> lives -> events: what became of each alert over the runs of the audit, and who has not been told yet.

Rows first: lives are stored before anything is sent, and what was sent is stored beside them. Telling never
fails a run.
"""

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.events.worker import EventsWorker

import sql
from tasks.execution import run_logger
from tasks.lake.run import Run
from tasks.messages.events import (
    LIVES,
    Event,
    build_alert_event,
    build_digest_event,
    build_failed_start_event,
    build_run_event,
    is_notifiable,
)
from tasks.settings import NotifyConfig

_PATIENCE = 10.0  # seconds that events may take to leave; a server that is gone must not hold the audit


def _series(run: Run) -> tuple[str | None, bool]:
    """The complete run of the same audit before this one, and whether there is one after it.

    Same audit: same corpus and model by their names, whatever became of their contents. A re-flagged run stands beside
    the series, at the place of the run whose attributions it has: it is held against that one, and no run against it.
    """
    own = run.read_manifest()
    audit = own["corpus"], own["model"]
    records = {record["run_id"]: record for record in sql.read_manifests(run.lake)}
    series = [
        name
        for name, record in records.items()
        if sql.is_complete(record)
        and not record.get("reflags")
        and (record.get("corpus"), record.get("model")) == audit
    ]
    place = run.run_id
    while reflags := records.get(place, {}).get("reflags"):
        place = reflags
    before = [name for name in series if name <= place and name != run.run_id]
    return max(before, default=None), any(name > place for name in series)


def _lives(run: Run, previous: str | None, min_pairs: int) -> list[dict[str, Any]]:
    named: list[dict[str, Any]] = []
    beside = [previous] if previous else []
    if previous:
        with sql.connect(run.lake, previous) as connection:
            numbered = sql.rows(connection, "derive/numbered_lives", previous=previous)
        beside += sorted({row["last_run"] for row in numbered} - {previous})
        with sql.connect(run.lake, run.run_id, beside) as connection:
            named = sql.rows(connection, "derive/same_names", run_id=run.run_id, previous=previous) if numbered else []
    record = run.read_manifest()
    rules = record["rules"]
    with sql.connect(run.lake, run.run_id, beside[:1]) as connection:
        return sql.rows(
            connection,
            "derive/lives",
            run_id=run.run_id,
            previous=previous,
            min_pairs=min_pairs,
            names=[row["name"] for row in named],
            lasting=[row["lasting"] for row in named],
            rules=list(rules),
            digests=list(rules.values()),
            # Not there in manifests of earlier versions, of audits without detectors, and of re-flagged ones.
            failed_rules=record.get("failed_rules") or [],
            failed_detectors=record.get("failed_detectors") or [],
        )


def store_alert_history(run: Run, min_pairs: int) -> tuple[list[dict[str, Any]], bool]:
    """Compute and store `lives`; returns its rows, and whether a later run of the audit has been told about already.

    Where earlier runs cannot be read, all alerts are new: better told twice than not at all.
    """
    try:
        previous, overtaken = _series(run)
        lives = _lives(run, previous, min_pairs)
    except sql.LakeError:
        run_logger().exception("run %s: the lake's earlier runs cannot be read: every alert counts as new", run.run_id)
        lives, overtaken = _lives(run, None, min_pairs), False
    run.write_table("lives", lives)
    return lives, overtaken


def select_events(
    lives: Sequence[Mapping[str, Any]], record: Mapping[str, Any], report: str, settings: NotifyConfig
) -> list[Event]:
    """The events that the rules ask for: one an alert, or one digest."""
    told = [row for row in lives if is_notifiable(row)]
    if settings.digest:
        return [build_digest_event(told, record, report)]
    chosen = [row for row in told if row["life"] in settings.tell]
    return [build_alert_event(row, record, report) for row in sorted(chosen, key=lambda row: LIVES.index(row["life"]))]


def _send(news: Sequence[Event]) -> list[Event]:
    """Hand events to Prefect and wait until they have left; returns those that it took."""
    taken = [
        one for one in news if emit_event(one.event, one.resource, payload=one.payload, id=one.event_id) is not None
    ]
    if taken:
        # A daemon: the worker's own wait knows no limit.
        leaving = threading.Thread(target=EventsWorker.instance().wait_until_empty, daemon=True)
        leaving.start()
        leaving.join(_PATIENCE)
        if leaving.is_alive():
            run_logger().warning("Prefect has not taken all events after %.0f s; they may be lost", _PATIENCE)
    return taken


def read_sent_ids(run: Run) -> set[str]:
    """Ids of the events that this run has handed over, in this attempt or an earlier one."""
    paths = run.fetch_files("notifications")
    return {row["event_id"] for path in paths for row in pq.read_table(path, columns=["event_id"]).to_pylist()}


def send_new_events(run: Run, news: Sequence[Event]) -> int:
    """Send what this run has not sent yet, and append it to `notifications`; returns how many were sent.

    A process that dies between the two sends it again when it is resumed, under the same id, on which a server acts
    once.
    """
    before = read_sent_ids(run)
    sent = _send([one for one in news if str(one.event_id) not in before])
    rows = [
        {
            "event_id": str(one.event_id),
            "event": one.event,
            "dedup_key": one.key,
            "life_id": one.life_id,
            "told_at": datetime.now(UTC),
        }
        for one in sent
    ]
    parts = sum(entry["table"] == "notifications" for entry in run.read_manifest()["files"])
    if rows or not parts:  # an empty file says that there was nothing to tell
        name = f"part-{parts:05d}"
        with run.open_writer("notifications", name) as writer:
            writer.write(rows)
        run.register_files("notifications", [run.path("notifications", name)], [writer.rows])
    return len(rows)


def notify_alerts(run: Run, settings: NotifyConfig, min_pairs: int) -> int:
    """Store what became of the alerts, then tell what is news; returns how many events were sent.

    A run that was resumed after a later one had ended tells nothing, nor does one that re-flags any but the newest: its
    news is old.
    """
    lives, overtaken = store_alert_history(run, min_pairs)
    if overtaken:
        run_logger().warning("run %s: a later run of this audit has ended: nothing is told about this one", run.run_id)
    news = [] if overtaken else select_events(lives, run.read_manifest(), run.report_path, settings)
    return send_new_events(run, news)


def notify_run_end(run: Run) -> None:
    """Tell that the run has ended, and how. Whatever goes wrong is logged: the run's own outcome counts."""
    try:
        send_new_events(run, [build_run_event(run.read_manifest(), run.report_path)])
    except Exception:  # noqa: BLE001  # a full disk, a server that is gone: the audit's own error must get through
        run_logger().exception("run %s: its end could not be told", run.run_id)


def notify_failed_start(facts: Mapping[str, Any], reason: str) -> None:
    """Tell that an audit could not begin; see `tasks.messages.events.build_failed_start_event`."""
    try:
        _send([build_failed_start_event(facts, reason)])
    except Exception:  # noqa: BLE001  # as in notify_run_end
        run_logger().exception("that the audit could not begin could not be told")


@task(name="tell", cache_policy=NO_CACHE, persist_result=False)
def notify(run: Run, settings: NotifyConfig, min_pairs: int) -> int:
    """Store the alert history and send events; see `notify_alerts`. A failure is logged and does not fail the run."""
    try:
        return notify_alerts(run, settings, min_pairs)
    except Exception:  # noqa: BLE001  # the alerts are stored; telling is the second best
        run_logger().exception("run %s: its alerts could not be told; see: m2ib-audit alerts", run.run_id)
        return 0
