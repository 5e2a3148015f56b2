"""Incremental runs: find the earlier run to build upon, and reuse its attributions of pairs that have not changed."""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import sql
import stores
from stores import Root
from tasks.errors import StoreError
from tasks.lake.run import CALIBRATION, Run

_REQUIRED_EQUAL = ("corpus", "model_digest", "code_version", "environment")
NO_BASE = {"base_run": None, "calibration_run": None, "calibration_sha256": None, "incremental": None}
"""Facts of a run that is not incremental."""


def find_base(lake: Root, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Find the newest complete run whose maps would be the same bit by bit if they were computed again.

    Args:
        lake: folder or URL of the lake.
        facts: manifest facts of the run that begins.

    Returns:
        Facts for its manifest. `base_run`: id of the run to build upon. `calibration_run`: id of the run that computed
        its feature statistics. `calibration_sha256`: their digest, None if the settings need none. `incremental`: a
        sentence on which run was chosen, or why there is none. Without a base all but the sentence are None.
    """
    # A re-flagged run has a copy of another run's maps, computed by the code of that time: that run is the base.
    complete = [
        record for record in sql.read_manifests(lake) if sql.is_complete(record) and not record.get("reflags")
    ]
    if not complete:
        return NO_BASE | {"incremental": f"a full run: the lake {lake} has no complete one to build upon"}
    for record in reversed(complete):
        if not _list_differences(lake, record, facts):
            digests = [entry["sha256"] for entry in record["files"] if Path(entry["path"]).name == CALIBRATION]
            return {
                "base_run": record["run_id"],
                "calibration_run": record.get("calibration_run") or record["run_id"],
                "calibration_sha256": digests[0] if digests else None,
                "incremental": f"builds upon run {record['run_id']}: only pairs that it does not have are attributed",
            }
    newest = complete[-1]
    differences = ", ".join(_list_differences(lake, newest, facts))
    return NO_BASE | {"incremental": f"a full run: the newest complete run {newest['run_id']} differs in {differences}"}


def _list_differences(lake: Root, record: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    differences = [key for key in _REQUIRED_EQUAL if record.get(key) != facts[key]]
    bottlenecks = [json.dumps(source["config"].get("bottleneck"), sort_keys=True) for source in (record, facts)]
    if bottlenecks[0] != bottlenecks[1]:
        differences.append("bottleneck settings")
    paths = [entry["path"] for entry in record["files"] if entry["table"] in ("attributions", None)]
    if stores.missing_files(lake, (path for path in paths if not path.endswith(".html"))):
        differences.append("files (some are missing)")
    return differences


def copy_calibration(run: Run) -> bool:
    """Copy the feature statistics of the run that this one builds upon.

    Returns:
        False if it builds upon none.

    Raises:
        StoreError: the statistics cannot be read or have changed since this run began.
    """
    record = run.read_manifest()
    if not record.get("base_run"):
        return False
    source, path = Run(run.lake, record["base_run"]).folder / CALIBRATION, run.folder / CALIBRATION
    try:
        with stores.write_atomically(path) as temporary:
            shutil.copyfile(stores.fetch(source), temporary)
            if (sha256 := stores.file_sha256(temporary)) != record["calibration_sha256"]:
                raise StoreError(
                    f"{source}: got sha256 {sha256}, expected {record['calibration_sha256']} as when run {run.run_id} "
                    "began; start a run that is not incremental"
                )
    except (OSError, sql.LakeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"{source}: {reason}; start a run that is not incremental") from error
    return True


def find_reusable_rows(run: Run, pairs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Find the attributions that the run which this one builds upon has of these pairs.

    Args:
        run: the run.
        pairs: rows with `pair_id` and `caption`.

    Returns:
        Rows of `attributions` by pair id; empty if the run builds upon none.

    Raises:
        StoreError: the earlier run's files are missing or damaged.
    """
    base = run.read_manifest().get("base_run")
    if not base:
        return {}
    captions = {pair["pair_id"]: pair["caption"] for pair in pairs}
    pair_ids = pa.array(list(captions), pa.string())
    found = {}
    for path, number in _index_pairs(Run(run.lake, base)).find_row_groups(captions):
        with _open_parquet(path) as file:
            group = file.read_row_group(number)
        for row in group.filter(pc.is_in(group["pair_id"], pair_ids)).to_pylist():
            if row["caption"] == captions[row["pair_id"]]:
                found[row["pair_id"]] = row | {"attributed_by": row["attributed_by"] or base}
    return found


@dataclass(frozen=True)
class _PairIndex:
    """Row group of each pair: 29 bytes per pair, sorted by pair id.

    It refers to row groups, not files, because each has the pairs of one shard, also in a compacted file.
    """

    row_groups: tuple[tuple[Path, int], ...]
    pair_ids: np.ndarray[Any, np.dtype[np.bytes_]]
    group_indices: np.ndarray[Any, np.dtype[np.int32]]

    def find_row_groups(self, pair_ids: Iterable[str]) -> list[tuple[Path, int]]:
        keys = np.array(sorted(pair_ids), dtype="S")
        places = np.searchsorted(self.pair_ids, keys)
        inside = places < len(self.pair_ids)
        matches = places[inside][self.pair_ids[places[inside]] == keys[inside]]
        return [self.row_groups[index] for index in np.unique(self.group_indices[matches])]


@lru_cache(maxsize=1)
def _index_pairs(base: Run) -> _PairIndex:
    try:
        paths = base.fetch_files("attributions")
    except sql.LakeError as error:
        raise StoreError(f"run {base.run_id}: {error}; or start a run that is not incremental") from error
    row_groups, ids = [], [np.array([], dtype="S25")]
    for path in paths:
        with _open_parquet(path) as file:
            for number in range(file.num_row_groups):
                row_groups.append((path, number))
                column = file.read_row_group(number, columns=["pair_id"])["pair_id"]
                ids.append(np.array(column.to_pylist(), dtype="S25"))
    group_indices = np.repeat(np.arange(len(row_groups), dtype=np.int32), [len(group) for group in ids[1:]])
    pair_ids = np.concatenate(ids)
    order = np.argsort(pair_ids, kind="stable")
    return _PairIndex(tuple(row_groups), pair_ids[order], group_indices[order])


@contextlib.contextmanager
def _open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read ({error}); start a run that is not incremental") from error
