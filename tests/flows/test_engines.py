"""Shards on a Ray cluster of two worker processes, under a Prefect server, with the lake on S3."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect import flow, task

import sql
import stores
from flows import engines
from flows.config import RunConfig, parse
from flows.engines import Engine, check_engine
from stores import lake_root
from tasks.errors import BadInputError
from tasks.inputs import SHARDS_IN_FLIGHT
from tasks.records import Shard, ShardResult
from tasks.settings import CorpusConfig, Inputs, ModelConfig

ROOT = Path(__file__).resolve().parent.parent.parent
DIFFERS_PER_RUN = {"run_id"}

# An audit whose shard 1 always terminates its worker process.
DEADLY = """
import os, sys
from pathlib import Path
from prefect import task
from flows import audit as flow
from flows import fan_out
from flows.config import load
from tasks.attribute import attribute_pairs
from tasks.errors import ShardsError

@task
def deadly(run, shard, inputs, plan):
    if shard.index == 1:
        os._exit(1)
    return attribute_pairs(run, shard, inputs, plan)

fan_out.attribute = deadly
try:
    flow.audit(load(Path(sys.argv[1])))
except ShardsError as error:
    print(error)
"""

# An audit whose own process reads no image. Workers import this program anew.
READ_ELSEWHERE = """
from corpora import Corpus
from flows.cli import main
from tasks import corpus_parts

def refuse(*_):
    raise RuntimeError("the process of the flow reads images")

