"""The deployments of prefect.yaml: runs are scheduled, and a worker runs one."""

import copy
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

import sql
from flows.config import AuditConfig
from tasks.settings import AlertsConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def definitions():
    return yaml.safe_load((ROOT / "prefect.yaml").read_text())


@pytest.fixture(scope="module")
def prefect(prefect_server):
    """prefect(folder, *arguments): the command, against the server of the tests."""

    def command(folder, *arguments):
        process = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=folder, env=prefect_server.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            timeout=3600, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout + process.stderr

    command(ROOT, "work-pool", "create", "audits", "--type", "process", "--overwrite")
    return command


def wait_until(condition, description, seconds=3600):
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"no {description}"
        time.sleep(1)
    return answer


def list_flow_runs(server, deployment, **state):
    filters = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    if state:
        filters["flow_runs"] = {"state": {"type": {"any_": [state["state"]]}}}
    return server.post("flow_runs/filter", {**filters, "limit": 100, "sort": "EXPECTED_START_TIME_ASC"})


def list_deployments(server):
    return {deployment["name"]: deployment for deployment in server.post("deployments/filter", {})}


def test_each_deployment_has_its_form_and_scheduled_runs(prefect_server, prefect, definitions):
    """With some releases of its dependencies, Prefect deploys without an error and schedules nothing."""
    prefect(ROOT, "deploy", "--all")
    deployments = list_deployments(prefect_server)
    expected = {deployment["name"]: deployment for deployment in definitions["deployments"]}
    assert expected.keys() == {"nightly", "hourly", "reflag"}
    for name in expected:  # the server of the tests also has deployments of other tests
        deployment = deployments[name]
        assert deployment["entrypoint"] == expected[name]["entrypoint"]  # a file would run as a second module
        assert deployment["tags"] == expected[name]["tags"]
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["work_pool_name"] == "audits"
        assert deployment["enforce_parameter_schema"]
    form = deployments["nightly"]["parameter_openapi_schema"]
    assert form["definitions"]["AuditConfig"]["properties"].keys() == AuditConfig.model_fields.keys()
    assert form["definitions"]["CorpusConfig"]["properties"]["path"]["description"]
    form = deployments["reflag"]["parameter_openapi_schema"]
    assert form["properties"].keys() == {"lake", "run_id", "alerts", "phrases", "notify", "ledger"}
    assert form["definitions"]["AlertsConfig"]["properties"].keys() == {
        field.alias or name for name, field in AlertsConfig.model_fields.items()
    }
    runs = wait_until(
        lambda: list_flow_runs(prefect_server, deployments["nightly"], state="SCHEDULED"), "run of nightly"
    )
    assert all(run["auto_scheduled"] for run in runs)
    configs = [AuditConfig.model_validate(deployments[name]["parameters"]["config"]) for name in ("nightly", "hourly")]
    assert [config.lake.incremental for config in configs] == [False, True]
    for name in ("hourly", "reflag"):  # the hourly one is paused
        assert list_flow_runs(prefect_server, deployments[name]) == []


def test_worker_runs_a_scheduled_audit_and_re_flags_it(prefect_server, prefect, definitions, phantoms, tmp_path):
    changed = copy.deepcopy(definitions)
    for deployment in changed["deployments"]:
        parameters = deployment["parameters"]
        if "config" in parameters:
            parameters["config"] |= {
                "corpus": {"path": str(phantoms)}, "bottleneck": {"steps": 10}, "alerts": {"min_pairs": 5},
                "discover": {"enabled": False}, "confirm": {"enabled": False},
                "model": parameters["config"]["model"] | {"device": "cpu"},
            }  # fmt: skip
        deployment["schedules"] = []
    start = time.monotonic()
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(changed))
    prefect(tmp_path, "deploy", "--all")
    # Soon, but not before the schedule is deployed.
    due_time = datetime.now(UTC) + timedelta(seconds=10 + 2 * (time.monotonic() - start))
    changed["deployments"][0]["schedules"] = [{"interval": 86400, "anchor_date": due_time.isoformat()}]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(changed))
    prefect(tmp_path, "deploy", "--all")
    nightly, _, reflag = (list_deployments(prefect_server)[name] for name in ("nightly", "hourly", "reflag"))

    def due():
        first = list_flow_runs(prefect_server, nightly, state="SCHEDULED")
        return first and datetime.fromisoformat(first[0]["expected_start_time"]) <= datetime.now(UTC) and first[0]

    scheduled = wait_until(due, "run that is due")
    log = prefect(tmp_path, "worker", "start", "--pool", "audits", "--run-once")
    assert " completed: 40 of 40 pairs attributed, 0 error rows, " in log
    last_lines = "\n".join([line for line in log.splitlines() if "Flow run" in line][-4:])
    assert " - report: " in last_lines
    assert " - alerts: m2ib-audit alerts 20" in last_lines
    assert "NEW (suspected): attribution concentrates on " in log
    assert "leaked" not in log  # DuckDB's binding would report objects that outlive the interpreter
    (flow_run,) = [run for run in list_flow_runs(prefect_server, nightly) if run["id"] == scheduled["id"]]
    assert flow_run["auto_scheduled"]
    assert flow_run["state"]["type"] == "COMPLETED", flow_run["state"]
    with sql.connect(tmp_path / "lake") as connection:
        (run,) = sql.read(connection, "FROM runs")
        assert (run["status"], run["pairs"], run["attributions"]) == ("completed", 40, 40)
        alerts = sql.read(connection, "FROM alerts")
    assert len(alerts) == run["alerts"] >= 1
    (manifest,) = sql.read_manifests(tmp_path / "lake")
    assert manifest["flow_run"] == scheduled["id"]

    parameters = {"alerts": {"min_pairs": 5, "factor": 15.9}}
    requested = prefect_server.post(f"deployments/{reflag['id']}/create_flow_run", {"parameters": parameters})
    prefect(tmp_path, "worker", "start", "--pool", "audits", "--run-once")
    (flow_run,) = [run for run in list_flow_runs(prefect_server, reflag) if run["id"] == requested["id"]]
    assert flow_run["state"]["type"] == "COMPLETED", flow_run["state"]
    with sql.connect(tmp_path / "lake") as connection:
        (reflagged_run,) = sql.read(connection, "FROM runs WHERE reflags IS NOT NULL")
        by_mass = sql.read(connection, "SELECT DISTINCT run_id FROM alerts WHERE rule = 'region_mass'")
    assert (reflagged_run["reflags"], reflagged_run["attributions"]) == (run["run_id"], 40)
    assert by_mass == [{"run_id": run["run_id"]}]  # no corner has 15.9 times its share
