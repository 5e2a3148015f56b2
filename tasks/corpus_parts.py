"""Parts of a corpus: tasks read them, and ingest joins their rows in the order of the corpus.

A part is a number of listed rows or, in formats that keep images in containers, one or several whole containers.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, Final, NoReturn, cast

from prefect import task

from corpora import CorpusError, Listing, Pair, Place, Reason, Rejected
from corpora.corpus import CheckedRow
from tasks.errors import BadInputError
from tasks.execution import TASK_OPTIONS
from tasks.inputs import SHARDS_IN_FLIGHT, load_corpus, reader_pool
from tasks.lake.run import Run
from tasks.parts import Part, Unvisited
from tasks.regions import Detections, Detector, load_detectors, run_detectors
from tasks.settings import CorpusConfig, Inputs

ROWS_PER_PART: Final = 2048
"""Rows that a task reads, which takes seconds. A smaller corpus is read by ingest itself, with all readers."""


@dataclass(frozen=True)
class ReadingPlan:
    """What a task needs to read a part of the corpus."""

    inputs: Inputs
    detectors: Sequence[str]


@dataclass(frozen=True)
class Reading:
    """A corpus in parts, with the number of its rows and of those that are not in the sample."""

    corpus_rows: int
    skipped_rows: int
    parts: Iterable[Part]


@contextlib.contextmanager
def raise_bad_input() -> Iterator[None]:
    """Raise a CorpusError of the block as a BadInputError."""
    try:
        yield
    except CorpusError as error:
        raise BadInputError(str(error)) from error


def plan_reading(run: Run, settings: CorpusConfig, seed: int) -> Reading | None:
    """Split the corpus into parts; None if it is small enough for one part, or has been read.

    The parts can be iterated once. This, or the call, raises BadInputError if the corpus as a whole cannot be read.
    """
    if run.fetch_files("pairs"):
        return None
    with raise_bad_input():
        corpus, sampling = load_corpus(settings), settings.sampling(seed)
        containers = corpus.count_containers()
        rows = sum(containers.values()) if containers else corpus.count()
        if min(rows, sampling.size if sampling else rows) <= ROWS_PER_PART:
            return None
        sample = corpus.draw_sample(sampling) if sampling else None
        parts = _iter_parts(corpus.split(ROWS_PER_PART, containers, sample))
        return Reading(rows, sample.skipped_rows if sample else 0, parts)


def _iter_parts(listings: Iterator[Listing]) -> Iterator[Part]:
    with raise_bad_input():
        for index, listing in enumerate(listings):
            # Prefect's visit of every row would take a tenth of the time of reading.
            work = hashlib.sha256(repr(listing).encode()).hexdigest()
            yield Part("ingest", index, work, "", Unvisited(listing))


@cache
def _load_detectors(names: tuple[str, ...]) -> list[Detector]:
    return load_detectors(names)  # once, because parts in several threads must share the lock of a detector


@task(name="read", task_run_name="read-{part.index}", **TASK_OPTIONS)
def read_part(run: Run, plan: ReadingPlan, part: Part) -> None:
    """Read, hash and inspect the images of a part, and store its rows until ingest joins them."""

    def compute() -> Iterator[dict[str, Any]]:
        corpus, detectors = load_corpus(plan.inputs.corpus), _load_detectors(tuple(plan.detectors))
        readers = plan.inputs.readers or corpus.default_readers
        ahead = max(1, 2 * readers // SHARDS_IN_FLIGHT)  # in all parts together as much as in a corpus without parts
        listing = cast("Unvisited", part.data).value
        inspect = partial(run_detectors, detectors) if detectors else None
        with raise_bad_input():
            for batch in corpus.read(listing, reader_pool(readers), ahead, inspect):
                yield from map(_to_record, batch)

    part.rows(run, compute)


def read_parts(run: Run, parts: Iterable[Part]) -> Iterator[list[CheckedRow]]:
    """Yield the rows of each part that `read_part` has stored."""

    def fail() -> NoReturn:
        raise FileNotFoundError(f"run {run.run_id}: a file in parts/ is missing or damaged; resume the run")

    for part in parts:
        yield list(map(_from_record, part.rows(run, fail)))


def _to_record(row: CheckedRow) -> dict[str, Any]:
    """Return a row as values that JSON can represent; see `_from_record`."""
    if isinstance(row.result, Pair):
        return {"location": row.location, "caption": row.caption, "pair": asdict(row.result)}
    return {"rejected": asdict(row.result)}


def _from_record(record: Mapping[str, Any]) -> CheckedRow:
    if rejected := record.get("rejected"):
        return CheckedRow(Rejected(**rejected | {"reason": Reason(rejected["reason"])}), "", None)
    pair = record["pair"]
    objects = {"place": Place(**pair["place"]), "inspection": pair["inspection"] and Detections(**pair["inspection"])}
    return CheckedRow(Pair(**pair | objects), record["location"], record["caption"])
