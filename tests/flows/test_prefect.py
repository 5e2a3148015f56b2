"""Programs as an operator starts them: exit codes of an audit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def program(tmp_path):
    """program(environment, *arguments): m2ib-audit in a folder of its own."""

    def start(environment, *arguments):
        return subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", *map(str, arguments)],
            cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600,
            check=False,
        )  # fmt: skip

    return start


@pytest.fixture
def audit_file(tmp_path, phantoms):
    """audit_file(corpus=..., factor=...): the path of an AUDIT.toml of a quick audit."""

    def write(corpus=phantoms, factor=2.0, steps=10):
        path = tmp_path / "AUDIT.toml"
        path.write_text(
            f'[corpus]\npath = "{corpus}"\n[model]\narchitecture = "demo/shortcut"\ndevice = "cpu"\n'
            f"[bottleneck]\nsteps = {steps}\n[alerts]\nfactor = {factor}\nmin_pairs = 5\n"
        )
        return path

    return write


def test_alerts_are_exit_code_3_without_any_server_running(program, own_prefect, audit_file, tmp_path):
    done = program(own_prefect, "run", audit_file(), "--json")
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    answer = json.loads(lines[-1])
    assert (answer["status"], answer["pairs"], answer["attributions"], answer["errors"]) == ("completed", 40, 40, 0)
    assert answer["alerts"] >= 1
    assert Path(answer["report"]).is_file()
    assert any(line.startswith("ALERT ") and "top-left corner" in line for line in lines)
    assert (tmp_path / "lake" / "runs" / answer["run_id"] / "manifest.json").is_file()
    assert "Traceback" not in done.stderr
    assert "nanobind" not in done.stderr


def test_no_alert_is_exit_code_0_and_a_complete_run_does_not_go_on(program, prefect_server, audit_file):
    command = ("run", audit_file(factor=15.9, steps=1), "--lake", "other lake")
    done = program(prefect_server.environment, *command, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["status"], answer["alerts"]) == ("completed", 0)
    again = program(prefect_server.environment, *command, "--resume", answer["run_id"])
    assert again.returncode == 2
    assert f"run {answer['run_id']} is completed and" in again.stderr


def test_bad_input_is_exit_code_2_and_one_sentence(program, prefect_server, audit_file, tmp_path):
    done = program(prefect_server.environment, "run", audit_file(corpus=tmp_path / "nowhere"))
    assert done.returncode == 2, done.stderr
    assert "m2ib-audit: " in done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_gate_that_stops_the_line_is_exit_code_1(program, prefect_server, audit_file, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "metadata.csv").write_text("file_name,text\nmissing.png,a nodule\n")
    done = program(prefect_server.environment, "run", audit_file(corpus=broken), "--json")
    assert done.returncode == 1, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["status"], answer["alerts"], answer["errors"]) == ("stopped", 0, 1)
    assert "no row of the corpus became a pair (1 tried), expected at least one" in done.stdout
