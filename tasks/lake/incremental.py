"""What an earlier run of the lake has attributed already: which run an incremental one builds upon, and its rows."""

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

_DECISIVE = ("corpus", "model_digest", "code_version", "environment")
NO_BASE = {"base_run": None, "calibration_run": None, "calibration_sha256": None, "incremental": None}
"""These facts of a run that was not asked to build upon another."""


def find_base(lake: Root, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The newest complete run whose maps would be made again bit by bit, as facts for the manifest.

    base_run: its id, or None. calibration_run, calibration_sha256: whose feature statistics it has, and their digest,
    None if its settings need none. incremental: the sentence that says so, or why there is none.
    """
    # A re-flagged run has another's maps, made by the code of then: that one is the base.
    known = [record for record in sql.read_manifests(lake) if not record.get("reflags")]
    complete = [record for record in known if sql.is_complete(record)]
    if not complete:
        return NO_BASE | {"incremental": f"a full run: the lake {lake} has no complete one to build upon"}
    for record in reversed(complete):
        if not _differing(lake, record, facts):
            digests = [entry["sha256"] for entry in record["files"] if Path(entry["path"]).name == CALIBRATION]
            return {
                "base_run": record["run_id"],
                "calibration_run": record.get("calibration_run") or record["run_id"],
                "calibration_sha256": digests[0] if digests else None,
                "incremental": f"builds upon run {record['run_id']}: only pairs that it does not have are attributed",
            }
    newest = complete[-1]
    differing = ", ".join(_differing(lake, newest, facts))
    return NO_BASE | {"incremental": f"a full run: the newest complete one, {newest['run_id']}, had other {differing}"}


def _differing(lake: Root, record: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    differing = [key for key in _DECISIVE if record.get(key) != facts[key]]
    settings = [json.dumps(given["config"].get("bottleneck"), sort_keys=True) for given in (record, facts)]
    if settings[0] != settings[1]:
        differing.append("bottleneck settings")
    needed = [entry["path"] for entry in record["files"] if entry["table"] in ("attributions", None)]
    if stores.missing_files(lake, (path for path in needed if not path.endswith(".html"))):
        differing.append("files (some are gone)")
    return differing


def copy_calibration(run: Run) -> bool:
    """Copy the feature statistics of the run that this one builds upon; False if it builds upon none.

    Raises StoreError if they are not what they were when this run began.
    """
    record = run.read_manifest()
    if not record.get("base_run"):
        return False
    source, path = Run(run.lake, record["base_run"]).folder / CALIBRATION, run.folder / CALIBRATION
    try:
        with stores.write_atomically(path) as aside:
            shutil.copyfile(stores.fetch(source), aside)
            if (found := stores.file_sha256(aside)) != record["calibration_sha256"]:
                raise StoreError(
                    f"{source}: got sha256 {found}, expected {record['calibration_sha256']}, as when run {run.run_id} "
                    "began; start a run that is not incremental"
                )
    except (OSError, sql.LakeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"{source}: {why}; start a run that is not incremental") from error
    return True


@dataclass(frozen=True)
class _Index:
    """In which row group of the files each pair is: 29 bytes a pair, sorted by its id.

    Row groups, not files: each is of one shard, also in a file into which many were compacted.
    """

    groups: tuple[tuple[Path, int], ...]
    pair_ids: np.ndarray[Any, np.dtype[np.bytes_]]
    places: np.ndarray[Any, np.dtype[np.int32]]

    def groups_of(self, pair_ids: Iterable[str]) -> list[tuple[Path, int]]:
        wanted = np.array(sorted(pair_ids), dtype="S")
        at = np.searchsorted(self.pair_ids, wanted)
        known = at < len(self.pair_ids)
        found = at[known][self.pair_ids[at[known]] == wanted[known]]
        return [self.groups[place] for place in np.unique(self.places[found])]


@lru_cache(maxsize=1)
def _index(base: Run) -> _Index:
    try:
        files = base.fetch_files("attributions")
    except sql.LakeError as error:
        raise StoreError(f"run {base.run_id}: {error}; or start a run that is not incremental") from error
    groups, ids = [], [np.array([], dtype="S25")]
    for path in files:
        with _opened(path) as file:
            for number in range(file.num_row_groups):
                groups.append((path, number))
                column = file.read_row_group(number, columns=["pair_id"])["pair_id"]
                ids.append(np.array(column.to_pylist(), dtype="S25"))
    places = np.repeat(np.arange(len(groups), dtype=np.int32), [len(of_group) for of_group in ids[1:]])
    pair_ids = np.concatenate(ids)
    order = np.argsort(pair_ids, kind="stable")
    return _Index(tuple(groups), pair_ids[order], places[order])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A file whose pages' checksums are verified. Raises StoreError if it is gone or damaged."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read any more ({error}); start a run that is not incremental") from error


def find_reusable_rows(run: Run, pairs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Attributions that the run which this one builds upon has of these pairs, by pair; empty if there is none."""
    base = run.read_manifest().get("base_run")
    if not base:
        return {}
    captions = {pair["pair_id"]: pair["caption"] for pair in pairs}
    wanted = pa.array(list(captions), pa.string())
    found = {}
    for path, number in _index(Run(run.lake, base)).groups_of(captions):
        with _opened(path) as file:
            group = file.read_row_group(number)
        for row in group.filter(pc.is_in(group["pair_id"], wanted)).to_pylist():
            if row["caption"] == captions[row["pair_id"]]:
                found[row["pair_id"]] = row | {"attributed_by": row["attributed_by"] or base}
    return found
