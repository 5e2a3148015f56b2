"""Files of a lake, in a folder of this machine or in object storage: whole or not there, and read through local copies.

On this machine a file is written aside, flushed and renamed. To a store it is uploaded in one piece once it is
complete: there is no rename, and none is needed, for an object appears whole. Parquet, DuckDB and safetensors read
paths: of an object they get a copy, kept under its sha256 in a folder of this process that is removed when it ends.
"""

import atexit
import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stores.urls import Root, UrlError, parse_root, translate_errors

if TYPE_CHECKING:
    from upath import UPath

_AZURE = {"abfs", "abfss", "az"}
_WHOLE = {"s3", "s3a", "gs", "gcs", "memory", *_AZURE}
"""Protocols whose objects appear whole: a reader never sees one that is still being uploaded."""

_SHA256 = re.compile("[0-9a-f]{64}")

_AT_ONCE = 16
"""Files that are fetched at a time: a store answers one slowly, but many as fast."""

# Of an object that was written or fetched here: what the store said of it then, and the copy. Fewer bytes than its
# entry in the manifest.
_copies: dict[str, tuple[str, Path]] = {}


class LakeError(Exception):
    """The lake cannot be read or written: missing, out of reach, or not what its manifests say."""


def lake_root(text: str) -> Root:
    """The place that a path or URL names, as a lake.

    Raises:
        UrlError: see `parse_root`; or a protocol by which a file is seen while it is being written, or that only reads;
            or a file of this machine.
    """
    root = parse_root(text, "lake")
    if isinstance(root, Path) and root.exists() and not root.is_dir():
        raise UrlError(f"The lake is {text!r}, which is a file, expected a folder, be it a new one. Name another.")
    if not isinstance(root, Path) and root.protocol not in _WHOLE:
        raise UrlError(
            f"The lake is {text!r}, expected a folder, or a store whose files appear whole: s3, gs or abfs. Name one "
            "of these."
        )
    return root


def file_sha256(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relative_path(path: Root, root: Root) -> str:
    """A path as it is called below a root, with slashes."""
    if isinstance(path, Path) and isinstance(root, Path):
        return path.relative_to(root).as_posix()
    return str(path).removeprefix(str(root)).lstrip("/")


@contextlib.contextmanager
def _told(path: Root, doing: str) -> Iterator[None]:
    """Say what a store did not let happen. Raises LakeError, and FileNotFoundError where nothing is there."""
    try:
        with translate_errors():
            yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, str(error), str(path)) from error
    except PermissionError as error:
        raise LakeError(
            f"lake: {path} may not be {doing} ({error}); check the credentials in the environment or the profile"
        ) from error
    except ConnectionError as error:
        raise LakeError(f"lake: {path} cannot be {doing} ({error}); check the network, and try again") from error
    except OSError as error:
        raise LakeError(f"lake: {path} cannot be {doing} ({error}); see what the store says, and try again") from error


@contextlib.contextmanager
def _uploaded(path: "UPath") -> Iterator[None]:
    try:
        with _told(path, "written"):
            yield
    except FileNotFoundError as error:  # of an object only the bucket can be missing
        raise LakeError(
            f"lake: {path} cannot be written ({error.strerror}); create the bucket, or correct the lake's URL"
        ) from error


def is_file(path: Root) -> bool:
    """Tell whether a file is there. Raises LakeError for a store that does not say."""
    if isinstance(path, Path):
        return path.is_file()
    try:
        with _told(path, "read"):
            return bool(path.fs.info(path.path)["type"] == "file")
    except FileNotFoundError:
        return False


def read_bytes(path: Root) -> bytes:
    """All bytes of a small file. Raises FileNotFoundError, and LakeError for whatever else a store says."""
    if isinstance(path, Path):
        return path.read_bytes()
    with _told(path, "read"):
        data: bytes = path.fs.cat_file(path.path)
        return data


def read_all(paths: Iterable[Root]) -> Iterator[tuple[Root, bytes]]:
    """Those of some small files that are there, each with its bytes, in their order. Raises LakeError."""

    def read(path: Root) -> tuple[Root, bytes | None]:
        try:
            return path, read_bytes(path)
        except FileNotFoundError:
            return path, None

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        found = list(pool.map(read, paths))
    yield from ((path, data) for path, data in found if data is not None)


