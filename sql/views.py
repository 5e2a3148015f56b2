"""Views of a connection, each of which is defined before the first query whose text has its name.

Defining all of them takes half of the time of `connect`, and most connections are those of a stage, which reads a few.
"""

import re
import threading
import weakref
from collections.abc import Mapping
from functools import cache, lru_cache
from graphlib import TopologicalSorter
from typing import Final

from sql.queries import query_names, query_text
from sql.tables import Connection

_CATALOG: Final = re.compile(r"information_schema|duckdb_|sqlite_|pg_|pragma_|query", re.IGNORECASE)
"""Names with which a query can list views, or read one whose name it composes."""


class _Views:
    """The views of a connection that are not defined yet."""

    def __init__(self) -> None:
        self._pending = dict(_definitions())  # each view after those that it reads
        self._lock = threading.Lock()

    def define(self, connection: Connection, text: str | None) -> None:
        with self._lock:
            if not self._pending:
                return
            is_all = text is None or _CATALOG.search(text) is not None
            needed = set(self._pending) if is_all else _find_names(text or "")
            for name in reversed(self._pending):
                if name in needed:
                    needed |= _find_names(self._pending[name])
            if needed.isdisjoint(self._pending):
                return
            with connection.cursor() as cursor:
                for name in [name for name in self._pending if name in needed]:
                    cursor.execute(self._pending[name])
                    del self._pending[name]


_views: weakref.WeakKeyDictionary[Connection, _Views] = weakref.WeakKeyDictionary()


def prepare_views(connection: Connection) -> None:
    """Let a connection have a view for each stored table, and those in the SQL files of `views/`."""
    _views[connection] = _Views()


def define_views(connection: Connection, text: str | None) -> None:
    """Define the views that the text of a query names (None: all), and those that they read."""
    if (views := _views.get(connection)) is not None:
        views.define(connection, text)


@lru_cache(512)
def _find_names(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


@cache
def _definitions() -> Mapping[str, str]:
    """Return the statement that defines each view, by name, in topological order: a view after those that it reads."""
    own = {name: query_text(f"views/{name}") for name in query_names("views")}
    of_tables = {name: f"CREATE VIEW {name} AS FROM stored.{name}" for name in query_names("schema") if name not in own}
    reads = {name: set(re.findall(r"(?:FROM|JOIN) (\w+)", text)) & set(own) for name, text in own.items()}
    return of_tables | {name: own[name] for name in TopologicalSorter(reads).static_order()}
