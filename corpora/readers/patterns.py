"""The files that a root means: one file, those of a folder, or those of a pattern in the last part of the path."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from corpora import roots
from corpora.errors import CorpusError, RowError
from corpora.readers.imagefolder import check_name
from corpora.records import Reason
from corpora.roots import Root, beneath, lies_in

MAX_SHARDS = 100_000
"""A pattern that means more is taken for a slip."""

_GLOB = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*,[^{}]*|\d{1,18}\.\.\d{1,18})\}")


def is_pattern(root: Root) -> bool:
    """Whether the last part of a path has to be expanded; what lies there under this very name is no pattern."""
    return bool(_GLOB.search(root.name) or _BRACES.search(root.name)) and not roots.exists(root)


def find(root: Root, suffix: str) -> tuple[Root, list[str]]:
    """Return the folder and the names in it, ordered; the names that a brace pattern spells out may be missing.

    Raises:
        CorpusError: there is none at all, or the pattern means more than `MAX_SHARDS`.
    """
    if roots.is_folder(root):
        names = roots.names(root, f"*{suffix}")
        if not names:
            raise CorpusError(f"Corpus {str(root)!r} has no file *{suffix}, expected at least one: correct the path.")
        return root, names
    folder = root.parent
    if not is_pattern(root):
        if not roots.exists(root):
            raise CorpusError(
                f"Corpus {str(root)!r} {roots.absence(root) or 'does not exist'}, expected a file *{suffix}, "
                "a folder of them, or a pattern in the last part of the path (* ? [0-9] {a,b} {000..012}): "
                "correct the path."
            )
        return folder, [root.name]
    found: dict[str, None] = {}
    for name in expand(root.name):
        known = roots.names(folder, name) if _GLOB.search(name) else [name]
        found.update(dict.fromkeys(known))
    if not any(roots.exists(folder / name) for name in found):
        why = f"its folder {roots.absence(folder) or 'has none of them'}"
        raise CorpusError(f"Corpus {str(root)!r} means no file that exists ({why}), expected one or more: correct it.")
    return folder, list(found)


def expand(pattern: str) -> list[str]:
    """Expand {a,b} and {000..012} as a shell does, numbers upwards; leading zeros are kept. Other braces stay.

    Raises:
        CorpusError: more than `MAX_SHARDS`, or a range that runs downwards.
    """
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    names: list[str] = []
    for choice in _choices(found[1], pattern):
        names += expand(pattern[: found.start()] + choice + pattern[found.end() :])
        _check_number(len(names), pattern)
    return names


def _choices(inside: str, pattern: str) -> Iterable[str]:
    if "," in inside:
        return inside.split(",")
    first, _, last = inside.partition("..")
    if int(first) > int(last):
        raise CorpusError(f"Pattern {pattern!r} counts from {first} down to {last}, expected upwards: swap the two.")
    _check_number(int(last) - int(first) + 1, pattern)
    zeros = any(len(number) > 1 and number.startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if zeros else 0
    return (f"{number:0{width}}" for number in range(int(first), int(last) + 1))


def _check_number(number: int, pattern: str) -> None:
    if number > MAX_SHARDS:
        raise CorpusError(f"Pattern {pattern!r} means more than {MAX_SHARDS} files: split the corpus, or correct it.")


def check(folder: Root, name: str, root: Root) -> Root:
    """Return the path of a shard that may be opened; whoever named one file by itself may name a link.

    Of a remote one only the name is judged: to open it tells the rest.

    Raises:
        RowError: missing, no regular file, or a link that leads out of the folder.
    """
    check_name(name)
    path = folder / name if isinstance(folder, Path) else beneath(folder, PurePosixPath(name))
    if "/" in name or (path != root and not lies_in(path, folder)):
        raise RowError(Reason.PATH_OUTSIDE_CORPUS, "leads out of the corpus, expected a file in it: copy it there.")
    if not isinstance(path, Path):
        return path
    if not path.exists():
        raise RowError(Reason.MISSING_FILE, "does not exist, expected a shard: restore it, or correct the pattern.")
    if not path.is_file():
        raise RowError(Reason.NOT_A_REGULAR_FILE, "is not a regular file, expected a shard: replace it.")
    return path
