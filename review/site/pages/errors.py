"""What could not be audited, and why."""

from fastapi import APIRouter, Request, Response

import sql
from review.site.pages.rendering import (
    MOST,
    PAGE_ROWS,
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
STAGES = ("ingest", "attribute")


@router.get("/errors")
def errors(request: Request) -> Response:
    """Error rows by what the URL asks for; of the newest run unless one is named."""
    lens = lens_of(request)
    number = whole_of(request, "page", 1, 1, 1_000_000)
    run_ids = lens.run_ids()
    damaged = {damage.run_id for damage in lens.damaged()}
    run = text_of(request, "run") or next((run_id for run_id in run_ids if run_id not in damaged), "all")
    connection = lens.whole() if run == "all" else lens.run(run)
    asked = {
        "run_id": None if run == "all" else run,
        "stage": choice_of(request, "stage", STAGES),
        "reason": text_of(request, "reason"),
        "words": text_of(request, "words"),
    }
    if answer := exported(
        request, lambda: sql.table(connection, "review/page_errors", **asked, limit=MOST + 1, offset=0), "errors"
    ):
        return answer
    shown = sql.rows(connection, "review/page_errors", **asked, limit=PAGE_ROWS, offset=PAGE_ROWS * (number - 1))
    reasons = [] if run == "all" else sql.rows(connection, "review/error_reasons", run_id=run, examples=1)
    return page(
        request,
        "errors",
        title="Errors",
        errors=shown,
        place=pages_of(counted(shown), number),
        run=run,
        runs={"all": "all runs"} | {name: name for name in run_ids},
        stages=STAGES,
        reasons=reasons,
        reason_names=options([*(row["reason"] for row in reasons), asked["reason"]]),
    )
