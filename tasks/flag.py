"""Attributions -> shares of regions and phrases -> findings: run the rules of sql/rules and the custom rules."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task

import sql
from tasks.custom_rules import evaluate_rule
from tasks.errors import BadInputError
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import Run
from tasks.progress import track
from tasks.settings import AlertsConfig

_HOTTEST = "hottest"  # the name of separate files: the hottest corner is chosen from the other regions


def flag_regions(run: Run, settings: AlertsConfig, custom_rules: Mapping[str, str]) -> list[str]:
    """Compute the shares of regions and phrases, run every rule, and store `region_shares` and `findings`.

    A custom rule (SQL text by name) that fails has no findings and does not end the run. The manifest lists it,
    because alerts that it raised in earlier runs must not count as resolved.

    Returns:
        One sentence for each custom rule that failed.
    """
    thresholds = {"run_id": run.run_id, "factor": settings.factor, "min_pairs": settings.min_pairs}
    with run.connect() as connection:
        queries = ("derive/region_shares", "derive/phrase_shares")
        tables = [sql.table(connection, query, run_id=run.run_id) for query in queries]
    shares = pa.concat_tables(tables, promote_options="permissive")
    # An earlier attempt may have chosen a hottest corner, which must not count as a configured region.
    chosen = {run.relative_path(table, _HOTTEST) for table in ("regions", "region_shares")}
    with run.changes() as changes:
        changes.update(files=[entry for entry in run.read_manifest()["files"] if entry["path"] not in chosen])
        changes.write_table("region_shares", shares.filter(pc.field("region") != "hottest corner"))
    with run.connect() as connection:  # again: a connection sees the files that the manifest listed when it began
        hottest = sql.table(connection, "derive/hottest_corners", **thresholds)
    with run.changes() as changes:
        for table in ("regions", "region_shares"):
            changes.write_table(table, hottest, _HOTTEST)
    with run.connect() as connection:
        findings = [
            {**row, "rule": rule, "rule_digest": sql.text_digest(sql.query_text(f"rules/{rule}"))}
            for rule in track(sql.query_names("rules"), description="applying rules")
            for row in sql.rows(connection, f"rules/{rule}", **thresholds)
        ]
        warnings, failed = [], []
        for name, text in custom_rules.items():
            try:
                findings += evaluate_rule(connection, name, text, thresholds)
            except BadInputError as error:
                warnings.append(f"{error}; it has no findings: fix it, try it on this run, and audit again")
                failed.append(name)
    # A rule need not return the side: names of phrases are in double quotes.
    rows = [{**row, "side": "text" if row["region"].startswith('"') else "image"} for row in findings]
    with run.changes() as changes:
        changes.write_table("findings", rows)
        changes.update(failed_rules=failed)
    return warnings


flag = task(name="flag", **TASK_OPTIONS)(flag_regions)
