"""Connections, manifests and results of a lake that other processes write to, cached until the lake changes."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import pyarrow as pa
from cachetools import LRUCache

import sql
import stores
from corpora import Corpus
from review.presentation import corpus as audited
from sql import sandbox
from stores import Root, ledger
from stores.run_records import describe_unrecorded, read_recorded

_Value = TypeVar("_Value")

MAX_CONNECTIONS: Final = 8
"""Maximum number of open connections to one run or a few, and of open corpora."""
MAX_RESULTS: Final = 1024
MAX_PICTURES: Final = 400
MAX_SMALL_VIEWS: Final = 4000
"""Maximum number of small gray images in memory, each about 10 kB."""
MAX_REPORTS: Final = 8
MEMORY: Final = "1GB"
"""Memory limit of the queries on one connection."""
LISTING_SECONDS: Final = 10.0
"""Seconds for which a listing of the runs in object storage is used; a folder is listed for each request."""


class UnknownError(Exception):
    """A URL names something that is not in the lake; the message is shown to the reader."""


class _AllRuns(NamedTuple):
    """A connection to all runs; `ledger_damage` is why it does not have people's decisions, or None if it has."""

    connection: sql.Connection
    ledger_damage: str | None = None


class LakeCache:
    """Cached read access to a lake. All methods are thread-safe."""

    def __init__(self, lake: Root, remote_corpora: bool = False) -> None:
        """Create an empty cache; with `remote_corpora`, images of corpora on the network are loaded."""
        self.lake = lake.resolve() if isinstance(lake, Path) else lake
        self.corpus_lock = threading.Lock()
        """Lock for reading images, because the reader of a corpus keeps a file open."""
        self.pictures: LRUCache[Hashable, Any] = LRUCache(MAX_PICTURES)
        self.small_views: LRUCache[Hashable, bytes] = LRUCache(MAX_SMALL_VIEWS)
        self.reports: LRUCache[Hashable, bytes] = LRUCache(MAX_REPORTS)
        self._remote_corpora = remote_corpora
        self._lock = threading.RLock()
        self._connections: LRUCache[Hashable, sql.Connection] = LRUCache(MAX_CONNECTIONS)
        self._corpora: LRUCache[Hashable, Corpus] = LRUCache(MAX_CONNECTIONS)
        self._results: LRUCache[Hashable, Any] = LRUCache(MAX_RESULTS)
        self._all_runs: LRUCache[Hashable, _AllRuns] = LRUCache(1)
        self._listing: tuple[float, dict[str, Hashable]] | None = None
        self._versions: dict[str, Hashable] = {}  # of the runs, as last read

    def get_or_compute(self, cache: "LRUCache[Hashable, Any]", key: Hashable, compute: Callable[[], _Value]) -> _Value:
        """Return the value of a key in a cache of this object; compute and cache the value if it is missing."""
        with self._lock:
            if key in cache:
                value: _Value = cache[key]
                return value
        value = compute()
        with self._lock:
            cache[key] = value
        return value

    def connect(self) -> sql.Connection:
        """Connect to all readable runs together."""
        return self._connect_all().connection

    def list_damage(self) -> dict[str | None, str]:
        """Return why runs are left out of `connect`, by run id; damage outside of runs is listed under None."""
        runs = self._connect_all()
        damage: dict[str | None, str] = {} if runs.ledger_damage is None else {None: runs.ledger_damage}
        damage.update(sql.list_damage(runs.connection))
        return damage

    def connect_runs(self, *run_ids: str) -> sql.Connection:
        """Connect to some runs only, independent of damage in other runs. Raises UnknownError, LakeError."""
        names = tuple(sorted(set(run_ids)))
        # Without the version of the ledger, as this connection does not include decisions.
        key = (names, tuple(map(self.get_run_version, names)))
        with self._lock:
            return self.get_or_compute(self._connections, key, lambda: self._connect_names(names))

    def read_manifest(self, run_id: str) -> dict[str, Any]:
        """Return the manifest of a run. Raises UnknownError, LakeError."""
        return self.cache_for_run(run_id, "manifest", lambda: sql.read_manifests(self.lake, run_id)[0])

    def list_runs(self) -> list[str]:
        """List all runs, newest first, whether or not they can be read."""
        names = self._read_version()[0]
        return self.cache_for_lake("runs", lambda: read_recorded(self.lake).sort(names)[::-1])

    def list_views(self) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """List the views that queries can use: the name, a sentence about it, and its columns with their types."""

        def describe(name: str) -> tuple[str, str, list[tuple[str, str]]]:
            schema = sql.read_table(self.connect(), f'SELECT * FROM "{name}" LIMIT 0').schema  # noqa: S608  # a name of ours
            return name, sql.describe_view(name), [(field.name, str(field.type)) for field in schema]

        return self.get_or_compute(self._results, "views", lambda: [describe(name) for name in sql.view_names()])

    def run_query(self, text: str, max_rows: int, max_seconds: float) -> pa.Table:
        """Return the answer to a reader's query, which runs in a sandboxed process. Raises QueryError."""
        has_reviews = self._connect_all().ledger_damage is None
        return sandbox.read_table(self.lake, has_reviews, text, sandbox.Limits(max_rows, max_seconds))

    def get_run_version(self, run_id: str) -> Hashable:
        """Return a value that changes with the manifest of a run. Raises UnknownError."""
        runs, _ = self._read_version()
        if run_id not in runs:
            raise UnknownError(f"This lake has no run “{run_id}”.")
        return runs[run_id]

    def get_lake_version(self) -> Hashable:
        """Return a value that changes with each manifest, with the ledger, and every day, because waivers expire."""
        runs, head = self._read_version()
        return tuple(runs.items()), head, datetime.now(UTC).date()

    def query(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """Return the rows of a stored query over all runs, cached until the lake changes."""
        return self.cache_for_lake((query, repr(parameters)), lambda: sql.rows(self.connect(), query, **parameters))

    def query_run(self, run_id: str, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """Return the rows of a stored query with the parameter `run_id`, cached until the run changes."""
        return self.cache_for_run(
            run_id,
            (query, repr(parameters)),
            lambda: sql.rows(self.connect_runs(run_id), query, run_id=run_id, **parameters),
        )

    def cache_for_lake(self, key: Hashable, compute: Callable[[], _Value]) -> _Value:
        """Return the result of `compute`, cached under `key` until the lake changes."""
        return self.get_or_compute(self._results, (self.get_lake_version(), key), compute)

    def cache_for_run(self, run_id: str, key: Hashable, compute: Callable[[], _Value]) -> _Value:
        """Return the result of `compute`, cached under `key` until the run changes."""
        return self.get_or_compute(self._results, (run_id, self.get_run_version(run_id), key), compute)

    def open_corpus(self, run_id: str) -> Corpus:
        """Open the corpus of a run to read its images. Raises UnknownError with the reason if this is not possible."""
        manifest = self.read_manifest(run_id)
        key = (run_id, self.get_run_version(run_id))
        with self._lock:
            corpus = self._corpora.get(key) or audited.open_audited_corpus(manifest, self._remote_corpora)
            if corpus is None:  # not cached, because it may become available
                is_blocked = audited.is_remote(manifest) and not self._remote_corpora
                raise UnknownError(audited.CORPUS_REMOTE if is_blocked else audited.CORPUS_MISSING)
            self._corpora[key] = corpus
            return corpus

    def explain_missing_corpus(self, run_id: str) -> str | None:
        """Return why the images of a run cannot be shown; None if they can."""
        try:
            self.open_corpus(run_id)
        except UnknownError as error:
            return str(error)
        return None

    def explain_unrecorded(self, run_id: str) -> str | None:
        """Return a warning about a run that the ledger lacks; None for others. Raises UnknownError, LakeError."""

        def explain() -> str | None:
            status, digest = self.read_manifest(run_id)["status"], sql.manifest_sha256(self.lake, run_id)
            is_recorded = read_recorded(self.lake).is_recorded(run_id, status, digest)
            return None if is_recorded is not False else f"Run {run_id} {describe_unrecorded(self.lake, run_id)}."

        return self.cache_for_lake(("unrecorded", run_id), explain)

    def _connect_all(self) -> _AllRuns:
        runs, head = self._read_version()
        key = (tuple(runs.items()), head)
        with self._lock:
            return self.get_or_compute(self._all_runs, key, self._connect_readable)

    def _connect_readable(self) -> _AllRuns:
        try:
            return _AllRuns(sql.connect(self.lake, memory=MEMORY))
        except sql.LakeError as error:  # the ledger is damaged, so decisions are not shown; or there is no lake
            return _AllRuns(sql.connect(self.lake, with_decisions=False, memory=MEMORY), str(error))

    def _connect_names(self, names: tuple[str, ...]) -> sql.Connection:
        return sql.connect(self.lake, names[0], names[1:], memory=MEMORY)

    def _read_version(self) -> tuple[dict[str, Hashable], Hashable]:
        """Return version strings of each run's manifest and of the ledger."""
        folder = self.lake / ledger.FOLDER
        names: list[tuple[str, Hashable]] = []
        if isinstance(self.lake, Path):
            runs = _list_local_runs(self.lake)
            # All records: a changed one must be noticed, and a writer can be killed before it writes HEAD.
            names = sorted(stores.read_versions(self.lake / ledger.FOLDER).items())
        else:
            with self._lock:
                if self._listing is None or time.monotonic() - self._listing[0] > LISTING_SECONDS:
                    self._listing = (time.monotonic(), _list_remote_runs(self.lake))
                runs = self._listing[1]
        self._drop_replaced_runs(runs)
        try:  # for each request, so that a decision is visible at once
            return runs, (*names, stores.read_bytes(folder / ledger.HEAD))
        except OSError:  # missing, or not a file
            return runs, (*names,)

    def _drop_replaced_runs(self, runs: dict[str, Hashable]) -> None:
        """Empty all caches if a run's manifest was replaced: rows may have been erased, and must not stay in memory."""
        with self._lock:
            if any(runs.get(name) != version for name, version in self._versions.items()):
                for cache in (
                    self.pictures,
                    self.small_views,
                    self.reports,
                    self._results,
                    self._connections,
                    self._corpora,
                ):
                    cache.clear()
                self._all_runs.clear()
            self._versions = runs


def _list_run_ids(lake: Root) -> list[str]:
    return [name for name in stores.list_folders(lake / "runs") if sql.is_id(name)]


def _list_remote_runs(lake: Root) -> dict[str, Hashable]:
    paths = [lake / "runs" / name / "manifest.json" for name in _list_run_ids(lake)]
    return {path.parent.name: hashlib.sha256(data).hexdigest() for path, data in stores.read_all(paths)}


def _list_local_runs(lake: Path) -> dict[str, Hashable]:
    runs: dict[str, Hashable] = {}
    for name in _list_run_ids(lake):
        with contextlib.suppress(OSError):  # the run is being created or deleted
            status = (lake / "runs" / name / "manifest.json").stat()
            runs[name] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return runs
