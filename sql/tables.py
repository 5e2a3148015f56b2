"""Tables of a connection: views over the Parquet files that manifests list, without the runs that are damaged."""

import contextlib
import os
import threading
import uuid
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

import stores
from sql.manifest import warn_damaged
from sql.queries import column_types, query_text, schema
from stores import LakeError, Root

Connection = duckdb.DuckDBPyConnection
TABLES = (
    *(
        "pairs",
        "ingest_errors",
        "attributions",
        "patch_features",
        "detections",
        "regions",
        "stamps",
        "concepts",
        "concept_slices",
        "concept_exemplars",
        "clusters",
        "phrases",
        "collocations",
    ),
    *("near_duplicates", "region_shares", "screenings", "image_statistics", "findings"),
    *("confirmations", "self_audits", "alerts", "lives", "notifications", "validations"),
)
"""Tables that runs store as Parquet files."""
_JUDGED: Final = ("findings", "screenings", "confirmations", "self_audits", "alerts", "lives", "validations")
"""Small tables by which people judge a run. Other files are compared with their digest by verification and reports."""
_FEW_FILES = 16
FOREIGN_ROWS: Final = (
    "has rows of another run, expected only those of its own; the folder of its run was copied or changed by hand: "
    "remove it"
)
"""What is wrong with a file for which `has_foreign_rows` is true."""
_PARQUET_END: Final = b"PAR1"
_READ_ERROR: Final = "Failed to read file"
"""Part of the message of some of DuckDB's errors about damaged files. Others have no class of their own."""
_DAMAGE: Final = (duckdb.Error, OSError, RuntimeError)
"""Errors of damaged files. DuckDB's Python package raises RuntimeError for names of columns that are not UTF-8."""
_Entry: TypeAlias = Mapping[str, Any]


