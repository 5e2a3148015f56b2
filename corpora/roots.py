"""Where a corpus lies: on this machine (`pathlib`), or behind a URL that fsspec reads (`UPath`, with pathlib's API).

Keys and passwords never stand in a URL: the drivers find them in the ordinary places (environment, profile, role).
"""

import io
import os
import tempfile
import threading
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
"""What is read ahead of a remote file: fsspec's own 50 MiB for S3, times some threads, is too much."""

MAX_FETCHED_BYTES = 2 * 2**30
"""Of a file whose web server gives no parts of it: so much is fetched whole, into the temporary folder."""

_BUFFER_BYTES = 2**18
_KEPT = 4  # such files that are kept
_PIECE_BYTES = 2**20


def root_of(text: str) -> Root:
    """The root that a path or URL names. Nothing is opened; of a URL, the driver is loaded.

    Raises:
        CorpusError: a URL that is not taken; see `stores.parse_root`.
    """
    try:
        return stores.parse_root(text, "corpus")
    except stores.UrlError as error:
        raise CorpusError(str(error)) from error


def lies_in(path: Root, root: Root) -> bool:
    """Tell whether a path that was listed below a root stays there, links followed; remote, there are none."""
    if not isinstance(path, Path) or not isinstance(root, Path):
        return True
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def beneath(root: "UPath", pure: PurePosixPath) -> "UPath":
    """A remote corpus's file under a relative path without '..': names are taken literally, links there are none."""
    parts = pure.parts
    if is_web(root):  # else '?' begins a query, and '%2e%2e' leads out
        parts = tuple(quote(part) for part in parts)
    return root.joinpath(*parts)


def info(path: "UPath") -> dict[str, Any]:
    """What the store says of a file or folder: `type`, and `size` in bytes or None.

    Raises:
        FileNotFoundError: nothing there.
        PermissionError: not with these credentials, or there are none.
        ConnectionError: the store cannot be reached, or does not answer in time.
        OSError: whatever else the driver says.
    """
    with translate_errors():
        found: dict[str, Any] = path.fs.info(path.path)
        return found


def is_file(path: Root) -> bool:
    """Tell whether a regular file is there. A store that cannot be asked is an error, which UPath takes for a no.

    Raises:
        CorpusError: the store cannot be reached.
    """
    return path.is_file() if isinstance(path, Path) else _kind(path) == "file"


def is_folder(path: Root) -> bool:
    """Tell whether a folder is there; raises as `is_file`."""
    return path.is_dir() if isinstance(path, Path) else _kind(path) == "directory"


def exists(path: Root) -> bool:
    """Tell whether anything is there; raises as `is_file`."""
    return path.exists() if isinstance(path, Path) else _kind(path) is not None


def _kind(path: "UPath") -> str | None:
    try:
        return str(info(path)["type"])
    except (FileNotFoundError, PermissionError):  # S3 denies what is missing to those who may not list
        return None
    except OSError as error:
        raise CorpusError(f"Corpus {str(path.parent)!r} cannot be read ({error}): check the network.") from error


def size_of(path: Root) -> int | None:
    """The size of a file in bytes; None where a web server does not say. Raises what `info` raises."""
    if isinstance(path, Path):
        return path.stat().st_size
    size: int | None = info(path)["size"]
    return size


def real(path: Root) -> Root:
    """A path with its links followed; remote, there are none."""
    return Path(os.path.realpath(path)) if isinstance(path, Path) else path


def folder_of(path: Root) -> Root:
    """The folder that a file lies in."""
    return path.absolute().parent if isinstance(path, Path) else path.parent


def entries(folder: "UPath") -> list[tuple[str, bool]]:
    """The names in a remote folder, ordered, each with whether it is a folder; held in memory.

    Raises:
        CorpusError: the folder may not be listed, or the store cannot be reached.
    """
    try:
        with translate_errors():
            found = folder.fs.ls(folder.path, detail=True)
            folder.fs.invalidate_cache(folder.path)  # else what changes later would keep its size of now
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise CorpusError(
            f"The folder {str(folder)!r} may not be listed ({error}), expected one that can be: check the "
            f"credentials in the environment or the profile{hint(folder)}."
        ) from error
    except OSError as error:
        raise CorpusError(f"The folder {str(folder)!r} cannot be listed ({error}): check the network.") from error
    itself = folder.path.rstrip("/")
    paths = [(str(entry["name"]).rstrip("/"), entry["type"] == "directory") for entry in found]
    named = {path.rpartition("/")[2]: is_dir for path, is_dir in paths if path != itself}
    # No folder of this machine has such names; a store may.
    return sorted((name, is_dir) for name, is_dir in named.items() if name not in ("", ".", ".."))


def names(folder: Root, pattern: str) -> list[str]:
    """The names in a folder that match a pattern of the shell, ordered. Raises as `entries`."""
    if isinstance(folder, Path):
        return sorted(path.name for path in folder.glob(pattern))
    return [name for name, _ in entries(folder) if fnmatchcase(name, pattern)]


