"""Chapters of the report on method: slices, self-audit, gates, limits, settings, requirements and provenance."""

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from review.presentation.formatting import format_effect, format_stage, isolate_text
from review.presentation.glossary import reader_terms
from review.presentation.numbers import (
    NO_VALUE,
    format_count,
    format_duration,
    format_json,
    format_percent,
    format_time,
)
from review.report.alerts import FIGURE_COLUMNS, REGION_COLUMNS
from review.report.blocks import (
    TEXTS,
    TITLES,
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


def build_slices(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter on the regions and slices with the largest concentrations."""
    rows = facts.slice_shares
    if not rows:
        reason = "" if facts.manifest["counts"]["attributions"] else ": the run has no attributions"
        yield Paragraph(f"No region was compared with the threshold in any slice{reason}.")
    else:
        yield from _build_shares(facts, rows)
    if facts.without_place:
        yield Paragraph(TEXTS["slices"]["without_place"])
        yield build_table(
            [
                *REGION_COLUMNS,
                Column("Pairs", lambda row: format_count(row["n"]), "number"),
                Column("Difference", format_effect, width=3),
                Column("Outcome", _format_outcome, "name", 3),
            ],
            facts.without_place,
            bold_rows=_number_leaders(facts.without_place),
        )


def _build_shares(facts: RunFacts, rows: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    listed = f" The table lists the {len(rows)} with the largest concentration." if rows[0]["found"] > len(rows) else ""
    yield Paragraph(
        TEXTS["slices"]["introduction"].format(
            number=format_count(rows[0]["found"], "combination"),
            min_pairs=facts.min_pairs,
            listed=listed,
            factor=facts.setting("alerts", "factor"),
        )
    )
    yield build_table(
        [*REGION_COLUMNS, *FIGURE_COLUMNS, Column("Outcome", _format_outcome, "name", 3)],
        rows,
        bold_rows=_number_leaders(rows),
    )


def _number_leaders(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return [number for number, row in enumerate(rows) if row["alerted"] and row["explained_by"] is None]


def _format_outcome(row: Mapping[str, Any]) -> str:
    if not row["alerted"]:
        return "no alert"
    return "alert" if row["explained_by"] is None else f"explained by “{row['explained_by']}”"


def build_self_audit(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter on the self-audit: sensitivity and false alarms of the audit."""
    if not facts.self_audit:
        yield Paragraph(TEXTS["self-audit"]["missing"])
        return
    yield Items([Item("", f"{text[:1].upper()}{text[1:]}.") for text in facts.self_audit])
    yield Paragraph(TEXTS["self-audit"]["note"], "note")


def build_gates(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter on gates and on rows that were left out."""
    failed = [check for check in facts.checks if not check["success"]]
    if facts.checks:
        number = format_count(len(facts.checks), "check")
        yield Paragraph(TEXTS["gates"]["introduction"].format(number=number, failed=len(failed) or "none"))
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
    values = {
        "compared": compared,
        "were": "was" if number == 1 else "were",
        "overlays": overlays,
        "bottleneck": _format_bottleneck(facts),
        "self_audit": TITLES["self-audit"],
    }
    yield Items([Item(lead, text.format(**values)) for lead, text in TEXTS["limits"]["items"].items()])


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
    ("Suspected: minimum concentration", "alerts", "factor"),
    ("Suspected: minimum number of pairs", "alerts", "min_pairs"),
    ("Confirmed: maximum q", "confirm", "level"),
    ("Confirmed: floor relative to the mean margin", "confirm", "floor_share"),
    ("Confirmed: maximum number of pairs covered", "confirm", "pairs"),
    ("Confirmed: controls per region", "confirm", "controls"),
    ("Confirmed: maximum number of foils", "confirm", "foils"),
    ("Self-audit: largest share of the cost", "confirm", "self_audit"),
)


def build_settings(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter on the settings that were fixed before the run."""
    manifest = facts.manifest
    yield Paragraph(TEXTS["settings"]["introduction"].format(time=format_time(manifest["started_at"])))
    if manifest.get("reflags"):
        yield Paragraph(TEXTS["settings"]["reflags"].format(run=manifest["reflags"]))
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
    """Read requirements.toml: what each article of a law or framework requires, and the chapters that answer."""
    return tomllib.loads(Path(__file__).with_name("requirements.toml").read_text(encoding="utf-8"))


def build_requirements(facts: RunFacts) -> Iterator[Block]:
    """Yield the chapter that maps requirements of laws and frameworks to chapters."""
    yield Paragraph(TEXTS["requirements"]["introduction"])
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
    yield Paragraph(TEXTS["provenance"]["note"], "note")
    if seconds := manifest.get("stage_seconds"):
        total = sum(seconds.values()) or 1
        yield build_table(
            [
                Column("Stage", lambda row: format_stage(row["stage"]), width=3),
                Column("Time", lambda row: format_duration(row["seconds"]), "number"),
                Column("Share", lambda row: format_percent(row["seconds"] / total), "number"),
            ],
            [
                {"stage": stage, "seconds": seconds[stage]}
                for stage in sorted(seconds, key=seconds.__getitem__, reverse=True)
            ],
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
    yield Paragraph(TEXTS["signature"]["introduction"])
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
