"""The command line `m2ib-audit`. No other module reads command-line arguments."""

import atexit
import os
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from flows.commands import audits, erase, inspect, lake, notifying, operating, reviewing
from flows.commands.output import Exit, exit_on_error, fail, say

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tasks", "m2ib", "corpora", "sql", "review", "demo", "stores")

COMMANDS: dict[str, dict[str, Any]] = {
    "Audits": {
        "demo": audits.demo,
        "run": audits.run,
        "reflag": audits.reflag,
        "alerts": audits.alerts,
        "runs": operating.runs,
    },
    "Operations": {"schedule": operating.schedule, "notify": notifying.notify, "doctor": operating.doctor},
    "Corpora and models": {
        "corpus": inspect.corpus,
        "detectors": inspect.detectors,
        "models": inspect.models,
        "sweep": inspect.sweep,
    },
    "Review": {
        "review": reviewing.review,
        "report": reviewing.report,
        "sign": reviewing.sign,
        "users": {
            "add": reviewing.add_user,
            "passwd": reviewing.change_password,
            "disable": reviewing.disable_user,
            "list": reviewing.list_users,
        },
    },
    "Lake": {
        "sql": lake.query,
        "rule": {"try": lake.try_rule},
        "verify": lake.verify,
        "adopt": lake.adopt,
        "compact": lake.compact,
        "prune": lake.prune,
        "erase": erase.erase,
        "key": {"new": reviewing.new_key, "add": reviewing.add_key, "revoke": reviewing.revoke_key},
    },
}
"""Commands by heading of the help; a value is the function of a command, or the functions of its subcommands."""

_GROUP_HELP = {
    "users": "Manage who may sign in to the review site.",
    "rule": "Try a custom rule on a finished run.",
    "key": "Manage keys that sign the lake's ledger.",
}


class GroupedCommands(TyperGroup):
    """The group of all commands: lists them by heading, and turns expected errors into messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and turn expected errors into a message and an exit code."""
        with exit_on_error():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # as typer calls it
        """Write one section of the help for each heading."""
        width = max(map(len, self.commands))
        for heading, names in COMMANDS.items():
            with formatter.section(heading):
                limit = formatter.width - 6 - width
                rows = [(name.ljust(width), self.commands[name].get_short_help_str(limit)) for name in names]
                formatter.write_dl(rows)


def _assemble() -> typer.Typer:
    plain: dict[str, Any] = {"no_args_is_help": True, "add_completion": False, "rich_markup_mode": None}
    assembled = typer.Typer(**plain, cls=GroupedCommands, pretty_exceptions_enable=False)
    for commands in COMMANDS.values():
        for name, command in commands.items():
            if callable(command):
                assembled.command(name)(command)
                continue
            group = typer.Typer(**plain, help=_GROUP_HELP[name])
            group.callback()(lambda: None)  # so that a single subcommand keeps its name
            for subname, function in command.items():
                group.command(subname)(function)
            assembled.add_typer(group, name=name)
    assembled.callback()(check_packages)
    return assembled


def _print_version(wanted: bool) -> None:  # as typer calls it
    if wanted:
        from flows.provenance import code_version

        say(f"m2ib-audit {code_version()}")
        raise typer.Exit


def check_packages(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Audit vision-language models without labels: find out what both towers rely on."""
    # Other distributions may install packages of the same generic names. Specs are found without importing.
    for name in PACKAGES:
        spec = find_spec(name)
        origin = None if spec is None else spec.origin
        if origin is None or Path(origin).resolve().parent != ROOT / name:
            fail(
                f"package {name!r} comes from {origin and Path(origin).parent}, expected {ROOT / name}; "
                "install m2ib-audit in an environment of its own",
                Exit.FAILURE,
            )


app = _assemble()


def main() -> None:
    """Run the command line; the entry point of the console script `m2ib-audit`."""
    try:
        app()
    except SystemExit as done:
        code = Exit.OK if done.code is None else done.code if isinstance(done.code, int) else Exit.FAILURE
    except Exception:  # noqa: BLE001  # print it once, without what follows from it
        traceback.print_exc()
        code = Exit.FAILURE
    leave(code)


def leave(code: int) -> NoReturn:
    """End the process after an audit: run the exit handlers, which stop Prefect's server, but skip finalization.

    Prefect leaves daemon threads running. If the interpreter finalized, DuckDB's Python binding would print many lines
    about leaked objects.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(code)


if __name__ == "__main__":
    main()