def beginning(path: Root, size: int) -> bytes:
    """The first bytes of a file.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        with open_binary(path, ahead=size) as file:
            return file.read(size)
    except OSError as error:
        raise CorpusError(f"{str(path)!r} cannot be read ({error}): check the path and its permissions.") from error


def absence(root: Root) -> str:
    """Why nothing was found beneath a remote root, as the rest of a sentence; empty if the root itself is there."""
    if isinstance(root, Path):
        return ""
    try:
        info(root)
    except FileNotFoundError:
        return f"is not there: correct {'host' if is_web(root) else 'bucket'} and path{hint(root)}"
    except PermissionError as error:
        return f"may not be read ({error}): check the credentials in the environment or the profile{hint(root)}"
    except OSError as error:
        return f"cannot be read ({error}): check the network"
    return ""


def is_web(path: Root) -> bool:
    """Whether a path lies behind a web server: it need not tell what a folder holds."""
    return not isinstance(path, Path) and path.protocol in ("http", "https")


def hint(path: Root) -> str:
    """What to do where a folder of a web server was meant, as the rest of a sentence; else empty."""
    return f"; {WEB_FOLDERS}" if is_web(path) else ""


WEB_FOLDERS = (
    "of a web server name a file (.tar, .parquet, .csv, .tsv, .jsonl, COCO's .json) or several as in "
    "shard-{0000..0012}.tar: what a folder holds it need not tell"
)


def open_binary(path: Root, ahead: int | None = None) -> BinaryIO:
    """Open a file to read and seek in it. A remote one comes in blocks and raises what `info` raises, nothing else.

    ahead: bytes that are fetched beyond those asked for, `BLOCK_BYTES` by default; few where little is wanted.
    """
    return path.open("rb") if isinstance(path, Path) else io.BufferedReader(_Remote(path, ahead), _BUFFER_BYTES)


def read_at_most(path: "UPath", size: int) -> bytes:
    """The first bytes of a remote file, in one request. Raises what `info` raises."""
    with translate_errors():
        if is_web(path):
            # As a stream: a server need not keep to the range that it was asked for.
            with io.BufferedReader(_Remote(path, block_size=0)) as file:
                return file.read(size)
        data: bytes = path.fs.cat_file(path.path, start=0, end=size)
        return data


def reason_of(error: OSError) -> Reason:
    """Why a row is rejected whose file cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return Reason.MISSING_FILE
    return Reason.UNREACHABLE_FILE if isinstance(error, ConnectionError) else Reason.UNREADABLE_FILE


class _Copy:
    """A file that was fetched whole; gone with the last who holds it."""

    def __init__(self, path: "UPath") -> None:
        self._lock = threading.Lock()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed below
        with _Remote(path, block_size=0) as source:
            while piece := source.read(_PIECE_BYTES):
                self._file.write(piece)
                if self._file.tell() > MAX_FETCHED_BYTES:
                    raise OSError(
                        f"its web server gives no parts of it, and it is larger than the {MAX_FETCHED_BYTES} bytes "
                        "that are fetched whole: use a server that answers range requests, or download it"
                    )
        self.size = self._file.tell()

    def read(self, position: int, size: int) -> bytes:
        with self._lock:  # several threads may read it
            self._file.seek(position)
            return self._file.read(size)

    def __del__(self) -> None:
        self._file.close()


class _Whole:
    """A place in a copy, as a driver's file."""

    def __init__(self, copy: _Copy) -> None:
        self._copy, self._position, self.size = copy, 0, copy.size

    def read(self, size: int) -> bytes:
        data = self._copy.read(self._position, size)
        self._position += len(data)
        return data

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        """The copy stays for others."""


class _Copies:
    """The files that were fetched whole last. Another size, date or tag than before is another file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[object, ...], _Copy] = {}

    def kept(self, path: "UPath") -> _Whole | None:
        """A place in the copy that there is; asks the server for size, date and tag."""
        if not any(known[0] == str(path) for known in tuple(self._kept)):
            return None
        copy = self._kept.get(self._key(path))
        return None if copy is None else _Whole(copy)

    def fetched(self, path: "UPath") -> _Whole:
        key = self._key(path)
        with self._lock:
            copy = self._kept.pop(key, None) or _Copy(path)
            self._kept[key] = copy
            if len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]  # whoever reads it still holds it
        return _Whole(copy)

    def _key(self, path: "UPath") -> tuple[object, ...]:
        found = info(path)
        return (str(path), *(found.get(name) for name in ("size", "ETag", "Last-Modified")))


_copies = _Copies()


class _Remote(io.RawIOBase):
    """A driver's file as Python's own classes expect one: `readline` with a limit, errors that are OSError.

    Of web servers not all give parts of a file. Where one does not, it is fetched whole once somebody goes back or
    ahead in it; block_size 0: nobody will.
    """

    def __init__(self, path: "UPath", block_size: int | None = None) -> None:
        self._path, self._may_fetch = path, is_web(path) and block_size != 0
        with translate_errors():
            kept = _copies.kept(path) if self._may_fetch else None
            self._file: Any = kept or path.open("rb", block_size=BLOCK_BYTES if block_size is None else block_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        with translate_errors():
            try:
                data = self._file.read(len(view))
            except ValueError:
                if not self._may_fetch:
                    raise
                self._fetch()
                data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self._may_fetch and self._file.size is None:  # a stream
            self._fetch()
        return int(self._file.seek(offset, whence))

    def _fetch(self) -> None:
        position = self._file.tell()
        self._file.close()
        self._file = _copies.fetched(self._path)
        self._file.seek(position)
        self._may_fetch = False

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
