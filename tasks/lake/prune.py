"""Prune old runs: delete their files and keep their manifests, unless something still refers to them.

The manifest of a pruned run has status `pruned`, the time and reason, and lists no files, so readers find no rows.
The earlier manifest, with the digest of each file, stays in the same folder. The manifest is written before the
files are deleted: if the process is killed in between, the remaining files are invisible and the next pruning deletes
them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sql
import stores
from stores import Root
from stores.keys import SigningKey
from tasks.errors import ResumeError
from tasks.lake.lock import LOCK_NAME, lock_run
from tasks.lake.run import Run

REFERENCES = {
    "base_run": "builds upon it",
    "calibration_run": "uses its feature statistics",
    "reflags": "uses its attributions",
}
"""Keys of a manifest that name another run, and how the manifest's run depends on it."""


@dataclass(frozen=True)
class RetentionPolicy:
    """Limits that decide which runs may be pruned. If both are given, a run must exceed both; None is no limit."""

    older_than: timedelta | None = None  # time since the run ended
    keep: int | None = None  # number of the newest complete runs of each audit (same corpus and model)

    def __str__(self) -> str:
        """Return the policy as command-line options, such as `--keep 30`."""
        age = [] if self.older_than is None else [f"--older-than {self.older_than.total_seconds() / 86400:g}d"]
        return " ".join(age + ([] if self.keep is None else [f"--keep {self.keep}"]))


@dataclass(frozen=True)
class PruneItem:
    """A run in a pruning plan: whether to prune it, and the reason.

    `ended` is the start time if the run has not ended. `files` and `bytes` count what is deleted; None if it is kept.
    """

    run_id: str
    audit: str
    status: str
    ended: str
    pruned: bool
    why: str
    files: int | None = None
    bytes: int | None = None


def plan_pruning(lake: Root, policy: RetentionPolicy, now: datetime | None = None) -> list[PruneItem]:
    """Decide which runs to prune, without changing the lake.

    These runs are kept: the newest complete run of each audit, runs that the policy keeps, runs that `_find_references`
    returns, and runs that one of these names in `REFERENCES`. What only these last ones name is not kept, because a
    complete run has copies of everything it needs. First in the plan are runs that were pruned before but still have
    files, last those that are damaged, which are kept, and count as if they did not exist.
    """
    now = now or datetime.now(UTC)
    with sql.connect(lake) as connection:
        damage = sql.list_damage(connection)
        records = sql.read_manifests(lake, damage=damage)
        return _plan(lake, records, damage, connection, policy, now)


def _plan(
    lake: Root,
    records: Sequence[Mapping[str, Any]],
    damage: Mapping[str, str],
    connection: sql.Connection,
    policy: RetentionPolicy,
    now: datetime,
) -> list[PruneItem]:
    present = [record for record in records if record["status"] != sql.PRUNED]
    audits = sql.audit_ids(records)
    complete: dict[str, list[Mapping[str, Any]]] = defaultdict(list)  # of each audit, newest first
    for record in reversed([each for each in present if sql.is_complete(each) and sql.is_trusted(each)]):
        complete[audits[record["run_id"]]].append(record)
    references = _find_references(connection, complete.values())
    order = {record["run_id"]: number for number, record in enumerate(records)}
    reasons: dict[str, str] = {}
    bases: dict[str, str] = {}
    for record in present:
        run_id = record["run_id"]
        audit_runs = [run["run_id"] for run in complete[audits[run_id]]]
        has_later = bool(audit_runs) and order[audit_runs[0]] > order[run_id]
        if reason := _reason_to_keep(record, audit_runs, has_later, policy, now) or references.get(run_id):
            reasons[run_id] = reason
            bases |= {record[key]: f"run {run_id} {use}" for key, use in REFERENCES.items() if record.get(key)}
    reasons = bases | reasons
    plan = [_plan_item(lake, record, None, "left over") for record in records if record["status"] == sql.PRUNED]
    plan = [item for item in plan if item.files]
    plan += [_plan_item(lake, record, reasons.get(record["run_id"]), str(policy)) for record in present]
    return plan + [PruneItem(run_id, "", "damaged", "", pruned=False, why=why) for run_id, why in damage.items()]


def _find_references(connection: sql.Connection, complete: Iterable[Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Return the ids of runs that people may still need, with the reasons, from the queries in `sql/retention`."""
    newest = []
    for runs in complete:
        with_history = [run for run in runs if any(file["table"] == "lives" for file in run["files"])]
        newest.append((with_history or runs)[0]["run_id"])
    references = dict.fromkeys(newest, "the newest run of its audit that has an alert history")
    for name in sql.query_names("retention"):
        rows = sql.read(connection, sql.query_text(f"retention/{name}"), {"newest": newest})
        references |= {row["run_id"]: row["why"] for row in rows}
    return references


def prune_run(lake: Root, item: PruneItem, signer: SigningKey | None = None) -> str | None:
    """Prune a run of the plan; return None, or the reason why the run must be kept after all."""
    run = Run(lake, item.run_id)
    try:
        with lock_run(run):
            if (status := run.read_manifest()["status"]) != item.status:
                return f"its status is now {status}"
            if status != sql.PRUNED:
                sizes = _list_sizes(run)
                pruned = {"status": status, "files": len(sizes), "bytes": sum(sizes.values())}
                facts: dict[str, Any] = {
                    "status": sql.PRUNED,
                    "reason": f"pruned by {item.why}; was {status}",
                    "pruned": pruned,
                }
                run.rewrite(sql.PRUNED, item.why, signer, files=[], **facts)
            stores.remove(run.folder, _list_sizes(run))
    except ResumeError as error:  # another process works on it
        return str(error)
    return None


def _end_of(record: Mapping[str, Any]) -> str:
    return str(record["finished_at"] or record["started_at"])


def _reason_to_keep(
    record: Mapping[str, Any], complete: Sequence[str], has_later: bool, policy: RetentionPolicy, now: datetime
) -> str | None:
    """Return why a run is kept even if no other run refers to it; None if it may be pruned."""
    if not record["recorded"]:
        return "the ledger lacks its record; verify it" if record["recorded"] is False else "adopt the lake once first"
    if record["run_id"] in complete[:1]:
        return "the newest complete run of its audit"
    if policy.older_than is not None and now - datetime.fromisoformat(_end_of(record)) < policy.older_than:
        return "not old enough"
    if policy.keep is not None:
        if record["run_id"] in complete[: policy.keep]:
            return f"one of the {policy.keep} newest complete runs of its audit"
        if not sql.is_complete(record) and not has_later:
            return "no later run of its audit is complete"
    return None


def _plan_item(lake: Root, record: Mapping[str, Any], reason_to_keep: str | None, reason_to_prune: str) -> PruneItem:
    facts = record["run_id"], f"{record['corpus']} with {record['model']}", record["status"], _end_of(record)
    if reason_to_keep is not None:
        return PruneItem(*facts, pruned=False, why=reason_to_keep)
    sizes = _list_sizes(Run(lake, record["run_id"]))
    return PruneItem(*facts, pruned=True, why=reason_to_prune, files=len(sizes), bytes=sum(sizes.values()))


def _list_sizes(run: Run) -> dict[str, int]:
    """Return the size in bytes of each file of a run, by name, without its manifests and its lock."""
    return {
        name: size
        for name, size in stores.list_sizes(run.folder).items()
        if name != LOCK_NAME and not (name.startswith("manifest") and name.endswith(".json"))
    }
