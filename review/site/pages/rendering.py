"""What the pages share: filters from the URL, answers as HTML, and tables to take along."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final
from urllib.parse import quote, urlencode

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import Request, Response
from fastapi.responses import HTMLResponse

from review.report.html import environment
from review.site.lake_cache import Lens

PAGE_ROWS: Final = 50
FORMATS: Final = ("csv", "parquet")
MOST: Final = 200_000
"""Rows of a table that is taken along: it is made in memory."""
_RISKY: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula, also of full width, and after white space."""
_UNSEEN: Final = "\ufeff\u200b"
"""Characters that nobody sees and that `strip` leaves."""
_NAVIGATION: Final = (
    *(("/", "Overview"), ("/alerts", "Alerts"), ("/runs", "Runs"), ("/compare", "Compare")),
    *(("/errors", "Errors"), ("/sql", "SQL"), ("/help", "Help")),
)


class BadFilterError(Exception):
    """A URL asks for something that cannot be; the message says what, and what was expected."""


def lens_of(request: Request) -> Lens:
    """The lake that the page shows."""
    found: Lens = request.app.state.lens
    return found


@cache
def _templates() -> jinja2.Environment:
    made = environment()
    made.filters |= {
        "path": lambda text: quote(str(text), safe=""),
        "short": _short,
        "capital": _capital,
    }
    return made


def _short(text: str | None, most: int = 90) -> str:
    """Long text, cut where a table has no room for it."""
    return "" if text is None else text if len(text) <= most else text[: most - 1] + "…"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def page(request: Request, name: str, /, status: int = 200, **facts: Any) -> HTMLResponse:
    """An answer made from `templates/pages/NAME.html.j2`.

    `request.state.reviewer` and `.csrf` are for whoever signs people in to set; templates know them as `reviewer` and
    `csrf`.
    """
    text = (
        _templates()
        .get_template(f"pages/{name}.html.j2")
        .render(
            request=request,
            settings=request.app.state.settings,
            here=request.url.path,
            query=dict(request.query_params),
            link=lambda **changes: link(request, **changes),
            sorted_link=lambda key: _sorted_link(request, key),
            navigation=_NAVIGATION,
            reviewer=getattr(request.state, "reviewer", None),
            csrf=getattr(request.state, "csrf", None),
            **facts,
        )
    )
    return HTMLResponse(text, status)


def link(request: Request, **changes: Any) -> str:
    """The URL of this page with other filters; None takes one away. A page number does not outlive a change."""
    kept = [(key, value) for key, value in request.query_params.multi_items() if key not in changes and value]
    if "page" not in changes and "after" not in changes:
        kept = [(key, value) for key, value in kept if key not in ("page", "after")]
    new = [(key, str(value)) for key, value in changes.items() if value not in (None, "")]
    return f"{request.url.path}?{urlencode([*kept, *new])}" if kept or new else request.url.path


def _sorted_link(request: Request, key: str) -> str:
    """The URL of this page in the order of a column, or in the other direction if it is so already."""
    turned = request.query_params.get("sort") == key and request.query_params.get("order") != "up"
    return link(request, sort=key, order="up" if turned else None)


def text_of(request: Request, name: str) -> str | None:
    """A filter of the URL; None where it is not given or empty."""
    value = request.query_params.get(name, "").strip()
    return value or None


def choice_of(request: Request, name: str, allowed: Sequence[str]) -> str | None:
    """A filter that can have some values only. Raises BadFilterError."""
    value = text_of(request, name)
    if value is not None and value not in allowed:
        raise BadFilterError(f"{name}: got {value!r}, expected one of {', '.join(allowed)}, or nothing.")
    return value


def number_of(request: Request, name: str) -> float | None:
    """A number of the URL. Raises BadFilterError."""
    value = text_of(request, name)
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadFilterError(f"{name}: got {value!r}, expected a number such as 0.25, or nothing.")
    return number


def whole_of(request: Request, name: str, default: int, low: int = 0, high: int = 2**31 - 1) -> int:
    """A whole number of the URL. Raises BadFilterError."""
    value = text_of(request, name)
    if value is None:
        return default
    if not value.isdecimal() or not value.isascii() or not low <= int(value[:12]) <= high:
        raise BadFilterError(f"{name}: got {value!r}, expected a whole number from {low} to {high}, or nothing.")
    return int(value)


def exported(request: Request, made: Callable[[], pa.Table], name: str) -> Response | None:
    """What is `made` as a file if the URL asks for one (`format=csv`, `format=parquet`), else None.

    made: asked for MOST + 1 rows at most. Raises BadFilterError if it has so many.
    """
    kind = choice_of(request, "format", FORMATS)
    if kind is None:
        return None
    table = made()
    if table.num_rows > MOST:
        raise BadFilterError(
            f"format: got more than {MOST} rows, expected at most so many; narrow the table down by its filters, or "
            "use m2ib-audit sql, which has no limit."
        )
    data = as_csv(table) if kind == "csv" else as_parquet(table)
    media = "text/csv; charset=utf-8" if kind == "csv" else "application/vnd.apache.parquet"
    return Response(data, media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}.{kind}"'})


def as_parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def as_csv(table: pa.Table) -> bytes:
    """A table as CSV for a spreadsheet: text that would be taken for a formula gets an apostrophe before it."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\r\n")
    rows.writerow([_cell(name) for name in table.column_names])
    for batch in table.to_batches(4096):
        rows.writerows([_cell(value) for value in row.values()] for row in batch.to_pylist())
    return file.getvalue().encode("utf-8-sig")  # by the mark a spreadsheet knows it for UTF-8


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)
    risky = text.startswith(("\t", "\r", "\n")) or text.lstrip().lstrip(_UNSEEN).lstrip().startswith(_RISKY)
    return f"'{text}" if risky else text


def counted(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many rows there are in all, which the query states in each."""
    return int(rows[0]["found"]) if rows else 0


def pages_of(found: int, number: int) -> dict[str, int]:
    """Where a page of rows is among all of them."""
    last = max(1, math.ceil(found / PAGE_ROWS))
    return {"found": found, "number": number, "last": last}


def options(values: Iterable[Any]) -> list[str]:
    """Values to choose from, each once, in order."""
    return sorted({str(value) for value in values if value not in (None, "")})
