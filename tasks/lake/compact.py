"""A complete run's many small Parquet files of a table -> few, with the same rows in the same order and row groups.

Written whole, then the manifest is replaced, then the old files are removed. A process that is killed in between
leaves a lake that reads the same, and what the next compaction of the run removes.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import sql
import stores
from stores.ledger import Signer
from tasks.errors import StoreError
from tasks.lake.run import Run
from tasks.lake.lock import lock_run

TABLES = ("attributions", "ingest_errors")
"""Those that have a file a shard. Of others, few files each, views make sums, whose last digit the files decide."""
GROUPS = 128
"""Row groups in a file, at most: whoever opens it reads a footer that grows with them."""
BYTES = 512 * 2**20
"""Bytes of the files that are merged into one, at most."""

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Merged:
    """What became of a table's files."""

    table: str
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class _Source:
    entry: Entry
    path: Path
    groups: int
    bytes: int
    schema: pa.Schema


def in_use(run: Run) -> str | None:
    """The run that builds upon this one and has not ended, which reads its files by their names; None if none is."""
    keys = ("base_run", "calibration_run", "reflags")
    going_on = (record for record in sql.read_manifests(run.lake) if record["status"] == "running")
    return next((record["run_id"] for record in going_on if run.run_id in map(record.get, keys)), None)


def compact_run(run: Run, signer: Signer | None = None) -> list[Merged]:
    """Merge a complete run's files, table by table; returns what was changed, nothing where nothing was to be done.

    The names of an unfinished run's files tell a resumed run what is done: such a run is not compacted. signer: of the
    ledger's record.

    Raises:
        StoreError: the run is not complete, a running one builds upon it, or a file is not what the manifest says.
        ResumeError: another process works on it.
        LakeError: the lake cannot be read or written.
    """
    with lock_run(run):
        record = run.read_manifest()
        if not sql.is_complete(record):
            raise StoreError(
                f"compact: run {run.run_id} is {record['status']}, expected a complete one; resume it first"
            )
        if user := in_use(run):
            raise StoreError(
                f"compact: run {user} is running and reads the files of {run.run_id}; wait until it has ended"
            )
        _sweep(run)
        replaced: dict[str, list[Entry]] = {}
        for table in TABLES:
            entries = [entry for entry in record["files"] if entry["table"] == table]
            merged = [_merged(run, table, batch) for batch in _batches(run, entries)] if len(entries) > 1 else []
            if 0 < len(merged) < len(entries):
                replaced[table] = merged
        if not replaced:
            return []
        others = [entry for entry in record["files"] if entry["table"] not in replaced]
        files = others + [entry for entries in replaced.values() for entry in entries]
        before = stores.list_sizes(run.folder)
        run.rewrite("compacted", f"{len(record['files'])} files into {len(files)}", signer, files=files)
        _sweep(run)
    return [
        Merged(
            table,
            len(old := [entry for entry in record["files"] if entry["table"] == table]),
            len(new),
            _bytes(run, before, old),
            _bytes(run, before, new),
        )
        for table, new in replaced.items()
    ]


def _bytes(run: Run, sizes: Mapping[str, int], entries: Sequence[Entry]) -> int:
    return sum(sizes[entry["path"].removeprefix(f"runs/{run.run_id}/")] for entry in entries)


def _sweep(run: Run) -> None:
    """Remove files that a manifest before listed and this one does not."""
    listed = {entry["path"] for entry in run.read_manifest()["files"]}
    gone = {entry["path"] for record in run.read_earlier_manifests() for entry in record["files"]} - listed
    prefix = f"runs/{run.run_id}/"
    if there := {prefix + name for name in stores.list_sizes(run.folder)} & gone:
        stores.remove(run.folder, sorted(path.removeprefix(prefix) for path in there))


def _sources(run: Run, entries: Sequence[Entry]) -> Iterator[_Source]:
    """The files of a table, each held against its sha256."""
    paths = stores.fetch_all(run.lake, {entry["path"]: entry["sha256"] for entry in entries})
    for entry, path in zip(entries, paths, strict=True):
        try:
            if (found := stores.file_sha256(path)) != entry["sha256"]:
                raise StoreError(
                    f"{path}: got sha256 {found}, expected {entry['sha256']} as the manifest of run {run.run_id} says; "
                    "restore it from a backup"
                )
            with pq.ParquetFile(path) as file:
                yield _Source(entry, path, file.num_row_groups, path.stat().st_size, file.schema_arrow)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{path}: cannot be read ({error}); restore it from a backup") from error


def _batches(run: Run, entries: Sequence[Entry]) -> list[list[_Source]]:
    """Files that follow each other and have the same columns, as many as one file may take.

    Files of several releases of the audit differ in their columns, and are not mixed.
    """
    batches: list[list[_Source]] = []
    for source in _sources(run, entries):
        batch = batches[-1] if batches else []
        fits = (
            batch
            and batch[-1].schema.equals(source.schema, check_metadata=True)
            and sum(one.groups for one in batch) + source.groups <= GROUPS
            and sum(one.bytes for one in batch) + source.bytes <= BYTES
        )
        if fits:
            batch.append(source)
        else:
            batches.append([source])
    return batches


def _merged(run: Run, table: str, batch: Sequence[_Source]) -> Entry:
    """Write one file of a batch's row groups, and return its entry; a batch of one file stays as it is.

    Its name is made from the files' digests: done again, it is the same file.
    """
    if len(batch) == 1:
        return batch[0].entry
    digest = hashlib.sha256("\n".join(source.entry["sha256"] for source in batch).encode()).hexdigest()[:16]
    path = run.path(table, f"compacted-{digest}")
    sizes = []
    with stores.write_atomically(path) as aside:
        with pq.ParquetWriter(aside, batch[0].schema, compression="zstd", write_page_checksum=True) as writer:
            for rows in _groups(batch):
                writer.write_table(rows, row_group_size=max(1, rows.num_rows))
                sizes.append(rows.num_rows)
        sha256 = _checked(aside, sizes)
    return {"path": stores.relative_path(path, run.lake), "table": table, "rows": sum(sizes), "sha256": sha256}


def _groups(batch: Sequence[_Source]) -> Iterator[pa.Table]:
    for source in batch:
        try:
            with pq.ParquetFile(source.path, page_checksum_verification=True) as file:
                for number in range(source.groups):
                    yield file.read_row_group(number)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{source.path}: cannot be read ({error}); restore it from a backup") from error


def _checked(path: Path, sizes: Sequence[int]) -> str:
    """sha256 of a file that was written just now, once it reads as it was meant. Raises StoreError."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found = [file.read_row_group(number).num_rows for number in range(file.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: was written, but cannot be read ({error}); see to the disk") from error
    if found != list(sizes):
        raise StoreError(f"{path}: got row groups of {found} rows, expected {sizes}; see to the disk")
    return stores.file_sha256(path)
