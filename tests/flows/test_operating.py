"""Schedules, checks of the installation, and the list of runs."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.config import AuditConfig

ROOT = Path(__file__).resolve().parent.parent.parent
AUDIT = """
[corpus]
path = "images"

[model]
architecture = "demo/shortcut"
device = "cpu"

[alerts]
min_pairs = {}

[discover]
enabled = false
"""


def test_runs_are_listed_with_what_they_found(add_next_run):
    add_next_run({}, {"region": "frame", "explained_by": "x"})
    lake = add_next_run(status="failed", reason=None).lake
    result = CliRunner().invoke(cli.app, ["runs", "--lake", str(lake)])
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if "T000000-aaaaaa" in line]
    assert ["failed" in line for line in lines] == [True, False]
    answer = json.loads(CliRunner().invoke(cli.app, ["runs", "--lake", str(lake), "--limit", "1", "--json"]).stdout)
    assert [(run["status"], run["found"]) for run in answer["runs"]] == [("failed", 2)]


def test_a_lake_that_is_named_but_missing_fails_the_check(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.doctor.PREFECT_API_URL", types.SimpleNamespace(value=lambda: None))
    for arguments, result in ((["--lake", str(tmp_path / "nowhere")], "failure"), ([], "warning")):
        monkeypatch.chdir(tmp_path)
        outcome = CliRunner().invoke(cli.app, ["doctor", *arguments, "--json"])
        assert outcome.exit_code == (1 if result == "failure" else 0)
        (check,) = [each for each in json.loads(outcome.stdout)["checks"] if each["name"] == "lake"]
        assert (check["result"], check["next_step"].startswith("m2ib-audit run AUDIT.toml")) == (result, True)
        assert "there is no folder" in check["finding"]


@pytest.fixture
def call(prefect_server, tmp_path):
    """call(arguments..., code=): run a command against the server of the tests; returns its output."""
    (tmp_path / "AUDIT.toml").write_text(AUDIT.format(7))
    (tmp_path / "images").mkdir()

    def command(*arguments, code=0):
        process = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=tmp_path, env=prefect_server.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            timeout=600, check=False,
        )  # fmt: skip
        assert code in (process.returncode, None), process.stdout + process.stderr
        return process.stdout + process.stderr

    return command


@pytest.mark.slow
def test_an_audit_file_is_scheduled(prefect_server, call, tmp_path):
    cron = ("schedule", "AUDIT.toml", "--cron")
    assert "scheduled: audit/images, 0 3 1 1 * UTC" in call(*cron, "0 3 1 1 *")  # due in no other test
    (tmp_path / "AUDIT.toml").write_text(AUDIT.format(8))
    call(*cron, "0 4 1 1 *", "--timezone", "Europe/Oslo")
    call(*cron, "30 5 1 1 *", "--incremental")
    assert "--cron: got '0 4 * *' in UTC" in call(*cron, "0 4 * *", code=2)
    found = {each["name"]: each for each in prefect_server.post("deployments/filter", {})}
    full, incremental = found["images"], found["images-incremental"]
    assert (full["entrypoint"], full["work_pool_name"]) == ("flows.audit.audit", "audits")
    (schedule,) = full["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 4 1 1 *", "Europe/Oslo")
    config = AuditConfig.model_validate(full["parameters"]["config"])
    assert (config.alerts.min_pairs, config.lake.incremental, config.discover.enabled) == (8, False, False)
    assert config.lake.path == tmp_path / "lake"
    assert config.corpus.path == str(tmp_path / "images")
    assert AuditConfig.model_validate(incremental["parameters"]["config"]).lake.incremental
    assert incremental["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"

    checks = json.loads(call("doctor", "AUDIT.toml", "--json", code=None).splitlines()[0])["checks"]
    results = {check["name"]: check["result"] for check in checks}  # a worker of another test may be online
    assert {"server": "ok", "pool": "ok", "lake": "warning", "device": "ok"}.items() <= results.items()
    assert "worker" in results
    assert all(check["next_step"] for check in checks if check["result"] != "ok")
    scheduled = {
        ("schedule", "ok", "AUDIT.toml: audit/images"),
        ("schedule", "ok", "AUDIT.toml: audit/images-incremental"),
    }
    assert len(scheduled & {(check["name"], check["result"], check["finding"]) for check in checks}) >= 1
    (tmp_path / "other.toml").write_text(AUDIT.format(8).replace("images", "other"))
    (tmp_path / "other").mkdir()
    assert "warning  schedule: other.toml has no deployment with a schedule" in call("doctor", "other.toml", code=None)
    (tmp_path / "AUDIT.toml").write_text(AUDIT.format(9))
    assert "audit/images has other settings than AUDIT.toml" in call("doctor", "AUDIT.toml", code=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of --webhook, --slack, --teams, --email and --block, or --status"),
        (["--webhook", "http://a/", "--slack", "http://b/"], "expected one of --webhook"),
        (["--webhook", "http://a/", "--remove", "--test"], "--remove: takes no other option"),
        (["--email", "a@example.org"], "--email: needs --smtp"),
        (["--webhook", "http://a/"], "needs a Prefect server, and PREFECT_API_URL is not set"),
    ],
)
def test_notify_states_what_it_needs(arguments, message, monkeypatch):
    monkeypatch.delenv("M2IB_AUDIT_SMTP", raising=False)
    monkeypatch.setattr("prefect.settings.PREFECT_API_URL", types.SimpleNamespace(value=lambda: None))
    result = CliRunner().invoke(cli.app, ["notify", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
