"""The SQL files of this package: their names, text and digests, and the types of the stored tables."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
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


@cache
def schema(table: str) -> pa.Schema:
    """Return the Arrow types of a stored table, from its definition in `schema/`."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(query_text(f"schema/{table}"))
        return connection.table(table).limit(0).to_arrow_table().schema


def conform(table: str, records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as an Arrow table with exactly a stored table's types. Missing columns are NULL."""
    return pa.Table.from_pylist([dict(record) for record in records], schema=schema(table))
