"""DuckDB connections to the files that the manifests of a lake list."""

import hashlib
import io
import json
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow.json import ParseOptions, ReadOptions, read_json

import stores
from sql.manifest import read_manifests, warn_damaged
from sql.queries import query_text, schema
from sql.tables import TABLES, Connection, Tables
from sql.views import define_views, prepare_views
from stores import LakeError, Root, ledger
from stores.look_alikes import is_alike
from stores.run_records import list_recorded

LEDGER_TABLES = {
    "reviews": "review",
    "countersigns": "countersign",
    "sign_offs": "sign_off",
    "overlay_names": "name",
    "deliveries": "notification",
}
"""Tables that are read from the ledger. The value is the kind of the records that become the rows of the table."""
COMPLETE = ("completed", "completed_with_errors")
"""Statuses of a run that completed all stages. Its files no longer change, and later runs can be compared with it."""
PRUNED = "pruned"
"""Status of a run whose files `m2ib-audit prune` has deleted."""
_MEBIBYTES = 128  # each of DuckDB's threads needs about 125 MiB to write what exceeds its limit to disk


def is_complete(record: Mapping[str, Any]) -> bool:
    """Return whether a run completed all stages.

    Args:
        record: A manifest, a row of `runs`, or any other mapping with the key `status`.
    """
    return record["status"] in COMPLETE


def is_trusted(record: Mapping[str, Any]) -> bool:
    """Return whether other runs, notifications and `latest` may refer to a run: not if it lacks its record.

    Args:
        record: A manifest from `read_manifests`, or a row of `runs`. Without `recorded` the ledger was not read, or it
            knows no run of the lake.
    """
    return record.get("recorded") is not False


def latest_run(records: Iterable[Mapping[str, Any]], complete: bool = False) -> tuple[str | None, str | None]:
    """Return the id of the run that `latest` means, and the id of the newest run if that is another one.

    `latest` is the newest run that was not pruned and does not lack its record in the ledger. For what needs a complete
    run, it is the newest complete one. An id is None if there is no such run.

    Args:
        records: Manifests, or rows of `runs`, from oldest to newest.
        complete: Whether a complete run is needed.
    """
    kept = [record for record in records if record["status"] != PRUNED]
    usable = [record["run_id"] for record in kept if is_trusted(record) and (not complete or is_complete(record))]
    latest, newest = (run_ids[-1] if run_ids else None for run_ids in (usable, [each["run_id"] for each in kept]))
    return latest, None if newest == latest else newest


def audit_id(record: Mapping[str, Any]) -> str:
    """Return the identifier that all runs of an audit share: runs of one name or, without, of one corpus and model.

    Args:
        record: A manifest or a row of `runs`.
    """
    name = record.get("audit")
    parts = ("audit", name) if name else (record.get("corpus"), record.get("model"))
    return hashlib.sha256("\x1f".join(part or "" for part in parts).encode()).hexdigest()[:12]


