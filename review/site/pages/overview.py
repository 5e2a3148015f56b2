"""Overview page: the audits of the lake, their newest runs, the alerts that wait for a decision; and the help page."""

from collections import Counter, defaultdict
from typing import Any, Final

from fastapi import APIRouter, Request, Response

import sql
from review.presentation.glossary import reader_terms
from review.site.pages.alerts import list_alerts
from review.site.pages.rendering import Lake, render_page

router = APIRouter()
MAX_RUNS: Final = 1000
"""Number of newest runs that the overview counts."""
LISTED: Final = 8
"""Number of alerts, and of runs, that the overview lists."""


@router.get("/")
def show_overview(request: Request, lake: Lake) -> Response:
    """Show all audits at a glance."""
    runs = lake.query("review/page_runs", audit="all", status="any", limit=MAX_RUNS, offset=0)
    audits: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        audits[run["audit_id"]].append(run)
    waiting = list_alerts(lake, "newest", decision="waiting", alone=True)
    severities: dict[str | None, Counter[str]] = defaultdict(Counter)  # by audit, and of all audits together
    for alert in waiting:
        for audit_id in (None, alert["audit_id"]):
            severities[audit_id][alert["severity"] or "suspected"] += 1
    return render_page(
        request,
        "overview",
        title="Overview",
        audits=audits,
        complete={
            audit_id: [run for run in audits[audit_id] if sql.is_complete(run) and sql.is_trusted(run)]
            for audit_id in audits
        },
        severities=severities,
        waiting=waiting[:LISTED],
        waiting_count=len(waiting),
        sign_offs=lake.query("review/waiting_sign_offs"),
        runs=runs[:LISTED],
        runs_count=runs[0]["found"] if runs else 0,
        damage=lake.list_damage(),
        undelivered=lake.query("review/undelivered_messages"),
    )


@router.get("/help")
def show_help(request: Request) -> Response:
    """Show how to read the site, its terms and its keys."""
    return render_page(request, "help", title="Help", terms=reader_terms())
