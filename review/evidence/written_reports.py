"""Find the record of a report that somebody has a copy of, and what has changed since it was written."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import sql
import stores
from review.evidence.decisions import find_decision
from review.evidence.verify_result import VerifyError
from stores import Root, ledger
from stores.ledger import Record
from stores.run_records import list_recorded


@dataclass(frozen=True)
class WrittenReport:
    """A report with a record in the ledger, and the changes since it was written.

    `later_records` are later decisions, signatures and rewrites that concern the run of the report. `expired_waivers`
    are the records of waivers that were in force when the report was written and have expired.
    """

    record: Record
    later_records: list[Record]
    expired_waivers: list[Record]


def find_written_report(lake: Root, data: bytes) -> WrittenReport:
    """Find the ledger's record of a report by the sha256 of the report. Raises VerifyError if there is none."""
    records = ledger.read_records(lake)
    digest = ledger.sha256(data)
    record = next((each for each in ledger.select_kinds(records, "report") if each.body.get("sha256") == digest), None)
    if record is None:
        raise VerifyError(
            f"report: got a file with sha256 {digest}, expected a report that the ledger of {lake} lists. The file was "
            "changed, or comes from another lake. Write the report of the run again with: "
            + stores.format_command(lake, "report", "RUN_ID")
        )
    run_id = record.body["run_id"]
    life_ids = _list_life_ids(lake, run_id, records)
    numbers: set[int] = set()
    reviewed = {each.body["run_id"] for each in ledger.select_kinds(records, "review")}
    runs = list_recorded(records).sort({run_id, *reviewed})
    earlier = {*runs[: runs.index(run_id) + 1]}
    for each in records:
        is_review = each.kind == "review" and each.body["life_id"] in life_ids and each.body["run_id"] in earlier
        is_about_run = each.kind in ("sign_off", "rewrite") and each.body.get("run_id") == run_id
        if is_review or is_about_run or (each.kind == "countersign" and each.body.get("record") in numbers):
            numbers.add(each.number)
    later = [each for each in records[record.number :] if each.number in numbers]
    decisions = [find_decision(records[: record.number], life_id, run_id) for life_id in sorted(life_ids)]
    written_on, today = record.time.date(), datetime.now(UTC).date()
    expired = [
        each
        for each in decisions
        if each is not None and (until := each.body.get("until")) and written_on <= date.fromisoformat(until) < today
    ]
    return WrittenReport(record, later, expired)


def _list_life_ids(lake: Root, run_id: str, records: Sequence[Record]) -> set[str]:
    """Return the `life_id` of each alert of a run; if the run cannot be read, only of those that were reviewed."""
    reviews = ledger.select_kinds(records, "review")
    reviewed = {each.body["life_id"] for each in reviews if each.body.get("run_id") == run_id}
    try:
        with sql.connect(lake, run_id) as connection:
            rows = sql.rows(connection, "review/alert_history_of_run", run_id=run_id, alert_id=None)
            return reviewed | {row["life_id"] for row in rows}
    except sql.LakeError:
        return reviewed
