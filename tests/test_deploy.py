"""The service files in deploy/ are valid: systemd reads the units, the containers' files name what exists."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from flows import cli

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def list_commands():
    """The commands of units and services, as lists of words from the name of the program on."""
    for unit in UNITS:
        line = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)[1]
        path, *arguments = shlex.split(line)
        yield pytest.param([Path(path).name, *arguments], id=unit.name)
    for name, service in SERVICES.items():
        if "command" in service:
            yield pytest.param(service["command"], id=name)


@pytest.mark.parametrize("command", list(list_commands()))
def test_each_service_starts_a_command_that_exists(command):
    program, name, *arguments = command
    if program == "prefect":
        assert (name, arguments[0]) in {("server", "start"), ("worker", "start")}
        return
    options = {
        option for each in get_command(cli.app).commands[name].params for option in [*each.opts, *each.secondary_opts]
    }
    assert {word for word in arguments if word.startswith("--")} <= options


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_units(unit, tmp_path):
    programs = tmp_path / "m2ib-audit" / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("prefect", "m2ib-audit"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", unit],  # noqa: S607
        env=os.environ | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    if "Failed to initialize manager" in done.stderr:
        pytest.skip("systemd-analyze does not run here")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_compose_file_is_consistent():
    assert SERVICES.keys() == {"database", "server", "worker", "site"}
    for service in SERVICES.values():
        assert {"image", "restart"} <= service.keys()
        assert set(service.get("depends_on", {})) <= SERVICES.keys()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        mounted = [volume.partition(":")[0] for volume in service["volumes"]]
        assert {name for name in mounted if not name.startswith("$")} <= COMPOSE["volumes"].keys()
    build = SERVICES["server"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    address = SERVICES["worker"]["environment"]["PREFECT_API_URL"]
    assert re.fullmatch(r"http://(\w+):4200/api", address)[1] in SERVICES


def test_the_container_file_copies_and_installs_what_exists():
    lines = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert {name for name, _ in steps} <= {"FROM", "RUN", "WORKDIR", "COPY", "ARG", "USER", "ENV", "CMD"}
    assert [step for step in steps if step[0] == "USER"] == [["USER", "audit"]]  # not root
    (install,) = [text for _, text in steps if "pip install" in text]
    assert (ROOT / "constraints.txt").is_file()
    assert "-c constraints.txt" in install


@pytest.mark.slow
@pytest.mark.skipif(
    not any(shutil.which(tool) for tool in ("podman", "buildah")), reason="no tool that builds images without a daemon"
)
def test_the_image_is_built():
    tool = "podman" if shutil.which("podman") else "buildah"
    subprocess.run(
        [tool, "build", "-f", DEPLOY / "Containerfile", "-t", "m2ib-audit-test", ROOT], check=True, timeout=3600
    )
