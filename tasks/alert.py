"""Findings -> alerts: stored; what is told about them comes after."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from prefect import task

import sql
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import Run
from tasks.settings import AlertsConfig


def _identity(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in ("rule", "region", "slice_kind", "slice"))


def raise_alerts(run: Run, settings: AlertsConfig) -> list[dict[str, Any]]:
    """Store an alert for each finding, with its most telling pairs; returns those that stand on their own."""
    thresholds = {"run_id": run.run_id, "factor": settings.factor, "min_pairs": settings.min_pairs}
    alerts = []
    with run.connect() as connection:
        telling: dict[tuple[str, ...], list[str]] = {}
        for row in sql.rows(connection, "derive/strongest_pairs", run_id=run.run_id, limit=settings.examples):
            telling.setdefault(_identity(row), []).append(row["pair_id"])
        for finding in sql.rows(connection, "derive/explained_findings", **thresholds):
            identity = _identity(finding)
            alert_id = hashlib.sha256("\x1f".join([run.run_id, *identity]).encode()).hexdigest()[:12]
            added = {"alert_id": alert_id, "pair_ids": telling.get(identity, []), "raised_at": datetime.now(UTC)}
            alerts.append(finding | added)
    run.write_table("alerts", ({key: row[key] for key in sql.schema("alerts").names} for row in alerts))
    confirmed = sum(row["state"] == "confirmed" for row in alerts)
    run.update(counts={"alerts": len(alerts), "confirmed": confirmed})
    return [alert for alert in alerts if alert["explained_by"] is None]


@task(name="alert", **TASK_OPTIONS)
def alert(run: Run, settings: AlertsConfig) -> int:
    """Store the alerts; returns how many stand on their own; see `raise_alerts`."""
    return len(raise_alerts(run, settings))
