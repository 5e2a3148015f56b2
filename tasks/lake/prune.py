"""Old runs -> their manifests alone. What something still refers to is kept, whatever its age.

A pruned run leaves a tombstone: its manifest, with status `pruned`, when and why, and no files listed, so that every
reader finds a run without rows; beside it the manifest before, with each file's digest. First that is written, then
the files are deleted: cut off in between, what is left is invisible, and the next pruning removes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sql
import stores
from stores import Root
from stores.ledger import Signer
from tasks.errors import ResumeError
from tasks.lake.run import Run
from tasks.lake.lock import NAME as LOCK
from tasks.lake.lock import lock_run

_BUILT_ON = {
    "base_run": "builds upon it",
    "calibration_run": "has its feature statistics",
    "reflags": "has its attributions",
}


@dataclass(frozen=True)
class RetentionPolicy:
    """What may go: runs that ended longer ago than this, and those beyond so many complete runs of their audit.

    None: no matter. Where both are given a run must be both. An audit: same corpus and model by their names.
    """

    older_than: timedelta | None = None
    keep: int | None = None

    def __str__(self) -> str:
        """As on the command line."""
        age = [] if self.older_than is None else [f"--older-than {self.older_than.total_seconds() / 86400:g}d"]
        return " ".join(age + ([] if self.keep is None else [f"--keep {self.keep}"]))


@dataclass(frozen=True)
class PruneItem:
    """What becomes of a run, and why. files, bytes: what lies in its folder, of runs that are pruned; else None."""

    run_id: str
    audit: str
    status: str
    ended: str
    pruned: bool
    why: str
    files: int | None = None
    bytes: int | None = None


def _audit(record: Mapping[str, Any]) -> tuple[Any, Any]:
    return record.get("corpus"), record.get("model")


def _ended(record: Mapping[str, Any]) -> str:
    return str(record["finished_at"] or record["started_at"])


def _newest(records: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, Any], list[Mapping[str, Any]]]:
    """The complete runs of each audit, newest first."""
    found: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for record in reversed(records):
        if sql.is_complete(record):
            found.setdefault(_audit(record), []).append(record)
    return found


def _told(complete: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of an audit's complete runs, newest first, the newest that knows its alerts' lives; else the newest."""
    return next((run for run in complete if any(e["table"] == "lives" for e in run["files"])), complete[0])


def _young(record: Mapping[str, Any], complete: Sequence[str], policy: RetentionPolicy, now: datetime) -> str | None:
    """Why the policy itself keeps a run; complete: the complete runs of its audit, newest first. None: it does not."""
    if complete and record["run_id"] == complete[0]:
        return "the newest complete run of its audit"
    if policy.older_than is not None and now - datetime.fromisoformat(_ended(record)) < policy.older_than:
        return "not old enough"
    if policy.keep is not None:
        if record["run_id"] in complete[: policy.keep]:
            return f"one of the {policy.keep} newest complete runs of its audit"
        if not sql.is_complete(record) and not (complete and complete[0] > record["run_id"]):
            return "no later run of its audit is complete"
    return None


def references(lake: Root, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Runs that people may still have to look at, by their id, and why: what the queries of `sql/kept` say.

    Raises LakeError if that cannot be found out.
    """
    told = [_told(complete) for complete in _newest(records).values()]
    found = {run["run_id"]: "the newest run that knows the lives of its audit's alerts" for run in told}
    with sql.connect(lake) as connection:
        for name in sql.query_names("kept"):
            given = {"newest": [run["run_id"] for run in told]} if "$newest" in sql.query_text(f"kept/{name}") else {}
            rows = sql.rows(connection, f"kept/{name}", **given)
            found |= {row["run_id"]: row["why"] for row in rows}
    return found


def plan_pruning(lake: Root, policy: RetentionPolicy, now: datetime | None = None) -> list[PruneItem]:
    """What a policy makes of each run, oldest first; nothing is changed.

    Besides what the policy keeps, the newest complete run of each audit is kept, what `references` says, and what any
    run that is kept for one of these reasons builds upon. What such a base in turn was built upon is not: a complete
    run has copies of all that it took over.

    Raises LakeError if the lake cannot be read in full: then nothing can be said of what refers to what.
    """
    now = now or datetime.now(UTC)
    everything = sql.read_manifests(lake)
    records = [record for record in everything if record["status"] != sql.PRUNED]
    complete = {audit: [run["run_id"] for run in runs] for audit, runs in _newest(records).items()}
    referred = references(lake, records)
    kept = {}
    for record in records:
        run_id = record["run_id"]
        why = _young(record, complete.get(_audit(record), []), policy, now) or referred.get(run_id)
        if why is not None:
            kept[run_id] = why
    built_on = {
        record[key]: f"run {record['run_id']} {said}"
        for record in records
        if record["run_id"] in kept
        for key, said in _BUILT_ON.items()
        if record.get(key)
    }
    kept = built_on | kept
    return [*_left_over(lake, everything), *(_fate(lake, record, kept, policy) for record in records)]


def _fate(lake: Root, record: Mapping[str, Any], kept: Mapping[str, str], policy: RetentionPolicy) -> PruneItem:
    run_id = record["run_id"]
    facts = (run_id, f"{record.get('corpus')} with {record.get('model')}", record["status"], _ended(record))
    if run_id in kept:
        return PruneItem(*facts, pruned=False, why=kept[run_id])
    found = _files(Run(lake, run_id))
    return PruneItem(*facts, pruned=True, why=str(policy), files=len(found), bytes=sum(found.values()))


def _left_over(lake: Root, records: Sequence[Mapping[str, Any]]) -> Iterator[PruneItem]:
    """Pruned runs of which files are left, as the process was killed that pruned them."""
    for record in records:
        if record["status"] == sql.PRUNED and (found := _files(Run(lake, record["run_id"]))):
            facts = (record["run_id"], f"{record.get('corpus')} with {record.get('model')}", sql.PRUNED, _ended(record))
            yield PruneItem(*facts, pruned=True, why="left over", files=len(found), bytes=sum(found.values()))


def _files(run: Run) -> dict[str, int]:
    """A run's files but for its manifests and its lock."""
    return {
        name: size
        for name, size in stores.list_sizes(run.folder).items()
        if name != LOCK and not (name.startswith("manifest") and name.endswith(".json"))
    }


def prune_run(lake: Root, fate: PruneItem, signer: Signer | None = None) -> str | None:
    """Do to a run what `plan` said; returns None, or why it is kept after all. signer: of the ledger's record.

    Raises LakeError or OSError if a file cannot be deleted; then do it again.
    """
    run = Run(lake, fate.run_id)
    try:
        with lock_run(run):
            if (status := run.read_manifest()["status"]) != fate.status:
                return f"its status is {status} by now"
            if status != sql.PRUNED:
                found = _files(run)
                why = f"pruned by {fate.why}; was {status}"
                run.rewrite(
                    sql.PRUNED,
                    fate.why,
                    signer,
                    status=sql.PRUNED,
                    reason=why,
                    files=[],
                    pruned={"status": status, "files": len(found), "bytes": sum(found.values())},
                )
            stores.remove(run.folder, _files(run))
    except ResumeError as error:  # somebody works on it
        return str(error)
    return None
