"""Command lines of `m2ib-audit` for messages that name the next step, and names of files that are safe to print."""

import shlex
from pathlib import Path

from stores.urls import Root

DEFAULT_LAKE = Path("lake")
"""The lake of commands without --lake, relative to the working directory."""


def escape(text: str) -> str:
    """Escape line breaks, control characters and those that change the order of others, for one line of text."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)


def format_command(lake: Root, *arguments: str) -> str:
    """Return a command line that works as it stands in the user's shell: it names the lake unless that is the default.

    Args:
        lake: Folder or URL of the lake.
        arguments: The command and its arguments, such as "verify", "all".
    """
    is_default = isinstance(lake, Path) and lake.resolve() == DEFAULT_LAKE.resolve()
    return shlex.join(["m2ib-audit", *arguments, *([] if is_default else ["--lake", str(lake)])])
