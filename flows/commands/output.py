"""Helpers that all commands share: exit codes, options, messages and tables.

Results go to standard output, everything else to standard error. With --json the last line of standard output is one
JSON object.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console

import sql
from stores import DEFAULT_LAKE, InputError, Root, UrlError, escape, lake_root
from stores.keys import load_key
from stores.run_records import describe_unrecorded
from tasks.errors import AuditError

stderr = Console(stderr=True, soft_wrap=True, highlight=False)
stdout = Console(soft_wrap=True, highlight=False)
if not stdout.is_terminal:
    stdout.width = 240  # a pipe has no width that a table must fit
_COLUMNS = 80  # of wrapped text
_RUN_ID = r"\d{8}T\d{6}-[0-9a-f]+"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
_READABLE = 40  # characters to which the widest column of a table may be narrowed


class Exit(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    """The work is done. For `run` and `reflag`: no alert is raised."""
    FAILURE = 1
    """An error, a run that a gate stopped, or a verification that found a difference."""
    BAD_INPUT = 2
    """An argument, a configuration, a corpus or a lake that cannot be used."""
    ALERTS = 3
    """`run` and `reflag`: the run completed and raised alerts."""
    ERRORS = 4
    """The run completed, but some shards failed. It may have raised alerts, too."""
    INTERRUPTED = 130
    """Interrupted by Ctrl+C or a signal."""


OtherLakeOption = Annotated[
    str | None, typer.Option("--lake", help="Folder or URL of the lake; overrides [lake] path of the AUDIT.toml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of output.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show Prefect's log.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN_ID", help="Id of a complete run, `latest`, or an audit's name.")
]
AuditFile = Annotated[Path, typer.Argument(metavar="AUDIT.toml", help="What to audit; see docs/audit-toml.md.")]


def _clean(text: str) -> str:
    """Replace characters with which a name or text of a lake could change the terminal, or that it cannot print."""
    return _CONTROL.sub("\ufffd", text)


def fail(message: str, code: Exit = Exit.BAD_INPUT) -> NoReturn:
    """Print a message to standard error and exit."""
    stderr.print(f"m2ib-audit: {_clean(message)}", markup=False)
    raise typer.Exit(code)


def say(line: str) -> None:
    """Print a line to standard output, as part of the result."""
    stdout.print(_clean(line), markup=False)


def say_wrapped(text: str, indent: int = 0) -> None:
    """Print text to standard output, wrapped at 80 columns; all lines are indented."""
    from rich.text import Text

    for line in Text(_clean(text)).wrap(stdout, min(stdout.width, _COLUMNS) - indent):
        stdout.print(Text(" " * indent + line.plain.rstrip()))


def note(line: str) -> None:
    """Print a line to standard error, such as a progress message; it is not part of the result."""
    stderr.print(_clean(line), markup=False)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    if not text.isprintable():  # only strings have such characters
        text = "".join(mark if mark.isprintable() else json.dumps(mark)[1:-1] for mark in text)
    print(text)


@contextlib.contextmanager
def exit_on_error(lake_error: Exit = Exit.BAD_INPUT, next_step: str = "try again") -> Iterator[None]:
    """Exit with a message if the block raises an error that the user can fix. Every command runs in such a block.

    `lake_error` is the exit code if the lake is missing or damaged; `next_step`, such as `prune again`, ends the
    message about a file that cannot be read or written.
    """
    try:
        yield
    except sql.LakeError as error:
        fail(str(error), lake_error)
    except OSError as error:
        if error.errno is None:
            raise
        place = "" if error.filename is None else f": {escape(str(error.filename))}"
        fail(f"{error.strerror or error}{place}; fix this, then {next_step}", Exit.FAILURE)
    except InputError as error:
        fail(str(error))
    except AuditError as error:
        fail(str(error), Exit.FAILURE)


def parse_lake(lake: object) -> Root:
    """Parse the folder or URL of a lake. Exit if it is not valid."""
    try:
        return lake_root(str(lake))
    except UrlError as error:
        fail(f"--lake: {error}")


LakeOption = Annotated[
    Any,  # a Root, whose type is not known at run time
    typer.Option("--lake", parser=parse_lake, metavar="FOLDER|URL", help="Folder of the lake, or s3://bucket/folder."),
]
LAKE = DEFAULT_LAKE
"""Default of `LakeOption`."""
KeyOption = Annotated[
    Any,
    typer.Option(
        "--key", parser=lambda path: load_key(Path(path)), metavar="FILE", envvar="M2IB_AUDIT_KEY",
        help="Private key that signs records of the ledger; see `key new`.",
    ),
]  # fmt: skip


def choose_run(lake: Root, run_id: str, complete: bool = False) -> str:
    """Return the id of a run, given its id, `latest` (see `sql.latest_run`), or an audit (name or id): its latest run.

    Exit if the lake has no such run. If `latest` is not the newest run, because a complete one is needed, or the lake
    has several audits, say so.
    """
    if re.fullmatch(_RUN_ID, run_id):
        return run_id
    records = sql.read_manifests(lake)
    audits = sql.audit_ids(records)
    names = {record["audit"]: audits[record["run_id"]] for record in records if record.get("audit")}
    wanted = names.get(run_id, run_id)
    if run_id != "latest" and wanted not in audits.values():
        return run_id
    found, newest = sql.latest_run(
        (record for record in records if run_id == "latest" or audits[record["run_id"]] == wanted), complete
    )
    if found is None:
        kind = "complete run" if complete and newest else "run"
        if unrecorded := [record["run_id"] for record in records if not sql.is_trusted(record)]:
            fail(f"got {run_id}, but run {unrecorded[-1]} {describe_unrecorded(lake, unrecorded[-1])}")
        fail(f"got {run_id}, but the lake {lake} has no {kind}; run an audit first, or name another lake with --lake")
    if newest is not None:
        record = next(record for record in records if record["run_id"] == newest)
        end = "has not ended" if record["status"] == "running" else "did not complete"
        if not sql.is_trusted(record):
            end = describe_unrecorded(lake, newest)
        note(f"note: the newest run, {newest}, {end}; latest is run {found}")
    if run_id == "latest" and (others := {*audits.values()} - {audits[found]}):
        choices = [next((name for name in names if names[name] == other), other) for other in sorted(others)]
        note(
            f"note: the lake has {len(others) + 1} audits; latest is run {found}; for the latest run of another one, "
            f"name it: {', '.join(choices)}"
        )
    return found


def warn_unadopted(lake: Root, connection: sql.Connection) -> None:
    """Print a warning to standard error if the ledger knows none of the lake's runs."""
    for row in sql.read(connection, "SELECT run_id FROM runs WHERE recorded IS NULL ORDER BY sequence DESC LIMIT 1"):
        note(f"m2ib-audit: run {row['run_id']} {describe_unrecorded(lake, row['run_id'], None)}")


