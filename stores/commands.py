"""Command lines of `m2ib-audit` for messages that name the next step."""

import shlex
from pathlib import Path

from stores.urls import Root

DEFAULT_LAKE = Path("lake")
"""The lake of commands without --lake, relative to the working directory."""


def format_command(lake: Root, *arguments: str) -> str:
    """Return a command line that works as it stands in the user's shell: it names the lake unless that is the default.

    Args:
        lake: Folder or URL of the lake.
        arguments: The command and its arguments, such as "verify", "all".
    """
    is_default = isinstance(lake, Path) and lake.resolve() == DEFAULT_LAKE.resolve()
    return shlex.join(["m2ib-audit", *arguments, *([] if is_default else ["--lake", str(lake)])])
