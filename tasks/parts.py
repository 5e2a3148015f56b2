"""Parts of a stage: each is computed by a task of its own, and its rows are kept in a file until the stage has ended.

A stage first plans its parts. Tasks compute them in any order, in any process. Then the stage joins the rows, and
computes a part that has no file. A resumed run reuses the files, so no part is computed twice.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import stores
from tasks.lake.run import Run

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A part of a stage. Its work is any value that JSON can represent, such as the ids of the pairs to measure."""

    stage: str
    index: int
    work: Any

    @property
    def name(self) -> str:
        """The path of the part's file in the run's folder."""
        key = hashlib.sha256(json.dumps(self.work, sort_keys=True).encode()).hexdigest()[:16]
        return f"parts/{self.stage}-{self.index:05d}-{key}.json"

    def rows(self, run: Run, compute: Callable[[], Iterable[dict[str, Any]]]) -> Rows:
        """Return the rows of the part: those in its file, or computed ones, which are then stored."""
        path = run.folder / self.name
        if stores.is_file(path):
            rows: Rows = json.loads(stores.read_bytes(path))
        else:
            rows = list(compute())
            stores.write_bytes(path, json.dumps(rows).encode())
        return rows


def make_parts(stage: str, works: Iterable[Any]) -> list[Part]:
    """Number the parts of a stage."""
    return [Part(stage, index, work) for index, work in enumerate(works)]


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Split a sequence into parts of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def remove_parts(run: Run, parts: Sequence[Part]) -> None:
    """Delete the files of parts whose rows are in the lake."""
    stores.remove(run.folder, (part.name for part in parts))
