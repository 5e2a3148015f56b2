"""Runs: the list of them, and one with its gates, errors, settings and files."""

import json
from collections import Counter
from typing import Any, Final

from fastapi import APIRouter, Request, Response

import sql
from review.presentation import formatting
from review.site.pages.decisions import sign_off_panel
from review.site.pages.overview import ANY, alerts_like
from review.site.pages.rendering import (
    MOST,
    PAGE_ROWS,
    choice_of,
    counted,
    exported,
    lens_of,
    page,
    pages_of,
    text_of,
    whole_of,
)

router = APIRouter()
STATUSES: Final = (*("running", *sql.COMPLETE, "stopped", "failed", "interrupted", sql.PRUNED),)


@router.get("/runs")
def runs(request: Request) -> Response:
    """All runs, newest first."""
    lens = lens_of(request)
    number = whole_of(request, "page", 1, 1, 100_000)
    asked = {
        "audit": text_of(request, "audit") or "all",
        "status": choice_of(request, "status", STATUSES) or "any",
    }
    if answer := exported(
        request, lambda: sql.table(lens.whole(), "review/page_runs", **asked, limit=MOST + 1, offset=0), "runs"
    ):
        return answer
    shown = sql.rows(lens.whole(), "review/page_runs", **asked, limit=PAGE_ROWS, offset=PAGE_ROWS * (number - 1))
    known = sql.rows(lens.whole(), "review/page_choices")
    return page(
        request,
        "runs",
        title="Runs",
        runs=shown,
        place=pages_of(counted(shown), number),
        audits={row["audit_id"]: f"{row['corpus']} with {row['model']}" for row in known},
        statuses=STATUSES,
        damaged=lens.damaged(),
    )


@router.get("/runs/{run_id}")
def run(request: Request, run_id: str) -> Response:
    """One run."""
    lens = lens_of(request)
    manifest = lens.manifest(run_id)
    connection = lens.run(run_id)
    checks = sql.rows(connection, "review/checks", run_id=run_id)
    files = [
        {"path": entry["path"], "table": entry["table"], "rows": entry["rows"], "sha256": entry["sha256"]}
        for entry in manifest["files"]
    ]
    alerts = alerts_like(lens, **{**ANY, "run_id": run_id, "alone": False})
    (facts,) = sql.rows(connection, "review/page_runs", audit="all", status="any", limit=1, offset=0) or [{}]
    suites = Counter((check["suite"], check["success"]) for check in checks)
    return page(
        request,
        "run",
        title=f"Run {run_id}",
        run_id=run_id,
        manifest=manifest,
        facts=facts,
        verdict=formatting.format_headline(manifest, [row for row in alerts if row["explained_by"] is None]),
        alerts=alerts,
        checks=checks,
        failed=[check for check in checks if not check["success"]],
        suites=[(name, suites[name, True], suites[name, False]) for name in sorted({each["suite"] for each in checks})],
        errors=sql.rows(connection, "review/error_reasons", run_id=run_id, examples=3),
        self_audit=formatting.format_self_audit(sql.rows(connection, "review/self_audit", run_id=run_id)),
        settings_text=json.dumps(manifest["config"], indent=2, sort_keys=True, ensure_ascii=False, default=str),
        settings_rows=list(_flat(manifest["config"])),
        files=files,
        pruned=manifest["status"] == sql.PRUNED,
        sign_off=sign_off_panel(request, run_id),
    )


def _flat(settings: Any, name: str = "") -> Any:
    """Settings as dotted names with their values."""
    if isinstance(settings, dict) and settings:
        for key in sorted(settings):
            yield from _flat(settings[key], f"{name}.{key}" if name else key)
    elif settings not in (None, {}, []):
        yield name, settings if isinstance(settings, str) else json.dumps(settings, ensure_ascii=False, default=str)
