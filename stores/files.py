"""Files of a lake in a local folder or in object storage: atomic writes, and local copies of remote files.

A local file is written under a temporary name, flushed and renamed. A remote file is uploaded in one request, and
object storage makes it visible only when the upload is complete. PyArrow, DuckDB and safetensors need local paths, so
they read a local copy of a remote file. The copy is named by its sha256, in a scratch folder that is deleted when the
process ends.
"""

import atexit
import contextlib
import errno
import hashlib
import io
import logging
import os
import re
import shutil
import stat
import tempfile
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stores.urls import Root, UrlError, advise, list_remote, parse_root, translate_errors

if TYPE_CHECKING:
    from upath import UPath

log = logging.getLogger("m2ib_audit.files")
_AZURE = {"abfs", "abfss", "az"}
_ATOMIC = {"s3", "s3a", "gs", "gcs", "memory", *_AZURE}
"""Protocols of URLs whose storage has atomic uploads: readers never see an incomplete file."""

_SHA256 = re.compile("[0-9a-f]{64}")

MAX_SMALL_BYTES = 2**28
"""Maximum size of a local file that is read at once, such as a manifest or a record."""
_CONCURRENT = 16
"""Number of files that are downloaded concurrently, because object storage has a high latency."""

# Path of each remote file that this process wrote or downloaded -> its version (fsspec's `ukey`) and its local copy.
_copies: dict[str, tuple[str, Path]] = {}


class LakeError(Exception):
    """The lake cannot be read or written. It is missing or unreachable, or its files differ from its manifests."""


class DamagedFileError(LakeError):
    """A file of a lake is missing, or differs from its manifest."""


def lake_root(text: str) -> Root:
    """Parse the path or URL of a lake.

    Raises:
        UrlError: The URL is invalid (see `parse_root`), the path is a file, or the protocol has no atomic uploads.
    """
    root = parse_root(text, "lake")
    fits = root.is_dir() or not root.exists() if isinstance(root, Path) else root.protocol in _ATOMIC
    if not fits:
        raise UrlError(
            f"The lake is {text!r}, expected a folder, which need not exist, or object storage with atomic uploads: "
            "s3, gs or abfs; give the path or URL of one of these."
        )
    return root


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a local file, which is read in chunks."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_digests: dict[Path, tuple[tuple[int, ...], str]] = {}


def known_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a local file, which is read once per process unless it changes."""
    status = path.stat()
    version = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    known, digest = _digests.get(path, (None, ""))
    if known != version:
        digest = file_sha256(path)
        _digests[path] = version, digest
    return digest


def relative_path(path: Root, root: Root) -> str:
    """Return a path relative to a root, with '/' as separator."""
    if isinstance(path, Path) and isinstance(root, Path):
        return path.relative_to(root).as_posix()
    return str(path).removeprefix(str(root)).lstrip("/")


@contextlib.contextmanager
def _describe_errors(path: Root, doing: str) -> Iterator[None]:
    """Translate errors of a storage driver in a `with` block to LakeError, or to FileNotFoundError for a missing file.

    `doing` is the past participle of the failed operation, such as "read". If it is "written", all become LakeError.
    """
    try:
        with translate_errors():
            yield
    except OSError as error:
        fix = advise(error)
        if isinstance(error, FileNotFoundError):
            if doing != "written":
                raise FileNotFoundError(errno.ENOENT, str(error), str(path)) from error
            fix = "create the bucket, or correct the lake's URL"  # an upload needs no existing object
        raise LakeError(f"lake: {path} cannot be {doing} ({error}); {fix}") from error


def is_file(path: Root) -> bool:
    """Return whether a path is an existing file. Raises LakeError if the store does not answer."""
    if isinstance(path, Path):
        return path.is_file()
    try:
        with _describe_errors(path, "read"):
            return bool(path.fs.info(path.path)["type"] == "file")
    except FileNotFoundError:
        return False


def is_writable(folder: Root) -> bool:
    """Return whether this process may add files to a folder, or to the closest existing folder above it.

    Object storage is not asked: only writing to it shows whether it can be written.
    """
    if not isinstance(folder, Path):
        return True
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return os.access(existing, os.W_OK)


def read_bytes(path: Root) -> bytes:
    """Return the bytes of a small file.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: A local file cannot be read, or is larger than `MAX_SMALL_BYTES`.
        LakeError: The store cannot be read.
    """
    if isinstance(path, Path):
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_SMALL_BYTES:
                raise OSError(errno.EFBIG, f"{size} bytes, expected at most {MAX_SMALL_BYTES}", str(path))
            return file.read()
    with _describe_errors(path, "read"):
        data: bytes = path.fs.cat_file(path.path)
        return data


def open_regular(path: Path) -> io.BufferedReader:
    """Open a local file for reading. Raises OSError if it is not a regular file: reading a pipe could take forever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_all(paths: Iterable[Root], faults: dict[Root, OSError] | None = None) -> Iterator[tuple[Root, bytes]]:
    """Read small files concurrently.

    Args:
        paths: The files.
        faults: Files that cannot be read are stored here with their error, and have no bytes. Default: the error of
            the first one is raised.

    Returns:
        Iterator over the paths of existing files and their bytes, in the given order. Missing files are skipped.

    Raises:
        OSError: A local file cannot be read.
        LakeError: The store cannot be read.
    """

    def read(path: Root) -> tuple[Root, bytes | None]:
        try:
            return path, read_bytes(path)
        except FileNotFoundError:
            return path, None
        except OSError as error:
            if faults is None:
                raise
            faults[path] = error
            return path, b""

    with ThreadPoolExecutor(max_workers=_CONCURRENT) as pool:
        found = list(pool.map(read, paths))
    yield from ((path, data) for path, data in found if data is not None)


