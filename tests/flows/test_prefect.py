"""The command line in separate processes: exit codes of an audit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def run_program(tmp_path):
    """run_program(environment, *arguments): run m2ib-audit in a temporary folder."""

    def start(environment, *arguments):
        return subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", *map(str, arguments)],
            cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600,
            check=False,
        )  # fmt: skip

    return start


@pytest.fixture
def write_config(tmp_path, phantoms):
    """write_config(corpus=..., factor=...): write an AUDIT.toml of a quick audit and return its path."""

    def write(corpus=phantoms, factor=2.0, steps=10):
        path = tmp_path / "AUDIT.toml"
        path.write_text(
            f'[corpus]\npath = "{corpus}"\n[model]\narchitecture = "demo/shortcut"\ndevice = "cpu"\n'
            f"[bottleneck]\nsteps = {steps}\n[alerts]\nfactor = {factor}\nmin_pairs = 5\n"
        )
        return path

    return write


def test_alerts_exit_with_3_without_a_running_server(run_program, prefect_environment, write_config, tmp_path):
    process = run_program(prefect_environment, "run", write_config(), "--json")
    assert process.returncode == 3, process.stderr
    lines = process.stdout.splitlines()
    answer = json.loads(lines[-1])
    assert (answer["status"], answer["pairs"], answer["attributions"], answer["errors"]) == ("completed", 40, 40, 0)
    assert answer["alerts"] >= 1
    assert Path(answer["report"]).is_file()
    assert any(line.startswith("ALERT ") and "top-left corner" in line for line in lines)
    assert (tmp_path / "lake" / "runs" / answer["run_id"] / "manifest.json").is_file()
    assert "Traceback" not in process.stderr
    assert "nanobind" not in process.stderr


def test_no_alert_exits_with_0_and_a_complete_run_is_not_resumed(run_program, prefect_server, write_config):
    command = ("run", write_config(factor=15.9, steps=1), "--lake", "other lake")
    process = run_program(prefect_server.environment, *command, "--json")
    assert process.returncode == 0, process.stderr
    answer = json.loads(process.stdout.splitlines()[-1])
    assert (answer["status"], answer["alerts"]) == ("completed", 0)
    resumed = run_program(prefect_server.environment, *command, "--resume", answer["run_id"])
    assert resumed.returncode == 2
    assert f"run {answer['run_id']} is completed and" in resumed.stderr


def test_bad_input_exits_with_2_and_one_sentence(run_program, prefect_server, write_config, tmp_path):
    process = run_program(prefect_server.environment, "run", write_config(corpus=tmp_path / "nowhere"))
    assert process.returncode == 2, process.stderr
    assert "m2ib-audit: " in process.stderr
    assert "nowhere" in process.stderr
    assert "Traceback" not in process.stderr


def test_gate_that_stops_the_run_exits_with_1(run_program, prefect_server, write_config, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "metadata.csv").write_text("file_name,text\nmissing.png,a nodule\n")
    process = run_program(prefect_server.environment, "run", write_config(corpus=broken), "--json")
    assert process.returncode == 1, process.stderr
    answer = json.loads(process.stdout.splitlines()[-1])
    assert (answer["status"], answer["alerts"], answer["errors"]) == ("stopped", 0, 1)
    assert "no row of the corpus became a pair (1 rows read), expected at least one" in process.stdout
