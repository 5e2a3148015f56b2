"""Alerts: the list of them, and one with all that speaks for and against it."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Request, Response

import sql
from review.lens import UnknownError
from review.pages.decisions import bulk_panel, panel
from review.pages.rendering import (
    PAGE_ROWS,
    BadFilterError,
    choice_of,
    counted,
    exported,
    lens_of,
    options,
    page,
    pages_of,
    text_of,
    whole_of,
)

router = APIRouter()
SORTS: Final = ("effect", "share", "n", "cost", "region", "slice", "run")
SEVERITIES: Final = ("high", "medium", "low")
STATES: Final = ("confirmed", "suspected")
DECISIONS: Final = ("waiting", "open", "pending", "needs_data", "confirmed", "benign", "waived")
LIVES: Final = ("new", "worse", "still_firing")
_RUNS: Final = {"newest": "newest of each audit", "all": "all runs"}
MOST: Final = 1_000_000
"""Rows of a table that is taken along."""


@router.get("/alerts")
def alerts(request: Request) -> Response:
    """Alerts by what the URL asks for; of each audit's newest run unless a run is named."""
    number = whole_of(request, "page", 1, 1, 100_000)
    asked: dict[str, Any] = {name: text_of(request, name) for name in ("audit", "model", "corpus", "rule", "region")}
    asked |= {
        "slice": text_of(request, "slice"),
        "words": text_of(request, "words"),
        "severity": choice_of(request, "severity", SEVERITIES),
        "state": choice_of(request, "state", STATES),
        "decision": choice_of(request, "decision", DECISIONS),
        "life": choice_of(request, "life", LIVES),
        "alone": choice_of(request, "follow", ("all",)) is None,
        "sort": choice_of(request, "sort", SORTS),
        "upwards": choice_of(request, "order", ("up",)) is not None,
    }
    run = text_of(request, "run") or "newest"
    asked["run_id"] = None if run == "all" else run
    connection = lens_of(request).whole()
    everything = {**asked, "limit": MOST, "offset": 0}
    if "format" in request.query_params and (
        answer := exported(request, sql.table(connection, "review/page_alerts", **everything), "alerts")
    ):
        return answer
    shown = sql.rows(
        connection, "review/page_alerts", **{**asked, "limit": PAGE_ROWS, "offset": PAGE_ROWS * (number - 1)}
    )
    if number > 1 and not shown:
        raise BadFilterError(f"page: got {number}, but there are fewer pages.")
    known = sql.rows(connection, "review/page_choices")
    return page(
        request,
        "alerts",
        title="Alerts",
        alerts=shown,
        place=pages_of(counted(shown), number),
        run=run,
        choices={
            "audit": {row["audit_id"]: f"{row['corpus']} with {row['model']}" for row in known},
            "run": _RUNS | {name: name for name in options(row["run_id"] for row in known)[::-1]},
            **{name: options(row[name] for row in known) for name in ("model", "corpus", "rule", "region")},
        },
        severities=SEVERITIES,
        states=STATES,
        lives=LIVES,
        decisions=DECISIONS,
        damaged=lens_of(request).damaged(),
        bulk=bulk_panel(request),
    )


def alert_of(found: Sequence[dict[str, Any]], run_id: str, alert_id: str) -> int:
    """Where an alert is among those of its run. Raises UnknownError."""
    for place, row in enumerate(found):
        if row["alert_id"] == alert_id:
            return place
    raise UnknownError(f"Run {run_id} has no alert {alert_id}.")


def followers(found: Sequence[dict[str, Any]], leader: dict[str, Any]) -> list[dict[str, Any]]:
    """The alerts that would not stand without the pairs of this one, directly or by another that follows from it."""
    names = {leader["slice"]}
    following: list[dict[str, Any]] = []
    for _ in found:  # a chain is no longer than there are alerts
        more = [
            row
            for row in found
            if row["explained_by"] in names
            and (row["rule"], row["region"]) == (leader["rule"], leader["region"])
            and row not in following
            and row["alert_id"] != leader["alert_id"]
        ]
        if not more:
            break
        following += more
        names = {row["slice"] for row in more}
    return following


@router.get("/runs/{run_id}/alerts/{alert_id}")
def alert(request: Request, run_id: str, alert_id: str) -> Response:
    """One alert."""
    lens = lens_of(request)
    manifest = lens.manifest(run_id)
    connection = lens.run(run_id)
    found = sql.rows(connection, "review/alerts_of_run", run_id=run_id)
    place = alert_of(found, run_id, alert_id)
    row = found[place]
    identity = ("rule", "region", "slice_kind", "slice")
    tests = [
        test
        for test in sql.rows(connection, "review/tests_of_run", run_id=run_id)
        if all(test[name] == row[name] for name in identity)
    ]
    return page(
        request,
        "alert",
        title="Alert",
        run_id=run_id,
        manifest=manifest,
        alert=row,
        tests=tests,
        follow=followers(found, row),
        earlier=found[place - 1] if place else None,
        later=found[place + 1] if place + 1 < len(found) else None,
        place=place + 1,
        in_all=len(found),
        triage=panel(request, run_id, alert_id),
    )
