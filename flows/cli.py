"""The command line: the only reader of arguments and environment.

Results go to standard output, everything else to standard error. With --json the last line of standard output is one
JSON object.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

import sql
from corpora import CorpusError, Reason
from stores import Root, UrlError, lake_root

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tasks", "m2ib", "corpora", "sql", "review", "demo", "stores")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
users_app = typer.Typer(no_args_is_help=True, help="Who may sign in to the page: a file of names and roles.")
app.add_typer(users_app, name="users")
errors = Console(stderr=True, soft_wrap=True, highlight=False)
output = Console(soft_wrap=True, highlight=False)
if not output.is_terminal:
    output.width = 240  # a pipe has no width to fit into
_READABLE = 40  # characters to which a column may be narrowed


class Exit(IntEnum):
    """Exit codes."""

    OK = 0
    FAILURE = 1
    BAD_INPUT = 2
    ALERTS = 3
    ERRORS = 4
    INTERRUPTED = 130


LakeOption = Annotated[str, typer.Option("--lake", help="Folder of the lake, or a URL as s3://bucket/folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Last line of standard output: one JSON object.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show Prefect's log.")]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", envvar="M2IB_AUDIT_KEY", help="Private key that signs the ledger's records; see `key new`."),
]
RunOption = Annotated[str, typer.Option("--run", help="Run id, `latest`, or `all`.")]


def _stop(code: Exit, message: str) -> NoReturn:
    errors.print(f"m2ib-audit: {message}", markup=False)
    raise typer.Exit(code)


@app.callback()
def _check_packages() -> None:
    """Audit vision-language models without labels: find out what both towers really look at."""
    # Generic package names can be shadowed by another distribution: say so instead of failing oddly.
    for name in PACKAGES:
        found = Path(str(sys.modules[name].__file__ if name in sys.modules else __import__(name).__file__)).resolve()
        if found.parent.parent != ROOT:
            _stop(
                Exit.FAILURE,
                f"package {name!r} comes from {found.parent}, expected {ROOT / name}; "
                "install m2ib-audit in an environment of its own",
            )


def _prepare_prefect(verbose: bool) -> None:
    """Settings that must stand before Prefect is imported; what the user has set wins."""
    defaults = {
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 s is too short on a busy machine
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "INFO" if verbose else "CRITICAL",  # an error is told once, by this program
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "GX_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


def _as_json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _root(lake: str) -> Root:
    try:
        return lake_root(lake)
    except UrlError as error:
        _stop(Exit.BAD_INPUT, f"--lake: {error}")


def _signer(key: Path | None) -> Any:
    """Who signs what is recorded in the ledger, if anybody does."""
    from stores.keys import KeyFileError, load_key

    try:
        return None if key is None else load_key(key)
    except KeyFileError as error:
        _stop(Exit.BAD_INPUT, str(error))


def _configured(audit_file: Path, lake: str | None) -> Any:
    """An AUDIT.toml, with another lake where one is given."""
    from flows.config import load
    from tasks.errors import BadInputError

    try:
        config = load(audit_file)
    except BadInputError as error:
        _stop(Exit.BAD_INPUT, str(error))
    if lake is not None:
        _root(lake)
        config = config.model_copy(update={"lake": config.lake.model_copy(update={"path": lake})})
    return config


@contextlib.contextmanager
def _connect(lake: Root) -> Iterator[sql.Connection]:
    try:
        with sql.connect(lake) as connection:
            yield connection
    except sql.LakeError as error:  # of a lake in object storage, files are read when a query needs them
        _stop(Exit.BAD_INPUT, str(error))


def _print_table(rows: list[dict[str, Any]]) -> None:
    """A table, or where it is wider than the terminal a block for each row, as psql prints them."""
    if not rows:
        output.print("(no rows)")
        return
    cells = [[_cell(value) for value in row.values()] for row in rows]
    if _fits(list(rows[0]), cells):
        table = Table()
        for name in rows[0]:
            table.add_column(Text(name))
        for row in cells:
            table.add_row(*map(Text, row))  # Text: brackets are no markup
        output.print(table)
        return
    margin = max(map(cell_len, rows[0]))
    for number, row in enumerate(cells, start=1):
        output.print(f"- record {number} ".ljust(min(output.width, margin + 20), "-"), markup=False)
        for name, value in zip(rows[0], row, strict=True):
            lines = value.splitlines() or [""]
            output.print(Text(f"{name}{' ' * (margin - cell_len(name))}  {lines[0]}"))
            for line in lines[1:]:
                output.print(Text(f"{' ' * margin}  {line}"))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _fits(names: list[str], cells: list[list[str]]) -> bool:
    """Whether a table can be read: no column has to break its lines but the widest, and that one not into shreds."""
    widths = [
        max(cell_len(line) for text in column for line in text.splitlines() or [""])
        for column in zip(names, *cells, strict=True)
    ]
    widths.append(min(widths.pop(widths.index(max(widths))), _READABLE))
    return sum(widths) + 3 * len(widths) + 1 <= output.width


def _alert_sentence(alert: dict[str, Any]) -> str:
    said = {"corpus": "over all pairs", "word": "with the word", "phrase": "with the words"}
    said |= {"attribute": "with", "cluster": "of"}
    what = said[alert["slice_kind"]]
    slice_name = "" if alert["slice_kind"] == "corpus" else f" {alert['slice']!r}"
    where, measure = ("words", "times the odds") if alert["side"] == "text" else ("image", "times its share")
    if alert["rule"] == "spread_stamp":
        measure = "times as often as in all pairs"
    if alert["rule"] == "region_contrast":
        measure = "times as much as in the other pairs"
    figure = f"{alert['effect']:.1f} {measure}"
    if alert["rule"] == "region_cost":
        figure = f"covering it took {alert['effect']:.0%} of the margin at first sight"
    return (
        f"{alert['region']}: {alert['share']:.0%} of the attribution on {alert['area']:.1%} of the {where} "
        f"({figure}) in {alert['n']} pairs {what}{slice_name}"
    )


def _test_sentence(alert: dict[str, Any]) -> str:
    """What came of covering the region, or of leaving out the phrase."""
    if alert["score_effect"] is None:
        return f"not tested: {alert['reason'] or 'the audit was told not to ([confirm] enabled = false)'}"
    on_text = alert["side"] == "text"
    what, beyond = ("leaving it out", "controls explain") if on_text else ("covering it", "covering equal regions")
    figures = (
        f"{what} costs {alert['score_effect']:.3f} of a margin of {alert['margin']:.3f} more than {beyond} "
        f"(95 % {alert['score_low']:.3f} to {alert['score_high']:.3f}, floor {alert['floor']:.3f}, "
        f"q {alert['q']:.2g}, {alert['tests']} tests)"
    )
    return figures if alert["state"] == "confirmed" else f"{figures}; {alert['reason']}"


def _alerts(lake: Root, run_id: str) -> list[dict[str, Any]]:
    with _connect(lake) as connection:
        runs = sql.read(connection, "SELECT run_id, status, reason FROM runs ORDER BY run_id DESC")
        known = [row["run_id"] for row in runs if row["status"] != "pruned"]
        if gone := [row["reason"] for row in runs if row["run_id"] == run_id and row["status"] == "pruned"]:
            _stop(Exit.BAD_INPUT, f"--run: run {run_id} has no rows any more ({gone[0]}); see alerts --since instead")
        if run_id == "latest":
            done = sql.read(connection, "SELECT max(run_id) AS run_id FROM runs WHERE status LIKE 'completed%'")
            run_id = done[0]["run_id"] or "all"
            if known and run_id != known[0]:
                errors.print(f"note: the newest run, {known[0]}, did not complete: it has no alerts", markup=False)
        if run_id not in ("all", *known):
            newest = ", ".join(known[:5]) or "none"
            _stop(Exit.BAD_INPUT, f"--run: got {run_id!r}, expected latest, all, or one of the lake {lake}: {newest}")
        return sql.rows(connection, "review/alerts", run_id=run_id)


def _self_audit(lake: Root, run_id: str) -> list[str]:
    from review.presentation.formatting import format_self_audit

    with _connect(lake) as connection:
        return format_self_audit(sql.rows(connection, "review/self_audit", run_id=run_id))


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _execute(config: Any, resume: str | None, as_json: bool, verbose: bool) -> Any:
    """Run the flow and print what came out."""
    _prepare_prefect(verbose)
    from flows.audit import audit, begin, give_up  # Prefect takes seconds to import; the reading commands do without

    run = None

    def work() -> Any:
        nonlocal run
        run = begin(config, config.models(), resume)
        errors.print(f"run {run.run_id}; if it is interrupted, go on with: --resume {run.run_id}", markup=False)
        if said := run.read_manifest()["incremental"]:
            errors.print(f"run {run.run_id} {said}", markup=False)
        return audit(config, run.run_id)

    errors.print(f"auditing {config.model.architecture} on {config.corpus.path}", markup=False)
    try:
        result = _ended(work)
    except KeyboardInterrupt as interrupt:
        if run is None:
            _stop(Exit.INTERRUPTED, "interrupted")
        give_up(run, interrupt, config.ledger.signer())  # before the flow began, perhaps
        _stop(Exit.INTERRUPTED, f"interrupted; go on with: --resume {run.run_id}")
    _print_result(result, config.lake.root, as_json)
    return result


def _ended(work: Callable[[], Any]) -> Any:
    """The outcome of a flow, also of one that an operator must look at; errors end the program with their code."""
    from tasks.errors import AuditError, BadInputError, OutcomeError

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return work()
    except OutcomeError as ended:
        return ended.outcome
    except BadInputError as error:
        _stop(Exit.BAD_INPUT, str(error))
    except (AuditError, sql.LakeError) as error:
        _stop(Exit.FAILURE, str(error))
    except OSError as error:
        _stop(Exit.FAILURE, f"{error.strerror or error}: {error.filename}; check the folder's space and permissions")


def _print_result(result: Any, lake: Root, as_json: bool) -> None:
    output.print(
        f"run {result.run_id} {result.status}: {result.attributions} of {result.pairs} pairs attributed, "
        f"{result.errors} error rows, {result.alerts} alerts, {result.confirmed} of them confirmed"
    )
    if result.reason:
        output.print(f"  {result.reason}", markup=False)
    _print_alerts(_alerts(lake, result.run_id))
    for sentence in _self_audit(lake, result.run_id):
        output.print(f"self-audit: {sentence}", markup=False)
    output.print(f"report: {result.report}", markup=False)
    if as_json:
        keys = ("run_id", "status", "pairs", "attributions", "errors", "alerts", "confirmed", "report")
        print(_as_json({key: getattr(result, key) for key in keys}))


def _exit_unless_complete(result: Any) -> None:
    if result.status == "completed_with_errors":
        raise typer.Exit(Exit.ERRORS)
    if result.status != "completed":
        raise typer.Exit(Exit.FAILURE)


def _print_alerts(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        if alert["explained_by"] is None:
            severity = f", {alert['severity']}" if alert["severity"] else ""
            output.print(
                f"ALERT {alert['alert_id']} {alert['state']}{severity}  {_alert_sentence(alert)}", markup=False
            )
            output.print(f"      {_test_sentence(alert)}", markup=False)
    explained = [alert for alert in alerts if alert["explained_by"] is not None]
    if explained:
        output.print(f"      {len(explained)} more follow from these (same pairs): m2ib-audit alerts lists them")


@app.command()
def corpus(
    uri: Annotated[str, typer.Argument(metavar="CORPUS", help="Folder, file or pattern; see docs/corpora.md.")],
    format_name: Annotated[str | None, typer.Option("--format", help="Default: told by what lies there.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Default: as the format calls it.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Default: as the format calls it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File of the page with pictures; default: corpus-NAME.html, here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a corpus before an audit: format, counts, sizes, errors, look-alikes, and a page to look at.

    A page that it wrote before is written anew; any other file is left alone.
    """
    from corpora.description import describe
    from flows.config import parse
    from review.report.contact_sheet import check_output, default_output, describe_corpus, write_contact_sheet
    from review.report.html import ReportError
    from tasks.errors import BadInputError
    from tasks.inputs import load_corpus

    columns = {"image_column": image_column, "caption_column": caption_column}
    try:
        config = parse(
            {"corpus": {"path": uri, "format": format_name, **columns}, "model": {"architecture": "none"}}, "corpus"
        )
        out = default_output(uri) if out is None else out
        check_output(out)  # before hours of reading
    except (BadInputError, ReportError) as error:
        _stop(Exit.BAD_INPUT, str(error))
    try:
        found = load_corpus(config.corpus)
        told = describe(found)
        page = write_contact_sheet(found, told, uri, out)
    except (BadInputError, CorpusError) as error:
        _stop(Exit.BAD_INPUT, str(error))
    except ReportError as error:
        _stop(Exit.FAILURE, str(error))
    for label, value in describe_corpus(told):
        output.print(f"{label:<15} {value}", markup=False)
    for reason, number in told.errors.items():
        first = told.examples[reason][0]
        where = f"{first.file_name}: " if first.file_name else ""
        output.print(f"  {number} x {reason}, such as {where}{first.detail}", markup=False)
    if told.duplicates:
        first = told.examples[str(Reason.DUPLICATE_PAIR)][0]
        output.print(
            f"  {told.duplicates} x the same pair again, such as {first.file_name}: {first.detail}", markup=False
        )
    output.print(f"page: {page}", markup=False)
    if as_json:
        keys = ("format", "pairs", "images", "captions", "duplicates", "errors", "digest")
        alike = [[pair.file_name for pair in group] for group in told.near_duplicates]
        print(
            _as_json({"listed": told.rows} | {key: getattr(told, key) for key in keys} | {"alike": alike, "page": page})
        )


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="demo/shortcut, or its honest twin demo/clean.")] = "demo/shortcut",
    pairs: Annotated[int, typer.Option(min=1, help="Phantom pairs to generate.")] = 512,
    data: Annotated[Path, typer.Option(help="Where the phantoms are written.")] = Path("demo-data"),
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Audit the embedded model on generated chest-radiograph phantoms. Exit code 0 once the work is done."""
    from demo.corpus import generate
    from demo.models import NAMES
    from flows.config import parse

    if model not in NAMES:
        _stop(Exit.BAD_INPUT, f"--model: got {model!r}, expected one of {', '.join(NAMES)}")
    _root(lake)  # what cannot be a lake is said before anything else
    if data.exists() and any(data.iterdir()) and not (data / "truth.jsonl").is_file():
        _stop(Exit.BAD_INPUT, f"--data: {data} holds files that are no phantoms; name an empty or a new folder")
    corpus = generate(data, pairs=pairs)
    config = parse(
        {"corpus": {"path": corpus}, "model": {"architecture": model}, "lake": {"path": lake}}, "m2ib-audit demo"
    )
    result = _execute(config, None, as_json, verbose)
    _exit_unless_complete(result)


@app.command()
def run(
    audit_file: Annotated[Path, typer.Argument(metavar="AUDIT.toml", help="What to audit; see docs/audit-toml.md.")],
    lake: Annotated[str | None, typer.Option("--lake", help="Folder or URL; overrides [lake] path.")] = None,
    resume: Annotated[str | None, typer.Option(help="Id of an unfinished run to go on with.")] = None,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Attribute only pairs that an earlier run of the lake has not.")
    ] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run one audit.

    Exit code 0: no alert; 3: alerts; 4: shards were set aside, alerts or not; 2: bad input or config; 1: failure or
    stopped by a gate.
    """
    config = _configured(audit_file, lake)
    if incremental:
        config = config.model_copy(update={"lake": config.lake.model_copy(update={"incremental": True})})
    result = _execute(config, resume, as_json, verbose)
    _exit_unless_complete(result)
    if result.alerts:
        raise typer.Exit(Exit.ALERTS)


