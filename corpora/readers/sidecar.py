"""A corpus as images with a caption file of the same stem beside each: `a.jpg`, `a.txt`, and perhaps `a.json`."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from corpora import roots
from corpora.errors import CorpusError, ImageError, RowError
from corpora.images import read_bytes
from corpora.readers.imagefolder import FolderReader, resolve_inside
from corpora.readers.metadata import MAX_LINE_BYTES, json_object, row_of
from corpora.readers.protocol import Columns, Row
from corpora.records import Limits, Reason
from corpora.roots import Root, beneath

IMAGE_SUFFIXES = (".bmp", ".dcm", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_SIDECARS = (".json", ".txt")
_TEXT_LIMITS = Limits(max_file_bytes=MAX_LINE_BYTES)


def fits(root: Root) -> bool:
    """Tell whether the folder, or the first one in it, holds an image with a caption file beside."""
    if not roots.is_folder(root):
        return False
    names, folders = _listing(root)
    if not any(name.lower().endswith(".txt") for name in names) and folders:
        names, _ = _listing(_below(root, PurePosixPath(folders[0])))
    return any(group.images and group.captions for group in _groups(names))


class FilesReader(FolderReader):
    """Images in a folder and the folders below it; the UTF-8 text in the .txt of the same stem is the caption.

    That is also what img2dataset writes as `files`. The values in a .json of the same stem become attributes, its
    `caption` only if it says something else. Folders are read in the order of their names, their own files first;
    the names of one folder at a time are held in memory. An image without .txt and a .txt without image are
    rejected rows, other files are none. A link to a folder is not followed: inside the corpus what it shows is
    read where it lies, one that leads out is a rejected row.
    """

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        super().__init__(root, columns, limits)
        self._folder = root

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        rows = (row for folder, entry in _walk(self._folder) for row in self._entry(folder, entry))
        first = next(rows, None)
        if first is None:
            raise CorpusError(
                f"Corpus {str(self._folder)!r} has neither images ({', '.join(IMAGE_SUFFIXES)}) nor .txt files, "
                "expected images with a .txt of the same stem beside each: correct the path."
            )
        return itertools.chain([first], rows)

    def count(self) -> int:
        """See `Reader.count`."""
        walk = _walk(self._folder)
        return sum(
            entry.rows if isinstance(entry, _Group) else self._leads_out(folder, entry) for folder, entry in walk
        )

    def _leads_out(self, folder: PurePosixPath, link: str) -> bool:
        try:
            resolve_inside(self._real, str(folder / link))
        except RowError:
            return True
        return False

    def _entry(self, folder: PurePosixPath, entry: "_Group | str") -> Iterator[Row]:
        if isinstance(entry, _Group):
            yield from self._group(folder, entry)
            return
        name = str(folder / entry)
        try:
            resolve_inside(self._real, name)
        except RowError as error:
            yield Row(_shown(name), name, trouble=f"is a linked folder: {error.detail}", reason=error.reason)

    def _group(self, folder: PurePosixPath, group: "_Group") -> Iterator[Row]:
        captions = [str(folder / name) for name in group.captions]
        images = [str(folder / name) for name in group.images]
        if not images:
            trouble = "is a caption without an image of the same stem beside it: restore the image, or drop the file."
            yield from (Row(_shown(name), name, trouble=trouble, reason=Reason.MISSING_FILE) for name in captions)
        elif not captions:
            trouble = "has no .txt of the same stem beside it, expected its caption there: add it, or drop the image."
            yield from (Row(_shown(name), name, trouble=trouble, reason=Reason.EMPTY_CAPTION) for name in images)
        else:
            details = None if group.details is None else str(folder / group.details)
            yield from (self._row(image, caption, details) for image in images for caption in captions)

    def _row(self, image: str, caption: str, details: str | None) -> Row:
        where = _shown(image)
        try:
            text = self._text(caption)
            loaded = {} if details is None else json_object(self._text(details))
        except RowError as error:
            return Row(
                where, image, trouble=f"has a file beside it that cannot be read: {error.detail}", reason=error.reason
            )
        if isinstance(loaded, str):
            return Row(where, image, text, trouble=f"has a .json beside it that {loaded}")
        if loaded.get("caption") == text:
            del loaded["caption"]
        # Under names of their own: the .json may have any key.
        row = row_of(where, loaded, Columns("\0image", "\0caption"))
        return replace(row, file_name=image, caption=text)

    def _text(self, name: str) -> str:
        try:
            data = read_bytes(resolve_inside(self._real, name), _TEXT_LIMITS)
        except ImageError as error:
            if error.reason is Reason.EMPTY_FILE:
                return ""
            raise RowError(
                error.reason,
                f"{name[:200]!a} is no regular file of at most {MAX_LINE_BYTES} bytes that can be read, expected "
                "UTF-8 text: replace it.",
            ) from error
        return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


@dataclass(frozen=True, slots=True)
class _Group:
    """The names in a folder that share a stem: a row for each image with each caption, or for what stands alone."""

    images: tuple[str, ...]
    captions: tuple[str, ...]
    details: str | None

    @property
    def rows(self) -> int:
        return (len(self.images) or 1) * (len(self.captions) or 1) if self.images or self.captions else 0


def _walk(root: Root) -> Iterator[tuple[PurePosixPath, "_Group | str"]]:
    """Yield, with their folder, groups of files, and links to folders by name."""
    if not roots.is_folder(root):
        raise CorpusError(
            f"Corpus {str(root)!r} {roots.absence(root) or 'is not a folder'}, "
            "expected images with .txt files beside: correct the path."
        )
    waiting = [PurePosixPath()]
    while waiting:
        folder = waiting.pop()
        try:
            names, folders = _listing(_below(root, folder))
        except OSError as error:
            raise CorpusError(
                f"The folder {str(root / folder)!r} cannot be read ({error.strerror}), expected a corpus that can "
                "be read throughout: check its permissions."
            ) from error
        yield from ((folder, group) for group in _groups(names))
        links = [name for name in folders if _is_link(root, folder / name)]
        yield from ((folder, name) for name in links)
        waiting += [folder / name for name in reversed(folders) if name not in links]


def _below(root: Root, folder: PurePosixPath) -> Root:
    return root / folder if isinstance(root, Path) else beneath(root, folder)


def _is_link(root: Root, folder: PurePosixPath) -> bool:
    return isinstance(root, Path) and (root / folder).is_symlink()


def _listing(folder: Root) -> tuple[list[str], list[str]]:
    if isinstance(folder, Path):
        names, folders = _local_listing(folder)
    else:
        entries = roots.entries(folder)
        names = [name for name, is_dir in entries if not is_dir and _is_ours(name)]
        folders = [name for name, is_dir in entries if is_dir]
    return sorted(names, key=lambda name: (_split(name), name)), sorted(folders)


def _local_listing(folder: Path) -> tuple[list[str], list[str]]:
    names, folders = [], []
    for entry in folder.iterdir():
        # What is called like a file is taken for one: to ask would cost a call each.
        if _is_ours(entry.name):
            names.append(entry.name)
        elif entry.is_dir():
            folders.append(entry.name)
    return names, folders


def _is_ours(name: str) -> bool:
    return name.lower().endswith((*IMAGE_SUFFIXES, *_SIDECARS))


def _split(name: str) -> str:
    return name[: name.rindex(".")]


def _shown(name: str) -> str:
    return f"{name[:200]!a}"


def _groups(names: list[str]) -> Iterator[_Group]:
    for _, members in itertools.groupby(names, _split):
        group = list(members)
        yield _Group(
            tuple(name for name in group if name.lower().endswith(IMAGE_SUFFIXES)),
            tuple(name for name in group if name.lower().endswith(".txt")),
            next((name for name in group if name.lower().endswith(".json")), None),
        )