def audit_ids(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the audit id of each run. Runs without a name can belong to a named audit.

    They do if the named audit continues theirs: it has a run of the same corpus and model, or `[audit] continues` says
    so. If several audits do, the one whose run was the first has them. Runs that lack their record claim none.

    Args:
        records: Manifests, or rows of `runs`, of all runs of a lake, from oldest to newest.
    """
    records, continued = list(records), dict[str, str]()
    for record in records:
        if record.get("audit") and is_trusted(record):
            for former in (audit_id({**record, "audit": None}), record.get("audit_continues")):
                continued.setdefault(former or "", audit_id(record))
    own = {record["run_id"]: audit_id(record) for record in records}
    return {run_id: continued.get(former, former) for run_id, former in own.items()}


def connect(
    lake: Root,
    run_id: str | None = None,
    also: Collection[str] = (),
    with_decisions: bool | None = None,
    memory: str | None = None,
    threads: int | None = None,
    manifest: Mapping[str, Any] | None = None,
    check: bool = False,
) -> Connection:
    """Open an in-memory DuckDB database with views over the tables of a lake. Queries can read only files of the lake.

    Use one cursor per thread. A query downloads the files of a remote lake that it needs, and checks their sha256.

    Args:
        lake: Folder or URL of the lake.
        run_id: Open only this run and the runs in `also`. Other runs are not readable, and damage to them has no
            effect. Default: all runs. Damaged ones are left out with a warning; see `list_damage`.
        also: Further runs to open. Ignored without `run_id`.
        with_decisions: Whether to read people's decisions from the ledger. Default: True without `run_id`, and False
            with it, because the results of an audit must not depend on decisions.
        memory: DuckDB's memory limit, such as `2GB` or `80%`. Beyond it, DuckDB writes to temporary files. It does not
            include memory that a SQL function allocates for a single row. Default: 128 MiB per thread and once more,
            because what queries sort, join and group grows with the corpus.
        threads: Number of DuckDB threads. Default: one per core.
        manifest: A manifest of the run to use in place of the stored one. Default: the stored one.
        check: Whether to compare the files with their sha256 in the manifests first, once per process. DuckDB itself
            notices little damage.

    Raises:
        LakeError: The lake does not exist, a run that was named is damaged, or the ledger is damaged. Files of a remote
            lake are checked only when a query needs them.
    """
    if isinstance(lake, Path):
        lake = lake.resolve()
        _require(lake.is_dir(), lake)
    records_of_people: list[ledger.Record] = []
    known = None
    if run_id is None if with_decisions is None else with_decisions:
        try:
            records_of_people = ledger.read_texts(lake, ledger.read_records(lake))
        except OSError as error:
            raise LakeError(f"ledger: a record cannot be read ({error}); restore it from a backup") from error
        known = list_recorded(records_of_people)
    damage: dict[str, str] | None = {} if run_id is None else None
    records = read_manifests(lake, run_id, also, damage, known)
    for name, reason in (damage or {}).items():
        warn_damaged(name, reason)
    if manifest is not None:
        records = [dict(manifest) if record["run_id"] == run_id else record for record in records]
    _require(isinstance(lake, Path) or bool(records or damage) or run_id is not None, lake)
    connection = _open_database(memory, threads)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("CREATE SCHEMA stored")
    tables = Tables(lake, records, damage, check)
    tables.define(connection)
    records = [record for record in records if record["run_id"] not in (damage or {})]
    if isinstance(lake, Path):
        kind = "allowed_directories"
        readable = [lake] if run_id is None else [lake / "runs" / name for name in (run_id, *also)]
    else:
        kind = "allowed_paths"
        readable = [stores.copy_path(entry["sha256"]) for table in TABLES for entry in tables.entries[table]]
    audits, opened = audit_ids(records), [record["run_id"] for record in records]
    order = {name: place for place, name in enumerate(known.sort({*known.runs, *opened}) if known else opened, start=1)}
    _insert(connection, "run_order", [{"run_id": name, "sequence": place} for name, place in order.items()])
    rows = [
        _run_row(record) | {"audit_id": audits[name], "sequence": order[name]}
        for name, record in zip(opened, records, strict=True)
    ]
    _insert(connection, "runs", rows)
    empty = _define_decisions(connection, lake, records_of_people)
    prepare_views(connection, [*tables.list_empty(), *empty])
    if tables.has_stubs:  # views must be defined while the stubs exist
        define_views(connection, None)
        tables.remove_stubs()
    quoted = ", ".join("'" + str(path).replace("'", "''") + "'" for path in readable)  # SET takes no parameters
    connection.execute(f"SET {kind} = [{quoted}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _require(exists: bool, lake: Root) -> None:
    if not exists:
        raise LakeError(f"lake: no folder at {lake}; run an audit first, or name the lake with --lake")


def _open_database(memory: str | None, threads: int | None) -> Connection:
    settings = {"memory_limit": memory, "threads": threads}
    # A folder of its own, because DuckDB names its temporary files alike. It creates the folder when it needs it.
    settings["temp_directory"] = str(stores.scratch_folder() / f"{uuid.uuid4().hex}.spill")
    connection = duckdb.connect(config={key: value for key, value in settings.items() if value is not None})
    if memory is None:
        ((used,),) = connection.execute("SELECT current_setting('threads')").fetchall()
        connection.execute(f"SET memory_limit = '{_MEBIBYTES * (1 + used)}MiB'")
    return connection


def _run_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a manifest to a row of the table `runs`."""
    times = {key: record[key] and datetime.fromisoformat(record[key]) for key in ("started_at", "finished_at")}
    texts = {key: json.dumps(record.get(key) or {}, sort_keys=True) for key in ("config", "stage_seconds")}
    return {**record, **record["counts"], **times, **texts}


def _define_decisions(connection: Connection, lake: Root, records: Sequence[ledger.Record]) -> list[str]:
    """Create the tables that are read from the ledger, and return the names of those without rows, which are not."""
    empty = []
    for table, kind in LEDGER_TABLES.items():
        rows: list[dict[str, Any]] = []
        which = f"a record of kind {kind}"
        try:
            for record in (record for record in records if record.kind == kind):
                which = f"record {record.number} ({kind})"
                rows += _delivery_rows(record) if kind == "notification" else [_decision_row(record, records)]
            which = f"one of the records of kind {kind}"
            if rows:
                _insert(connection, table, rows)
            else:
                empty.append(table)
        except (pa.ArrowException, AttributeError, KeyError, TypeError, ValueError) as error:
            raise LakeError(
                f"ledger: {which} is damaged, or another release wrote it ({type(error).__name__}: {error}); run "
                + stores.format_command(lake, "verify", "all")
            ) from error
    return empty


def _decision_row(record: ledger.Record, records: Sequence[ledger.Record]) -> dict[str, Any]:
    """Convert a record that a person added to a row of its table (`LEDGER_TABLES`)."""
    reviewer, until = record.body["reviewer"], record.body.get("until")
    row: dict[str, Any] = {"number": record.number, "signed_at": record.time}
    row |= {"sha256": record.sha256, "key_id": record.key_id}
    row |= record.body.get("evidence", {}) | record.body.get("alerts", {}) | record.body
    row |= {"reviewer": reviewer["name"], "role": reviewer["role"], "identity": reviewer["identity"]}
    if record.kind == "countersign":
        number = record.body["record"]
        first = records[number - 1].body.get("reviewer") if 0 < number <= len(records) else None
        row["other_person"] = first is not None and not is_alike(first["name"], reviewer["name"])
    return row | {"until": until and date.fromisoformat(until)}


def _delivery_rows(record: ledger.Record) -> list[dict[str, Any]]:
    """Convert a record of notifications to rows of the table `deliveries`, one for each message and recipient."""
    return [{**message, "number": record.number, "tried_at": record.time} for message in record.body["messages"]]


def _insert(connection: Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Create a table that is not stored as Parquet, and insert rows. Keys of rows that are no column are ignored."""
    connection.execute("USE stored")
    connection.execute(query_text(f"schema/{table}"))
    columns = schema(table).names
    lines = [json.dumps({key: row.get(key) for key in columns}, default=_to_json, allow_nan=False) for row in rows]
    if lines:
        # Arrow's JSON reader refuses values of other types, which DuckDB would convert.
        data = "\n".join(lines).encode()
        types = ParseOptions(explicit_schema=schema(table), unexpected_field_behavior="error")
        incoming = read_json(io.BytesIO(data), ReadOptions(block_size=len(data)), types)  # one block: any row fits
        connection.from_arrow(incoming).insert_into(table)
    connection.execute("USE main")


def _to_json(value: date) -> str | int:
    """Convert a datetime to ISO 8601 text, and a date to days since 1970-01-01, as Arrow's JSON reader expects."""
    return value.isoformat() if isinstance(value, datetime) else (value - date(1970, 1, 1)).days