@app.command()
def reflag(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="A complete run's id, or `latest`.")],
    audit_file: Annotated[Path, typer.Argument(metavar="AUDIT.toml", help="Its [alerts] and [phrases] are applied.")],
    lake: Annotated[str | None, typer.Option("--lake", help="Folder or URL; overrides [lake] path.")] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Flag a run's stored attributions by other rules, as a new run, without a model. Exit codes: as of run."""
    _prepare_prefect(verbose)
    from flows.reflag import check_unchanged, complete_run
    from flows.reflag import reflag as reflag_flow

    def work() -> Any:
        earlier = complete_run(config.lake.root, run_id)
        check_unchanged(earlier, config)
        return reflag_flow(
            config.lake.path, earlier["run_id"], config.alerts, config.phrases, config.notify, config.ledger
        )

    config = _configured(audit_file, lake)
    try:
        result = _ended(work)
    except KeyboardInterrupt:
        _stop(Exit.INTERRUPTED, "interrupted; start again: nothing was changed but the new run")
    _print_result(result, config.lake.root, as_json)
    _exit_unless_complete(result)
    if result.alerts:
        raise typer.Exit(Exit.ALERTS)


@app.command()
def alerts(
    run_id: RunOption = "latest",
    since: Annotated[
        str | None, typer.Option(metavar="7d|DATE|RUN_ID", help="Show the life of each alert over the runs since then.")
    ] = None,
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """List the alerts of a run, confirmed ones first, then the strongest; or, with --since, what became of them."""
    root = _root(lake)
    if since is not None:
        _print_lives(_lives(root, since), as_json)
        return
    found = _alerts(root, run_id)
    if as_json:
        print(_as_json({"alerts": found}))
        return
    if not found:
        output.print(f"no alerts in {_runs_shown(root, run_id)} of {root}", markup=False)
        return
    columns = ("run_id", "alert_id", "life", "state", "severity", "region", "slice", "n", "share", "area", "effect")
    tested = ("score_effect", "floor", "q", "explained_by", "decision")
    _print_table([{key: row[key] for key in (*columns, *tested)} for row in found])
    for audited in dict.fromkeys(row["run_id"] for row in found):
        for sentence in _self_audit(root, audited):
            output.print(f"self-audit of {audited}: {sentence}", markup=False)


def _runs_shown(lake: Root, run_id: str) -> str:
    """What was looked at: so that an empty answer tells a run without alerts from the wrong lake."""
    with _connect(lake) as connection:
        runs = sql.read(connection, "SELECT run_id, status FROM runs ORDER BY run_id")
    complete = [row["run_id"] for row in runs if row["status"].startswith("completed")]
    if run_id == "all" or not complete:
        return f"all {len(runs)} runs, {len(complete)} of them complete,"
    return f"run {complete[-1] if run_id == 'latest' else run_id}"


def _since(connection: sql.Connection, given: str) -> datetime:
    """A time from `7d`, `36h`, a date or time (UTC unless it says otherwise), or the start of a run."""
    if found := re.fullmatch(r"(\d{1,5})([hdw])", given):
        units = {"h": "hours", "d": "days", "w": "weeks"}
        return datetime.now(UTC) - timedelta(**{units[found[2]]: int(found[1])})
    starts = {row["run_id"]: row["started_at"] for row in sql.read(connection, "SELECT run_id, started_at FROM runs")}
    if given in starts:
        start: datetime = starts[given]
        return start
    try:
        time = datetime.fromisoformat(given)
    except ValueError:
        newest = ", ".join(sorted(starts, reverse=True)[:5]) or "none"
        _stop(
            Exit.BAD_INPUT,
            f"--since: got {given!r}, expected 7d, 36h, 2w, a date such as 2026-01-31, or a run of the lake: {newest}",
        )
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _lives(lake: Root, since: str) -> list[dict[str, Any]]:
    with _connect(lake) as connection:
        return sql.rows(connection, "review/lives", since=_since(connection, since))


def _went(history: list[dict[str, Any]], key: str) -> str:
    """First and last of the figures that the runs have; runs that did not raise the alert repeat the one before."""
    known = [
        entry[key] for entry in history if entry[key] is not None and entry["life"] not in ("resolved", "not_seen")
    ]
    return " → ".join(f"{value:.3g}" for value in (known[:1] + known[-1:] if len(known) > 1 else known))


def _print_lives(lives: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(_as_json({"lives": lives}))
        return
    rows = [
        {key: row[key] for key in ("life_id", "life", "state", "severity", "region", "slice")}
        | {
            "first seen": f"{row['first_seen']:%Y-%m-%d %H:%M}",
            "last seen": f"{row['last_seen']:%Y-%m-%d %H:%M}",
            "runs": row["runs"],
            "effect": _went(row["history"], "effect"),
            "score_effect": _went(row["history"], "score_effect"),
        }
        | {"why": row["why"] or ""}
        for row in lives
    ]
    _print_table(rows)


@app.command()
def notify(
    block: Annotated[str, typer.Option(metavar="TYPE/NAME", help="Notification block, as `prefect block ls` has it.")],
    on: Annotated[str | None, typer.Option(metavar="KINDS", help="Kinds of events, with commas; see the docs.")] = None,
    confirmed: Annotated[bool, typer.Option("--confirmed", help="Of alerts, only those that are confirmed.")] = False,
    silent_after: Annotated[
        float | None, typer.Option(min=0.01, metavar="HOURS", help="Tell too when no audit completes for so long.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Tell this block nothing any more.")] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Have Prefect tell a web hook, chat, pager or mailbox about alerts and runs; again: changes what was set up."""
    _prepare_prefect(verbose)
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL

    from flows.notify import DEFAULT, set_up
    from tasks.errors import BadInputError

    if not PREFECT_API_URL.value():
        _stop(Exit.BAD_INPUT, "PREFECT_API_URL is not set: start a server and name it; see docs/alerts-over-time.md")
    if remove and (on or confirmed or silent_after):
        _stop(Exit.BAD_INPUT, "--remove: takes no other setting than --block")
    kinds = [] if remove else [*DEFAULT] if on is None else [kind.strip() for kind in on.split(",") if kind.strip()]
    try:
        done = set_up(block, kinds, confirmed, silent_after)
    except BadInputError as error:
        _stop(Exit.BAD_INPUT, str(error))
    except (OSError, RuntimeError, PrefectHTTPStatusError) as error:
        _stop(Exit.FAILURE, f"the Prefect server {PREFECT_API_URL.value()} did not take it: {error}")
    for name, became in done:
        output.print(f"{became}: {name}", markup=False)
    if as_json:
        print(_as_json({"automations": [{"name": name, "became": became} for name, became in done]}))


@app.command("sql")
def query(
    text: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT over the views; e.g. 'SELECT * FROM runs'.")],
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Query the lake with DuckDB's SQL, reading only."""
    with _connect(_root(lake)) as connection:
        try:
            rows = sql.read(connection, text)
        except sql.QueryError as error:
            _stop(Exit.BAD_INPUT, str(error))
    if as_json:
        print(_as_json({"rows": rows}))
    else:
        _print_table(rows)


@app.command()
def sweep(
    audit_file: Annotated[Path, typer.Argument(metavar="AUDIT.toml", help="Model, corpus and the settings to vary.")],
    depth: Annotated[
        list[float],
        typer.Option(default_factory=lambda: [0.2, 0.5, 0.8], help="Share of blocks before the gate; repeat."),
    ],
    beta: Annotated[
        list[float], typer.Option(default_factory=lambda: [0.1, 1.0], help="Price of the mean nat; repeat.")
    ],
    draws: Annotated[list[int], typer.Option(default_factory=lambda: [2], help="Noise draws a step; repeat.")],
    pairs: Annotated[int, typer.Option(min=2, help="Pairs of the corpus to try.")] = 32,
    as_json: JsonOption = False,
) -> None:
    """Try settings on your own model and pairs: stability, cosine retained, nats and cost of each."""
    from flows.config import load
    from flows.sweep import sweep_settings
    from tasks.errors import BadInputError

    rows: list[dict[str, Any]] = []
    try:
        for row in sweep_settings(load(audit_file), pairs, depth, beta, draws):
            rows.append(dataclasses.asdict(row))
            errors.print(f"depth {row.depth:g} beta {row.beta:g} draws {row.draws}: done", markup=False)
    except BadInputError as error:
        _stop(Exit.BAD_INPUT, str(error))
    if as_json:
        print(_as_json({"rows": rows}))
    else:
        _print_table(rows)


@app.command()
def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="A run's id, or `latest`.")],
    pdf: Annotated[bool, typer.Option("--pdf", help="A PDF to sign and to file, instead of HTML.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write; default: beside the run's data.")] = None,
    fonts: Annotated[
        list[Path] | None, typer.Option(help="Folder of fonts for scripts that the PDF's own do not have; repeat.")
    ] = None,
    key: KeyOption = None,
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Write a run's report, with decisions and signatures so far: one self-contained HTML file, or one PDF."""
    from review.report.html import ReportError, write_report

    if fonts and not pdf:
        _stop(Exit.BAD_INPUT, "--fonts: is for the PDF alone, expected --pdf beside it; a browser has fonts of its own")
    if absent := [path for path in fonts or () if not path.is_dir()]:
        _stop(Exit.BAD_INPUT, f"--fonts: got {absent[0]}, expected a folder with font files")
    try:
        path = write_report(
            _root(lake), run_id, out, "pdf" if pdf else "html", fonts or (), "m2ib-audit report", _signer(key)
        )
    except (ReportError, sql.LakeError) as error:
        _stop(Exit.BAD_INPUT, str(error))
    if as_json:
        print(_as_json({"report": path}))
    else:
        print(path)


@app.command()
def sign(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="A complete run's id, or `latest`.")],
    name: Annotated[str, typer.Option(help="Printed name of the signer.")],
    role: Annotated[str, typer.Option(help="In which role: radiologist, head of quality, ...")],
    meaning: Annotated[str, typer.Option(help="review, approval, responsibility or authorship.")],
    statement: Annotated[str, typer.Option(help="What is stated about the run.")],
    four_eyes: Annotated[
        bool, typer.Option("--four-eyes", help="It holds only once a second person has countersigned.")
    ] = False,
    key: KeyOption = None,
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Sign a run off, as the review page does: a record of the lake's ledger, which reports print from then on.

    Who signs is taken as given (identity `declared`): it is as good as the access to this machine.
    """
    from review.evidence.decisions import DecisionError, Reviewer, sign_off

    root = _root(lake)
    try:
        run_id = _complete_run(root, run_id)
        who = Reviewer(name, role, "declared")
        record = sign_off(root, who, run_id, meaning, statement, four_eyes=four_eyes, signer=_signer(key))
    except (DecisionError, sql.LakeError) as error:
        _stop(Exit.BAD_INPUT, str(error))
    counts = record.body["alerts"]
    output.print(
        f"signed: run {run_id}, record {record.number} of the ledger; of its alerts {counts['decided']} decided, "
        f"{counts['open']} open, {counts['pending']} waiting for a second person",
        markup=False,
    )
    if as_json:
        print(_as_json({"run_id": run_id, "record": record.number, "sha256": record.sha256, "alerts": counts}))


def _complete_run(lake: Root, run_id: str) -> str:
    """A run's id, or that of the newest complete one for `latest`."""
    if run_id != "latest":
        return run_id
    complete = [record["run_id"] for record in sql.read_manifests(lake) if record["status"].startswith("completed")]
    if not complete:
        _stop(Exit.BAD_INPUT, f"got latest, expected a complete run in {lake}, which has none; run an audit first")
    return str(complete[-1])


