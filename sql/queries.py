"""The SQL files of this package: their names, text and digests, and the types of the stored tables."""

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
    """Return the names of the queries in a folder, sorted."""
    return sorted(path.stem for path in (_ROOT / folder).glob("*.sql"))


@cache
def query_text(name: str) -> str:
    """Return the text of the query `folder/name`."""
    return (_ROOT / f"{name}.sql").read_text(encoding="utf-8")


def query_digest(name: str) -> str:
    """Return the sha256 of the text of the query `folder/name`."""
    return text_digest(query_text(name))


def text_digest(text: str) -> str:
    """Return the sha256 of a query's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def view_names() -> list[str]:
    """Return the names of all views of a connection, sorted: one for each stored table, and those of `views/`."""
    return sorted({*query_names("schema"), *query_names("views")})


def describe_view(name: str) -> str:
    """Return the first sentence of a view's description: what one row is."""
    text = query_text(f"views/{name}" if name in query_names("views") else f"schema/{name}")
    lines = takewhile(lambda line: line.startswith("--"), text.splitlines())
    return " ".join(line.removeprefix("--").strip() for line in lines).partition(". ")[0].removesuffix(".") + "."


def schema(table: str) -> pa.Schema:
    """Return the Arrow types of a stored table, from its definition in `schema/`."""
    return _schemas()[table]


@cache
def _schemas() -> dict[str, pa.Schema]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table in query_names("schema"):
            connection.execute(query_text(f"schema/{table}"))
        return {name: connection.table(name).limit(0).to_arrow_table().schema for name in query_names("schema")}


def conform(table: str, records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as an Arrow table with exactly a stored table's types. Missing columns are NULL."""
    return pa.Table.from_pylist([dict(record) for record in records], schema=schema(table))
