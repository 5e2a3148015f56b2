"""kill -9 under Prefect: of the flow's process, of a worker with all that it started, and of the server."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import sql
from sql.lake import TABLES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
CLI = [sys.executable, "-c", "from flows.cli import main; main()"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    from demo.corpus import generate

    return generate(tmp_path_factory.mktemp("corpus"), pairs=24)


def config_of(corpus, lake):
    return {
        "corpus": {"path": str(corpus)},
        "model": {"architecture": "demo/shortcut", "device": "cpu", "batch_size": 4},
        "bottleneck": {"steps": 8, "calibration_pairs": 8},
        "lake": {"path": str(lake), "shard_size": 2},
        "alerts": {"min_pairs": 4, "factor": 1.01},
        "discover": {"enabled": False},
        "confirm": {"enabled": False},
    }


def audit_file(folder, corpus):
    lines = []
    for section, values in config_of(corpus, "lake").items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path = folder / "AUDIT.toml"
    path.write_text("\n".join(lines))
    return path


def started(folder, environment, *arguments):
    """A program in a process group of its own, which `kill` ends with all that it started."""
    with (folder / "errors").open("ab") as errors:
        return subprocess.Popen(
            arguments, cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
            stderr=errors, start_new_session=True,
        )  # fmt: skip


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until(found, what, seconds=3600):
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.2)
    return answer


def read(lake):
    """What a reader sees, at any moment: never anything torn."""
    if not lake.is_dir():
        return None
    with sql.connect(lake) as connection:
        rows = sql.read(connection, "SELECT run_id, status FROM runs")
        for table in TABLES:
            sql.read(connection, f"SELECT count(*) FROM {table}")
        return rows[0] if rows else None


def shards_of(lake):
    return len(list(lake.glob("runs/*/attributions/*.parquet")))


def maps_of(lake):
    with sql.connect(lake) as connection:
        return sql.read(connection, "SELECT pair_id, image_map, text_map FROM attributions ORDER BY pair_id")


@pytest.fixture(scope="module")
def undisturbed(corpus, prefect_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = started(folder, prefect_server.environment, *CLI, "run", str(audit_file(folder, corpus)))
    assert process.wait() == 3, (folder / "errors").read_text()
    maps = maps_of(folder / "lake")
    assert len(maps) == 24
    return maps


def resumed(folder, environment, run_id):
    process = started(folder, environment, *CLI, "run", "AUDIT.toml", "--resume", run_id)
    assert process.wait() == 3, (folder / "errors").read_text()
    assert read(folder / "lake")["status"] == "completed"
    return maps_of(folder / "lake")


@pytest.mark.parametrize("shards", [0, 2, 4, 6, 7, 9])
def test_the_flow_s_process(corpus, prefect_server, undisturbed, tmp_path, shards):
    """Killed once so many of the twelve shards are there, and a moment later."""
    lake = tmp_path / "lake"
    process = started(tmp_path, prefect_server.environment, *CLI, "run", str(audit_file(tmp_path, corpus)))
    until(lambda: read(lake) and shards_of(lake) >= shards, f"{shards} shards")
    time.sleep(random.Random(shards).uniform(0, 2))
    kill(process)
    seen = read(lake)
    assert seen["status"] == "running"
    assert resumed(tmp_path, prefect_server.environment, seen["run_id"]) == undisturbed


def test_a_terminated_process_says_so(corpus, prefect_server, undisturbed, tmp_path):
    lake = tmp_path / "lake"
    process = started(tmp_path, prefect_server.environment, *CLI, "run", str(audit_file(tmp_path, corpus)))
    until(lambda: shards_of(lake) >= 1, "shard")
    process.send_signal(signal.SIGTERM)
    process.wait()
    seen = read(lake)
    assert seen["status"] == "interrupted"
    assert resumed(tmp_path, prefect_server.environment, seen["run_id"]) == undisturbed


def test_a_second_process_is_refused_while_the_first_works(corpus, prefect_server, tmp_path):
    lake = tmp_path / "lake"
    process = started(tmp_path, prefect_server.environment, *CLI, "run", str(audit_file(tmp_path, corpus)))
    until(lambda: shards_of(lake) >= 1, "shard")
    process.send_signal(signal.SIGSTOP)  # else it may be done before the second one has begun
    run_id = read(lake)["run_id"]
    second = started(tmp_path, prefect_server.environment, *CLI, "run", "AUDIT.toml", "--resume", run_id)
    assert second.wait() == 2
    assert f"run {run_id} is locked by process {process.pid} on" in (tmp_path / "errors").read_text()
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 3


def test_a_worker_and_its_flow_after_which_prefect_s_retry_goes_on(corpus, prefect_server, undisturbed, tmp_path):
    lake = tmp_path / "lake"
    environment = prefect_server.environment
    described = {
        "name": "crash",
        "deployments": [
            {
                "name": "crashing", "entrypoint": "flows.audit.audit", "work_pool": {"name": "crashes"},
                "parameters": {"config": config_of(corpus, "lake")},
            }
        ],
    }  # fmt: skip
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(described))
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    for arguments in (["work-pool", "create", "crashes", "--type", "process"], ["deploy", "--all"]):
        assert started(tmp_path, environment, *prefect, *arguments).wait() == 0, (tmp_path / "errors").read_text()
    found = prefect_server.post("deployments/filter", {"deployments": {"name": {"any_": ["crashing"]}}})
    asked = prefect_server.post(f"deployments/{found[0]['id']}/create_flow_run", {})
    worker = [*prefect, "worker", "start", "--pool", "crashes", "--run-once"]
    process = started(tmp_path, environment, *worker)
    until(lambda: shards_of(lake) >= 3, "three shards")
    for child in children(process.pid):
        os.kill(child, signal.SIGKILL)
    kill(process)
    seen = read(lake)
    assert seen["status"] == "running"
    # As "Retry" of the user interface does.
    again = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    prefect_server.post(f"flow_runs/{asked['id']}/set_state", again)
    assert started(tmp_path, environment, *worker).wait() == 0, (tmp_path / "errors").read_text()
    assert read(lake) == {"run_id": seen["run_id"], "status": "completed"}
    assert maps_of(lake) == undisturbed
    (done,) = prefect_server.post("flow_runs/filter", {"flow_runs": {"id": {"any_": [asked["id"]]}}})
    assert done["state"]["type"] == "COMPLETED"


def children(pid):
    """All processes that a process has started, and theirs."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    if not found.is_file():
        pytest.skip("NOT TESTED: a killed worker; /proc does not tell its children")
    own = [int(child) for child in found.read_text().split()]
    return [*own, *(grandchild for child in own for grandchild in children(child))]


def test_the_server(corpus, own_prefect, undisturbed, tmp_path, server_of):
    """The audit's own server dies under it: the run fails or goes on, and ends as it should with another server.

    A run that is complete when its flow cannot say so any more is complete all the same, and the process says failed.
    """
    home = own_prefect | {"PREFECT_HOME": str(tmp_path / "prefect home"), "PREFECT_CLIENT_MAX_RETRIES": "1"}
    lake = tmp_path / "lake"
    with server_of(home) as (server, group):
        process = started(tmp_path, server.environment, *CLI, "run", str(audit_file(tmp_path, corpus)))
        until(lambda: shards_of(lake) >= 3, "three shards")
        os.killpg(group, signal.SIGKILL)
        code = process.wait()
    seen = read(lake)
    assert (code, seen["status"]) in [(3, "completed"), (1, "completed"), (1, "failed"), (1, "interrupted")]
    with server_of(home) as (server, _):  # on the database that was left
        if seen["status"] == "completed":
            assert maps_of(lake) == undisturbed
        else:
            assert resumed(tmp_path, server.environment, seen["run_id"]) == undisturbed
