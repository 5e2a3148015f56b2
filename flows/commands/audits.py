"""Commands that run audits, re-flag them and list their alerts."""

import contextlib
import os
import shlex
import signal
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import sql
from flows import START
from flows.commands import output
from flows.server import start_server
from stores import Root, format_command
from stores.run_records import describe_unrecorded

NotifyOption = Annotated[
    bool, typer.Option("--notify", help="Notify the recipients that `notify` has set up, as runs of deployments do.")
]
_DEMO_PAIRS = "512, or 800 for demo/varied"
_DEMO_DATA = "demo-data, or demo-data-varied"
_FIGURES = {"concentration": "effect", "score loss": "score_effect"}
"""Figures of an alert in its history, by name in text."""


def demo(
    model: Annotated[
        str,
        typer.Option(
            help="Model: demo/shortcut; demo/clean, which relies on no shortcut; demo/varied, whose shortcut varies in "
            "look and place, or demo/varied-next, which is demo/varied trained again."
        ),
    ] = "demo/shortcut",
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Number of pairs to generate.", show_default=_DEMO_PAIRS)
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder for the generated corpus.", show_default=_DEMO_DATA)] = None,
    lake: output.LakeOption = output.LAKE,
    as_json: output.JsonOption = False,
    verbose: output.VerboseOption = False,
) -> None:
    """Audit a demo model on generated chest X-rays. Exits with 0 if the audit completed, with or without alerts."""
    from demo.corpus import PAIRS, VARIED_PAIRS, generate
    from demo.models import NAMES, VARIED_NAMES
    from flows.config import parse

    if model not in NAMES:
        output.fail(f"--model: got {model!r}, expected one of {', '.join(NAMES)}")
    varied = model in VARIED_NAMES
    # Two corpora in one folder would overwrite each other's images, which the site still shows.
    data = data or Path("demo-data-varied" if varied else "demo-data")
    if data.exists() and any(data.iterdir()) and not (data / "truth.jsonl").is_file():
        output.fail(
            f"--data: got {data} with other files, expected an empty or new folder; choose another",
        )
    corpus = generate(data, pairs or (VARIED_PAIRS if varied else PAIRS), varied=varied)
    sections = {"corpus": {"path": corpus}, "model": {"architecture": model}, "lake": {"path": lake}}
    # A tag without a fixed look or place is found as a concept only.
    config = parse({**sections, "concepts": {"enabled": varied}}, "m2ib-audit demo")
    exit_unless_complete(run_audit(config, None, as_json, verbose, lambda _: "run the command again"))


def run(
    audit_file: output.AuditFile,
    lake: output.OtherLakeOption = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN_ID", help="Resume this unfinished run.")] = None,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Attribute only pairs that no earlier run of the lake has attributed.")
    ] = False,
    notify: NotifyOption = False,
    as_json: output.JsonOption = False,
    verbose: output.VerboseOption = False,
) -> None:
    """Run one audit.

    Exit codes: 0 no alert; 3 alerts; 4 some shards failed, alerts or not; 2 bad input or configuration; 1 the audit
    failed, or a gate stopped it; 130 interrupted.
    """
    config = output.load_config(audit_file, lake)
    if incremental:
        config = config.model_copy(update={"lake": config.lake.model_copy(update={"incremental": True})})
    options = [] if lake is None else ["--lake", lake]
    command = shlex.join(["m2ib-audit", "run", str(audit_file), *options])
    config = _with_notifications(config, notify, verbose)
    result = run_audit(config, resume, as_json, verbose, lambda run_id: f"resume with: {command} --resume {run_id}")
    exit_unless_complete(result, output.Exit.ALERTS)


def reflag(
    run_id: output.RunArgument,
    audit_file: output.AuditFile,
    lake: output.OtherLakeOption = None,
    notify: NotifyOption = False,
    as_json: output.JsonOption = False,
    verbose: output.VerboseOption = False,
) -> None:
    """Apply [alerts] and [phrases] of an AUDIT.toml to the attributions of a run. Makes a new run, without the model.

    Exit codes are those of `run`.
    """
    config = _with_notifications(output.load_config(audit_file, lake), notify, verbose)
    # `latest` is the latest run of the file's audit.
    chosen = run_id if run_id == "latest" else output.choose_run(config.lake.root, run_id, complete=True)

    def work() -> Any:
        prepare_prefect(verbose)
        with start_server():
            from flows.reflag import check_unchanged, complete_run
            from flows.reflag import reflag as reflag_flow

        names = {"audit": config.audit.name, "corpus": config.corpus.place, "model": config.model.name}
        earlier = complete_run(config.lake.root, chosen, sql.audit_id(names))
        check_unchanged(earlier, config)
        return reflag_flow(
            config.lake.path, earlier["run_id"], config.alerts, config.phrases, config.notify, config.ledger
        )

    unchanged = "Interrupted. The earlier run is unchanged. Run the command again."
    exit_unless_complete(_run_flow(work, config.lake.root, lambda: unchanged, as_json), output.Exit.ALERTS)


