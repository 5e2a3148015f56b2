"""kill -9 under Prefect: of the process of the flow, of a worker with its child processes, and of the server."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import sql
from sql.tables import TABLES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
CLI = [sys.executable, "-c", "from flows.cli import main; main()"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    from demo.corpus import generate

    return generate(tmp_path_factory.mktemp("corpus"), pairs=24)


def make_config(corpus, lake):
    return {
        "corpus": {"path": str(corpus)},
        "model": {"architecture": "demo/shortcut", "device": "cpu", "batch_size": 4},
        "bottleneck": {"steps": 8, "calibration_pairs": 8},
        "lake": {"path": str(lake), "shard_size": 2},
        "alerts": {"min_pairs": 4, "factor": 1.01},
        "discover": {"enabled": False},
        "confirm": {"enabled": False},
    }


def write_config(folder, corpus):
    lines = []
    for section, values in make_config(corpus, "lake").items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path = folder / "AUDIT.toml"
    path.write_text("\n".join(lines))
    return path


def start_process(folder, environment, *arguments):
    """Start a program in a separate process group, which `kill` ends with all its children."""
    with (folder / "errors").open("ab") as errors:
        return subprocess.Popen(
            arguments, cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
            stderr=errors, start_new_session=True,
        )  # fmt: skip


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(condition, description, seconds=3600):
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"no {description}"
        time.sleep(0.2)
    return answer


def read_run(lake):
    """Read the whole lake, which must succeed at any moment; returns its run, or None."""
    if not lake.is_dir():
        return None
    with sql.connect(lake) as connection:
        rows = sql.read(connection, "SELECT run_id, status FROM runs")
        for table in TABLES:
            sql.read(connection, f"SELECT count(*) FROM {table}")
        return rows[0] if rows else None


def count_shards(lake):
    return len(list(lake.glob("runs/*/attributions/*.parquet")))


def read_maps(lake):
    with sql.connect(lake) as connection:
        return sql.read(connection, "SELECT pair_id, image_map, text_map FROM attributions ORDER BY pair_id")


@pytest.fixture(scope="module")
def uninterrupted_maps(corpus, prefect_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start_process(folder, prefect_server.environment, *CLI, "run", str(write_config(folder, corpus)))
    assert process.wait() == 3, (folder / "errors").read_text()
    maps = read_maps(folder / "lake")
    assert len(maps) == 24
    return maps


def resume(folder, environment, run_id):
    process = start_process(folder, environment, *CLI, "run", "AUDIT.toml", "--resume", run_id)
    assert process.wait() == 3, (folder / "errors").read_text()
    assert read_run(folder / "lake")["status"] == "completed"
    return read_maps(folder / "lake")


@pytest.mark.parametrize("shards", [0, 2, 4, 6, 7, 9])
def test_killed_flow_is_resumed(corpus, prefect_server, uninterrupted_maps, tmp_path, shards):
    """The process is killed a moment after this number of the twelve shards is stored."""
    lake = tmp_path / "lake"
    process = start_process(tmp_path, prefect_server.environment, *CLI, "run", str(write_config(tmp_path, corpus)))
    wait_until(lambda: read_run(lake) and count_shards(lake) >= shards, f"{shards} shards")
    time.sleep(random.Random(shards).uniform(0, 2))
    kill(process)
    run = read_run(lake)
    assert run["status"] == "running"
    assert resume(tmp_path, prefect_server.environment, run["run_id"]) == uninterrupted_maps


def test_terminated_process_marks_the_run_as_interrupted(corpus, prefect_server, uninterrupted_maps, tmp_path):
    lake = tmp_path / "lake"
    process = start_process(tmp_path, prefect_server.environment, *CLI, "run", str(write_config(tmp_path, corpus)))
    wait_until(lambda: count_shards(lake) >= 1, "shard")
    process.send_signal(signal.SIGTERM)
    process.wait()
    run = read_run(lake)
    assert run["status"] == "interrupted"
    assert resume(tmp_path, prefect_server.environment, run["run_id"]) == uninterrupted_maps


@pytest.fixture
def without_server(prefect_environment, tmp_path):
    """An environment whose commands start a temporary server, with a database of the test's own."""
    return prefect_environment | {"PREFECT_HOME": str(tmp_path / "prefect home")}


def test_run_of_an_interrupted_process_group_is_recorded(
    corpus, prefect_server, without_server, uninterrupted_maps, tmp_path
):
    lake = tmp_path / "lake"
    process = start_process(tmp_path, without_server, *CLI, "run", str(write_config(tmp_path, corpus)))
    wait_until(lambda: count_shards(lake) >= 1, "shard")
    (server,) = list_children(process.pid)
    for pid in (process.pid, server):  # a service manager signals every process, whatever its group
        os.kill(pid, signal.SIGTERM)
    assert process.wait() == 130
    run = read_run(lake)
    assert run["status"] == "interrupted"
    errors = (tmp_path / "errors").read_text()
    next_step = f"resume with: m2ib-audit run {tmp_path}/AUDIT.toml --resume {run['run_id']}"
    assert errors.splitlines()[-1] == f"m2ib-audit: interrupted; {next_step}"
    assert re.search(f"interrupted: finishing [1-8] tasks? in flight; .*; {next_step}\n", errors)
    assert "Traceback" not in errors
    assert has_ended(server)
    assert resume(tmp_path, prefect_server.environment, run["run_id"]) == uninterrupted_maps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_the_process_at_once(corpus, without_server, uninterrupted_maps, tmp_path, number):
    """Shards in flight are lost, but the run can be resumed."""
    lake = tmp_path / "lake"
    process = start_process(tmp_path, without_server, *CLI, "run", str(write_config(tmp_path, corpus)))
    wait_until(lambda: count_shards(lake) >= 1, "shard")
    process.send_signal(number)
    wait_until(lambda: "in flight" in (tmp_path / "errors").read_text(), "message")
    process.send_signal(number)
    assert process.wait(timeout=2) == 130
    run = read_run(lake)
    assert f"stopped at once; resume with: m2ib-audit run {tmp_path}/AUDIT.toml" in (tmp_path / "errors").read_text()
    assert resume(tmp_path, without_server, run["run_id"]) == uninterrupted_maps


