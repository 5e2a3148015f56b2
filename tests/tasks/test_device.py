"""One thread per device makes all PyTorch calls, one after the other, and a forked process gets its own."""

import os
import subprocess
import sys
import threading

import pytest

from tasks.device import compute, submit


def test_calls_for_a_device_run_one_after_the_other_in_its_own_thread():
    running, most = [], []

    def work(number):
        running.append(number)
        most.append(len(running))
        running.remove(number)
        return number, threading.current_thread().name

    futures = [submit("cpu", work, number) for number in range(50)]
    results = [future.result() for future in futures]
    assert [number for number, _ in results] == list(range(50))
    assert {name for _, name in results} == {"compute on cpu_0"}
    assert set(most) == {1}
    assert compute("cuda:1", work, 3)[1] == "compute on cuda:1_0"


def test_errors_reach_the_caller():
    with pytest.raises(ZeroDivisionError):
        compute("cpu", lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="would wait for itself"):
        compute("cpu", lambda: compute("cpu", int))


def test_a_forked_process_has_a_thread_of_its_own():
    compute("cpu", int)
    pid = os.fork()
    if pid == 0:
        os._exit(compute("cpu", lambda: 7))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


# OpenMP prints a line for each thread of each team that it forms.
SCRIPT = """
import sys
from pathlib import Path
from demo.corpus import generate
from flows.begin import begin
from flows.config import parse
from flows import self_audit
from tasks import attribute, confirm, discover, flag, ingest, screen, store
from tasks.interventions.samples import InterventionPlan
folder = Path(sys.argv[1])
config = parse({
    "corpus": {"path": generate(folder / "data", pairs=40)}, "model": {"architecture": "demo/shortcut"},
    "lake": {"path": folder / "lake", "shard_size": 20}, "bottleneck": {"steps": 2}, "alerts": {"min_pairs": 5},
    "confirm": {"self_audit": 1},
}, "test")
inputs = config.inputs()[0]
run = begin(config, config.models(), None)
shards = ingest.ingest.fn(run, config.corpus, {}, 20, 0)
plan = config.attribution_plan(run.read_manifest())
results = [attribute.attribute_pairs(run, shard, inputs, plan) for shard in shards]
store.store.fn(run, results, config.regions, {})
discover.discover.fn(run, discover.DiscoveryPlan(inputs, config.discover, 0))
tests = InterventionPlan(inputs, config.confirm, 5, 0)
screen.screen.fn(run, tests)
flag.flag.fn(run, config.alerts, {})
assert confirm.confirm.fn(run, tests) is not None
self_audit.run_trial = self_audit.run_trial.fn
self_audit.self_audit(run, config, tests)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch uses GNU's OpenMP only on Linux")
def test_a_run_has_one_team_of_openmp_threads(tmp_path):
    environment = os.environ | {
        "OMP_NUM_THREADS": "3", "OMP_DISPLAY_AFFINITY": "true", "OMP_AFFINITY_FORMAT": "team-thread %n of %N: %i",
    }  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    lines = {line for line in (process.stdout + process.stderr).splitlines() if line.startswith("team-thread")}
    numbers = sorted(int(line.split()[1]) for line in lines)
    assert numbers == list(range(len(numbers)))  # a second team would have a second thread 0
    assert numbers
