"""Reader of a folder of images with one metadata file (the `ImageFolder` convention of Hugging Face)."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from corpora import roots
from corpora.errors import RowError
from corpora.images import read_bytes
from corpora.readers import metadata
from corpora.readers.protocol import Columns, Reader, Row
from corpora.records import Limits, Place, Reason, is_storable
from corpora.roots import Root

_INSIDE = "expected a path inside the corpus, relative to its root, with '/' between folders"
# ASCII letters, digits, '_', '-', '.' and spaces, no part with a leading dot. Such a name has no drive and no '..' on
# any operating system.
_ORDINARY = re.compile(r"[\w-][\w. -]*(?:/[\w-][\w. -]*)*", re.ASCII)


class FolderReader(Reader):
    """Reader of image files in a folder, with captions in a metadata file.

    The folder contains exactly one of metadata.csv (UTF-8, comma-separated), metadata.tsv, metadata.jsonl and
    metadata.parquet. The given path may also be a .csv, .tsv, .jsonl or .parquet file of any name; the root of the
    corpus is then the folder of this file.

    Further columns become attributes: numbers as plain text, booleans as `true` and `false`, nested values as compact
    JSON. Missing and empty values are omitted.
    """

    default_columns = Columns("file_name", "text")
    description = (
        f"a folder of images with exactly one of {', '.join(metadata.NAMES)}, or a .csv or .jsonl in the same folder"
    )

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        self._table = root if metadata.is_table(root) else None
        super().__init__(root if self._table is None else roots.parent_of(root), columns, limits)
        self._real = roots.real_path(self._root)

    @classmethod
    def fits(cls, root: Root) -> bool:
        """Return whether a path is a metadata file, or a folder that contains one."""
        # A .tsv of a different name may list URLs, and a .parquet of a different name may contain the images.
        is_table = root.suffix in (".csv", ".jsonl") or root.name in metadata.NAMES
        return (is_table and roots.is_file(root)) or any(roots.is_file(root / name) for name in metadata.NAMES)

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        return metadata.read_rows(self._metadata(), self._columns)

    def count(self) -> int:
        """See `Reader.count`."""
        return metadata.count_rows(self._metadata())

    def _metadata(self) -> Root:
        if self._table is None:
            return metadata.find(self._root)
        return metadata.check_listing(self._table, self._root, "expected a metadata file in the folder of its images")

    def place(self, row: Row) -> Place:
        """See `Reader.place`."""
        name = "" if row.file_name is None else row.file_name
        if not isinstance(name, str):
            raise RowError(
                Reason.MALFORMED_ROW,
                f"The value of column {self._columns.image!r} in {row.location} is of type {type(name).__name__} "
                "(expected text). Correct it.",
            )
        if not _is_plain(self._real, name):
            resolve_inside(self._real, name)
        return Place(name)

    def image(self, place: Place) -> bytes:
        """See `Reader.image`."""
        return read_bytes(resolve_inside(self._real, place.name), self._limits)


def resolve_inside(root: Root, file_name: str) -> Root:
    """Return the path of a file in a corpus, with symbolic links resolved. The file is not opened.

    The path rules of all operating systems apply, so that the same rows are rejected on each of them.

    Args:
        root: Root of the corpus: a local path without links, or a remote URL.
        file_name: Path of the file relative to the root.

    Raises:
        RowError: The name is invalid (see `check_name`), or a link leads out of the corpus (reason
            `path_outside_corpus`).
    """
    if isinstance(root, Path) and _is_plain(root, file_name):
        return root / file_name
    check_name(file_name)
    if not isinstance(root, Path):
        return roots.join(root, PurePosixPath(file_name))
    real = Path(os.path.realpath(root / PurePosixPath(file_name)))
    if not real.is_relative_to(root):
        raise RowError(
            Reason.PATH_OUTSIDE_CORPUS,
            f"The path {file_name[:200]!a} is a link out of the corpus ({_INSIDE}). Correct it.",
        )
    return real


def _is_plain(root: Root, file_name: str) -> bool:
    """Return whether a name is ordinary, so that `check_name` accepts it, and no part of a local path is a link."""
    return bool(_ORDINARY.fullmatch(file_name)) and not (isinstance(root, Path) and _has_link(root, file_name))


def _has_link(root: Path, file_name: str) -> bool:
    """Return whether a part of a relative path may be a symbolic link. The path must match `_ORDINARY`.

    This check is four times as fast as `os.path.realpath`.
    """
    if os.name != "posix":  # Windows has further types of links
        return True
    path = str(root)
    for part in file_name.split("/"):
        path = f"{path}/{part}"
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):
                return True
        except OSError:  # the part is missing or inaccessible, so no later part can be a link
            return False
    return False


def check_name(file_name: str) -> None:
    """Reject a file name that could lead out of a corpus. Only the text of the name is checked.

    Raises RowError if the name is empty or absolute, or contains NUL, invalid Unicode, a drive, a backslash or '..'.
    """
    if not file_name.strip() or not is_storable(file_name):
        raise RowError(
            Reason.MALFORMED_ROW,
            f"The file name is {file_name[:200]!a} (expected a relative path in Unicode without NUL). Correct it.",
        )
    if _ORDINARY.fullmatch(file_name):
        return
    pure = PurePosixPath(file_name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in file_name or PureWindowsPath(file_name).drive:
        raise RowError(Reason.PATH_OUTSIDE_CORPUS, f"The file name is {file_name[:200]!a} ({_INSIDE}). Correct it.")