def find_server(needed_by: str) -> str:
    """Return the URL of the Prefect server's API that the settings name, or exit."""
    from prefect.settings import PREFECT_API_URL

    url: str | None = PREFECT_API_URL.value()
    if not url:
        fail(
            f"{needed_by}: needs a Prefect server, and PREFECT_API_URL is not set; start one (prefect server start), "
            "then: export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    return url


@contextlib.contextmanager
def reach_server(needed_by: str) -> Iterator[None]:
    """Exit with a message if the block's requests to the Prefect server fail, or if there is no server."""
    url = find_server(needed_by)
    import httpx
    from prefect.exceptions import PrefectException

    from flows.server import check_server

    check_server()
    try:
        yield
    except typer.Exit:
        raise
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        fail(f"{needed_by}: the Prefect server {url} failed ({type(error).__name__}: {reason})", Exit.FAILURE)


def load_config(audit_file: Path, lake: str | None) -> Any:
    """Read an AUDIT.toml; `lake`, if given, replaces [lake] path of the file."""
    from flows.config import load

    config = load(audit_file)
    if lake is not None:
        parse_lake(lake)
        config = config.model_copy(update={"lake": config.lake.model_copy(update={"path": lake})})
    return config


def print_rows(name: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as a table, or as a JSON object with one key."""
    if as_json:
        print_json({name: rows})
    else:
        print_table(rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a table. If it is wider than the terminal, print a block per row instead, as psql does."""
    if not rows:
        stdout.print("(no rows)")
        return
    from rich.table import Table
    from rich.text import Text

    cells = [[_format_cell(value) for value in row.values()] for row in rows]
    if _fits(list(rows[0]), cells):
        table = Table()
        for name in rows[0]:
            table.add_column(Text(name))
        for row in cells:
            table.add_row(*map(Text, row))  # Text: brackets are not markup
        stdout.print(table)
        return
    margin = max(map(cell_len, rows[0]))
    for number, row in enumerate(cells, start=1):
        stdout.print(f"- record {number} ".ljust(min(stdout.width, margin + 20), "-"), markup=False)
        for name, value in zip(rows[0], row, strict=True):
            lines = value.splitlines() or [""]
            stdout.print(Text(f"{name}{' ' * (margin - cell_len(name))}  {lines[0]}"))
            for line in lines[1:]:
                stdout.print(Text(f"{' ' * margin}  {line}"))


def _format_cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _clean(str(value))


def _fits(names: list[str], cells: list[list[str]]) -> bool:
    """Return whether a table fits the terminal if only its widest column wraps, to `_READABLE` characters or more."""
    widths = [
        max(cell_len(line) for text in column for line in text.splitlines() or [""])
        for column in zip(names, *cells, strict=True)
    ]
    widths.append(min(widths.pop(widths.index(max(widths))), _READABLE))
    return sum(widths) + 3 * len(widths) + 1 <= stdout.width


def parse_age(text: str) -> timedelta | None:
    """Parse a duration such as `36h`, `180d` or `4w`; return None for any other text."""
    if (found := re.fullmatch(r"(\d{1,5})([hdw])", text)) is None:
        return None
    return timedelta(**{{"h": "hours", "d": "days", "w": "weeks"}[found[2]]: int(found[1])})
