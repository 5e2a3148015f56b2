"""Commands on a lake: query it, verify it, and keep it small."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

import sql
import stores
from flows.commands import output
from stores import Root, format_command


def query(
    text: Annotated[
        str,
        typer.Argument(
            metavar="QUERY",
            help="One SELECT over the tables and views of the lake, see docs/sql.md; e.g. 'SELECT * FROM runs'.",
        ),
    ],
    lake: output.LakeOption = output.LAKE,
    as_json: output.JsonOption = False,
) -> None:
    """Query the lake in DuckDB's SQL, read-only."""
    with sql.connect(lake, memory="80%") as connection:  # as much as DuckDB's own shell
        output.print_rows("rows", sql.read(connection, text), as_json)


def try_rule(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="SQL file of the rule; see docs/rules.md.")],
    run_id: Annotated[
        str, typer.Argument(metavar="[RUN_ID]", help="Id of a complete run, `latest`, or an audit's name.")
    ] = "latest",
    lake: output.LakeOption = output.LAKE,
    as_json: output.JsonOption = False,
) -> None:
    """Check a custom rule as an audit does, run it on a complete run, and print its rows. Stores nothing.

    $run_id, $factor and $min_pairs are those of the run.
    """
    from review.presentation.numbers import format_count
    from tasks.custom_rules import COLUMNS, check_rules, evaluate_rule, read_rule

    text = read_rule(file)
    check_rules({file.stem: text})
    complete = {record["run_id"]: record for record in sql.read_manifests(lake) if sql.is_complete(record)}
    record = complete.get(output.choose_run(lake, run_id, complete=True))
    if record is None:
        newest = ", ".join(list(complete)[:-6:-1]) or "none"
        output.fail(f"rule try: got {run_id!r}, expected latest, or a complete run of {lake}, newest: {newest}")
    thresholds = {key: record["config"]["alerts"][key] for key in ("factor", "min_pairs")}
    with sql.connect(lake, record["run_id"]) as connection:
        rows = evaluate_rule(connection, file.stem, text, {"run_id": record["run_id"], **thresholds})
    output.print_rows("rows", [{key: row[key] for key in COLUMNS} for row in rows], as_json)
    bound = ", ".join(f"{key} {value}" for key, value in thresholds.items())
    output.note(f"rule {file.stem}: {format_count(len(rows), 'finding')} on run {record['run_id']} with {bound}")


def prune(
    older_than: Annotated[
        str | None, typer.Option(metavar="180d|36h|4w", help="Prune runs that ended longer ago than this.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep the N newest complete runs of each audit.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without it, only list what would be deleted.")] = False,
    lake: output.LakeOption = output.LAKE,
    key: output.KeyOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Delete the files of old runs that no other run needs. Their manifests are kept.

    With both --older-than and --keep, a run is pruned only if both allow it. All runs of one corpus and model belong
    to one audit.
    """
    if older_than is None and keep is None:
        output.fail("prune: got no limit, expected --older-than 180d, --keep 30, or both")
    age = None if older_than is None else output.parse_age(older_than)
    if older_than is not None and age is None:
        output.fail(f"--older-than: got {older_than!r}, expected hours, days or weeks, such as 36h, 180d or 4w")
    from review.presentation.numbers import format_bytes, format_count
    from tasks.lake.prune import RetentionPolicy, plan_pruning, prune_run

    with output.exit_on_error(next_step="prune again"):
        fates = plan_pruning(lake, RetentionPolicy(age, keep))
        refusals = {fate.run_id: prune_run(lake, fate, key) if yes else None for fate in fates if fate.pruned}
    verb = "pruned" if yes else "prune"
    output.print_table(
        [
            {
                "run": fate.run_id,
                "": verb if fate.pruned and refusals[fate.run_id] is None else "keep",
                "why": refusals.get(fate.run_id) or fate.why,
                "size": format_bytes(fate.bytes),
                "status": fate.status,
                "ended": fate.ended[:16],
                "audit": fate.audit,
            }
            for fate in fates
        ]
    )
    pruned = [fate for fate in fates if fate.pruned and refusals[fate.run_id] is None]
    freed = sum(fate.bytes or 0 for fate in pruned)
    files = sum(fate.files or 0 for fate in pruned)
    text = f"{len(pruned)} of {format_count(len(fates), 'run')}, {format_count(files, 'file')}, {format_bytes(freed)}"
    output.say(f"pruned: {text}" if yes else f"would be pruned: {text}; nothing was deleted; to delete, add --yes")
    if as_json:
        rows = [dataclasses.asdict(fate) | {"kept_after_all": refusals.get(fate.run_id)} for fate in fates]
        output.print_json({"deleted": yes, "runs": len(pruned), "bytes": freed, "fates": rows})


def compact(
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="[RUN_ID]", help="Id of a complete run, `latest`, or an audit's name."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Compact all complete runs of the lake.")] = False,
    lake: output.LakeOption = output.LAKE,
    key: output.KeyOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Merge the many small files of complete runs into few, with the same rows in the same order."""
    if (run_id is None) != everything:
        output.fail("compact: expected either a run's id, `latest`, or --all")
    from tasks.errors import AuditError
    from tasks.lake.compact import compact_run
    from tasks.lake.run import Run

    rows: list[dict[str, Any]] = []
    refused: list[str] = []
    with output.exit_on_error(next_step="compact again"):
        known = {record["run_id"]: record["status"] for record in sql.read_manifests(lake)}
        complete = [name for name, status in known.items() if status in sql.COMPLETE]
        chosen = complete if run_id is None else [output.choose_run(lake, run_id, complete=True)]
        if not everything and chosen[0] not in known:
            newest = ", ".join(complete[:-6:-1]) or "none"
            output.fail(f"compact: got {run_id!r}, expected a complete run of the lake {lake}: {newest}")
        for name in chosen:
            try:
                merged = compact_run(Run(lake, name), key)
            except AuditError as error:  # concerns this run alone
                refused.append(str(error))
                continue
            rows += [{"run": name, **table} for table in merged]
    output.print_table(rows)
    for message in refused:
        output.note(f"m2ib-audit: {message}")
    if as_json:
        output.print_json({"compacted": rows, "refused": refused})
    if refused:
        raise typer.Exit(output.Exit.FAILURE)


def verify(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN_ID]", help="Id of a run, `latest`, an audit's name, or `all`; optional with --report."
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256|FILE",
            help="Noted sha256 of a ledger record, which must still exist, or the file that [ledger] head_file names.",
        ),
    ] = None,
    public_key: Annotated[
        list[str] | None,
        typer.Option(
            "--public-key",
            metavar="FILE|FOLDER",
            help="Public key (.pub file, or a folder of them) that must have signed the records; repeatable.",
        ),
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Check that this report was not changed."),
    ] = None,
    lake: output.LakeOption = output.LAKE,
    as_json: output.JsonOption = False,
) -> None:
    """Verify the ledger, the manifests and every file; report each difference. Exits with 1 if there is any."""
    if run_id is None and report_file is None:
        output.fail("verify: got nothing to verify, expected a run's id, latest, all, or --report FILE")
    from review.evidence import verify as evidence
    from review.evidence.verify_result import format_result, to_json
    from stores.keys import load_public_keys
    from tasks.progress import bar

    if run_id not in (None, "latest", "all"):  # these two also verify a lake whose manifests cannot be read
        run_id = output.choose_run(lake, run_id)
    verdict = None
    with bar("verifying"), output.exit_on_error(output.Exit.FAILURE, "verify again"):
        answer: dict[str, Any] = {} if report_file is None else _verify_report(lake, report_file)
        public = [key for path in public_key or () for key in load_public_keys(path)]
        # A report can be trusted as far as the ledger that lists it.
        if run_id is not None or public or head is not None:
            verdict = evidence.verify(lake, run_id, public, head)
    for line in [] if verdict is None else format_result(verdict):
        output.say(line)
    if as_json:
        output.print_json(answer | ({} if verdict is None else to_json(verdict)))
    if (verdict is not None and not verdict.is_intact) or answer.get("known") is False:
        raise typer.Exit(output.Exit.FAILURE)


