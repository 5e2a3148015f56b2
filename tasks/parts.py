"""Parts of a stage: each is computed by a task of its own, and its rows are kept in a file until the stage has ended.

A stage first plans its parts. Tasks compute them in any order, in any process. Then the stage joins the rows, and
computes a part that has no file. A resumed run reuses the files, so no part is computed twice.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import stores
from tasks.execution import running
from tasks.lake.run import Run
from tasks.progress import warn

Rows = list[dict[str, Any]]
Item = TypeVar("Item")

_skipped: set[Run] = set()


class SkippedError(Exception):
    """A part has not been computed, because another part failed or the run was interrupted."""


@contextlib.contextmanager
def skip_parts(run: Run) -> Iterator[None]:
    """Skip parts of a run that begin in this process while the block runs."""
    _skipped.add(run)
    try:
        yield
    finally:
        _skipped.discard(run)


class Unvisited:
    """A value in a parameter of a task that Prefect, which visits every item of a collection, does not look into."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(frozen=True)
class Part:
    """A part of a stage. Its work is any value that JSON can represent, such as the ids of the pairs to measure.

    `data` is input that is too large to keep once the rows are stored. The work must have a digest of it.
    """

    stage: str
    index: int
    work: Any
    key: str  # digest of the run's attributions, which differ if a resumed run attributes a shard that had failed
    data: Unvisited | None = None

    @property
    def name(self) -> str:
        """The path of the part's file in the run's folder."""
        key = hashlib.sha256(json.dumps([self.key, self.work], sort_keys=True).encode()).hexdigest()[:16]
        return f"parts/{self.stage}-{self.index:05d}-{key}.json"

    def rows(self, run: Run, compute: Callable[[], Iterable[dict[str, Any]]]) -> Rows:
        """Return the rows of the part: those in its file, or computed ones, which are then stored."""
        path = run.folder / self.name
        if run in _skipped:
            raise SkippedError(f"{self.stage} of run {run.run_id}: part {self.index} was skipped, as the run has ended")
        if stores.is_file(path):
            digest, _, data = stores.read_bytes(path).partition(b"\n")
            if digest == _digest(data):
                stored: Rows = json.loads(data)
                return stored
            warn(f"run {run.run_id}: {path} is damaged and computed again")
        with running():
            rows = list(compute())
            data = json.dumps(rows).encode()
            stores.write_bytes(path, _digest(data) + b"\n" + data)
        return rows


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def make_parts(run: Run, stage: str, works: Iterable[Any]) -> list[Part]:
    """Number the parts of a stage."""
    attributions = sorted(
        (entry["path"], entry["sha256"]) for entry in run.read_manifest()["files"] if entry["table"] == "attributions"
    )
    key = hashlib.sha256(json.dumps(attributions).encode()).hexdigest()
    return [Part(stage, index, work, key) for index, work in enumerate(works)]


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Split items into lists of at most `size` items."""
    iterator = iter(items)
    return iter(lambda: list(islice(iterator, size)), [])


def remove_parts(run: Run, stage: str) -> None:
    """Delete the files of a stage whose rows are in the lake, also those of earlier attempts."""
    names = stores.list_files(run.folder / "parts")
    stores.remove(run.folder, [f"parts/{name}" for name in names if name.startswith(f"{stage}-")])