def _listed(folder: "UPath") -> list[dict[str, Any]]:
    """What a store lists in a folder; nothing where none is. Raises LakeError."""
    try:
        with _told(folder, "listed"):
            found: list[dict[str, Any]] = folder.fs.ls(folder.path, detail=True)
            folder.fs.invalidate_cache(folder.path)  # else what others write would not be seen
            return found
    except FileNotFoundError:
        return []


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]


def list_folders(path: Root) -> list[str]:
    """Names of the folders in a folder, ordered, without links; none where nothing is. Raises LakeError."""
    if isinstance(path, Path):
        found = path.iterdir() if path.is_dir() else ()
        return sorted(entry.name for entry in found if entry.is_dir() and not entry.is_symlink())
    return sorted(_name(entry) for entry in _listed(path) if entry["type"] == "directory")


def list_files(folder: Root) -> list[str]:
    """Names of the files in a folder, ordered; none where nothing is. Raises LakeError."""
    if isinstance(folder, Path):
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:  # asks no file by itself
            return sorted(entry.name for entry in found if entry.is_file())
        return []
    return sorted(_name(entry) for entry in _listed(folder) if entry["type"] == "file")


def missing_files(root: Root, names: Iterable[str]) -> list[str]:
    """Those of some files below a root that are not there; of a store each folder is listed once. Raises LakeError."""
    if isinstance(root, Path):
        return [name for name in names if not (root / name).is_file()]
    by_folder = defaultdict(list)
    for name in names:
        by_folder[name.rpartition("/")[0]].append(name)
    missing = []
    for folder, wanted in by_folder.items():
        there = {_name(entry) for entry in _listed(root / folder) if entry["type"] == "file"}
        missing += [name for name in wanted if name.rpartition("/")[2] not in there]
    return missing


def list_sizes(root: Root) -> dict[str, int]:
    """All files below a folder, by their paths below it, with their bytes; nothing where none is. Raises LakeError."""
    if isinstance(root, Path):
        return {relative_path(path, root): path.stat().st_size for path in sorted(root.rglob("*")) if path.is_file()}
    try:
        with _told(root, "listed"):
            root.fs.invalidate_cache(root.path)
            found: dict[str, dict[str, Any]] = root.fs.find(root.path, detail=True)
    except FileNotFoundError:
        return {}
    at = len(root.path.strip("/")) + 1
    return {str(name).strip("/")[at:]: int(entry["size"] or 0) for name, entry in sorted(found.items())}


def list_links(root: Root) -> list[str]:
    """All symbolic links below a folder, by their paths below it; a store has none."""
    if not isinstance(root, Path):
        return []
    return [relative_path(path, root) for path in sorted(root.rglob("*")) if path.is_symlink()]


def remove(root: Root, names: Iterable[str]) -> None:
    """Delete files below a folder, and its folders that are empty then; those that are gone already are no error.

    Raises OSError, and LakeError for a store that does not let it happen.
    """
    if isinstance(root, Path):
        for name in names:
            (root / name).unlink(missing_ok=True)
        for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        return
    for name in names:
        with contextlib.suppress(FileNotFoundError), _told(root / name, "deleted"):
            root.fs.rm_file((root / name).path)


@contextlib.contextmanager
def write_atomically(path: Root) -> Iterator[Path]:
    """A temporary path whose file becomes `path` once it is complete; nothing is left on failure.

    On this machine it is on the disk then. Raises LakeError for a store that does not take it.
    """
    if isinstance(path, Path):
        with _renamed(path) as aside:
            yield aside
        return
    aside = scratch_folder() / f"{uuid.uuid4().hex}.tmp{path.suffix}"
    try:
        yield aside
        with _uploaded(path):
            # Azure's driver is the one that would keep the old object.
            path.fs.put_file(str(aside), path.path, **({"overwrite": True} if path.protocol in _AZURE else {}))
            said = _identity(path)
        _keep(path, aside, said)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the new name itself
        finally:
            os.close(directory)
    finally:
        aside.unlink(missing_ok=True)


