"""The overview: which audits there are, how they went, and which alerts wait for somebody to decide."""

from collections import Counter, defaultdict
from typing import Any, Final

from fastapi import APIRouter, Request, Response

import sql
from review.site.lake_cache import Lens
from review.site.pages.rendering import lens_of, page

router = APIRouter()
RUNS: Final = 1000
"""The newest runs that the overview looks at."""
NEWEST_SHOWN: Final = 10
WAITING_SHOWN: Final = 10
ANY: Final[dict[str, Any]] = dict.fromkeys(
    (
        "audit",
        "run_id",
        "model",
        "corpus",
        "rule",
        "region",
        "slice",
        "severity",
        "state",
        "life",
        "decision",
        "words",
        "sort",
    )
) | {"words": None, "sort": None, "alone": True, "upwards": False, "limit": 10_000, "offset": 0}
"""What `review/page_alerts` is asked when nothing narrows it down."""
ALERTS_WAITING: Final[dict[str, Any]] = {**ANY, "run_id": "newest", "decision": "waiting"}


def alerts_like(lens: Lens, **asked: Any) -> list[dict[str, Any]]:
    """Alerts by what is asked, of the whole lake as it stands."""
    key = ("alerts", *sorted(asked.items()))
    return lens.remember_whole(key, lambda: sql.rows(lens.whole(), "review/page_alerts", **asked))


def audits_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The audits that runs (newest first) belong to: the one with the newest run first."""
    by_audit: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_audit[run["audit_id"]].append(run)
    return [
        {
            "audit_id": audit_id,
            "model": own[0]["model"],
            "corpus": own[0]["corpus"],
            "runs": own,
            "newest": next((run for run in own if sql.is_complete(run)), None),
        }
        for audit_id, own in by_audit.items()
    ]


@router.get("/")
def overview(request: Request) -> Response:
    """All audits at a glance."""
    lens = lens_of(request)
    connection = lens.whole()
    runs = sql.rows(connection, "review/page_runs", audit="all", status="any", limit=RUNS, offset=0)
    waiting = alerts_like(lens, **ALERTS_WAITING)
    by_audit: dict[str, Counter[str]] = defaultdict(Counter)
    for alert in waiting:
        by_audit[alert["audit_id"]][alert["severity"] or alert["state"]] += 1
    return page(
        request,
        "overview",
        title="Overview",
        audits=audits_of(runs),
        open_alerts=by_audit,
        waiting=waiting[:WAITING_SHOWN],
        waiting_in_all=len(waiting),
        runs=runs[:NEWEST_SHOWN],
        runs_in_all=runs[0]["found"] if runs else 0,
        damaged=lens.damaged(),
        severities=Counter(alert["severity"] or "suspected" for alert in waiting),
    )
