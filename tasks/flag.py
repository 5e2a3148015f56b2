"""Attributions -> shares of regions and phrases -> findings: run the rules of sql/rules and the custom rules."""

from collections.abc import Mapping
from typing import Any

from prefect import task

import sql
from tasks.custom_rules import evaluate_rule
from tasks.errors import BadInputError
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import ManifestChanges, Run
from tasks.progress import track
from tasks.records import claim_of
from tasks.settings import AlertsConfig


@task(name="flag", **TASK_OPTIONS)
def flag(run: Run, settings: AlertsConfig, custom_rules: Mapping[str, str]) -> list[str]:
    """Compute the shares of regions and phrases, run every rule, and store `region_shares` and `findings`.

    Readers of the lake see either none or all of these rows. `custom_rules` has the SQL text of each rule by name. A
    custom rule that fails has no findings and does not end the run: return a sentence about it, and list it in the
    manifest, because alerts that it raised in earlier runs must not count as resolved.
    """
    thresholds = {"run_id": run.run_id, "factor": settings.factor, "min_pairs": settings.min_pairs}
    with run.changes() as changes:
        with changes.open_writer("region_shares") as shares, run.connect() as connection:
            for query in ("derive/region_shares", "derive/phrase_shares"):
                for rows in sql.batches(connection, query, run_id=run.run_id):
                    shares.write(rows)
        with (  # separate files, which a repeated stage replaces
            changes.open_writer("regions", "hottest") as regions,
            changes.open_writer("region_shares", "hottest") as shares,
            changes.connect() as connection,
        ):
            for rows in sql.batches(connection, "derive/hottest_corners", **thresholds):
                regions.write(rows)
                shares.write(rows)
        findings, warnings, failed = _apply_rules(changes, custom_rules, thresholds)
        # A rule need not return the side: names of phrases are in double quotes.
        sides = ("text" if row["region"].startswith('"') else "image" for row in findings)
        named = [row["region"] for row in findings]
        with changes.open_writer("region_shares", "without-boxes") as shares, changes.connect() as connection:
            for rows in sql.batches(connection, "derive/shares_without_boxes", run_id=run.run_id, regions=named):
                shares.write(rows)
        changes.write_table("findings", [{**row, "side": side} for row, side in zip(findings, sides, strict=True)])
        changes.update(failed_rules=failed)
    return warnings


def _apply_rules(
    changes: ManifestChanges, custom_rules: Mapping[str, str], thresholds: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Return the findings of all rules, a sentence about each custom rule that failed, and the names of these rules."""
    warnings, failed = [], []
    with changes.connect() as connection:
        limits = {"run_id": thresholds["run_id"], "min_pairs": thresholds["min_pairs"]}
        for name in ("costs", "shares"):  # costs first: its query reads the view of shares
            sql.materialize(connection, f"slice_{name}", f"derive/proposing_{name}", **limits)
        findings = [
            {**row, "rule": rule, "rule_digest": sql.text_digest(sql.query_text(f"rules/{rule}"))}
            for rule in track(sql.query_names("rules"), description="applying rules")
            for row in sql.rows(connection, f"rules/{rule}", **thresholds)
        ]
        for name, text in custom_rules.items():
            try:
                findings += evaluate_rule(connection, name, text, thresholds)
            except BadInputError as error:
                warnings.append(
                    f"{error}; the rule has no findings: fix it, try it with m2ib-audit rule try, and audit again"
                )
                failed.append(name)
        # A rule needs the figures of a concept in all slices to compare with, but may propose it in some only.
        found_in = sql.rows(connection, "derive/concept_claims", run_id=thresholds["run_id"])
        proposed = {claim_of(row) for row in found_in if row["proposed"]}
        names = {row["region"] for row in found_in}
        findings = [row for row in findings if row["region"] not in names or claim_of(row) in proposed]
    return _show_all_pairs(changes, findings, limits), warnings, failed


def _show_all_pairs(
    changes: ManifestChanges, findings: list[dict[str, Any]], limits: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return findings with the figures of all pairs of their slices: half of the units only decides what is found."""
    names = ("rule", "region", "slice_kind", "slice", "share", "area", "effect")
    lists = {f"{name}s": [row[name] for row in findings] for name in names}
    with changes.connect() as connection:  # whose views are not those that rules saw
        figures = sql.rows(connection, "derive/figures_of_findings", **limits, **lists)
    return [row | whole for row, whole in zip(findings, figures, strict=True)]
