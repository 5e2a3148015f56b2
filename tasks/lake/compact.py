"""Compact a complete run: merge the many small Parquet files of a table into few, with the same rows and row groups.

The merged files are written first, then the manifest is replaced, then the old files are removed. If the process is
killed in between, the lake reads the same, and the next compaction of the run removes what is left.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import sql
import stores
from stores.ledger import Signer
from tasks.errors import StoreError
from tasks.lake.lock import lock_run
from tasks.lake.prune import REFERENCES
from tasks.lake.run import Run

TABLES = ("attributions", "ingest_errors")
"""Tables with a file per shard. Other tables have few files, and merging them could change the last digit of sums."""
MAX_ROW_GROUPS = 128
"""Row groups per merged file: every reader reads the footer, which grows with them."""
MAX_BYTES = 512 * 2**20
"""Size of the files that are merged into one."""

FileEntry = Mapping[str, Any]
"""A file in the manifest: `path`, `table`, `rows` and `sha256`."""


@dataclass(frozen=True)
class CompactedTable:
    """Number and size of a table's files before and after a compaction."""

    table: str
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class _Source:
    entry: FileEntry
    path: Path
    row_groups: int
    bytes: int
    schema: pa.Schema


def compact_run(run: Run, signer: Signer | None = None) -> list[CompactedTable]:
    """Merge the files of a complete run, table by table.

    An unfinished run is not compacted, because its file names tell a resumed run which shards are done.

    Args:
        run: the run.
        signer: key that signs the record in the ledger.

    Returns:
        The tables that were changed.

    Raises:
        StoreError: the run is not complete, a running run reads its files, or a file is damaged.
        ResumeError: another process works on the run.
        LakeError: the lake cannot be read or written.
    """
    with lock_run(run):
        record = run.read_manifest()
        if not sql.is_complete(record):
            raise StoreError(
                f"compact: run {run.run_id} is {record['status']}, expected a complete one; resume it first"
            )
        if dependent := _find_running_dependent(run):
            raise StoreError(
                f"compact: run {dependent} is running and reads the files of {run.run_id}; wait until it has ended"
            )
        _remove_replaced_files(run)
        entries = {table: [entry for entry in record["files"] if entry["table"] == table] for table in TABLES}
        merged = {
            table: [_merge(run, table, batch) for batch in _batch_files(run, files)]
            for table, files in entries.items()
            if len(files) > 1
        }
        merged = {table: files for table, files in merged.items() if len(files) < len(entries[table])}
        if not merged:
            return []
        files = [entry for entry in record["files"] if entry["table"] not in merged]
        files += [entry for table in merged.values() for entry in table]
        sizes = stores.list_sizes(run.folder)
        run.rewrite("compacted", f"{len(record['files'])} files into {len(files)}", signer, files=files)
        _remove_replaced_files(run)

    def size(files: Sequence[FileEntry]) -> int:
        return sum(sizes[entry["path"].removeprefix(f"runs/{run.run_id}/")] for entry in files)

    return [
        CompactedTable(table, len(entries[table]), len(after), size(entries[table]), size(after))
        for table, after in merged.items()
    ]


def _find_running_dependent(run: Run) -> str | None:
    """Return the id of a running run that reads this run's files; None if there is none."""
    for record in sql.read_manifests(run.lake):
        if record["status"] == "running" and run.run_id in (record.get(key) for key in REFERENCES):
            return str(record["run_id"])
    return None


def _remove_replaced_files(run: Run) -> None:
    """Remove files that an earlier manifest lists and the current one does not."""
    current = {entry["path"] for entry in run.read_manifest()["files"]}
    replaced = {entry["path"] for record in run.read_earlier_manifests() for entry in record["files"]} - current
    prefix = f"runs/{run.run_id}/"
    if names := sorted(name for name in stores.list_sizes(run.folder) if prefix + name in replaced):
        stores.remove(run.folder, names)


@contextmanager
def _open_parquet(path: Path, sha256: str | None = None) -> Iterator[pq.ParquetFile]:
    """Open a file whose pages are verified while reading, and the whole file before if its sha256 is given."""
    try:
        if sha256 is not None and (found := stores.file_sha256(path)) != sha256:
            raise StoreError(
                f"{path}: got sha256 {found}, expected {sha256} as in the manifest; restore it from a backup"
            )
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read ({error}); restore it from a backup") from error


def _batch_files(run: Run, entries: Sequence[FileEntry]) -> list[list[_Source]]:
    """Group consecutive files with the same columns into batches that fit into one file each.

    The files of a run can differ in their columns if it was resumed with a later release.

    Raises:
        StoreError: a file is damaged.
    """
    batches: list[list[_Source]] = []
    paths = stores.fetch_all(run.lake, {entry["path"]: entry["sha256"] for entry in entries})
    for entry, path in zip(entries, paths, strict=True):
        with _open_parquet(path, entry["sha256"]) as file:
            source = _Source(entry, path, file.num_row_groups, path.stat().st_size, file.schema_arrow)
        batch = batches[-1] if batches else []
        fits = (
            batch
            and batch[-1].schema.equals(source.schema, check_metadata=True)
            and sum(other.row_groups for other in batch) + source.row_groups <= MAX_ROW_GROUPS
            and sum(other.bytes for other in batch) + source.bytes <= MAX_BYTES
        )
        if fits:
            batch.append(source)
        else:
            batches.append([source])
    return batches


def _merge(run: Run, table: str, batch: Sequence[_Source]) -> FileEntry:
    """Merge a batch into one file and return its entry; a batch of one file is left as it is.

    The name is made from the digests of the files, so that a second attempt writes the same file.
    """
    if len(batch) == 1:
        return batch[0].entry
    digest = hashlib.sha256("\n".join(source.entry["sha256"] for source in batch).encode()).hexdigest()[:16]
    path = run.path(table, f"compacted-{digest}")
    sizes = []
    with stores.write_atomically(path) as temporary:
        with pq.ParquetWriter(temporary, batch[0].schema, compression="zstd", write_page_checksum=True) as writer:
            for source in batch:
                with _open_parquet(source.path) as file:
                    for number in range(source.row_groups):
                        rows = file.read_row_group(number)
                        writer.write_table(rows, row_group_size=max(1, rows.num_rows))
                        sizes.append(rows.num_rows)
        sha256 = _verify(temporary, sizes)
    return {"path": stores.relative_path(path, run.lake), "table": table, "rows": sum(sizes), "sha256": sha256}


def _verify(path: Path, sizes: Sequence[int]) -> str:
    """Return the sha256 of a file that was just written, after reading it back.

    Raises:
        StoreError: it cannot be read, or its row groups have other sizes.
    """
    with _open_parquet(path) as file:
        found = [file.read_row_group(number).num_rows for number in range(file.num_row_groups)]
    if found != list(sizes):
        raise StoreError(f"{path}: got row groups of {found} rows, expected {sizes}; check the disk")
    return stores.file_sha256(path)
