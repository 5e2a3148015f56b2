"""Text about alerts, runs and decisions.

The command line, events, Prefect artifacts, the report and the site use these functions, so texts are the same. This
module imports only the standard library: reading commands load it at startup.
"""

import re
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from operator import itemgetter
from typing import Any, Final, Literal

from review.presentation.numbers import (
    NO_VALUE,
    format_count,
    format_interval,
    format_p_value,
    format_percent,
    format_ratio,
    format_run,
    format_score,
)

_ABSENCE: Final = "absence of "
_NUMBERED: Final = re.compile(r"(absence of )?(stamp|concept|map cluster) [0-9]+")
"""Names whose number each run gives to its own."""
_PROPERTIES: Final[Mapping[str, str]] = {
    "image-wide color": "the colors of the whole image",
    "image-wide spectrum": "the sharpness and texture of the whole image",
}
"""Regions that have no place: properties of the whole image."""
PHRASE_QUOTE: Final = '"'
"""First character of a phrase in the column `region`; other names are regions of the image."""

ALERT_STATUSES: Final = ("new", "worse", "still_firing", "not_seen", "resolved")
"""Statuses of an alert in the alert history, most urgent first."""
RUN_STATUSES: Final = ("running", "completed", "completed_with_errors", "stopped", "failed", "interrupted", "pruned")
DECISIONS: Final = ("open", "pending", "needs_data", "confirmed", "benign", "waived")
"""Decisions as stored, those that wait first."""
_DECISION_LABELS: Final[Mapping[str, str]] = {
    "confirmed": "shortcut",
    "benign": "acceptable",
    "needs_data": "needs data",
    "pending": "awaiting a second signature",
}
"""Words for decisions as stored; `confirmed` is in text only the state of a test."""
DECISION_DESCRIPTIONS: Final[Mapping[str, str]] = {
    "confirmed": "the model relies on this and should not",
    "benign": "the model may rely on this",
    "needs_data": "this cannot be decided with the data at hand",
    "waived": "known and accepted, that day included",
    "open": "an earlier decision no longer holds",
}
"""What each decision that a reviewer can record means."""
MEANING_LABELS: Final[dict[str, str]] = {
    "review": "review: examined the evidence",
    "approval": "approval: approves the decision",
    "responsibility": "responsibility: is accountable for the decision",
    "authorship": "authorship: wrote the record",
}
"""What a signature means (21 CFR 11.50)."""
IDENTITY_LABELS: Final[dict[str, str]] = {
    "declared": "declared, not verified",
    "password": "signed in with a password",
    "proxy": "identified by the sign-on proxy",
}
"""How the identity of a reviewer was established."""
_FILL_LABELS: Final[dict[str, str]] = {
    "mean": "mean color of the surroundings",
    "blur": "blurred surroundings",
    "swap": "same region of another pair",
    "paste": "mark of another pair, pasted",
    "transplant": "pasted into other pairs, against other parts of the same images",
    "exchange": "pasted into other pairs, against the same place of others",
    "match": "as in images outside of the slice",
    "lend": "lent to images outside of the slice",
    "remove": "phrase added to captions that lack it",
    "replace": "phrase replaced by common words",
}

# U+202A to U+202E and U+2066 to U+2069 only change the direction of text; one of them could end the isolation.
_DIRECTION_MARKS: Final = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))

AlertKind = Literal["image", "outside", "text", "lowers", "absence", "image-wide", "sufficient"]
"""What an alert says: the score needs a region, the outside of an object, or a phrase; a region lowers it; it needs the
absence of a mark, or a property of the whole image; a region that it does not need is sufficient for it."""

LEAST_OUTSIDE: Final = 16
"""Number of units outside of a slice from which on their comparison with the slice decides, as in the tests."""
WITHOUT_PLACE: Final = ("absence", "image-wide")
"""Kinds of alerts that no map can show."""

Escape = Callable[[str], str]
"""Function that makes untrusted text (captions, slices, regions) safe for one kind of output."""


