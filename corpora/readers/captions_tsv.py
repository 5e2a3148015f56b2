"""Conceptual Captions: lines of caption and URL, with the images downloaded beforehand."""

import array
import hashlib
import posixpath
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import numpy as np

from corpora import roots
from corpora.errors import RowError
from corpora.images import read_bytes
from corpora.readers import metadata
from corpora.readers.imagefolder import FolderReader, resolve_inside
from corpora.readers.metadata import MAX_LINE_BYTES, excerpt, lines, parse_object, row_of_fields
from corpora.readers.protocol import Columns, Row, require_rows
from corpora.records import Limits, Reason, is_storable
from corpora.roots import Root

_DEFAULT = Columns("url", "caption")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_FOLDERS = ("", "images", "training", "validation")
_SNIFFED_BYTES = 2**16
_LISTED_FOLDERS = 8
_EXPECTED = "expected a .tsv file, or a folder with exactly one, of caption, URL and optionally a path"
_BAD_URL = "contains NUL or bytes that are not UTF-8 in its URL: "


class CaptionsTsvReader(FolderReader):
    r"""Lines of `caption<TAB>url[<TAB>path]`, in either order of the first two, without a header; a line is a row.

    With the default columns, `url` and `caption`, a first line that names both is a header, and nothing is quoted: a
    caption may begin with a quote. With other columns the file has a header and is read like metadata.tsv.

    The corpus is the folder, or that of the file. Nothing is downloaded. The image is the path if the line has one, and
    otherwise the first of these files in the corpus, in `images`, `training`, `validation` or a folder named like the
    listing:

    1. the md5, sha1 or sha256 (hex) of the URL, with .jpg, .jpeg, .png or .webp;
    2. the row number and the crc32 of the URL (`12_3735928559`), or the crc32 alone, without suffix;
    3. the last part of the URL, if no other URL of the listing ends in it;
    4. the row number, counted from 0, in 9 or 8 digits, also in the folders of 10,000 or 1,000 of img2dataset
       (`00001/000012345.jpg`), unless a .json next to it states another URL. The numbers of img2dataset are row numbers
       for these sizes only: read a folder of its `files` as that format.

    `url`, `host` and further columns become attributes. A line without image is a rejected row.
    """

    default_columns = _DEFAULT
    description = "a .tsv of caption and URL next to downloaded images, or a folder with one"

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        super().__init__(roots.parent_of(root) if roots.is_file(root) else root, columns, limits)
        self._given = root
        # A row is searched under many names: asking a remote store for each would take too long.
        self._list_files = lru_cache(_LISTED_FOLDERS)(self._list_remote_files)

    @classmethod
    def fits(cls, root: Root) -> bool:
        """See `Reader.fits`: whether there is a .tsv with a tab in its first line."""
        return any(map(_has_tabs, _candidates(root)))

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        path = self._find()
        self._list_files.cache_clear()
        rows = (self._resolve(number, row) for number, row in enumerate(self._lines(path)))
        return require_rows(rows, f"{str(path)!r} has zero rows, expected at least one: export it again.")

    def count(self) -> int:
        """See `Reader.count`."""
        path = self._find()
        if self._columns != _DEFAULT:
            return metadata.count_rows(path)
        filled = (text for _, text in lines(path) if text is None or text.strip())
        first = next(filled, "")
        return sum(1 for _ in filled) + int(bool(first is None or (first and not _parse_header(first))))

    def _find(self) -> Root:
        found = _candidates(self._given)
        return metadata.select_listing(self._given, found, self._root, "has no .tsv file", _EXPECTED)

    def _lines(self, path: Root) -> Iterator[Row]:
        """Yield the rows as stored: the image is a URL or a path."""
        if self._columns != _DEFAULT:
            yield from metadata.read_rows(path, self._columns)
            return
        names: list[str] | None = None
        first = True
        for number, text in lines(path):
            location = f"line {number}"
            if text is None:
                yield Row(location, problem=f"is longer than {MAX_LINE_BYTES} bytes")
            elif not text.strip():
                continue
            elif not first or not (names := _parse_header(text)):
                yield _parse_line(location, text.rstrip("\r\n").split("\t"), names)
            first = False

    def _resolve(self, number: int, row: Row) -> Row:
        """Replace the URL of a row by the name of its image."""
        url = row.file_name
        if row.problem or not isinstance(url, str) or not _is_url(url):
            return row
        if not is_storable(url):
            return replace(row, problem=_BAD_URL + excerpt(url))
        row = replace(row, attributes={**row.attributes, **_origin(url)})
        name = self._find_image(url, number)
        if name is not None and name in self._shared_names(url) and _hash(posixpath.basename(name)) in self._ambiguous:
            problem = f"is one of several URLs whose image could be {name!a}: name the files by the hash of their URL."
            return replace(row, problem=problem, reason=Reason.MISSING_FILE)
        if name is None:
            problem = "has a URL whose image is not in the corpus: download it, or drop the line."
            return replace(row, problem=problem, reason=Reason.MISSING_FILE)
        return replace(row, file_name=name)

    def _find_image(self, url: str, number: int) -> str | None:
        data = url.encode()
        hashes = [hashlib.new(kind, data, usedforsecurity=False).hexdigest() for kind in ("md5", "sha1", "sha256")]
        unique = [name + suffix for name in hashes for suffix in _SUFFIXES] + [f"{number}_{zlib.crc32(data)}"]
        names = [folder + name for name in unique for folder in self._folders] + self._shared_names(url)
        if name := next(filter(self._exists, names), None):
            return name
        for digits, shard in ((9, 10_000), (8, 1_000)):
            key = f"{number:0{digits}d}"
            for folder in (f"{number // shard:05d}/", *self._folders):
                for suffix in _SUFFIXES:
                    name = f"{folder}{key}{suffix}"
                    if self._exists(name) and self._read_url(f"{folder}{key}.json") in (None, url):
                        return name
        return None

    def _shared_names(self, url: str) -> list[str]:
        return [folder + name for name in _shared_names(url) for folder in self._folders]

    def _exists(self, name: str) -> bool:
        if not isinstance(self._real, Path):
            if roots.is_web(self._real):  # a web server need not list its files
                return roots.is_file(resolve_inside(self._real, name))
            folder, _, last = name.rpartition("/")
            return last in self._list_files(folder)
        path = self._real / name
        try:
            return path.is_symlink() or path.is_file()
        except OSError:  # a name too long for the file system
            return False

    def _list_remote_files(self, folder: str) -> frozenset[str]:
        found = roots.list_folder(roots.join(self._real, PurePosixPath(folder)))
        return frozenset(name for name, is_dir in found if not is_dir)

    def _read_url(self, name: str) -> object:
        """Return the URL in a .json of img2dataset; None if there is no such file."""
        if not self._exists(name):
            return None
        try:
            data = read_bytes(resolve_inside(self._real, name), Limits(max_file_bytes=MAX_LINE_BYTES))
        except RowError:
            return ""
        loaded = parse_object(data.decode("utf-8", "surrogateescape"))
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
        """Hashes of the names that several URLs share; 16 bytes per line and name while it is computed."""
        hashes = array.array("Q")
        for row in self._lines(self._find()):
            if isinstance(row.file_name, str) and _is_url(row.file_name) and is_storable(row.file_name):
                for name in _shared_names(row.file_name):
                    hashes.extend((_hash(name), _hash(row.file_name)))
        distinct = np.unique(np.frombuffer(hashes, np.uint64).reshape(-1, 2), axis=0)
        names, counts = np.unique(distinct[:, 0], return_counts=True)
        return frozenset(names[counts > 1].tolist())


