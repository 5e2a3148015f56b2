"""One process at a time can lock a run, and a dead process locks nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import sql
import stores
from stores import ledger
from tasks.errors import ResumeError
from tasks.lake import lock
from tasks.lake.lock import lock_run, remove_temporary_files


@pytest.fixture
def fast_heartbeat(monkeypatch):
    """Storage without file locks, with a fast heartbeat."""
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(lock, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_lock_file", lambda _: None)


LOCKING_SCRIPT = """
import sys, time
from pathlib import Path
from tasks.lake.run import Run
from tasks.lake.lock import lock_run
with lock_run(Run(Path(sys.argv[1]), sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def locking_process(hand_written_run):
    """Another process that locks the run until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOCKING_SCRIPT, str(hand_written_run.lake), hand_written_run.run_id],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_is_locked_once_and_unlocked_afterwards(hand_written_run):
    with lock_run(hand_written_run):
        with (
            pytest.raises(ResumeError, match=f"locked by process {os.getpid()} on {socket.gethostname()} since"),
            lock_run(hand_written_run),
        ):
            pytest.fail("locked twice")
        assert (hand_written_run.folder / "lock.json").is_file()
    assert not (hand_written_run.folder / "lock.json").exists()
    with lock_run(hand_written_run):
        pass


def test_an_error_unlocks_the_run(hand_written_run):
    with pytest.raises(RuntimeError, match="because"), lock_run(hand_written_run):
        raise RuntimeError("because")
    with lock_run(hand_written_run):
        pass


def test_the_lock_of_another_process_ends_when_it_is_killed(hand_written_run, locking_process):
    with pytest.raises(ResumeError, match=f"locked by process {locking_process.pid} on "), lock_run(hand_written_run):
        pytest.fail("locked twice")
    locking_process.send_signal(signal.SIGKILL)
    locking_process.wait()
    assert (hand_written_run.folder / "lock.json").is_file()  # which needs no cleanup
    with lock_run(hand_written_run):
        pass


def test_only_one_of_several_threads_locks_the_run(hand_written_run):
    """Threads lock and unlock, and remove the file each time; there are never two owners."""
    inside, most, wrong = [], [], []

    def again():
        for _ in range(20):
            try:
                with lock_run(hand_written_run):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except ResumeError:
                pass
            except Exception as error:  # noqa: BLE001  # a thread's error would be lost
                wrong.append(error)

    threads = [threading.Thread(target=again) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert max(most) == 1


def test_a_heartbeat_locks_a_run_without_file_locks(hand_written_run, fast_heartbeat):
    path = hand_written_run.folder / "lock.json"
    with lock_run(hand_written_run):
        first = json.loads(path.read_text())["beat"]
        with pytest.raises(ResumeError, match="locked by process"), lock_run(hand_written_run):
            pytest.fail("locked twice")
        assert json.loads(path.read_text())["beat"] > first
    assert not path.exists()


def test_the_lock_of_another_host_times_out(hand_written_run, fast_heartbeat):
    path = hand_written_run.folder / "lock.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "then", "token": "x", "beat": 7}))
    began = time.monotonic()
    with lock_run(hand_written_run):
        assert time.monotonic() - began >= lock.TIMEOUT_SECONDS
        assert json.loads(path.read_text())["host"] == socket.gethostname()


@pytest.mark.parametrize("left", ["dead", "torn"])
def test_a_dead_process_of_this_host_and_a_torn_file_lock_nothing(hand_written_run, fast_heartbeat, left, monkeypatch):
    monkeypatch.setattr(lock, "TIMEOUT_SECONDS", 600)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    record = json.dumps({**lock._describe_process(), "pid": dead.pid, "token": "x", "beat": 1})
    (hand_written_run.folder / "lock.json").write_text(record if left == "dead" else record[:9])
    with lock_run(hand_written_run):
        pass


def test_a_pid_of_another_container_is_not_looked_up_here(hand_written_run, fast_heartbeat, monkeypatch):
    """A container in the network of the host has its name, but separate process ids."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    record = {"host": socket.gethostname(), "pids": "pid:[1]", "pid": dead.pid, "token": "x", "beat": 1}
    (hand_written_run.folder / "lock.json").write_text(json.dumps(record))
    began = time.monotonic()
    with lock_run(hand_written_run):
        assert time.monotonic() - began >= lock.TIMEOUT_SECONDS


@pytest.fixture
def remote_run(run_class, remote_folder):
    """A run in object storage."""
    return run_class(remote_folder, "20260101T000000-aaaaaa").begin()


def raise_unreachable(*_, **__):
    raise ConnectionError("no route to host")


def test_storage_that_does_not_answer_may_have_a_lock(remote_run, fast_heartbeat, monkeypatch):
    monkeypatch.setattr(remote_run.folder.fs, "cat_file", raise_unreachable, raising=False)
    with pytest.raises(sql.LakeError, match=r"lock\.json cannot be read .*no route to host"), lock_run(remote_run):
        pytest.fail("perhaps locked twice")
    monkeypatch.undo()
    assert not stores.is_file(remote_run.folder / "lock.json")


def test_a_process_that_lost_the_lock_writes_neither_manifest_nor_lock(remote_run, fast_heartbeat):
    path, other = remote_run.folder / "lock.json", json.dumps({"host": "elsewhere", "pid": 1, "token": "x"}).encode()
    with lock_run(remote_run):
        remote_run.update(reason="mine")
        stores.write_bytes(path, other)  # as if written by a process for which the lock had timed out
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                remote_run.update(reason="mine")
            except sql.LakeError as error:
                assert "lost the lock" in str(error)  # noqa: PT017  # noticed at the next heartbeat
                break
            time.sleep(0.02)
        else:
            pytest.fail("the loss was not noticed")
    assert stores.read_bytes(path) == other
    stores.write_bytes(path, b"")  # the other process has unlocked the run
    with lock_run(remote_run):
        remote_run.update(reason="mine again")
    assert not stores.is_file(path)


def test_a_lock_that_cannot_be_removed_does_not_hide_an_error(remote_run, fast_heartbeat, monkeypatch):
    class EndpointConnectionError(Exception):
        """An error like those of botocore, which are not OSErrors."""

    def gone(*_, **__):
        raise EndpointConnectionError

    monkeypatch.setattr(type(remote_run.folder / "lock.json"), "unlink", gone)
    with pytest.raises(ValueError, match="the first error"), lock_run(remote_run):
        raise ValueError("the first error")


def test_half_written_files_are_removed(hand_written_run):
    hand_written_run.add_pairs(["a"])
    aside = hand_written_run.path("pairs").with_name(".part-00000.parquet.0123.tmp")
    aside.write_bytes(b"PAR1")
    remove_temporary_files(hand_written_run)
    assert not aside.exists()
    assert hand_written_run.path("pairs").is_file()


def test_a_group_may_write_every_file_if_the_umask_allows_it(hand_written_run):
    """The lock of a process of another account that was killed can be taken over."""
    before = os.umask(0o002)
    try:
        hand_written_run.add_pairs(["a"])
        ledger.append(hand_written_run.lake, "sign_off", {"statement": "fit for use"})
        with lock_run(hand_written_run):
            files = [path for path in hand_written_run.lake.rglob("*") if path.is_file()]
            modes = {path.name: oct(path.stat().st_mode & 0o777) for path in files if path.name != "manifest.json"}
            assert lock.LOCK_NAME in modes
            assert set(modes.values()) == {"0o664"}, modes
    finally:
        os.umask(before)
