"""A page for questions of one's own: one reading statement over the lake's views, within limits."""

import time
from typing import Any, Final

from fastapi import APIRouter, Request, Response

import sql
from review.site.pages.rendering import exported, lens_of, page

router = APIRouter()
LONGEST: Final = 20_000
"""Characters of a query, as they have to fit into a URL."""
EXAMPLES: Final = {
    "Regions that were weighed, the strongest first": (
        "SELECT run_id, region, slice_kind, slice, n, share, area, effect\n"
        "FROM slice_shares WHERE n >= 20 ORDER BY effect DESC LIMIT 50"
    ),
    "What covering each region did": (
        "SELECT run_id, region, slice, fill, n, drop, control_drop, effect, low, high, floor, q, passed, reason\n"
        "FROM confirmations ORDER BY effect DESC LIMIT 100"
    ),
    "Which words hold the text maps": (
        "SELECT token, count(*) AS n, avg(share) AS share FROM tokens\n"
        "WHERE NOT special GROUP BY token ORDER BY share DESC LIMIT 50"
    ),
    "What could not be audited": (
        "SELECT run_id, reason, count(*) AS n, any_value(detail) AS example\n"
        "FROM ingest_errors GROUP BY run_id, reason ORDER BY n DESC"
    ),
    "What people decided": (
        "SELECT run_id, region, slice, state, severity, decision, reason, reviewer, decided_at\n"
        "FROM triage WHERE explained_by IS NULL ORDER BY decided_at DESC NULLS LAST LIMIT 100"
    ),
    "Captions that the model did not see to their end": (
        "SELECT run_id, pair_id, caption_cut, caption\n"
        "FROM attributions WHERE caption_cut > 0 ORDER BY caption_cut DESC LIMIT 50"
    ),
}


@router.get("/sql")
def ask(request: Request) -> Response:
    """The answer to a query of the reader's own."""
    settings = request.app.state.settings
    lens = lens_of(request)
    text = request.query_params.get("q", "").strip()
    facts: dict[str, Any] = {"text": text, "problem": None, "columns": [], "rows": [], "more": False, "seconds": 0.0}
    if len(text) > LONGEST:
        facts["problem"] = f"got a query of {len(text)} characters, expected at most {LONGEST}"
    elif text:
        start = time.perf_counter()
        try:
            table = lens.asked(text, settings.sql_rows + 1, settings.sql_seconds)
            facts["seconds"] = time.perf_counter() - start
            more = table.num_rows > settings.sql_rows
            table = table.slice(0, settings.sql_rows)
            if answer := exported(request, lambda: table, "query"):
                return answer
            facts |= {"columns": table.column_names, "rows": rows_of(table), "more": more}
        except sql.QueryError as error:
            facts["problem"] = str(error)
    return page(
        request,
        "sql",
        title="SQL",
        examples=EXAMPLES,
        views=lens.views(),
        damaged=lens.damaged(),
        most=settings.sql_rows,
        limit=settings.sql_seconds,
        **facts,
    )


def rows_of(table: Any) -> list[list[Any]]:
    """Rows of an answer as lists, for two columns may have one name."""
    columns = [column.to_pylist() for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]
