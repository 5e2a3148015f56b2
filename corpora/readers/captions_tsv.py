"""Reader of Conceptual Captions: a .tsv of captions and URLs, next to the downloaded images."""

import array
import hashlib
import os
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
_EXPECTED = "expected a .tsv file of caption, URL and optionally a path, or a folder with exactly one such file"
_BAD_URL = "contains NUL or bytes that are not UTF-8 in its URL: "


class CaptionsTsvReader(FolderReader):
    r"""Reader of a .tsv file with one row per line: `caption<TAB>url[<TAB>path]` or `url<TAB>caption[<TAB>path]`.

    With the default columns `url` and `caption`, the file has no header unless its first line contains both names, and
    quotes have no special meaning. With other columns, the file must have a header, and is read like metadata.tsv.

    The root of the corpus is the given folder, or the folder of the given file. No image is downloaded. If a line has a
    path, the image is the file at this path. Otherwise it is the first existing file with one of the following names,
    in the root, in `images`, in `training`, in `validation` or in a folder with the stem of the .tsv file as its name:

    1. The md5, sha1 or sha256 (hex) of the URL, with the suffix .jpg, .jpeg, .png or .webp.
    2. The row number and the crc32 of the URL (`12_3735928559`), or the crc32 alone, without a suffix.
    3. The last part of the URL's path, if no other URL in the .tsv file has the same last part.
    4. The row number, counted from 0, with 9 or 8 digits; also in img2dataset's folders of 10,000 or 1,000 images each
       (`00001/000012345.jpg`). The file is skipped if a .json of the same stem states a different URL. img2dataset uses
       row numbers for these folder sizes only. For its output format `files`, use `SidecarReader`.

    `url`, `host` and all further columns become attributes. A line without an image becomes a rejected row.
    """

    default_columns = _DEFAULT
    description = "a .tsv file of captions and URLs next to the downloaded images, or a folder with one such file"

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        super().__init__(roots.parent_of(root) if roots.is_file(root) else root, columns, limits)
        self._given = root
        # Each image may have many names, and one request to a remote store per name would take too long.
        self._list_files = lru_cache(_LISTED_FOLDERS)(self._list_remote_files)

    @classmethod
    def fits(cls, root: Root) -> bool:
        """Return whether a path is a .tsv file with a tab in its first line, or a folder that contains such a file."""
        return any(map(_has_tabs, _candidates(root)))

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        path = self._find()
        self._list_files.cache_clear()
        rows = (self._resolve(number, row) for number, row in enumerate(self._lines(path)))
        return require_rows(rows, f"{str(path)!r} has zero rows (expected at least one). Export it again.")

    def count(self) -> int:
        """See `Reader.count`."""
        path = self._find()
        return metadata.count_rows(path) if self._columns != _DEFAULT else sum(1 for _ in self._lines(path))

    def _find(self) -> Root:
        found = _candidates(self._given)
        return metadata.select_listing(self._given, found, self._root, "has no .tsv file", _EXPECTED)

    def _lines(self, path: Root) -> Iterator[Row]:
        """Yield the rows of the .tsv file. Their `file_name` is a URL, or a path if the line has one."""
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
        """Replace the URL of a row by the path of its image, or set the problem of the row."""
        url = row.file_name
        if row.problem or not isinstance(url, str) or not _is_url(url):
            return row
        if not is_storable(url):
            return replace(row, problem=_BAD_URL + excerpt(url))
        row = replace(row, attributes={**row.attributes, **_origin(url)})
        name = self._find_image(url, number)
        problem = None
        if name is None:
            problem = "has a URL whose image is not in the corpus. Download it, or drop the line."
        elif name in self._shared_names(url) and _hash(posixpath.basename(name)) in self._ambiguous:
            problem = (
                f"has one of several URLs whose image could be {name!a}. Name image files by the hash of their URL."
            )
        return replace(row, problem=problem, reason=Reason.MISSING_FILE) if problem else replace(row, file_name=name)

    def _find_image(self, url: str, number: int) -> str | None:
        """Return the path of the image that was downloaded from a row's URL, or None. It is relative to the corpus."""
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
            if roots.is_web(self._real):  # a web server may not list its files
                return roots.is_file(resolve_inside(self._real, name))
            folder, _, last = name.rpartition("/")
            return last in self._list_files(folder)
        path = self._real / name
        return os.path.islink(path) or os.path.isfile(path)  # noqa: PTH113, PTH114  # pathlib raises for a long name

    def _list_remote_files(self, folder: str) -> frozenset[str]:
        found = roots.list_folder(roots.join(self._real, PurePosixPath(folder)))
        return frozenset(name for name, is_dir in found if not is_dir)

    def _read_url(self, name: str) -> object:
        """Return the URL in a .json file of img2dataset: None if the file is missing, empty if it has no valid URL."""
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
        """Hashes of image names that match several URLs. Their search needs 16 bytes of memory per line and name."""
        hashes = array.array("Q")
        for row in self._lines(self._find()):
            if isinstance(row.file_name, str) and _is_url(row.file_name) and is_storable(row.file_name):
                for name in _shared_names(row.file_name):
                    hashes.extend((_hash(name), _hash(row.file_name)))
        distinct = np.unique(np.frombuffer(hashes, np.uint64).reshape(-1, 2), axis=0)
        names, counts = np.unique(distinct[:, 0], return_counts=True)
        return frozenset(names[counts > 1].tolist())


def _parse_line(location: str, fields: list[str], names: list[str] | None) -> Row:
    """Convert the tab-separated fields of a line to a row. `names` are the header's columns, or None without one."""
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
    """Return the column names in a line, or None if the line is not a header."""
    names = line.rstrip("\r\n").split("\t")
    is_header = {_DEFAULT.image, _DEFAULT.caption} <= set(names) and len(set(names)) == len(names)
    return names if is_header else None


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _origin(url: str) -> dict[str, str]:
    """Return the attributes of a row that come from its URL: `url` and, if the URL is valid, `host`."""
    try:
        host = urlsplit(url).hostname
    except ValueError:  # such as unbalanced brackets
        host = None
    return {"url": url, "host": host} if host else {"url": url}


def _shared_names(url: str) -> list[str]:
    """Return the possible file names for a URL that are not unique to it: its crc32 and the last part of its path."""
    path = url.partition("?")[0].partition("#")[0]
    ends = dict.fromkeys(posixpath.basename(text) for text in (path, unquote(path)))
    return [str(zlib.crc32(url.encode())), *(end for end in ends if end not in ("", ".", "..") and is_storable(end))]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _candidates(root: Root) -> list[Root]:
    """Return `root` if it is a .tsv file. If it is a folder, return its .tsv files other than metadata.tsv."""
    if roots.is_file(root):
        return [root] if root.suffix == ".tsv" else []
    if not roots.is_folder(root):
        return []
    return [root / name for name in roots.list_names(root, "*.tsv") if name not in metadata.NAMES]


def _has_tabs(path: Root) -> bool:
    if (isinstance(path, Path) and path.is_symlink()) or not roots.is_file(path):
        return False
    return b"\t" in roots.read_beginning(path, _SNIFFED_BYTES).partition(b"\n")[0]
