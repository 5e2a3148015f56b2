"""Corpus -> pairs and ingest errors. Every sampled row of the corpus becomes a row of one of these tables."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from prefect import task

import stores
from corpora import Corpus, Pair, Place, Reason, Rejected, RowError, digest
from corpora.perceptual_hash import group_near_duplicates, parse_hashes
from corpora.readers.protocol import ContainerReader
from tasks.corpus_parts import Reading, raise_bad_input, read_parts
from tasks.errors import BadInputError
from tasks.execution import TASK_OPTIONS
from tasks.inputs import load_corpus
from tasks.lake.run import Run, TableWriter
from tasks.outlines import parse_region
from tasks.parts import remove_parts
from tasks.progress import track
from tasks.records import Box, Shard, box_columns
from tasks.regions import Detections, Detector, load_detectors, run_detectors
from tasks.settings import CorpusConfig

_ROWS_PER_STEP: Final = 16  # of the progress bar, which takes longer than the other work on a row


def _read_regions(corpus: Corpus, columns: Mapping[str, str], row: Pair | Rejected) -> Pair | Rejected:
    """Add the boxes of regions that columns (by name of the region) describe to the detections of a row.

    If a description is invalid, or its mask file cannot be read, return a rejected row.
    """
    if isinstance(row, Rejected):
        return row

    def read_mask(name: str) -> Image.Image:
        if isinstance(corpus.reader, ContainerReader):
            raise ValueError(  # noqa: TRY004  # of the value in the column
                f"got {name[:100]!r}, expected boxes, polygons or run lengths: this format has no mask files"
            )
        try:
            return corpus.read_image(Place(name)).pixels
        except RowError as error:
            raise ValueError(f"mask file {name[:100]!r}: {error.detail.rstrip('.')}") from error

    boxes: dict[str, Sequence[Box]] = {}
    for region, column in columns.items():
        try:
            if value := row.attributes.get(column) or row.regions.get(column):
                boxes[region] = parse_region(value, (row.width, row.height), read_mask, corpus.limits.max_pixels)
        except ValueError as error:
            detail = f"region {region!r}, column {column!r}: {error}; correct the value, or leave it empty"
            return Rejected(row.row, row.file_name, row.caption, Reason.MALFORMED_BOX, detail, dict(row.attributes))
    found = row.inspection if isinstance(row.inspection, Detections) else Detections({}, {})
    return replace(row, inspection=replace(found, boxes={**found.boxes, **boxes}))


_SAME_NAME = ("pair_id", "file_name", "caption", "image_sha256", "width", "height", "fingerprint")


def _pair_columns(pairs: Sequence[Pair], places: Collection[str]) -> dict[str, list[Any]]:
    """Return the columns of `pairs`. Metadata columns that describe places in images are no attributes."""
    return {name: list(map(attrgetter(name), pairs)) for name in _SAME_NAME} | {
        "row_number": [pair.row for pair in pairs],
        "container": [pair.place.container for pair in pairs],
        "position": [pair.place.position for pair in pairs],
        "attributes": [[entry for entry in pair.attributes.items() if entry[0] not in places] for pair in pairs],
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
    """Yield rows of `detections` for pairs with boxes of detectors or columns."""
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

    `columns` has, by name of a region, the metadata column that describes it; see `parse_region`. Each image is decoded
    once. The boxes of these regions, and those that `detectors` find, are stored as `detections`. A pair on which a
    detector fails has no boxes of that detector. The manifest lists the detectors that failed, because alerts on their
    regions must not count as resolved, and has a sentence about each. If tasks have read the parts of `reading`, their
    rows are joined in the order of the corpus.

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
            _store_rows(run, corpus, rows, reading, columns, shard_size, bool(detectors), settings.unit)
    remove_parts(run, "ingest")
    return [Shard(index, size) for index, size in enumerate(run.row_group_sizes("pairs"))]


@dataclass
class _Failures:
    """How many pairs a detector failed on, and its first error."""

    pairs: int
    first: str


@dataclass
class _RowWriter:
    """Writer of rows in groups of `shard_size`."""

    pair_file: TableWriter
    error_file: TableWriter
    detection_file: TableWriter | None
    shard_size: int
    places: Collection[str]  # metadata columns that describe regions
    pairs: list[Pair] = field(default_factory=list)
    errors: list[Rejected] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)  # those with a value in any row
    failures: dict[str, _Failures] = field(default_factory=dict)  # by name of the detector

    def add(self, row: Pair | Rejected) -> Pair | Rejected:
        """Store a row, and return it."""
        self.columns.update(row.attributes)
        if isinstance(row, Pair):
            self.columns.update(row.regions)
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
            self.pair_file.write_columns(_pair_columns(self.pairs, self.places))
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
    corpus: Corpus,
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
            if columns:
                pool = files.enter_context(ThreadPoolExecutor(_ROWS_PER_STEP, thread_name_prefix="masks"))
                read = partial(_read_regions, corpus, columns)
                batches = (list(pool.map(read, batch)) for batch in batches)
            writer = _RowWriter(
                files.enter_context(changes.open_writer("pairs")),
                files.enter_context(changes.open_writer("ingest_errors", "ingest")),
                files.enter_context(changes.open_writer("detections")) if has_detectors or columns else None,
                shard_size,
                {*columns.values()},
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
