"""Listing of the files of a corpus that is given as one file, a folder, or a pattern in the last part of a path."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from corpora import roots
from corpora.errors import CorpusError, RowError
from corpora.readers.imagefolder import check_name
from corpora.records import Reason
from corpora.roots import Root

MAX_SHARDS = 100_000
"""Largest number of files that a pattern may expand to."""

_GLOB = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*,[^{}]*|\d{1,18}\.\.\d{1,18})\}")


def is_pattern(root: Root) -> bool:
    """Return whether the last part of a path is a pattern, such as `*.tar`, and no file has exactly this name."""
    return bool(_GLOB.search(root.name) or _BRACES.search(root.name)) and not roots.exists(root)


def find(root: Root, suffix: str) -> list[str]:
    """List the names of the files of a corpus that is a file, a folder, or a path whose last part is a pattern.

    In a folder, the files with the suffix are listed. A pattern with braces may yield names that do not exist.
    """
    if roots.is_folder(root):
        names = roots.list_names(root, f"*{suffix}")
        if not names:
            raise CorpusError(f"Corpus {str(root)!r} has no file *{suffix} (expected at least one). Correct the path.")
        return names
    folder = root.parent
    if not is_pattern(root):
        if not roots.exists(root):
            raise CorpusError(
                f"Corpus {str(root)!r} {roots.describe_absence(root) or 'does not exist'}, expected a file *{suffix}, "
                "a folder of them, or a pattern in the last part of the path (* ? [0-9] {a,b} {000..012}); "
                "correct the path."
            )
        return [root.name]
    found: dict[str, None] = {}
    for name in expand(root.name):
        found.update(dict.fromkeys(roots.list_names(folder, name) if _GLOB.search(name) else [name]))
    if not any(roots.exists(folder / name) for name in found):
        problem = f"its folder {roots.describe_absence(folder) or 'has none of these files'}"
        raise CorpusError(f"Corpus {str(root)!r} matches no file ({problem}), expected at least one; correct the path.")
    return list(found)


def expand(pattern: str) -> list[str]:
    """Expand {a,b} and {000..012} as a shell does. Leading zeros are kept, and other braces are not expanded.

    Raises CorpusError for more than `MAX_SHARDS` names, or a descending range.
    """
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    choices: Iterable[str] = found[1].split(",")
    if "," not in found[1]:
        first, _, last = found[1].partition("..")
        if int(first) > int(last):
            raise CorpusError(f"Pattern {pattern!r} counts down from {first} to {last}. Swap the two numbers.")
        _check_number(int(last) - int(first) + 1, pattern)
        zeros = any(len(number) > 1 and number.startswith("0") for number in (first, last))
        width = max(len(first), len(last)) if zeros else 0
        choices = (f"{number:0{width}}" for number in range(int(first), int(last) + 1))
    names: list[str] = []
    for choice in choices:
        names += expand(pattern[: found.start()] + choice + pattern[found.end() :])
        _check_number(len(names), pattern)
    return names


def _check_number(number: int, pattern: str) -> None:
    if number > MAX_SHARDS:
        raise CorpusError(f"Pattern {pattern!r} names more than {MAX_SHARDS} files. Correct it, or split the corpus.")


def check_shard(folder: Root, name: str, root: Root) -> Root:
    """Check that a file is a regular file inside of the corpus folder, and return its path. Raises RowError.

    For a remote file only the name is checked, because opening it detects all other problems. If `root`, the path that
    the user gave, is the file itself, the file may be a link out of the folder.
    """
    check_name(name)
    path = roots.join(folder, PurePosixPath(name))
    if "/" in name or (path != root and not roots.is_inside(path, folder)):
        raise RowError(
            Reason.PATH_OUTSIDE_CORPUS, "leads out of the corpus (expected a file in its folder). Copy it there."
        )
    if isinstance(path, Path):
        roots.check_file(path)
    return path
