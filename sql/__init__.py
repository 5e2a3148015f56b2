"""The SQL text of the audit and the one door to DuckDB.

Parquet is the truth and DuckDB a lens: every connection is in memory, with views over the files that the lake's
manifests list. `schema/` holds the stored tables' types, `views/` what analysts query, `macros/` what several of them
say alike, `derive/` what a stage computes and stores, `gates/` what validation looks at, `rules/` the queries whose
rows are findings.
"""

import contextlib
import hashlib
import json
import math
import shutil
import threading
import uuid
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

import stores
from stores import LakeError as LakeError  # a reader of the lake knows this door only
from stores import Root, ledger

_ROOT = Path(__file__).parent
TABLES = (
    *(
        "pairs",
        "ingest_errors",
        "attributions",
        "regions",
        "stamps",
        "clusters",
        "phrases",
        "collocations",
        "near_duplicates",
        "region_shares",
        "screenings",
        "findings",
    ),
    *("confirmations", "self_audits", "alerts", "lives", "notifications", "validations"),
)
FROM_LEDGER = {"reviews": "review", "countersigns": "countersign", "sign_offs": "sign_off"}
"""Tables that the ledger's records are, by their kind."""
COMPLETE = ("completed", "completed_with_errors")
"""Status of a run whose line ran to its end: sealed, and what later runs may build upon."""
_MANIFEST_KEYS = {"run_id", "status", "started_at", "finished_at", "config", "counts", "files"}

Connection = duckdb.DuckDBPyConnection
_Answer = TypeVar("_Answer")


class QueryError(Exception):
    """A query of the user's own failed or is not a read."""


def names(folder: str) -> list[str]:
    """Names of the queries in a folder, sorted."""
    return sorted(path.stem for path in (_ROOT / folder).glob("*.sql"))


@cache
def query(name: str) -> str:
    """Text of `folder/name`."""
    return (_ROOT / f"{name}.sql").read_text(encoding="utf-8")


def digest(name: str) -> str:
    """sha256 of the text of `folder/name`."""
    return text_digest(query(name))


