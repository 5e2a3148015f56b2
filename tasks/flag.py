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


@task(name="flag", **TASK_OPTIONS)
def flag(run: Run, settings: AlertsConfig, custom_rules: Mapping[str, str]) -> list[str]:
    """Compute the shares of regions and phrases, run every rule, and store `region_shares` and `findings`.

    Readers of the lake see either none or all of these rows. `custom_rules` has the SQL text of each rule by name. A
    custom rule that fails has no findings and does not end the run: return a sentence about it, and list it in the
    manifest, because alerts that it raised in earlier runs must not count as resolved.
    """
    thresholds = {"run_id": run.run_id, "factor": settings.factor, "min_pairs": settings.min_pairs}
    with run.changes() as changes, run.connect() as connection:
        queries = ("derive/region_shares", "derive/phrase_shares")
        tables = [sql.table(connection, query, run_id=run.run_id) for query in queries]
        # An earlier attempt may have chosen a hottest corner, which must not count as a configured region.
        shares = pa.concat_tables(tables, promote_options="permissive").filter(pc.field("region") != "hottest corner")
        regions = sql.read_table(connection, "FROM regions WHERE kind IS DISTINCT FROM 'hottest'")
        sql.replace_rows(connection, "region_shares", shares)
        hottest = sql.table(connection, "derive/hottest_corners", **thresholds)
        changes.write_table("region_shares", shares)
        for table, others in (("regions", regions), ("region_shares", shares)):
            rows = pa.concat_tables([others, hottest.select(others.column_names)], promote_options="permissive")
            sql.replace_rows(connection, table, rows)
            changes.write_table(table, hottest, "hottest")  # a separate file, which a repeated stage replaces
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
                warnings.append(f"{error}; the rule has no findings: fix it, try it on this run, and audit again")
                failed.append(name)
        # A rule need not return the side: names of phrases are in double quotes.
        rows = [{**row, "side": "text" if row["region"].startswith('"') else "image"} for row in findings]
        changes.write_table("findings", rows)
        changes.update(failed_rules=failed)
    return warnings
