"""What the ledger knows about each run: the order of runs, and whether a manifest is the one that was recorded.

A run must be in the ledger, whatever its manifest says. It is *recorded* if its last record has the sha256 of its
manifest, or if it is running and the ledger has its begin. A run that is not recorded was added or changed by somebody
else, or its process was killed before it could record the end.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from stores.commands import format_command
from stores.ledger import LedgerError, Record, log, read_records
from stores.urls import Root

KINDS = ("begun", "run", "rewrite")
"""Kinds of records that say something about the manifest of a run."""


@dataclass
class RunRecords:
    """Records about the manifest of one run: the first one, and those of its ends and rewrites."""

    first: Record
    ends: list[Record] = field(default_factory=list)

    def explain(self, status: str, sha256: str) -> str | None:
        """Return why a manifest with this status and sha256 counts as recorded; None if it does not."""
        if not self.ends:
            return "is running, or its process was killed" if status == "running" else None
        last = self.ends[-1]
        if sha256 == last.body.get("manifest_sha256"):
            return f"is as recorded (record {last.number})"
        if last.kind == "rewrite" and sha256 == last.body.get("before_sha256"):
            what = last.body.get("what")
            return f"record {last.number} says that the run was {what}, which was not completed: repeat the command"
        ended = str(last.body.get("status"))
        if status == "running" and last.kind == "run" and not ended.startswith("completed"):
            return f"ended as {ended} (record {last.number}) and is being resumed"
        return None


@dataclass(frozen=True)
class RecordedRuns:
    """The runs that a ledger knows, by run id; none if it `is_damaged`."""

    runs: Mapping[str, RunRecords]
    is_damaged: bool = False

    def is_recorded(self, run_id: str, status: str, sha256: str) -> bool | None:
        """Return whether a run whose manifest has this status and sha256 is recorded; None if no run is.

        A ledger that knows no run was not written by this release: the lake must be adopted once.
        """
        if not self.runs and not self.is_damaged:
            return None
        return run_id in self.runs and self.runs[run_id].explain(status, sha256) is not None

    def sort(self, run_ids: Iterable[str]) -> list[str]:
        """Sort runs from oldest to newest, by their first record.

        Runs that were adopted come first, by id: their records say nothing about when they began. Runs without a record
        come last, by id.
        """
        return sorted(run_ids, key=self._place)

    def _place(self, run_id: str) -> tuple[int, int, str]:
        if run_id not in self.runs:
            return 2, 0, run_id
        first = self.runs[run_id].first
        return (0, 0, run_id) if first.body.get("late") else (1, first.number, run_id)


def read_recorded(lake: Root) -> RecordedRuns:
    """Return the runs that the ledger of a lake knows. With a damaged ledger no run counts as recorded; it is logged.

    Raises LakeError if the store does not answer.
    """
    try:
        return list_recorded(read_records(lake))
    except (LedgerError, OSError) as error:
        log.warning("no run counts as recorded: %s", error)
        return RecordedRuns({}, is_damaged=True)


def list_recorded(records: Iterable[Record]) -> RecordedRuns:
    """Return the runs that the records of a ledger are about."""
    runs: dict[str, RunRecords] = {}
    for record in records:
        run_id = record.body.get("run_id")
        if record.kind not in KINDS or not isinstance(run_id, str):
            continue
        known = runs.setdefault(run_id, RunRecords(record))
        if record.kind != "begun":
            known.ends.append(record)
    return RecordedRuns(runs)


def describe_unrecorded(lake: Root, run_id: str, is_recorded: bool | None = False) -> str:
    """Describe a run that is not recorded, with the next step. The run is the subject of the sentence.

    Args:
        lake: Folder or URL of the lake.
        run_id: Id of the run.
        is_recorded: The answer of `RecordedRuns.is_recorded`: None if the ledger knows no run.
    """
    if is_recorded is None:
        adopt = format_command(lake, "adopt", "all")
        return (
            "is in a lake whose ledger knows no run: an earlier release wrote the lake, or its records were removed; "
            f"run once: {adopt}"
        )
    commands = format_command(lake, "verify", run_id), format_command(lake, "adopt", run_id)
    return (
        f"is not in the ledger as it is stored, so nothing builds on it; check it with: {commands[0]}; if it has no "
        f"record but can be trusted, record it with: {commands[1]}"
    )