def _age(option: str, given: str) -> timedelta:
    """A length of time from `180d`, `36h` or `4w`."""
    if (found := re.fullmatch(r"(\d{1,5})([hdw])", given)) is None:
        _stop(Exit.BAD_INPUT, f"{option}: got {given!r}, expected hours, days or weeks, such as 36h, 180d or 4w")
    return timedelta(**{{"h": "hours", "d": "days", "w": "weeks"}[found[2]]: int(found[1])})


def _bytes(number: int | None) -> str:
    """Bytes as people read them."""
    if number is None:
        return ""
    size, unit = float(number), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):  # the last one stays
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


@app.command()
def prune(
    older_than: Annotated[
        str | None, typer.Option(metavar="180d|36h|4w", help="Runs that ended longer ago than this may go.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="All but the N newest complete runs of each audit may go.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would be deleted.")] = False,
    lake: LakeOption = "lake",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete the files of old runs that nothing refers to; their manifests stay. Given both options, both must hold.

    An audit: runs of the same corpus and model.
    """
    if older_than is None and keep is None:
        _stop(Exit.BAD_INPUT, "prune: got no policy, expected --older-than 180d, --keep 30, or both")
    age = None if older_than is None else _age("--older-than", older_than)
    from tasks.lake.prune import RetentionPolicy, plan_pruning, prune_run

    root, signer = _root(lake), _signer(key)
    try:
        fates = plan_pruning(root, RetentionPolicy(age, keep))
        left = {fate.run_id: prune_run(root, fate, signer) if yes else None for fate in fates if fate.pruned}
    except sql.LakeError as error:
        _stop(Exit.BAD_INPUT, str(error))
    except OSError as error:
        _stop(Exit.FAILURE, f"{error.strerror or error}: {error.filename}; mend this, and prune again")
    _print_fates(fates, left, yes)
    gone = [fate for fate in fates if fate.pruned and left[fate.run_id] is None]
    freed = sum(fate.bytes or 0 for fate in gone)
    said = f"{len(gone)} of {len(fates)} runs, {sum(fate.files or 0 for fate in gone)} files, {_bytes(freed)}"
    output.print(f"pruned: {said}" if yes else f"would be pruned: {said}; nothing was deleted, add --yes", markup=False)
    if as_json:
        rows = [dataclasses.asdict(fate) | {"kept_after_all": left.get(fate.run_id)} for fate in fates]
        print(_as_json({"deleted": yes, "runs": len(gone), "bytes": freed, "fates": rows}))


def _print_fates(fates: list[Any], left: dict[str, str | None], yes: bool) -> None:
    """One row a run: what becomes of it, why, and how much that is."""
    done = "pruned" if yes else "prune"
    _print_table(
        [
            {
                "run": fate.run_id,
                "": done if fate.pruned and left[fate.run_id] is None else "keep",
                "why": left.get(fate.run_id) or fate.why,
                "size": _bytes(fate.bytes),
                "status": fate.status,
                "ended": fate.ended[:16],
                "audit": fate.audit,
            }
            for fate in fates
        ]
    )


@app.command()
def compact(
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN_ID]", help="A complete run's id, or `latest`.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All complete runs of the lake.")] = False,
    lake: LakeOption = "lake",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge the many small files of complete runs into few, with the same rows in the same order."""
    if (run_id is None) != everything:
        _stop(Exit.BAD_INPUT, "compact: expected a run's id, `latest`, or --all, and only one of them")
    from tasks.errors import AuditError
    from tasks.lake.compact import compact_run
    from tasks.lake.run import Run

    root, signer = _root(lake), _signer(key)
    rows: list[dict[str, Any]] = []
    refused: list[str] = []
    try:
        known = {record["run_id"]: record["status"] for record in sql.read_manifests(root)}
        complete = [name for name, status in known.items() if status in sql.COMPLETE]
        wanted = complete if everything else complete[-1:] if run_id == "latest" else [run_id or ""]
        if not everything and (not wanted or wanted[0] not in known):
            newest = ", ".join(complete[:-6:-1]) or "none"
            _stop(Exit.BAD_INPUT, f"compact: got {run_id!r}, expected a complete run of the lake {root}: {newest}")
        for name in wanted:
            try:
                merged = compact_run(Run(root, name), signer)
            except AuditError as error:  # this run's alone
                refused.append(str(error))
                continue
            rows += [{"run": name, **dataclasses.asdict(table)} for table in merged]
    except sql.LakeError as error:
        _stop(Exit.BAD_INPUT, str(error))
    except OSError as error:
        _stop(Exit.FAILURE, f"{error.strerror or error}: {error.filename}; mend this, and compact again")
    _print_table(rows)
    for message in refused:
        errors.print(f"m2ib-audit: {message}", markup=False)
    if as_json:
        print(_as_json({"compacted": rows, "refused": refused}))
    if refused:
        raise typer.Exit(Exit.FAILURE)


UsersOption = Annotated[Path, typer.Option("--users", metavar="FILE", help="The users file; the first user makes it.")]
StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of standard input.")
]


def _password(from_stdin: bool) -> str:
    """A password that nobody sees: never an argument, which other users of the machine could read."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        _stop(Exit.BAD_INPUT, "password: there is no terminal to ask at; give it with --password-stdin")
    asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return asked


@contextlib.contextmanager
def _users_told() -> Iterator[None]:
    from review.site.users import UsersError

    try:
        yield
    except UsersError as error:
        _stop(Exit.BAD_INPUT, str(error))


@users_app.command("add")
def add_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the user signs in with.")],
    users: UsersOption,
    full_name: Annotated[str, typer.Option(help="The printed name that signatures bear; no two users share one.")],
    role: Annotated[str, typer.Option(help="reader, reviewer (decides and signs) or approver (approves, too).")],
    password_stdin: StdinOption = False,
) -> None:
    """Add a user. The password, of 12 characters or more, is asked for."""
    from review.site.users import add

    with _users_told():
        user = add(users, name, full_name, role, _password(password_stdin))
    output.print(f"added {user.name}: {user.full_name}, {user.role}", markup=False)


@users_app.command("passwd")
def change_password(
    name: Annotated[str, typer.Argument(metavar="NAME")], users: UsersOption, password_stdin: StdinOption = False
) -> None:
    """Give a user another password; where they are signed in, they are signed out."""
    from review.site.users import change_password as change

    with _users_told():
        user = change(users, name, _password(password_stdin))
    output.print(f"changed the password of {user.name}", markup=False)


@users_app.command("disable")
def disable_user(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    users: UsersOption,
    undo: Annotated[bool, typer.Option("--undo", help="Let the user in again.")] = False,
) -> None:
    """Shut a user out, at once. Users are not removed: signatures bear their names."""
    from review.site.users import set_disabled

    with _users_told():
        user = set_disabled(users, name, disabled=not undo)
    output.print(f"{'enabled' if undo else 'disabled'} {user.name}", markup=False)


@users_app.command("list")
def list_users(users: UsersOption, as_json: JsonOption = False) -> None:
    """List who may sign in."""
    from review.site.users import load

    with _users_told():
        known = load(users)
    rows = [
        {"name": user.name, "full_name": user.full_name, "role": user.role, "disabled": user.disabled}
        for user in known.values()
    ]
    if as_json:
        print(_as_json({"users": rows}))
    else:
        _print_table(rows)


@app.command()
def review(
    lake: LakeOption = "lake",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = 8765,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who may sign in (m2ib-audit users); reading too needs it then.")
    ] = None,
    four_eyes: Annotated[
        bool, typer.Option("--four-eyes", help="Decisions that close an alert, and sign-offs, need a second person.")
    ] = False,
    proxy_header: Annotated[
        str | None, typer.Option(metavar="NAME", help="Header in which a proxy names the user, as X-Forwarded-User.")
    ] = None,
    proxy_role_header: Annotated[
        str | None, typer.Option(metavar="NAME", help="Header in which it says the role; else all are reviewers.")
    ] = None,
    proxy_from: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Address or network of the proxy, whose headers are believed; repeat."),
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(metavar="URL", help="As which browsers know the page behind a proxy: https://...")
    ] = None,
    allow_anonymous_read: Annotated[
        bool, typer.Option("--allow-anonymous-read", help="Anyone may read, nobody may write.")
    ] = False,
    remote_corpora: Annotated[
        bool, typer.Option("--remote-corpora", help="Fetch images of corpora behind a URL, whatever URL a run names.")
    ] = False,
    key: KeyOption = None,
) -> None:
    """Show the lake as pages: alerts with all that speaks for and against them, pairs, runs, errors. Ctrl+C ends it.

    On this machine anyone may read, and decide under a name of their own; beyond it, see docs/review.md.
    """
    import webbrowser

    from review.site.access import AccessError
    from review.site.app import create_app
    from review.site.serve import serve
    from review.site.settings import ReviewSettings
    from review.site.users import UsersError

    root = _root(lake)
    settings = ReviewSettings(
        host=host,
        port=port,
        users=users,
        four_eyes=four_eyes,
        proxy_header=proxy_header,
        proxy_role_header=proxy_role_header,
        proxy_from=tuple(proxy_from or ()),
        public_url=public_url,
        allow_anonymous_read=allow_anonymous_read,
        remote_corpora=remote_corpora,
        signer=_signer(key),
    )
    try:
        app_of_lake = create_app(root, settings)
    except (AccessError, UsersError) as error:
        _stop(Exit.BAD_INPUT, f"review: {error}")
    try:
        app_of_lake.state.lake_cache.connect()  # fails if there is no lake; damaged runs are shown on the site
    except sql.LakeError as error:
        _stop(Exit.BAD_INPUT, str(error))

    def ready(address: str) -> None:
        output.print(f"review: {address} shows {root}; Ctrl+C ends it", markup=False)
        sys.stdout.flush()
        if browser and sys.stdout.isatty():
            webbrowser.open(address)

    if not serve(app_of_lake, host, port, ready):
        _stop(Exit.FAILURE, f"review: cannot listen on {host}, port {port}; name another with --port")


@app.command()
def verify(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN_ID]", help="A run's id, `latest`, or `all`; not needed with --report.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Head that was noted earlier: it has to be in the chain.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="Every record has to be signed by this key (a .pub file).")
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="A copy of a report: is it one that was written?")
    ] = None,
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Recompute the chain from the ledger to every file, and name what differs. Exit code 1 if anything does."""
    from review.evidence.verify import VerifyError, lines, verify_ledger
    from review.evidence.verify import as_json as told
    from review.evidence.verify import verify as recompute
    from stores.keys import KeyFileError, load_public_key

    if run_id is None and report_file is None:
        _stop(Exit.BAD_INPUT, "verify: got nothing to verify, expected a run's id, latest, all, or --report FILE")
    try:
        answer: dict[str, Any] = {} if report_file is None else _verified_report(_root(lake), report_file)
        public = None if public_key is None else load_public_key(public_key)
        verdict = None
        if run_id is not None:
            verdict = recompute(_root(lake), run_id, public, head)
        elif public or head:  # a report is as good as the chain that knows it
            verdict = verify_ledger(_root(lake), public, head)
    except (VerifyError, KeyFileError) as error:
        _stop(Exit.BAD_INPUT, str(error))
    except sql.LakeError as error:
        _stop(Exit.FAILURE, str(error))
    except OSError as error:
        _stop(Exit.FAILURE, f"{error.strerror or error}: {error.filename}; mend this, and verify again")
    for line in [] if verdict is None else lines(verdict):
        output.print(line, markup=False)
    if as_json:
        print(_as_json(answer | ({} if verdict is None else told(verdict))))
    if (verdict is not None and not verdict.whole) or answer.get("known") is False:
        raise typer.Exit(Exit.FAILURE)


def _verified_report(lake: Root, path: Path) -> dict[str, Any]:
    """Say whether a file is a report that the lake's ledger knows; the answer for --json."""
    from review.evidence.verify import VerifyError, find_written_report

    try:
        found = find_written_report(lake, path.read_bytes())
    except VerifyError as error:
        errors.print(f"m2ib-audit: {error}", markup=False)
        return {"report": str(path), "known": False}
    record, body = found.record, found.record.body
    output.print(
        f"report {path}: as it was written for run {body['run_id']} on {record.time:%Y-%m-%d %H:%M:%S} UTC "
        f"(record {record.number} of the ledger)",
        markup=False,
    )
    for said, records in (
        ("decided, signed or rewritten since then, and not in it", found.since),
        ("waivers that have run out since then", found.over),
    ):
        if records:
            output.print(f"  {said}: record {', '.join(str(one.number) for one in records)}", markup=False)
    return {
        "report": str(path), "known": True, "run_id": body["run_id"], "record": record.number,
        "since": len(found.since), "waivers_over": len(found.over),
    }  # fmt: skip


@app.command()
def adopt(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="A run's id, or `all`.")],
    lake: LakeOption = "lake",
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record runs that the lake's ledger does not know, as they lie here now: those of releases without a ledger.

    `all` leaves out those that should have a record, as `verify` says: whoever knows why they have none names them.
    """
    from tasks.lake.journal import adopt as take
    from tasks.lake.journal import lacks_record
    from tasks.lake.run import Run

    root, signer = _root(lake), _signer(key)
    try:
        known = [record["run_id"] for record in sql.read_manifests(root)]
        if run_id not in ("all", *known):
            newest = ", ".join(known[:-6:-1]) or "none"
            _stop(Exit.BAD_INPUT, f"adopt: got {run_id!r}, expected all, or a run of the lake {root}: {newest}")
        wanted = [Run(root, name) for name in known if run_id in ("all", name)]
        left = [run.run_id for run in wanted if run_id == "all" and lacks_record(run)]
        done = [run.run_id for run in wanted if run.run_id not in left and take(run, signer)]
    except sql.LakeError as error:
        _stop(Exit.FAILURE, str(error))
    except OSError as error:
        _stop(Exit.FAILURE, f"{error.strerror or error}: {error.filename}; mend this, and adopt again")
    for name in done:
        output.print(f"adopted: {name}", markup=False)
    output.print(f"{len(done)} recorded; the others are in the ledger, or have not ended", markup=False)
    for name in left:
        errors.print(
            f"adopt: left out {name}, which should have a record and has none; see m2ib-audit verify {name}, and name "
            "it if it may be taken in",
            markup=False,
        )
    if as_json:
        print(_as_json({"adopted": done, "left": left}))
    if left:
        raise typer.Exit(Exit.FAILURE)


keys = typer.Typer(no_args_is_help=True, help="Keys that sign the lake's ledger.")
app.add_typer(keys, name="key")


@keys.callback()
def _keys() -> None:
    """Keys that sign the lake's ledger."""


@keys.command("new")
def new_key(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File of the private key; PATH.pub is its public half.")],
) -> None:
    """Make a key (Ed25519). Keep the private one secret and backed up; give the public one to who verifies."""
    from stores.keys import KeyFileError
    from stores.keys import create_key as make

    try:
        public = make(path)
    except KeyFileError as error:
        _stop(Exit.BAD_INPUT, str(error))
    output.print(f"private key: {path}\npublic key: {path}.pub\nkey id: {public.key_id}", markup=False)


@app.command()
def models(as_json: JsonOption = False) -> None:
    """List open_clip's models: which can be audited, how each tower pools, and where the default settings cut it."""
    from m2ib.catalogue import catalogue

    errors.print("building open_clip's models without weights: takes about a minute", markup=False)
    found = list(catalogue())
    supported = sum(model.supported for model in found)
    rows = [
        {
            "name": model.name,
            "image": model.image.supported,
            "text": model.text.supported,
            "reason": model.reason,
            "note": model.text.note,
            "image_pooling": model.image.pooling,
            "image_blocks": model.image.blocks,
            "image_layer": model.image.layer,
            "grid": model.image.grid,
            "text_pooling": model.text.pooling,
            "text_blocks": model.text.blocks,
            "text_layer": model.text.layer,
        }
        for model in found
    ]
    if as_json:
        print(_as_json({"listed": len(found), "supported": supported, "models": rows}))
        return
    _print_table([_model_row(row) for row in rows])
    output.print(f"{supported} of {len(found)} models can be audited with both towers")


def _model_row(row: dict[str, Any]) -> dict[str, Any]:
    def tower(name: str) -> str:
        return f"{row[f'{name}_pooling']}" if row[name] else "no"

    def cut(name: str) -> str:
        return "" if row[f"{name}_blocks"] is None else f"{row[f'{name}_layer']} of {row[f'{name}_blocks']}"

    return {
        "model": row["name"],
        "image": tower("image"),
        "cut": cut("image"),
        "grid": " x ".join(map(str, row["grid"] or ())),
        "text": tower("text"),
        "text cut": cut("text"),
        "why not, or note": row["reason"] or row["note"],
    }


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except SystemExit as done:
        code = Exit.OK if done.code is None else done.code if isinstance(done.code, int) else Exit.FAILURE
    except Exception:  # noqa: BLE001  # whatever it is, it is said once and without what follows from it
        traceback.print_exc()
        code = Exit.FAILURE
    leave(code)


def leave(code: int) -> NoReturn:
    """End the process after an audit, with its exit handlers (they stop Prefect's server) but without finalisation.

    Prefect leaves daemon threads behind whose frames outlive the interpreter, at which DuckDB's binding would print a
    page of "leaked" lines.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(code)


if __name__ == "__main__":
    main()
