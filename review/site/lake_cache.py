"""The lake as the page sees it: connections that are kept until something was written, and then opened anew."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

import sql
import stores
from corpora import Corpus
from review.presentation import corpus as audited
from sql import sandbox as apart
from stores import Root, ledger

_Value = TypeVar("_Value")

KEPT_RUNS = 8
"""Connections over one run alone, or two."""
KEPT_RESULTS = 512
KEPT_PICTURES = 400
KEPT_REPORTS = 8
MEMORY = "1GB"
"""That the queries of the pages over one connection may take together; each of those that are kept has its own."""
LISTED_ANEW = 10.0
"""Seconds after which the runs of a lake in object storage are listed again; a folder is looked at for each page."""


class UnknownError(Exception):
    """Something that a URL names is not in the lake; the message is for the reader."""


@dataclass(frozen=True)
class Damage:
    """A run that cannot be read, and why. run_id is None where it is not a run's."""

    run_id: str | None
    why: str


@dataclass(frozen=True)
class View:
    """A view of the lake: its name, a sentence about it, and its columns with their types."""

    name: str
    about: str
    columns: list[tuple[str, str]]


def _view_of(connection: sql.Connection, name: str) -> View:
    schema = sql.read_table(connection, f'SELECT * FROM "{name}" LIMIT 0').schema  # noqa: S608  # a name of ours
    text = sql.query_text(f"views/{name}" if sql.query_text(f"views/{name}").startswith("--") else f"schema/{name}")
    about = text.splitlines()[0].removeprefix("--").strip()
    return View(name, about, [(field.name, str(field.type)) for field in schema])


@dataclass(frozen=True)
class _Seen:
    """What stood in the lake: a stamp for each run's manifest, and one for the ledger."""

    runs: dict[str, Hashable]
    ledger: Hashable


@dataclass
class _Kept:
    """Values by their key, the least recently used are dropped."""

    most: int
    values: "OrderedDict[Hashable, Any]" = field(default_factory=OrderedDict)

    def get(self, key: Hashable) -> Any:
        if key not in self.values:
            return None
        self.values.move_to_end(key)
        return self.values[key]

    def put(self, key: Hashable, value: Any) -> None:
        self.values[key] = value
        self.values.move_to_end(key)
        while len(self.values) > self.most:
            self.values.popitem(last=False)  # whoever still reads from it has a reference of its own


@dataclass(frozen=True)
class _Opened:
    """The runs that can be read, together: these by name, None for all; and what is left out of them."""

    connection: sql.Connection
    damaged: list[Damage]
    names: tuple[str, ...] | None
    reviewed: bool = True


class _Files:
    """Pictures, plots and reports by what they show."""

    def __init__(self, most: int) -> None:
        self._kept, self._lock = _Kept(most), threading.Lock()

    def get(self, key: Hashable) -> Any:
        with self._lock:
            return self._kept.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        with self._lock:
            self._kept.put(key, value)


