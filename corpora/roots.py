"""File access for corpora in local folders and remote stores.

The root of a corpus is a local path (`pathlib.Path`) or a URL that fsspec reads (`UPath`, with the API of pathlib).
URLs never contain keys or passwords: fsspec's drivers read credentials from the environment, a profile or a role.
"""

import io
import os
import stat
import threading
import uuid
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias
from urllib.parse import quote

import stores
from corpora.errors import CorpusError, RowError
from corpora.records import Reason
from stores.urls import advise, list_remote, translate_errors

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from upath import UPath

Root: TypeAlias = stores.Root

BLOCK_BYTES = 8 * 2**20
"""Bytes per request for a remote file. fsspec's default for S3, 50 MiB, needs too much memory with several threads."""

MAX_FETCHED_BYTES = 2 * 2**30
"""Size limit in bytes of a file that is downloaded completely, because its web server serves no byte ranges."""

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
    """Return whether a path is inside of a root after links are resolved. Remote stores have no links."""
    if not isinstance(path, Path) or not isinstance(root, Path):
        return True
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def join(root: Root, relative: PurePosixPath) -> Root:
    """Join a root and a relative path, which must not contain '..'. In a web URL, '?' and '%' are percent-encoded."""
    if isinstance(root, Path):
        return root / relative
    # Without quoting, '?' would begin a query, and '%2e%2e' would lead out of the root.
    return root.joinpath(*(quote(part) if is_web(root) else part for part in relative.parts))


def info(path: "UPath") -> dict[str, Any]:
    """Return fsspec's metadata of a remote file or folder: at least `type`, and `size` in bytes or None.

    Raises OSError; see `stores.translate_errors`.
    """
    with translate_errors():
        found: dict[str, Any] = path.fs.info(path.path)
        return found


def file_version(path: Root) -> tuple[object, ...]:
    """Return what changes when a file is replaced: size and time, or ETag. Raises OSError."""
    if isinstance(path, Path):
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    found = info(path)
    return tuple(str(found.get(name)) for name in ("size", "ETag", "Last-Modified", "LastModified", "mtime"))


def is_file(path: Root) -> bool:
    """Return whether a path is a regular file. Raises CorpusError if the store cannot be reached."""
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


def check_file(path: "Root | int") -> int | None:
    """Check that a path or an open file is a regular file. Raises RowError; see `row_error`.

    Returns:
        The size in bytes, or None if a web server does not report it.
    """
    try:
        if isinstance(path, (Path, int)):
            status = os.stat(path)  # noqa: PTH116  # pathlib takes no file descriptor
            is_regular, size = stat.S_ISREG(status.st_mode), status.st_size
        else:
            found = info(path)
            is_regular, size = found["type"] == "file", found["size"]
    except OSError as error:
        raise row_error(error) from error
    if not is_regular:
        raise RowError(Reason.NOT_A_REGULAR_FILE, "is not a regular file. Replace it, or correct its name.")
    return size


def real_path(path: Root) -> Root:
    """Return a local path with all symbolic links resolved. A remote path is returned unchanged."""
    return Path(os.path.realpath(path)) if isinstance(path, Path) else path


def parent_of(path: Root) -> Root:
    """Return the folder that contains a file."""
    return path.absolute().parent if isinstance(path, Path) else path.parent


def list_folder(folder: Root) -> list[tuple[str, bool]]:
    """List the entries of a folder, sorted by name. The list is empty if the folder does not exist.

    Returns:
        Name of each entry, and whether it is a folder or a link to a folder.
    """
    try:
        if not isinstance(folder, Path):
            return list_remote(folder)
        with os.scandir(folder) as found:
            return sorted((entry.name, _is_dir(entry)) for entry in found)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        fix = "check its permissions" if isinstance(folder, Path) else advise(error)
        raise CorpusError(f"{str(folder)!r} cannot be listed ({error}); {fix}{web_hint(folder)}.") from error


def _is_dir(entry: "os.DirEntry[str]") -> bool:
    with suppress(OSError):  # such as a link to itself
        return entry.is_dir()
    return False


def list_names(folder: Root, pattern: str) -> list[str]:
    """Return the sorted names in a folder that match a shell pattern. Raises CorpusError; see `list_folder`."""
    return [name for name, _ in list_folder(folder) if fnmatchcase(name, pattern)]


def read_beginning(path: Root, size: int) -> bytes:
    """Read the first bytes of a file. Raises CorpusError if the file cannot be read."""
    try:
        with open_binary(path, ahead=size) as file:
            return file.read(size)
    except OSError as error:
        raise CorpusError(f"{str(path)!r} cannot be read ({error}). Check the path and its permissions.") from error