SCREENED: Final = ("region_cost", "region_gain", "region_sufficiency")
"""Rules whose findings have the loss, gain or rise of the screening as effect."""
_TEST_WORDS: Final[Mapping[AlertKind, tuple[str, str, str]]] = {
    "image": ("covering it", "reduce", "covering equal regions elsewhere"),
    "outside": ("taking it from other pairs", "reduce", "taking it from pairs of the slice"),
    "text": ("leaving it out", "reduce", "the controls do"),
    "lowers": ("covering it", "raise", "covering equal regions elsewhere"),
    "absence": ("pasting the mark", "reduce", "pasting other parts of the same images"),
    "sufficient": ("pasting it into other pairs", "raise", "pasting controls"),
    "image-wide": ("taking them from images outside of the slice", "reduce", "taking them from other images of it"),
}
"""What a test does, what it does to the margin if it passes, and what it is compared with."""
_CHANGES: Final[Mapping[AlertKind, str]] = {"lowers": "score gain", "sufficient": "rise of the score"}
"""What an effect is called, where it is not a score loss."""


# Untrusted text


def isolate_text(text: str) -> str:
    """Make untrusted text safe within a sentence.

    Control characters become spaces, except line breaks and tabs. Text that is not ASCII is wrapped in Unicode
    isolates, so that Arabic or Hebrew does not reorder the words around it.
    """
    text = "".join(" " if unicodedata.category(mark) == "Cc" and mark not in "\n\t" else mark for mark in text)
    return text if text.isascii() else f"\u2068{text.translate(_DIRECTION_MARKS)}\u2069"


def _isolate_line(text: str) -> str:
    return isolate_text(" ".join(text.split()))


# Alerts


def format_region(region: str, escape: Escape = _isolate_line) -> str:
    """Format a region as part of a sentence, such as "the top-left corner" or "recurring overlay 1"."""
    fixed = {"frame": "the outer frame", "hottest corner": "the hottest corner of each image", **_PROPERTIES}
    numbered = {"stamp": "recurring overlay", "concept": "recurring concept"}  # as stored; as the terms are
    kind, _, number = region.partition(" ")
    if region in fixed or kind in numbered:
        return fixed.get(region) or f"{numbered[kind]} {escape(number)}"
    if region.startswith(_ABSENCE):
        return f"the absence of {format_region(region.removeprefix(_ABSENCE), escape)}"
    if region.startswith("corner "):
        return f"the {escape(region.removeprefix('corner '))} corner"
    if region.startswith(PHRASE_QUOTE):
        return f"the phrase “{escape(region[1:-1])}”"
    return f"the region “{escape(region)}”"


def find_mark(region: str) -> str | None:
    """Return the mark that a region is the absence of; None for other regions."""
    return region.removeprefix(_ABSENCE) if region.startswith(_ABSENCE) else None


def has_place(region: str) -> bool:
    """Return whether a region is somewhere in images or captions, so that it has a share of the attribution."""
    return region not in _PROPERTIES and find_mark(region) is None


def format_region_kind(region: str) -> str | None:
    """Return what a region is that only some pairs have: "overlay", "phrase" or "region"; None for other regions."""
    if region.startswith(_ABSENCE):
        return None
    if region.startswith(("stamp ", "concept ")):
        return "overlay" if region.startswith("stamp ") else "concept"
    if region.startswith(PHRASE_QUOTE):
        return "phrase"
    return "region" if ": " in region else None  # found by a detector: "detector: label"


def format_part_kind(alert: Mapping[str, Any]) -> str | None:
    """Return what the region of an alert is if not all pairs have it: "overlay", "phrase" or "region"; else None.

    If the row has `run_pairs`, its figures decide about all pairs; else what kind of region it is.
    """
    region, kind = alert["region"], format_region_kind(alert["region"])
    total = alert.get("run_pairs") if alert["slice_kind"] == "corpus" else None
    if total is None or alert.get("n") is None or region in ("frame", "hottest corner") or region.startswith("corner "):
        return kind
    return None if alert["n"] >= total else kind or "region"


def _date_number(name: str, alert: Mapping[str, Any]) -> str:
    """Say whose number an overlay or cluster has, if not that of the newest run, which did not raise the alert."""
    if alert.get("life") not in ("not_seen", "resolved") or not _NUMBERED.fullmatch(name):
        return ""
    run = alert.get("last_run") or alert.get("run_id")
    return f" of the run of {format_run(run)}" if run else ""


def format_region_label(region: str) -> str:
    """Format a region as a label in a table, such as "overlay 1" for the stored name "stamp 1"."""
    if region.startswith(_ABSENCE):
        return _ABSENCE + format_region_label(region.removeprefix(_ABSENCE))
    return f"overlay {region.removeprefix('stamp ')}" if region.startswith("stamp ") else region


def _is_only_sufficient(alert: Mapping[str, Any]) -> bool:
    return list(alert.get("reliance") or ()) == ["sufficient"]


