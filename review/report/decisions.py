"""Parts of the report on decisions: the chapter of all decisions and signatures, and the decision about one alert."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import sql
from review.presentation.formatting import format_alert, format_decision, format_label, isolate_text
from review.presentation.numbers import NO_VALUE, format_count, format_time
from review.report.blocks import TEXTS, Block, Column, Details, Fact, Facts, Item, Items, Paragraph, build_table
from review.report.facts import AlertFacts, RunFacts


def summarize_decisions(facts: RunFacts) -> str:
    """Format the number of decided alerts as a phrase."""
    total, undecided = len(facts.alerts), len(_list_undecided(facts))
    if not total:
        return "no alert to decide"
    if not undecided:
        return "all independent alerts are decided"
    return f"{total - undecided} of {format_count(total, 'independent alert')} decided"


def summarize_sign_offs(facts: RunFacts) -> str:
    """Format the sign-offs of the run as a phrase that names the signers."""
    signed = (
        f"{isolate_text(row['reviewer'])} ({row['meaning']}), {format_time(row['signed_at'])}"
        for row in facts.sign_offs
    )
    pending = sum(bool(row["four_eyes"]) and row["number"] not in facts.countersigns for row in facts.sign_offs)
    text = "; ".join(signed) or "none"
    return f"{text}; {pending} awaiting a second signature" if pending else text


def build_decisions(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter of all decisions and signatures."""
    record = "which is empty" if facts.last_record is None else f"as of record {facts.last_record.number}"
    yield Paragraph(TEXTS["decisions"]["introduction"].format(record=record))
    if facts.unreadable_runs:
        yield Paragraph(TEXTS["decisions"]["unreadable"].format(reason=facts.unreadable_runs))
    if any(row["decided"] == "waived" for row in facts.decisions.values()):
        yield Paragraph(f"Waivers are evaluated for {datetime.now(UTC):%Y-%m-%d} (UTC); they may expire later.")
    yield from _build_undecided(facts)
    if facts.alerts:
        yield Paragraph("Decisions", "heading")
        yield build_table(
            [
                Column("Alert", "alert"),
                Column("Decision", "decision", width=2),
                Column("Reviewer", "reviewer", "name", 3),
                Column("Date and time", "time", width=3),
                Column("Record", "record", "number"),
            ],
            [_format_decision_row(facts, number, alert) for number, alert in enumerate(facts.alerts, start=1)],
            "Details are in the chapter of each alert",
        )
    yield Paragraph("Sign-offs of the run", "heading")
    if not facts.sign_offs:
        yield Paragraph("Nobody has signed this run off.")
    for row in facts.sign_offs:
        yield _build_sign_off(facts, row)
    if facts.sign_offs:
        yield Paragraph(TEXTS["decisions"]["signatures"], "note")
    if facts.superseded_reviews:
        columns = [
            Column("Record", "number", "number"),
            Column("Alert", "alert_id", "code", 2),
            Column("Decision", lambda row: format_decision(row["decision"], row["until"]), width=2),
            Column("Reviewer", lambda row: f"{row['reviewer']}, {row['role']}", "name", 3),
            Column("Date and time", lambda row: format_time(row["signed_at"]), width=3),
            Column("Reason", "reason", "name", 5),
        ]
        yield Details(
            f"{format_count(len(facts.superseded_reviews), 'earlier decision')}, no longer in force",
            [build_table(columns, facts.superseded_reviews)],
        )


def build_decision(facts: RunFacts, alert: AlertFacts) -> Iterator[Block]:
    """Yield blocks with the reviewers' decision about an alert."""
    row = facts.decisions.get(alert.row["alert_id"])
    yield Paragraph("Decision", "heading")
    if row is None:
        yield Paragraph("Nobody has decided about this alert.")
        return
    decision = format_decision(row["decision"], row["until"], describe=row["decision"] == row["decided"])
    if row["changed"]:
        decision = f"open again, because the evidence has changed: {isolate_text(row['why'])}"
    elif row["why"]:
        decision = f"{format_decision(row['decision'])}: {isolate_text(row['why'])}"
    recorded = format_decision(row["decided"], row["until"], describe=True)
    source = row["reviewed_run"]
    if row["carried_over"] and not row["changed"]:
        source += "; carried over to this run, because the evidence has not changed materially"
    rows = [
        Fact("Decision", decision),
        *([Fact("Recorded decision", recorded)] if row["decision"] != row["decided"] else []),
        Fact("Reason", isolate_text(row["reason"])),
        *_build_signer(row, row["decided_at"]),
        *_build_second_signature(facts, row["review"], bool(row["second_needed"])),
        Fact("Reviewed run", source),
        Fact("Record", f"{row['review']} of the ledger"),
    ]
    yield Facts(rows)


