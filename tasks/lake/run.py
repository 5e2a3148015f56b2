"""Runs of a lake: a folder per run, with its manifest and its Parquet files.

lake/runs/<run_id>/manifest.json                     configuration, status and every file with its sha256
lake/runs/<run_id>/<table>/part-*.parquet            rows; readers see a file once the manifest lists it
lake/runs/<run_id>/report.html
lake/runs/<run_id>/manifest-*.json                   earlier manifests of a run that was compacted or pruned
lake/ledger/                                         ends, rewrites, decisions and signatures: see `stores.ledger`

A lake is a local folder or a URL; `stores` hides the difference. Many processes may write files of a run. Only the
process that runs the flow writes the manifest, never a task that is mapped over shards, so no update is lost.
"""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

import sql
import stores
from stores import Root, ledger
from stores.keys import SigningKey
from stores.run_records import describe_unrecorded, list_recorded
from tasks.errors import StoreError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_COUNTS = ("corpus_rows", "not_sampled", "pairs", "attributions", "reused", "errors", "alerts", "confirmed")
CALIBRATION = "calibration.safetensors"
"""File name of the feature statistics in a run's folder."""
PROJECTION = "patch_projection.safetensors"
"""File name of the projection of patch features in a run's folder."""
REPORT = "report.html"

_BATCH = 4096
_ROW_GROUP = 20_000  # rows, which are Python objects until they are written

lost_locks: set[str] = set()
"""Folders of runs whose lock this process lost to another one: it refuses to write their manifests."""


Rows: TypeAlias = Iterable[Mapping[str, Any]] | pa.Table
"""Rows to write: records without the run's id, or a table that a query returned, which has the column `run_id`."""


def utc_timestamp() -> str:
    """Return the current time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class TableWriter:
    """Writer of one Parquet file of a stored table, one row group at a time, so that memory stays bounded."""

    run_id: str
    table: str
    file: pq.ParquetWriter
    rows: int = 0

    def write(self, rows: Rows) -> None:
        """Append records with the run's id, or a table, in row groups of limited size."""
        if isinstance(rows, pa.Table):
            self._append(rows.select(self.file.schema.names).cast(self.file.schema), None)
            return
        records = ({**record, "run_id": self.run_id} for record in rows)
        while (table := sql.conform(self.table, islice(records, _ROW_GROUP))).num_rows:
            self._append(table, table.num_rows)

    def write_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Append columns without the run's id as one row group."""
        rows = len(next(iter(columns.values())))
        self._append(sql.conform_columns(self.table, {**columns, "run_id": [self.run_id] * rows}), rows)

    def _append(self, table: pa.Table, row_group_size: int | None) -> None:
        if table.num_rows:
            self.file.write_table(table, row_group_size=row_group_size)
        self.rows += table.num_rows


