"""The report of a run, to take along: as the lake stands, and noted in its ledger so that a copy can be verified."""

import threading
from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response

import sql
from review.report.html import FORMATS, load_document, record_report, render_report
from review.site.access import Visitor
from review.site.lake_cache import Lens
from review.site.pages.rendering import lens_of

router = APIRouter()
_MEDIA: Final = {"html": "text/html; charset=utf-8", "pdf": "application/pdf"}


AT_A_TIME: Final = 2
"""Reports that are made at a time: each takes seconds and some hundred megabytes."""
_PATIENCE: Final = 30.0
_turns = threading.BoundedSemaphore(AT_A_TIME)


def made(lens: Lens, run_id: str, kind: str, remote: bool) -> bytes:
    """A report, made once as long as nothing is written to the lake. Raises HTTPException if others come first."""
    key = (run_id, kind, lens.stamp_of_whole())
    found: bytes | None = lens.reports.get(key)
    if found is not None:
        return found
    if not _turns.acquire(timeout=_PATIENCE):
        raise HTTPException(503, f"{AT_A_TIME} other reports are being made. Ask again in a minute.")
    try:
        found = render_report(load_document(lens.lake, run_id, remote), kind)
    finally:
        _turns.release()
    lens.reports.put(key, found)
    return found


@router.get("/runs/{run_id}/report.{kind}")
def report(request: Request, run_id: str, kind: str) -> Response:
    """The report as a file. Noted in the ledger only for who may write there."""
    lens = lens_of(request)
    if kind not in FORMATS:
        raise HTTPException(404)
    if lens.manifest(run_id)["status"] == sql.PRUNED:
        raise HTTPException(404, f"Run {run_id} was pruned: its rows are gone, and no report can be made of it.")
    data = made(lens, run_id, kind, request.app.state.settings.remote_corpora)
    visitor: Visitor | None = getattr(request.state, "visitor", None)
    if visitor is not None and visitor.may_write and request.state.from_here:
        by = f"review page, {visitor.full_name}" if visitor.full_name else "review page"
        record_report(lens.lake, run_id, kind, data, by, getattr(request.app.state, "signer", None))
        # The note is a record of the ledger, and reports do not tell of reports.
        lens.reports.put((run_id, kind, lens.stamp_of_whole()), data)
    # An attachment: the page's own policy would not let the report's style through, nor should it.
    name = f"audit-report-{run_id}.{kind}"
    return Response(data, media_type=_MEDIA[kind], headers={"Content-Disposition": f'attachment; filename="{name}"'})