def find_alert_kind(alert: Mapping[str, Any]) -> AlertKind:
    """Return the kind of an alert, on which the words about it depend."""
    if alert.get("side") == "text":
        return "text"
    if alert["region"] in _PROPERTIES:
        return "image-wide"
    if alert["region"].startswith(_ABSENCE):
        return "absence"
    if _is_only_sufficient(alert):
        return "sufficient"
    lowers = alert.get("direction") == "lowers"
    if alert["region"].startswith("outside ") or (alert.get("exchanged") and not lowers):
        return "outside"
    return "lowers" if lowers else "image"


def format_slice(slice_kind: str, name: str, escape: Escape = _isolate_line, having: str = "") -> str:
    """Format a slice as part of a sentence, such as "in pairs whose caption contains “dense”".

    `having`, such as " with the overlay", says which of all pairs are meant.
    """
    if slice_kind == "corpus":
        return f"in all pairs{having}"
    if slice_kind in ("word", "phrase"):
        return f"in pairs whose caption contains “{escape(name)}”"
    if slice_kind == "attribute":
        return "in pairs with " + " = ".join(escape(part) for part in name.split("=", 1))
    return f"in the pairs of {escape(name)}"


def format_slice_label(slice_kind: str, name: str, escape: Escape = _isolate_line) -> str:
    """Format a slice as a label in a table or chart."""
    if slice_kind == "corpus":
        return "all pairs"
    kinds = {"word": "word", "phrase": "words"}
    return f"{kinds[slice_kind]} “{escape(name)}”" if slice_kind in kinds else escape(name)


def format_alert(alert: Mapping[str, Any], escape: Escape = _isolate_line) -> str:
    """Format an alert as a sentence without a period, whose wording depends on the alert's state.

    If the row has `region_name`, the name that a person gave to a recurring overlay, the sentence contains it.
    """
    verb = "the score relies on" if alert["state"] == "confirmed" else "attribution concentrates on"
    region = format_region(alert["region"], escape) + _date_number(alert["region"], alert)
    if name := alert.get("region_name"):
        region += f" (“{escape(name)}”)"
    having = " that have it" if format_part_kind(alert) else ""
    where = format_slice(alert["slice_kind"], alert["slice"], escape, having) + _date_number(alert["slice"], alert)
    if find_alert_kind(alert) == "sufficient":
        by_words = alert["slice_kind"] in ("word", "phrase")
        captions = f"captions that contain “{escape(alert['slice'])}”" if by_words else f"captions of {where[3:]}"
        return f"pasted into other images, {region} raises their score for {captions}"
    return f"{region} lowers the score {where}" if find_alert_kind(alert) == "lowers" else f"{verb} {region} {where}"


def format_pair_count(alert: Mapping[str, Any]) -> str:
    """Format the number of pairs of an alert, such as "95", or "25 of 100" if only some of all pairs have its region.

    `run_pairs` of the row, the number of attributed pairs of the run, may be missing.
    """
    total = alert.get("run_pairs") if alert["slice_kind"] == "corpus" else None
    return f"{alert['n']:,} of {total:,}" if total is not None and alert["n"] < total else format_count(alert["n"])


def format_pairs(alert: Mapping[str, Any]) -> str:
    """Format the pairs of an alert, such as "95 pairs", or "25 of 100 pairs, those with the overlay"."""
    number, kind = format_pair_count(alert), format_part_kind(alert)
    if " of " in number:
        return f"{number} pairs, those with the {kind or 'region'}"
    return format_count(alert["n"], "pair") + (f" with the {kind}" if kind else "")


def format_alert_count(alerts: Sequence[Mapping[str, Any]]) -> str:
    """Format the number of a run's alerts, such as "8 alerts, 2 of them independent (1 confirmed, 1 suspected)"."""
    independent = [alert["state"] for alert in alerts if alert["explained_by"] is None]
    states = [f"{independent.count(state)} {state}" for state in ("confirmed", "suspected") if state in independent]
    text = format_count(len(alerts), "alert") if alerts else "no alerts"
    if len(alerts) > 1:
        text += f", {len(independent)} of them independent"
    return text + (f" ({', '.join(states)})" if states else "")


def format_outcome(manifest: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]]) -> str:
    """Format how a run ended and what it found, as one line; `alerts` are all alerts of the run."""
    counts = manifest["counts"]
    return (
        f"run {manifest['run_id']} {format_status(manifest['status'])}: {counts['attributions']:,} of "
        f"{format_count(counts['pairs'], 'pair')} attributed, {format_count(counts['errors'], 'error row')}, "
        f"{format_alert_count(alerts)}"
    )


