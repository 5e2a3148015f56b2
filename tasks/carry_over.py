"""An earlier run's attributions -> a new run that flags them anew, without a model. The earlier run stays as it is."""

import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prefect import task

import sql
import stores
from tasks.errors import StoreError
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import CALIBRATION, Run

TAKEN = ("pairs", "ingest_errors", "attributions", "regions", "stamps", "near_duplicates", "screenings", "self_audits")
"""Tables that no rule of a re-flagging decides. Phrases, clusters, shares and all that follows are made again."""

NOT_TESTED = "re-flagging loads no model, and run {run_id} did not test this; audit with these rules to test it"


def _verified(earlier: Run) -> dict[str | None, list[dict[str, Any]]]:
    """The earlier run's files by table, each as its manifest says. Raises StoreError for one that is not."""
    files: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
    entries = earlier.read_manifest()["files"]
    try:
        copies = stores.fetch_all(earlier.lake, {entry["path"]: entry["sha256"] for entry in entries})
    except sql.LakeError as error:
        raise StoreError(f"run {earlier.run_id}: {error}") from error
    for entry, path in zip(entries, copies, strict=True):
        try:
            found = stores.file_sha256(path)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; restore it from a backup, or audit again") from error
        if found != entry["sha256"]:
            raise StoreError(
                f"{path}: got sha256 {found}, expected {entry['sha256']} as the manifest of run {earlier.run_id} says; "
                "restore it from a backup, or audit again"
            )
        files[entry["table"]].append({"name": PurePosixPath(entry["path"]).name, "path": path})
    return files


def _groups(table: str, path: Any, earlier: Run) -> Iterator[pa.Table]:
    """A file's row groups: what a run attributed stays its own, and corners that the old rules chose are left out."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number)
            for name in set(sql.schema(table).names).difference(rows.column_names):
                rows = rows.append_column(name, pa.nulls(rows.num_rows))  # a file of an earlier version
            if table == "regions":
                rows = rows.filter(pc.not_equal(rows["kind"], "hottest"))
            if table == "attributions":
                by = pc.coalesce(rows["attributed_by"].cast(pa.string()), pa.scalar(earlier.run_id))
                rows = rows.set_column(rows.column_names.index("attributed_by"), "attributed_by", by)
            yield rows


def copy_rows(run: Run, earlier: Run) -> int:
    """Copy what an earlier run read and attributed, under this run's id; returns the number of attributions.

    Raises StoreError if a file of the earlier run is gone, or not what its manifest says.
    """
    files = _verified(earlier)
    attributed = 0
    for table in TAKEN:
        for entry in files[table]:
            name = entry["name"].removesuffix(".parquet")
            with run.open_writer(table, name) as writer:
                for rows in _groups(table, entry["path"], earlier):
                    writer.write(
                        rows.set_column(rows.column_names.index("run_id"), "run_id", pa.array([run.run_id] * len(rows)))
                    )
            run.register_files(table, [run.path(table, name)], [writer.rows])
            attributed += writer.rows if table == "attributions" else 0
    for entry in files[None]:
        if entry["name"] == CALIBRATION:
            with stores.write_atomically(run.folder / CALIBRATION) as aside:
                shutil.copyfile(entry["path"], aside)
            run.register_files(None, [run.folder / CALIBRATION], [None])
    counts = earlier.read_manifest()["counts"]
    kept = {key: counts[key] for key in ("corpus_rows", "not_sampled", "pairs", "errors") if key in counts}
    run.update(counts=kept | {"attributions": attributed, "reused": attributed})
    return attributed


def _claim(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["region"], row["slice_kind"], row["slice"]


def _made_of(run: Run, claims: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], tuple[Any, ...]]:
    regions, kinds, slices = zip(*claims, strict=True)
    asked = {"regions": list(regions), "slice_kinds": list(kinds), "slices": list(slices)}
    with run.connect() as connection:
        rows = sql.rows(connection, "derive/claims", run_id=run.run_id, **asked)
    return {_claim(row): tuple(row[key] for key in ("places", "n_places", "members", "n_members")) for row in rows}


def carry_over_confirmations(run: Run, earlier: Run) -> int:
    """Store `confirmations`: of what the earlier run tested its own rows, of all else one that says so.

    A test is of a region and a slice, whichever rule proposed them, and is carried over only where both are made of the
    same places and pairs as then. Its q stays that of the tests among which it was made. Returns how many findings are
    confirmed.
    """
    findings = []
    with run.connect() as connection:
        for query, fill in (("findings_to_confirm", "mean"), ("phrases_to_confirm", "remove")):
            findings += [(row, fill) for row in sql.rows(connection, f"derive/{query}", run_id=run.run_id)]
    claims = sorted({_claim(row) for row, _ in findings})
    tested: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    if claims:
        now, then = _made_of(run, claims), _made_of(earlier, claims)
        for row in earlier.iter_rows("confirmations"):
            if _claim(row) in now and then.get(_claim(row)) == now[_claim(row)]:
                tested[_claim(row)].setdefault(row["fill"], row)
    said = NOT_TESTED.format(run_id=earlier.run_id)
    rows = []
    for finding, fill in findings:
        untested = {"fill": fill, "n": 0, "passed": False, "confirmed": False, "reason": said}
        carried = tested.get(_claim(finding), {}).values()
        rows += [row | finding for row in carried] or [finding | untested]
    run.write_table("confirmations", rows)
    return len({_claim(row) for row in rows if row["confirmed"]})


@task(name="take over", **TASK_OPTIONS)
def copy_attributions(run: Run, earlier: Run) -> int:
    """Copy an earlier run's attributions; see `copy_rows`."""
    return copy_rows(run, earlier)


@task(name="carry over", **TASK_OPTIONS)
def carry_over_tests(run: Run, earlier: Run) -> int:
    """Keep what was tested; see `carry_over_confirmations`."""
    return carry_over_confirmations(run, earlier)
