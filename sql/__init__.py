"""The SQL text of the audit and the one door to DuckDB.

Parquet is the truth and DuckDB a lens: every connection is in memory, with views over the files that the lake's
manifests list. `schema/` holds the stored tables' types, `views/` what analysts query, `derive/` what a stage computes
and stores, `gates/` what validation looks at, `rules/` the queries whose rows are findings.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

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
    *("confirmations", "self_audits", "alerts", "validations"),
)
_MANIFEST_KEYS = {"run_id", "status", "started_at", "finished_at", "config", "counts", "files"}

Connection = duckdb.DuckDBPyConnection


class LakeError(Exception):
    """The lake cannot be read: missing, or not what its manifests say."""


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


def manifests(lake: Path, run_id: str | None = None) -> list[dict[str, Any]]:
    """Manifests of the lake's runs, oldest first, or of one run. Raises LakeError for one that cannot be read."""
    found = []
    for path in sorted(Path(lake).glob("runs/*/manifest.json")):
        if run_id not in (None, path.parent.name):
            continue
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise LakeError(
                f"manifest {path}: not JSON ({error}); restore it from a backup or remove the run"
            ) from error
        if missing := _MANIFEST_KEYS.difference(record if isinstance(record, dict) else ()):
            raise LakeError(
                f"manifest {path}: no {', '.join(sorted(missing))}, expected a manifest as an audit writes it; "
                "restore it from a backup or remove the run"
            )
        prefix = f"runs/{path.parent.name}/"
        outside = [e["path"] for e in record["files"] if not e["path"].startswith(prefix) or ".." in e["path"]]
        if record["run_id"] != path.parent.name or outside:
            raise LakeError(
                f"manifest {path}: it names run {record['run_id']!r} and files {outside}, expected its own folder's; "
                "restore it from a backup or remove the run"
            )
        found.append(record)
    return found


def connect(lake: Path, run_id: str | None = None) -> Connection:
    """An in-memory DuckDB with the views of `views/` over the lake; it can read below the lake and nothing else.

    run_id: open this run alone, so that nothing that befell another one matters, nor can anything else be read.

    Raises LakeError if there is no lake, or a manifest lists a file that is gone or broken. Use one cursor a thread.
    """
    lake = Path(lake).resolve()
    if not lake.is_dir():
        raise LakeError(f"lake: no folder at {lake}; run an audit first, or name the lake with --lake")
    records = manifests(lake, run_id)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("CREATE SCHEMA stored")
    for table in TABLES:
        files = [lake / entry["path"] for record in records for entry in record["files"] if entry["table"] == table]
        _define(connection, table, files)
    _define_runs(connection, records)
    # Views may build on one another: define them in the order that works.
    pending = names("views")
    while pending:
        rest = [name for name in pending if not _try_view(connection, name)]
        if len(rest) == len(pending):
            connection.execute(query(f"views/{rest[0]}"))  # raises the true error
        pending = rest
    readable = lake if run_id is None else lake / "runs" / run_id
    directory = str(readable).replace("'", "''")  # SET takes no parameters
    connection.execute(f"SET allowed_directories = ['{directory}']")
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
        try:
            relation = connection.read_parquet(
                [str(path) for path in files], union_by_name=True, hive_partitioning=False
            )
        except duckdb.Error as error:
            raise LakeError(
                f"lake: a file of table {table} that a manifest lists cannot be read ({error}); "
                "restore it, or remove the run's folder under runs/"
            ) from error
        relation.create_view(table)
    else:
        connection.execute(query(f"schema/{table}"))
    connection.execute("USE main")


def _define_runs(connection: Connection, records: list[dict[str, Any]]) -> None:
    rows = []
    for record in records:
        times = {key: record[key] and datetime.fromisoformat(record[key]) for key in ("started_at", "finished_at")}
        rows.append({**record, **record["counts"], **times, "config": json.dumps(record["config"], sort_keys=True)})
    known = schema("runs").names
    connection.execute("USE stored")
    connection.execute(query("schema/runs"))
    connection.register("incoming", conform("runs", ({key: row.get(key) for key in known} for row in rows)))
    connection.execute("INSERT INTO runs SELECT * FROM incoming")
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
    return connection.cursor().sql(query(name), params=parameters or None).to_arrow_table()


def frame(connection: Connection, name: str, **parameters: Any) -> Any:
    """Rows of the query `folder/name` as a pandas frame (for Great Expectations)."""
    return connection.cursor().sql(query(name), params=parameters or None).df()


def read(connection: Connection, text: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Rows of one reading statement of the user's own. Raises QueryError for anything else."""
    result = read_table(connection, text, parameters)
    return [_plain(row) for row in _unique_columns(result).to_pylist(maps_as_pydicts="lossy")]


def read_table(connection: Connection, text: str, parameters: Mapping[str, Any] | None = None) -> pa.Table:
    """Rows of one reading statement as an Arrow table; of `parameters` it is given those that it names.

    Raises QueryError for anything that is not one SELECT, and for one that fails.
    """
    try:
        statements = connection.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(f"query: {error}") from error
    # EXPLAIN is refused as well: EXPLAIN ANALYZE executes what it explains, be it a COPY into the lake.
    if len(statements) != 1 or statements[0].type is not duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise QueryError(f"query: got {kinds}, expected one SELECT; the lake is written by audits only")
    try:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN TRANSACTION READ ONLY")  # to DuckDB, `WITH x AS (DELETE ...) SELECT` is a SELECT
            named = {key: value for key, value in (parameters or {}).items() if key in statements[0].named_parameters}
            return cursor.sql(text, params=named or None).to_arrow_table()
    except duckdb.Error as error:
        raise QueryError(f"query: {error}") from error


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
