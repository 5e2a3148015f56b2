"""The report of a run, to take along: as the lake stands, and noted in its ledger so that a copy can be verified."""

from typing import Final

from fastapi import APIRouter, HTTPException, Request, Response

from review.access import Visitor
from review.pages.rendering import lens_of
from review.report import FORMATS, note_report, rendered, report_document

router = APIRouter()
_MEDIA: Final = {"html": "text/html; charset=utf-8", "pdf": "application/pdf"}


@router.get("/runs/{run_id}/report.{kind}")
def report(request: Request, run_id: str, kind: str) -> Response:
    """The report as a file. Noted in the ledger only for who may write there."""
    lens = lens_of(request)
    if kind not in FORMATS:
        raise HTTPException(404)
    if lens.manifest(run_id)["status"] == "pruned":
        raise HTTPException(404, f"Run {run_id} was pruned: its rows are gone, and no report can be made of it.")
    data = rendered(report_document(lens.lake, run_id), kind)
    visitor: Visitor | None = getattr(request.state, "visitor", None)
    if visitor is not None and visitor.may_write and request.state.from_here:
        by = f"review page, {visitor.full_name}" if visitor.full_name else "review page"
        note_report(lens.lake, run_id, kind, data, by, getattr(request.app.state, "signer", None))
    # An attachment: the page's own policy would not let the report's style through, nor should it.
    name = f"audit-report-{run_id}.{kind}"
    return Response(data, media_type=_MEDIA[kind], headers={"Content-Disposition": f'attachment; filename="{name}"'})
