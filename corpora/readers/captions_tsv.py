"""A corpus as Conceptual Captions gives it: lines of caption and URL, the images downloaded beforehand."""

import array
import hashlib
import itertools
import posixpath
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from corpora import roots
from corpora.errors import CorpusError, RowError
from corpora.images import read_bytes
from corpora.readers import metadata
from corpora.readers.imagefolder import FolderReader, resolve_inside
from corpora.readers.metadata import MAX_LINE_BYTES, excerpt, json_object, lines, row_of
from corpora.readers.protocol import Columns, Row
from corpora.records import Limits, Reason, is_storable
from corpora.roots import Root, beneath

if TYPE_CHECKING:
    from upath import UPath

COLUMNS = Columns("url", "caption")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_FOLDERS = ("", "images", "training", "validation")
_SNIFFED_BYTES = 2**16
_LISTED_FOLDERS = 8
_EXPECTED = "expected a .tsv file, or a folder with exactly one, of caption, URL and perhaps a path"


def fits(root: Root) -> bool:
    """Tell whether the root is, or holds, a .tsv with a tab in its first line; several: the reader says which."""
    return any(map(_has_tabs, _candidates(root)))


class CaptionsTsvReader(FolderReader):
    r"""Lines of `caption<TAB>url[<TAB>path]`, in either order of the two, without a header; a line is a row.

    With the columns `url` and `caption`, which Conceptual Captions has, a first line that names both is a header,
    and nothing is quoted: a caption may begin with a quote. Other columns, once named, are those of a header, in a
    file that is read as metadata.tsv is.

    The corpus is the folder; for a file, that it lies in. Nothing is fetched: an image is a path where the line has
    one, else the first of these files in the corpus, in `images`, `training`, `validation` or a folder called like
    the listing:

    1. the md5, sha1 or sha256 (hex) of the URL, with .jpg, .jpeg, .png or .webp;
    2. the row's number and the crc32 of the URL (`12_3735928559`), or the crc32 alone, without suffix;
    3. the last part of the URL, if no other URL of the listing ends in it;
    4. the row's number, counted from 0, in 9 or 8 digits, also in img2dataset's folders of 10,000 or 1,000
       (`00001/000012345.jpg`), unless a .json beside it tells another URL. img2dataset's numbers are those of rows
       only for such sizes: a folder of its `files` is better read as that.

    `url` and `host` become attributes, and so do further columns. A line without image is a rejected row.
    """

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        super().__init__(roots.folder_of(root) if roots.is_file(root) else root, columns, limits)
        self._given = root
        self._listed: dict[str, frozenset[str]] = {}

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        path = self._find()
        self._listed.clear()
        rows = (self._resolved(number, row) for number, row in enumerate(self._lines(path)))
        first = next(rows, None)
        if first is None:
            raise CorpusError(f"{str(path)!r} has zero rows, expected at least one: export it again.")
        return itertools.chain([first], rows)

    def count(self) -> int:
        """See `Reader.count`."""
        path = self._find()
        if self._columns != COLUMNS:
            return metadata.count_rows(path)
        filled = (text for _, text in lines(path) if text is None or text.strip())
        first = next(filled, "")
        return sum(1 for _ in filled) + int(bool(first is None or (first and not _header(first))))

    def _find(self) -> Root:
        found = _candidates(self._given)
        if len(found) != 1:
            there = ", ".join(path.name for path in found[:20]) or "none"
            why = roots.absence(self._given) or f"has {there}"
            raise CorpusError(f"Corpus {str(self._given)!r} {why}, {_EXPECTED}: give the path of the file.")
        return metadata.checked(found[0], self._root, _EXPECTED)

    def _lines(self, path: Root) -> Iterator[Row]:
        """The rows as they stand: the image is a URL or a path."""
        if self._columns != COLUMNS:
            yield from metadata.read_rows(path, self._columns)
            return
        names: list[str] | None = None
        first = True
        for number, text in lines(path):
            where = f"line {number}"
            if text is None:
                yield Row(where, trouble=f"is longer than {MAX_LINE_BYTES} bytes")
            elif text.strip():
                fields = text.rstrip("\r\n").split("\t")
                if first and (names := _header(text)):
                    first = False
                    continue
                yield _plain_row(where, fields, names)
            else:
                continue
            first = False

    def _resolved(self, number: int, row: Row) -> Row:
        url = row.file_name
        if row.trouble or not isinstance(url, str) or not _is_url(url):
            return row
        if not is_storable(url):
            return replace(row, trouble=f"holds NUL or bytes that are not UTF-8 in its URL: {excerpt(url)}")
        row = replace(row, attributes={**row.attributes, **_origin(url)})
        name = self._sought(url, number)
        if name is not None and name in self._weak(url) and _hashed(posixpath.basename(name)) in self._ambiguous:
            trouble = f"is one of several URLs for which {name!a} stands: name the files by the hash of their URL."
            return replace(row, trouble=trouble, reason=Reason.MISSING_FILE)
        if name is None:
            trouble = "has a URL whose image is not in the corpus: download it, or drop the line."
            return replace(row, trouble=trouble, reason=Reason.MISSING_FILE)
        return replace(row, file_name=name)

    def _sought(self, url: str, number: int) -> str | None:
        data = url.encode()
        hashes = [hashlib.new(kind, data, usedforsecurity=False).hexdigest() for kind in ("md5", "sha1", "sha256")]
        sure = [name + suffix for name in hashes for suffix in _SUFFIXES] + [f"{number}_{zlib.crc32(data)}"]
        named = [folder + name for name in sure for folder in self._folders] + self._weak(url)
        if name := next(filter(self._is_there, named), None):
            return name
        for digits, shard in ((9, 10_000), (8, 1_000)):
            key = f"{number:0{digits}d}"
            for folder in (f"{number // shard:05d}/", *self._folders):
                for suffix in _SUFFIXES:
                    name = f"{folder}{key}{suffix}"
                    if self._is_there(name) and self._tells(f"{folder}{key}.json") in (None, url):
                        return name
        return None

    def _weak(self, url: str) -> list[str]:
        return [folder + name for name in _weak_names(url) for folder in self._folders]

    def _is_there(self, name: str) -> bool:
        if not isinstance(self._real, Path):
            if roots.is_web(self._real):  # a web server need not list what it has
                return roots.is_file(resolve_inside(self._real, name))
            folder, _, last = name.rpartition("/")
            return last in self._remote_names(self._real, folder)
        path = self._real / name
        try:
            return path.is_symlink() or path.is_file()
        except OSError:  # a name too long for the file system
            return False

    def _remote_names(self, root: "UPath", folder: str) -> frozenset[str]:
        """The files of a remote folder: a row is sought under so many names that a question each is too much."""
        known = self._listed.pop(folder, None)
        if known is None:
            path = beneath(root, PurePosixPath(folder))
            known = frozenset(name for name, is_dir in roots.entries(path) if not is_dir)
        self._listed[folder] = known  # behind those that were asked for before
        if len(self._listed) > _LISTED_FOLDERS:
            del self._listed[next(iter(self._listed))]
        return known

    def _tells(self, name: str) -> object:
        """The URL in img2dataset's .json; None where there is no such file."""
        if not self._is_there(name):
            return None
        try:
            data = read_bytes(resolve_inside(self._real, name), Limits(max_file_bytes=MAX_LINE_BYTES))
        except RowError:
            return ""
        loaded = json_object(data.decode("utf-8", "surrogateescape"))
        return loaded.get("url") or "" if isinstance(loaded, dict) else ""

    @cached_property
    def _folders(self) -> list[str]:
        return [
            f"{name}/" if name else ""
            for name in (*_FOLDERS, self._find().stem)
            if not name or roots.is_folder(self._real / name)
        ]

    @cached_property
    def _ambiguous(self) -> frozenset[int]:
        """Hashes of the names that stand for several URLs; 16 bytes a line and name while they are sought."""
        names, urls = array.array("Q"), array.array("Q")
        for row in self._lines(self._find()):
            if isinstance(row.file_name, str) and _is_url(row.file_name) and is_storable(row.file_name):
                for name in _weak_names(row.file_name):
                    names.append(_hashed(name))
                    urls.append(_hashed(row.file_name))
        columns = [pa.Array.from_buffers(pa.uint64(), len(side), [None, pa.py_buffer(side)]) for side in (names, urls)]
        groups = pa.table(columns, ["name", "url"]).group_by("name").aggregate([("url", "count_distinct")])
        counts = zip(groups["name"].to_pylist(), groups["url_count_distinct"].to_pylist(), strict=True)
        return frozenset(name for name, count in counts if count > 1)


