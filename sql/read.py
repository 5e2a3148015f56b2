"""Execution of this package's queries and of read-only queries that users write."""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from sql.queries import query_text
from sql.tables import Connection, list_damage, repair
from sql.views import define_views
from stores import InputError

_BATCH = 2**17
_TICKS_PER_DAY: Final = {"day": 1, "s": 86_400, "ms": 86_400 * 10**3, "us": 86_400 * 10**6}
_Result = TypeVar("_Result")
warnings.filterwarnings("ignore", "Arrow output on a DB-API result", UserWarning)  # see `rows`


class QueryError(InputError):
    """A user's query failed, or is not a read-only query."""


def rows(connection: Connection, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """Run a query of this package, and return its rows as dictionaries.

    Args:
        connection: Connection from `connect`.
        name: The SQL file as `folder/name`, without `.sql`.
        parameters: Values of the query's named parameters.
    """
    text = query_text(name)

    def run(cursor: Connection) -> pa.Table:
        # A relation (`cursor.sql`) plans the query twice, which takes longer than to copy the rows of its result.
        return cursor.execute(text, parameters or None).to_arrow_table()

    return _dictionaries(_execute(connection, text, run))


def table(connection: Connection, name: str, **parameters: Any) -> pa.Table:
    """Run a query of this package, and return its rows as an Arrow table. See `rows` for the arguments."""
    text = query_text(name)
    return _execute(connection, text, lambda cursor: cursor.sql(text, params=parameters or None).to_arrow_table())


def batches(connection: Connection, name: str, **parameters: Any) -> Iterator[pa.Table]:
    """Run a query of this package, and iterate over its rows as Arrow tables of which one is in memory at a time.

    See `rows` for the arguments.
    """
    with ExitStack() as stack:

        def run(cursor: Connection) -> pa.RecordBatchReader:
            return cursor.sql(query_text(name), params=parameters or None).to_arrow_reader(_BATCH)

        for batch in _execute(connection, query_text(name), run, stack):
            yield pa.Table.from_batches([batch])


def materialize(connection: Connection, view: str, name: str, **parameters: Any) -> None:
    """Replace a view by the rows of a query, for all later queries of a connection.

    Args:
        connection: Connection from `connect`.
        view: Name of the view.
        name: The SQL file of the query, as `folder/name`, without `.sql`.
        parameters: Values of the query's named parameters.
    """
    text = query_text(name)

    def run(cursor: Connection) -> None:
        cursor.execute(f"CREATE TABLE main.computed AS {text}", parameters or None)  # of this package
        cursor.execute(f'DROP VIEW "{view}"; ALTER TABLE computed RENAME TO "{view}"')

    _execute(connection, f"{view} {text}", run)


def read(connection: Connection, text: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Run a single SELECT statement, and return its rows as dictionaries that can be serialized to JSON.

    Args:
        connection: Connection from `connect`.
        text: The SQL statement, which may come from a user.
        parameters: Values by parameter name. Values that the statement does not use are ignored.

    Raises:
        QueryError: The text is not exactly one SELECT statement, or the query fails.
    """
    result = read_table(connection, text, parameters)
    return [_to_json(row) for row in _dictionaries(_rename_repeated(result), maps_as_pydicts="lossy")]


def read_table(
    connection: Connection,
    text: str,
    parameters: Mapping[str, Any] | None = None,
    most_rows: int | None = None,
) -> pa.Table:
    """Run a single SELECT statement, and return its rows as an Arrow table, with intervals as text (H:MM:SS).

    Args:
        connection: Connection from `connect`.
        text: The SQL statement, which may come from a user.
        parameters: Values by parameter name. Values that the statement does not use are ignored.
        most_rows: Maximum number of rows. Further rows are not computed.

    Raises:
        QueryError: The text is not exactly one SELECT statement, or the query fails, or its result has a date outside
            of the years 1 to 9999, which Python does not have.
    """
    try:
        statements = connection.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(f"query: {error}") from error
    # EXPLAIN is refused too, because EXPLAIN ANALYZE executes its statement, which may write files.
    if len(statements) != 1 or statements[0].type is not duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise QueryError(f"query: got {kinds}, expected one SELECT statement; queries cannot change a lake")
    used = {key: value for key, value in (parameters or {}).items() if key in statements[0].named_parameters}

    def run(cursor: Connection) -> pa.Table:
        cursor.execute("BEGIN TRANSACTION READ ONLY")  # DuckDB sees `WITH x AS (DELETE ...) SELECT` as a SELECT
        result = cursor.sql(text, params=used or None)
        return (result if most_rows is None else result.limit(most_rows)).to_arrow_table()

    try:
        return _check_dates(_spell_intervals(_execute(connection, text, run)))
    except duckdb.Error as error:
        raise QueryError(f"query: {error}") from error


def _spell_intervals(result: pa.Table) -> pa.Table:
    """Convert columns of intervals, for which JSON, CSV and Parquet have no type, to text such as 1:02:03."""
    for place, field in enumerate(result.schema):
        if pa.types.is_interval(field.type):
            texts = [None if value is None else _spell_interval(value) for value in result[place].to_pylist()]
            result = result.set_column(place, field.name, pa.array(texts, pa.string()))
    return result


def _spell_interval(value: pa.MonthDayNano) -> str:
    seconds = value.days * 86_400 + round(value.nanoseconds / 1e9)
    minutes, rest = divmod(abs(seconds), 60)
    clock = f"{'-' if seconds < 0 else ''}{minutes // 60}:{minutes % 60:02}:{rest:02}"
    return f"{value.months} months {clock}" if value.months else clock


def _check_dates(result: pa.Table) -> pa.Table:
    """Return a table unchanged. Raises QueryError if it has a date outside of the years 1 to 9999."""
    for column, field in zip(result.columns, result.schema, strict=True):
        try:
            if pa.types.is_date32(field.type) or (pa.types.is_timestamp(field.type) and field.type.unit != "ns"):
                ticks = _TICKS_PER_DAY[getattr(field.type, "unit", "day")]
                ends = pc.min_max(column.cast(f"int{field.type.bit_width}")).as_py().values()
                for day in (end // ticks for end in ends if end is not None):
                    date(1970, 1, 1) + timedelta(day)
            elif pa.types.is_nested(field.type) and re.search("date|timestamp", str(field.type)):
                column.to_pylist()
        except (OverflowError, ValueError) as error:
            raise QueryError(
                f"query: got a date in column {field.name[:100]} that is out of range, expected the years 1 to 9999; "
                "select it as text: column::VARCHAR"
            ) from error
    return result


def _dictionaries(result: pa.Table, **options: Any) -> list[dict[str, Any]]:
    """Convert an Arrow table to one dictionary per row. `options` are those of `pyarrow.ChunkedArray.to_pylist`.

    Timestamps are converted to datetimes here, because `to_pylist` would import pandas for them.
    """
    columns = []
    for column in result.columns:
        if pa.types.is_timestamp(column.type) and column.type.unit == "us":
            epoch = datetime(1970, 1, 1, tzinfo=UTC if column.type.tz else None)
            values = column.cast(pa.int64()).to_pylist()
            columns.append([None if value is None else epoch + timedelta(microseconds=value) for value in values])
        else:
            columns.append(column.to_pylist(**options))
    return [dict(zip(result.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


def _execute(
    connection: Connection, text: str, run: Callable[[Connection], _Result], stack: ExitStack | None = None
) -> _Result:
    """Call `run` with a new cursor to run the query `text`. The cursor is closed afterwards, or by `stack`.

    If the query fails because tables of a remote lake are not downloaded, or because a run is damaged, `run` is called
    again with the tables, or without the damaged run. Raises LakeError if that run cannot be left out.
    """
    while True:
        left_out = len(list_damage(connection))
        try:
            define_views(connection, text)
            with ExitStack() as closing:
                return run((stack or closing).enter_context(connection.cursor()))
        except duckdb.Error as error:
            if not repair(connection, error, left_out):
                raise


def _to_json(value: Any) -> Any:
    """Convert a value so that JSON can represent it: decimals become numbers, and NaN and infinity become None."""
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
    """Append _2, _3 and so on to repeated column names, such as those of `SELECT a.x, b.x`."""
    names = result.column_names
    counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return result.rename_columns([name if n == 1 else f"{name}_{n}" for name, n in zip(names, counts, strict=True)])
