"""Compact a complete run: merge the many small Parquet files of a table into few, with the same rows and row groups.

The merged files are written first, then the manifest is replaced, then the old files are removed. If the process is
killed in between, readers of the lake see the same rows, and the next compaction of the run removes leftover files.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import sql
import stores
from stores import ledger
from stores.keys import SigningKey
from tasks.errors import StoreError
from tasks.lake.lock import lock_run
from tasks.lake.prune import REFERENCES
from tasks.lake.run import Run, open_parquet

TABLES = ("attributions", "patch_features", "ingest_errors")
"""Tables with a file per shard. Other tables have few files, and merging them could change the last digit of sums."""
MAX_ROW_GROUPS = 128
"""Maximum number of row groups per merged file: every reader reads the file's footer, which grows with them."""
MAX_BYTES = 512 * 2**20
"""Maximum size in bytes of all files that are merged into one."""

FileEntry = Mapping[str, Any]
"""The manifest's entry for a file: `path`, `table`, `rows` and `sha256`."""

_ADVICE = "restore it from a backup"


def compact_run(run: Run, signer: SigningKey | None = None) -> list[dict[str, Any]]:
    """Merge the files of a complete run; return the number of files and bytes, before and after, of each changed table.

    An unfinished run is not compacted, because a resumed run recognizes finished shards by their file names. Raises
    StoreError if the run is not complete, a running run reads its files, or a file is damaged.
    """
    with lock_run(run):
        record = run.read_manifest()
        if not sql.is_complete(record):
            raise StoreError(
                f"compact: run {run.run_id} is {record['status']}, expected a complete one; resume it first"
            )
        run.check_recorded("compacted")
        ledger.check_signer(run.lake, signer)
        for other in sql.read_manifests(run.lake):
            if other["status"] == "running" and run.run_id in (other.get(key) for key in REFERENCES):
                raise StoreError(
                    f"compact: run {other['run_id']} is running and reads the files of {run.run_id}; wait until it has "
                    "ended"
                )
        remove_replaced_files(run)
        changed: dict[str, tuple[list[FileEntry], list[FileEntry]]] = {}
        for table in TABLES:
            before = [entry for entry in record["files"] if entry["table"] == table]
            after = [_merge(run, table, batch) for batch in _batch_files(run, before)] if len(before) > 1 else before
            if len(after) < len(before):
                changed[table] = before, after
        if not changed:
            return []
        files = [entry for entry in record["files"] if entry["table"] not in changed]
        files += [entry for _, after in changed.values() for entry in after]
        sizes = stores.list_sizes(run.folder)
        run.rewrite("compacted", f"{len(record['files'])} files into {len(files)}", signer, files=files)
        remove_replaced_files(run)

    def size(files: Sequence[FileEntry]) -> int:
        return sum(sizes[entry["path"].removeprefix(run.relative_path(""))] for entry in files)

    return [
        {"table": table, "files_before": len(before), "files_after": len(after)}
        | {"bytes_before": size(before), "bytes_after": size(after)}
        for table, (before, after) in changed.items()
    ]


def list_replaced_files(run: Run) -> list[str]:
    """List the files in a run's folder that an earlier manifest lists and the current one does not."""
    current = {entry["path"] for entry in run.read_manifest()["files"]}
    replaced = {entry["path"] for record in run.read_earlier_manifests() for entry in record["files"]} - current
    return sorted(name for name in stores.list_sizes(run.folder) if run.relative_path(name) in replaced)


def remove_replaced_files(run: Run) -> None:
    """Remove the files that `list_replaced_files` lists. The run must be locked."""
    if names := list_replaced_files(run):
        stores.remove(run.folder, names)


def _batch_files(run: Run, entries: Sequence[FileEntry]) -> list[list[tuple[FileEntry, Path]]]:
    """Group consecutive files with the same columns into batches, each of which fits into one merged file.

    The files of a run can differ in their columns if it was resumed with a later release.
    """
    batches: list[list[tuple[FileEntry, Path]]] = []
    row_groups, size, schema = 0, 0, None  # of the last batch
    try:
        paths = stores.fetch_all(run.lake, {entry["path"]: entry["sha256"] for entry in entries})
    except stores.DamagedFileError as error:
        raise StoreError(f"compact: {error}") from error
    for entry, path in zip(entries, paths, strict=True):
        with open_parquet(path, _ADVICE) as file:
            row_groups, size = row_groups + file.num_row_groups, size + path.stat().st_size
            is_same = schema is not None and file.schema_arrow.equals(schema, check_metadata=True)
            if not is_same or row_groups > MAX_ROW_GROUPS or size > MAX_BYTES:
                batches.append([])
                row_groups, size, schema = file.num_row_groups, path.stat().st_size, file.schema_arrow
            batches[-1].append((entry, path))
    return batches


def _merge(run: Run, table: str, batch: Sequence[tuple[FileEntry, Path]]) -> FileEntry:
    """Merge a batch into one file, verify it, and return the manifest's entry for it; a single file is left unchanged.

    The merged file's name is a digest of the batch, so that a second attempt writes the same file.
    """
    if len(batch) == 1:
        return batch[0][0]
    digest = hashlib.sha256("\n".join(entry["sha256"] for entry, _ in batch).encode()).hexdigest()[:16]
    path = run.path(table, f"compacted-{digest}")
    sizes = []
    with stores.write_atomically(path) as temporary:
        schema = pq.read_schema(batch[0][1])
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
            for _, source in batch:
                with open_parquet(source, _ADVICE) as file:
                    for number in range(file.num_row_groups):
                        rows = file.read_row_group(number)
                        writer.write_table(rows, row_group_size=max(1, rows.num_rows))
                        sizes.append(rows.num_rows)
        sha256 = _verify(temporary, sizes)
    return {"path": stores.relative_path(path, run.lake), "table": table, "rows": sum(sizes), "sha256": sha256}


def _verify(path: Path, sizes: Sequence[int]) -> str:
    """Return the sha256 of a file that was just written; raise StoreError if its row groups do not have these sizes."""
    with open_parquet(path, "check the disk") as file:
        found = [file.read_row_group(number).num_rows for number in range(file.num_row_groups)]
    if found != list(sizes):
        raise StoreError(f"{path}: got row groups of {found} rows, expected {sizes}; check the disk")
    return stores.file_sha256(path)
