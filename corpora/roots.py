"""File access for corpora in local folders and remote stores.

The root of a corpus is a local path (`pathlib.Path`) or a URL that fsspec reads (`UPath`, with the API of pathlib).
URLs never contain keys or passwords: fsspec's drivers read credentials from the environment, a profile or a role.
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
"""Bytes per request for a remote file. fsspec's default for S3, 50 MiB, needs too much memory with several threads."""

MAX_FETCHED_BYTES = 2 * 2**30
"""Size limit of a file that must be downloaded completely, because its web server does not serve byte ranges."""

WEB_FOLDERS = (
    "a web server need not list a folder, so name a file (.tar, .parquet, .csv, .tsv, .jsonl, the .json of COCO), or "
    "several as in shard-{0000..0012}.tar"
)

_BUFFER_BYTES = 2**18
_PIECE_BYTES = 2**20
_MAX_DOWNLOADS = 4


def parse_root(text: str) -> Root:
    """Parse a path or URL of a corpus. No file is opened, but the fsspec driver of a URL is imported.

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
    """Return whether a path is inside of a root after symbolic links are resolved.

    Always True for remote paths, because remote stores have no links.
    """
    if not isinstance(path, Path) or not isinstance(root, Path):
        return True
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def join(root: Root, relative: PurePosixPath) -> Root:
    """Join a root and a relative path, which must not contain '..'. A web URL gets '?' and '%' quoted."""
    if isinstance(root, Path):
        return root / relative
    # Without quoting, '?' would begin a query, and '%2e%2e' would lead out of the root.
    return root.joinpath(*(quote(part) if is_web(root) else part for part in relative.parts))


def info(path: "UPath") -> dict[str, Any]:
    """Return fsspec's metadata of a remote file or folder: at least `type`, and `size` in bytes or None.

    Raises:
        FileNotFoundError: The path does not exist.
        PermissionError: Access is denied, or there are no credentials.
        ConnectionError: The store cannot be reached, or does not answer in time.
        OSError: Any other error of the driver.
    """
    with translate_errors():
        found: dict[str, Any] = path.fs.info(path.path)
        return found


def is_file(path: Root) -> bool:
    """Return whether a path is a regular file. Unlike `UPath.is_file`, raise an error if the store does not answer.

    Raises:
        CorpusError: The store cannot be reached.
    """
    return path.is_file() if isinstance(path, Path) else _type_of(path) == "file"


def is_folder(path: Root) -> bool:
    """Return whether a path is a folder. Raises CorpusError if the store cannot be reached."""
    return path.is_dir() if isinstance(path, Path) else _type_of(path) == "directory"


def exists(path: Root) -> bool:
    """Return whether a path is an existing file or folder. Raises CorpusError if the store cannot be reached."""
    return path.exists() if isinstance(path, Path) else _type_of(path) is not None


def _type_of(path: "UPath") -> str | None:
    """Return `file` or `directory`, or None if the path does not exist or access is denied."""
    try:
        return str(info(path)["type"])
    except (FileNotFoundError, PermissionError):  # S3 denies access to missing objects without the right to list
        return None
    except OSError as error:
        raise CorpusError(f"Corpus {str(path.parent)!r} cannot be read ({error}). Check the network.") from error


def size_of(path: Root) -> int | None:
    """Return the size of a file in bytes, or None if a web server does not report it.

    Raises:
        OSError: The file cannot be accessed; see `info`.
    """
    if isinstance(path, Path):
        return path.stat().st_size
    size: int | None = info(path)["size"]
    return size


def real_path(path: Root) -> Root:
    """Return a local path with all symbolic links resolved. A remote path is returned unchanged."""
    return Path(os.path.realpath(path)) if isinstance(path, Path) else path


def parent_of(path: Root) -> Root:
    """Return the folder that contains a file."""
    return path.absolute().parent if isinstance(path, Path) else path.parent


def list_folder(folder: Root) -> list[tuple[str, bool]]:
    """List the entries of a folder, sorted by name.

    Returns:
        Pairs of a name, and whether it is a folder or a link to a folder. Empty if the folder does not exist.

    Raises:
        CorpusError: The folder cannot be listed, or the store cannot be reached.
    """
    try:
        if isinstance(folder, Path):
            with os.scandir(folder) as found:
                return sorted((entry.name, _is_dir(entry)) for entry in found)
        with translate_errors():
            listed = folder.fs.ls(folder.path, detail=True)
            folder.fs.invalidate_cache(folder.path)  # so that the next listing shows changes
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        fix = "check its permissions" if isinstance(folder, Path) else _advise(error)
        raise CorpusError(f"{str(folder)!r} cannot be listed ({error}): {fix}{web_hint(folder)}.") from error
    itself = folder.path.rstrip("/")
    paths = [(str(entry["name"]).rstrip("/"), entry["type"] == "directory") for entry in listed]
    named = {path.rpartition("/")[2]: is_dir for path, is_dir in paths if path != itself}
    # A remote store may list these names, which a local folder never does.
    return sorted((name, is_dir) for name, is_dir in named.items() if name not in ("", ".", ".."))


def _is_dir(entry: "os.DirEntry[str]") -> bool:
    with suppress(OSError):  # such as a link to itself
        return entry.is_dir()
    return False


def list_names(folder: Root, pattern: str) -> list[str]:
    """Return the sorted names in a folder that match a shell pattern. Raises CorpusError; see `list_folder`."""
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
        raise CorpusError(f"{str(path)!r} cannot be read ({error}). Check the path and its permissions.") from error


def describe_absence(root: Root) -> str:
    """Return why a remote root cannot be read, as the predicate of a sentence whose subject is the root.

    Returns an empty text for a root that can be read, and for any local root.
    """
    if isinstance(root, Path):
        return ""
    try:
        info(root)
    except FileNotFoundError:
        return f"is not there; correct {'host' if is_web(root) else 'bucket'} and path{web_hint(root)}"
    except OSError as error:
        return f"cannot be read ({error}): {_advise(error)}{web_hint(root)}"
    return ""


def _advise(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "check the credentials in the environment or the profile"
    return "check the network"


def is_web(path: Root) -> bool:
    """Return whether a path is a URL of a web server (http or https). Web servers may not list folders."""
    return not isinstance(path, Path) and path.protocol in ("http", "https")


def web_hint(path: Root) -> str:
    """Return advice about folders on web servers, to append to a message. Empty if the path is not a web URL."""
    return f"; {WEB_FOLDERS}" if is_web(path) else ""


def open_binary(path: Root, ahead: int | None = None) -> BinaryIO:
    """Open a file for reading and seeking. A remote file is read in blocks, and its errors are OSError as in `info`.

    Args:
        path: The file.
        ahead: Block size for a remote file in bytes. Default: `BLOCK_BYTES`. Use a small value to read a small part.
    """
    return path.open("rb") if isinstance(path, Path) else io.BufferedReader(_RemoteFile(path, ahead), _BUFFER_BYTES)


def read_at_most(path: "UPath", size: int) -> bytes:
    """Read the first `size` bytes of a remote file in one request. Raises OSError; see `info`."""
    with translate_errors():
        if is_web(path):
            # A web server may ignore the requested range and send the whole file, so the file is read as a stream.
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
"""Local copies of completely downloaded files, the least recently used first.