def text_digest(text: str) -> str:
    """sha256 of a query's text."""
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def schema(table: str) -> pa.Schema:
    """Arrow types of a stored table, from its definition in `schema/`."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(query(f"schema/{table}"))
        return connection.table(table).limit(0).to_arrow_table().schema


def manifests(lake: Root, run_id: str | None = None, beside: Collection[str] = ()) -> list[dict[str, Any]]:
    """Manifests of the lake's runs, oldest first, or of one run and some beside it.

    Raises LakeError for one that cannot be read.
    """
    found = []
    run_ids = stores.folders(lake / "runs") if run_id is None else sorted({run_id, *beside})
    for path, data in stores.contents_of_all(lake / "runs" / name / "manifest.json" for name in run_ids):
        name = path.parent.name
        try:
            record = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise LakeError(
                f"manifest {path}: not JSON ({error}); restore it from a backup or remove the run"
            ) from error
        if missing := _MANIFEST_KEYS.difference(record if isinstance(record, dict) else ()):
            raise LakeError(
                f"manifest {path}: no {', '.join(sorted(missing))}, expected a manifest as an audit writes it; "
                "restore it from a backup or remove the run"
            )
        prefix = f"runs/{name}/"
        outside = [e["path"] for e in record["files"] if not e["path"].startswith(prefix) or ".." in e["path"]]
        if record["run_id"] != name or outside:
            raise LakeError(
                f"manifest {path}: it names run {record['run_id']!r} and files {outside}, expected its own folder's; "
                "restore it from a backup or remove the run"
            )
        found.append(record)
    return found


def connect(
    lake: Root,
    run_id: str | None = None,
    beside: Collection[str] = (),
    reviewed: bool | None = None,
    memory: str | None = None,
    threads: int | None = None,
) -> Connection:
    """An in-memory DuckDB with the views of `views/` over the lake; it can read below the lake and nothing else.

    run_id: open this run alone, so that nothing that befell another one matters, nor can anything else be read; beside:
    with these other ones. reviewed: with what people decided, from the lake's ledger; default: unless run_id is given,
    for what an audit finds must not hang on it. memory: the most that queries may take, such as `2GB`, beside what a
    function makes within a row. threads: default: one a core.

    Of a lake in object storage a table's files are fetched when a query first needs them, and checked by their sha256.

    Raises LakeError if there is no lake, a manifest lists a file that is gone or broken (in object storage: when a
    query needs it), or the ledger is not whole. Use one cursor a thread.
    """
    if isinstance(lake, Path):
        lake = lake.resolve()
    records = manifests(lake, run_id, beside)
    if not (lake.is_dir() if isinstance(lake, Path) else records or run_id is not None):
        raise LakeError(f"lake: no folder at {lake}; run an audit first, or name the lake with --lake")
    told = ledger.records(lake) if (run_id is None if reviewed is None else reviewed) else []
    given = {"memory_limit": memory, "threads": threads}
    connection = duckdb.connect(config={key: value for key, value in given.items() if value is not None})
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("CREATE SCHEMA stored")
    entries = {
        table: [entry for record in records for entry in record["files"] if entry["table"] == table] for table in TABLES
    }
    if isinstance(lake, Path):
        for table in TABLES:
            _define(connection, table, [lake / entry["path"] for entry in entries[table]])
        runs = [lake] if run_id is None else [lake / "runs" / name for name in (run_id, *beside)]
        kind, readable = "allowed_directories", runs
    else:
        _define_later(connection, lake, entries)
        files = (stores.kept(entry["sha256"]) for table in TABLES for entry in entries[table])
        kind, readable = "allowed_paths", [*map(_empty, TABLES), *files]
    _define_runs(connection, records)
    _define_reviews(connection, told)
    for name in names("macros"):
        connection.execute(query(f"macros/{name}"))
    # Views may build on one another: define them in the order that works.
    pending = names("views")
    while pending:
        rest = [name for name in pending if not _try_view(connection, name)]
        if len(rest) == len(pending):
            connection.execute(query(f"views/{rest[0]}"))  # raises the true error
        pending = rest
    if (away := _elsewhere.get(connection)) is not None:
        away.unlink_stubs()
    quoted = ", ".join("'" + str(path).replace("'", "''") + "'" for path in readable)  # SET takes no parameters
    connection.execute(f"SET {kind} = [{quoted}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _define(connection: Connection, table: str, files: list[Path]) -> None:
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise LakeError(
            f"lake: {len(missing)} file(s) of table {table} that a manifest lists are gone, the first is {missing[0]}; "
            "restore them, or remove the run's folder under runs/"
        )
    connection.execute("USE stored")
    if files:
        _view(connection, table, files)
    else:
        connection.execute(query(f"schema/{table}"))
    connection.execute("USE main")


def _view(connection: Connection, table: str, files: list[Path]) -> None:
    try:
        relation = connection.read_parquet([str(path) for path in files], union_by_name=True, hive_partitioning=False)
    except duckdb.Error as error:
        raise LakeError(
            f"lake: a file of table {table} that a manifest lists cannot be read ({error}); "
            "restore it, or remove the run's folder under runs/"
        ) from error
    relation.create_view(table, replace=True)


@dataclass(frozen=True)
class _Elsewhere:
    """A lake in object storage: the tables whose files are still there only.

    The view of such a table is typed by an empty file, which is gone by the time of the first query. So whatever asks
    for the table fails when it is bound, whether or not it would have read a row, and names that file: then the
    table's files are fetched, its view is made to name them, and the query is asked again. No query finds the table
    empty by mistake.
    """

    lake: Root
    entries: dict[str, list[dict[str, Any]]]
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    fetching: threading.Lock = field(default_factory=threading.Lock)

    def stub(self, table: str) -> Path:
        return stores.scratch() / f"{self.name}.{table}.elsewhere"

    def unlink_stubs(self) -> None:
        for table in self.entries:
            self.stub(table).unlink()

    def fetch(self, connection: Connection, table: str) -> None:
        with self.fetching:
            if table in self.entries:  # else another thread was faster
                files = stores.fetch_all(self.lake, {e["path"]: e["sha256"] for e in self.entries[table]})
                with connection.cursor() as cursor:
                    cursor.execute("USE stored")
                    _view(cursor, table, _complete(table, files))
                del self.entries[table]


_elsewhere: weakref.WeakKeyDictionary[Connection, _Elsewhere] = weakref.WeakKeyDictionary()


def _complete(table: str, files: list[Path]) -> list[Path]:
    """Files of a table that have all of its columns between them: those of an earlier release are given an empty one.

    Only they: another file is another plan to DuckDB, which may add up in another order.
    """
    known = {name for file in files for name in pq.read_schema(file).names}
    return files if known.issuperset(schema(table).names) else [_empty(table), *files]


def _empty(table: str) -> Path:
    """A file of a table without rows."""
    path = stores.scratch() / f"{table}.empty"
    if not path.is_file():
        with stores.written_aside(path) as aside:
            pq.write_table(schema(table).empty_table(), aside)
    return path


def _define_later(connection: Connection, lake: Root, entries: dict[str, list[dict[str, Any]]]) -> None:
    """Define the tables of a lake in object storage, by their files as far as all of them were fetched before."""
    away = _Elsewhere(lake, {})
    for table in TABLES:
        files = [stores.kept(entry["sha256"]) for entry in entries[table]]
        if all(file.is_file() for file in files):
            _define(connection, table, files and _complete(table, files))
            continue
        away.entries[table] = entries[table]
        shutil.copyfile(_empty(table), away.stub(table))
        _define(connection, table, [away.stub(table)])
    _elsewhere[connection] = away


def _answer(connection: Connection, ask: Callable[[Connection], _Answer]) -> _Answer:
    """What a cursor of the connection answers; what it needs of a lake in object storage is fetched first."""
    while True:
        try:
            with connection.cursor() as cursor:
                return ask(cursor)
        except duckdb.Error as error:
            away = _elsewhere.get(connection)
            if away is None:
                raise
            wanted = [table for table in TABLES if away.stub(table).name in str(error)]
            if not wanted:
                raise
            for table in wanted:
                away.fetch(connection, table)


def _define_runs(connection: Connection, records: list[dict[str, Any]]) -> None:
    rows = []
    for record in records:
        times = {key: record[key] and datetime.fromisoformat(record[key]) for key in ("started_at", "finished_at")}
        rows.append({**record, **record["counts"], **times, "config": json.dumps(record["config"], sort_keys=True)})
    _insert(connection, "runs", rows)


def _define_reviews(connection: Connection, records: Iterable[ledger.Record]) -> None:
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in FROM_LEDGER.values()}
    for record in records:
        if record.kind in rows:
            rows[record.kind].append(_signed(record))
    for table, kind in FROM_LEDGER.items():
        try:
            _insert(connection, table, rows[kind])
        except (pa.ArrowException, TypeError) as error:
            raise LakeError(
                f"ledger: records of kind {kind} are not as this release writes them ({error}); see m2ib-audit verify"
            ) from error


def _signed(record: ledger.Record) -> dict[str, Any]:
    """A review, countersignature or sign-off as a row."""
    body = record.body
    try:
        who, until = body["reviewer"], body.get("until")
        row: dict[str, Any] = (
            {"number": record.number, "signed_at": record.time, "sha256": record.sha256, "key_id": record.key_id}
            | body.get("evidence", {})
            | body.get("alerts", {})
            | body
            | {"reviewer": who["name"], "role": who["role"], "identity": who["identity"]}
            | {"person": ledger.person(who["name"])}
            | {"until": until and date.fromisoformat(until)}
        )
        return row  # noqa: TRY300  # what fails is in the try
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LakeError(
            f"ledger: record {record.number} is no {record.kind} as this release writes it ({type(error).__name__}: "
            f"{error}); see m2ib-audit verify"
        ) from error


def _insert(connection: Connection, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Define a table of a few rows that lie in no Parquet file; of their keys, those that the table has."""
    known = schema(table).names
    connection.execute("USE stored")
    connection.execute(query(f"schema/{table}"))
    connection.register("incoming", conform(table, ({key: row.get(key) for key in known} for row in rows)))
    connection.execute(f"INSERT INTO {table} SELECT * FROM incoming")  # noqa: S608  # a name of ours
    connection.unregister("incoming")
    connection.execute("USE main")