def format_state(alert: Mapping[str, Any]) -> str:
    """Format the state of an alert with its severity, such as "confirmed, high severity"."""
    return f"{alert['state']}, {alert['severity']} severity" if alert["severity"] else str(alert["state"])


def format_effect(alert: Mapping[str, Any]) -> str:
    """Format the concentration of an alert and what it is relative to, such as "3.20 times its share of the area"."""
    if alert["rule"] in SCREENED:
        verbs = {"region_cost": "covering it cost", "region_gain": "covering it gained"}
        verb = verbs.get(alert["rule"], "pasting it elsewhere gained")
        return f"{verb} {format_percent(alert['effect'])} of the margin in the screening"
    if alert["rule"] == "image_wide":
        return f"{format_ratio(alert['effect'])} standard deviations from the other pairs"
    if alert["rule"] == "overlay_absence":
        return f"{format_ratio(alert['effect'])} times as often absent as in the other pairs"
    references = {"spread_stamp": "as frequent as in all pairs", "region_contrast": "its share in the other pairs"}
    reference = references.get(alert["rule"], "its share of the area")
    if alert.get("side") == "text":
        reference = "the odds expected from its share of the words"
    return f"{format_ratio(alert['effect'])} times {reference}"


def format_concentration(alert: Mapping[str, Any]) -> str:
    """Format the concentration of an alert or of a region in a slice as a number.

    An alert of a rule in `SCREENED` stores its figure in the screening in its place; its concentration is share divided
    by area.
    """
    if alert.get("rule") not in SCREENED:
        return format_ratio(alert["effect"])
    return format_ratio(alert["share"] / alert["area"] if alert["area"] and alert["share"] is not None else None)


def format_loss(loss: float | None) -> str:
    """Format a loss of the score as the verb of a sentence, such as "fell by 0.010" or "rose by 0.010"."""
    return f"{'rose' if (loss or 0) < 0 else 'fell'} by {format_score(None if loss is None else abs(loss))}"


def format_figures(alert: Mapping[str, Any]) -> str:
    """Format the figures of an alert: shares of attribution and area, pairs, concentration, rule, and same slices."""
    same = ", ".join(_isolate_line(name) for name in alert.get("same_slices") or ())
    end = f"{format_effect(alert)} (rule {alert['rule']}){f'; the same pairs: {same}' if same else ''}"
    if (kind := find_alert_kind(alert)) in WITHOUT_PLACE:
        return f"{format_count(alert['n'], 'pair')}{' that lack the mark' if kind == 'absence' else ''}; {end}"
    return (
        f"{format_percent(alert['share'])} of the attribution on {format_percent(alert['area'])} of the "
        f"{'words' if alert['side'] == 'text' else 'image'} in {format_pairs(alert)}; "
        f"{end}"
    )


def format_test(alert: Mapping[str, Any]) -> str:
    """Format the result of an alert's test: how much the margin fell without the region or phrase.

    Args:
        alert: A row with `side`, `state`, `score_effect` and `margin`. The interval (`score_low`, `score_high`),
            `floor`, `q`, `tests`, `reason` and `score_effect_before` are included in the text if the row has them.
    """
    reason = alert.get("reason")
    if alert["score_effect"] is None:
        return f"not tested: {reason or 'confirmation is off ([confirm] enabled = false)'}"
    subject, verb, controls = _TEST_WORDS[find_alert_kind(alert)]
    margin, loss = format_score(alert["margin"]), alert["score_effect"]
    text = f"{subject} {verb}s the margin of {margin} by {format_score(loss)} more than {controls}"
    if find_alert_kind(alert) == "sufficient":
        text = (
            f"{subject} {verb}s their score for these captions by {format_score(loss)} more than {controls}; the "
            f"margin of the pairs themselves is {margin}"
        )
    if loss <= 0:
        text = f"{subject} does not {verb} the margin of {margin} more than {controls}"
    formats: dict[str, Callable[[Any], str]] = {
        "score_effect": lambda loss: "" if loss > 0 else f"score loss {format_score(loss)}",
        "score_low": lambda low: f"95% interval {format_interval(low, alert['score_high'])}",
        "floor": lambda floor: f"floor {format_score(floor)}",
        "q": lambda q: f"q {format_p_value(q)}",
        "tests": lambda tests: format_count(tests, "test"),
        "score_effect_before": lambda loss: f"previously {format_score(loss)}",
    }
    details = [describe(alert[key]) for key, describe in formats.items() if alert.get(key) is not None]
    text += f" ({', '.join(filter(None, details))})" if any(details) else ""
    return text if alert["state"] == "confirmed" or not reason else f"{text}; {reason}"


