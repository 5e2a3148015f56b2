"""Incremental runs: find the earlier run to build upon, and reuse its attributions of pairs that have not changed."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import sql
import stores
from stores import Root
from tasks.errors import StoreError
from tasks.lake.run import CALIBRATION, PROJECTION, Run, open_parquet
from tasks.progress import warn

_REQUIRED_EQUAL = ("corpus", "model_digest", "code_version", "environment")
ADVICE = "start a run that is not incremental"
NO_BASE = dict.fromkeys(("base_run", "calibration_run", "calibration_sha256", "projection_sha256", "incremental"))
"""Facts in the manifest of a run that is not incremental."""


def find_base(lake: Root, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Find the newest complete run whose maps would be identical, bit by bit, to those of the run with these facts.

    Return facts for the manifest. `base_run` is the run to build upon. `calibration_run` is the run that computed its
    feature statistics, and `calibration_sha256` is their digest (None if the settings need none), as
    `projection_sha256` is that of the projection of patch features. `incremental` is a sentence that states which run
    was chosen, or why none was; in the latter case all other facts are None.
    """
    # A re-flagged run has a copy of another run's maps, computed by the code of that time: that run is the base.
    damage: dict[str, str] = {}
    complete = [
        record
        for record in sql.read_manifests(lake, damage=damage)
        if sql.is_complete(record) and sql.is_trusted(record) and not record.get("reflags")
    ]
    skipped = f"; damaged runs were skipped: {', '.join(damage)}" if damage else ""
    if not complete:
        reason = f"attributes all pairs: the lake {lake} has no complete run to build upon{skipped}"
        return NO_BASE | {"incremental": reason}
    differences: list[str] = []
    for record in reversed(complete):
        if not (found := _list_differences(lake, record, facts)):
            digests = {Path(entry["path"]).name: entry["sha256"] for entry in record["files"]}
            return {
                "base_run": record["run_id"],
                "calibration_run": record.get("calibration_run") or record["run_id"],
                "calibration_sha256": digests.get(CALIBRATION),
                "projection_sha256": digests.get(PROJECTION),
                "incremental": f"builds upon run {record['run_id']}: only pairs that it does not have are attributed"
                + skipped,
            }
        differences = differences or found
    newest, reasons = complete[-1]["run_id"], ", ".join(differences)
    reason = f"attributes all pairs: the newest complete run {newest} differs in {reasons}{skipped}"
    return NO_BASE | {"incremental": reason}


def _list_differences(lake: Root, record: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    differences = [key for key in _REQUIRED_EQUAL if record.get(key) != facts[key]]
    bottlenecks = [json.dumps(source["config"].get("bottleneck"), sort_keys=True) for source in (record, facts)]
    if bottlenecks[0] != bottlenecks[1]:
        differences.append("bottleneck settings")
    concepts, before = (source["config"].get("concepts", {}) for source in (facts, record))
    if concepts.get("enabled") and before != concepts:
        differences.append("[concepts] settings")
    paths = [entry["path"] for entry in record["files"] if entry["table"] in ("attributions", "patch_features", None)]
    if stores.missing_files(lake, (path for path in paths if not path.endswith(".html"))):
        differences.append("files (some are missing)")
    return differences


def find_reusable_rows(run: Run, pairs: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the attributions that the base run (the run that this one builds upon) has of these pairs.

    A pair of the base run counts as the same if it has the same `pair_id` and `caption`.
    """
    found = sql.schema("attributions").empty_table()
    if not (base := run.read_manifest().get("base_run")):
        return found
    captions = {pair["pair_id"]: pair["caption"] for pair in pairs}
    for group in _read_groups(Run(run.lake, base), "attributions", captions):
        known = [captions.get(pair_id) for pair_id in group["pair_id"].to_pylist()]
        same = group.filter(pc.fill_null(pc.equal(group["caption"], pa.array(known, pa.string())), False))
        by = pc.fill_null(same["attributed_by"], base)
        columns = {name: same[name] for name in found.schema.names} | {
            "run_id": [run.run_id] * len(same),
            "attributed_by": by,
        }
        found = pa.concat_tables([found, sql.conform_columns("attributions", columns)])
    return found


def find_reusable_features(run: Run, pair_ids: Sequence[str]) -> pa.Table:
    """Return the patch features that the base run has of pairs whose attributions are reused."""
    found = sql.schema("patch_features").empty_table()
    base = run.read_manifest().get("base_run")
    for group in _read_groups(Run(run.lake, base), "patch_features", pair_ids) if base and pair_ids else ():
        same = group.filter(pc.is_in(group["pair_id"], pa.array(pair_ids, pa.string())))
        columns = {name: same[name] for name in found.schema.names} | {"run_id": [run.run_id] * len(same)}
        found = pa.concat_tables([found, sql.conform_columns("patch_features", columns)])
    return found


def _read_groups(base: Run, table: str, pair_ids: Collection[str]) -> Iterator[pa.Table]:
    """Yield the row groups of a table of the base run that have some of these pairs."""
    names = sql.schema(table).names
    row_groups, ids, group_of = _index_pairs(base, table)
    keys = np.array(sorted(pair_ids), dtype=ids.dtype)
    places = np.searchsorted(ids, keys)
    matches = places[np.take(ids, places, mode="clip") == keys] if len(ids) else places[:0]
    for path, number in (row_groups[index] for index in np.unique(group_of[matches])):
        with open_parquet(path, ADVICE) as file:
            yield file.read_row_group(number).select(names)


def _fetch_intact(base: Run, table: str) -> Iterator[Path]:
    """Yield local paths of the base run's files of a table, without damaged files, whose pairs are computed again."""
    try:
        entries = [entry for entry in base.read_manifest()["files"] if entry["table"] == table]
        for entry in entries:
            try:
                yield stores.fetch(base.lake / entry["path"], entry["sha256"])
            except stores.DamagedFileError as error:
                warn(f"run {base.run_id}: its pairs are computed again: {str(error).partition(';')[0]}")
    except (OSError, sql.LakeError) as error:
        raise StoreError(f"run {base.run_id}: {error}; or {ADVICE}") from error


@lru_cache(maxsize=2)  # for two tables
def _index_pairs(base: Run, table: str) -> tuple[list[tuple[Path, int]], NDArray[np.bytes_], NDArray[np.int32]]:
    """Return the row groups of a table as (file, number), all pair ids in order, and the row group of each pair.

    The index refers to row groups, not files, because a row group has the pairs of one shard even after compaction.
    """
    row_groups: list[tuple[Path, int]] = []
    ids = [np.array([], dtype="S25")]
    for path in _fetch_intact(base, table):
        with open_parquet(path, ADVICE) as file:
            for number in range(file.num_row_groups):
                row_groups.append((path, number))
                ids.append(np.array(file.read_row_group(number, columns=["pair_id"])["pair_id"].to_pylist(), "S25"))
    group_of = np.repeat(np.arange(len(row_groups), dtype=np.int32), [len(group) for group in ids[1:]])
    pair_ids = np.concatenate(ids)
    order = np.argsort(pair_ids, kind="stable")
    return row_groups, pair_ids[order], group_of[order]