def write_bytes(path: Root, data: bytes) -> None:
    """Write a small file, of which no copy is kept. Raises LakeError for a store that does not take it."""
    if isinstance(path, Path):
        with _renamed(path) as aside:
            aside.write_bytes(data)
        return
    with _uploaded(path):
        path.fs.pipe_file(path.path, data)


def create_file(path: Root, data: bytes) -> bool:
    """Write a small file unless one of its name is there; of several that try at once one does. Tells whether we did.

    On this machine it appears whole, and is on the disk then. Raises LakeError for a store that does not take it.
    """
    if isinstance(path, Path):
        return _linked(path, data)
    there = False
    with _uploaded(path):
        try:
            path.fs.pipe_file(path.path, data, mode="create")
        except FileExistsError:
            there = True
    # A driver that asks again, as the answer to its first request was lost, meets its own object.
    return not there or read_bytes(path) == data


def _linked(path: Path, data: bytes) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        aside.write_bytes(data)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        try:
            os.link(aside, path)  # unlike a rename, it replaces nothing
        except FileExistsError:
            return False
        except OSError as error:
            raise LakeError(
                f"lake: {path} cannot be written ({error.strerror}): the ledger needs a file system with hard links, "
                "or an object store; move the lake to one"
            ) from error
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        aside.unlink(missing_ok=True)
    return True


def copy_path(sha256: str) -> Path:
    """Where the copy of a file of this sha256 is, or will be. Raises LakeError for one that is none."""
    if not _SHA256.fullmatch(sha256):
        raise LakeError(f"lake: got sha256 {sha256!r} in a manifest, expected 64 hexadecimal digits; restore it")
    return scratch_folder() / f"{sha256}.copy"


def fetch(path: Root, sha256: str | None = None) -> Path:
    """A file to be read: itself, or the local copy of an object. A copy of known sha256 is not asked for again.

    Raises LakeError if it is not there, cannot be had, or is not what its sha256 says; the latter for copies only.
    """
    if isinstance(path, Path):
        return path
    if sha256 is not None and copy_path(sha256).is_file():
        return copy_path(sha256)
    aside = scratch_folder() / f"{uuid.uuid4().hex}.tmp"
    try:
        with _told(path, "read"):
            # Before its bytes: should it change now, the copy will not be taken for the new one.
            said = _identity(path) if sha256 is None else ""
            before, copy = _copies.get(str(path), ("", aside))
            if said and said == before and copy.is_file():
                return copy
            path.fs.get_file(path.path, str(aside))
        if sha256 is not None and (found := file_sha256(aside)) != sha256:
            raise LakeError(
                f"lake: {path} is damaged: got sha256 {found}, expected {sha256}, as its manifest says; restore it, or "
                "remove the run's folder under runs/"
            )
        return _keep(path, aside, said)
    except FileNotFoundError as error:
        raise LakeError(
            f"lake: {path} is gone ({error.strerror}); restore it, or remove the run's folder under runs/"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def fetch_all(root: Root, names: Mapping[str, str | None]) -> list[Path]:
    """Files below a root, by name and sha256 if it is known, to be read; many at a time. Raises as `fetch`."""
    if isinstance(root, Path):
        return [root / name for name in names]
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        return list(pool.map(lambda item: fetch(root / item[0], item[1]), names.items()))


def _identity(path: "UPath") -> str:
    """What a store says of an object, by which it is told from the next one of the same name."""
    return str(sorted((key, str(value)) for key, value in path.fs.info(path.path).items()))


def _keep(path: "UPath", aside: Path, said: str) -> Path:
    copy = copy_path(file_sha256(aside))
    aside.replace(copy)
    _copies[str(path)] = said, copy
    return copy


_making = threading.Lock()


def scratch_folder() -> Path:
    """The folder of this process's copies, for its user alone; removed when the process ends."""
    with _making:
        return _shared.get(os.getpid()) or _scratch_of(os.getpid())


_shared: dict[int, Path] = {}


def use_scratch_folder(folder: Path) -> None:
    """Use the folder of the process that started this one; its copies are neither fetched again nor removed."""
    _shared[os.getpid()] = folder


@cache
def _scratch_of(process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="m2ib-audit-"))

    def remove() -> None:
        if os.getpid() == process:  # not a child that was forked off
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