def format_reliance(alert: Mapping[str, Any]) -> str:
    """Format which kinds of reliance are confirmed, such as "needed and sufficient"; empty for a suspected alert.

    Alerts of earlier releases were tested for what is needed alone.
    """
    return "" if alert["state"] != "confirmed" else " and ".join(alert.get("reliance") or ["needed"])


def format_pasting(alert: Mapping[str, Any]) -> str:
    """Format the test of sufficiency as sentences: what pasting the region into other pairs does.

    The text is empty if there was no such test; the row then has `pasted_effect` None or no such column.
    """
    if alert.get("pasted_effect") is None:
        return ""
    rise, control = format_score(alert["pasted_rise"]), format_score(alert["pasted_control_rise"])
    verdict = "So it is sufficient" if alert["pasted_confirmed"] else "This does not show that it is sufficient"
    if _is_only_sufficient(alert):
        verdict += ", and the score of these pairs was not shown to need it"
    return (
        f"Pasted into {format_count(alert['pasted_n'], 'image')} with other captions, it changed their score for these "
        f"captions by {rise}, the controls by {control} (95% interval of the difference "
        f"{format_interval(alert['pasted_low'], alert['pasted_high'])}). {verdict}."
    )


def format_comparison(alert: Mapping[str, Any]) -> str:
    """Format what a test compared, as sentences: units, those outside of the slice, and what limits its result.

    The text is empty if nothing was measured, or an earlier release tested.
    """
    if alert.get("units") is None:
        return ""
    has = f"have the {'phrase' if alert['side'] == 'text' else 'region'}"
    if find_alert_kind(alert) == "absence":
        has = "lack the mark"
    change = _CHANGES.get(find_alert_kind(alert), "score loss")
    kind = "distinct caption" if alert["side"] == "text" else "independent unit"
    text = f"The test has {format_count(alert['units'], kind)}. "
    if alert["outside_p"] is not None:
        text += (
            f"In {format_count(alert['outside_units'], 'unit')} outside of the slice that {has}, the "
            f"{change} is {format_score(alert['outside_effect'])} (p {format_p_value(alert['outside_p'])})."
        )
        if alert["outside_units"] < LEAST_OUTSIDE:
            text += " These are too few to decide whether the alert is confirmed."
    elif alert["slice_kind"] == "corpus" and not _is_only_sufficient(alert):
        text += f"The slice is the whole corpus, so the {change} is compared with the controls alone."
    elif alert["outside_units"] is not None and find_alert_kind(alert) != "image-wide":  # it takes over theirs
        text += (
            f"Too few units outside of the slice {has} ({alert['outside_units']}), so the {change} is "
            "compared with the controls alone."
        )
    if alert["split"] is False:
        text += " The slice is too small to be split: a rule chose it by the same units that are tested."
    if alert["losing"] > 0.5:
        text += (
            f" The model prefers another caption in {format_percent(alert['losing'])} of these pairs: a loss in "
            "percent of the margin means little."
        )
    return text.strip()


def format_minimal(alert: Mapping[str, Any]) -> str:
    """Format the score loss against captions that differ in one word, as a sentence; empty without such captions."""
    if alert.get("minimal_effect") is None:
        return ""
    interval = format_interval(alert["minimal_low"], alert["minimal_high"])
    details = ", ".join(filter(None, (interval, format_count(alert["minimal_n"], "unit"))))
    change = _CHANGES.get(find_alert_kind(alert), "score loss")
    return (
        f"Against other captions that differ from the pair's own in one word only, the {change} is "
        f"{format_score(alert['minimal_effect'])} ({details}); this has no influence on the verdict."
    )


def format_alert_update(row: Mapping[str, Any], escape: Escape = _isolate_line) -> str:
    """Format a row of the alert history (table `lives`) as one line: status, state, the alert and its figures."""
    parts = [f"{format_status(row['life']).upper()} ({format_state(row)}): {format_alert(row, escape)}"]
    if row["score_effect"] is not None:
        # The row of an alert that this run did not raise repeats the figures of the last run that did.
        parts.append(format_test(row if row["alert_id"] is not None else {**row, "score_effect_before": None}))
    parts.append(format_figures(row))
    if row["why"]:
        parts.append(escape(row["why"]))
    return "; ".join(parts)


