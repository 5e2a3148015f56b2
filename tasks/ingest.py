"""Corpus -> pairs and ingest errors. Every sampled row of the corpus becomes a row of one of these tables."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from prefect import task

import stores
from corpora import Corpus, Pair, Reason, Rejected, digest
from corpora.perceptual_hash import group_near_duplicates, parse_hashes
from tasks.corpus_parts import Reading, raise_bad_input, read_parts
from tasks.errors import BadInputError
from tasks.execution import TASK_OPTIONS
from tasks.inputs import load_corpus
from tasks.lake.run import Run, TableWriter
from tasks.parts import remove_parts
from tasks.progress import track
from tasks.records import Shard, box_columns, parse_box
from tasks.regions import Detections, Detector, load_detectors, run_detectors
from tasks.settings import CorpusConfig

_ROWS_PER_STEP: Final = 16  # of the progress bar, which takes longer than the other work on a row


def _check_boxes(row: Pair | Rejected, columns: Mapping[str, str]) -> Pair | Rejected:
    """Return the row, or a rejected row if a box in one of the columns (region name -> column) is malformed."""
    if isinstance(row, Rejected):
        return row
    for region, column in columns.items():
        try:
            if value := row.attributes.get(column):
                parse_box(value)
        except ValueError as error:
            detail = f"region {region!r}, column {column!r}: {error}; correct the value, or leave it empty"
            return Rejected(row.row, row.file_name, row.caption, Reason.MALFORMED_BOX, detail, dict(row.attributes))
    return row


_SAME_NAME = ("pair_id", "file_name", "caption", "image_sha256", "width", "height", "fingerprint")


def _pair_columns(pairs: Sequence[Pair]) -> dict[str, list[Any]]:
    """Return the columns of `pairs`."""
    return {name: list(map(attrgetter(name), pairs)) for name in _SAME_NAME} | {
        "row_number": [pair.row for pair in pairs],
        "container": [pair.place.container for pair in pairs],
        "position": [pair.place.position for pair in pairs],
        "attributes": [list(pair.attributes.items()) for pair in pairs],
    }


def _error_columns(errors: Sequence[Rejected]) -> dict[str, list[Any]]:
    """Return the columns of `ingest_errors`."""
    return {name: list(map(attrgetter(name), errors)) for name in ("file_name", "caption", "detail")} | {
        "row_number": [error.row for error in errors],
        "stage": ["ingest"] * len(errors),
        "reason": [str(error.reason) for error in errors],
        "attributes": [list(error.attributes.items()) for error in errors],
    }


def _detection_rows(pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    """Yield rows of `detections` for pairs whose inspection is the result of detectors."""
    for pair in pairs:
        if isinstance(pair.inspection, Detections):
            for region, boxes in pair.inspection.boxes.items():
                for box in boxes:
                    yield {"pair_id": pair.pair_id, "region": region, **box_columns(box)}


@task(name="ingest", task_run_name="ingest", **TASK_OPTIONS)
def ingest(
    run: Run,
    settings: CorpusConfig,
    columns: Mapping[str, str],
    shard_size: int,
    seed: int,
    detectors: Sequence[str] = (),
    readers: int | None = None,
    reading: Reading | None = None,
) -> list[Shard]:
    """Read the corpus into `pairs` (one row group per shard) and `ingest_errors`; a resumed run reuses its pairs.

    `columns` has, by name of a region, the metadata column with its boxes. Each image is decoded once. The boxes that
    `detectors` find in it are stored as `detections`. A pair on which a detector fails has no boxes of that detector.
    The manifest lists the detectors that failed, because alerts on their regions must not count as resolved, and has a
    sentence about each. If tasks have read the parts of `reading`, their rows are joined in the order of the corpus.

    Returns the shards. Raises BadInputError if the corpus as a whole cannot be read, one of the columns has no value in
    any row, or a detector cannot be loaded.
    """
    if not run.fetch_files("pairs"):
        with raise_bad_input():
            corpus = load_corpus(settings)
            if reading is None:
                rows, reading = _read_rows(corpus, settings, seed, load_detectors(detectors), readers)
            else:
                rows = corpus.reject_repeated(read_parts(run, reading.parts))
            _store_rows(run, rows, reading, columns, shard_size, bool(detectors), settings.unit)
    remove_parts(run, "ingest")
    return [Shard(index, size) for index, size in enumerate(run.row_group_sizes("pairs"))]


@dataclass
class _Failures:
    """How many pairs a detector failed on, and its first error."""

    pairs: int
    first: str


@dataclass
class _RowWriter:
    """Writer of rows in groups of `shard_size`. `regions` has the column with its boxes by name of a region."""

    pair_file: TableWriter
    error_file: TableWriter
    detection_file: TableWriter | None
    regions: Mapping[str, str]
    shard_size: int
    pairs: list[Pair] = field(default_factory=list)
    errors: list[Rejected] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)  # those with a value in any row
    failures: dict[str, _Failures] = field(default_factory=dict)  # by name of the detector

    def add(self, row: Pair | Rejected) -> Pair | Rejected:
        """Store a row, and return it as it is stored."""
        self.columns.update(row.attributes)
        row = _check_boxes(row, self.regions)
        if isinstance(row, Pair):
            self.pairs.append(row)
            if isinstance(row.inspection, Detections):
                for name, error in row.inspection.errors.items():
                    self.failures.setdefault(name, _Failures(0, f"{row.file_name}: {error}")).pairs += 1
        else:
            self.errors.append(row)
        if self.shard_size in (len(self.pairs), len(self.errors)):
            self.flush(self.shard_size)
        return row

    def flush(self, size: int = 1) -> None:
        """Write the rows of a table of which there are at least `size`."""
        if len(self.pairs) >= size:
            self.pair_file.write_columns(_pair_columns(self.pairs))
            if self.detection_file:
                self.detection_file.write(_detection_rows(self.pairs))
            self.pairs.clear()
        if len(self.errors) >= size:
            self.error_file.write_columns(_error_columns(self.errors))
            self.errors.clear()


def _read_rows(
    corpus: Corpus, settings: CorpusConfig, seed: int, detectors: Sequence[Detector], readers: int | None
) -> tuple[Iterator[Pair | Rejected], Reading]:
    """Read the corpus in this process. The second result has no parts."""
    listed = corpus.count()  # independent of the reader, so that the accounting gate detects a row that it loses
    sampling = settings.sampling(seed)
    sample = None if sampling is None else corpus.draw_sample(sampling)
    rows = corpus.pairs(sample, readers, partial(run_detectors, detectors) if detectors else None)
    return rows, Reading(listed, sample.skipped_rows if sample else 0, ())


def _store_rows(
    run: Run,
    rows: Iterator[Pair | Rejected],
    reading: Reading,
    columns: Mapping[str, str],
    shard_size: int,
    has_detectors: bool,
    unit: str | None,
) -> None:
    to_read = reading.corpus_rows - reading.skipped_rows
    batches = track(iter(lambda: list(islice(rows, _ROWS_PER_STEP)), []), to_read, "reading the corpus", steps=len)
    with run.changes() as changes:
        with contextlib.ExitStack() as files:
            writer = _RowWriter(
                files.enter_context(changes.open_writer("pairs")),
                files.enter_context(changes.open_writer("ingest_errors", "ingest")),
                files.enter_context(changes.open_writer("detections")) if has_detectors else None,
                columns,
                shard_size,
            )
            corpus_digest = digest(map(writer.add, chain.from_iterable(batches)))
            writer.flush()
            if unit and unit not in writer.columns:
                raise BadInputError(
                    f"[corpus] unit: no row of the corpus has a value in {unit!r}, columns with values are "
                    f"{sorted(writer.columns)}; name one of those"
                )
            missing = set(columns.values()) - writer.columns
            if missing:
                raise BadInputError(
                    f"[regions.columns]: no row of the corpus has a value in {sorted(missing)}, "
                    f"columns with values are {sorted(writer.columns)}; name one of those"
                )
        changes.write_table("near_duplicates", _near_duplicates(stores.fetch(run.path("pairs"))))
        pairs, errors = writer.pair_file.rows, writer.error_file.rows
        counts = {"corpus_rows": reading.corpus_rows, "not_sampled": reading.skipped_rows}
        changes.update(counts | {"pairs": pairs, "errors": errors}, corpus_digest=corpus_digest)
        if has_detectors:
            sentences = [_format_failures(name, failed, pairs) for name, failed in writer.failures.items()]
            changes.update(failed_detectors=sorted(writer.failures), detector_failures=sentences)


def _format_failures(name: str, failures: _Failures, pairs: int) -> str:
    return (
        f"detector {name} failed on {failures.pairs} of {pairs} pairs, so these pairs have no regions from this "
        f"detector; first error: {failures.first}"
    )


def _near_duplicates(path: Path) -> Iterator[dict[str, Any]]:
    """Yield rows of `near_duplicates`: for each group of similar images, the first pair of each distinct image."""
    # 64 bits of an image's sha256 identify it, as in pair ids.
    images = np.fromiter((int(text[:16], 16) for text in _column(path, "image_sha256")), np.uint64)
    firsts = np.sort(np.unique(images, return_index=True)[1])
    near_duplicates = group_near_duplicates(parse_hashes(_column(path, "fingerprint"))[firsts])
    members = {int(firsts[place]) for places in near_duplicates for place in places}
    ids = {row: pair_id for row, pair_id in enumerate(_column(path, "pair_id")) if row in members}
    for number, places in enumerate(near_duplicates, start=1):
        for place in places:
            yield {"pair_id": ids[int(firsts[place])], "alike": number}


def _column(path: Path, name: str) -> Iterator[str]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(columns=[name]):
            yield from batch.column(0).to_pylist()
