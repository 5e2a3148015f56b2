"""Roots of corpora: local paths (`pathlib`), and URLs that fsspec reads (`UPath`, which has the API of pathlib).

Keys and passwords never stand in a URL: the drivers take them from the usual places (environment, profile, role).
"""

import io
import os
import threading
import uuid
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias
from urllib.parse import quote

import stores
from corpora.errors import CorpusError
from corpora.records import Reason
from stores import translate_errors

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from upath import UPath

Root: TypeAlias = stores.Root

BLOCK_BYTES = 8 * 2**20
"""Bytes read ahead of a remote file. The default of fsspec for S3, 50 MiB, is too much for several threads."""

MAX_FETCHED_BYTES = 2 * 2**30
"""Size limit of a file that is downloaded whole because its web server does not serve byte ranges."""

WEB_FOLDERS = (
    "a web server need not list a folder, so name a file (.tar, .parquet, .csv, .tsv, .jsonl, the .json of COCO), or "
    "several as in shard-{0000..0012}.tar"
)

_BUFFER_BYTES = 2**18
_PIECE_BYTES = 2**20
_MAX_DOWNLOADS = 4


def parse_root(text: str) -> Root:
    """Return the root that a path or URL names. Opens nothing, but loads the driver of a URL.

    Args:
        text: A local path, or a URL such as s3://bucket/folder.

    Raises:
        CorpusError: The URL cannot be used; see `stores.parse_root`.
    """
    try:
        return stores.parse_root(text, "corpus")
    except stores.UrlError as error:
        raise CorpusError(str(error)) from error


def is_inside(path: Root, root: Root) -> bool:
    """Return whether a path listed below a root stays inside it once links are followed; remote roots have no links."""
    if not isinstance(path, Path) or not isinstance(root, Path):
        return True
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def join(root: Root, relative: PurePosixPath) -> Root:
    """Join a root and a relative path without '..'. In a URL, characters such as '?' and '%' are quoted."""
    if isinstance(root, Path):
        return root / relative
    # Unquoted, '?' would begin a query, and '%2e%2e' would lead out.
    return root.joinpath(*(quote(part) if is_web(root) else part for part in relative.parts))


def info(path: "UPath") -> dict[str, Any]:
    """Return what a store reports about a file or folder: `type`, and `size` in bytes or None.

    Raises:
        FileNotFoundError: There is nothing at the path.
        PermissionError: Access is denied, or there are no credentials.
        ConnectionError: The store cannot be reached, or does not answer in time.
        OSError: Any other error of the driver.
    """
    with translate_errors():
        found: dict[str, Any] = path.fs.info(path.path)
        return found


def is_file(path: Root) -> bool:
    """Return whether there is a regular file. Unlike `UPath.is_file`, raises if the store does not answer.

    Raises:
        CorpusError: The store cannot be reached.
    """
    return path.is_file() if isinstance(path, Path) else _type_of(path) == "file"


def is_folder(path: Root) -> bool:
    """Return whether there is a folder; raises as `is_file`."""
    return path.is_dir() if isinstance(path, Path) else _type_of(path) == "directory"


def exists(path: Root) -> bool:
    """Return whether there is a file or folder; raises as `is_file`."""
    return path.exists() if isinstance(path, Path) else _type_of(path) is not None


def _type_of(path: "UPath") -> str | None:
    try:
        return str(info(path)["type"])
    except (FileNotFoundError, PermissionError):  # S3 denies access to missing objects without the right to list
        return None
    except OSError as error:
        raise CorpusError(f"Corpus {str(path.parent)!r} cannot be read ({error}): check the network.") from error


def size_of(path: Root) -> int | None:
    """Return the size of a file in bytes; None if a web server does not report it. Raises what `info` raises."""
    if isinstance(path, Path):
        return path.stat().st_size
    size: int | None = info(path)["size"]
    return size


def real_path(path: Root) -> Root:
    """Return a path with its links followed; a remote path has none."""
    return Path(os.path.realpath(path)) if isinstance(path, Path) else path


def parent_of(path: Root) -> Root:
    """Return the folder that holds a file."""
    return path.absolute().parent if isinstance(path, Path) else path.parent


def list_folder(folder: Root) -> list[tuple[str, bool]]:
    """List a folder, sorted by name; empty if there is no such folder.

    Returns:
        Names, each with whether it is a folder or a link to one.

    Raises:
        CorpusError: The folder cannot be listed, or the store cannot be reached.
    """
    try:
        if isinstance(folder, Path):
            with os.scandir(folder) as found:
                return sorted((entry.name, _is_dir(entry)) for entry in found)
        with translate_errors():
            listed = folder.fs.ls(folder.path, detail=True)
            folder.fs.invalidate_cache(folder.path)  # otherwise later changes would be hidden
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        fix = "check its permissions" if isinstance(folder, Path) else _advise(error)
        raise CorpusError(f"{str(folder)!r} cannot be listed ({error}): {fix}{web_hint(folder)}.") from error
    itself = folder.path.rstrip("/")
    paths = [(str(entry["name"]).rstrip("/"), entry["type"] == "directory") for entry in listed]
    named = {path.rpartition("/")[2]: is_dir for path, is_dir in paths if path != itself}
    # A local folder never lists such names, but a store may.
    return sorted((name, is_dir) for name, is_dir in named.items() if name not in ("", ".", ".."))


def _is_dir(entry: "os.DirEntry[str]") -> bool:
    with suppress(OSError):  # such as a link to itself
        return entry.is_dir()
    return False