def format_message(row: Mapping[str, Any]) -> str:
    """Format what a message (a row of `undelivered_messages`) is about, such as "alert new: overlay 1"."""
    _, about, what = row["event"].split(".")
    if about == "alert":
        region = format_region_label(row["region"] or NO_VALUE)
        return f"alert {what.replace('-', ' ')}: {_isolate_line(region)}"
    if what in ("digest", "open-alerts"):
        number = format_count(row["alerts"], "alert" if what == "digest" else "open alert")
        return f"digest of {number}" if what == "digest" else f"{number} of earlier runs"
    return f"run {what.replace('-', ' ')}"


# Runs


def format_coverage(counts: Mapping[str, Any]) -> str:
    """Format how much of a corpus a run attributed, such as "99.8% of 512 rows", or "60 of 243 rows (sample)".

    `counts` has the counts of a manifest, or the columns of the same names of the table `runs`.
    """
    done, rows, left = counts["attributions"] or 0, counts["corpus_rows"], counts.get("not_sampled") or 0
    if not rows:
        return NO_VALUE
    if not left:
        return f"{format_percent(done / rows)} of {format_count(rows, 'row')}"
    return f"{done:,} of {rows:,} rows (sample{'' if done == rows - left else f' of {rows - left:,}'})"


def format_units(row: Mapping[str, Any]) -> str:
    """Format what the units of a run are and how many there are; `row` is that of the query `review/units`.

    An example is "50 units (values of the column “patient”) of 208 pairs".
    """
    column = row["unit_column"]
    what = f"values of the column “{_isolate_line(column)}”" if column else "images; near-duplicates count once"
    return f"{format_count(row['units'], 'unit')} ({what}) of {format_count(row['pairs'], 'pair')}"


def format_stage(name: str) -> str:
    """Format the name of a stage of a run; `start`, the start of the program, comes before the time of the run."""
    return "start, before the run" if name == "start" else name.replace("_", " ")


def format_audit(run: Mapping[str, Any]) -> str:
    """Format the name of a run's audit or, without one, the last part of the corpus's path, and the model."""
    return run.get("audit") or f"{run['corpus'].rstrip('/').rsplit('/', 1)[-1]} with {run['model']}"


def format_status(status: str | None) -> str:
    """Format the status of a run or of an alert in the alert history, such as "still firing"."""
    return "unknown" if status is None else status.replace("_", " ")


def format_headline(manifest: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]]) -> str:
    """Format the result of a run as a headline; `alerts` are its independent alerts."""
    status = manifest["status"]
    reason = textwrap.shorten(manifest["reason"] or "no reason was stored", 120, placeholder=" …")
    if status == "running":
        return "Not finished: the run is in progress or was interrupted"
    if status in ("stopped", "failed", "interrupted", "pruned"):
        return f"{'Stopped by a gate' if status == 'stopped' else status.capitalize()}: {reason}"
    if not alerts and not manifest["counts"]["attributions"]:
        return "No alerts, because no pair was attributed"
    if not alerts:
        return "No alerts, but parts of the corpus failed" if status == "completed_with_errors" else "No alerts"
    numbers = {state: sum(alert["state"] == state for alert in alerts) for state in ("confirmed", "suspected")}
    total = " and ".join(f"{number} {state}" for state, number in numbers.items() if number)
    if len(alerts) == 1:
        return f"{total} alert: {format_alert(alerts[0])}"
    return f"{total} alerts. The strongest: {format_alert(min(alerts, key=itemgetter('rank')))}"


# Decisions and interventions


def format_decision(decision: str, until: date | str | None = None, *, describe: bool = False) -> str:
    """Format a stored decision, such as "acceptable"; with `describe`, "acceptable: the model may rely on this".

    `until` is the last day of a waiver.
    """
    label = _DECISION_LABELS.get(decision, decision)
    if decision == "waived" and (until or describe):
        label = f"waived until {until or 'a day'}"
    return f"{label}: {DECISION_DESCRIPTIONS[decision]}" if describe and decision in DECISION_DESCRIPTIONS else label


def format_label(name: str) -> str:
    """Format the stored name of a meaning, identity or fill, such as "review: examined the evidence"."""
    return (MEANING_LABELS | IDENTITY_LABELS | _FILL_LABELS).get(name, name)
