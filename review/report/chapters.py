"""The report of a run as a document: its summary, its scope, and all chapters in order.

HTML and PDF are rendered from the same document, so that their content is the same.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import sql
from review.presentation.formatting import (
    WITHOUT_PLACE,
    find_alert_kind,
    format_alert,
    format_effect,
    format_pairs,
    format_status,
    format_units,
    isolate_text,
)
from review.presentation.numbers import (
    NO_VALUE,
    format_count,
    format_duration,
    format_nats,
    format_percent,
    format_score,
    format_time,
)
from review.report import alerts, decisions, method
from review.report.blocks import (
    TEXTS,
    TITLES,
    Block,
    Chapter,
    Column,
    Document,
    Fact,
    Facts,
    Item,
    Items,
    Paragraph,
    build_table,
)
from review.report.facts import RunFacts


def build_document(facts: RunFacts) -> Document:
    """Return the report of a run as a document, built from its facts."""
    chapters = [Chapter(key, TITLES[key], list(build(facts))) for key, build in _CHAPTERS.items()]
    alert_chapters = [
        Chapter(f"alert-{number}", f"Alert {number}: {format_alert(alert.row)}", list(alerts.build_alert(facts, alert)))
        for number, alert in enumerate(facts.alerts, start=1)
    ]
    return Document(
        run_id=facts.run_id,
        as_of=facts.as_of,
        overline=f"Audit report · {facts.manifest['model']} · run {facts.run_id} · {format_time(facts.end_time)}",
        title=facts.headline,
        summary=list(_build_summary(facts)),
        chapters=[*chapters[:2], *alert_chapters, *(chapter for chapter in chapters[2:] if chapter.blocks)],
        footer=f"run {facts.run_id} · manifest sha256 {facts.manifest_sha256[:16]}",
        color_scale=facts.color_scale,
    )


# Summary


def _build_summary(facts: RunFacts) -> Iterator[Block]:
    manifest = facts.manifest
    if facts.warning:
        yield Paragraph(facts.warning, "state", strong=True)
    yield Paragraph(_describe_result(facts), "lead")
    if facts.erasure:
        yield Paragraph(facts.erasure)
    if len(facts.alerts) > 1:
        items = [
            Item(
                alerts.capitalize(format_alert(alert.row)),
                f", {alert.row['state']}: {format_effect(alert.row)}",
                f"alert-{number}",
            )
            for number, alert in enumerate(facts.alerts, start=1)
        ]
        yield Items(items, numbered=True)
    reason = f"{', with a warning' if manifest['status'] == 'completed' else ''}: {manifest['reason']}"
    seconds = dict(manifest.get("stage_seconds") or {})
    start = f", after {format_duration(seconds.pop('start'))} to start" if "start" in seconds else ""
    stages = f"; {format_duration(sum(seconds.values()))} in its stages{start}" if seconds else ""
    as_of = f"{format_time(facts.end_time)}, the end of the run; the ledger had no record then"
    if last := facts.last_record:
        as_of = TEXTS["summary"]["as_of"].format(number=last.number, time=format_time(last.at))
    dependent = len(facts.orphan_alerts) + sum(len(alert.dependent) for alert in facts.alerts)
    explained = f", {dependent} explained by these" if dependent else ""
    yield Facts(
        [
            Fact("Status", format_status(manifest["status"]) + (reason if manifest["reason"] else "")),
            Fact("Decisions", decisions.summarize_decisions(facts)),
            Fact("Sign-offs", decisions.summarize_sign_offs(facts)),
            *([Fact("Audit", isolate_text(manifest["audit"]))] if manifest.get("audit") else []),
            Fact("Model", manifest["model"], f"sha256 {(manifest['model_digest'] or NO_VALUE)[:12]}"),
            Fact("Corpus", manifest["corpus"], f"sha256 {(manifest['corpus_digest'] or NO_VALUE)[:12]}"),
            Fact("Audited", _describe_rows(facts)),
            *([Fact("Independent units", format_units(facts.units))] if facts.units["pairs"] else []),
            Fact("Error rows", _summarize_errors(facts)),
            Fact("Alerts", f"{len(facts.alerts)} independent{explained}"),
            Fact("Time", f"{format_time(manifest['started_at'])} to {format_time(manifest['finished_at'])}{stages}"),
            Fact("As of", as_of),
        ]
    )


def _describe_result(facts: RunFacts) -> str:
    texts: dict[str, str] = TEXTS["summary"]
    if facts.alerts:
        return _describe_strongest_alert(facts.alerts[0].row)
    if facts.manifest["status"] in sql.COMPLETE:
        return texts["no_alert"].format(
            factor=facts.setting("alerts", "factor"), min_pairs=facts.min_pairs, limits=TITLES["limits"]
        )
    return texts["stopped"] if facts.manifest["status"] == "stopped" else texts["incomplete"]


def _describe_strongest_alert(row: Mapping[str, Any]) -> str:
    texts = alerts.alert_texts(row)
    text = "“Concentrates on” means: "
    if row["state"] == "confirmed":
        share = format_percent(alerts.share_of_margin(row))
        text = texts["reliance"].format(loss=format_score(row["score_effect"]), share=share)
        if row["rule"] == "region_cost":
            text += f"In the screening, covering it cost {format_percent(row['effect'])} of the margin. "
    text += texts["attribution"].format(
        share=format_percent(row["share"]), area=format_percent(row["area"]), pairs=format_pairs(row)
    )
    if row["rest_share"] is not None and find_alert_kind(row) not in WITHOUT_PLACE:
        text += f" In all other pairs it is {format_percent(row['rest_share'])}."
    return f"{text} {TEXTS['summary'][row['state']].format(part=texts['part'], limits=TITLES['limits'])}"


def _describe_rows(facts: RunFacts) -> str:
    counts = facts.manifest["counts"]
    if counts.get("not_sampled"):
        text = (
            f"{format_count(counts['corpus_rows'] - counts['not_sampled'])} of "
            f"{format_count(counts['corpus_rows'], 'row')}, sampled by hash"
        )
        if stratify := facts.config.get("corpus", {}).get("stratify"):
            text += f" in equal parts of each {stratify}"
    else:
        text = f"{format_count(counts['corpus_rows'], 'row')} of the corpus"
    text += (
        f"; {format_count(counts['pairs'], 'pair')} readable, {format_count(counts['attributions'], 'pair')} attributed"
    )
    if counts.get("reused"):
        text += f", {format_count(counts['reused'])} of them in earlier runs"
    if facts.truncated_captions:
        text += f"; {format_count(facts.truncated_captions, 'caption')} truncated to the context length of the model"
    return text


def _summarize_errors(facts: RunFacts) -> str:
    if not facts.errors:
        return "none"
    reasons = ", ".join(f"{error['reason']} {format_count(error['n'])}" for error in facts.errors)
    return f"{format_count(sum(error['n'] for error in facts.errors))}: {reasons}"


# What was audited


def _build_scope(facts: RunFacts) -> Iterator[Block]:
    manifest, counts = facts.manifest, facts.manifest["counts"]
    yield Paragraph("Corpus", "heading")
    read = facts.config.get("corpus", {})
    columns = [
        f"{name.replace('_', ' ')} {read[name]}" for name in ("image_column", "caption_column") if read.get(name)
    ]
    skipped = "none: every row was read"
    if counts.get("not_sampled"):
        skipped = f"{format_count(counts['not_sampled'], 'row')}; this report says nothing about them"
    errors = f"; reasons and examples are listed under “{TITLES['gates']}”" if facts.errors else ""
    duplicates = "none"
    for row in facts.near_duplicates:
        duplicates = f"{format_count(row['images'], 'image')} in {format_count(row['groups'], 'group')}"
    attributed = f"{format_count(counts['pairs'])}, of which {format_count(counts['attributions'])} attributed"
    yield Facts(
        [
            Fact("Location", isolate_text(manifest["corpus"])),
            Fact("Format", ", ".join([manifest.get("corpus_format") or NO_VALUE, *columns])),
            Fact(
                "Digest",
                "computed from the pairs that were read: images, captions and their order",
                f"sha256 {manifest['corpus_digest'] or NO_VALUE}",
            ),
            Fact("Rows", format_count(counts["corpus_rows"])),
            Fact("Not sampled", skipped),
            Fact("Error rows", f"{_summarize_errors(facts)}{errors}"),
            Fact("Pairs", attributed),
            Fact("Near-duplicates", duplicates),
            Fact("Slices", _count_slices(facts)),
        ]
    )
    yield Paragraph("Model", "heading")
    settings = [f"{name} {value}" for name, value in sorted(facts.config.get("model", {}).items()) if value is not None]
    truncated = "no caption was truncated"
    if facts.truncated_captions:
        truncated = f"{format_count(facts.truncated_captions, 'caption')} truncated"
    grids = ", ".join(f"{row['grid_h']} × {row['grid_w']} ({format_count(row['n'], 'pair')})" for row in facts.grids)
    yield Facts(
        [
            Fact("Name", isolate_text(manifest["model"])),
            Fact("Settings", isolate_text(", ".join(settings)) or NO_VALUE),
            Fact(
                "Digest",
                "computed from weights, architecture, preprocessing and tokenizer, independent of the file format",
                f"sha256 {manifest['model_digest'] or NO_VALUE}",
            ),
            Fact("Preprocessing", "from the model’s own configuration; maps and pictures show the preprocessed image"),
            Fact("Tokenizer", f"the model’s own; {truncated}"),
            Fact("Patch grid", grids or NO_VALUE),
        ]
    )


def _count_slices(facts: RunFacts) -> str:
    kinds = {"word": "words", "phrase": "word pairs", "attribute": "attribute values", "cluster": "clusters of maps"}
    counts = [
        "the whole corpus"
        if row["slice_kind"] == "corpus"
        else f"{format_count(row['n'])} {kinds.get(row['slice_kind'], row['slice_kind'])}"
        for row in facts.slice_counts
    ]
    return ", ".join(counts) or "none was large enough"


# Alerts of earlier runs, and pairs for comparison


def _build_missing_alerts(facts: RunFacts) -> Iterator[Block]:
    if not facts.missing_alerts:
        return
    yield Paragraph(TEXTS["history"]["introduction"])
    yield build_table(
        [
            Column("Status", lambda row: format_status(row["life"])),
            *alerts.REGION_COLUMNS,
            Column("State", "state", width=2),
            Column("Last seen", lambda row: format_time(row["last_seen"]), width=3),
            Column("Reason", "why", "name", 5),
        ],
        facts.missing_alerts,
    )


def _build_comparison(facts: RunFacts) -> Iterator[Block]:
    if not facts.comparison_pairs:
        return
    texts = TEXTS["comparison"]
    legend = texts["same_scales"] if facts.alerts else texts["legend"].format(top=format_nats(facts.album.text_top))
    pairs = format_count(len(facts.comparison_pairs), "pair")
    yield Paragraph(texts["introduction"].format(pairs=pairs, legend=legend))
    yield Paragraph(format_nats(facts.album.image_top), "scale")
    regions = list(dict.fromkeys(alert.row["region"] for alert in facts.alerts))
    for pair in facts.comparison_pairs:
        yield alerts.build_card(pair, regions)


_CHAPTERS: Final[Mapping[str, Callable[[RunFacts], Iterator[Block]]]] = {
    "decisions": decisions.build_decisions,
    "scope": _build_scope,
    # The chapters of the alerts come here.
    "dependent": alerts.build_dependent_alerts,
    "history": _build_missing_alerts,
    "comparison": _build_comparison,
    "slices": method.build_slices,
    "self-audit": method.build_self_audit,
    "gates": method.build_gates,
    "limits": method.build_limits,
    "settings": method.build_settings,
    "requirements": method.build_requirements,
    "provenance": method.build_provenance,
    "signature": method.build_signature,
}
"""Functions that yield the blocks of a chapter, by key and in order; empty chapters are left out."""
