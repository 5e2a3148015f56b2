"""Chapters of the report on method: slices, self-audit, gates, limits, settings, requirements and provenance."""

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from review.presentation.formatting import (
    NO_VALUE,
    format_count,
    format_duration,
    format_json,
    format_percent,
    format_time,
    isolate_text,
)
from review.presentation.glossary import reader_terms
from review.report.alerts import FIGURE_COLUMNS, REGION_COLUMNS
from review.report.blocks import (
    Block,
    Column,
    Details,
    Fact,
    Facts,
    Item,
    Items,
    Paragraph,
    SignatureLines,
    build_table,
)
from review.report.facts import RunFacts

TITLES: Final[Mapping[str, str]] = {
    "decisions": "Decisions and signatures",
    "scope": "What was audited",
    "dependent": "Alerts explained by others",
    "history": "Earlier alerts that this run did not raise",
    "comparison": "Other pairs, for comparison",
    "slices": "Regions and slices compared with the threshold",
    "self-audit": "Sensitivity of this audit",
    "gates": "Gates and error rows",
    "limits": "How to read this report, and its limits",
    "settings": "Settings fixed before the run",
    "requirements": "Requirements of laws and frameworks",
    "provenance": "Provenance",
    "signature": "Handwritten signature",
}
"""Titles of the chapters, by key; chapters on alerts have titles of their own."""