corpus_parts.ROWS_PER_PART = 7
Corpus.read = Corpus.pairs = refuse
main()
"""


def make_config(**run):
    return parse({"corpus": {"path": "x"}, "model": {"architecture": "y"}, "run": run}, "test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ray_address": "auto"}, "ray_address: got 'auto' with engine = \"local\""),
        ({"gpus_per_task": 1}, 'gpus_per_task: got 1.0 with engine = "local"'),
        ({"engine": "ray", "ray_address": "ray://head:10001"}, "run.ray_address"),
        ({"engine": "ray", "ray_address": "head"}, "run.ray_address"),
        ({"engine": "ray", "gpus_per_task": 2}, "run.gpus_per_task"),
        ({"engine": "dask"}, "run.engine"),
    ],
)
def test_settings_that_contradict_each_other_are_bad_input(settings, message):
    with pytest.raises(BadInputError, match=re.escape(message)):
        make_config(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 3])
def test_each_device_has_shards_in_flight(prefect_harness, devices):
    together = threading.Barrier(SHARDS_IN_FLIGHT * devices)

    @task
    def work(number):
        together.wait(timeout=60)
        return number

    @flow(persist_result=False)
    def stage():
        with engines.start_engine(RunConfig(), None, [None] * devices) as engine:
            return [future.result() for future in engine.map(work, number=list(range(together.parties)))]

    assert stage() == list(range(together.parties))


def test_engine_does_not_change_the_digest(settings, tmp_path):
    local, ray = (settings(tmp_path, tmp_path / "lake", run=run) for run in ({}, {"engine": "ray", "gpus_per_task": 0}))
    assert local.resolve_settings() == ray.resolve_settings()


def test_message_without_the_extra_names_the_package_to_install(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    check_engine(RunConfig())
    with pytest.raises(BadInputError, match=r"without the packages ray, prefect_ray.*m2ib-audit\[ray\]"):
        check_engine(RunConfig(engine="ray"))


def test_ray_without_a_server_is_bad_input(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setattr(engines, "PREFECT_API_URL", SimpleNamespace(value=lambda: None))
    with pytest.raises(BadInputError, match=r"without a Prefect server.*set PREFECT_API_URL"):
        check_engine(RunConfig(engine="ray"))


def test_missing_cluster_is_bad_input():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # but does not listen
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        expected = pytest.raises(BadInputError, match=f"no Ray cluster at {address}.*ray start --head")
        with expected, engines._connect_ray(None, address):
            pass


def make_cluster(*gpus):
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": count}} for count in gpus]
    return SimpleNamespace(nodes=lambda: nodes, remote=lambda **_: lambda function: function)


@pytest.mark.parametrize(
    ("nodes", "requested", "gpus"), [((0, 4), None, 1), ((0, 4), 0, 0), ((0,), None, 0), ((1,), 0.5, 0.5)]
)
def test_gpus_per_task(nodes, requested, gpus):
    assert engines._gpus(make_cluster(*nodes), requested) == gpus


def test_gpus_that_no_node_has_are_bad_input(hand_written_run):
    inputs = Inputs(corpus=CorpusConfig(path="c"), model=ModelConfig(architecture="x"))
    with pytest.raises(BadInputError, match=r"no node has a free CPU and 1 GPUs; .* set gpus_per_task to 0"):
        engines._check_nodes(make_cluster(0, 0), 1, hand_written_run, inputs)


def test_lost_worker_is_an_outcome_but_other_errors_are_raised():
    class LostError(Exception):
        pass

    def raise_in_result(error):
        def result(raise_on_failure):
            raise error

        return SimpleNamespace(result=result)

    engine = Engine([], lost=(LostError,))
    assert isinstance(engine.outcome(raise_in_result(LostError())), LostError)
    with pytest.raises(KeyboardInterrupt):
        engine.outcome(raise_in_result(KeyboardInterrupt()))


def test_result_contains_its_process_which_equality_ignores():
    result = ShardResult(Shard(0, 1), "x", 1, 0, reused=False)
    assert str(os.getpid()) in result.by
    assert result == ShardResult(Shard(0, 1), "x", 1, 0, reused=False, by="process 1 on elsewhere")


def test_host_reports_missing_requirements(shared_phantom_audit, monkeypatch):
    run, config = shared_phantom_audit.run, shared_phantom_audit.config
    record = run.read_manifest()
    expected = {key: record[key] for key in ("code_version", "environment", "model_digest")}
    (model,) = config.models()
    monkeypatch.setattr(engines.httpx, "get", lambda *_, **__: None)
    assert engines.find_faults(run, config.corpus, model, expected, "http://api") == []
    # Another host: its folder of that name is empty, its code is older, and it cannot reach the server of the flow.
    other_host = type(run)(run.lake.parent / "elsewhere", run.run_id)

    def refuse_connection(*_, **__):
        raise engines.httpx.ConnectError("refused")

    monkeypatch.setattr(engines.httpx, "get", refuse_connection)
    lake, code, server = engines.find_faults(
        other_host, config.corpus, model, {**expected, "code_version": "older"}, "http://127.0.0.1:1/api"
    )
    assert "a folder that all hosts share under the same path, or in object storage" in lake
    assert "expected older as on the host of the flow" in code
    assert "no Prefect server answers at http://127.0.0.1:1/api" in server


@pytest.fixture(scope="module")
def environment(prefect_server, s3, tmp_path_factory):
    """The environment of the cluster and of the audits."""
    return (
        prefect_server.environment
        | {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
        | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    )


@pytest.fixture(scope="module")
def ray_cluster(environment, tmp_path_factory):
    """The address of a cluster of two workers on loopback; all its processes end with the first one."""
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    log = tmp_path_factory.mktemp("ray") / "log"
    command = [
        sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block",
        "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2", "--num-gpus=0", "--include-dashboard=false",
        f"--object-store-memory={100 * 2**20}", "--disable-usage-stats",
    ]  # fmt: skip
    for _ in range(4):  # Ray gives a node half a minute to start, which on a busy machine may be too short
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        while "Ray runtime started" not in log.read_text() and process.poll() is None:
            time.sleep(0.5)
        if process.poll() is None:
            break
    assert process.poll() is None, log.read_text()
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def write_config(tmp_path, phantoms, s3):
    """write_config(name, **run): write an AUDIT.toml of a quick audit; returns its path and its lake on S3."""

    def write(name, **run):
        lake = f"s3://{s3.bucket}/{name}"
        sections = {
            "corpus": {"path": str(phantoms)}, "model": {"architecture": "demo/shortcut", "device": "cpu"},
            "bottleneck": {"steps": 2, "calibration_pairs": 16}, "discover": {"enabled": False},
            "confirm": {"enabled": False}, "lake": {"path": lake, "shard_size": 4}, "run": run,
        }  # fmt: skip
        lines = []
        for section, values in sections.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        path = tmp_path / f"{name}.toml"
        path.write_text("\n".join(lines))
        return path, lake_root(lake)

    return write


def run_program(code, environment, folder, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=folder, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def run_audit(environment, folder, *arguments, program="from flows.cli import main; main()"):
    return run_program(program, environment, folder, "run", *arguments, "--verbose")


def read_rows(lake, table):
    with sql.connect(lake) as connection:
        rows = sql.read(connection, f"FROM {table} ORDER BY pair_id")
    return [json.dumps({key: row[key] for key in row if key not in DIFFERS_PER_RUN}, default=str) for row in rows]


def read_statistics(lake):
    (record,) = sql.read_manifests(lake)
    return stores.read_bytes(lake / "runs" / record["run_id"] / "calibration.safetensors")


@pytest.mark.slow
def test_maps_of_a_cluster_equal_those_of_a_local_run(environment, ray_cluster, write_config, tmp_path):
    local, local_lake = write_config("local")
    remote, remote_lake = write_config("ray", engine="ray", ray_address=ray_cluster, gpus_per_task=0)
    programs = {local: {}, remote: {"program": READ_ELSEWHERE}}
    for path, program in programs.items():
        process = run_audit(environment, tmp_path, path, **program)
        assert process.returncode in (0, 3), process.stderr
    workers = set(re.findall(r"shard \d+: \d+ attributions by (process \d+ on \S+)", process.stderr))
    assert len(workers) >= 2, process.stderr
    for table in ("pairs", "attributions"):
        assert len(read_rows(local_lake, table)) == 40
        assert read_rows(local_lake, table) == read_rows(remote_lake, table)
    (local_record,), (remote_record,) = sql.read_manifests(local_lake), sql.read_manifests(remote_lake)
    assert remote_record["corpus_digest"] == local_record["corpus_digest"]
    assert read_statistics(local_lake) == read_statistics(remote_lake)


@pytest.mark.slow
def test_shard_that_kills_its_worker_is_quarantined(environment, ray_cluster, write_config, tmp_path):
    path, lake = write_config("deadly", engine="ray", ray_address=ray_cluster)
    process = run_program(DEADLY, environment, tmp_path, path)
    assert "1 of 10 shards failed: shard 1 (4 pairs): WorkerCrashedError" in process.stdout, process.stderr
    (record,) = sql.read_manifests(lake)
    assert record["status"] == "completed_with_errors"
    assert (record["counts"]["attributions"], record["counts"]["errors"]) == (36, 4)


@pytest.mark.slow
def test_ray_without_a_prefect_server_starts_nothing(environment, write_config, tmp_path):
    """No run begins and no cluster is started."""
    path, _ = write_config("alone", engine="ray")
    without_server = {key: value for key, value in environment.items() if key != "PREFECT_API_URL"}
    process = run_audit(without_server, tmp_path, path)
    assert process.returncode == 2, process.stderr
    assert 'engine: got "ray" without a Prefect server' in process.stderr
