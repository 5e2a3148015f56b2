"""One process at a time works on a run: a lock in the run's folder, which nobody has to clear after a crash."""

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
from tasks.lake.run import Run, utc_timestamp

NAME = "lock.json"
BEAT = 10.0
"""Seconds between signs of life, where the kernel cannot be asked."""
SILENCE = 35.0
"""Seconds without a sign of life after which a holder counts as dead."""
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

Release = Callable[[], None]


@contextlib.contextmanager
def lock_run(run: Run) -> Iterator[None]:
    """Hold a run against all other processes, on this host and on others that share the lake.

    Raises ResumeError, with who holds it, if another one does, and LakeError for a store that does not say.
    """
    release = _lock(run.folder / NAME) or _beat(run)
    try:
        yield
    finally:
        release()


def remove_temporary_files(run: Run) -> None:
    """Remove what a process that was killed left half written. The run must be held."""
    if isinstance(run.folder, Path):  # in object storage nothing is half written
        for aside in run.folder.rglob(".*.tmp"):
            aside.unlink(missing_ok=True)


def _myself() -> dict[str, Any]:
    return {**_here(), "pid": os.getpid(), "since": utc_timestamp(), "token": secrets.token_hex(8)}


def _here() -> dict[str, Any]:
    """Where a pid means something: containers may share the host's name and yet see none of its processes."""
    try:
        pids: str | None = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # only Linux has them
        pids = None
    return {"host": socket.gethostname(), "pids": pids}


def _holder(path: Root) -> dict[str, Any]:
    """What a lock says about its holder; empty if it is gone, or was not written to the end.

    Raises LakeError for a store that does not answer: that is no sign that nobody holds it.
    """
    try:
        found = json.loads(stores.read_bytes(path))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _busy(path: Root) -> ResumeError:
    holder: dict[str, Any] = {}
    with contextlib.suppress(OSError, sql.LakeError):  # it is held, whether or not it can be read by whom
        holder = _holder(path)
    who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown host')}"
    return ResumeError(
        f"resume: run {path.parent.name} is held by {who} since {holder.get('since', 'an unknown time')}, expected a "
        "run that nobody works on; wait until it is done, or end that process"
    )


def _lock(path: Root) -> Release | None:
    """Lock by the kernel, which lets go when the process dies, however it dies; over NFS too. None: not possible here.

    A lock on a file that its holder has removed meanwhile is worth nothing, so the name is looked up again.
    """
    if not isinstance(path, Path):
        return None
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise _busy(path) from None
        except OSError as error:
            os.close(file)
            if error.errno in _UNSUPPORTED:
                return None
            raise
        try:
            same = os.path.samestat(os.fstat(file), path.stat())
        except FileNotFoundError:
            same = False
        if same:
            break
        os.close(file)
    with contextlib.suppress(OSError):  # on a full disk it is a lock all the same
        os.ftruncate(file, 0)
        os.write(file, json.dumps(_myself()).encode())

    def release() -> None:
        path.unlink(missing_ok=True)
        os.close(file)

    return release


def _beat(run: Run) -> Release:
    """Lock by signs of life in a file, for storage whose kernel or server knows no locks.

    A holder is watched rather than its time compared with ours, since clocks differ. Of two that take over a dead
    holder's lock in the same second the one that wrote last has it. A holder that could not write for so long that
    another took over sees so at its next sign, and lets go: it writes the manifest no more.
    """
    path = run.folder / NAME
    _await_silence(path)
    me, stop = _myself(), threading.Event()

    def sign(beat: int) -> None:
        stores.write_bytes(path, json.dumps({**me, "beat": beat}).encode())

    def mine() -> bool:
        return bool(_holder(path).get("token") == me["token"])

    sign(0)
    time.sleep(1)
    if not mine():
        raise _busy(path)
    run.mark_locked()

    def go_on() -> None:
        beat = 0
        while not stop.wait(BEAT):
            beat += 1
            with contextlib.suppress(OSError, sql.LakeError):
                if not mine():
                    run.mark_lock_lost()
                    return
                sign(beat)

    thread = threading.Thread(target=go_on, name="run lock", daemon=True)
    thread.start()

    def release() -> None:
        stop.set()
        thread.join()
        with contextlib.suppress(OSError, sql.LakeError):  # what it says is old by then
            if mine():
                with stores.translate_errors():
                    path.unlink(missing_ok=True)

    return release


def _await_silence(path: Root) -> None:
    """Return once nobody holds the lock. Raises ResumeError at the holder's next sign of life, and LakeError."""
    first, here = _holder(path), _here()
    if not first or ({key: first.get(key) for key in here} == here and not _alive(first.get("pid"))):
        return
    deadline = time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        time.sleep(min(1.0, SILENCE / 10))
        if (found := _holder(path)) != first:
            if not found:
                return
            raise _busy(path)


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        return True
    return True
