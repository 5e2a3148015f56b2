"""Commands that operate audits: schedule them, check the installation, list runs."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

import sql
from flows.commands import output
from flows.commands.audits import prepare_prefect
from review.presentation.numbers import format_duration
from stores.run_records import describe_unrecorded


def runs(
    limit: Annotated[int, typer.Option(min=1, help="Number of newest runs to list.")] = 20,
    lake: output.LakeOption = output.LAKE,
    as_json: output.JsonOption = False,
) -> None:
    """List the runs of a lake, newest first: how they ended, and what they found."""
    with sql.connect(lake) as connection:
        output.warn_unadopted(lake, connection)
        found = sql.rows(connection, "review/page_runs", audit="all", status="any", limit=limit, offset=0)
        damage = sorted(sql.list_damage(connection).items(), reverse=True)
    if as_json:
        output.print_json({"runs": found, "damaged": dict(damage)})
        return
    named = any(row["audit"] for row in found)
    output.print_table(
        [
            {
                "run": row["run_id"],
                **({"audit": row["audit"] or ""} if named else {}),
                "status": row["status"] + ("" if sql.is_trusted(row) else ", not recorded"),
                "took": _duration(row["started_at"], row["finished_at"]),
                "pairs": f"{row['attributions']} of {row['pairs']}",
                "errors": row["errors"],
                "alerts": row["alerts"],
                "independent": _independent(row),
            }
            for row in found
        ]
    )
    reasons = [f"{row['run_id']}: {row['reason']}" for row in found if row["reason"]]
    for line in reasons[:5] + [f"{run_id}: damaged: {reason}" for run_id, reason in damage]:
        output.say(line)
    if unrecorded := [row["run_id"] for row in found if not sql.is_trusted(row)]:
        output.note(f"m2ib-audit: run {unrecorded[0]} {describe_unrecorded(lake, unrecorded[0])}")


def _independent(row: dict[str, Any]) -> str:
    """Format the number of a run's independent alerts by state."""
    counts = {state: row[f"own_{state}"] for state in ("confirmed", "suspected")}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "0"


def _duration(start: datetime, end: datetime | None) -> str:
    return "" if end is None else format_duration((end - start).total_seconds())


def schedule(
    audit_file: output.AuditFile,
    cron: Annotated[str, typer.Option(metavar="CRON", help="When to audit, such as '0 3 * * *' for 03:00.")],
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Attribute only pairs that no earlier run of the lake has attributed.")
    ] = False,
    timezone: Annotated[str, typer.Option(help="Time zone of --cron.")] = "UTC",
    name: Annotated[
        str | None, typer.Option(help="Name of the deployment. Default: that of the AUDIT.toml or the corpus.")
    ] = None,
    lake: output.OtherLakeOption = None,
    as_json: output.JsonOption = False,
    verbose: output.VerboseOption = False,
) -> None:
    """Schedule audits: create or update the Prefect deployment of an AUDIT.toml. Run it again if the file changes."""
    prepare_prefect(verbose)
    config = output.load_config(audit_file, lake)
    if incremental:
        config = config.model_copy(update={"lake": config.lake.model_copy(update={"incremental": True})})
    with output.reach_server("schedule"):
        from flows.schedule import POOL, choose_name, schedule_audit

        full_name, created = schedule_audit(config, name or choose_name(audit_file, config), cron, timezone)
    if created:
        output.say(f"created: work pool {POOL}, for one audit at a time")
    output.say(f"scheduled: {full_name}, {cron} {timezone}")
    output.note(f"to start a worker:    prefect worker start --pool {POOL}")
    output.note(f"to run it now:        prefect deployment run {full_name}")
    output.note(f"to stop scheduling:   prefect deployment delete {full_name}")
    if as_json:
        output.print_json({"deployment": full_name, "pool_created": created})


def doctor(
    audit_file: Annotated[
        Path | None, typer.Argument(metavar="[AUDIT.toml]", help="Also check its key, and that it is scheduled.")
    ] = None,
    lake: output.OtherLakeOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Check Prefect, who is notified, lake, key, disk, GPU and versions; show the next step for what is wrong.

    Exits with 1 if a check fails.
    """
    prepare_prefect(False)
    config = None if audit_file is None else output.load_config(audit_file, lake)
    root = config.lake.root if config is not None else output.parse_lake(lake or output.LAKE)
    from flows.doctor import FAILURE, OK, check_all

    checks = []
    for check in check_all(root, config, audit_file, lake is not None):
        checks.append(check)
        if not as_json:
            output.say(f"{check.result:8} {check.name}: {check.finding}")
            if check.next_step:
                output.say(f"{'':8} next: {check.next_step}")
    if as_json:
        output.print_json({"checks": [vars(check) for check in checks]})
    elif all(check.result == OK for check in checks):
        output.say("all is well")
    if any(check.result == FAILURE for check in checks):
        raise typer.Exit(output.Exit.FAILURE)
