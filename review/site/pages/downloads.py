"""Download of a run's report; its digest is recorded in the ledger, so that a copy can be verified."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

from fastapi import APIRouter, Request, Response

import sql
from review.report.html import FORMATS, ReportError, load_document, record_report, render_report
from review.site.access import Visitor
from review.site.lake_cache import UnknownError
from review.site.pages.rendering import Lake, check_own_request

router = APIRouter()
_MEDIA_TYPES: Final = {"html": "text/html; charset=utf-8", "pdf": "application/pdf"}
MAX_CONCURRENT: Final = 2
"""Maximum number of reports that are written at the same time; each takes seconds and some hundred megabytes."""
_MAX_WAIT_SECONDS: Final = 30.0
MAX_WAITING: Final = 6
"""Maximum number of reports that wait for others, because they wait in the threads that serve pages."""
_places = threading.BoundedSemaphore(MAX_CONCURRENT + MAX_WAITING)
_slots = threading.BoundedSemaphore(MAX_CONCURRENT)


@contextlib.contextmanager
def _take_slot() -> Iterator[None]:
    """Wait until few enough reports are written. Raises ReportError if too many wait, or for too long."""
    busy = ReportError(f"{MAX_CONCURRENT} other reports are being written. Try again in a minute.")
    if not _places.acquire(blocking=False):
        raise busy
    try:
        if not _slots.acquire(timeout=_MAX_WAIT_SECONDS):
            raise busy
        try:
            yield
        finally:
            _slots.release()
    finally:
        _places.release()


@router.get("/runs/{run_id}/report.{kind}")
def download_report(request: Request, lake: Lake, run_id: str, kind: str) -> Response:
    """Send the report as a file; record its digest in the ledger if the visitor may write to it."""
    if kind not in FORMATS:
        raise UnknownError("This page does not exist.")
    check_own_request(request)
    if lake.read_manifest(run_id)["status"] == sql.PRUNED:
        raise UnknownError(f"Run {run_id} was pruned: its tables were deleted, so it has no report.")
    settings = request.app.state.settings

    def render() -> bytes:
        return render_report(load_document(lake.lake, run_id, settings.remote_corpora), kind)

    def write() -> bytes:
        with _take_slot():
            return cache_report(render)  # another request may have written it meanwhile

    def cache_report(compute: Callable[[], bytes]) -> bytes:
        return lake.get_or_compute(lake.reports, (run_id, kind, lake.get_lake_version()), compute)

    data = cache_report(write)
    visitor: Visitor | None = request.state.visitor
    if visitor is not None and visitor.may_write:
        by = f"review page, {visitor.full_name}" if visitor.full_name else "review page"
        record_report(lake.lake, run_id, kind, data, settings.signer, by=by)
        cache_report(lambda: data)  # the record changes the version of the lake, but not the report
    # As an attachment: the content security policy of the site would block the report's own styles.
    headers = {"Content-Disposition": f'attachment; filename="audit-report-{run_id}.{kind}"'}
    return Response(data, media_type=_MEDIA_TYPES[kind], headers=headers)