def list_folders(folder: Root) -> list[str]:
    """Return the sorted names of the subfolders of a folder, without symbolic links.

    The list is empty if the folder does not exist. Raises LakeError if the store cannot be read.
    """
    if isinstance(folder, Path):
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(entry.name for entry in found if entry.is_dir() and not entry.is_symlink())
    return [name for name, is_dir in _list_remote(folder) if is_dir]


def list_files(folder: Root) -> list[str]:
    """Return a folder's sorted file names, or [] if it does not exist. Raises LakeError if it cannot be read."""
    if isinstance(folder, Path):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
            return sorted(entry.name for entry in found if _is_file(entry))
        return []
    return [name for name, is_dir in _list_remote(folder) if not is_dir]


def read_versions(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return a value for each file in a folder, by name, that changes with the file; {} if there is no folder."""
    found: dict[str, tuple[int, ...]] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # it has been deleted
                status = entry.stat()
                found[entry.name] = status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
    return found


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # such as links in a circle
        return False


def _list_remote(folder: "UPath") -> list[tuple[str, bool]]:
    with contextlib.suppress(FileNotFoundError), _describe_errors(folder, "listed"):
        return list_remote(folder)
    return []


def missing_files(root: Root, names: Iterable[str]) -> list[str]:
    """Return the given files that do not exist. The store is asked for one listing per folder, not once per file.

    Args:
        root: Root of the lake.
        names: Paths of the files relative to `root`.

    Raises:
        LakeError: The store cannot be read.
    """
    by_folder = defaultdict(list)
    for name in names:
        by_folder[name.rpartition("/")[0]].append(name)
    missing = []
    for folder, expected in by_folder.items():
        existing = set(list_files(root / folder))
        missing += [name for name in expected if name.rpartition("/")[2] not in existing]
    return missing


def list_sizes(root: Root) -> dict[str, int]:
    """Return the size in bytes of each file below a folder, by relative path. Raises LakeError if it cannot be read."""
    if isinstance(root, Path):
        return {relative_path(path, root): path.stat().st_size for path in sorted(root.rglob("*")) if path.is_file()}
    try:
        with _describe_errors(root, "listed"):
            root.fs.invalidate_cache(root.path)
            found: dict[str, dict[str, Any]] = root.fs.find(root.path, detail=True)
    except FileNotFoundError:
        return {}
    at = len(root.path.strip("/")) + 1
    return {str(name).strip("/")[at:]: int(entry["size"] or 0) for name, entry in sorted(found.items())}


def list_irregular(root: Root) -> dict[str, bool]:
    """Return what is neither a file nor a folder below a folder, by relative path, and whether it is a symbolic link.

    Anything else is a pipe, device or socket. A remote store has none of these.
    """
    found: dict[str, bool] = {}
    for path in sorted(root.rglob("*")) if isinstance(root, Path) else ():
        with contextlib.suppress(FileNotFoundError):  # a temporary file that was renamed meanwhile
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                found[relative_path(path, root)] = stat.S_ISLNK(mode)
    return found


def remove(root: Root, names: Iterable[str]) -> None:
    """Delete files below a folder, and then its empty subfolders. Missing files are ignored.

    Args:
        root: The folder.
        names: Paths of the files relative to `root`.

    Raises:
        OSError: A local file cannot be deleted.
        LakeError: A remote file cannot be deleted.
    """
    if isinstance(root, Path):
        for name in names:
            (root / name).unlink(missing_ok=True)
        for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        return
    for name in names:
        with contextlib.suppress(FileNotFoundError), _describe_errors(root / name, "deleted"):
            root.fs.rm_file((root / name).path)


@contextlib.contextmanager
def write_atomically(path: Root) -> Iterator[Path]:
    """Yield a temporary path for writing, and move or upload the file to `path` when the block ends.

    A local file is flushed to disk. If the block raises an exception, the temporary file is deleted and `path` stays
    unchanged.

    Raises:
        LakeError: The file cannot be uploaded.
    """
    if isinstance(path, Path):
        with _write_local(path) as temporary:
            yield temporary
        return
    temporary = scratch_folder() / f"{uuid.uuid4().hex}.tmp{path.suffix}"
    try:
        yield temporary
        with _describe_errors(path, "written"):
            # Only the driver of Azure does not overwrite by default.
            path.fs.put_file(str(temporary), path.path, **({"overwrite": True} if path.protocol in _AZURE else {}))
            version = path.fs.ukey(path.path)
        _keep(path, temporary, version)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _write_local(path: Path, publish: Callable[[Path, Path], object] = Path.replace) -> Iterator[Path]:
    """Yield a temporary path for writing, and flush the file to disk when the block ends.

    Then `publish` moves the temporary file (first argument) to the final path (second argument). From then on the file
    is written: a failure to make its name durable is logged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        publish(temporary, path)
        try:
            _flush_folder(path.parent)
        except OSError as error:
            log.warning("%s was written, but may be lost if the power fails now (%s)", path, error.strerror or error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make the names of files in a folder durable."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_bytes(path: Root, data: bytes) -> None:
    """Write a small file atomically. No local copy of a remote file is kept.

    Raises:
        LakeError: The file cannot be uploaded.
    """
    if isinstance(path, Path):
        with _write_local(path) as temporary:
            temporary.write_bytes(data)
        return
    with _describe_errors(path, "written"):
        path.fs.pipe_file(path.path, data)


def create_file(path: Root, data: bytes) -> bool:
    """Create a small file atomically if it does not exist. Of several concurrent writers, exactly one succeeds.

    Returns:
        Whether this call created the file.

    Raises:
        LakeError: The file cannot be uploaded, or the local file system has no hard links.
    """
    if isinstance(path, Path):
        try:
            with _write_local(path, os.link) as temporary:  # unlike a rename, a link never replaces an existing file
                temporary.write_bytes(data)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            raise LakeError(
                f"lake: {path} cannot be written ({error.strerror}); the ledger needs a file system with hard links, "
                "or an object store; move the lake to one of these"
            ) from error
        return True
    try:
        with _describe_errors(path, "written"), contextlib.suppress(FileExistsError):
            path.fs.pipe_file(path.path, data, mode="create")
            return True
    except LakeError:
        with contextlib.suppress(OSError, LakeError):  # the response may be lost, although the object was created
            if read_bytes(path) == data:
                return True
        raise
    # If a driver retries after a lost response, it may find the object that it created itself.
    return read_bytes(path) == data


def copy_path(sha256: str) -> Path:
    """Return the path where a remote file with this sha256 is copied to on this machine. The copy need not exist yet.

    Raises:
        LakeError: The sha256 is invalid.
    """
    if not _SHA256.fullmatch(sha256):
        raise LakeError(
            f"lake: the manifest of a run lists a file with sha256 {sha256!r}, expected 64 hexadecimal digits; "
            "verify the lake, and restore the manifest that is reported from a backup"
        )
    return scratch_folder() / f"{sha256}.copy"


def fetch(path: Root, sha256: str | None = None) -> Path:
    """Return a local path of a file. A remote file is downloaded first.

    Args:
        path: The file. A local path is returned unchanged.
        sha256: Expected sha256. If a local copy of a remote file with this sha256 exists, nothing is downloaded.
            Default: a local file is not read, and an earlier copy is reused if the version of the remote file has not
            changed.

    Raises:
        DamagedFileError: The file is missing, or does not match `sha256`.
        LakeError: The remote file cannot be read.
    """
    if isinstance(path, Path):
        if sha256 is not None:
            _check_local(path, sha256)
        return path
    if sha256 is not None and copy_path(sha256).is_file():
        return copy_path(sha256)
    temporary = scratch_folder() / f"{uuid.uuid4().hex}.tmp"
    try:
        with _describe_errors(path, "read"):
            # The version is read before the bytes. If the file changes in between, its old version is recorded, so that
            # the next call downloads it again.
            version = path.fs.ukey(path.path) if sha256 is None else ""
            copied_version, copy = _copies.get(str(path), ("", temporary))
            if version and version == copied_version and copy.is_file():
                return copy
            path.fs.get_file(path.path, str(temporary))
        if sha256 is not None and (found := file_sha256(temporary)) != sha256:
            raise _damaged_file(path, found, sha256)
        return _keep(path, temporary, version)
    except FileNotFoundError as error:
        raise _missing_file(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_local(path: Path, sha256: str) -> None:
    try:
        if (found := known_sha256(path)) != sha256:
            raise _damaged_file(path, found, sha256)
    except OSError as error:
        raise _missing_file(path, error) from error


def _damaged_file(path: Root, found: str, sha256: str) -> DamagedFileError:
    return DamagedFileError(
        f"lake: {path} is damaged: got sha256 {found}, expected {sha256}; restore it from a backup, or remove the "
        "run's folder under runs/"
    )


def _missing_file(path: Root, error: OSError) -> DamagedFileError:
    return DamagedFileError(
        f"lake: {path} is missing ({error.strerror}); restore it from a backup, or remove the run's folder under runs/"
    )


def fetch_all(root: Root, names: Mapping[str, str | None]) -> list[Path]:
    """Return local paths of files of a lake. They are downloaded and checked concurrently; see `fetch`.

    Args:
        root: Root of the lake.
        names: Mapping from the relative path of each file to its sha256, or None if the sha256 is unknown.
    """
    if isinstance(root, Path) and not any(names.values()):
        return [root / name for name in names]
    with ThreadPoolExecutor(max_workers=_CONCURRENT) as pool:
        return list(pool.map(lambda item: fetch(root / item[0], item[1]), names.items()))


def _keep(path: "UPath", temporary: Path, version: str) -> Path:
    """Move a downloaded temporary file to the local copy of this version of a remote file, and return its path."""
    copy = copy_path(file_sha256(temporary))
    temporary.replace(copy)
    _copies[str(path)] = version, copy
    return copy


_scratch_folders: dict[int, Path] = {}
"""Temporary folder of each process, by process id. A forked child process must not delete its parent's folder."""
_scratch_lock = threading.Lock()


def scratch_folder() -> Path:
    """Return the temporary folder of this process for local copies of remote files. Only its user can read it.

    The folder is deleted when the process ends.
    """
    process = os.getpid()
    with _scratch_lock:
        if process not in _scratch_folders:
            _scratch_folders[process] = Path(tempfile.mkdtemp(prefix="m2ib-audit-"))
            atexit.register(_remove_scratch, process, _scratch_folders[process])
        return _scratch_folders[process]


def _remove_scratch(process: int, folder: Path) -> None:
    if os.getpid() == process:  # not in a fork, which has inherited this function
        shutil.rmtree(folder, ignore_errors=True)


def use_scratch_folder(folder: Path) -> None:
    """Make this child process use its parent's scratch folder, so that local copies are reused and not deleted."""
    _scratch_folders[os.getpid()] = folder
