"""Audits that are killed or out of space: readers never see a torn file, and the resumed run has the same results.

These trials run the whole audit in forks without Prefect (forker.py); test_crash_prefect.py has the trials with a
server, a worker and the command line.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

import pytest

import sql
from sql.tables import TABLES

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
PAIRS = 24
LEDGER = {"ledger/HEAD", "ledger/00000001.json", "ledger/00000002.json"}  # a failed end, and the one after it


def create_random(seed):
    return Random(seed)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    from demo.corpus import generate

    return generate(tmp_path_factory.mktemp("corpus"), pairs=PAIRS)


def make_config(corpus, lake):
    return {
        "corpus": {"path": str(corpus)},
        "model": {"architecture": "demo/shortcut", "device": "cpu", "batch_size": 4},
        "bottleneck": {"steps": 2, "calibration_pairs": 8},
        "lake": {"path": str(lake), "shard_size": 4},
        "alerts": {"min_pairs": 4, "factor": 1.01},
        "discover": {"enabled": False},
        "confirm": {"enabled": False},
    }


class Forker:
    """forker(lake, ...): run an audit in a separate process."""

    def __init__(self, corpus):
        self.corpus = corpus
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "forker.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent.parent), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._send({"config": make_config(corpus, "lake")})

    def _send(self, order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _read_answer(self, word):
        line = self._process.stdout.readline().split()
        assert line[:1] == [word], line
        return int(line[1])

    def __call__(self, lake, kill_after=None, **order):
        """Run an audit; returns (exit code, or minus the signal; events that touched the lake, None if killed)."""
        self._send({"config": make_config(self.corpus, lake), **order})
        child = self._read_answer("pid")
        killer = threading.Timer(kill_after or 0, os.kill, (child, signal.SIGKILL))
        if kill_after is not None:
            killer.start()
        word, number = self._process.stdout.readline().split()
        killer.cancel()
        events = None
        if word == "events":
            events, number = int(number), self._read_answer("ended")
        return os.waitstatus_to_exitcode(int(number)), events

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def forker(corpus):
    process_forker = Forker(corpus)
    yield process_forker
    process_forker.close()


class Reader(threading.Thread):
    """Reads the whole lake repeatedly, as a dashboard would; `errors` lists what it could not read."""

    def __init__(self, lake):
        super().__init__(daemon=True)
        self.lake, self.errors, self.times = lake, [], 0
        self._done = threading.Event()

    def run(self):
        while not self._done.is_set():
            try:
                with sql.connect(self.lake) as connection:
                    for table in TABLES:
                        sql.read(connection, f"SELECT count(*) FROM {table}")
                    sql.read(connection, "SELECT sum(image_nats), sum(len(image_map)) FROM attributions")
                self.times += 1
            except Exception as error:  # noqa: BLE001  # returned to the caller, which reports it
                self.errors.append(error)
            self._done.wait(0.1)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join()
        assert self.errors == []
        assert self.times > 0


def read_outcome(lake):
    """Return the results of the only run of a lake, without what differs between lakes."""
    (record,) = sql.read_manifests(lake)
    for entry in record["files"]:
        assert hashlib.sha256((lake / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    listed = {entry["path"] for entry in record["files"]}
    on_disk = {path.relative_to(lake).as_posix() for path in lake.rglob("*") if path.is_file()}
    # No partly written file and no lock. A run that was killed before it was recorded in the ledger has no record.
    assert on_disk - LEDGER == listed | {f"runs/{record['run_id']}/manifest.json"}
    with sql.connect(lake) as connection:
        maps = sql.read(connection, "SELECT pair_id, image_map, text_map, cosine FROM attributions ORDER BY pair_id")
        alerts = sql.read(
            connection, "SELECT rule, region, slice_kind, slice, n, share, effect FROM alerts ORDER BY ALL"
        )
        shares = sql.read(connection, "SELECT * EXCLUDE (run_id) FROM region_shares ORDER BY ALL")
    return {"status": record["status"], "counts": record["counts"], "maps": maps, "alerts": alerts, "shares": shares}


@pytest.fixture(scope="module")
def uninterrupted(forker, tmp_path_factory):
    """Outcome, seconds, events and file sizes of an uninterrupted run; the second of two, as the first fills caches."""
    for _ in range(2):
        lake = tmp_path_factory.mktemp("uninterrupted") / "lake"
        lake.mkdir()
        start = time.monotonic()
        code, events = forker(lake)
        seconds = time.monotonic() - start
        assert code == 0
    results = read_outcome(lake)
    assert (results["status"], results["counts"]["attributions"], len(results["maps"])) == ("completed", PAIRS, PAIRS)
    assert results["counts"]["alerts"] > 0
    sizes = [path.stat().st_size for path in (lake / "runs").rglob("*") if path.is_file()]
    return results, seconds, events, sizes


def finish_run(forker, lake):
    """Resume the run of the lake until it is complete."""
    records = sql.read_manifests(lake)
    if records and records[0]["status"] == "completed":
        return  # killed after its end
    code, _ = forker(lake, resume=records[0]["run_id"] if records else None)
    assert code == 0


@pytest.mark.parametrize("seed", range(12))
def test_run_killed_twice_at_random_times_gives_same_results(forker, uninterrupted, tmp_path, seed):
    expected, seconds, *_ = uninterrupted
    rng, lake = create_random(seed), tmp_path / "lake"
    lake.mkdir()
    with Reader(lake):
        forker(lake, kill_after=rng.uniform(0, seconds))
        if (records := sql.read_manifests(lake)) and records[0]["status"] != "completed":
            forker(lake, resume=records[0]["run_id"], kill_after=rng.uniform(0, seconds))
        finish_run(forker, lake)
    assert read_outcome(lake) == expected


@pytest.mark.parametrize("seed", range(16))
def test_run_killed_twice_before_a_write_gives_same_results(forker, uninterrupted, tmp_path, seed):
    """Killed just before a file is opened, renamed or removed, in each sixteenth of all such events."""
    expected, _, events, _ = uninterrupted
    rng, lake = create_random(seed), tmp_path / "lake"
    lake.mkdir()
    with Reader(lake):
        event = int((seed + rng.random()) / 16 * events) + 1
        assert forker(lake, die_at=event) == (-signal.SIGKILL, None)
        if records := sql.read_manifests(lake):
            forker(lake, resume=records[0]["run_id"], die_at=rng.randint(1, max(2, events - event)))
        finish_run(forker, lake)
    assert read_outcome(lake) == expected


@pytest.mark.parametrize("seed", range(6))
def test_run_with_limited_file_size_fails_and_can_be_resumed(forker, uninterrupted, tmp_path, seed):
    """As with a quota: a write fails, the run reports it, and can be resumed without the limit."""
    expected, _, _, sizes = uninterrupted
    lake = tmp_path / "lake"
    lake.mkdir()
    bound = int(max(sizes) * (seed + create_random(seed).random()) / 6)
    with Reader(lake):
        assert forker(lake, file_bytes=bound)[0] == errno.ENOSPC
        assert all(record["status"] in ("failed", "running") for record in sql.read_manifests(lake))
        finish_run(forker, lake)
    assert read_outcome(lake) == expected


@pytest.fixture
def mount_disk(tmp_path):
    """mount_disk(kibibytes): mount or resize a small file system and return its folder."""
    folder, mounted = tmp_path / "disk", []
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("NOT TESTED: a full disk; mounting one takes root")

    def size(kibibytes):
        options = f"{'remount,' if mounted else ''}size={kibibytes}k"
        process = subprocess.run(
            [mount, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if process.returncode:
            pytest.skip(f"NOT TESTED: a full disk; it cannot be mounted: {process.stderr}")
        mounted.append(folder)
        return folder

    yield size
    if mounted:
        subprocess.run([shutil.which("umount"), "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("seed", range(6))
def test_run_on_full_disk_fails_and_can_be_resumed(forker, uninterrupted, mount_disk, seed):
    expected, _, _, sizes = uninterrupted
    pages = sum(math.ceil(size / 4096) for size in sizes)
    lake = mount_disk(4 * (1 + int((pages - 1) * (seed + create_random(seed).random()) / 6))) / "lake"
    lake.mkdir()
    with Reader(lake):
        assert forker(lake)[0] == errno.ENOSPC
        assert all(record["status"] in ("failed", "running") for record in sql.read_manifests(lake))
        mount_disk(65536)
        finish_run(forker, lake)
    assert read_outcome(lake) == expected