class Tables:
    """Stored tables of a lake's runs, as views of a connection.

    A run is damaged if one of its files is missing or cannot be read. DuckDB finds this when it defines a view or runs
    a query. Then the files are examined. If all runs are read, the views are defined again without the damaged runs.

    The view of a table whose files are in object storage and not all downloaded reads a stub: an empty Parquet file
    with the table's schema, which is deleted before the first query. So DuckDB fails to bind any query that uses the
    table, and the error message contains the path of the stub. Then the table's files are downloaded, the view is
    redefined over them, and the query runs again. A query therefore never sees a table as empty because its files are
    not downloaded.
    """

    def __init__(
        self, lake: Root, records: Sequence[Mapping[str, Any]], damage: dict[str, str] | None, check: bool = False
    ) -> None:
        """Prepare the tables.

        Args:
            lake: Folder or URL of the lake.
            records: Manifests of the runs.
            damage: Why runs are damaged, by run id: damaged runs are left out and added. None: damage is an error.
            check: Whether to compare local files with their sha256 first. Remote ones are checked when downloaded.

        Raises:
            DamagedFileError: A file differs from its sha256.
        """
        self.damage = damage
        self.entries: dict[str, list[_Entry]] = {table: [] for table in TABLES}
        for record in records:
            for entry in record["files"]:
                if entry["table"] in self.entries:
                    self.entries[entry["table"]].append(entry)
        if check and isinstance(lake, Path):
            stores.fetch_all(lake, {each["path"]: each["sha256"] for table in TABLES for each in self.entries[table]})
        self._lake = lake
        self._runs = len(records)
        self._running = {record["run_id"] for record in records if record["status"] == "running"}
        self._unsealed = self._running | {each["run_id"] for each in records if each.get("recorded") is False}
        self._stub_prefix = uuid.uuid4().hex
        self._lock = threading.Lock()
        local = {table for table in TABLES if all(self._path(each).is_file() for each in self.entries[table])}
        self._missing = set() if isinstance(lake, Path) else set(TABLES) - local

    def define(self, connection: Connection) -> None:
        """Define all tables. Raises LakeError if a file is missing or damaged, and its run cannot be left out."""
        for table in self._missing:
            pq.write_table(schema(table).empty_table(), self._stub(table))
        if found := self._find_foreign_rows(table for table in TABLES if table not in self._missing):
            self._leave_out(found)
        if found := self._find_changed():
            self._leave_out(found)
        self._define(connection, TABLES)
        _tables[connection] = self

    def list_empty(self) -> list[str]:
        """Return the tables without files, which are not defined by `define`, as few queries read them."""
        return [table for table in TABLES if not self.entries[table]]

    @property
    def has_stubs(self) -> bool:
        """Whether views of tables read a stub."""
        return bool(self._missing)

    def remove_stubs(self) -> None:
        """Remove the stubs, once all views are defined."""
        for table in self._missing:
            self._stub(table).unlink()

    def repair(self, connection: Connection, error: duckdb.Error, left_out: int) -> bool:
        """Fetch the tables, or leave out the damaged runs, without which a query failed; return whether to repeat it.

        Args:
            connection: The connection on which the query ran, not one of its cursors.
            error: Error of the query.
            left_out: Number of runs that were left out when the query began.

        Raises:
            LakeError: A file is missing or damaged, and its run cannot be left out.
        """
        text = str(error)
        with self._lock, connection.cursor() as cursor:
            if len(self.damage or ()) != left_out:  # another thread left out a run
                return True
            if needed := [table for table in TABLES if self._stub(table).name in text]:
                self._fetch(cursor, self._missing.intersection(needed))
                return True
            tables = [table for table in TABLES if table not in self._missing]
            present = [(table, entry) for table in tables for entry in self.entries[table]]
            named = [(table, entry) for table, entry in present if str(self._path(entry)) in text]
            if not named and type(error) is not duckdb.Error and _READ_ERROR not in text:
                return False  # most likely an error of the query
            if found := self._find_damage(cursor, named or present):
                self._leave_out(found)
                self._define(cursor, tables, again=True)
            return bool(found)

    def _fetch(self, connection: Connection, tables: Collection[str]) -> None:
        """Download the files of tables, and redefine their views over them."""
        found: dict[str, str] = {}
        for table in tables:
            entries = self.entries[table]
            try:
                stores.fetch_all(self._lake, {entry["path"]: entry["sha256"] for entry in entries})
            except stores.DamagedFileError:
                for entry in entries:
                    try:
                        stores.fetch(self._lake / entry["path"], entry["sha256"])
                    except stores.DamagedFileError as error:
                        found.setdefault(_run_id(entry), str(error))
        if found := found or self._find_foreign_rows(tables):
            self._leave_out(found)
        self._missing.difference_update(tables)
        present = [table for table in TABLES if table not in self._missing] if found else tables
        self._define(connection, present, again=True)

    def _define(self, connection: Connection, tables: Iterable[str], again: bool = False) -> None:
        """Define tables, `again` if they exist. If a file is damaged, leave out its run and begin again."""
        while True:
            connection.execute("BEGIN")
            table = ""
            try:
                for table in tables:
                    if self.entries[table] or (again and self._has_view(connection, table)):
                        if again:
                            connection.execute(f"DROP VIEW stored.{table}")
                        self._define_table(connection, table)
                if again and self.damage:
                    connection.execute("DELETE FROM stored.runs WHERE list_contains(?, run_id)", [list(self.damage)])
                connection.execute("COMMIT")
            except _DAMAGE as error:
                connection.execute("ROLLBACK")
                connection.execute("USE main")
                if not (found := self._find_damage(connection, [(table, entry) for entry in self.entries[table]])):
                    raise LakeError(_describe(table, error)) from error
                self._leave_out(found)
            else:
                return

    def _has_view(self, connection: Connection, table: str) -> bool:
        query = "SELECT 1 FROM duckdb_views() WHERE schema_name = 'stored' AND view_name = ?"
        return bool(connection.execute(query, [table]).fetchall())

    def _define_table(self, connection: Connection, table: str) -> None:
        """Define a stored table as a view over its files, if any. Raises an error if a file is missing or damaged.

        The files of several runs are joined by the names of their columns, for which each query reads the footers of
        all files first, and keeps them in memory that the limit does not include. The files of one run have the same
        columns, and may be as many as shards. If they are few, footers are read nevertheless, since DuckDB then knows
        the numbers of rows by which it chooses the order of joins.
        """
        files = [self._stub(table)] if table in self._missing else [self._path(each) for each in self.entries[table]]
        by_name = self._runs > 1 or len(files) <= _FEW_FILES
        connection.execute("USE stored")
        if files:
            for path in files:
                _check_file(path)
            relation = connection.read_parquet([*map(str, files)], union_by_name=by_name, hive_partitioning=False)
            if set(relation.columns) - column_types(table).keys():  # of a later release, or of another table
                for path in files:
                    _conform(table, connection.read_parquet([str(path)], hive_partitioning=False))
            _conform(table, relation).create_view(table, replace=True)
        else:
            connection.execute(query_text(f"schema/{table}"))
        connection.execute("USE main")

    def _find_damage(self, connection: Connection, entries: Sequence[tuple[str, _Entry]]) -> dict[str, str]:
        """Return why runs are damaged to which these files belong, by run id. What reads whole files comes last."""
        found: dict[str, str] = {}
        for table, entry in entries:
            path = self._path(entry)
            try:
                _check_file(path)
                _conform(table, connection.read_parquet([str(path)], hive_partitioning=False))
            except _DAMAGE as error:
                reason = str(error) if str(path) in str(error) else f"{path}: {error}"
                found.setdefault(_run_id(entry), _describe(table, reason))
        for table, entry in () if found else entries:
            path = self._path(entry)
            if problem := _find_problem(path, entry["sha256"]):
                found.setdefault(_run_id(entry), _describe(table, problem))
        return found

    def _find_changed(self) -> dict[str, str]:
        """Return why runs of a local lake are damaged: they have ended, and their `_JUDGED` tables were changed."""
        found: dict[str, str] = {}
        for table in _JUDGED if isinstance(self._lake, Path) else ():
            for entry in self.entries[table]:
                path, run_id = self._path(entry), _run_id(entry)
                with contextlib.suppress(OSError):  # DuckDB finds it
                    if run_id not in self._running and stores.known_sha256(path) != entry["sha256"]:
                        problem = f"{path} does not have the sha256 in the manifest"
                        found.setdefault(run_id, _describe(table, problem))
        return found

    def _find_foreign_rows(self, tables: Iterable[str]) -> dict[str, str]:
        """Return why runs are damaged whose manifest no record of an end has: they can have rows of another run."""
        return {
            _run_id(entry): f"lake: {self._path(entry)} {FOREIGN_ROWS}"
            for table in (tables if self.damage is not None and self._unsealed else ())
            for entry in self.entries[table]
            if _run_id(entry) in self._unsealed and has_foreign_rows(self._path(entry), _run_id(entry))
        }

    def _leave_out(self, found: Mapping[str, str]) -> None:
        """Leave out damaged runs. Raises LakeError if damage is an error."""
        if self.damage is None:
            raise LakeError(next(iter(found.values())))
        for run_id, reason in found.items():
            self.damage[run_id] = reason
            warn_damaged(run_id, reason)
        self._runs -= len(found)
        for table, entries in self.entries.items():
            self.entries[table] = [entry for entry in entries if _run_id(entry) not in found]

    def _path(self, entry: _Entry) -> Path:
        return self._lake / entry["path"] if isinstance(self._lake, Path) else stores.copy_path(entry["sha256"])

    def _stub(self, table: str) -> Path:
        """Return the path of the empty file that a table's view reads until the table is downloaded."""
        return stores.scratch_folder() / f"{self._stub_prefix}.{table}.remote"