def _parse_line(location: str, fields: list[str], names: list[str] | None) -> Row:
    if names is not None:
        return row_of_fields(location, fields, names, _DEFAULT)
    if len(fields) not in (2, 3):
        problem = f"has {len(fields)} fields, expected caption, URL and optionally a path: {excerpt(fields)}"
        return Row(location, problem=problem)
    caption, url, *path = fields
    if _is_url(caption) and not _is_url(url):  # Conceptual 12M
        caption, url = url, caption
    if not path or not path[0]:
        return Row(location, url, caption)
    if not is_storable(url):
        return Row(location, path[0], caption, problem=_BAD_URL + excerpt(url))
    return Row(location, path[0], caption, _origin(url))


def _parse_header(line: str) -> list[str] | None:
    names = line.rstrip("\r\n").split("\t")
    is_header = {_DEFAULT.image, _DEFAULT.caption} <= set(names) and len(set(names)) == len(names)
    return names if is_header else None


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _origin(url: str) -> dict[str, str]:
    try:
        host = urlsplit(url).hostname
    except ValueError:  # such as unbalanced brackets
        host = None
    return {"url": url, "host": host} if host else {"url": url}


def _shared_names(url: str) -> list[str]:
    """Return names that another URL may have as well."""
    path = url.partition("?")[0].partition("#")[0]
    ends = dict.fromkeys(posixpath.basename(text) for text in (path, unquote(path)))
    return [str(zlib.crc32(url.encode())), *(end for end in ends if end not in ("", ".", "..") and is_storable(end))]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _candidates(root: Root) -> list[Root]:
    if roots.is_file(root):
        return [root] if root.suffix == ".tsv" else []
    if not roots.is_folder(root):
        return []
    return [root / name for name in roots.list_names(root, "*.tsv") if name not in metadata.NAMES]


def _has_tabs(path: Root) -> bool:
    if (isinstance(path, Path) and path.is_symlink()) or not roots.is_file(path):
        return False
    return b"\t" in roots.read_beginning(path, _SNIFFED_BYTES).partition(b"\n")[0]
