"""Where a corpus lies: on this machine (`pathlib`), or behind a URL that fsspec reads (`UPath`, with pathlib's API).

Keys and passwords never stand in a URL: the drivers find them in the ordinary places (environment, profile, role).
"""

import io
import os
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias
from urllib.parse import quote

import stores
from corpora.errors import CorpusError
from corpora.records import Reason
from stores import translated

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from upath import UPath

Root: TypeAlias = stores.Root

BLOCK_BYTES = 8 * 2**20
"""What is read ahead of a remote file: fsspec's own 50 MiB for S3, times some threads, is too much."""

_BUFFER_BYTES = 2**18


def root_of(text: str) -> Root:
    """The root that a path or URL names. Nothing is opened; of a URL, the driver is loaded.

    Raises:
        CorpusError: a URL that is not taken; see `stores.root_of`.
    """
    try:
        return stores.root_of(text, "corpus")
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
    if root.protocol in ("http", "https"):  # else '?' begins a query, and '%2e%2e' leads out
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
    with translated():
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
        with translated():
            found = folder.fs.ls(folder.path, detail=True)
            folder.fs.invalidate_cache(folder.path)  # else what changes later would keep its size of now
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise CorpusError(
            f"The folder {str(folder)!r} may not be listed ({error}), expected one that can be: check the "
            "credentials in the environment or the profile."
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
        return "is not there: correct bucket and path"
    except PermissionError as error:
        return f"may not be read ({error}): check the credentials in the environment or the profile"
    except OSError as error:
        return f"cannot be read ({error}): check the network"
    return ""


def open_binary(path: Root, ahead: int | None = None) -> BinaryIO:
    """Open a file to read and seek in it. A remote one comes in blocks and raises what `info` raises, nothing else.

    ahead: bytes that are fetched beyond those asked for, `BLOCK_BYTES` by default; few where little is wanted.
    """
    return path.open("rb") if isinstance(path, Path) else io.BufferedReader(_Remote(path, ahead), _BUFFER_BYTES)


def read_at_most(path: "UPath", size: int) -> bytes:
    """The first bytes of a remote file, in one request. Raises what `info` raises."""
    with translated():
        if path.protocol in ("http", "https"):
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


class _Remote(io.RawIOBase):
    """A driver's file as Python's own classes expect one: `readline` with a limit, errors that are OSError."""

    def __init__(self, path: "UPath", block_size: int | None = None) -> None:
        with translated():
            self._file: Any = path.open("rb", block_size=BLOCK_BYTES if block_size is None else block_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        with translated():
            data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