def _plain_row(where: str, fields: list[str], names: list[str] | None) -> Row:
    if names is not None:
        if len(fields) != len(names):
            return Row(where, trouble=f"has {len(fields)} fields where the header has {len(names)}: {excerpt(fields)}")
        return row_of(where, dict(zip(names, fields, strict=True)), COLUMNS)
    if len(fields) not in (2, 3):
        return Row(
            where, trouble=f"has {len(fields)} fields, expected caption, URL and perhaps a path: {excerpt(fields)}"
        )
    caption, url, *path = fields
    if _is_url(caption) and not _is_url(url):  # Conceptual 12M
        caption, url = url, caption
    if not path or not path[0]:
        return Row(where, url, caption)
    if not is_storable(url):
        return Row(where, path[0], caption, trouble=f"holds NUL or bytes that are not UTF-8 in its URL: {excerpt(url)}")
    return Row(where, path[0], caption, _origin(url))


def _header(line: str) -> list[str] | None:
    names = line.rstrip("\r\n").split("\t")
    named = {COLUMNS.image, COLUMNS.caption} <= set(names) and len(set(names)) == len(names)
    return names if named else None


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _origin(url: str) -> dict[str, str]:
    try:
        host = urlsplit(url).hostname
    except ValueError:  # such as brackets that do not close
        host = None
    return {"url": url, "host": host} if host else {"url": url}


def _weak_names(url: str) -> list[str]:
    """Names that another URL may have as well."""
    path = url.partition("?")[0].partition("#")[0]
    ends = dict.fromkeys(posixpath.basename(text) for text in (path, unquote(path)))
    return [str(zlib.crc32(url.encode())), *(end for end in ends if end not in ("", ".", "..") and is_storable(end))]


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _candidates(root: Root) -> list[Root]:
    if roots.is_file(root):
        return [root] if root.suffix == ".tsv" else []
    if not roots.is_folder(root):
        return []
    return [root / name for name in roots.names(root, "*.tsv") if name not in metadata.NAMES]


def _has_tabs(path: Root) -> bool:
    if (isinstance(path, Path) and path.is_symlink()) or not roots.is_file(path):
        return False
    return b"\t" in roots.beginning(path, _SNIFFED_BYTES).partition(b"\n")[0]
