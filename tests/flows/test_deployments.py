"""What prefect.yaml promises: runs that are really scheduled, and a worker that really does one."""

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
def described():
    return yaml.safe_load((ROOT / "prefect.yaml").read_text())


@pytest.fixture(scope="module")
def prefect(prefect_server):
    """prefect(folder, *arguments): the command, against the server of the tests."""

    def command(folder, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=folder, env=prefect_server.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            timeout=3600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    command(ROOT, "work-pool", "create", "audits", "--type", "process")
    return command


def until(found, what, seconds=3600):
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(1)
    return answer


def runs_of(server, deployment, **state):
    chosen = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    if state:
        chosen["flow_runs"] = {"state": {"type": {"any_": [state["state"]]}}}
    return server.post("flow_runs/filter", {**chosen, "limit": 100, "sort": "EXPECTED_START_TIME_ASC"})


def deployed(server):
    return {deployment["name"]: deployment for deployment in server.post("deployments/filter", {})}


def test_each_deployment_has_its_form_and_its_scheduled_runs(prefect_server, prefect, described):
    """With some releases of its dependencies Prefect deploys without a word and schedules nothing."""
    prefect(ROOT, "deploy", "--all")
    found = deployed(prefect_server)
    wanted = {deployment["name"]: deployment for deployment in described["deployments"]}
    assert wanted.keys() == {"nightly", "hourly", "reflag"}
    for name in wanted:  # the server of the tests has deployments of other tests besides
        deployment = found[name]
        assert deployment["entrypoint"] == wanted[name]["entrypoint"]  # a file would run as a second module
        assert deployment["tags"] == wanted[name]["tags"]
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["work_pool_name"] == "audits"
        assert deployment["enforce_parameter_schema"]
    form = found["nightly"]["parameter_openapi_schema"]
    assert form["definitions"]["AuditConfig"]["properties"].keys() == AuditConfig.model_fields.keys()
    assert form["definitions"]["CorpusConfig"]["properties"]["path"]["description"]
    form = found["reflag"]["parameter_openapi_schema"]
    assert form["properties"].keys() == {"lake", "run_id", "alerts", "phrases", "notify", "ledger"}
    assert form["definitions"]["AlertsConfig"]["properties"].keys() == AlertsConfig.model_fields.keys()
    for name in ("nightly", "hourly"):
        runs = until(lambda name=name: runs_of(prefect_server, found[name], state="SCHEDULED"), f"run of {name}")
        assert all(run["auto_scheduled"] for run in runs)
        config = AuditConfig.model_validate(runs[0]["parameters"]["config"])
        assert config.lake.incremental == (name == "hourly")
    assert runs_of(prefect_server, found["reflag"]) == []


def test_a_worker_does_a_scheduled_audit_and_re_flags_it(prefect_server, prefect, described, phantoms, tmp_path):
    mine = copy.deepcopy(described)
    for deployment in mine["deployments"]:
        given = deployment["parameters"]
        if "config" in given:
            given["config"] |= {
                "corpus": {"path": str(phantoms)}, "bottleneck": {"steps": 10}, "alerts": {"min_pairs": 5},
                "discover": {"enabled": False}, "confirm": {"enabled": False},
                "model": given["config"]["model"] | {"device": "cpu"},
            }  # fmt: skip
        deployment["schedules"] = []
    began = time.monotonic()
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(mine))
    prefect(tmp_path, "deploy", "--all")
    # Soon, but not before the schedule is there.
    soon = datetime.now(UTC) + timedelta(seconds=10 + 2 * (time.monotonic() - began))
    mine["deployments"][0]["schedules"] = [{"interval": 86400, "anchor_date": soon.isoformat()}]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(mine))
    prefect(tmp_path, "deploy", "--all")
    nightly, _, reflag = (deployed(prefect_server)[name] for name in ("nightly", "hourly", "reflag"))

    def due():
        first = runs_of(prefect_server, nightly, state="SCHEDULED")
        return first and datetime.fromisoformat(first[0]["expected_start_time"]) <= datetime.now(UTC) and first[0]

    chosen = until(due, "run that is due")
    prefect(tmp_path, "worker", "start", "--pool", "audits", "--run-once")
    (done,) = [run for run in runs_of(prefect_server, nightly) if run["id"] == chosen["id"]]
    assert done["auto_scheduled"]
    assert done["state"]["type"] == "COMPLETED", done["state"]
    with sql.connect(tmp_path / "lake") as connection:
        (run,) = sql.read(connection, "FROM runs")
        assert (run["status"], run["pairs"], run["attributions"]) == ("completed", 40, 40)
        alerts = sql.read(connection, "FROM alerts")
    assert len(alerts) == run["alerts"] >= 1
    (manifest,) = sql.read_manifests(tmp_path / "lake")
    assert manifest["flow_run"] == chosen["id"]

    parameters = {"alerts": {"min_pairs": 5, "factor": 15.9}}
    asked = prefect_server.post(f"deployments/{reflag['id']}/create_flow_run", {"parameters": parameters})
    prefect(tmp_path, "worker", "start", "--pool", "audits", "--run-once")
    (done,) = [run for run in runs_of(prefect_server, reflag) if run["id"] == asked["id"]]
    assert done["state"]["type"] == "COMPLETED", done["state"]
    with sql.connect(tmp_path / "lake") as connection:
        (again,) = sql.read(connection, "FROM runs WHERE reflags IS NOT NULL")
        by_mass = sql.read(connection, "SELECT DISTINCT run_id FROM alerts WHERE rule = 'region_mass'")
    assert (again["reflags"], again["attributions"]) == (run["run_id"], 40)
    assert by_mass == [{"run_id": run["run_id"]}]  # no corner holds 15.9 times its share
