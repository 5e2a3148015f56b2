"""The lake: one folder a run, Parquet files that appear whole, and the manifest that lists them.

lake/runs/<run_id>/manifest.json                     what was audited, with what, and each file with its sha256
lake/runs/<run_id>/<table>/part-*.parquet            rows; readers see a file once the manifest lists it
lake/runs/<run_id>/report.html
lake/runs/<run_id>/manifest-*.json                   of a run that was compacted or pruned: the manifests before
lake/ledger/                                         what ended, was rewritten, judged and signed: see `stores.ledger`

A folder of this machine or a URL: `stores` knows which. Many processes may write files of a run, but the manifest is
written by the one that runs the flow, and by no task that is mapped over shards: so no update of it is lost.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import sql
import stores
from stores import Root, ledger
from stores.ledger import Signer

SCHEMA_VERSION = 1
_COUNTS = ("corpus_rows", "not_sampled", "pairs", "attributions", "reused", "errors", "alerts", "confirmed")
"""Status of a run of which the manifests alone are left: readers find it without files."""
CALIBRATION = "calibration.safetensors"
"""The feature statistics, in a run's folder."""
REPORT = "report.html"

_lost: set[str] = set()  # folders of the runs that this process held until another one took them over


def now() -> str:
    """The time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class TableWriter:
    """Rows of one stored table to one file, a row group at a time, so that memory does not grow with the corpus."""

    def __init__(self, run: "Run", table: str, aside: Path) -> None:
        self._run_id, self._table = run.run_id, table
        self._schema = sql.schema(table)
        self._writer = pq.ParquetWriter(aside, self._schema, compression="zstd", write_page_checksum=True)
        self.rows = 0

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append rows as one row group; the run's id is filled in."""
        rows = sql.conform(self._table, ({**record, "run_id": self._run_id} for record in records))
        if rows.num_rows:
            self._writer.write_table(rows, row_group_size=rows.num_rows)
            self.rows += rows.num_rows

    def write_arrow(self, rows: pa.Table) -> None:
        """Append rows that a query made, in row groups of the library's size."""
        self._writer.write_table(rows.select(self._schema.names).cast(self._schema))
        self.rows += rows.num_rows

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