def build_slices(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter on the regions and slices with the largest effects."""
    rows = facts.slice_shares
    if not rows:
        reason = "" if facts.manifest["counts"]["attributions"] else ": the run has no attributions"
        yield Paragraph(f"No region was compared in any slice{reason}.")
        return
    min_pairs = facts.setting("alerts", "min_pairs")
    text = f"{format_count(rows[0]['found'], 'combination')} of region and slice had at least {min_pairs} pairs. "
    if rows[0]["found"] > len(rows):
        text += f"The table lists the {len(rows)} with the largest effect. "
    yield Paragraph(
        f"{text}Attribution and area are mean shares; effect is their ratio. For a phrase, shown in double quotes, "
        f"area is its share of the words and effect is a ratio of odds. An alert requires an effect of at least "
        f"{facts.setting('alerts', 'factor')}, or a confirmation."
    )
    yield build_table(
        [*REGION_COLUMNS, *FIGURE_COLUMNS, Column("Outcome", _format_outcome, "name", 3)],
        rows,
        bold_rows=[number for number, row in enumerate(rows) if row["alerted"] and row["explained_by"] is None],
    )


def _format_outcome(row: Mapping[str, Any]) -> str:
    if not row["alerted"]:
        return "no alert"
    return "alert" if row["explained_by"] is None else f"explained by “{row['explained_by']}”"


def build_self_audit(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter on the self-audit: sensitivity and false alarms of the audit."""
    if not facts.self_audit:
        yield Paragraph("This run did not audit itself: its sensitivity and its rate of false alarms are unknown.")
        return
    yield Items([Item("", f"{text[:1].upper()}{text[1:]}.") for text in facts.self_audit])
    yield Paragraph(
        "The first figure assumes that the region affects every pair equally. A region that only some pairs need is "
        "found less often.",
        "note",
    )


def build_gates(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter on gates and on rows that were left out."""
    failed = [check for check in facts.checks if not check["success"]]
    if facts.checks:
        yield Paragraph(
            f"{format_count(len(facts.checks), 'check')} of the corpus, the attributions and their accounting; "
            f"{len(failed) or 'none'} failed. A critical failure stops the run before any alert is raised."
        )
        results = Counter((check["suite"], bool(check["success"])) for check in facts.checks)
        yield build_table(
            [
                Column("Suite", "suite", width=2),
                Column("Passed", lambda row: str(results[row["suite"], True]), "number"),
                Column("Failed", lambda row: str(results[row["suite"], False]), "number"),
            ],
            [{"suite": suite} for suite in sorted({suite for suite, _ in results})],
        )
    else:
        yield Paragraph("No check was run.")
    if failed:
        yield build_table(
            [
                Column("Severity", "severity"),
                Column("Suite", "suite", width=2),
                Column("Check", "expectation", width=3),
                Column("Column", "column_name", width=2),
                Column("Rows", lambda check: format_count(check["unexpected_count"]), "number"),
                Column("Observed", lambda check: check["observed"] or NO_VALUE, "name", 2),
                Column("Expected", "detail", "name", 4),
            ],
            failed,
            "Failed checks",
        )
    if not facts.errors:
        yield Paragraph("No row of the corpus was left out.")
        return
    yield build_table(
        [
            Column("Reason", "reason", "name", 2),
            Column("Stage", "stage"),
            Column("Rows", lambda error: format_count(error["n"]), "number"),
            Column("Examples", _format_examples, "name", 6),
        ],
        facts.errors,
        "Rows that were left out, by reason, with examples",
    )


def _format_examples(error: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{isolate_text(row['file_name'] or 'no file name')}: {isolate_text(row['detail'] or '')}"
        for row in error["examples"]
    )


def build_limits(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter that explains terms and limits."""
    yield Facts([Fact(term.title, term.text) for term in reader_terms()], "terms")
    number = facts.slice_shares[0]["found"] if facts.slice_shares else None
    compared = "All combinations" if not number else format_count(number, "combination")
    overlays = ", recurring overlays" if facts.config.get("discover", {}).get("enabled") else ""
    yield Items(
        [
            Item(
                "A suspected alert is a hypothesis, not a proof.",
                " Post hoc attribution can miss spurious signals that nobody knew of, and can raise false alarms "
                "(Adebayo et al., “Post hoc explanations may be ineffective for detecting unknown spurious "
                "correlation”, ICLR 2022).",
            ),
            Item(
                "Confirmed means that the score depends on the region",
                ", on these images and compared with these other captions. It does not mean that the region is "
                "spurious: the score also depends on a finding that the caption names. Covering makes images look "
                "unnatural; the controls are covered in the same way.",
            ),
            Item(
                "Suspected does not mean harmless.",
                " A region that only some pairs need, or that the model uses only if there is no other evidence, can "
                "stay below the floor.",
            ),
            Item(
                "No alert does not mean no defect.",
                " Which effects this run would have confirmed, and how often random regions are confirmed, is listed "
                f"under “{TITLES['self-audit']}”.",
            ),
            Item(
                "Multiple comparisons.",
                f" {compared} of region and slice {'was' if number == 1 else 'were'} compared with one threshold "
                "(suspected), without a correction for their number. Tests (confirmed) are corrected.",
            ),
            Item(
                "Only some regions and slices were compared:",
                f" the configured regions{overlays}, phrases that stand out (fixed word sequences that captions do "
                "not need, words with digits, punctuation, and listed phrases), and the slices that captions, "
                "attributes and clusters of maps define. A spurious signal elsewhere raises no alert.",
            ),
            Item(
                "What this audit cannot detect:",
                " a signal without a location (noise, texture, a color cast, the brightness of a device); a mark that "
                "looks different each time (dates, handwriting) and has no fixed place; what every pair of the corpus "
                "has, because no pair lacks it; what this corpus does not show; and what is smaller than a few pixels "
                "after resizing to the input size of the model.",
            ),
            Item(
                "The pairs of an alert are selected by effect.",
                " They show what the alert means, not how frequent it is. The mean maps and the pairs for comparison "
                "show that.",
            ),
            Item(
                "Maps depend on settings",
                ": the layer of each tower that has the bottleneck (depth, layer), the price of a nat (beta), the "
                f"noise statistics, and the number of optimization steps.{_format_bottleneck(facts)}",
            ),
        ]
    )


def _format_bottleneck(facts: RunFacts) -> str:
    settings = facts.config.get("bottleneck") or {}
    towers = [name for name in ("image", "text") if isinstance(settings.get(name), Mapping)]
    shared = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    parts = []
    for tower, values in [*((tower, settings[tower]) for tower in towers), ("", shared)]:
        given = sorted((name.replace("_", " "), value) for name, value in values.items() if value is not None)
        parts.append(f"{tower} {', '.join(f'{name} {value}' for name, value in given)}".strip())
    return f" In this run: {'; '.join(filter(None, parts))}." if settings else ""


_THRESHOLDS: Final = (
    ("Suspected: minimum effect", "alerts", "factor"),
    ("Suspected: minimum number of pairs", "alerts", "min_pairs"),
    ("Confirmed: maximum q", "confirm", "level"),
    ("Confirmed: floor relative to the mean margin", "confirm", "floor_share"),
    ("Confirmed: maximum number of pairs covered", "confirm", "pairs"),
    ("Confirmed: controls per region", "confirm", "controls"),
    ("Confirmed: maximum number of foils", "confirm", "foils"),
    ("Self-audit: random regions", "confirm", "negatives"),
)


def build_settings(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter on the settings that were fixed before the run."""
    manifest = facts.manifest
    yield Paragraph(
        "Thresholds and settings are written to the manifest when the run starts (here "
        f"{format_time(manifest['started_at'])}), before anything is computed. A run cannot be resumed with other "
        "settings. Whether they were chosen with knowledge of earlier results on this corpus cannot be verified."
    )
    if manifest.get("reflags"):
        yield Paragraph(
            f"This run applies its rules to the attributions of run {manifest['reflags']}, which were known when its "
            "settings were chosen."
        )
    yield build_table(
        [Column("Threshold", "label", width=4), Column("Value", "value", "number")],
        [{"label": label, "value": str(facts.setting(section, key))} for label, section, key in _THRESHOLDS],
    )
    rules = sorted((manifest.get("rules") or {}).items())
    suites = sorted({(check["suite"], check["suite_digest"]) for check in facts.checks if check["suite_digest"]})
    yield Facts(
        [
            Fact(
                "All settings",
                "digest of the resolved configuration, which is listed under Provenance",
                f"sha256 {manifest['config_digest'] or NO_VALUE}",
            ),
            *(Fact(f"Rule {name}", "digest of the query", f"sha256 {digest}") for name, digest in rules),
            *(Fact(f"Gate {suite}", "digest of the checks", f"sha256 {digest}") for suite, digest in suites),
        ]
    )


def load_requirements() -> dict[str, dict[str, dict[str, Any]]]:
    """Read requirements.toml: what each article of a law or framework requires, and the chapters that answer it."""
    return tomllib.loads(Path(__file__).with_name("requirements.toml").read_text(encoding="utf-8"))


def build_requirements(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter that maps requirements of laws and frameworks to chapters."""
    yield Paragraph(
        "This chapter helps to collect documents; it is not legal advice. The requirements are paraphrased from "
        "secondary sources: check the original text, and which parts apply to you and from when (for the duties of the "
        "AI Act on high-risk systems, dates of December 2027 and August 2028 have been reported). The last column "
        "states what this report does not answer."
    )
    titles = {**TITLES, "alerts": "Alert 1 and following" if facts.alerts else "no alert was raised"}
    if not facts.missing_alerts:
        titles["history"] = "the status of each alert"
    columns = [
        Column("Source", "source", width=3),
        Column("Requirement", "text", width=5),
        Column("Answered in", lambda row: "; ".join(titles[key] for key in row["chapters"]), width=5),
        Column("Not answered here", "not_answered", width=7),
    ]
    for framework, requirements in load_requirements().items():
        yield Paragraph(framework, "heading")
        yield build_table(columns, [{"source": source, **row} for source, row in requirements.items()])


def build_provenance(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter on digests, versions, times and files."""
    manifest = facts.manifest
    environment = sorted((manifest.get("environment") or {}).items())
    rows = [
        Fact("Run", "", manifest["run_id"]),
        Fact("Started, finished", f"{format_time(manifest['started_at'])}, {format_time(manifest['finished_at'])}"),
        Fact("Manifest", "digest of the file that lists all other files", f"sha256 {facts.manifest_sha256}"),
        _build_ledger_fact(facts),
        Fact("Model", isolate_text(manifest["model"]), f"sha256 {manifest['model_digest'] or NO_VALUE}"),
        Fact("Corpus", isolate_text(manifest["corpus"]), f"sha256 {manifest['corpus_digest'] or NO_VALUE}"),
        Fact("Configuration", "", f"sha256 {manifest['config_digest'] or NO_VALUE}"),
        Fact("Seed", str(manifest["seed"])),
        Fact("Code version", manifest["code_version"]),
        Fact("Environment", ", ".join(f"{name} {version}" for name, version in environment) or NO_VALUE),
        Fact("Prefect flow run", "" if manifest.get("flow_run") else "none", manifest.get("flow_run")),
    ]
    if manifest.get("base_run"):
        rows.append(Fact("Incremental", f"attributions of unchanged pairs come from run {manifest['base_run']}"))
    if manifest.get("reflags"):
        rows.append(Fact("Re-flags", f"run {manifest['reflags']}"))
    rows += [
        Fact(
            "Rewritten",
            f"{format_time(entry['at'])}, {entry['what']}: {entry['why']}; previous manifest",
            f"sha256 {entry['sha256']}",
        )
        for entry in manifest.get("earlier_manifests", [])
    ]
    yield Facts(rows)
    yield Paragraph(
        "“m2ib-audit verify” recomputes all digests from the lake and reports every file and record that differs. "
        "“m2ib-audit verify --report FILE” checks whether a copy of this report was changed. The hash chain of the "
        "ledger reveals changes to its records. It does not reveal that its end was replaced, unless the digest of its "
        "last record is stored elsewhere.",
        "note",
    )
    if seconds := manifest.get("stage_seconds"):
        total = sum(seconds.values()) or 1
        yield build_table(
            [
                Column("Stage", lambda row: row["stage"].replace("_", " "), width=3),
                Column("Time", lambda row: format_duration(row["seconds"]), "number"),
                Column("Share", lambda row: format_percent(row["seconds"] / total), "number"),
            ],
            [{"stage": stage, "seconds": value} for stage, value in seconds.items()],
            "Time per stage",
        )
    yield Details("Resolved configuration", [Paragraph(format_json(facts.config), "code")])
    yield build_table(
        [
            Column("File", "path", "code"),
            Column("Rows", lambda file: format_count(file["rows"]), "number"),
            Column("sha256", "sha256", "digest"),
        ],
        facts.files,
        "Files of the run",
    )


def _build_ledger_fact(facts: RunFacts) -> Fact:
    if facts.last_record is None:
        return Fact("Ledger", "had no record when this report was written")
    record = facts.last_record
    return Fact("Ledger", f"record {record.number}, {format_time(record.at)}", f"sha256 {record.sha256}")


def build_signature(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter with lines for a handwritten signature."""
    yield Paragraph(
        "For processes that require ink. A signature here exists only on this copy. It does not replace a sign-off and "
        "is not recorded in the ledger."
    )
    yield Facts(
        [
            Fact("Run", "", facts.manifest["run_id"]),
            Fact("Manifest", "", f"sha256 {facts.manifest_sha256}"),
            _build_ledger_fact(facts),
        ]
    )
    yield SignatureLines(
        ["Printed name", "Role", "Meaning (review, approval, responsibility, authorship)", "Date and time", "Signature"]
    )
