"""Corpus -> pairs and ingest errors. Every sampled row of the corpus becomes a row of one of these tables."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from prefect import task

import stores
from corpora import CorpusError, Pair, Reason, Rejected, digest
from corpora.perceptual_hash import group_near_duplicates, parse_hashes
from tasks.errors import BadInputError
from tasks.execution import TASK_OPTIONS
from tasks.inputs import load_corpus
from tasks.lake.run import Run
from tasks.progress import track
from tasks.records import Shard, parse_box
from tasks.settings import CorpusConfig


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


def _pair_row(pair: Pair) -> dict[str, Any]:
    columns = ("pair_id", "file_name", "caption", "image_sha256", "width", "height", "fingerprint")
    return {key: getattr(pair, key) for key in columns} | {
        "row_number": pair.row,
        "container": pair.place.container,
        "position": pair.place.position,
        "attributes": list(pair.attributes.items()),
    }


def _error_row(rejected: Rejected) -> dict[str, Any]:
    return {key: getattr(rejected, key) for key in ("file_name", "caption", "detail")} | {
        "row_number": rejected.row,
        "stage": "ingest",
        "reason": str(rejected.reason),
        "attributes": list(rejected.attributes.items()),
    }


@task(name="ingest", task_run_name="ingest", **TASK_OPTIONS)
def ingest(run: Run, settings: CorpusConfig, columns: Mapping[str, str], shard_size: int, seed: int) -> list[Shard]:
    """Read the corpus into `pairs` (one row group per shard) and `ingest_errors`; a resumed run reuses its pairs.

    `columns` has, by name of a region, the metadata column with its boxes. Returns the shards. Raises BadInputError if
    the corpus as a whole cannot be read, or one of the columns has no value in any row.
    """
    if not run.fetch_files("pairs"):
        try:
            _read_corpus(run, settings, columns, shard_size, seed)
        except CorpusError as error:
            raise BadInputError(str(error)) from error
    return [Shard(index, size) for index, size in enumerate(run.row_group_sizes("pairs"))]


def _read_corpus(run: Run, settings: CorpusConfig, columns: Mapping[str, str], shard_size: int, seed: int) -> None:
    corpus = load_corpus(settings)
    listed = corpus.count()  # independent of the reader, so that the accounting gate detects a row that it loses
    pairs: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    present: set[str] = set()
    sampling = settings.sampling(seed)
    sample = None if sampling is None else corpus.draw_sample(sampling)
    to_read = listed - (sample.skipped_rows if sample else 0)
    with run.changes() as changes:
        with changes.open_writer("pairs") as pair_file, changes.open_writer("ingest_errors", "ingest") as error_file:

            def store_rows() -> Iterator[Pair | Rejected]:
                for row_read in track(corpus.pairs(sample), to_read, "reading the corpus"):
                    present.update(row_read.attributes)
                    row = _check_boxes(row_read, columns)
                    if isinstance(row, Pair):
                        pairs.append(_pair_row(row))
                    else:
                        errors.append(_error_row(row))
                    for file, rows in ((pair_file, pairs), (error_file, errors)):
                        if len(rows) == shard_size:
                            file.write(rows)
                            rows.clear()
                    yield row

            corpus_digest = digest(store_rows())
            pair_file.write(pairs)
            error_file.write(errors)
            missing = set(columns.values()) - present
            if missing:
                raise BadInputError(
                    f"[regions.columns]: no row of the corpus has a value in {sorted(missing)}, "
                    f"columns with values are {sorted(present)}; name one of those"
                )
        changes.write_table("near_duplicates", _near_duplicates(stores.fetch(run.path("pairs"))))
        counts = {"corpus_rows": listed, "not_sampled": listed - to_read, "pairs": pair_file.rows}
        changes.update(counts | {"errors": error_file.rows}, corpus_digest=corpus_digest)


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
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=[name]):
            yield from batch.column(0).to_pylist()