def _verify_report(lake: Root, path: Path) -> dict[str, Any]:
    """Check that the ledger has a record of a report file, print the result, and return it for --json."""
    from review.evidence.verify_result import VerifyError
    from review.evidence.written_reports import find_written_report

    try:
        found = find_written_report(lake, stores.read_bytes(path))
    except VerifyError as error:
        output.note(f"m2ib-audit: {error}")
        return {"report": str(path), "known": False}
    record, body = found.record, found.record.body
    output.say(
        f"report {path}: unchanged since it was written for run {body['run_id']} on "
        f"{record.time:%Y-%m-%d %H:%M:%S} UTC (record {record.number} of the ledger)"
    )
    for label, records in (
        ("decisions, signatures and rewrites since then, which are not in the report", found.later_records),
        ("waivers that have expired since then", found.expired_waivers),
    ):
        if records:
            output.say(f"  {label}: record {', '.join(str(one.number) for one in records)}")
    return {
        "report": str(path), "known": True, "run_id": body["run_id"], "record": record.number,
        "since": len(found.later_records), "waivers_over": len(found.expired_waivers),
    }  # fmt: skip


def adopt(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="Id of a run, or `all`.")],
    lake: output.LakeOption = output.LAKE,
    key: output.KeyOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Record runs that are missing in the lake's ledger, as they are stored now.

    `all` is for a lake of an earlier release, once. It leaves out runs that should already have a record. `verify`
    reports them; adopt such a run by its id once you know why its record is missing.
    """
    from tasks.lake.journal import adopt_run, list_missing
    from tasks.lake.run import Run

    with output.exit_on_error(output.Exit.FAILURE, "adopt again"):
        with sql.connect(lake) as connection:
            damage = sql.list_damage(connection)
        if run_id in damage:
            output.fail(f"adopt: run {run_id} is damaged: {damage[run_id]}")
        known = [record["run_id"] for record in sql.read_manifests(lake, damage=damage)]
        if run_id not in ("all", *known):
            newest = ", ".join(known[:-6:-1]) or "none"
            output.fail(f"adopt: got {run_id!r}, expected all, or a run of the lake {lake}: {newest}")
        runs = [Run(lake, name) for name in known if run_id in ("all", name)]
        left = list_missing(runs) if run_id == "all" else []
        adopted = [run.run_id for run in runs if run.run_id not in left and adopt_run(run, key)]
    for name in adopted:
        output.say(f"adopted: {name}")
    output.say(f"runs recorded: {len(adopted)}; the others are in the ledger already, or have not ended")
    for name in left:
        commands = format_command(lake, "verify", name), format_command(lake, "adopt", name)
        output.note(
            f"adopt: run {name} was not recorded: the ledger should have its record, but has none; check it with "
            f"{commands[0]}, and if it can be trusted, run: {commands[1]}"
        )
    if as_json:
        output.print_json({"adopted": adopted, "left": left})
    if left:
        raise typer.Exit(output.Exit.FAILURE)
