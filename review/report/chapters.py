# ruff: noqa: E501
"""What a report says, chapter by chapter: from the facts of a run to sentences, figures and tables.

Page and PDF draw the same chapters; nothing is said in one that is not said in the other.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sql
from review.presentation import formatting
from review.presentation.formatting import (
    NO_VALUE,
    format_count,
    format_percent,
    format_score,
    format_time,
    isolate_text,
)
from review.presentation.pairs import ShownPair
from review.report.blocks import (
    Card,
    Chapter,
    Code,
    Column,
    Document,
    Fact,
    Facts,
    Figure,
    Figures,
    Folded,
    Heading,
    Lines,
    Mark,
    Mean,
    Means,
    Metric,
    Part,
    Point,
    Points,
    Say,
    Scale,
    Table,
    Terms,
)
from review.report.facts import Facts as Gathered
from review.report.facts import ShownAlert
from review.report.requirements import ASKED

_FILLS = {
    "mean": "mean of its surroundings",
    "blur": "blur of its surroundings",
    "swap": "another pair’s region",
    "remove": "the phrase in captions that lack it",
    "replace": "common words in its place",
}
_TITLES = {
    "scope": "What was audited",
    "alerts": "Alerts",
    "decisions": "Decisions and signatures",
    "lives": "What became of earlier alerts",
    "followers": "Alerts that follow from others",
    "ordinary": "Ordinary pairs, for comparison",
    "weighed": "What was weighed",
    "self-audit": "What this audit could have found",
    "gates": "Gates and error rows",
    "limits": "How to read this report, and its limits",
    "fixed": "Fixed before the run",
    "mapping": "What laws and frameworks ask",
    "provenance": "Provenance",
    "signature": "Signature by hand",
}
_DECISIONS = {
    "open": "open",
    "confirmed": "confirmed: the model should not rely on this",
    "benign": "benign",
    "needs_data": "needs more data",
    "waived": "waived",
    "pending": "pending",
}
_MEANINGS = {
    "review": "review (has looked at the evidence)",
    "approval": "approval (approves of what is decided here)",
    "responsibility": "responsibility (answers for it)",
    "authorship": "authorship (wrote it)",
}
_IDENTITIES = {
    "declared": "declared: name and role as typed in, on the machine that holds the lake; not checked",
    "password": "password: signed in by the lake’s users file",
    "proxy": "proxy: as the sign-on in front of the review page said",
}


def document(told: Gathered) -> Document:
    """The report of a run."""
    manifest = told.manifest
    dated = told.dated
    chapters = [
        Chapter("decisions", _TITLES["decisions"], list(_decisions(told))),
        Chapter("scope", _TITLES["scope"], list(_scope(told))),
        *(
            Chapter(
                f"alert-{number}", f"Alert {number}: {formatting.format_alert(alert.row)}", list(_alert(told, alert))
            )
            for number, alert in enumerate(told.alerts, start=1)
        ),
    ]
    optional = (("followers", _orphans), ("lives", _lives), ("ordinary", _ordinary))
    chapters += [Chapter(key, _TITLES[key], parts) for key, made in optional if (parts := list(made(told)))]
    always = (
        ("weighed", _weighed),
        ("self-audit", _self_audit),
        ("gates", _gates),
        ("limits", _limits),
        ("fixed", _fixed),
        ("mapping", _mapping),
        ("provenance", _provenance),
    )
    chapters += [Chapter(key, _TITLES[key], list(made(told))) for key, made in always]
    chapters.append(Chapter("signature", _TITLES["signature"], list(_by_hand(told))))
    return Document(
        run_id=manifest["run_id"],
        dated=dated,
        over=f"Audit report · {manifest['model']} · run {manifest['run_id']} · {format_time(_ended(manifest))}",
        title=told.verdict,
        head=list(_head(told)),
        chapters=chapters,
        foot=f"run {manifest['run_id']} · manifest sha256 {told.manifest_sha256[:16]}",
        scale=told.scale,
        text_top=formatting.format_bits(told.album.text_top),
    )


def _ended(manifest: Mapping[str, Any]) -> str:
    ended: str = manifest["finished_at"] or manifest["started_at"]
    return ended


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


# The head


def _head(told: Gathered) -> Iterator[Part]:
    manifest, alerts = told.manifest, told.alerts
    if told.doubt:
        yield Say(told.doubt, "state", strong=True)
    yield Say(_lead(told), "lead")
    if len(alerts) > 1:
        yield Points(
            [
                Point(
                    _upper(formatting.format_alert(alert.row)),
                    f", {alert.row['state']}: {formatting.format_effect(alert.row)}",
                    f"alert-{number}",
                )
                for number, alert in enumerate(alerts, start=1)
            ],
            numbered=True,
        )
    reason = f"{', with a warning' if manifest['status'] == 'completed' else ''}: {manifest['reason']}"
    rest = len(told.orphans) + sum(len(alert.follow) for alert in alerts)
    yield Facts(
        [
            Fact("Status", manifest["status"].replace("_", " ") + (reason if manifest["reason"] else "")),
            Fact("Decided", _decided_in_short(told)),
            Fact("Signed off", _signed_in_short(told)),
            Fact("Model", manifest["model"], f"sha256 {(manifest['model_digest'] or NO_VALUE)[:12]}"),
            Fact("Corpus", manifest["corpus"], f"sha256 {(manifest['corpus_digest'] or NO_VALUE)[:12]}"),
            Fact("Audited", _audited(told)),
            Fact("Error rows", _errors_in_short(told)),
            Fact("Alerts", f"{len(alerts)} on their own" + (f", {rest} that follow from these" if rest else "")),
            Fact("Time", f"{format_time(manifest['started_at'])} to {format_time(manifest['finished_at'])}"),
            Fact("As of", _as_of(told)),
        ]
    )


def _lead(told: Gathered) -> str:
    status = told.manifest["status"]
    if told.alerts:
        return _first_alert(told.alerts[0].row)
    if status in sql.COMPLETE:
        factor = told.rules.get("factor", "the threshold’s number of")
        pairs = told.rules.get("min_pairs", "the threshold’s number of")
        return (
            f"No region held {factor} times its share of the attribution in any slice of at least {pairs} pairs. That"
            " is not a proof that the model looks where it should; see the limits."
        )
    if status == "stopped":
        return (
            "What the run stored did not pass a critical check, so no region was weighed and no alert could be raised. "
            "Nothing follows from the absence of alerts here."
        )
    return (
        "The run did not reach its end. What follows is what it has stored; nothing follows from the absence of alerts "
        "here."
    )


def _first_alert(row: Mapping[str, Any]) -> str:
    on_text = row["side"] == "text"
    said = "“Concentrates on” means: "
    if row["state"] == "confirmed":
        done = (
            f"leaving it out lowers the score of the captions by {format_score(row['score_effect'])} more than its controls "
            "explain"
            if on_text
            else (
                f"covering it lowers the score of the pairs by {format_score(row['score_effect'])} more than covering equal "
                "regions elsewhere does"
            )
        )
        said = (
            f"“Relies on” means: {done}, which is {format_percent(_part(row))} of their margin over other "
            f"{'images' if on_text else 'captions'}. It was found because "
        )
        if row["rule"] == "region_cost":
            said += f"covering it took {format_percent(row['effect'])} of their margin at first sight; "
    falls = (
        f"caption falls on this {format_percent(row['area'])} of its words"
        if on_text
        else f"image falls on this {format_percent(row['area'])} of what the model sees"
    )
    said += f"{format_percent(row['share'])} of the attribution of the {falls}, on average over {format_count(row['n'], 'pair')}."
    if row["rest_share"] is not None:
        said += f" Over all other pairs it is {format_percent(row['rest_share'])}."
    end = (
        "Whether it is harmless is for a person to say"
        if row["state"] == "confirmed"
        else "This is a suspicion to follow up, not a proof"
    )
    return f"{said} {end}; see the limits."


def _part(row: Mapping[str, Any]) -> float | None:
    """The score effect in parts of the margin."""
    return row["score_effect"] / row["margin"] if row["margin"] and row["score_effect"] is not None else None


def _audited(told: Gathered) -> str:
    counts, corpus = told.manifest["counts"], told.config.get("corpus", {})
    if counts.get("not_sampled"):
        said = (
            f"{format_count(counts['corpus_rows'] - counts['not_sampled'])} of {format_count(counts['corpus_rows'], 'row')}, drawn by"
            " hash"
        )
        if corpus.get("stratify"):
            said += f" in equal parts of each {corpus['stratify']}"
    else:
        said = f"{format_count(counts['corpus_rows'], 'row')} of the corpus"
    said += (
        f", {format_count(counts['pairs'], 'pair')} readable, {format_count(counts['attributions'], 'pair')} attributed"
    )
    if counts.get("reused"):
        said += f", {format_count(counts['reused'])} of them by earlier runs"
    if told.captions_cut:
        said += f"; {format_count(told.captions_cut, 'caption')} longer than the model’s context, which it saw the beginning of"
    return said


def _errors_in_short(told: Gathered) -> str:
    if not told.errors:
        return "none"
    reasons = ", ".join(f"{error['reason']} {format_count(error['n'])}" for error in told.errors)
    return f"{format_count(sum(error['n'] for error in told.errors))}: {reasons}"


def _as_of(told: Gathered) -> str:
    if told.ledger is None:
        return f"{format_time(_ended(told.manifest))}, the end of the run; the lake’s ledger had no record then"
    return (
        f"record {told.ledger.number} of the lake’s ledger, {format_time(told.ledger.at)}; what was decided or signed later"
        " is not in here"
    )


# Decisions and signatures


def _decided_in_short(told: Gathered) -> str:
    if not told.alerts:
        return "nothing to decide: no alert"
    left = _undecided(told)
    if not left:
        return "every alert that stands on its own"
    return (
        f"{len(told.alerts) - len(left)} of {format_count(len(told.alerts), 'alert')} that stand on their own; see what is"
        " open"
    )


def _signed_in_short(told: Gathered) -> str:
    held = [
        f"{isolate_text(row['reviewer'])} ({row['meaning']}), {format_time(row['signed_at'])}" for row in told.sign_offs
    ]
    waiting = sum(_waits(told, row) for row in told.sign_offs)
    said = "; ".join(held) or "by nobody"
    return f"{said}; {waiting} of these wait for a second person" if waiting else said


def _verdict_on(told: Gathered, alert_id: str) -> Mapping[str, Any] | None:
    """What people made of an alert; None where no version has followed it."""
    return told.triage.get(alert_id)


def _undecided(told: Gathered) -> list[tuple[int, ShownAlert, str]]:
    """Alerts that stand on their own and are not closed, by number, each with why."""
    found = []
    for number, alert in enumerate(told.alerts, start=1):
        row = _verdict_on(told, alert.row["alert_id"])
        decision = row["decision"] if row else "open"
        if decision in ("confirmed", "benign", "waived"):
            continue
        if row is None or row["decided"] is None:
            why = "nobody has decided"
        elif decision == "needs_data":
            why = f"{isolate_text(row['reviewer'])} asked for more data"
        elif row["decided"] == "open":
            why = f"{isolate_text(row['reviewer'])} opened it again"
        else:
            why = isolate_text(row["why"] or "it is open again")
        found.append((number, alert, why))
    return found


def _waivers(told: Gathered) -> Iterator[Part]:
    if any(row["decided"] == "waived" for row in told.triage.values()):
        yield Say(f"Waivers are held against {datetime.now(UTC):%Y-%m-%d} (UTC): on a later day they may have run out.")


def _decisions(told: Gathered) -> Iterator[Part]:
    yield Say(
        "An alert is what the machine found; what it means is for people to decide. Their decisions and signatures are "
        f"records of the lake’s ledger, {_seen_until(told)}. Nothing in the ledger is changed afterwards: whoever "
        "changes their mind adds a record."
    )
    if told.gap:
        yield Say(
            f"Other runs of this audit could not be read ({told.gap}): whether a decision that was taken upon one of"
            " them still holds is not known here."
        )
    yield from _waivers(told)
    yield Heading("What is still undecided")
    left = _undecided(told)
    if left:
        yield Points(
            [
                Point(f"Alert {number}: {_upper(formatting.format_alert(alert.row))}", f": {why}.", f"alert-{number}")
                for number, alert, why in left
            ]
        )
    elif told.alerts:
        yield Say("Nothing: every alert that stands on its own is decided.")
    elif sql.is_complete(told.manifest):
        yield Say("Nothing: the run raised no alert.")
    else:
        yield Say("The run raised no alert that could be decided, as it did not come to its end.")
    if told.alerts:
        yield Heading("Decisions")
        yield Table(
            [
                Column("Alert", wide=1),
                Column("Decision", wide=2),
                Column("By", "name", 3),
                Column("Date and time", wide=3),
                Column("Record", "number"),
            ],
            [_decision_row(told, number, alert) for number, alert in enumerate(told.alerts, start=1)],
            "Each in full at its alert",
        )
    yield Heading("Sign-offs of the run")
    if not told.sign_offs:
        yield Say("Nobody has signed this run off.")
    for row in told.sign_offs:
        yield _sign_off(told, row)
    if told.sign_offs:
        yield Say(
            "How a name is known is stated with each signature; a declared one is worth as much as the access to the "
            "machine. Times are those of the machine that wrote the record.",
            "note",
        )
    if told.superseded:
        yield Folded(
            f"{format_count(len(told.superseded), 'earlier decision')}, no longer in force",
            [
                Table(
                    [
                        Column("Record", "number"),
                        Column("Alert", "code", 2),
                        Column("Decision", wide=2),
                        Column("By", "name", 3),
                        Column("Date and time", wide=3),
                        Column("Reason", "name", 5),
                    ],
                    [
                        [
                            str(row["number"]),
                            row["alert_id"],
                            _DECISIONS.get(row["decision"], row["decision"]),
                            _person(row),
                            format_time(row["signed_at"]),
                            row["reason"],
                        ]
                        for row in told.superseded
                    ],
                )
            ],
        )


def _seen_until(told: Gathered) -> str:
    return "which has none yet" if told.ledger is None else f"shown here as of record {told.ledger.number}"


def _person(row: Mapping[str, Any]) -> str:
    return f"{row['reviewer']}, {row['role']}"


def _decision_row(told: Gathered, number: int, alert: ShownAlert) -> list[str]:
    row = _verdict_on(told, alert.row["alert_id"])
    if row is None or row["decided"] is None:
        return [str(number), "open", NO_VALUE, NO_VALUE, NO_VALUE]
    shown = _DECISIONS.get(row["decision"], row["decision"])
    if row["carried_over"] and row["decision"] != "open":
        shown += ", carried over"
    return [str(number), shown, _person(row), format_time(row["decided_at"]), str(row["review"])]


def _waits(told: Gathered, row: Mapping[str, Any]) -> bool:
    return bool(row["four_eyes"]) and row["number"] not in told.countersigned


def _second(told: Gathered, number: int, needed: bool) -> list[Fact]:
    second = told.countersigned.get(number)
    if second is None:
        return [Fact("Second person", "still needed: without one it does not hold")] if needed else []
    remark = f": “{isolate_text(second['statement'])}”" if second["statement"] else ""
    return [
        Fact(
            "Second person",
            f"{isolate_text(_person(second))}; {_MEANINGS.get(second['meaning'], second['meaning'])}; "
            f"{format_time(second['signed_at'])}; identity {second['identity']}; record {second['number']}{remark}",
        )
    ]


def _sign_off(told: Gathered, row: Mapping[str, Any]) -> Facts:
    then = (
        f"{format_count(row['open'] or 0)} open, {format_count(row['pending'] or 0)} waiting for a second person,"
        f" {format_count(row['decided'] or 0)} decided"
    )
    signed = f"signed by key {row['key_id']}" if row["key_id"] else "not signed by a key"
    same = row["manifest_sha256"] == told.manifest_sha256
    return Facts(
        [
            Fact("Printed name", isolate_text(row["reviewer"])),
            Fact("Role", isolate_text(row["role"])),
            Fact("Date and time", format_time(row["signed_at"])),
            Fact("Meaning", _MEANINGS.get(row["meaning"], row["meaning"])),
            Fact("Statement", isolate_text(row["statement"])),
            Fact("Alerts then", then),
            Fact("Identity", _IDENTITIES.get(row["identity"], row["identity"])),
            *_second(told, row["number"], bool(row["four_eyes"])),
            Fact("Record", f"{row['number']} of the ledger, {signed}", f"sha256 {row['sha256']}"),
            Fact(
                "What was signed",
                (
                    "the run’s manifest as it stands"
                    if same
                    else "the run’s manifest as it was then; its files were rewritten since"
                ),
                f"sha256 {row['manifest_sha256']}",
            ),
        ]
    )


def _human_verdict(told: Gathered, alert: ShownAlert) -> Iterator[Part]:
    row = _verdict_on(told, alert.row["alert_id"])
    yield Heading("What people decided")
    if row is None or row["decided"] is None:
        yield Say("Nobody has decided about this alert.")
        return
    facts = [Fact("Decision", _DECISIONS.get(row["decision"], row["decision"]) + _why(row))]
    if row["decision"] != row["decided"]:
        facts.append(Fact("It was", _DECISIONS.get(row["decided"], row["decided"])))
    if row["until"] is not None:
        facts.append(Fact("Waived until", f"{row['until']}, that day included"))
    facts += [
        Fact("Reason", isolate_text(row["reason"])),
        Fact("Printed name", isolate_text(row["reviewer"])),
        Fact("Role", isolate_text(row["role"])),
        Fact("Date and time", format_time(row["decided_at"])),
        Fact("Meaning", _MEANINGS.get(row["meaning"], row["meaning"])),
        Fact("Identity", _IDENTITIES.get(row["identity"], row["identity"])),
        *_second(told, row["review"], bool(row["second_needed"])),
        Fact(
            "Looked at",
            f"run {row['reviewed_run']}"
            + (
                ", carried over to this run, as the evidence has not changed materially"
                if row["carried_over"] and not row["changed"]
                else ""
            ),
        ),
        Fact("Record", f"{row['review']} of the ledger"),
    ]
    yield Facts(facts)


def _why(row: Mapping[str, Any]) -> str:
    if row["changed"]:
        return f" again, as the evidence has changed: {isolate_text(row['why'])}"
    return f": {isolate_text(row['why'])}" if row["why"] else ""


# What was audited


def _scope(told: Gathered) -> Iterator[Part]:
    manifest, config, counts = told.manifest, told.config, told.manifest["counts"]
    yield Heading("Corpus")
    read = config.get("corpus", {})
    columns = [
        f"{name.replace('_', ' ')} {read[name]}" for name in ("image_column", "caption_column") if read.get(name)
    ]
    left = format_count(counts.get("not_sampled") or 0, "row")
    yield Facts(
        [
            Fact("Place", isolate_text(manifest["corpus"])),
            Fact("Format", ", ".join([manifest.get("corpus_format") or NO_VALUE, *columns])),
            Fact(
                "Identity",
                "digest over the pairs that were read: images, captions and their order",
                f"sha256 {manifest['corpus_digest'] or NO_VALUE}",
            ),
            Fact("Rows", format_count(counts["corpus_rows"])),
            Fact(
                "Not sampled",
                (
                    f"{left}: drawn by hash, not read, and nothing is said about them"
                    if counts.get("not_sampled")
                    else "none: every row was read"
                ),
            ),
            Fact(
                "Rejected",
                f"{_errors_in_short(told)}; each with its reason under “{_TITLES['gates']}”" if told.errors else "none",
            ),
            Fact(
                "Pairs",
                f"{format_count(counts['pairs'])}, of which {format_count(counts['attributions'])} were attributed",
            ),
            Fact("Look alike", _alike(told)),
            Fact("Slices", _slices(told)),
        ]
    )
    yield Heading("Model")
    named = config.get("model", {})
    given = [f"{name} {value}" for name, value in sorted(named.items()) if value is not None]
    yield Facts(
        [
            Fact("Name", isolate_text(manifest["model"])),
            Fact("As named in the settings", isolate_text(", ".join(given)) or NO_VALUE),
            Fact(
                "Identity",
                "digest over weights, structure, preprocessing and tokenizer: the same model has the same, whatever its"
                " file",
                f"sha256 {manifest['model_digest'] or NO_VALUE}",
            ),
            Fact(
                "Preprocessing",
                "as the model’s own configuration has it, in the digest; maps and pictures show what is left of an"
                " image after it",
            ),
            Fact(
                "Tokenizer",
                "the model’s own, in the digest by what it makes of a few texts"
                + (
                    f"; {format_count(told.captions_cut, 'caption')} did not fit and were cut"
                    if told.captions_cut
                    else "; no caption was cut"
                ),
            ),
            Fact(
                "Patch grid",
                ", ".join(f"{row['grid_h']} × {row['grid_w']} ({format_count(row['n'], 'pair')})" for row in told.grids)
                or NO_VALUE,
            ),
        ]
    )


def _alike(told: Gathered) -> str:
    images, groups = told.alike
    return f"{format_count(images, 'image')} in {format_count(groups, 'group')}" if groups else "no two images"


def _slices(told: Gathered) -> str:
    if not told.slices:
        return "none was large enough to weigh"
    nouns = {
        "corpus": "the whole corpus",
        "word": "words",
        "phrase": "two words together",
        "attribute": "attributes",
        "cluster": "clusters of maps",
    }
    return ", ".join(
        nouns["corpus"] if kind == "corpus" else f"{nouns.get(kind, kind)} {format_count(number)}"
        for kind, number in told.slices
    )


# Alerts


def _alert(told: Gathered, alert: ShownAlert) -> Iterator[Part]:
    row = alert.row
    on_text = row["side"] == "text"
    yield Say(
        row["state"].capitalize() + (f", severity {row['severity']}" if row["severity"] else ""),
        "state",
        strong=row["state"] == "confirmed",
    )
    if life := _life(told, row["alert_id"]):
        yield Say(life, "note")
    ratio = {
        "spread_stamp": "its rate here over that in all pairs",
        "region_contrast": "its share here over that in the other pairs",
        "region_cost": "what covering it took at first sight, in parts of the margin",
    }.get(row["rule"], f"ratio of the {'odds of the ' if on_text else ''}two")
    figures = [
        Figure("Mean share of the attribution", format_percent(row["share"]), main=True),
        Figure(f"Mean share of the {'words' if on_text else 'area'}", format_percent(row["area"])),
        Figure(f"Effect: {ratio}", formatting.format_ratio(row["effect"])),
        Figure("Pairs in the slice", format_count(row["n"])),
    ]
    if row["rest_n"]:
        figures.append(
            Figure(f"Share in {format_count(row['rest_n'], 'other pair')}", format_percent(row["rest_share"]))
        )
    yield Figures(figures)
    yield from _tests(told, alert)
    yield from _human_verdict(told, alert)
    if alert.follow:
        one = len(alert.follow) == 1
        yield Folded(
            f"{format_count(len(alert.follow), 'more alert')} that {'follows' if one else 'follow'} from this one: without its"
            f" pairs {'it' if one else 'they'} would not stand",
            [_alert_rows(alert.follow)],
        )
    yield from _means(told, alert)
    yield from _telling(told, alert)
    yield Say(f"Alert {row['alert_id']}, rule {row['rule']}, raised {format_time(row['raised_at'])}", "source")


def _life(told: Gathered, alert_id: str) -> str:
    row = told.lives.get(alert_id)
    if row is None or row["life"] is None:
        return ""
    if row["life"] == "new" and row["previous_run"] is None:
        return "New: no run of this audit came before."
    said = {
        "new": "New: the run before did not raise it",
        "still_firing": "Still firing: raised before, and not worse since",
        "worse": "Worse than when it was last told",
    }[row["life"]]
    why = f" ({isolate_text(row['why'])})" if row["why"] else ""
    since = (
        f"first seen {format_time(row['first_seen'])}, raised by {format_count(row['runs'], 'run')} since"
        if row["life"] != "new"
        else f"held against run {row['previous_run']}"
    )
    return f"{said}{why}; {since}."


def _tests(told: Gathered, alert: ShownAlert) -> Iterator[Part]:
    row = alert.row
    confirmed = row["state"] == "confirmed"
    yield Heading(f"Does the score need it? {'Yes: confirmed' if confirmed else 'Not shown: suspected'}")
    place = formatting.format_region(row["region"])
    if row["score_effect"] is None:
        why = f": {row['reason']}" if row["reason"] else ""
        if not why and told.config.get("confirm", {}).get("enabled") is False:
            why = ": the audit was told not to ([confirm] enabled = false)"
        yield Say(f"Not tested{why}. Attribution alone does not say whether the model needs {place}.")
        return
    yield Say(_tested_text(row) if row["side"] == "text" else _tested_image(row))
    figures = [
        Figure("Score lost beyond the controls", format_score(row["score_effect"]), main=True),
        Figure("95% interval", f"{format_score(row['score_low'])} to {format_score(row['score_high'])}"),
        Figure("Floor it must exceed", format_score(row["floor"])),
        Figure("Part of the margin", format_percent(_part(row))),
    ]
    on_text = row["side"] == "text"
    if row["transplant_rise"] is not None or on_text:
        figures.append(
            Figure(f"Gained where it is {'added' if on_text else 'pasted'}", format_score(row["transplant_rise"]))
        )
    yield Figures(figures)
    numbers = (
        "Pairs",
        "Brought by the phrase" if on_text else "Lost by the region",
        "By its controls",
        "Difference",
        "95% interval",
        "Floor",
        "p",
        "q",
    )
    yield Table(
        [
            Column("Set against" if on_text else "Covered with", wide=3),
            *(Column(title, "number") for title in numbers),
            Column("Passed"),
        ],
        [_test_row(test) for test in alert.tests],
    )
    level = told.config.get("confirm", {}).get("level", "the level")
    earlier = "the first row" if on_text else "an earlier row"
    largest = "the larger p" if on_text else "the largest p"
    said = (
        f"Confirmed needs, in {'both rows' if on_text else 'every row'}, a difference above the floor, an interval"
        f" above zero, and q below {level}; q is {largest} of the rows (1 where {earlier} settles it), corrected for"
        f" the {format_count(row['tests'], 'test')} of this run. The figures above the table are those of the"
        f" {'weaker' if on_text else 'weakest'} row."
    )
    if on_text or row["transplant_rise"] is not None:
        said += " " + _transplant(row)
    yield Say(said, "note")


def _transplant(row: Mapping[str, Any]) -> str:
    changed = f"{format_score(row['transplant_rise'])} ({format_score(row['transplant_low'])} to {format_score(row['transplant_high'])})"
    if row["side"] == "text":
        return (
            f"Added: the phrase, put into {format_count(row['transplant_n'], 'caption')} that say something else, changed"
            f" their score with this image by {changed} beyond what common words did there."
        )
    return (
        f"Pasted: the region’s pixels, put into {format_count(row['transplant_n'], 'image')} whose captions say something"
        f" else, changed the score of this caption there by {changed} beyond what pasting a control did."
    )


def _tested_text(row: Mapping[str, Any]) -> str:
    end = (
        "Neither explains the loss: which image the model takes the caption for depends on this phrase."
        if row["state"] == "confirmed"
        else f"That does not show that the model’s answer depends on this phrase: {row['reason']}."
    )
    return (
        "The score of a caption is how much better it fits its own image than the best of other images, whose captions"
        f" say something else and lack the phrase (its margin; {format_score(row['margin'])} on average here, in size). In"
        f" {format_count(row['tested'], 'caption')} drawn at random from the slice, {formatting.format_region(row['region'])} was left"
        f" out: the score fell by {format_score(row['score_drop'])}. Two controls say what that would be without reliance: the"
        " same phrase added to captions that lack it, for their own images, and the corpus’s commonest words in its"
        " place. " + end
    )


def _tested_image(row: Mapping[str, Any]) -> str:
    end = (
        "So the model’s answer depends on this place more than chance, or covering as such, explains."
        if row["state"] == "confirmed"
        else f"That does not show that the model’s answer depends on this place: {row['reason']}."
    )
    return (
        "The score of a pair is how much better its own caption fits than the best of other captions (its margin;"
        f" {format_score(row['margin'])} on average here, in size). In {format_count(row['tested'], 'pair')} drawn at random from the"
        f" slice, {formatting.format_region(row['region'])} was covered: the score fell by {format_score(row['score_drop'])}, by the"
        " weakest of three ways to cover it. Covering equal regions elsewhere in the same images (the controls)"
        f" changed it by {format_score(row['control_drop'])}. " + end
    )


def _test_row(test: Mapping[str, Any]) -> list[str]:
    passed = "yes" if test["passed"] else "not measured" if test["effect"] is None else "no"
    figures = [format_score(test[key]) for key in ("drop", "control_drop", "effect")]
    interval = f"{format_score(test['low'])} to {format_score(test['high'])}"
    chances = [formatting.format_p_value(test["p"]), formatting.format_p_value(test["q"])]
    return [
        _FILLS.get(test["fill"], test["fill"]),
        format_count(test["n"]),
        *figures,
        interval,
        format_score(test["floor"]),
        *chances,
        passed,
    ]


def _alert_rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        [
            Column("Region", "name", 2),
            Column("Slice", "name", 3),
            Column("State", wide=2),
            Column("Pairs", "number"),
            Column("Attribution", "number"),
            Column("Area", "number"),
            Column("Effect", "number"),
            Column("Follows from", "name", 3),
            Column("Alert", "code", 3),
        ],
        [
            [
                row["region"],
                formatting.format_slice_label(row["slice_kind"], row["slice"]),
                row["state"],
                format_count(row["n"]),
                format_percent(row["share"]),
                format_percent(row["area"]),
                formatting.format_ratio(row["effect"]),
                row["explained_by"] or "",
                row["alert_id"],
            ]
            for row in rows
        ],
    )


def _means(told: Gathered, alert: ShownAlert) -> Iterator[Part]:
    row, place = alert.row, formatting.format_region(alert.row["region"])
    if not alert.means:
        if len(told.grids) > 1 and row["side"] == "image":
            yield Say(f"No mean map: the image maps of this run have {len(told.grids)} different shapes.", "note")
        return
    yield Heading("Mean image map")
    drawn = []
    for number, mean in enumerate(alert.means):
        lead = (
            f"The {format_count(mean.n, 'pair')} of the slice."
            if number == 0
            else f"All {format_count(mean.n, 'other pair')}."
        )
        held = f"{formatting.format_bits(mean.region_bits)} of {formatting.format_bits(mean.image_bits)} bits"
        described = f"Mean image map over {format_count(mean.n, 'pair')}: {held} fall on {place}"
        drawn.append(Mean(mean.picture, lead, f"{_upper(place)} holds {held}.", described))
    note = (
        f"Bits of each patch, averaged over pairs; numbers are rounded, {place} is outlined in white"
        f"{'' if told.album.boxes(row['region']) else ' where it is the same for every pair'}."
        f"{' Both maps have one scale.' if len(drawn) > 1 else ''}"
    )
    yield Means(drawn, note, formatting.format_bits(alert.mean_top))


def _telling(told: Gathered, alert: ShownAlert) -> Iterator[Part]:
    on_text = alert.row["side"] == "text"
    top = formatting.format_bits(told.album.text_top)
    yield Heading(
        f"The {format_count(len(alert.pairs), 'pair')} with most bits in the {'phrase' if on_text else 'region'}"
    )
    if on_text:
        yield Say(
            f"Below the caption: its tokens, shaded by their bits from 0 to {top}, those of the phrase outlined;"
            " special tokens are dashed.",
            "note",
        )
    else:
        yield Say(
            "Left: what the model sees. Right: the bits of each patch over it, the region outlined in white. Below the "
            f"caption: its tokens, shaded by their bits from 0 to {top}; special tokens are dashed.",
            "note",
        )
        yield Scale(formatting.format_bits(told.album.image_top))
    for pair in alert.pairs:
        yield card(pair, [alert.row["region"]], alert.row["side"])
    if not alert.pairs:
        yield Say("No pair was stored with this alert.")


def card(pair: ShownPair, regions: Sequence[str], side: str = "image") -> Card:
    """A pair as it is shown, with these regions outlined."""
    row = pair.row
    mapped = f"Image map of the pair; the strongest patch holds {formatting.format_bits(pair.strongest)} bits"
    for held in pair.held:
        if held.region in regions:
            mapped += f"; {formatting.format_region(held.region)} holds {format_percent(held.share)} of the attribution"
    source = [
        isolate_text(row["file_name"]),
        f"data row {row['row_number'] + 1}",
        f"{row['width']} × {row['height']} px",
    ]
    source += [f"{isolate_text(name)} = {isolate_text(value)}" for name, value in pair.attributes]
    numbers = [
        Metric("Cosine", formatting.format_cosine(row["cosine"])),
        Metric("– image bottleneck", formatting.format_cosine(row["image_cosine"])),
        Metric("– text bottleneck", formatting.format_cosine(row["text_cosine"])),
        Metric("Bits, image", formatting.format_bits(pair.image_bits)),
        Metric("– strongest patch", formatting.format_bits(pair.strongest)),
        Metric("Bits, caption", formatting.format_bits(pair.text_bits)),
    ]
    for held in pair.held:
        what = "outlined" if held.region in regions else "its strongest region"
        numbers.append(
            Metric(
                f"{_upper(formatting.format_region(held.region))}, {what}",
                f"{format_percent(held.share)} of the attribution ({formatting.format_bits(held.bits)} bits) on {format_percent(held.area)} of"
                f" the {'words' if held.side == 'text' else 'area'}",
                wide=True,
            )
        )
    return Card(
        row["pair_id"],
        pair.view,
        pair.overlay if side == "image" else None,
        f"What the model sees of {row['file_name']}",
        mapped,
        pair.fault,
        row["caption"],
        [
            Mark(
                token.text or "␣",
                formatting.format_bits(token.bits),
                token.shade,
                token.special,
                any(phrase in regions for phrase in token.phrases),
            )
            for token in pair.tokens
        ],
        numbers,
        " · ".join(source),
    )


def _orphans(told: Gathered) -> Iterator[Part]:
    if told.orphans:
        yield _alert_rows(told.orphans)


def _lives(told: Gathered) -> Iterator[Part]:
    if not told.gone:
        return
    yield Say(
        "Alerts that were open before this run and that it did not raise. Resolved: it could have seen them. Not seen:"
        " it could not, so that they stay open."
    )
    yield Table(
        [
            Column("Life"),
            Column("Region", "name", 2),
            Column("Slice", "name", 3),
            Column("State", wide=2),
            Column("Last seen", wide=3),
            Column("Why", "name", 5),
        ],
        [
            [
                row["life"].replace("_", " "),
                row["region"],
                formatting.format_slice_label(row["slice_kind"], row["slice"]),
                row["state"],
                format_time(row["last_seen"]),
                row["why"] or "",
            ]
            for row in told.gone
        ],
    )


def _ordinary(told: Gathered) -> Iterator[Part]:
    if not told.compared:
        return
    said = (
        f"{format_count(len(told.compared), 'pair')} chosen without regard to any result: those whose id has the smallest"
        " sha256. The same pairs appear in every report on this corpus."
    )
    if told.alerts:
        said += " Their pictures and tokens share the scales of the pairs above."
    else:
        said += (
            " Left: what the model sees. Right: the bits of each patch over it. Tokens are shaded by their bits from 0"
            f" to {formatting.format_bits(told.album.text_top)}."
        )
    yield Say(said)
    yield Scale(formatting.format_bits(told.album.image_top))
    regions = list(dict.fromkeys(alert.row["region"] for alert in told.alerts))
    for pair in told.compared:
        yield card(pair, regions)


# What was weighed, tested and left out


def _weighed(told: Gathered) -> Iterator[Part]:
    rows, rules = told.weighed, told.rules
    if not rows:
        none = "" if told.manifest["counts"]["attributions"] else ": the run has no attributions"
        yield Say(f"No combination of region and slice was weighed{none}.")
        return
    said = (
        f"{format_count(rows[0]['weighed'], 'combination')} of region and slice had at least "
        f"{format_count(rules.get('min_pairs', 1), 'pair')} with a map. "
    )
    if rows[0]["weighed"] > len(rows):
        said += f"These are the {len(rows)} with the largest effect. "
    said += (
        "A slice is the whole corpus, a word of the captions, a value of an attribute, or a cluster of pairs whose maps"
        " are alike; attribution and area are mean shares, and effect is their ratio. A phrase stands in double quotes:"
        " its area is its part of the words, and its effect a ratio of odds. "
    )
    said += (
        f"An alert needs an effect of at least {rules['factor']} and at least {format_count(rules['min_pairs'], 'pair')}."
        if rules
        else "The thresholds are not in the manifest."
    )
    yield Say(said)
    yield Table(
        [
            Column("Region", "name", 3),
            Column("Slice", "name", 4),
            Column("Pairs", "number"),
            Column("Attribution", "number"),
            Column("Area", "number"),
            Column("Effect", "number"),
            Column("Outcome", "name", 4),
        ],
        [
            [
                row["region"],
                formatting.format_slice_label(row["slice_kind"], row["slice"]),
                format_count(row["n"]),
                format_percent(row["share"]),
                format_percent(row["area"]),
                formatting.format_ratio(row["effect"]),
                _outcome(row),
            ]
            for row in rows
        ],
        raised=[number for number, row in enumerate(rows) if row["alerted"] and row["explained_by"] is None],
    )


def _outcome(row: Mapping[str, Any]) -> str:
    if not row["alerted"]:
        return "no alert"
    return "alert" if row["explained_by"] is None else f"follows from “{row['explained_by']}”"


def _self_audit(told: Gathered) -> Iterator[Part]:
    if not told.self_audit:
        yield Say("The audit did not test itself in this run: nothing is known about what it would have confirmed.")
        return
    yield Points([Point("", f"{_upper(said)}.") for said in told.self_audit])
    yield Say(
        "The first figure assumes that the region moves every pair alike; a region that only some pairs need is found"
        " less often.",
        "note",
    )


def _gates(told: Gathered) -> Iterator[Part]:
    failed = [check for check in told.checks if not check["success"]]
    if told.checks:
        yield Say(
            f"{format_count(len(told.checks), 'check')} ran over the corpus, the attributions and their accounting; "
            f"{len(failed) or 'none'} failed. A critical failure stops the run before any alert."
        )
        results = Counter((check["suite"], bool(check["success"])) for check in told.checks)
        yield Table(
            [Column("Suite", wide=2), Column("Passed", "number"), Column("Failed", "number")],
            [
                [suite, str(results[suite, True]), str(results[suite, False])]
                for suite in sorted({c["suite"] for c in told.checks})
            ],
        )
    else:
        yield Say("No check has run.")
    if failed:
        yield Table(
            [
                Column("Severity"),
                Column("Suite", wide=2),
                Column("Check", wide=3),
                Column("Column", wide=2),
                Column("Rows", "number"),
                Column("Observed", "name", 2),
                Column("Expected", "name", 4),
            ],
            [
                [
                    check["severity"],
                    check["suite"],
                    check["expectation"],
                    check["column_name"] or "",
                    format_count(check["unexpected_count"]),
                    check["observed"] or NO_VALUE,
                    check["detail"] or "",
                ]
                for check in failed
            ],
            "Checks that failed",
        )
    if not told.errors:
        yield Say("No row of the corpus was left out.")
        return
    yield Table(
        [Column("Reason", "name", 2), Column("Stage"), Column("Rows", "number"), Column("Examples", "name", 6)],
        [
            [
                error["reason"],
                error["stage"] or "",
                format_count(error["n"]),
                "\n".join(map(_example, error["examples"])),
            ]
            for error in told.errors
        ],
        "Rows that were left out, by reason, with the first examples",
    )


def _example(example: Mapping[str, Any]) -> str:
    return f"{isolate_text(example['file_name'] or 'no file name')}: {isolate_text(example['detail'] or '')}"


# Method and limits


def _limits(told: Gathered) -> Iterator[Part]:
    yield Terms(
        [
            (
                "Attribution",
                (
                    "An information bottleneck (M2IB) adds noise to each patch of the image and each token of the"
                    " caption, and learns how much can be taken away while image and caption still match for the model."
                    " What is left of a patch or token, in bits, is its attribution. Near zero means that the match"
                    " does not need it."
                ),
            ),
            (
                "Bits",
                (
                    f"The stored unit is the nat; 1 nat is {round(formatting.BITS_PER_NAT, 4)} bits. Nothing is rescaled"
                    " per picture: the colour scale beside the pictures is the same for all pairs of this report, and"
                    " a mean map has its own, stated below it."
                ),
            ),
            (
                "Share and effect",
                (
                    "For each pair, the part of the bits of the image that falls on a region; then the mean over the"
                    " pairs of a slice. The effect is this mean divided by the region’s mean share of the area: 1 means"
                    " that attribution lies as evenly as area. For a phrase, the same of a caption’s bits and words,"
                    " without special tokens, as a ratio of odds."
                ),
            ),
            (
                "Confirmed",
                (
                    "A region that was flagged is covered in pairs of its slice, in three ways, and so are equal"
                    " regions elsewhere (controls). It is confirmed if, in each way, the score loses more than by the"
                    " controls, by more than a floor, beyond chance, and corrected for all tests of the run."
                ),
            ),
            (
                "Cosine",
                (
                    "How well image and caption match for the model, as it is and with one tower’s bottleneck in place."
                    " A cosine that stays high after the bottleneck says that what is left suffices for the match."
                ),
            ),
            (
                "Patches",
                (
                    "Maps are drawn as the patches that the model computes with; there is no finer information. In the"
                    " pictures, patches below a twentieth of the scale fade out, so that the image is seen."
                ),
            ),
        ]
    )
    weighed = told.weighed[0]["weighed"] if told.weighed else None
    many = format_count(weighed, "combination") if weighed else "All combinations"
    stamps = " overlays that recur pixel for pixel," if told.config.get("discover", {}).get("enabled") else ""
    yield Points(
        [
            Point(
                "A suspected alert is a proposal, not a proof.",
                " Attribution after the fact can miss spurious signals that nobody knew of, and can raise false alarms"
                " (Adebayo et al., “Post hoc explanations may be ineffective for detecting unknown spurious"
                " correlation”, ICLR 2022).",
            ),
            Point(
                "Confirmed means that the score needs the region",
                ", on these images and against these other captions. It does not say that the region is spurious: a"
                " finding that lies there is needed too. Covering leaves unnatural images; the controls are covered in"
                " the same way.",
            ),
            Point(
                "Suspected does not mean harmless.",
                " A region that only some pairs need, or that the model uses only where nothing else speaks, can stay"
                " below the floor.",
            ),
            Point(
                "No alert does not mean no fault.",
                " What this run would have confirmed, and how often random regions are, stands under"
                f" “{_TITLES['self-audit']}”.",
            ),
            Point(
                "Many comparisons.",
                f" {many} of region and slice {'was' if weighed == 1 else 'were'} held against one threshold to be"
                " suspected, without a correction for their number; the tests that confirm are corrected.",
            ),
            Point(
                f"Only the regions given,{stamps or ''} and phrases that stand out were weighed",
                " (fixed runs of words that captions can do without, words with digits, marks, and those listed), and"
                " only the slices that captions, attributes and clusters of maps make. A spurious signal elsewhere"
                " raises no alert.",
            ),
            Point(
                "What this audit cannot see:",
                " a signature without a place (noise, texture, a colour cast, the brightness of a device); a mark that"
                " looks different each time (dates, handwriting) at no fixed place; what every pair of the corpus has,"
                " for nothing lacks it; what the pairs of this corpus do not show; and what is smaller than a few"
                " pixels once the image is resized for the model.",
            ),
            Point(
                "Pairs with an alert are chosen for their effect.",
                " They show what the alert means, not how common it is; the mean maps and the ordinary pairs show"
                " that.",
            ),
            Point(
                "Maps depend on their settings",
                ": where each tower is cut (depth, layer), the price of a nat (beta), the statistics of the noise, and"
                f" the steps of the fit.{_bottleneck(told)}",
            ),
        ]
    )


def _bottleneck(told: Gathered) -> str:
    settings = told.config.get("bottleneck")
    if not settings:
        return ""
    said = []
    for tower in ("image", "text"):
        if isinstance(settings.get(tower), Mapping):
            named = ", ".join(f"{name} {value}" for name, value in sorted(settings[tower].items()) if value is not None)
            said.append(f"{tower} {named}")
    plain = {name: value for name, value in settings.items() if value is not None and not isinstance(value, Mapping)}
    said.append(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(plain.items())))
    return f" Here: {'; '.join(part for part in said if part)}."


def _fixed(told: Gathered) -> Iterator[Part]:
    manifest, config = told.manifest, told.config
    yield Say(
        "Thresholds and settings are written into the run’s manifest when it begins (here"
        f" {format_time(manifest['started_at'])}), before anything is computed; a run that is resumed with others is"
        " refused. That they were chosen without looking at earlier results on this corpus no program can know."
    )
    if manifest.get("reflags"):
        yield Say(
            f"This run applies its rules to the attributions of run {manifest['reflags']}, which were known when its"
            " settings were chosen: its thresholds were not fixed before the attributions."
        )
    alerts, confirm = config.get("alerts", {}), config.get("confirm", {})
    rows = [
        ("Suspected: least effect", alerts.get("factor")),
        ("Suspected: least number of pairs", alerts.get("min_pairs")),
        ("Confirmed: q below", confirm.get("level")),
        ("Confirmed: floor, in parts of the mean margin, at least", confirm.get("floor_share")),
        ("Confirmed: pairs that are covered, at most", confirm.get("pairs")),
        ("Confirmed: controls for each", confirm.get("controls")),
        ("Confirmed: other captions or images, at most", confirm.get("foils")),
        ("Self-audit: random regions", confirm.get("negatives")),
    ]
    yield Table(
        [Column("Threshold", wide=4), Column("Value", "number")],
        [[name, NO_VALUE if value is None else str(value)] for name, value in rows],
    )
    rules = sorted((manifest.get("rules") or {}).items())
    yield Facts(
        [
            Fact(
                "All settings",
                "digest of the configuration as resolved, which stands in full under Provenance",
                f"sha256 {manifest['config_digest'] or NO_VALUE}",
            ),
            *(Fact(f"Rule {name}", "text of the query", f"sha256 {digest}") for name, digest in rules),
            *(Fact(f"Gate {suite}", "settings of the checks", f"sha256 {digest}") for suite, digest in told.suites),
        ]
    )


def _mapping(told: Gathered) -> Iterator[Part]:
    yield Say(
        "A help for whoever gathers documents, and no legal advice. What is asked is put in our own words, from"
        " secondary sources: check the text itself, and which of it applies to you and from when (for the AI Act’s"
        " duties on high-risk systems, dates of December 2027 and August 2028 have been reported). The last column says"
        " what this report leaves unanswered."
    )
    present = {"alerts": bool(told.alerts), "lives": bool(told.gone)}
    for name, asked in ASKED.items():
        yield Heading(name)
        yield Table(
            [
                Column("Where", wide=3),
                Column("What is asked", wide=5),
                Column("Where it is answered", wide=5),
                Column("What is not answered here", wide=7),
            ],
            [
                [ask.source, ask.asked, "; ".join(_where(key, present) for key in ask.chapters), ask.left]
                for ask in asked
            ],
        )


def _where(key: str, present: Mapping[str, bool]) -> str:
    if key == "alerts":
        return "Alert 1 and following" if present[key] else "no alert was raised"
    if key == "lives" and not present[key]:
        return "the life stated at each alert"
    return _TITLES[key]


def _provenance(told: Gathered) -> Iterator[Part]:
    manifest = told.manifest
    environment = ", ".join(
        f"{name} {version}" for name, version in sorted((manifest.get("environment") or {}).items())
    )
    facts = [
        Fact("Run", "", manifest["run_id"]),
        Fact("Started, finished", f"{format_time(manifest['started_at'])}, {format_time(manifest['finished_at'])}"),
        Fact("Manifest", "digest of the file that lists all others", f"sha256 {told.manifest_sha256}"),
        Fact("Ledger", *_ledger_fact(told)),
        Fact("Model", isolate_text(manifest["model"]), f"sha256 {manifest['model_digest'] or NO_VALUE}"),
        Fact("Corpus", isolate_text(manifest["corpus"]), f"sha256 {manifest['corpus_digest'] or NO_VALUE}"),
        Fact("Configuration", "", f"sha256 {manifest['config_digest'] or NO_VALUE}"),
        Fact("Seed", str(manifest["seed"])),
        Fact("Code version", manifest["code_version"]),
        Fact("Environment", environment or NO_VALUE),
        (
            Fact("Prefect flow run", "", manifest["flow_run"])
            if manifest.get("flow_run")
            else Fact("Prefect flow run", "none was noted")
        ),
    ]
    if manifest.get("base_run"):
        facts.append(
            Fact("Builds upon", f"run {manifest['base_run']}, whose attributions of unchanged pairs it took over")
        )
    if manifest.get("reflags"):
        facts.append(Fact("Re-flags", f"run {manifest['reflags']}"))
    facts += [
        Fact(
            "Rewritten",
            f"{format_time(entry['at'])}, {entry['what']}: {entry['why']}; the manifest before",
            f"sha256 {entry['sha256']}",
        )
        for entry in manifest.get("earlier_manifests", [])
    ]
    yield Facts(facts)
    yield Say(
        "m2ib-audit verify recomputes all of this from the lake, and names the first file, record or row that differs;"
        " m2ib-audit verify --report FILE says whether a copy of this report is one that was written. A chain of"
        " digests shows what was changed within it. That its end was not cut off and made anew it shows only to someone"
        " who has kept the digest of the ledger’s last record elsewhere.",
        "note",
    )
    yield Folded("Configuration as resolved", [Code(formatting.format_json(told.config))])
    yield Table(
        [Column("File", "code"), Column("Rows", "number"), Column("sha256", "digest")],
        [[entry["path"], format_count(entry["rows"]), entry["sha256"]] for entry in told.files],
        "Files of the run",
    )


def _ledger_fact(told: Gathered) -> tuple[str, str | None]:
    if told.ledger is None:
        return "without a record when this report was written", None
    return f"record {told.ledger.number}, {format_time(told.ledger.at)}", f"sha256 {told.ledger.sha256}"


def _by_hand(told: Gathered) -> Iterator[Part]:
    yield Say(
        "For places that ask for ink. It stands beside the sign-offs above and does not replace them: what is written"
        " here is on this copy alone, and no record of the ledger."
    )
    yield Facts(
        [
            Fact("Run", "", told.manifest["run_id"]),
            Fact("Manifest", "", f"sha256 {told.manifest_sha256}"),
            Fact("Ledger", *_ledger_fact(told)),
        ]
    )
    yield Lines(
        ["Printed name", "Role", "Meaning (review, approval, responsibility, authorship)", "Date and time", "Signature"]
    )
