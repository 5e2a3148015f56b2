"""Attributions -> shares of regions and phrases -> findings: runs the rules of sql/rules, and the user's own."""

from collections.abc import Mapping

import pyarrow as pa
from prefect import task

import sql
from tasks.custom_rules import evaluate_rule
from tasks.errors import BadInputError
from tasks.execution import TASK_OPTIONS
from tasks.lake.run import Run
from tasks.progress import track
from tasks.settings import AlertsConfig

_HOTTEST = "hottest"  # files beside those of the regions that it is chosen from


def _forget_hottest(run: Run) -> None:
    """Unlist what an earlier attempt chose: it would be weighed as if it had been given."""
    own = {run.relative_path(table, _HOTTEST) for table in ("regions", "region_shares")}
    run.update(files=[entry for entry in run.read_manifest()["files"] if entry["path"] not in own])


def flag_regions(run: Run, settings: AlertsConfig, custom_rules: Mapping[str, str]) -> list[str]:
    """Weigh regions and phrases, run every rule, store `region_shares` and `findings`.

    A rule of the user's own that fails on the run's rows has no finding, and costs nothing else: returns a sentence for
    each that failed, and notes its name in the manifest, since what it raised before is not gone.
    """
    thresholds = {"run_id": run.run_id, "factor": settings.factor, "min_pairs": settings.min_pairs}
    _forget_hottest(run)
    with run.connect() as connection:
        sides = ("derive/region_shares", "derive/phrase_shares")
        shares = [sql.table(connection, query, run_id=run.run_id) for query in sides]
        run.write_table("region_shares", pa.concat_tables(shares, promote_options="permissive"))
    with run.connect() as connection:
        hottest = sql.table(connection, "derive/hottest_corners", **thresholds)
    for table in ("regions", "region_shares"):
        with run.open_writer(table, _HOTTEST) as writer:
            writer.write(hottest)
        run.register_files(table, [run.path(table, _HOTTEST)], [writer.rows])
    with run.connect() as connection:
        findings = [
            {**row, "rule": rule, "rule_digest": sql.query_digest(f"rules/{rule}")}
            for rule in track(sql.query_names("rules"), description="applying rules")
            for row in sql.rows(connection, f"rules/{rule}", **thresholds)
        ]
        warnings, failed = [], []
        for name, text in custom_rules.items():
            try:
                findings += evaluate_rule(connection, name, text, thresholds)
            except BadInputError as error:
                warnings.append(f"{error}; it has no findings: mend it, try it on this run, and audit again")
                failed.append(name)
    # A rule need not say which side its region is of: its name does.
    sided = [{**row, "side": "text" if row["region"].startswith('"') else "image"} for row in findings]
    run.write_table("findings", sided)
    run.update(failed_rules=failed)
    return warnings


@task(name="flag", **TASK_OPTIONS)
def flag(run: Run, settings: AlertsConfig, custom_rules: Mapping[str, str]) -> list[str]:
    """Propose suspicions; see `flag_regions`."""
    return flag_regions(run, settings, custom_rules)