@dataclass(frozen=True)
class Run:
    """A run in a lake, as the flow passes it to the stages. It holds no open files and no state of its own."""

    lake: Root
    run_id: str

    @property
    def folder(self) -> Root:
        """The folder of the run's files."""
        return self.lake / "runs" / self.run_id

    @property
    def report_path(self) -> str:
        """The path or URL of the run's HTML report, even if the report has not been written."""
        return str(self.folder / REPORT)

    def relative_path(self, name: str) -> str:
        """Return the path of a file in the run's folder, relative to the lake, as the manifest lists it."""
        return f"runs/{self.run_id}/{name}"

    def path(self, table: str, name: str = "part-00000") -> Root:
        """Return the path of a table's file; `name` is the file name without `.parquet`."""
        return self.folder / table / f"{name}.parquet"

    # The manifest

    def create(self, facts: Mapping[str, Any]) -> None:
        """Write the first manifest of a run, with status `running` and `facts` such as configuration and versions.

        A lake that does not exist is created, and private: it contains captions.
        """
        if isinstance(self.lake, Path):
            self.lake.parent.mkdir(parents=True, exist_ok=True)
            self.lake.mkdir(mode=0o700, exist_ok=True)
        started = {"reason": None, "started_at": utc_timestamp(), "finished_at": None}
        record = {"schema_version": SCHEMA_VERSION, "run_id": self.run_id, "status": "running", **started, **facts}
        self._write_manifest(_to_json(record | {"counts": dict.fromkeys(_COUNTS, 0), "files": []}))

    def read_manifest(self) -> dict[str, Any]:
        """Read the manifest. Raises FileNotFoundError if the run does not exist, LakeError if it is damaged."""
        return self._parse_manifest(stores.read_bytes(self.folder / MANIFEST))

    def _parse_manifest(self, data: bytes, name: str = MANIFEST) -> dict[str, Any]:
        try:
            return sql.parse_manifest(data, self.run_id)
        except ValueError as error:
            raise sql.LakeError(
                f"manifest {self.folder / name}: it is invalid ({error}); restore it from a backup"
            ) from error

    @contextlib.contextmanager
    def changes(self) -> Iterator["ManifestChanges"]:
        """Collect files, counts and facts of a stage, and add them to the manifest when the block ends without error.

        Readers see the files of the block only afterwards, all at the same time.
        """
        changes = ManifestChanges(self)
        yield changes
        self._write_manifest(_to_json(changes.applied_to(self.read_manifest())))

    def update(self, counts: Mapping[str, int] | None = None, **facts: Any) -> None:
        """Update counts and facts of the manifest; see `ManifestChanges.update`."""
        with self.changes() as changes:
            changes.update(counts, **facts)

    def finish(self, status: str, reason: str | None = None, **facts: Any) -> None:
        """Set the final status of the run, with the reason and the end time."""
        self.update(status=status, reason=reason, finished_at=utc_timestamp(), **facts)

    def check_recorded(self, action: str) -> None:
        """Raise StoreError unless the ledger has the manifest; `action` is what is to be done, such as `compacted`."""
        data = stores.read_bytes(self.folder / MANIFEST)
        known = list_recorded(ledger.read_records(self.lake))
        if not (
            is_recorded := known.is_recorded(self.run_id, self._parse_manifest(data)["status"], ledger.sha256(data))
        ):
            problem = describe_unrecorded(self.lake, self.run_id, is_recorded)
            raise StoreError(f"run {self.run_id} cannot be {action}: it {problem}")

    def rewrite(
        self,
        action: str,
        details: str,
        signer: SigningKey | None = None,
        recorded: Mapping[str, Any] | None = None,
        **facts: Any,
    ) -> None:
        """Replace the manifest of a run that has ended, after its files were changed.

        The earlier manifest stays in the run's folder, byte for byte, and is listed under `earlier_manifests` with its
        sha256, so that signatures of its digest can still be verified. The ledger's record is written first: if the
        process is killed in between, there is a record without a change, but never a change without a record.
        `action` is `compacted`, `pruned` or `erased`, `details` describes it, `recorded` are further keys of the
        ledger's record, and `facts` are the keys of the manifest to change.
        """
        data = stores.read_bytes(self.folder / MANIFEST)
        sha256 = ledger.sha256(data)
        self.check_recorded(action)
        name = f"manifest-{sha256[:16]}.json"
        stores.write_bytes(self.folder / name, data)
        record = self._parse_manifest(data) | facts
        entry = {"at": utc_timestamp(), "what": action, "why": details, "manifest": name, "sha256": sha256}
        text = _to_json(record | {"earlier_manifests": [*record.get("earlier_manifests", []), entry]})
        body = {"run_id": self.run_id, "what": action, "before_sha256": sha256, "manifest_sha256": ledger.sha256(text)}
        ledger.append(self.lake, "rewrite", {**(recorded or {}), **body}, signer)
        self._write_manifest(text)

    def read_earlier_manifests(self) -> list[dict[str, Any]]:
        """Read the manifests that `rewrite` has replaced, oldest first, after verifying their digests."""
        records = []
        for entry in self.read_manifest().get("earlier_manifests", []):
            path = self.folder / entry["manifest"]
            data = stores.read_bytes(path)
            # An erasure that was interrupted lists the new digest before it replaces the manifest.
            if (digest := ledger.sha256(data)) not in (entry["sha256"], entry.get("erased_sha256")):
                raise sql.LakeError(
                    f"lake: {path} is damaged: got sha256 {digest}, expected {entry['sha256']}; restore it "
                    "from a backup"
                )
            records.append(self._parse_manifest(data, entry["manifest"]))
        return records

    def _write_manifest(self, text: bytes) -> None:
        if str(self.folder) in lost_locks:
            raise sql.LakeError(
                f"run {self.run_id}: this process lost the lock to another one, since it could not renew it in time "
                "(the lake did not answer); let the other process finish the run, or resume it"
            )
        stores.write_bytes(self.folder / MANIFEST, text)

    # Tables

    @contextlib.contextmanager
    def open_writer(self, table: str, name: str = "part-00000") -> Iterator[TableWriter]:
        """Open a writer of one file of a table.

        The file appears when the block ends without error. It is not listed in the manifest: use
        `ManifestChanges.open_writer` for that, unless a later stage registers it.
        """
        with (
            stores.write_atomically(self.path(table, name)) as path,
            pq.ParquetWriter(path, sql.schema(table), compression="zstd", write_page_checksum=True) as file,
        ):
            yield TableWriter(self.run_id, table, file)

    def write_table(self, table: str, rows: Rows, name: str = "part-00000") -> int:
        """Write one file of a table, list it in the manifest, and return its number of rows."""
        with self.changes() as changes:
            return changes.write_table(table, rows, name)

    def fetch_files(self, table: str) -> list[Path]:
        """Return local paths of a table's files as listed in the manifest; files of a remote lake are downloaded.

        Raises DamagedFileError if a file is missing, or differs from its sha256 in the manifest.
        """
        entries = [entry for entry in self.read_manifest()["files"] if entry["table"] == table]
        return stores.fetch_all(self.lake, {entry["path"]: entry["sha256"] for entry in entries})

    def iter_rows(self, table: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Iterate over the rows of all files of a table that the manifest lists. Few of them are in memory at once."""
        for path in self.fetch_files(table):
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(_BATCH, columns=columns):
                    yield from batch.to_pylist()

    def read_row_group(self, table: str, group: int, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """Read one row group of a table's first file."""
        path = stores.fetch(self.path(table))
        metadata = _read_metadata(path, path.stat().st_mtime_ns)
        with pq.ParquetFile(path, metadata=metadata, page_checksum_verification=True) as file:
            rows: list[dict[str, Any]] = file.read_row_group(group, columns=columns).to_pylist()
        return rows

    def row_group_sizes(self, table: str) -> list[int]:
        """Return the number of rows of each row group of a table's first file."""
        path = stores.fetch(self.path(table))
        metadata = _read_metadata(path, path.stat().st_mtime_ns)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def connect(self, manifest: Mapping[str, Any] | None = None) -> sql.Connection:
        """Connect DuckDB to the tables of this run alone, by default as its stored manifest lists them."""
        return sql.connect(self.lake, self.run_id, manifest=manifest, check=True)


@dataclass
class ManifestChanges:
    """Files, counts and facts that `Run.changes` writes to the manifest at once."""

    run: Run
    # Table and number of rows by path below the lake. Files that are not a table's have None for both.
    files: dict[str, tuple[str | None, int | None]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def update(self, counts: Mapping[str, int] | None = None, **facts: Any) -> None:
        """Set some `counts` of the manifest, and `facts`: other keys of the manifest with their values."""
        self.counts |= counts or {}
        self.facts |= facts

    def connect(self) -> sql.Connection:
        """Connect DuckDB to the tables of the run as these changes leave them, with the files written so far."""
        return self.run.connect(self.applied_to(self.run.read_manifest()))

    @contextlib.contextmanager
    def open_writer(self, table: str, name: str = "part-00000") -> Iterator[TableWriter]:
        """Open a writer of one file of a table, and list the file in the manifest."""
        with self.run.open_writer(table, name) as writer:
            yield writer
        self.files[self.run.relative_path(f"{table}/{name}.parquet")] = table, writer.rows

    def write_table(self, table: str, rows: Rows, name: str = "part-00000") -> int:
        """Write one file of a table, list it in the manifest, and return its number of rows."""
        with self.open_writer(table, name) as writer:
            writer.write(rows)
        return writer.rows

    def applied_to(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of a manifest with these changes applied."""
        copies = stores.fetch_all(self.run.lake, dict.fromkeys(self.files))
        entries = [
            {"path": path, "table": table, "rows": rows, "sha256": stores.known_sha256(copy)}
            for (path, (table, rows)), copy in zip(self.files.items(), copies, strict=True)
        ]
        changed = {**record, **self.facts, "counts": record["counts"] | self.counts}
        changed["files"] = [entry for entry in changed["files"] if entry["path"] not in self.files] + entries
        return changed


@lru_cache(maxsize=1)  # that of the pairs of 4,000 shards takes 45 MB and 40 ms, and each shard needs it
def _read_metadata(path: Path, modified: int) -> pq.FileMetaData:  # noqa: ARG001  # a key of the cache
    return pq.read_metadata(path)


def _to_json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def copy_calibration(run: Run, source: Run, sha256: str, advice: str, name: str = CALIBRATION) -> None:
    """Copy the feature statistics of another run, or the projection if `name` is `PROJECTION`.

    Raises StoreError, ending with `advice`, if the file is damaged.
    """
    path = source.folder / name
    try:
        with stores.write_atomically(run.folder / name) as temporary:
            shutil.copyfile(stores.fetch(path), temporary)
            check_digest(path, temporary, sha256, advice)
    except (OSError, sql.LakeError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); {advice}") from error


def check_digest(path: Root, copy: Path, sha256: str, advice: str) -> None:
    """Raise StoreError, ending with `advice`, unless the local copy of a file has the sha256 in its manifest."""
    if (found := stores.file_sha256(copy)) != sha256:
        raise StoreError(f"{path}: got sha256 {found}, expected {sha256} as in the manifest; {advice}")


@contextlib.contextmanager
def open_parquet(path: Path, advice: str, sha256: str | None = None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file whose pages are verified when read; verify the whole file first if its sha256 is given.

    Every error is raised as a StoreError whose message ends with the advice.
    """
    try:
        if sha256 is not None:
            check_digest(path, path, sha256, advice)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read ({error}); {advice}") from error


def read_parquet_rows(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Read the rows of a Parquet file as dictionaries."""
    rows: list[dict[str, Any]] = pq.read_table(path, columns=columns, page_checksum_verification=True).to_pylist()
    return rows
