"""Copy attributions and test results of an earlier run to a run that re-flags it without a model."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task

import sql
import stores
from tasks.errors import StoreError
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import CALIBRATION, Run, copy_calibration, open_parquet
from tasks.records import Claim, Test, claim_of, key_of_test

COPIED = (
    "pairs",
    "ingest_errors",
    "attributions",
    "regions",
    "stamps",
    "concepts",
    "concept_slices",
    "concept_exemplars",
    "near_duplicates",
    "screenings",
    "image_statistics",
    "self_audits",
)
"""Tables that re-flagging copies. Phrases, clusters, shares and all tables made from these are computed again."""

_ADVICE = "restore it from a backup, or audit again"
NOT_TESTED = "re-flagging loads no model, and run {run_id} did not test this; audit with these rules to test it"


def _verify_files(earlier: Run) -> dict[str, Path]:
    """Return local copies of all files of a run, by path. Raises StoreError if one differs from the manifest.

    The files that are not copied are verified, too, because `carry_over_tests` and the rules read them.
    """
    digests = {entry["path"]: entry["sha256"] for entry in earlier.read_manifest()["files"]}
    try:
        return dict(zip(digests, stores.fetch_all(earlier.lake, digests), strict=True))
    except (OSError, sql.LakeError) as error:
        raise StoreError(f"run {earlier.run_id}: {error}; {_ADVICE}") from error


def _row_groups(table: str, path: Path, earlier: Run) -> Iterator[pa.Table]:
    """Yield the row groups of a file: name the run that attributed each row, and leave out hottest corners."""
    with open_parquet(path, _ADVICE) as file:
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number)
            if table == "regions":
                rows = rows.filter(pc.not_equal(rows["kind"], "hottest"))
            if table == "attributions":
                by = pc.coalesce(rows["attributed_by"].cast(pa.string()), pa.scalar(earlier.run_id))
                rows = rows.set_column(rows.column_names.index("attributed_by"), "attributed_by", by)
            yield rows


@task(name="copy attributions", **TASK_OPTIONS)
def copy_attributions(run: Run, earlier: Run) -> int:
    """Copy the tables in `COPIED` from an earlier run to this one; return the number of attributions."""
    record, attributed = earlier.read_manifest(), 0
    copies = _verify_files(earlier)
    with run.changes() as changes:
        for entry in record["files"]:
            if (table := entry["table"]) in COPIED:
                with changes.open_writer(table, PurePosixPath(entry["path"]).stem) as writer:
                    for rows in _row_groups(table, copies[entry["path"]], earlier):
                        run_ids = pa.array([run.run_id] * len(rows))
                        writer.write(rows.set_column(rows.column_names.index("run_id"), "run_id", run_ids))
                attributed += writer.rows if table == "attributions" else 0
            elif entry["path"].endswith(f"/{CALIBRATION}"):
                copy_calibration(run, earlier, entry["sha256"], _ADVICE)
                changes.files[run.relative_path(CALIBRATION)] = None, None
        copied = {key: record["counts"][key] for key in ("corpus_rows", "not_sampled", "pairs", "errors")}
        changes.update(counts=copied | {"attributions": attributed, "reused": attributed})
    return attributed


def _read_claims(run: Run, claims: Sequence[Claim]) -> dict[Claim, tuple[Any, ...]]:
    regions, kinds, slices = zip(*claims, strict=True)
    parameters = {"regions": list(regions), "slice_kinds": list(kinds), "slices": list(slices)}
    with run.connect() as connection:
        rows = sql.rows(connection, "derive/claims", run_id=run.run_id, **parameters)
    return {claim_of(row): tuple(row[key] for key in ("places", "n_places", "members", "n_members")) for row in rows}


@task(name="carry over", **TASK_OPTIONS)
def carry_over_tests(run: Run, earlier: Run) -> int:
    """Store `confirmations`: copy the rows of findings that the earlier run tested; store other findings as not tested.

    A test belongs to a region, a slice, a direction and a kind of reliance, whichever rule proposed them. It is copied
    only if the region has the same boxes, and the slice the same pairs, in both runs. The q value of the earlier run is
    kept. Return the number of confirmed findings.
    """
    with run.connect() as connection:
        findings = sql.rows(connection, "derive/findings_to_confirm", run_id=run.run_id)
    claims = sorted({claim_of(row) for row in findings})
    tested: dict[Test, dict[str, dict[str, Any]]] = defaultdict(dict)
    if claims:
        now, then = _read_claims(run, claims), _read_claims(earlier, claims)
        for row in earlier.iter_rows("confirmations"):
            if claim_of(row) in now and then.get(claim_of(row)) == now[claim_of(row)]:
                tested[key_of_test(row)].setdefault(row["fill"], row)
    reason = NOT_TESTED.format(run_id=earlier.run_id)
    rows = []
    for finding in findings:
        is_sufficiency = finding["reliance"] == "sufficient"
        fill = "remove" if finding["side"] == "text" else "transplant" if is_sufficiency else "mean"
        untested = {"fill": fill, "n": 0, "passed": False, "confirmed": False, "reason": reason}
        tests = tested.get(key_of_test(finding), {}).values()
        rows += [row | finding for row in tests] or [finding | untested]
    run.write_table("confirmations", rows)
    return len({claim_of(row) for row in rows if row["confirmed"]})
