"""Overview page: the audits of the lake, their newest runs, and the alerts that are waiting for a decision."""

from collections import Counter, defaultdict
from typing import Any, Final

from fastapi import APIRouter, Request, Response

import sql
from review.site.lake_cache import LakeCache
from review.site.pages.rendering import get_lake, render_page

router = APIRouter()
MAX_RUNS: Final = 1000
"""The newest runs that the overview counts."""
LISTED: Final = 10
"""Alerts and runs that the overview lists."""
_FILTERS: Final = (
    *("audit", "run_id", "model", "corpus", "rule", "region", "slice", "severity", "state", "life", "decision"),
    *("words", "sort"),
)


def list_alerts(lake: LakeCache, run_id: str, *, decision: str | None = None, alone: bool) -> list[dict[str, Any]]:
    """List alerts of a run (`newest`: the newest of each audit); `alone` leaves out those that others explain."""
    filters = dict.fromkeys(_FILTERS) | {"run_id": run_id, "decision": decision}
    return lake.query("review/page_alerts", **filters, alone=alone, upwards=False, limit=10_000, offset=0)


def list_audits(lake: LakeCache) -> dict[str, str]:
    """Return the audits by id, each as its corpus and model, for a select field."""
    rows = lake.query("review/page_filter_choices")
    return {row["audit_id"]: f"{row['corpus']} with {row['model']}" for row in rows}


def group_runs(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Group runs, newest first, by their audit; the audit with the newest run comes first."""
    by_audit: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_audit[run["audit_id"]].append(run)
    return [
        {
            "audit_id": audit_id,
            "model": audit_runs[0]["model"],
            "corpus": audit_runs[0]["corpus"],
            "runs": audit_runs,
            "newest": next((run for run in audit_runs if sql.is_complete(run)), None),
        }
        for audit_id, audit_runs in by_audit.items()
    ]


@router.get("/")
def show_overview(request: Request) -> Response:
    """Show all audits at a glance."""
    lake = get_lake(request)
    runs = lake.query("review/page_runs", audit="all", status="any", limit=MAX_RUNS, offset=0)
    waiting = list_alerts(lake, "newest", decision="waiting", alone=True)
    open_alerts: dict[str, Counter[str]] = defaultdict(Counter)
    for alert in waiting:
        open_alerts[alert["audit_id"]][alert["severity"] or alert["state"]] += 1
    return render_page(
        request,
        "overview",
        title="Overview",
        audits=group_runs(runs),
        open_alerts=open_alerts,
        waiting=waiting[:LISTED],
        waiting_count=len(waiting),
        runs=runs[:LISTED],
        runs_count=runs[0]["found"] if runs else 0,
        damage=lake.list_damage(),
        severities=Counter(alert["severity"] or "suspected" for alert in waiting),
    )