def _list_undecided(facts: RunFacts) -> list[Item]:
    """Return an item for each independent alert without a final decision, with the reason."""
    return [
        Item(f"Alert {number}: {format_alert(alert.row)}", f": {reason}.", f"alert-{number}")
        for number, alert in enumerate(facts.alerts, start=1)
        if (reason := _explain_undecided(facts.decisions.get(alert.row["alert_id"]))) is not None
    ]


def _explain_undecided(row: Mapping[str, Any] | None) -> str | None:
    if row is None:
        return "no decision yet"
    if row["decision"] in ("confirmed", "benign", "waived"):
        return None
    if row["decision"] == "needs_data":
        return f"{isolate_text(row['reviewer'])} requested more data"
    if row["decided"] == "open":
        return f"{isolate_text(row['reviewer'])} reopened it"
    return isolate_text(row["why"] or "it is open again")


def _build_undecided(facts: RunFacts) -> Iterator[Block]:
    yield Paragraph("Undecided alerts", "heading")
    if undecided := _list_undecided(facts):
        yield Items(undecided)
    elif facts.alerts:
        yield Paragraph("None: every independent alert is decided.")
    elif facts.manifest["status"] in sql.COMPLETE:
        yield Paragraph("None: the run raised no alert.")
    else:
        yield Paragraph("None: the run did not complete, so it raised no alert.")


def _format_decision_row(facts: RunFacts, number: int, alert: AlertFacts) -> dict[str, str]:
    row = facts.decisions.get(alert.row["alert_id"])
    if row is None:
        return {
            "alert": str(number),
            "decision": format_decision("open"),
            "reviewer": NO_VALUE,
            "time": NO_VALUE,
            "record": NO_VALUE,
        }
    carried_over = ", carried over" if row["carried_over"] and row["decision"] != "open" else ""
    return {
        "alert": str(number),
        "decision": format_decision(row["decision"], row["until"]) + carried_over,
        "reviewer": f"{row['reviewer']}, {row['role']}",
        "time": format_time(row["decided_at"]),
        "record": str(row["review"]),
    }


def _build_signer(row: Mapping[str, Any], time: datetime) -> list[Fact]:
    return [
        Fact("Printed name", isolate_text(row["reviewer"])),
        Fact("Role", isolate_text(row["role"])),
        Fact("Date and time", format_time(time)),
        Fact("Meaning", format_label(row["meaning"])),
        Fact("Identity", format_label(row["identity"])),
    ]


def _build_second_signature(facts: RunFacts, number: int, is_required: bool) -> list[Fact]:
    second = facts.countersigns.get(number)
    if second is None:
        return (
            [Fact("Second signature", "required, but missing: not in force until a second person has countersigned")]
            if is_required
            else []
        )
    parts = [
        f"{isolate_text(second['reviewer'])}, {isolate_text(second['role'])}",
        *(format_label(second["meaning"]), format_time(second["signed_at"]), format_label(second["identity"])),
        f"record {second['number']}" + (f": “{isolate_text(second['statement'])}”" if second["statement"] else ""),
    ]
    return [Fact("Second signature", "; ".join(parts))]


def _build_sign_off(facts: RunFacts, row: Mapping[str, Any]) -> Facts:
    opened, pending, decided = (format_count(row[key] or 0) for key in ("open", "pending", "decided"))
    key = f"signed with key {row['key_id']}" if row["key_id"] else "not signed with a key"
    manifest = "an earlier manifest of the run; its files were rewritten since then"
    if row["manifest_sha256"] == facts.manifest_sha256:
        manifest = "the current manifest of the run"
    return Facts(
        [
            *_build_signer(row, row["signed_at"]),
            Fact("Statement", isolate_text(row["statement"])),
            Fact("Alerts when signed", f"{opened} open, {pending} awaiting a second signature, {decided} decided"),
            *_build_second_signature(facts, row["number"], bool(row["four_eyes"])),
            Fact("Record", f"{row['number']} of the ledger, {key}", f"sha256 {row['sha256']}"),
            Fact("Signed manifest", manifest, f"sha256 {row['manifest_sha256']}"),
        ]
    )