def test_temporary_server_ends_with_its_killed_command(corpus, without_server, tmp_path):
    process = start_process(tmp_path, without_server, *CLI, "run", str(write_config(tmp_path, corpus)))
    wait_until(lambda: read_run(tmp_path / "lake"), "run")
    (server,) = list_children(process.pid)
    os.kill(server, signal.SIGTERM)
    time.sleep(1)
    assert not has_ended(server)
    process.kill()
    process.wait()
    wait_until(lambda: has_ended(server), "end of the server", seconds=60)


def test_second_process_is_rejected_while_the_run_is_locked(corpus, prefect_server, tmp_path):
    lake = tmp_path / "lake"
    process = start_process(tmp_path, prefect_server.environment, *CLI, "run", str(write_config(tmp_path, corpus)))
    wait_until(lambda: count_shards(lake) >= 1, "shard")
    process.send_signal(signal.SIGSTOP)  # otherwise it may end before the second one begins
    run_id = read_run(lake)["run_id"]
    second = start_process(tmp_path, prefect_server.environment, *CLI, "run", "AUDIT.toml", "--resume", run_id)
    assert second.wait() == 2
    assert f"run {run_id} is locked by process {process.pid} on" in (tmp_path / "errors").read_text()
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 3


def test_retry_of_prefect_resumes_the_run_of_a_killed_worker(corpus, prefect_server, uninterrupted_maps, tmp_path):
    lake = tmp_path / "lake"
    environment = prefect_server.environment
    definition = {
        "name": "crash",
        "deployments": [
            {
                "name": "crashing", "entrypoint": "flows.audit.audit", "work_pool": {"name": "crashes"},
                "parameters": {"config": make_config(corpus, "lake")},
            }
        ],
    }  # fmt: skip
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(definition))
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    for arguments in (["work-pool", "create", "crashes", "--type", "process"], ["deploy", "--all"]):
        assert start_process(tmp_path, environment, *prefect, *arguments).wait() == 0, (tmp_path / "errors").read_text()
    deployments = prefect_server.post("deployments/filter", {"deployments": {"name": {"any_": ["crashing"]}}})
    flow_run = prefect_server.post(f"deployments/{deployments[0]['id']}/create_flow_run", {})
    worker = [*prefect, "worker", "start", "--pool", "crashes", "--run-once"]
    process = start_process(tmp_path, environment, *worker)
    wait_until(lambda: count_shards(lake) >= 3, "three shards")
    for child in list_children(process.pid):
        os.kill(child, signal.SIGKILL)
    kill(process)
    run = read_run(lake)
    assert run["status"] == "running"
    # As the button "Retry" of the user interface does.
    state = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    prefect_server.post(f"flow_runs/{flow_run['id']}/set_state", state)
    assert start_process(tmp_path, environment, *worker).wait() == 0, (tmp_path / "errors").read_text()
    assert read_run(lake) == {"run_id": run["run_id"], "status": "completed"}
    assert read_maps(lake) == uninterrupted_maps
    (flow_run_after,) = prefect_server.post("flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run["id"]]}}})
    assert flow_run_after["state"]["type"] == "COMPLETED"


def list_children(pid):
    """Return all child processes of a process, recursively."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    if not file.is_file():
        pytest.skip("NOT TESTED: a killed worker; /proc does not list its children")
    direct = [int(child) for child in file.read_text().split()]
    return [*direct, *(grandchild for child in direct for grandchild in list_children(child))]


def has_ended(pid):
    """Return whether a process has ended, even if no parent has waited for it."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.is_file() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_run_can_be_resumed_after_its_server_was_killed(
    corpus, prefect_environment, uninterrupted_maps, tmp_path, start_server
):
    """The server of an audit is killed: the run fails or continues, and can be completed with another server.

    A run can be complete although its flow could not report this to the server any more; then the process fails.
    """
    environment = prefect_environment | {
        "PREFECT_HOME": str(tmp_path / "prefect home"),
        "PREFECT_CLIENT_MAX_RETRIES": "1",
    }
    lake = tmp_path / "lake"
    with start_server(environment) as (server, group):
        process = start_process(tmp_path, server.environment, *CLI, "run", str(write_config(tmp_path, corpus)))
        wait_until(lambda: count_shards(lake) >= 3, "three shards")
        os.killpg(group, signal.SIGKILL)
        code = process.wait()
    run = read_run(lake)
    assert (code, run["status"]) in [(3, "completed"), (1, "completed"), (1, "failed"), (1, "interrupted")]
    with start_server(environment) as (server, _):  # with the database of the first server
        if run["status"] == "completed":
            assert read_maps(lake) == uninterrupted_maps
        else:
            assert resume(tmp_path, server.environment, run["run_id"]) == uninterrupted_maps