def describe_absence(root: Root) -> str:
    """Return why a remote root cannot be read, as the predicate of a sentence whose subject is the root.

    Returns an empty text for a root that can be read, and for any local root.
    """
    try:
        if not isinstance(root, Path):
            info(root)
    except FileNotFoundError:
        return f"is not there; correct its {'host' if is_web(root) else 'bucket'} or path{web_hint(root)}"
    except OSError as error:
        return f"cannot be read ({error}); {advise(error)}{web_hint(root)}"
    return ""


def is_web(path: Root) -> bool:
    """Return whether a path is a URL of a web server (http or https). Web servers may not list folders."""
    return not isinstance(path, Path) and path.protocol in ("http", "https")


def web_hint(path: Root) -> str:
    """Return advice about folders on web servers, to append to a message. Empty if the path is not a web URL."""
    if not is_web(path):
        return ""
    return (
        "; a web server need not list the files of a folder, so name a file (.tar, .parquet, .csv, .tsv, .jsonl, "
        "the .json of COCO), or several as in shard-{0000..0012}.tar"
    )


def open_binary(path: Root, ahead: int | None = None) -> BinaryIO:
    """Open a file for reading and seeking. A remote file is read in blocks, and its errors are OSError as in `info`.

    `ahead` is the block size for a remote file in bytes, by default `BLOCK_BYTES`. Use a small value for a small part.
    """
    if isinstance(path, Path):
        return path.open("rb")
    return io.BufferedReader(_RemoteFile(path, BLOCK_BYTES if ahead is None else ahead), _BUFFER_BYTES)


def read_at_most(path: "UPath", size: int) -> bytes:
    """Read the first `size` bytes of a remote file in one request. Raises OSError; see `info`."""
    if is_web(path):
        # A web server may ignore the requested range and send the whole file, so the file is read as a stream.
        with io.BufferedReader(_RemoteFile(path, block_size=0)) as file:
            return file.read(size)
    with translate_errors():
        data: bytes = path.fs.cat_file(path.path, start=0, end=size)
        return data


def row_error(error: Exception) -> RowError:
    """Translate an error of opening or reading a file. The detail is the predicate of a sentence about the file."""
    if isinstance(error, RowError):
        return error
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return RowError(Reason.MISSING_FILE, "does not exist. Restore it, or correct its name.")
    reason, fix = Reason.UNREADABLE_FILE, "check its name, its permissions and the disk"
    if isinstance(error, OSError) and error.errno is None:  # an error of a remote store
        fix = f"{advise(error)}, and audit again"
        reason = Reason.UNREACHABLE_FILE if isinstance(error, ConnectionError) else reason
    text = getattr(error, "strerror", None) or error
    return RowError(reason, f"cannot be read ({type(error).__name__}: {text}); {fix}.")


_lock = threading.Lock()
_downloads: dict[tuple[object, ...], Path] = {}
"""Paths of the local copies of completely downloaded files, the least recently used first.

The key consists of URL, size, ETag and modification date. The copies are in the scratch folder of the process.
"""


def _open_download(path: "UPath") -> BinaryIO:
    """Open a local copy of a file whose web server does not serve byte ranges.

    Unlike fsspec's caches, this function limits the size of a download, and downloads a changed file again.
    """
    key = (str(path), *file_version(path))
    with _lock:
        copy = _downloads.pop(key, None) or _download(path)
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
                    "its web server does not serve byte ranges, and the file is larger than the limit of "
                    f"{MAX_FETCHED_BYTES} bytes for complete downloads; use a server that serves byte ranges, or "
                    "download the file yourself"
                )
            file.write(piece)
    return copy


class _RemoteFile(io.RawIOBase):
    """Adapter from an fsspec file to Python's file interface: `readline` takes a limit, and all errors are OSError.

    If a web server does not serve byte ranges, the first seek downloads the whole file. With `block_size` 0, the file
    is read as a stream and never downloaded.
    """

    def __init__(self, path: "UPath", block_size: int) -> None:
        self._path = path
        has_copy = block_size != 0 and any(url == str(path) for url, *_ in tuple(_downloads))
        self._may_download = is_web(path) and block_size != 0 and not has_copy
        with translate_errors():
            self._file: Any = _open_download(path) if has_copy else path.open("rb", block_size=block_size)

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
        self._file = _open_download(self._path)
        self._file.seek(position)
        self._may_download = False

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
