"""The command that erases the pairs of a person from a lake."""

import getpass
import sys
from typing import Annotated, Any

import typer

from flows.commands import output
from stores import Root, format_command


def erase(
    pair: Annotated[
        list[str] | None, typer.Option("--pair", metavar="PAIR_ID", help="Id of a pair to erase; repeatable.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="SQL condition over pairs and their attributes: \"patient_id = 'x'\"."),
    ] = None,
    word: Annotated[
        list[str] | None,
        typer.Option("--word", help="Also delete texts of decisions that contain this, such as a name; repeatable."),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Reason for the ledger, such as a ticket number; must identify nobody.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who erases; default: the user of this account.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Erase without asking.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Complete an erasure that was interrupted.")] = False,
    lake: output.LakeOption = output.LAKE,
    key: output.KeyOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Erase the pairs of a person from all runs: captions, maps, examples, reports and texts of decisions.

    Erase them from the corpus first. The ledger records which files changed, but not who was erased.
    """
    from review.presentation.numbers import format_count
    from tasks.lake.erase import load_plan
    from tasks.lake.plan_erasure import plan_erasure
    from tasks.progress import bar

    plan, resume_command = load_plan(lake), format_command(lake, "erase", "--resume")
    if resume == bool(pair or where or word or reason):
        output.fail("erase: expected --pair or --where with --reason, or --resume alone")
    if resume and plan is None:
        output.fail(f"erase: no erasure of {lake} was interrupted; nothing is left to do")
    if not resume and plan is not None:
        output.fail(f"erase: an erasure of {lake} was interrupted; complete it first: {resume_command}")
    incomplete = False
    if plan is None:
        if not (pair or where) or reason is None:
            output.fail("erase: expected --pair or --where, and --reason")
        with output.exit_on_error(next_step="erase again"), bar("searching the lake"):
            plan, preview = plan_erasure(lake, pair or [], where, word or [], by or getpass.getuser(), reason)
        incomplete = _print_preview(plan, preview)
        if not yes:
            if not sys.stdin.isatty():
                output.fail("erase: nothing was erased; to erase, add --yes")
            typer.confirm("Erase this? It cannot be undone.", abort=True, err=True)
    changed = _erase(lake, plan, key)
    counts = format_count(len(plan.pairs), "pair"), format_count(len(changed), "run")
    output.say(f"erased: {counts[0]} from {counts[1]}; check the lake: {format_command(lake, 'verify', 'all')}")
    if as_json:
        files = sorted(plan.files)
        output.print_json({"pairs": len(plan.pairs), "runs": changed, "files": files, "complete": not incomplete})
    if incomplete:
        raise typer.Exit(output.Exit.FAILURE)


def _print_preview(plan: Any, preview: Any) -> bool:
    """Print what would be erased, and return whether something cannot be erased."""
    from review.presentation.numbers import format_count

    output.print_table(
        [
            {
                "run": run_id,
                "pairs": rows["pairs"],
                "rows": sum(rows.values()),
                "alerts": rows["alerts"],
                "reports": sum(path.startswith(f"runs/{run_id}/report") for path in plan.files),
            }
            for run_id, rows in preview.rows.items()
        ]
    )
    rewritten = {f"runs/{run_id}/report.html" for run_id in _list_html_reports(plan)}
    for label, names in (
        ("slices and regions that only these pairs have", preview.names),
        ("records of the ledger whose text is deleted", preview.records),
        ("reports to write again", [path for path in sorted(plan.files) if path in rewritten]),
        ("files to delete", [path for path in sorted(plan.files) if path not in rewritten]),
    ):
        if names:
            output.say(f"{label}: {_shorten(names)}")
    for place, listed in preview.in_corpora.items():
        if listed is None:
            output.note(f"warning: corpus {place} cannot be read here; make sure that it no longer has the pairs")
        elif listed:
            output.note(
                f"warning: corpus {place} still has {listed} of the pairs: the next audit reads them again; "
                "remove them from the corpus first"
            )
    if preview.same_images:
        others = format_count(preview.same_images, "other pair")
        output.note(f"warning: with the same images, and kept: {others}")
    if preview.unsearched:
        output.note(f"warning: these files cannot be searched, check them: {_shorten(preview.unsearched)}")
    if preview.kept_records:
        output.note(
            f"warning: NOT ERASED: records {_shorten(preview.kept_records)} of the ledger were written by a release "
            "that stored texts in the chain; their texts identify the person, and cannot be erased (docs/hospital.md)"
        )
    for run_id, reason in preview.damage.items():
        output.note(f"warning: NOT ERASED from run {run_id}: {reason}; then erase again")
    return bool(preview.kept_records or preview.damage)


def _list_html_reports(plan: Any) -> list[str]:
    """Return the runs whose HTML report is deleted, and written again without the pairs."""
    return [path.split("/")[1] for path in plan.files if path.startswith("runs/") and path.endswith("/report.html")]


def _shorten(names: list[Any]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(map(str, names[:20])) + more


def _erase(lake: Root, plan: Any, key: Any) -> list[str]:
    """Carry out the plan, write the deleted HTML reports again, and return the runs that changed."""
    from review.report.html import ReportError, write_report
    from review.site.reads import ReadsLog, get_folder
    from tasks.lake.erase import erase as erase_pairs
    from tasks.progress import track

    with output.exit_on_error(next_step=f"run: {format_command(lake, 'erase', '--resume')}"):
        if get_folder(lake).is_dir():  # first, since the plan that names the pairs goes last
            ReadsLog(get_folder(lake), lake).erase_pairs(plan.pairs)
        changed = list(track(erase_pairs(lake, plan, key), description="erasing"))
        for run_id in track(_list_html_reports(plan), description="writing reports again"):
            try:
                write_report(lake, run_id, by="m2ib-audit erase", signer=key)
            except ReportError as error:
                output.note(f"m2ib-audit: {error}")
    for path in sorted(plan.files):
        if path.startswith("runs/") and path.endswith(".pdf"):
            command = format_command(lake, "report", path.split("/")[1], "--pdf")
            output.note(f"deleted: {path}; to write it again: {command}")
    return changed
