"""Access to the SQL files of this package (names, text, digests), and to the Arrow schemas of stored tables."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

_ROOT = Path(__file__).parent


def query_names(folder: str) -> list[str]:
    """Return the sorted names of the SQL files in a folder of this package, such as `rules`, without `.sql`."""
    return sorted(path.stem for path in (_ROOT / folder).glob("*.sql"))


@cache
def query_text(name: str) -> str:
    """Return the text of a SQL file of this package. Its name is given as `folder/name`, without `.sql`."""
    return (_ROOT / f"{name}.sql").read_text(encoding="utf-8")


def text_digest(text: str) -> str:
    """Return the sha256 (hex) of a SQL text."""
    return hashlib.sha256(text.encode()).hexdigest()


def view_names() -> list[str]:
    """Return the sorted names of all views that a query can read: one per stored table, and those in `views/`."""
    return sorted({*query_names("schema"), *query_names("views")})


def describe_view(name: str) -> str:
    """Return the first sentence of the comment at the top of a view's SQL file. It describes one row of the view."""
    text = query_text(f"views/{name}" if name in query_names("views") else f"schema/{name}")
    lines = takewhile(lambda line: line.startswith("--"), text.splitlines())
    return " ".join(line.removeprefix("--").strip() for line in lines).partition(". ")[0].removesuffix(".") + "."


def schema(table: str) -> pa.Schema:
    """Return the Arrow schema of a stored table. Its SQL file in `schema/` defines it."""
    return _tables()[table][0]


def column_types(table: str) -> dict[str, str]:
    """Return the DuckDB type of each column of a stored table."""
    return _tables()[table][1]


@cache
def _tables() -> dict[str, tuple[pa.Schema, dict[str, str]]]:
    """Return the Arrow schema of each stored table, and the DuckDB types of its columns."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name in query_names("schema"):
            connection.execute(query_text(f"schema/{name}"))
        tables = {name: connection.table(name) for name in query_names("schema")}
        types = {name: dict(zip(each.columns, map(str, each.types), strict=True)) for name, each in tables.items()}
        return {name: (each.limit(0).to_arrow_table().schema, types[name]) for name, each in tables.items()}


def conform(table: str, records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Convert rows to an Arrow table with the schema of a stored table.

    Args:
        table: Name of the stored table.
        records: Rows as mappings from column name to value. Missing columns become NULL.
    """
    return pa.Table.from_pylist([dict(record) for record in records], schema=schema(table))


def conform_columns(table: str, columns: Mapping[str, Any]) -> pa.Table:
    """Convert columns to an Arrow table with the schema of a stored table, without an object per value.

    Args:
        table: Name of the stored table.
        columns: Arrays or lists of the same length, by column. Missing columns become NULL.
    """
    fields, rows = schema(table), len(next(iter(columns.values())))

    def convert(field: pa.Field) -> pa.Array:
        values = columns.get(field.name)
        if values is None:
            return pa.nulls(rows, field.type)
        return (
            values.cast(field.type) if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, field.type)
        )

    return pa.Table.from_arrays([convert(field) for field in fields], schema=fields)
