"""Reader of image files, each next to a caption file of the same stem: `a.jpg`, `a.txt`, optionally `a.json`."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from corpora import roots
from corpora.errors import CorpusError, ImageError, RowError
from corpora.images import SUFFIXES, read_bytes
from corpora.readers.imagefolder import FolderReader, resolve_inside
from corpora.readers.metadata import MAX_LINE_BYTES, parse_object, row_of
from corpora.readers.protocol import Columns, Row, require_rows
from corpora.records import Limits, Reason
from corpora.roots import Root

_SIDECARS = (".json", ".txt")
_TEXT_LIMITS = Limits(max_file_bytes=MAX_LINE_BYTES)


class SidecarReader(FolderReader):
    """Reader of images in a folder and its subfolders, with the caption in a UTF-8 .txt file of the same stem.

    img2dataset calls this layout `files`. The values in a .json of the same stem become attributes. Its `caption`
    becomes an attribute only if it differs from the .txt. Folders are read in the order of their names, and the files
    of a folder before its subfolders. Only the names of one folder at a time are in memory.

    An image without a .txt and a .txt without an image become rejected rows. Other files are ignored. Links to folders
    are not followed, and a link out of the corpus becomes a rejected row.
    """

    default_columns = Columns("image", "caption")
    description = "a folder of images, each next to a .txt file of the same stem"

    @classmethod
    def fits(cls, root: Root) -> bool:
        """Return whether a folder or its first subfolder contains an image with a caption file."""
        if not roots.is_folder(root):
            return False
        names, folders = _list(root)
        if not any(name.lower().endswith(".txt") for name in names) and folders:
            names, _ = _list(roots.join(root, PurePosixPath(folders[0])))
        return any(all(_split(list(group))) for _, group in itertools.groupby(names, _stem))

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        return require_rows(
            self._walk(load=True),
            f"Corpus {str(self._root)!r} has neither images ({', '.join(SUFFIXES)}) nor .txt files "
            "(expected images with a .txt of the same stem next to each). Correct the path.",
        )

    def count(self) -> int:
        """See `Reader.count`."""
        return sum(1 for _ in self._walk(load=False))

    def _walk(self, load: bool) -> Iterator[Row]:
        """Yield the rows of all folders. Without `load`, no caption is read, and only the number of rows is correct."""
        root = self._root
        if not roots.is_folder(root):
            raise CorpusError(
                f"Corpus {str(root)!r} {roots.describe_absence(root) or 'is not a folder'}, "
                "expected a folder of images with .txt files; correct the path."
            )
        waiting = [PurePosixPath()]
        while waiting:
            folder = waiting.pop()
            names, folders = _list(roots.join(root, folder))
            for _, group in itertools.groupby(names, _stem):
                yield from self._group_rows([str(folder / name) for name in group], load)
            links = [name for name in folders if isinstance(root, Path) and (root / folder / name).is_symlink()]
            for name in (str(folder / link) for link in links):
                try:
                    resolve_inside(self._real, name)
                except RowError as error:
                    yield Row(_show(name), name, problem=f"is a link to a folder: {error.detail}", reason=error.reason)
            waiting += [folder / name for name in reversed(folders) if name not in links]

    def _group_rows(self, names: list[str], load: bool) -> Iterator[Row]:
        """Yield a row per image and caption of one stem. If all are images or all captions, each is a rejected row."""
        images, captions = _split(names)
        if not images:
            problem = "is a caption without an image of the same stem. Restore the image, or drop the file."
            yield from (Row(_show(name), name, problem=problem, reason=Reason.MISSING_FILE) for name in captions)
        elif not captions:
            problem = "has no .txt of the same stem (expected its caption there). Add it, or drop the image."
            yield from (Row(_show(name), name, problem=problem, reason=Reason.EMPTY_CAPTION) for name in images)
        else:
            details = next((name for name in names if name.lower().endswith(".json")), None)
            for image, caption in itertools.product(images, captions):
                yield self._row(image, caption, details) if load else Row(_show(image))

    def _row(self, image: str, caption: str, details: str | None) -> Row:
        location = _show(image)
        try:
            text = self._read_text(caption)
            loaded = {} if details is None else parse_object(self._read_text(details))
        except RowError as error:
            problem = f"has a caption or .json file that cannot be read: {error.detail}"
            return Row(location, image, problem=problem, reason=error.reason)
        if isinstance(loaded, str):
            return Row(location, image, text, problem=f"has a .json of the same stem that {loaded}")
        if loaded.get("caption") == text:
            del loaded["caption"]
        # These column names contain NUL, so that they match no key of the .json.
        row = row_of(location, loaded, Columns("\0image", "\0caption"))
        return replace(row, file_name=image, caption=text)

    def _read_text(self, name: str) -> str:
        try:
            data = read_bytes(resolve_inside(self._real, name), _TEXT_LIMITS)
        except ImageError as error:
            if error.reason is Reason.EMPTY_FILE:
                return ""
            raise RowError(
                error.reason,
                f"{name[:200]!a} is not a readable regular file of at most {MAX_LINE_BYTES} bytes (expected UTF-8 "
                "text). Replace it.",
            ) from error
        return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _list(folder: Root) -> tuple[list[str], list[str]]:
    """Return the names of image, .txt and .json files in a folder, sorted by stem, and the names of its subfolders."""
    found = roots.list_folder(folder)
    # A folder with the suffix of a file is treated as a file, so that it becomes a rejected row.
    names = [name for name, _ in found if _is_file_name(name)]
    folders = [name for name, is_dir in found if is_dir and not _is_file_name(name)]
    return sorted(names, key=lambda name: (_stem(name), name)), folders


def _is_file_name(name: str) -> bool:
    return name.lower().endswith((*SUFFIXES, *_SIDECARS))


def _stem(name: str) -> str:
    return name[: name.rindex(".")]


def _show(name: str) -> str:
    return f"{name[:200]!a}"


def _split(names: list[str]) -> tuple[list[str], list[str]]:
    """Select two kinds of file names: those of images, and those of captions (.txt)."""
    images = [name for name in names if name.lower().endswith(SUFFIXES)]
    return images, [name for name in names if name.lower().endswith(".txt")]
