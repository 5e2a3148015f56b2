"""Findings -> alerts: store the alerts of a run; the stage `notify` sends notifications of them."""

import hashlib
from datetime import UTC, datetime
from typing import cast

from prefect import task

import sql
from sql.row_types import AlertRow
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import Run
from tasks.records import claim_of
from tasks.settings import AlertsConfig


@task(name="alert", **TASK_OPTIONS)
def alert(run: Run, settings: AlertsConfig) -> list[AlertRow]:
    """Store alerts for findings that are large enough or confirmed; return the alerts that no stronger one explains."""
    thresholds = {"run_id": run.run_id, "factor": settings.factor, "min_pairs": settings.min_pairs}
    alerts = []
    with run.connect() as connection:
        strongest = sql.rows(connection, "derive/strongest_pairs", run_id=run.run_id, limit=settings.examples)
        examples = {(row["rule"], *claim_of(row)): row["pair_ids"] for row in strongest}
        for finding in sql.rows(connection, "derive/explained_findings", **thresholds):
            key = finding["rule"], *claim_of(finding)
            alert_id = hashlib.sha256("\x1f".join([run.run_id, *key]).encode()).hexdigest()[:12]
            alerts.append(
                finding | {"alert_id": alert_id, "pair_ids": examples.get(key, []), "raised_at": datetime.now(UTC)}
            )
    with run.changes() as changes:
        changes.write_table("alerts", ({key: row[key] for key in sql.schema("alerts").names} for row in alerts))
        confirmed = sum(row["state"] == "confirmed" for row in alerts)
        changes.update(counts={"alerts": len(alerts), "confirmed": confirmed})
    return [cast("AlertRow", row) for row in alerts if row["explained_by"] is None]