def list_names(folder: Root, pattern: str) -> list[str]:
    """Return the names in a folder that match a shell pattern, sorted. Raises as `list_folder`."""
    return [name for name, _ in list_folder(folder) if fnmatchcase(name, pattern)]


def read_beginning(path: Root, size: int) -> bytes:
    """Read the first bytes of a file.

    Raises:
        CorpusError: The file cannot be read.
    """
    try:
        with open_binary(path, ahead=size) as file:
            return file.read(size)
    except OSError as error:
        raise CorpusError(f"{str(path)!r} cannot be read ({error}): check the path and its permissions.") from error


def describe_absence(root: Root) -> str:
    """Say why a remote root cannot be read, as the end of a sentence. Empty if the root is there, or local."""
    if isinstance(root, Path):
        return ""
    try:
        info(root)
    except FileNotFoundError:
        return f"is not there: correct {'host' if is_web(root) else 'bucket'} and path{web_hint(root)}"
    except OSError as error:
        return f"cannot be read ({error}): {_advise(error)}{web_hint(root)}"
    return ""


def _advise(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "check the credentials in the environment or the profile"
    return "check the network"


def is_web(path: Root) -> bool:
    """Return whether a path is on a web server, which need not list folders."""
    return not isinstance(path, Path) and path.protocol in ("http", "https")


def web_hint(path: Root) -> str:
    """Return advice for the folder of a web server, as the end of a sentence; empty for any other path."""
    return f"; {WEB_FOLDERS}" if is_web(path) else ""


def open_binary(path: Root, ahead: int | None = None) -> BinaryIO:
    """Open a file to read and seek in. A remote file is read in blocks, and raises only what `info` raises.

    Args:
        path: The file.
        ahead: Bytes to read ahead of a remote file; `BLOCK_BYTES` by default. Pass few if little is needed.
    """
    return path.open("rb") if isinstance(path, Path) else io.BufferedReader(_RemoteFile(path, ahead), _BUFFER_BYTES)


def read_at_most(path: "UPath", size: int) -> bytes:
    """Read the first bytes of a remote file in one request. Raises what `info` raises."""
    with translate_errors():
        if is_web(path):
            # As a stream: a server may ignore the requested range.
            with io.BufferedReader(_RemoteFile(path, block_size=0)) as file:
                return file.read(size)
        data: bytes = path.fs.cat_file(path.path, start=0, end=size)
        return data


def reason_of(error: OSError) -> Reason:
    """Return the reason to reject a row whose file cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return Reason.MISSING_FILE
    return Reason.UNREACHABLE_FILE if isinstance(error, ConnectionError) else Reason.UNREADABLE_FILE


_lock = threading.Lock()
_downloads: dict[tuple[object, ...], Path] = {}
"""Files that were downloaded whole, by URL, size, date and tag, the oldest first; in the scratch folder."""


def _open_download(path: "UPath", download: bool) -> BinaryIO | None:
    """Open the local copy of a file whose web server does not serve byte ranges.

    Unlike the caches of fsspec, this bounds the size of a file, and downloads it again if it has changed.

    Args:
        path: The file.
        download: Whether to download the file if there is no copy. Otherwise returns None.
    """
    if not download and not any(url == str(path) for url, *_ in tuple(_downloads)):
        return None
    found = info(path)
    key = (str(path), *(found.get(name) for name in ("size", "ETag", "Last-Modified")))
    with _lock:
        copy = _downloads.pop(key, None)
        if copy is None:
            if not download:
                return None
            copy = _download(path)
        _downloads[key] = copy
        if len(_downloads) > _MAX_DOWNLOADS:
            with suppress(OSError):  # POSIX keeps it for those who have it open
                _downloads.pop(next(iter(_downloads))).unlink()
        return copy.open("rb")


def _download(path: "UPath") -> Path:
    copy = stores.scratch_folder() / f"{uuid.uuid4().hex}.download"
    with _RemoteFile(path, block_size=0) as source, copy.open("wb") as file:
        while piece := source.read(_PIECE_BYTES):
            if file.tell() + len(piece) > MAX_FETCHED_BYTES:
                copy.unlink()
                raise OSError(
                    "its web server does not serve byte ranges, and it is larger than the "
                    f"{MAX_FETCHED_BYTES} bytes that are downloaded whole: use a server that serves byte ranges, or "
                    "download the file yourself"
                )
            file.write(piece)
    return copy


class _RemoteFile(io.RawIOBase):
    """A driver's file with the interface of Python's own: `readline` takes a limit, and errors are OSError.

    Where a web server does not serve byte ranges, the file is downloaded whole once a reader seeks in it.
    With `block_size` 0 the file is a stream, and never downloaded.
    """

    def __init__(self, path: "UPath", block_size: int | None = None) -> None:
        self._path = path
        self._may_download = is_web(path) and block_size != 0
        with translate_errors():
            copy = _open_download(path, download=False) if self._may_download else None
            self._may_download &= copy is None
            self._file: Any = copy or path.open("rb", block_size=BLOCK_BYTES if block_size is None else block_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        with translate_errors():
            try:
                data = self._file.read(len(view))
            except ValueError:  # the server does not serve the range
                if not self._may_download:
                    raise
                self._use_download()
                data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self._may_download and self._file.size is None:  # a stream
            self._use_download()
        return int(self._file.seek(offset, whence))

    def _use_download(self) -> None:
        position = self._file.tell()
        self._file.close()
        self._file = _open_download(self._path, download=True)
        self._file.seek(position)
        self._may_download = False

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