class Lens:
    """A lake that others write to while it is read. Safe to be used by many threads."""

    def __init__(self, lake: Root, remote_corpora: bool = False) -> None:
        """remote_corpora: open those behind a URL, too."""
        self._remote_corpora = remote_corpora
        self.lake = lake.resolve() if isinstance(lake, Path) else lake
        self._lock = threading.RLock()
        self._listed: tuple[float, dict[str, Hashable]] | None = None
        self._manifests = _Kept(4096)
        self._few = _Kept(KEPT_RUNS)
        self._results = _Kept(KEPT_RESULTS)
        self._corpora = _Kept(KEPT_RUNS)
        self.pictures, self.reports = _Files(KEPT_PICTURES), _Files(KEPT_REPORTS)
        self.reading = threading.Lock()
        """Held while a corpus is read: its reader may have a file open."""
        self._views: list[View] | None = None
        self._whole: tuple[Hashable, _Opened] | None = None

    def whole(self) -> sql.Connection:
        """All runs that can be read, together."""
        return self._opened().connection

    def damaged(self) -> list[Damage]:
        """What cannot be read, and is left out of `whole`."""
        return self._opened().damaged

    def asked(self, text: str, most_rows: int, most_seconds: float) -> pa.Table:
        """The answer to a query of a reader's own, from a process of its own. Raises QueryError."""
        opened = self._opened()
        lake = stores.scratch_folder() if opened.names == () else self.lake
        names = opened.names or None
        return apart.read_table(lake, names, opened.reviewed, text, apart.Limits(most_rows, most_seconds))

    def run(self, run_id: str, *beside: str) -> sql.Connection:
        """One run alone, or beside others: nothing that befell the rest of the lake matters.

        Raises:
            UnknownError: there is no such run.
            LakeError: it cannot be read.
        """
        seen = self._seen()
        names = tuple(sorted({run_id, *beside}))
        for name in names:
            self._check_known(name, seen)
        key = (names, tuple(seen.runs[name] for name in names))  # not the ledger: decisions are not in it
        with self._lock:
            found: sql.Connection | None = self._few.get(key)
            if found is None:
                found = self._connect(names)
                self._few.put(key, found)
            return found

    def manifest(self, run_id: str) -> dict[str, Any]:
        """The manifest of a run. Raises UnknownError, LakeError."""
        seen = self._seen()
        self._check_known(run_id, seen)
        key = (run_id, seen.runs[run_id])
        with self._lock:
            found: dict[str, Any] | None = self._manifests.get(key)
            if found is None:
                found = sql.read_manifests(self.lake, run_id)[0]
                self._manifests.put(key, found)
            return found

    def manifest_or_none(self, run_id: str) -> dict[str, Any] | None:
        """The manifest of a run; None if it cannot be read."""
        try:
            return self.manifest(run_id)
        except (UnknownError, sql.LakeError):
            return None

    def run_ids(self) -> list[str]:
        """All runs, newest first, whether or not they can be read."""
        return sorted(self._seen().runs, reverse=True)

    def stamp(self, run_id: str) -> Hashable:
        """Something that is another once the run's manifest is."""
        return self._seen().runs.get(run_id)

    def views(self) -> list[View]:
        """The views that queries can name, each with what it is and its columns."""
        with self._lock:
            if self._views is None:
                self._views = [_view_of(self.whole(), name) for name in sql.query_names("views")]
            return self._views

    def remember(self, run_id: str, key: Hashable, compute: Callable[[], _Value]) -> _Value:
        """What `compute` returns, computed once for a run as it stands."""
        seen = self._seen()
        return self._remembered((run_id, seen.runs.get(run_id), key), compute)

    def stamp_of_whole(self) -> Hashable:
        """Something that is another once a manifest, the ledger or the day is (waivers end)."""
        seen = self._seen()
        return tuple(seen.runs.items()), seen.ledger, datetime.now(UTC).date()

    def remember_whole(self, key: Hashable, compute: Callable[[], _Value]) -> _Value:
        """What `compute` returns, computed once for the lake and its ledger as they stand, for a day (waivers end)."""
        return self._remembered(("whole", self.stamp_of_whole(), key), compute)

    def _remembered(self, key: Hashable, compute: Callable[[], _Value]) -> _Value:
        with self._lock:
            found: _Value | None = self._results.get(key)
        if found is None:
            found = compute()
            with self._lock:
                self._results.put(key, found)
        return found

    def corpus(self, run_id: str) -> Corpus | None:
        """The corpus that a run audited, as `review.presentation.corpus` opens it; None if it cannot be had."""
        key = (run_id, self.stamp(run_id))
        manifest = self.manifest(run_id)
        with self._lock:
            found: Corpus | None = self._corpora.get(key)
            if found is None:
                found = audited.corpus_of(manifest, self._remote_corpora)
                if found is not None:
                    self._corpora.put(key, found)
            return found

    def no_corpus(self, run_id: str) -> str | None:
        """Why the pictures of a run's corpus cannot be shown; None if they can."""
        if self.corpus(run_id) is not None:
            return None
        remote = audited.is_remote(self.manifest(run_id)) and not self._remote_corpora
        return audited.REMOTE if remote else audited.GONE

    def _check_known(self, run_id: str, seen: _Seen) -> None:
        if run_id not in seen.runs:
            raise UnknownError(f"There is no run {run_id} in this lake.")

    def _connect(self, names: tuple[str, ...], reviewed: bool = False) -> sql.Connection:
        return sql.connect(self.lake, names[0], names[1:], reviewed, MEMORY)

    def _opened(self) -> _Opened:
        seen = self._seen()
        stamp = (tuple(seen.runs.items()), seen.ledger)
        with self._lock:
            if self._whole is None or self._whole[0] != stamp:
                self._whole = (stamp, self._open_whole(tuple(seen.runs)))
            return self._whole[1]

    def _open_whole(self, names: tuple[str, ...]) -> _Opened:
        try:
            return _Opened(sql.connect(self.lake, memory=MEMORY), [], None)
        except sql.LakeError as error:
            if isinstance(self.lake, Path) and not self.lake.is_dir():
                raise
            said = str(error)
        readable: list[str] = []
        damaged: list[Damage] = []
        for name in names:
            try:
                self._connect((name,)).close()
                readable.append(name)
            except sql.LakeError as error:
                damaged.append(Damage(name, str(error)))
        if not readable:
            return _Opened(sql.connect(stores.scratch_folder()), damaged, ())
        kept = tuple(readable)
        try:
            return _Opened(self._connect(kept, reviewed=True), damaged or [Damage(None, said)], kept)
        except sql.LakeError as error:  # the runs can be read, what people decided about them cannot
            return _Opened(self._connect(kept), [*damaged, Damage(None, str(error))], kept, reviewed=False)

    def _seen(self) -> _Seen:
        if isinstance(self.lake, Path):
            return _seen_in_folder(self.lake)
        with self._lock:
            if self._listed is None or time.monotonic() - self._listed[0] > LISTED_ANEW:
                self._listed = (time.monotonic(), _runs_in_store(self.lake))
            runs = self._listed[1]
        return _Seen(runs, _head_in_store(self.lake))


def _seen_in_folder(lake: Path) -> _Seen:
    runs: dict[str, Hashable] = {}
    for name in stores.list_folders(lake / "runs"):
        try:
            status = (lake / "runs" / name / "manifest.json").stat()
        except OSError:  # a run that is being made, or deleted
            continue
        runs[name] = (status.st_mtime_ns, status.st_size, status.st_ino)
    try:
        records = sorted((entry.name, entry.stat().st_mtime_ns) for entry in (lake / ledger.FOLDER).iterdir())[-2:]
    except OSError:
        records = []
    return _Seen(runs, tuple(records))


def _runs_in_store(lake: Root) -> dict[str, Hashable]:
    paths = [lake / "runs" / name / "manifest.json" for name in stores.list_folders(lake / "runs")]
    return {path.parent.name: hashlib.sha256(data).hexdigest() for path, data in stores.read_all(paths)}


def _head_in_store(lake: Root) -> Hashable:
    """HEAD of the ledger, read for each page: whoever decides wants to see it at once."""
    try:
        return stores.read_bytes(lake / ledger.FOLDER / ledger.HEAD)
    except FileNotFoundError:
        return None
