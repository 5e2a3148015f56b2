"""Macros, views and empty tables of a connection, each defined before the first query whose text has its name.

Defining all of them takes most of the time of `connect`, and most connections are those of a stage, which reads a few.
"""

import re
import threading
import weakref
from collections.abc import Iterable
from functools import cache, lru_cache
from graphlib import TopologicalSorter
from typing import Final, NamedTuple

from sql.queries import query_names, query_text
from sql.tables import Connection

_CATALOG: Final = re.compile(r"information_schema|duckdb_|sqlite_|pg_|pragma_|query", re.IGNORECASE)
"""Names with which a query can list views, or read one whose name it composes."""


class _Definition(NamedTuple):
    """Statements that define something.

    Attributes:
        names: Names by which a query uses it.
        statements: The statements.
        reads: Words of the statements, among which are the names of what must be defined before.
    """

    names: frozenset[str]
    statements: str
    reads: frozenset[str]


class _Views:
    """What is not defined yet in a connection, each after what it reads."""

    def __init__(self, empty: Iterable[str]) -> None:
        self._pending = [*map(_define_empty, empty), *_definitions()]
        self._lock = threading.Lock()

    def define(self, connection: Connection, text: str | None) -> None:
        with self._lock:
            is_all = text is None or _CATALOG.search(text) is not None
            chosen, left = (self._pending, []) if is_all else _select(self._pending, _find_names(text or ""))
            if chosen:
                with connection.cursor() as cursor:
                    for each in chosen:
                        cursor.execute(each.statements)
                self._pending = left


def _select(pending: list[_Definition], names: frozenset[str]) -> tuple[list[_Definition], list[_Definition]]:
    """Return the definitions that a query with these words needs, directly or not, and all others."""
    found: set[int] = set()
    while more := {
        place for place, each in enumerate(pending) if place not in found and not names.isdisjoint(each.names)
    }:
        found |= more
        names = names.union(*(pending[place].reads for place in more))
    return [pending[place] for place in sorted(found)], [each for n, each in enumerate(pending) if n not in found]


_views: weakref.WeakKeyDictionary[Connection, _Views] = weakref.WeakKeyDictionary()


def prepare_views(connection: Connection, empty: Iterable[str]) -> None:
    """Let a connection have the macros, a view for each stored table, and those in the SQL files of `views/`.

    Args:
        connection: The connection.
        empty: Stored tables without rows, which are not defined yet.
    """
    _views[connection] = _Views(empty)


def define_views(connection: Connection, text: str | None) -> None:
    """Define what the text of a query names (None: everything), and what that reads."""
    if (views := _views.get(connection)) is not None:
        views.define(connection, text)


@lru_cache(512)
def _find_names(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


@cache
def _define_empty(table: str) -> _Definition:
    statements = f"USE stored; {query_text(f'schema/{table}')}; USE main"
    return _Definition(frozenset({table}), statements, frozenset())


@cache
def _definitions() -> tuple[_Definition, ...]:
    """Return the definitions of macros and of views, in topological order: a view after those that it reads."""
    own = {name: query_text(f"views/{name}") for name in query_names("views")}
    of_tables = {name: f"CREATE VIEW {name} AS FROM stored.{name}" for name in query_names("schema") if name not in own}
    reads = {name: set(re.findall(r"(?:FROM|JOIN) (\w+)", text)) & set(own) for name, text in own.items()}
    views = of_tables | {name: own[name] for name in TopologicalSorter(reads).static_order()}
    macros = [query_text(f"macros/{name}") for name in query_names("macros")]
    return (
        *(_define(re.findall(r"CREATE MACRO (\w+)", text), text) for text in macros),
        *(_define([name], text) for name, text in views.items()),
    )


def _define(names: Iterable[str], statements: str) -> _Definition:
    """Return a definition. What its comments name it does not read."""
    return _Definition(frozenset(names), statements, _find_names(re.sub("--.*", "", statements)))
