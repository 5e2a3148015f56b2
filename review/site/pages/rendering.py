"""Helpers of all pages: filters of the URL, rendering of templates, and downloads of tables."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse

import sql
from review.report.html import load_templates
from review.site.access import RefusedError
from review.site.lake_cache import LakeCache

PAGE_ROWS: Final = 50
MAX_EXPORT_ROWS: Final = 200_000
"""Maximum number of rows of a downloaded table, which is made in memory."""
_EXPORT_TYPES: Final = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Characters that make a spreadsheet take a cell as a formula, even after white space; the last four are full-width."""
_INVISIBLE: Final = "\ufeff\u200b"
"""Invisible characters that `str.strip` does not remove."""
_INNER_FORMULA: Final = re.compile(rf"([;\t\r\n][\s{_INVISIBLE}]*)(?=[{re.escape(''.join(_FORMULA_STARTS))}])")
"""Where a formula would begin if a spreadsheet splits the cell. Quotes do not help: they may be inside of a cell."""


class BadFilterError(Exception):
    """A filter of the URL is invalid; the message names it and says what was expected."""


def get_lake(request: Request) -> LakeCache:
    """Return the lake that the site shows."""
    lake: LakeCache = request.app.state.lake_cache
    return lake


Lake = Annotated[LakeCache, Depends(get_lake)]
"""Parameter of a page: the lake that the site shows."""


@cache
def _make_templates() -> jinja2.Environment:
    templates = load_templates()
    templates.filters |= {
        "path": lambda text: quote(str(text), safe=""),
        "short": lambda text, limit: f"{text[: limit - 1]}…" if text and len(text) > limit else text or "",
        "capital": lambda text: text[:1].upper() + text[1:],
        "last_part": lambda path: path.rstrip("/").rsplit("/", 1)[-1],
        "sparkline": format_sparkline,
    }
    return templates


def render_page(request: Request, name: str, /, status: int = 200, **values: Any) -> HTMLResponse:
    """Render the template `templates/pages/NAME.html.j2` with these values."""
    text = (
        _make_templates()
        .get_template(f"pages/{name}.html.j2")
        .render(
            request=request,
            here=request.scope["path"],
            query=dict(request.query_params),
            link=lambda **changes: make_link(request, **changes),
            reviewer=request.state.visitor.reviewer if request.state.visitor else None,
            **values,
        )
    )
    return HTMLResponse(text, status)


def format_sparkline(values: Sequence[float | None]) -> str:
    """Return the path of a sparkline in a viewBox of 100 x 24, from zero to the largest value; gaps are left out."""
    top, step = max((value or 0 for value in values), default=0) or 1, 100 / max(1, len(values) - 1)
    points = [(step * place, 22 - 20 * value / top) for place, value in enumerate(values) if value is not None]
    return " ".join(f"{'L' if place else 'M'}{x:.1f} {y:.1f}" for place, (x, y) in enumerate(points))


def make_link(request: Request, **changes: Any) -> str:
    """Return the URL of this page with changed filters; None removes a filter. New filters start at page 1."""
    dropped = {*changes, "page"}
    filters = [(key, value) for key, value in request.query_params.multi_items() if key not in dropped and value]
    filters += [(key, str(value)) for key, value in changes.items() if value not in (None, "")]
    return f"{request.url.path}?{urlencode(filters)}" if filters else request.url.path


def get_text(request: Request, name: str) -> str | None:
    """Return a filter of the URL; None if it is missing or empty."""
    return request.query_params.get(name, "").strip() or None


def get_choice(request: Request, name: str, choices: Iterable[str]) -> str | None:
    """Return a filter of the URL that must be one of the choices; None if it is missing. Raises BadFilterError."""
    value = get_text(request, name)
    if value is not None and value not in choices:
        raise BadFilterError(f"{name}: got {value!r}, expected one of {', '.join(choices)}, or nothing.")
    return value


def get_number(
    request: Request, name: str, low: float = 0, high: float = 2**31 - 1, default: float | None = None
) -> float | None:
    """Return a number of the URL; the default if it is missing or empty. Raises BadFilterError."""
    value = get_text(request, name)
    if value is None:
        return default
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise BadFilterError(f"{name}: got {value!r}, expected a number from {low:g} to {high:.0f}, or nothing.")
    return number


def render_list(
    request: Request,
    name: str,
    connection: sql.Connection,
    query: str,
    filters: Mapping[str, Any],
    *,
    preload: Callable[[list[dict[str, Any]]], None] | None = None,
    **values: Any,
) -> Response:
    """Render one page of the rows of a query, or send all rows as a download. Raises BadFilterError.

    The column `found` must have the total number of rows, over all pages. `preload` gets the rows of the page.
    """
    if kind := get_export_format(request):
        return send_table(name, kind, sql.table(connection, query, **filters, limit=MAX_EXPORT_ROWS + 1, offset=0))
    number = int(get_number(request, "page", low=1, high=1_000_000) or 1)
    rows = sql.rows(connection, query, **filters, limit=PAGE_ROWS, offset=PAGE_ROWS * (number - 1))
    if number > 1 and not rows:
        raise BadFilterError(f"page: got {number}, expected a smaller number; the list has fewer pages.")
    if preload is not None:
        preload(rows)
    total = rows[0]["found"] if rows else 0
    pages = {"total": total, "number": number, "last": max(1, math.ceil(total / PAGE_ROWS))}
    return render_page(request, name, rows=rows, pages=pages, **values)


def get_export_format(request: Request) -> str | None:
    """Return the format of a download, `csv` or `parquet`; None to show a page. Raises BadFilterError, RefusedError."""
    if kind := get_choice(request, "format", _EXPORT_TYPES):
        check_own_request(request)
    return kind


def check_own_request(request: Request) -> None:
    """Refuse a request that a page of another site sends, before the site does costly work. Raises RefusedError."""
    if not request.state.is_own:
        message = "Another site asked for this download. Open the page that offers it here, and download it there."
        raise RefusedError(403, "Refused: not sent from this site", message)


def send_table(name: str, kind: str, table: pa.Table) -> Response:
    """Send a table as a download; `kind` is from `get_export_format`. Raises BadFilterError if it is too large."""
    if table.num_rows > MAX_EXPORT_ROWS:
        raise BadFilterError(
            f"format: got more than {MAX_EXPORT_ROWS} rows, expected at most that many; set more filters, or use "
            "m2ib-audit sql, which has no limit."
        )
    file = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, file, compression="zstd")
    else:
        file.write(_write_csv(table))
    headers = {"Content-Disposition": f'attachment; filename="{name}.{kind}"'}
    return Response(file.getvalue(), media_type=_EXPORT_TYPES[kind], headers=headers)


def _write_csv(table: pa.Table) -> bytes:
    """Return a table as CSV for spreadsheets, with an apostrophe before text that would be taken as a formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow([_escape_cell(name) for name in table.column_names])
    for batch in table.to_batches(4096):
        writer.writerows([_escape_cell(value) for value in row.values()] for row in batch.to_pylist())
    return file.getvalue().encode("utf-8-sig")  # with a byte order mark, by which spreadsheets recognize UTF-8


def _escape_cell(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)
    text = _INNER_FORMULA.sub(r"\1'", text)
    start = text.lstrip().lstrip(_INVISIBLE).lstrip()
    return f"'{text}" if text.startswith(("\t", "\r", "\n")) or start.startswith(_FORMULA_STARTS) else text


def list_options(values: Iterable[Any]) -> list[str]:
    """Return the distinct non-empty values in order, for a select field."""
    return sorted({str(value) for value in values if value not in (None, "")})
