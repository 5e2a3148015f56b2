"""Helpers of all pages: filters of the URL, rendering of templates, and downloads of tables."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import quote, urlencode

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import Request, Response
from fastapi.responses import HTMLResponse

import sql
from review.report.html import load_templates
from review.site.lake_cache import LakeCache

PAGE_ROWS: Final = 50
MAX_EXPORT_ROWS: Final = 200_000
"""Rows of a downloaded table, which is made in memory."""
_EXPORT_TYPES: Final = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Characters, also full-width ones, with which a spreadsheet takes a cell as a formula, also after white space."""
_INVISIBLE: Final = "\ufeff\u200b"
"""Invisible characters that `strip` keeps."""
_NAVIGATION: Final = (
    *(("/", "Overview"), ("/alerts", "Alerts"), ("/runs", "Runs"), ("/compare", "Compare")),
    *(("/errors", "Errors"), ("/sql", "SQL"), ("/help", "Help")),
)


class BadFilterError(Exception):
    """A filter of the URL is invalid; the message names it and says what was expected."""


def get_lake(request: Request) -> LakeCache:
    """Return the lake that the site shows."""
    lake: LakeCache = request.app.state.lake_cache
    return lake


@cache
def _make_templates() -> jinja2.Environment:
    templates = load_templates()
    templates.filters |= {
        "path": lambda text: quote(str(text), safe=""),
        "short": _shorten,
        "capital": lambda text: text[:1].upper() + text[1:],
        "words": lambda name: name.replace("_", " "),
        "last_part": lambda path: path.rstrip("/").rsplit("/", 1)[-1],
    }
    return templates


def _shorten(text: str | None, limit: int = 90) -> str:
    return "" if text is None else text if len(text) <= limit else text[: limit - 1] + "…"


def render_page(request: Request, name: str, /, status: int = 200, **values: Any) -> HTMLResponse:
    """Render `templates/pages/NAME.html.j2`."""
    text = (
        _make_templates()
        .get_template(f"pages/{name}.html.j2")
        .render(
            request=request,
            here=request.url.path,
            query=dict(request.query_params),
            link=lambda **changes: make_link(request, **changes),
            sorted_link=lambda key: _make_sorted_link(request, key),
            navigation=_NAVIGATION,
            reviewer=request.state.visitor.reviewer if request.state.visitor else None,
            **values,
        )
    )
    return HTMLResponse(text, status)


def make_link(request: Request, **changes: Any) -> str:
    """Return the URL of this page with changed filters; None removes a filter. New filters start at page 1."""
    pages = () if "page" in changes or "after" in changes else ("page", "after")
    dropped = {*changes, *pages}
    filters = [(key, value) for key, value in request.query_params.multi_items() if key not in dropped and value]
    filters += [(key, str(value)) for key, value in changes.items() if value not in (None, "")]
    return f"{request.url.path}?{urlencode(filters)}" if filters else request.url.path


def _make_sorted_link(request: Request, key: str) -> str:
    """Return the URL of this page sorted by a column; if it is already sorted by it, in the opposite direction."""
    reverse = request.query_params.get("sort") == key and request.query_params.get("order") != "up"
    return make_link(request, sort=key, order="up" if reverse else None)


def get_text(request: Request, name: str) -> str | None:
    """Return a filter of the URL; None if it is missing or empty."""
    return request.query_params.get(name, "").strip() or None


def get_choice(request: Request, name: str, choices: Iterable[str]) -> str | None:
    """Return a filter that allows certain values only. Raises BadFilterError."""
    value = get_text(request, name)
    if value is not None and value not in choices:
        raise BadFilterError(f"{name}: got {value!r}, expected one of {', '.join(choices)}, or nothing.")
    return value


def get_number(request: Request, name: str) -> float | None:
    """Return a number of the URL. Raises BadFilterError."""
    value = get_text(request, name)
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadFilterError(f"{name}: got {value!r}, expected a number such as 0.25, or nothing.")
    return number


def get_int(request: Request, name: str, default: int = 1, low: int = 0, high: int = 2**31 - 1) -> int:
    """Return an integer of the URL. Raises BadFilterError."""
    value = get_text(request, name)
    if value is None:
        return default
    if not value.isdecimal() or not value.isascii() or not low <= int(value[:12]) <= high:
        raise BadFilterError(f"{name}: got {value!r}, expected an integer from {low} to {high}, or nothing.")
    return int(value)


def render_list(
    request: Request, name: str, connection: sql.Connection, query: str, filters: Mapping[str, Any], **values: Any
) -> Response:
    """Render one page of the rows of a query, whose column `found` is their total number; or send all as a download.

    Raises:
        BadFilterError: The list has fewer pages, or too many rows for a download.
    """
    if download := export_query(request, name, connection, query, **filters):
        return download
    number = get_int(request, "page", low=1, high=1_000_000)
    rows = sql.rows(connection, query, **filters, limit=PAGE_ROWS, offset=PAGE_ROWS * (number - 1))
    if number > 1 and not rows:
        raise BadFilterError(f"page: got {number}, expected a smaller number; the list has fewer pages.")
    total = rows[0]["found"] if rows else 0
    pages = {"total": total, "number": number, "last": max(1, math.ceil(total / PAGE_ROWS))}
    return render_page(request, name, rows=rows, pages=pages, **values)


def export_query(
    request: Request, name: str, connection: sql.Connection, query: str, **parameters: Any
) -> Response | None:
    """Return all rows of a query as a download if the URL asks for one, else None. Raises BadFilterError."""
    everything = {"offset": 0} if "after" not in parameters else {}
    return export_table(
        request, name, lambda: sql.table(connection, query, **parameters, **everything, limit=MAX_EXPORT_ROWS + 1)
    )


def export_table(request: Request, name: str, load_table: Callable[[], pa.Table]) -> Response | None:
    """Return a table as a download if the URL asks for one (`format=csv`, `format=parquet`), else None.

    Raises:
        BadFilterError: The table has more than MAX_EXPORT_ROWS rows.
    """
    kind = get_choice(request, "format", _EXPORT_TYPES)
    if kind is None:
        return None
    table = load_table()
    if table.num_rows > MAX_EXPORT_ROWS:
        raise BadFilterError(
            f"format: got more than {MAX_EXPORT_ROWS} rows, expected at most that many; set more filters, or use "
            "m2ib-audit sql, which has no limit."
        )
    data = _write_csv(table) if kind == "csv" else _write_parquet(table)
    headers = {"Content-Disposition": f'attachment; filename="{name}.{kind}"'}
    return Response(data, media_type=_EXPORT_TYPES[kind], headers=headers)


def _write_parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def _write_csv(table: pa.Table) -> bytes:
    """Write CSV for a spreadsheet: text that would be taken as a formula gets an apostrophe before it."""
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
    start = text.lstrip().lstrip(_INVISIBLE).lstrip()
    return f"'{text}" if text.startswith(("\t", "\r", "\n")) or start.startswith(_FORMULA_STARTS) else text


def list_options(values: Iterable[Any]) -> list[str]:
    """Return the distinct non-empty values in order, for a select field."""
    return sorted({str(value) for value in values if value not in (None, "")})
