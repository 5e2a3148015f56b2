"""Run pages: the list of runs, one run with its alerts, gates, times, settings and files, and the errors of runs."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from fastapi import APIRouter, Request, Response

import sql
from review.presentation import formatting, numbers
from review.presentation.self_audit import format_self_audit
from review.site.pages.alerts import list_alerts, list_audits
from review.site.pages.decisions import get_form_values, get_sign_off, list_overlays
from review.site.pages.rendering import Lake, get_choice, get_text, list_options, render_list, render_page

router = APIRouter()
STAGES: Final = ("ingest", "attribute")
"""Stages that write error rows."""


@router.get("/runs")
def show_runs(request: Request, lake: Lake) -> Response:
    """Show all runs, newest first."""
    filters = {
        "audit": get_text(request, "audit") or "all",
        "status": get_choice(request, "status", formatting.RUN_STATUSES) or "any",
    }
    return render_list(
        request,
        "runs",
        lake.connect(),
        "review/page_runs",
        filters,
        title="Runs",
        audits=list_audits(lake),
        statuses=formatting.RUN_STATUSES,
        damage=lake.list_damage(),
    )


@router.get("/runs/{run_id}")
def show_run(request: Request, lake: Lake, run_id: str) -> Response:
    """Show one run."""
    manifest = lake.read_manifest(run_id)
    checks = lake.query_run(run_id, "review/checks")
    suites = Counter((check["suite"], check["success"]) for check in checks)
    alerts = list_alerts(lake, run_id, alone=False, sort="rank")
    return render_page(
        request,
        "run",
        title=f"Run of {numbers.format_run(run_id)}",
        run_id=run_id,
        manifest=manifest,
        headline=formatting.format_headline(manifest, [row for row in alerts if row["explained_by"] is None]),
        alerts=alerts,
        overlays=list_overlays(lake, run_id),
        form=get_form_values(request),
        checks=checks,
        failed=[check for check in checks if not check["success"]],
        suites=[(name, suites[name, True], suites[name, False]) for name in sorted({name for name, _ in suites})],
        errors=lake.query_run(run_id, "review/error_reasons", examples=3),
        self_audit=format_self_audit(lake.query_run(run_id, "review/self_audit")),
        units=lake.query_run(run_id, "review/units")[0],
        settings=list(_flatten(manifest["config"])),
        stage_seconds=manifest.get("stage_seconds") or {},
        unrecorded=lake.explain_unrecorded(run_id),
        is_pruned=manifest["status"] == sql.PRUNED,
        sign_off=get_sign_off(request, run_id),
    )


@router.get("/errors")
def show_errors(request: Request, lake: Lake) -> Response:
    """Show the error rows that match the filters of the URL; by default those of the newest recorded run."""
    run_ids = lake.list_runs()
    damaged = lake.list_damage()
    readable = (run_id for run_id in run_ids if run_id not in damaged and not lake.explain_unrecorded(run_id))
    run = get_text(request, "run") or next(readable, "all")
    connection = lake.connect() if run == "all" else lake.connect_runs(run)
    filters = {
        "run_id": None if run == "all" else run,
        "stage": get_choice(request, "stage", STAGES),
        "reason": get_text(request, "reason"),
        "words": get_text(request, "words"),
    }
    reasons = [] if run == "all" else lake.query_run(run, "review/error_reasons", examples=1)
    return render_list(
        request,
        "errors",
        connection,
        "review/page_errors",
        filters,
        title="Errors",
        run=run,
        runs={"all": "all runs"} | {name: numbers.format_run(name) for name in run_ids},
        stages=STAGES,
        reasons=list_options([*(row["reason"] for row in reasons), filters["reason"]]),
    )


def _flatten(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings as dotted names with their values."""
    if isinstance(settings, dict) and settings:
        for key in sorted(settings):
            yield from _flatten(settings[key], f"{name}.{key}" if name else key)
    elif settings not in (None, {}, []):
        yield name, settings if isinstance(settings, str) else json.dumps(settings, ensure_ascii=False, default=str)
