"""Attributions -> shares of regions and phrases -> findings: runs the rules of sql/rules."""

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

import sql
from tasks.lake import Run
from tasks.records import AlertRules


def flag_regions(run: Run, rules: AlertRules) -> int:
    """Weigh regions and phrases, run every rule, store `region_shares` and `findings`; returns how many findings."""
    with run.connect() as connection:
        sides = ("derive/region_shares", "derive/phrase_shares")
        shares = [sql.table(connection, query, run_id=run.run_id) for query in sides]
        run.write_arrow("region_shares", pa.concat_tables(shares, promote_options="permissive"))
    thresholds = {"run_id": run.run_id, "factor": rules.factor, "min_pairs": rules.min_pairs}
    with run.connect() as connection:
        findings = [
            {**row, "rule": rule, "rule_digest": sql.digest(f"rules/{rule}")}
            for rule in sql.names("rules")
            for row in sql.rows(connection, f"rules/{rule}", **thresholds)
        ]
    return run.write_table("findings", findings)


@task(name="flag", cache_policy=NO_CACHE, persist_result=False)
def flag(run: Run, rules: AlertRules) -> int:
    """Propose suspicions; see `flag_regions`."""
    return flag_regions(run, rules)
