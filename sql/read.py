"""Run queries: those of this package, and read-only ones that a user writes."""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from sql.lake import Connection, fetch_tables
from sql.queries import query_text

_Result = TypeVar("_Result")


class QueryError(Exception):
    """A user's query failed, or does more than read."""


def rows(connection: Connection, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """Return the rows of the query `folder/name` as dictionaries."""
    return _dictionaries(table(connection, name, **parameters))


def table(connection: Connection, name: str, **parameters: Any) -> pa.Table:
    """Return the rows of the query `folder/name` as an Arrow table."""
    text = query_text(name)
    return _execute(connection, lambda cursor: cursor.sql(text, params=parameters or None).to_arrow_table())


def frame(connection: Connection, name: str, **parameters: Any) -> Any:
    """Return the rows of the query `folder/name` as a pandas frame (for Great Expectations)."""
    text = query_text(name)
    return _execute(connection, lambda cursor: cursor.sql(text, params=parameters or None).df())


def read(connection: Connection, text: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the rows of one SELECT statement as dictionaries that JSON can hold.

    Raises:
        QueryError: see `read_table`.
    """
    result = read_table(connection, text, parameters)
    return [_to_json(row) for row in _dictionaries(_rename_repeated(result), maps_as_pydicts="lossy")]


def read_table(
    connection: Connection,
    text: str,
    parameters: Mapping[str, Any] | None = None,
    most_rows: int | None = None,
    most_seconds: float | None = None,
) -> pa.Table:
    """Return the rows of one SELECT statement as an Arrow table.

    Args:
        connection: From `connect`.
        text: The statement, which a user may have written.
        parameters: Values by name. Those that the statement does not use are ignored.
        most_rows: Rows after these are not computed.
        most_seconds: Interrupt the query after this time. DuckDB notices it between chunks of rows only; `sql.sandbox`
            enforces it for every query.

    Raises:
        QueryError: It is not exactly one SELECT, or it fails or times out.
    """
    try:
        statements = connection.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(f"query: {error}") from error
    # EXPLAIN is refused as well: EXPLAIN ANALYZE executes what it explains, be it a COPY into the lake.
    if len(statements) != 1 or statements[0].type is not duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise QueryError(f"query: got {kinds}, expected one SELECT; the lake is written by audits only")
    used = {key: value for key, value in (parameters or {}).items() if key in statements[0].named_parameters}

    def run(cursor: Connection) -> pa.Table:
        cursor.execute("BEGIN TRANSACTION READ ONLY")  # to DuckDB, `WITH x AS (DELETE ...) SELECT` is a SELECT
        with _time_limit(cursor, most_seconds):
            result = cursor.sql(text, params=used or None)
            return (result if most_rows is None else result.limit(most_rows)).to_arrow_table()

    try:
        return _execute(connection, run)
    except duckdb.InterruptException as error:
        raise QueryError(
            f"query: timed out after {most_seconds:g} seconds; select less, or use m2ib-audit sql, which has no limit"
        ) from error
    except duckdb.Error as error:
        raise QueryError(f"query: {error}") from error


def _dictionaries(result: pa.Table, **options: Any) -> list[dict[str, Any]]:
    """Return the rows of a table, with points in time as datetimes (for which Arrow would import pandas)."""
    columns = []
    for column in result.columns:
        if pa.types.is_timestamp(column.type) and column.type.unit == "us":
            epoch = datetime(1970, 1, 1, tzinfo=UTC if column.type.tz else None)
            values = column.cast(pa.int64()).to_pylist()
            columns.append([None if value is None else epoch + timedelta(microseconds=value) for value in values])
        else:
            columns.append(column.to_pylist(**options))
    return [dict(zip(result.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


def _execute(connection: Connection, run: Callable[[Connection], _Result]) -> _Result:
    """Run something with a cursor of its own. Tables of a remote lake that it needs are fetched first."""
    while True:
        try:
            with connection.cursor() as cursor:
                return run(cursor)
        except duckdb.Error as error:
            if not fetch_tables(connection, error):
                raise


@contextlib.contextmanager
def _time_limit(cursor: Connection, seconds: float | None) -> Iterator[None]:
    """Interrupt what a cursor does in the block after some time."""
    if seconds is None:
        yield
        return

    def interrupt() -> None:
        with contextlib.suppress(duckdb.Error):  # it has ended meanwhile
            cursor.interrupt()

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _to_json(value: Any) -> Any:
    """Return a value as JSON can hold it: no decimals, no NaN or infinity (NULL), maps as objects."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _to_json(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_to_json(entry) for entry in value]
    return value


def _rename_repeated(result: pa.Table) -> pa.Table:
    """Rename repeated column names (`SELECT a.x, b.x`), of which a dictionary would keep only the last."""
    counts: dict[str, int] = {}
    unique: list[str] = []
    for name in result.column_names:
        counts[name] = counts.get(name, 0) + 1
        unique.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
    return result.rename_columns(unique)
