"""Lock of a run: one process at a time works on it. A lock whose process was killed needs no cleaning up.

In a local folder the kernel locks the file `lock.json`, also over NFS. Storage without file locks has a heartbeat in
that file instead.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sql
import stores
from stores import Root
from tasks.errors import ResumeError
from tasks.lake.run import Run, lost_locks, utc_timestamp

LOCK_NAME = "lock.json"
HEARTBEAT_SECONDS = 10.0
"""Seconds between two heartbeats, where the storage has no file locks."""
TIMEOUT_SECONDS = 35.0
"""Seconds without a heartbeat after which the process that has the lock counts as dead."""
_SETTLE_SECONDS = 1.0
"""Seconds that a process waits after it wrote a lock, to see whether another process overwrote it."""
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

Release = Callable[[], None]


@contextlib.contextmanager
def lock_run(run: Run) -> Iterator[None]:
    """Lock a run while the block runs. Raises ResumeError, which names the other process, if one has the lock."""
    release = _lock_file(run.folder / LOCK_NAME) or _start_heartbeat(run)
    try:
        yield
    finally:
        release()


def remove_temporary_files(run: Run) -> None:
    """Remove files of a run that a killed process left half written. The run must be locked."""
    if isinstance(run.folder, Path):  # object storage has no half-written files
        for path in run.folder.rglob(".*.tmp"):
            path.unlink(missing_ok=True)


def _describe_process() -> dict[str, Any]:
    """Describe this process; `pids` is its namespace of process ids, because containers can share a host's name."""
    process = {"host": socket.gethostname(), "pids": None, "pid": os.getpid(), "since": utc_timestamp()}
    with contextlib.suppress(OSError):  # not Linux
        process["pids"] = str(Path("/proc/self/ns/pid").readlink())
    return process | {"token": secrets.token_hex(8)}


def _read_owner(path: Root) -> dict[str, Any]:
    """Return the content of a lock file; an empty dictionary if the file is missing or incomplete."""
    try:
        owner = json.loads(stores.read_bytes(path))
    except (FileNotFoundError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _locked_error(path: Root) -> ResumeError:
    owner: dict[str, Any] = {}
    with contextlib.suppress(OSError, sql.LakeError):  # the run is locked, even if the owner is unknown
        owner = _read_owner(path)
    process = f"process {owner.get('pid', 'unknown')} on {owner.get('host', 'an unknown host')}"
    return ResumeError(
        f"resume: run {path.parent.name} is locked by {process} since {owner.get('since', 'an unknown time')}, "
        "expected a run that no process works on; wait until it has ended, or stop that process"
    )


def _lock_file(path: Root) -> Release | None:
    """Lock a file by the kernel, and return a function that unlocks it; None if the storage has no file locks."""
    if not isinstance(path, Path):
        return None
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # less the umask, as all files of a lake
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno in _UNSUPPORTED:
                return None
            raise (_locked_error(path) if isinstance(error, BlockingIOError) else error) from None
        # The former owner may have removed the file between opening and locking: then another file has this name.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                break
        os.close(file)
    with contextlib.suppress(OSError):  # on a full disk the lock holds without a description
        os.ftruncate(file, 0)
        os.write(file, json.dumps(_describe_process()).encode())

    def release() -> None:
        path.unlink(missing_ok=True)
        os.close(file)

    return release


def _start_heartbeat(run: Run) -> Release:
    """Lock a run by a heartbeat in a file, for storage without file locks.

    Another process's lock counts as dead if its heartbeat does not change for a while; times are not compared, since
    clocks differ. If two processes take over a dead lock in the same second, the one that writes last gets it. If a
    process cannot write its heartbeat and another one takes over the lock, the first process notices it at its next
    heartbeat, and then refuses to write the manifest.
    """
    path = run.folder / LOCK_NAME
    _wait_for_dead_lock(path)
    owner, stop = _describe_process(), threading.Event()

    def write(beat: int) -> None:
        stores.write_bytes(path, json.dumps({**owner, "beat": beat}).encode())

    def is_mine() -> bool:
        return bool(_read_owner(path).get("token") == owner["token"])

    write(0)
    time.sleep(_SETTLE_SECONDS)
    if not is_mine():
        raise _locked_error(path)
    lost_locks.discard(str(run.folder))

    def keep_writing() -> None:
        beat = 0
        while not stop.wait(HEARTBEAT_SECONDS):
            beat += 1
            with contextlib.suppress(OSError, sql.LakeError):
                if not is_mine():
                    lost_locks.add(str(run.folder))
                    return
                write(beat)

    thread = threading.Thread(target=keep_writing, name="run lock", daemon=True)
    thread.start()

    def release() -> None:
        stop.set()
        thread.join()
        with contextlib.suppress(OSError, sql.LakeError), stores.translate_errors():  # otherwise the lock times out
            if is_mine():
                path.unlink(missing_ok=True)

    return release


def _wait_for_dead_lock(path: Root) -> None:
    """Return once no process has the lock; raise ResumeError if another one has it and writes its heartbeat."""
    first, this = _read_owner(path), _describe_process()
    is_local = all(first.get(key) == this[key] for key in ("host", "pids"))
    if not first or (is_local and not _is_alive(first.get("pid"))):
        return
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, TIMEOUT_SECONDS / 10))
        if (owner := _read_owner(path)) != first:
            if not owner:
                return
            raise _locked_error(path)


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        pass
    return True
