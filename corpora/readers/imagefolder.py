"""A corpus as a folder of images with one metadata file, the `ImageFolder` convention."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from corpora import roots
from corpora.errors import RowError
from corpora.images import read_bytes
from corpora.readers import metadata
from corpora.readers.protocol import Columns, Row
from corpora.records import Limits, Place, Reason, is_storable
from corpora.roots import Root, beneath

_INSIDE = "expected a path inside the corpus, relative to its root, with '/' between folders"
# Of letters, digits and harmless signs, no part with a dot in front: no system sees a drive or a way upwards in it.
_ORDINARY = re.compile(r"[\w-][\w. -]*(?:/[\w-][\w. -]*)*", re.ASCII)


class FolderReader:
    """Images as files below a folder, and exactly one of metadata.csv (UTF-8, commas), .tsv, .jsonl, .parquet.

    Or such a table by itself, whatever it is called: then the corpus is the folder that it lies in. Further columns
    become attributes: numbers as plain text, booleans as true and false, nested values as compact JSON; missing and
    empty values are left out.
    """

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        self._table = root if metadata.is_table(root) else None
        root = root if self._table is None else roots.folder_of(root)
        self._root, self._columns, self._limits = root, columns, limits
        self._real = Path(os.path.realpath(root)) if isinstance(root, Path) else root

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        return metadata.read_rows(self._metadata(), self._columns)

    def count(self) -> int:
        """See `Reader.count`."""
        return metadata.count_rows(self._metadata())

    def _metadata(self) -> Root:
        if self._table is None:
            return metadata.find(self._root)
        return metadata.checked(self._table, self._root, "expected a table beside its images")

    def place(self, row: Row) -> Place:
        """See `Reader.place`."""
        name = "" if row.file_name is None else row.file_name
        if not isinstance(name, str):
            raise RowError(
                Reason.MALFORMED_ROW,
                f"{row.where} has {type(name).__name__} in column {self._columns.image!r}, expected text: correct it.",
            )
        resolve_inside(self._real, name)
        return Place(name)

    def image(self, place: Place) -> bytes:
        """See `Reader.image`."""
        return read_bytes(resolve_inside(self._real, place.name), self._limits)


def resolve_inside(root: Root, file_name: str) -> Root:
    """Return the real path of a file of the corpus, links followed. Nothing is opened.

    `root` is a real path, or remote. The rules are those of every platform, so that a corpus is read alike on all.

    Raises:
        RowError: as `check_name`, or a link that leads outside (path_outside_corpus).
    """
    check_name(file_name)
    if not isinstance(root, Path):
        return beneath(root, PurePosixPath(file_name))
    if _ORDINARY.fullmatch(file_name) and not _passes_link(root, file_name):
        return root / file_name
    real = Path(os.path.realpath(root / PurePosixPath(file_name)))
    if not real.is_relative_to(root):
        raise RowError(
            Reason.PATH_OUTSIDE_CORPUS, f"{file_name[:200]!a} is a link out of the corpus, {_INSIDE}: correct it."
        )
    return real


def _passes_link(root: Path, file_name: str) -> bool:
    """Whether a part of an ordinary name is a link, or might be. As realpath sees it, in a quarter of its time."""
    if os.name != "posix":  # where links are of more kinds
        return True
    at = str(root)
    for part in file_name.split("/"):
        at = f"{at}/{part}"
        try:
            if stat.S_ISLNK(os.lstat(at).st_mode):
                return True
        except OSError:  # not there, or not to be looked at: no link, and nothing that could be one lies beneath
            return False
    return False


def check_name(file_name: str) -> None:
    """Refuse a name that could lead out of a corpus, by its text alone.

    Raises:
        RowError: empty, NUL or not Unicode (malformed_row); absolute, with a drive, a backslash or '..'
            (path_outside_corpus).
    """
    if not file_name.strip() or not is_storable(file_name):
        raise RowError(
            Reason.MALFORMED_ROW,
            f"The file name is {file_name[:200]!a}, expected a relative path in Unicode without NUL: correct it.",
        )
    if _ORDINARY.fullmatch(file_name):
        return
    pure = PurePosixPath(file_name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in file_name or PureWindowsPath(file_name).drive:
        raise RowError(Reason.PATH_OUTSIDE_CORPUS, f"The file name is {file_name[:200]!a}, {_INSIDE}: correct it.")