def _with_notifications(config: Any, notify: bool, verbose: bool) -> Any:
    """Return a configuration of a run of the command line, which notifies nobody unless `notify` is true."""
    if notify:
        prepare_prefect(verbose)
        output.find_server("--notify")
    if not notify and config.notify.enabled is not None:
        return config
    return config.model_copy(update={"notify": config.notify.model_copy(update={"enabled": notify})})


def prepare_prefect(verbose: bool) -> None:
    """Set environment variables that Prefect and Great Expectations read on import, unless the user has set them."""
    defaults = {
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 s is too short on a busy machine
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "INFO" if verbose else "CRITICAL",  # errors are printed by this program
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "GX_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


def run_audit(config: Any, resume: str | None, as_json: bool, verbose: bool, next_step: Callable[[str], str]) -> Any:
    """Run the audit's flow, print its result and return it. Exit if it was interrupted or could not run.

    `next_step` returns how an interrupted run is continued, given its id.
    """
    begun: list[str] = []
    interrupts = contextlib.ExitStack()

    def announce(run: Any) -> None:
        from flows.begin import describe_history
        from flows.interrupts import explain_interrupts

        begun.append(next_step(run.run_id))
        interrupts.enter_context(explain_interrupts(begun[0]))
        output.note(f"run {run.run_id}; if it is interrupted, {begun[0]}")
        record = run.read_manifest()
        if base := record["incremental"]:
            output.note(f"run {run.run_id} {base}")
        if history := describe_history(run.lake, record):
            output.note(history)

    def explain_interrupt() -> str:
        return "; ".join(["interrupted", *begun])

    def work() -> Any:
        prepare_prefect(verbose)
        # Ray's workers need a server that they can reach.
        with start_server(temporary=config.run.engine == "local", check=config.check):
            from flows import audit, begin

        with interrupts, begin.on_begin(announce, START):
            return audit.audit(config, resume)

    output.note(f"auditing {config.model.architecture} on {config.corpus.path}")
    return _run_flow(work, config.lake.root, explain_interrupt, as_json)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _run_flow(flow: Callable[[], Any], lake: Root, explain_interrupt: Callable[[], str], as_json: bool) -> Any:
    """Run a flow, print its result and return it, even if shards failed or a gate stopped it. Exit on other errors."""
    from tasks.errors import OutcomeError

    signal.signal(signal.SIGTERM, _interrupt)
    with output.exit_on_error(output.Exit.FAILURE, "run the command again"):
        try:
            result = flow()
        except OutcomeError as ended:
            result = ended.outcome
        except KeyboardInterrupt:
            output.fail(explain_interrupt(), output.Exit.INTERRUPTED)
    _print_result(result, lake, as_json)
    return result


def _print_result(result: Any, lake: Root, as_json: bool) -> None:
    from review.presentation.formatting import format_outcome, format_units
    from tasks.progress import format_seconds_per_stage

    found = read_alerts(lake, result.run_id)[0]
    (record,) = sql.read_manifests(lake, result.run_id)
    output.say(format_outcome(record, found))
    if result.reason:
        output.say(f"  {result.reason}")
    with sql.connect(lake) as connection:
        (units,) = sql.rows(connection, "review/units", run_id=result.run_id)
    if units["pairs"]:
        output.say(f"  tests count {format_units(units)}")
    _print_alerts(lake, found)
    for sentence in _self_audit(lake, result.run_id):
        output.say(f"self-audit: {sentence}")
    missing = f"could not be written; write it with: {format_command(lake, 'report', result.run_id)}"
    output.say(f"report: {result.report or missing}")
    if result.errors:
        reasons = "SELECT reason, count(*) AS n FROM ingest_errors GROUP BY reason"
        output.note(f"reasons of error rows: {format_command(lake, 'sql', reasons)}")
    for line in _describe_deliveries(lake, result.run_id):
        output.note(line)
    if seconds := record.get("stage_seconds"):
        output.note(f"time: {format_seconds_per_stage(seconds)}")
    if as_json:
        keys = ("run_id", "status", "pairs", "attributions", "errors", "alerts", "confirmed", "raised", "report")
        output.print_json({key: getattr(result, key) for key in keys})


def _describe_deliveries(lake: Root, run_id: str) -> list[str]:
    """Describe how many messages each recipient was sent during a run, one line for each."""
    from review.presentation.numbers import format_count

    with sql.connect(lake) as connection:
        rows = sql.rows(connection, "review/deliveries_of_run", run_id=run_id)
    status = format_command(lake, "notify", "--status")
    return [
        f"{row['recipient']}: {format_count(row['delivered'], 'message')} delivered"
        + (f", {row['failed']} not ({row['reason']}); the next run tries again; see: {status}" if row["failed"] else "")
        for row in rows
    ]


def exit_unless_complete(result: Any, alerts: output.Exit = output.Exit.OK) -> None:
    """Exit with the exit code of an audit's result, or return if it is 0; `alerts` is the exit code for alerts."""
    code = {"completed": alerts if result.raised else output.Exit.OK, "completed_with_errors": output.Exit.ERRORS}
    if exit_code := code.get(result.status, output.Exit.FAILURE):
        raise typer.Exit(exit_code)


def _print_alerts(lake: Root, found: list[dict[str, Any]], everything: bool = False) -> None:
    """Print the independent alerts that a run raises, strongest first, and `everything`: also all others."""
    from review.presentation import formatting, numbers

    explained: Counter[tuple[str, str, str]] = Counter()
    for alert in found:
        explained[alert["rule"], alert["region"], alert["explained_by"]] += 1
    for alert in found:
        if not everything and (alert["explained_by"] is not None or not alert["raised"]):
            continue
        parts = [formatting.format_state(alert)]
        if alert.get("life"):
            parts.append(formatting.format_status(alert["life"]))
        if alert.get("decision", "open") != "open":
            parts.append(f"decision: {formatting.format_decision(alert['decision'], alert['until'])}")
        output.say_wrapped(f"ALERT {alert['alert_id']} ({'; '.join(parts)}): {formatting.format_alert(alert)}")
        if alert["explained_by"] is not None:
            output.say_wrapped(f"explained by {formatting.isolate_text(alert['explained_by'])}", indent=6)
        output.say_wrapped(formatting.format_figures(alert), indent=6)
        output.say_wrapped(formatting.format_test(alert), indent=6)
        if pasting := formatting.format_pasting(alert):
            output.say_wrapped(pasting, indent=6)
        if followers := explained[alert["rule"], alert["region"], alert["slice"]]:
            output.say_wrapped(f"it explains {numbers.format_count(followers, 'other alert')}", indent=6)
    kinds = Counter(
        "explained alert" if alert["explained_by"] is not None else "suspected alert"
        for alert in found
        if alert["explained_by"] is not None or not alert["raised"]
    )
    if kinds and not everything:
        command = format_command(lake, "alerts", found[0]["run_id"], "--all")
        hidden = " and ".join(numbers.format_count(count, kind) for kind, count in sorted(kinds.items()))
        output.note(f"to list {hidden} too: {command}")


def _self_audit(lake: Root, run_id: str) -> list[str]:
    from review.presentation.self_audit import format_self_audit

    with sql.connect(lake) as connection:
        return format_self_audit(sql.rows(connection, "review/self_audit", run_id=run_id))


def alerts(
    run_id: Annotated[
        str, typer.Argument(metavar="[RUN_ID]", help="Id of a run, `latest`, an audit's name, or `all`.")
    ] = "latest",
    since: Annotated[
        str | None,
        typer.Option(metavar="7d|DATE|RUN_ID", help="Show the history of each alert over the runs since then."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="List explained and suspected alerts, too.")] = False,
    lake: output.LakeOption = output.LAKE,
    as_json: output.JsonOption = False,
) -> None:
    """List the alerts that a run raises, strongest first. With --since, their history over the runs.

    These are independent and, by default, confirmed ones ([alerts] raise). With --json all alerts are listed.
    """
    from review.presentation.formatting import format_alert_count

    if since is not None:
        with sql.connect(lake) as connection:
            output.warn_unadopted(lake, connection)
            histories = sql.rows(connection, "review/alert_history", since=_parse_since(connection, since))
        if as_json:
            output.print_json({"lives": histories})
            return
        for row in histories:
            if everything or (row["explained_by"] is None and row["raised"]):
                _print_history(row)
        return
    found, which = read_alerts(lake, run_id)
    if as_json:
        output.print_json({"alerts": found})
        return
    if not found:
        output.say(f"no alerts in {which} of {lake}")
        return
    for audited, rows in groupby(found, key=itemgetter("run_id")):
        alerts_of_run = list(rows)
        if not sql.is_trusted(alerts_of_run[0]):
            output.note(f"m2ib-audit: run {audited} {describe_unrecorded(lake, audited)}")
        output.say_wrapped(f"run {audited}: {format_alert_count(alerts_of_run)}")
        _print_alerts(lake, alerts_of_run, everything)
        for sentence in _self_audit(lake, audited):
            output.say_wrapped(f"self-audit: {sentence}")


def read_alerts(lake: Root, run_id: str) -> tuple[list[dict[str, Any]], str]:
    """Return the alerts of a run (an id, `latest`, an audit or `all`), and a description of the runs that were read."""
    from review.presentation.numbers import format_count

    run_id = output.choose_run(lake, run_id, complete=True)
    with sql.connect(lake) as connection:
        output.warn_unadopted(lake, connection)
        runs = sql.read(connection, "SELECT run_id, status, reason FROM runs ORDER BY sequence DESC")
        known = [row["run_id"] for row in runs if row["status"] != "pruned"]
        complete = sum(map(sql.is_complete, runs))
        if gone := [row["reason"] for row in runs if row["run_id"] == run_id and row["status"] == "pruned"]:
            history = format_command(lake, "alerts", "--since", run_id)
            output.fail(f"alerts: run {run_id} was pruned ({gone[0]}); for the history of its alerts: {history}")
        if run_id not in ("all", *known, *sql.list_damage(connection)):
            newest = ", ".join(known[:5]) or "none"
            output.fail(f"alerts: got {run_id!r}, expected latest, all, or a run of {lake}, newest: {newest}")
        count = format_count(len(runs), "run")
        which = f"{count}, {complete} of them complete," if run_id == "all" else f"run {run_id}"
        rows = sql.rows(connection, "review/alerts", run_id=run_id)
        if reason := sql.list_damage(connection).get(run_id):  # the query may be the first to read its files
            output.fail(f"alerts: run {run_id} is damaged: {reason}")
        return rows, which


def _parse_since(connection: sql.Connection, text: str) -> datetime:
    """Parse --since: an age such as `7d`, a date or time (UTC unless it has a time zone), or a run id (its start)."""
    if age := output.parse_age(text):
        return datetime.now(UTC) - age
    rows = sql.read(connection, "SELECT run_id, started_at FROM runs ORDER BY sequence DESC")
    starts = {row["run_id"]: row["started_at"] for row in rows}
    try:
        time: datetime = starts[text] if text in starts else datetime.fromisoformat(text)
    except ValueError:
        newest = ", ".join([*starts][:5]) or "none"
        output.fail(
            f"--since: got {text!r}, expected 7d, 36h, 2w, a date such as 2026-01-31, or a run of the lake: {newest}"
        )
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _print_history(row: dict[str, Any]) -> None:
    """Print the history of an alert: its status in the newest run, and the first and last value of its figures."""
    from review.presentation import formatting, numbers

    status, state = formatting.format_status(row["life"]), formatting.format_state(row)
    output.say_wrapped(f"{row['life_id']} {status.upper()} ({state}): {formatting.format_alert(row)}")
    dates = f"{row['first_seen']:%Y-%m-%d %H:%M} to {row['last_seen']:%Y-%m-%d %H:%M}"
    figures = [f"{name} {text}" for name, key in _FIGURES.items() if (text := _first_to_last(row["history"], key))]
    parts = [f"rule {row['rule']}", f"{numbers.format_count(row['runs'], 'run')}, {dates}", *figures]
    output.say_wrapped("; ".join(parts), indent=6)
    if row["why"]:
        output.say_wrapped(formatting.isolate_text(row["why"]), indent=6)


def _first_to_last(history: list[dict[str, Any]], key: str) -> str:
    """Format the first and last value of a column in an alert history, such as "0.31 → 0.45"."""
    raised = [entry[key] for entry in history if entry["life"] not in ("resolved", "not_seen")]
    values = [f"{value:.3g}" for value in raised if value is not None]
    return " → ".join(values[:1] + values[1:][-1:])