def _try_view(connection: Connection, name: str) -> bool:
    try:
        connection.execute(query(f"views/{name}"))
    except duckdb.CatalogException:
        return False
    return True


def rows(connection: Connection, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """Rows of the query `folder/name` as dictionaries."""
    return table(connection, name, **parameters).to_pylist()  # type: ignore[no-any-return]  # pyarrow has no types


def table(connection: Connection, name: str, **parameters: Any) -> pa.Table:
    """Rows of the query `folder/name` as an Arrow table."""
    text = query(name)
    return _answer(connection, lambda cursor: cursor.sql(text, params=parameters or None).to_arrow_table())


def frame(connection: Connection, name: str, **parameters: Any) -> Any:
    """Rows of the query `folder/name` as a pandas frame (for Great Expectations)."""
    text = query(name)
    return _answer(connection, lambda cursor: cursor.sql(text, params=parameters or None).df())


def read(connection: Connection, text: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Rows of one reading statement of the user's own. Raises QueryError for anything else."""
    result = read_table(connection, text, parameters)
    return [_plain(row) for row in _unique_columns(result).to_pylist(maps_as_pydicts="lossy")]


def read_table(
    connection: Connection,
    text: str,
    parameters: Mapping[str, Any] | None = None,
    most_rows: int | None = None,
    most_seconds: float | None = None,
) -> pa.Table:
    """Rows of one reading statement as an Arrow table; of `parameters` it is given those that it names.

    most_rows: rows after these are not computed. most_seconds: after them the query is broken off, once a chunk of rows
    is done; `sql.sandbox` holds to it whatever the query is.

    Raises QueryError for anything that is not one SELECT, and for one that fails or takes too long.
    """
    try:
        statements = connection.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(f"query: {error}") from error
    # EXPLAIN is refused as well: EXPLAIN ANALYZE executes what it explains, be it a COPY into the lake.
    if len(statements) != 1 or statements[0].type is not duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise QueryError(f"query: got {kinds}, expected one SELECT; the lake is written by audits only")
    named = {key: value for key, value in (parameters or {}).items() if key in statements[0].named_parameters}

    def ask(cursor: Connection) -> pa.Table:
        cursor.execute("BEGIN TRANSACTION READ ONLY")  # to DuckDB, `WITH x AS (DELETE ...) SELECT` is a SELECT
        with _broken_off(cursor, most_seconds):
            found = cursor.sql(text, params=named or None)
            return (found if most_rows is None else found.limit(most_rows)).to_arrow_table()

    try:
        return _answer(connection, ask)
    except duckdb.InterruptException as error:
        raise QueryError(
            f"query: broken off after {most_seconds:g} seconds; ask for less, or use m2ib-audit sql, which has no limit"
        ) from error
    except duckdb.Error as error:
        raise QueryError(f"query: {error}") from error


@contextlib.contextmanager
def _broken_off(cursor: Connection, seconds: float | None) -> Iterator[None]:
    """Break off what a cursor does in the block after some time."""
    if seconds is None:
        yield
        return

    def interrupt() -> None:
        with contextlib.suppress(duckdb.Error):  # it has ended meanwhile
            cursor.interrupt()

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _plain(value: Any) -> Any:
    """A value as JSON can hold it: no decimals, no NaN or infinity (NULL), maps as objects."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value


def _unique_columns(result: pa.Table) -> pa.Table:
    """Rename repeated column names (`SELECT a.x, b.x`), of which a dictionary would keep only the last."""
    seen: dict[str, int] = {}
    unique: list[str] = []
    for name in result.column_names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result.rename_columns(unique)


def conform(table: str, records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as an Arrow table of a stored table's exact types; columns left out are NULL."""
    return pa.Table.from_pylist([dict(record) for record in records], schema=schema(table))