@dataclass(frozen=True)
class Run:
    """A run in a lake: the handle that stages pass on."""

    lake: Root
    run_id: str

    @property
    def folder(self) -> Root:
        """Where the run's files are."""
        return self.lake / "runs" / self.run_id

    def key(self, table: str, name: str = "part-00000") -> str:
        """What the manifest calls one file of a table: its path below the lake."""
        return f"runs/{self.run_id}/{table}/{name}.parquet"

    def path(self, table: str, name: str = "part-00000") -> Root:
        """Where one file of a table is."""
        return self.lake / self.key(table, name)

    def read(self, table: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """Rows of a table's first file."""
        return rows_of(stores.fetch(self.path(table)), columns)

    def create(self, facts: Mapping[str, Any]) -> None:
        """Write the manifest of a run that begins."""
        self._write_manifest(
            {
                "schema_version": SCHEMA_VERSION,
                "run_id": self.run_id,
                "status": "running",
                "reason": None,
                "started_at": now(),
                "finished_at": None,
                **facts,
                "counts": dict.fromkeys(_COUNTS, 0),
                "files": [],
            }
        )

    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands."""
        record: dict[str, Any] = json.loads(stores.contents(self.folder / "manifest.json"))
        return record

    def update(self, counts: Mapping[str, int] | None = None, **facts: Any) -> None:
        """Change facts and counts of the manifest."""
        record = self.manifest() | facts
        record["counts"] |= counts or {}
        self._write_manifest(record)

    def rewrite(self, what: str, why: str, signer: Signer | None = None, **facts: Any) -> None:
        """Replace the manifest of a run that has ended, for `what` was done to its files.

        The manifest before stays beside it, byte for byte, and is listed under `earlier_manifests` with its sha256:
        what was there can be proved, and another run that noted the digest can still be held against it. The lake's
        ledger is told first: a process that is killed in between leaves a record of what was meant, not a manifest
        that nothing accounts for.

        Raises LakeError if the ledger does not take it: what cannot be accounted for is not done.
        """
        data = stores.contents(self.folder / "manifest.json")
        sha256 = hashlib.sha256(data).hexdigest()
        name = f"manifest-{sha256[:16]}.json"
        stores.put(self.folder / name, data)
        record: dict[str, Any] = json.loads(data)
        noted = {"at": now(), "what": what, "why": why, "manifest": name, "sha256": sha256}
        earlier = [*record.get("earlier_manifests", []), noted]
        text = _as_text(record | facts | {"earlier_manifests": earlier})
        told = {"run_id": self.run_id, "what": what, "before_sha256": sha256, "manifest_sha256": ledger.sha256(text)}
        ledger.append(self.lake, "rewrite", told, signer)
        self._put_manifest(text)

    def manifests_before(self) -> list[dict[str, Any]]:
        """The manifests that `rewrite` has replaced, oldest first. Raises LakeError if one is not what it was."""
        found = []
        for noted in self.manifest().get("earlier_manifests", []):
            path = self.folder / noted["manifest"]
            data = stores.contents(path)
            if (digest := hashlib.sha256(data).hexdigest()) != noted["sha256"]:
                raise sql.LakeError(
                    f"lake: {path} is damaged: got sha256 {digest}, expected {noted['sha256']}; restore it "
                    "from a backup"
                )
            found.append(json.loads(data))
        return found

    def finish(self, status: str, reason: str | None = None) -> None:
        """Seal the run."""
        self.update(status=status, reason=reason, finished_at=now())

    def list_files(self, table: str | None, paths: Iterable[Root], rows: Iterable[int | None]) -> None:
        """List files in the manifest, by which readers begin to see them; a file of the same path is replaced."""
        keys = [stores.relative(path, self.lake) for path in paths]
        copies = stores.fetch_all(self.lake, dict.fromkeys(keys))
        entries = [
            {"path": key, "table": table, "rows": count, "sha256": stores.file_sha256(copy)}
            for key, copy, count in zip(keys, copies, rows, strict=True)
        ]
        replaced = {entry["path"] for entry in entries}
        record = self.manifest()
        record["files"] = [entry for entry in record["files"] if entry["path"] not in replaced] + entries
        self._write_manifest(record)

    def listed(self, table: str) -> list[Path]:
        """Files of a table that the manifest lists, to be read."""
        entries = [entry for entry in self.manifest()["files"] if entry["table"] == table]
        return stores.fetch_all(self.lake, {entry["path"]: entry["sha256"] for entry in entries})

    def listed_rows(self, table: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Rows of all files of a table that the manifest lists."""
        for path in self.listed(table):
            yield from rows_of(path, columns)

    @contextlib.contextmanager
    def writer(self, table: str, name: str = "part-00000") -> Iterator[TableWriter]:
        """A writer of one file; the file appears when the block ends well."""
        with stores.written_aside(self.path(table, name)) as aside:
            writer = TableWriter(self, table, aside)
            try:
                yield writer
            finally:
                writer.close()

    def write_table(self, table: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Write and list all rows of a table that fits in memory; returns their number."""
        with self.writer(table) as writer:
            writer.write(records)
        self.list_files(table, [self.path(table)], [writer.rows])
        return writer.rows

    def write_arrow(self, table: str, rows: pa.Table) -> None:
        """Write and list what a query made."""
        with self.writer(table) as writer:
            writer.write_arrow(rows)
        self.list_files(table, [self.path(table)], [writer.rows])

    def connect(self) -> sql.Connection:
        """DuckDB over this run alone."""
        return sql.connect(self.lake, self.run_id)

    def read_group(self, table: str, group: int, columns: list[str] | None = None) -> list[dict[str, Any]]:
        """One row group of a table's first file."""
        rows: pa.Table = pq.ParquetFile(stores.fetch(self.path(table))).read_row_group(group, columns=columns)
        return rows.to_pylist()  # type: ignore[no-any-return]  # pyarrow has no types

    def group_sizes(self, table: str) -> list[int]:
        """Rows of each row group of a table's first file."""
        metadata = pq.ParquetFile(stores.fetch(self.path(table))).metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]

    def lose(self) -> None:
        """Write the run's manifest no more, until `regain`: another process has it by now."""
        _lost.add(str(self.folder))

    def regain(self) -> None:
        """Take note that this process holds the run, again perhaps."""
        _lost.discard(str(self.folder))

    def _write_manifest(self, record: Mapping[str, Any]) -> None:
        self._put_manifest(_as_text(record))

    def _put_manifest(self, text: bytes) -> None:
        if str(self.folder) in _lost:
            raise sql.LakeError(
                f"run {self.run_id} was taken over: this process gave no sign of life for too long, as the lake did "
                "not answer; let the other process finish it, or resume it"
            )
        stores.put(self.folder / "manifest.json", text)


def _as_text(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def rows_of(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of a Parquet file."""
    return pq.read_table(path, columns=columns).to_pylist()  # type: ignore[no-any-return]  # pyarrow has no types


def report_of(run: Run) -> str:
    """Where the run's report is or will be."""
    return str(run.folder / REPORT)
