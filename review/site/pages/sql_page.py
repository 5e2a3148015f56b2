"""SQL page: one SELECT statement over the views of the lake, within limits."""

import time
from typing import Any, Final

from fastapi import APIRouter, Request, Response

import sql
from review.site.pages.rendering import Lake, get_export_format, render_page, send_table

router = APIRouter()
MAX_ROWS: Final = 1000
"""Maximum number of rows that the page shows."""
MAX_SECONDS: Final = 10.0
"""Seconds after which a query times out."""
MAX_QUERY_CHARS: Final = 20_000
"""Maximum length of a query, which is part of the URL."""
EXAMPLES: Final = {
    "Regions by concentration, largest first": (
        "SELECT run_id, region, slice_kind, slice, n, share, area, concentration\n"
        "FROM slice_shares WHERE n >= 20 ORDER BY concentration DESC LIMIT 50"
    ),
    "Score loss when each region is covered": (
        "SELECT run_id, region, slice, fill, n, drop, control_drop, effect AS score_loss, low, high,\n"
        "floor, q, passed, reason "
        "FROM confirmations ORDER BY score_loss DESC LIMIT 100"
    ),
    "Words with the largest share of the text maps": (
        "SELECT token, count(*) AS n, avg(share) AS share FROM tokens\n"
        "WHERE NOT special GROUP BY token ORDER BY share DESC LIMIT 50"
    ),
    "Rows that could not be audited": (
        "SELECT run_id, reason, count(*) AS n, any_value(detail) AS example\n"
        "FROM ingest_errors GROUP BY run_id, reason ORDER BY n DESC"
    ),
    "Decisions": (
        "SELECT run_id, region, slice, state, severity, decision, reason, reviewer, decided_at\n"
        "FROM decisions WHERE explained_by IS NULL ORDER BY decided_at DESC NULLS LAST LIMIT 100"
    ),
    "Captions that are too long for the model": (
        "SELECT run_id, pair_id, caption_cut, caption\n"
        "FROM attributions WHERE caption_cut > 0 ORDER BY caption_cut DESC LIMIT 50"
    ),
}


@router.get("/sql")
def show_sql(request: Request, lake: Lake) -> Response:
    """Run a query and show its rows, or why it failed."""
    text = request.query_params.get("q", "").strip()
    export_format = get_export_format(request)
    values: dict[str, Any] = {"text": text, "error": None, "columns": [], "rows": [], "is_cut": False, "seconds": 0.0}
    values["is_own"] = request.state.is_own
    if len(text) > MAX_QUERY_CHARS:
        values["error"] = f"got a query of {len(text)} characters, expected at most {MAX_QUERY_CHARS}"
    elif text and request.state.is_own:  # a page of another site must not make a browser run queries
        start = time.perf_counter()
        try:
            answer = lake.run_query(text, MAX_ROWS + 1, MAX_SECONDS)
            values["seconds"] = time.perf_counter() - start
            table = answer.slice(0, MAX_ROWS)
            if export_format:
                return send_table("query", export_format, table)
            # Not as dictionaries, because two columns may have the same name.
            rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
            values |= {"columns": table.column_names, "rows": rows, "is_cut": answer.num_rows > table.num_rows}
        except sql.QueryError as error:
            values["error"] = str(error)
    return render_page(
        request,
        "sql",
        title="SQL",
        examples=EXAMPLES,
        views=lake.list_views(),
        damage=lake.list_damage(),
        max_rows=MAX_ROWS,
        max_seconds=MAX_SECONDS,
        **values,
    )
