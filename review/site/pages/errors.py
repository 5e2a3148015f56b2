"""Page of errors: rows of the corpus that could not be audited, with the reasons."""

from fastapi import APIRouter, Request, Response

import sql
from review.site.pages.rendering import (
    export_query,
    get_choice,
    get_lake,
    get_page_number,
    get_text,
    list_options,
    paginate,
    query_page,
    render_page,
)

router = APIRouter()
STAGES = ("ingest", "attribute")


@router.get("/errors")
def show_errors(request: Request) -> Response:
    """Show error rows by the filters of the URL; of the newest readable run if none is given."""
    lake = get_lake(request)
    number = get_page_number(request)
    run_ids = lake.list_runs()
    damaged = {damage.run_id for damage in lake.list_damage()}
    run = get_text(request, "run") or next((run_id for run_id in run_ids if run_id not in damaged), "all")
    connection = lake.connect() if run == "all" else lake.connect_runs(run)
    filters = {
        "run_id": None if run == "all" else run,
        "stage": get_choice(request, "stage", STAGES),
        "reason": get_text(request, "reason"),
        "words": get_text(request, "words"),
    }
    if download := export_query(request, "errors", connection, "review/page_errors", **filters):
        return download
    rows = query_page(connection, "review/page_errors", number, **filters)
    reasons = [] if run == "all" else sql.rows(connection, "review/error_reasons", run_id=run, examples=1)
    return render_page(
        request,
        "errors",
        title="Errors",
        errors=rows,
        pages=paginate(rows, number),
        run=run,
        runs={"all": "all runs"} | {name: name for name in run_ids},
        stages=STAGES,
        reasons=list_options([*(row["reason"] for row in reasons), filters["reason"]]),
    )
