"""Page of errors: rows of the corpus that could not be audited, with the reasons."""

from fastapi import APIRouter, Request, Response

from review.site.pages.rendering import get_choice, get_lake, get_text, list_options, render_list

router = APIRouter()
STAGES = ("ingest", "attribute")


@router.get("/errors")
def show_errors(request: Request) -> Response:
    """Show error rows by the filters of the URL; of the newest readable run if none is given."""
    lake = get_lake(request)
    run_ids = lake.list_runs()
    damaged = lake.list_damage()
    run = get_text(request, "run") or next((run_id for run_id in run_ids if run_id not in damaged), "all")
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
        runs={"all": "all runs"} | {name: name for name in run_ids},
        stages=STAGES,
        reasons=list_options([*(row["reason"] for row in reasons), filters["reason"]]),
    )
