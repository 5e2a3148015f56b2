"""Corpus -> pairs and ingest errors, in Parquet. Every row that is read becomes the one or the other."""

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
    """A pair whose region column cannot be read cannot be audited as configured: it is rejected, with the reason."""
    if isinstance(row, Rejected):
        return row
    for region, column in columns.items():
        try:
            if value := row.attributes.get(column):
                parse_box(value)
        except ValueError as error:
            detail = f"region {region!r}, column {column!r}: {error}; mend the value, or leave it empty"
            return Rejected(row.row, row.file_name, row.caption, Reason.MALFORMED_BOX, detail, dict(row.attributes))
    return row


def _pair_row(pair: Pair) -> dict[str, Any]:
    return {
        "pair_id": pair.pair_id,
        "row_number": pair.row,
        "file_name": pair.file_name,
        "container": pair.place.container,
        "position": pair.place.position,
        "caption": pair.caption,
        "image_sha256": pair.image_sha256,
        "width": pair.width,
        "height": pair.height,
        "fingerprint": pair.fingerprint,
        "attributes": list(pair.attributes.items()),
    }


def _error_row(rejected: Rejected) -> dict[str, Any]:
    return {
        "row_number": rejected.row,
        "stage": "ingest",
        "file_name": rejected.file_name,
        "caption": rejected.caption,
        "reason": str(rejected.reason),
        "detail": rejected.detail,
        "attributes": list(rejected.attributes.items()),
    }


def ingest_corpus(
    run: Run, source: CorpusConfig, columns: Mapping[str, str], shard_size: int, seed: int
) -> list[Shard]:
    """Read the corpus into `pairs` (a row group a shard) and `ingest_errors`; returns the shards.

    A run that already has its pairs keeps them. Raises BadInputError when the corpus as a whole is unreadable.
    """
    if not run.fetch_files("pairs"):
        try:
            _read_corpus(run, source, columns, shard_size, seed)
        except CorpusError as error:
            raise BadInputError(str(error)) from error
    return [Shard(index, size) for index, size in enumerate(run.row_group_sizes("pairs"))]


def _read_corpus(run: Run, source: CorpusConfig, columns: Mapping[str, str], shard_size: int, seed: int) -> None:
    # Counted by itself, so that the accounting gate would see a row that the reader lost.
    corpus = load_corpus(source)
    listed = corpus.count()
    pairs: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    present: set[str] = set()
    sampling = source.sampling(seed)
    drawn = None if sampling is None else corpus.draw_sample(sampling)
    reader = track(corpus.pairs(drawn), min(source.sample or listed, listed), "reading rows")
    with run.open_writer("pairs") as pair_file, run.open_writer("ingest_errors", "ingest") as error_file:

        def stored() -> Iterator[Pair | Rejected]:
            for raw in reader:
                present.update(raw.attributes)
                row = _check_boxes(raw, columns)
                if isinstance(row, Pair):
                    pairs.append(_pair_row(row))
                else:
                    errors.append(_error_row(row))
                for file, rows in ((pair_file, pairs), (error_file, errors)):
                    if len(rows) == shard_size:
                        file.write(rows)
                        rows.clear()
                yield row

        corpus_digest = digest(stored())
        pair_file.write(pairs)
        error_file.write(errors)
        missing = set(columns.values()) - present
        if missing:
            raise BadInputError(
                f"[regions.columns]: no row of the corpus has a value in {sorted(missing)}, "
                f"columns with values are {sorted(present)}; name one of those"
            )
    run.register_files("ingest_errors", [run.path("ingest_errors", "ingest")], [error_file.rows])
    run.write_table("near_duplicates", _near_duplicates(stores.fetch(run.path("pairs"))))
    run.update(
        corpus_digest=corpus_digest,
        counts={
            "corpus_rows": listed,
            "not_sampled": drawn.skipped_rows if drawn else 0,
            "pairs": pair_file.rows,
            "errors": error_file.rows,
        },
    )
    # Last: by the listed pairs a resumed run knows that all this is done.
    run.register_files("pairs", [run.path("pairs")], [pair_file.rows])


def _near_duplicates(path: Path) -> Iterator[dict[str, Any]]:
    """The first pairs of images that look alike, group by group, from the stored pairs."""
    # By the 64 bits that a pair's id has of an image.
    images = np.fromiter((int(text[:16], 16) for text in _column(path, "image_sha256")), np.uint64)
    firsts = np.sort(np.unique(images, return_index=True)[1])
    found = group_near_duplicates(parse_hashes(_column(path, "fingerprint"))[firsts])
    members = {int(firsts[place]) for places in found for place in places}
    ids = {row: pair_id for row, pair_id in enumerate(_column(path, "pair_id")) if row in members}
    for number, places in enumerate(found, start=1):
        for place in places:
            yield {"pair_id": ids[int(firsts[place])], "alike": number}


def _column(path: Path, name: str) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=[name]):
            yield from batch.column(0).to_pylist()


@task(name="ingest", task_run_name="ingest", **TASK_OPTIONS)
def ingest(run: Run, source: CorpusConfig, columns: Mapping[str, str], shard_size: int, seed: int) -> list[Shard]:
    """Read the corpus; see `ingest_corpus`."""
    return ingest_corpus(run, source, columns, shard_size, seed)