def has_foreign_rows(path: Path, run_id: str) -> bool:
    """Return whether a stored table has rows of another run, which would change that run; False if it is damaged."""
    with contextlib.suppress(OSError, ValueError, pa.ArrowException):
        with stores.open_regular(path) as source, pq.ParquetFile(source) as file:
            columns = file.read(columns=["run_id"]).columns  # a file can have two columns of this name
        return any(each != run_id for column in columns for each in column.unique().to_pylist())
    return False


_tables: weakref.WeakKeyDictionary[Connection, Tables] = weakref.WeakKeyDictionary()


def list_damage(connection: Connection) -> dict[str, str]:
    """Return why runs are left out of a connection to all runs, by run id. A later query may find more of them."""
    tables = _tables.get(connection)
    return dict(tables.damage or {}) if tables else {}


def repair(connection: Connection, error: duckdb.Error, left_out: int) -> bool:
    """Return whether a query that failed with `error` should be repeated; see `Tables.repair`."""
    tables = _tables.get(connection)
    return tables is not None and tables.repair(connection, error, left_out)


def _run_id(entry: _Entry) -> str:
    return str(entry["path"]).split("/")[1]


def _describe(table: str, error: object) -> str:
    return (
        f"lake: a file of table {table} that a manifest lists is missing or damaged ({error}); restore the file from a "
        "backup, or remove the run's folder under runs/"
    )


def _find_problem(path: Path, sha256: str) -> object:
    """Return what is wrong with a file, None if nothing is. A forged manifest can have the sha256 of a damaged file."""
    if stores.known_sha256(path) != sha256:
        return f"{path} does not have the sha256 in the manifest"
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for _ in file.iter_batches():
                pass
    except (OSError, pa.ArrowException) as error:
        return error
    return None


def _check_file(path: Path) -> None:
    """Raise OSError if a Parquet file is missing, not a regular file, or truncated."""
    with stores.open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(_PARQUET_END)))
        if file.read() != _PARQUET_END:
            raise OSError(f"{path} is truncated, or not a Parquet file")


def _conform(table: str, relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Add the columns that a table has now, as NULL, to rows of runs of an earlier version.

    Raises OSError for what no release has written: a column of another type, or missing columns and unknown ones.
    """
    expected, types = column_types(table), dict(zip(relation.columns, map(str, relation.types), strict=True))
    if wrong := [name for name in expected if name in types and types[name] != expected[name]]:
        name = wrong[0]
        raise OSError(f"column {name} has type {types[name]}, expected {expected[name]}")
    missing = [f'NULL::{kind} AS "{name}"' for name, kind in expected.items() if name not in types]
    if missing and (unknown := sorted(types.keys() - expected.keys())):
        raise OSError(f"unknown columns {', '.join(unknown)}: it is a file of another table")
    return relation.project(", ".join(["*", *missing])) if missing else relation