The key consists of URL, size, ETag and modification date. The copies are in the scratch folder of the process.
"""


def _open_download(path: "UPath", download: bool) -> BinaryIO | None:
    """Open the local copy of a file whose web server does not serve byte ranges.

    Unlike fsspec's caches, this function limits the size of a download, and downloads a changed file again.

    Args:
        path: URL of the file.
        download: Whether to download the file if no local copy exists.

    Returns:
        The open copy, or None if no copy exists and `download` is False.
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
            with suppress(OSError):  # on POSIX, an open file stays readable after it is deleted
                _downloads.pop(next(iter(_downloads))).unlink()
        return copy.open("rb")


def _download(path: "UPath") -> Path:
    """Download a file of at most `MAX_FETCHED_BYTES` to the scratch folder. Raises OSError."""
    copy = stores.scratch_folder() / f"{uuid.uuid4().hex}.download"
    with _RemoteFile(path, block_size=0) as source, copy.open("wb") as file:
        while piece := source.read(_PIECE_BYTES):
            if file.tell() + len(piece) > MAX_FETCHED_BYTES:
                copy.unlink()
                raise OSError(
                    "its web server does not serve byte ranges, and it is larger than the "
                    f"{MAX_FETCHED_BYTES} bytes that are downloaded whole; use a server that serves byte ranges, or "
                    "download the file yourself"
                )
            file.write(piece)
    return copy


class _RemoteFile(io.RawIOBase):
    """Adapter from an fsspec file to Python's file interface: `readline` takes a limit, and all errors are OSError.

    If a web server does not serve byte ranges, the first seek downloads the whole file. With `block_size` 0, the file
    is read as a stream and never downloaded.
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
            except ValueError:  # the server does not serve byte ranges
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
