"""When a command starts Prefect's temporary server. Its end is tested in test_crash_prefect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED, temporary_settings

from flows import server
from flows.server import start_server

START = """
import subprocess, sys
from flows.cli import app

class Recorder(subprocess.Popen):
    def __init__(self, arguments, **options):
        print("started", [name for name in ("torch", "open_clip", "prefect.server") if name in sys.modules])
        raise KeyboardInterrupt

subprocess.Popen = Recorder
app(["run", sys.argv[1]])
"""


@pytest.fixture
def environment(prefect_environment, tmp_path):
    """The environment of a user without a Prefect server, with a database of the test's own."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    return prefect_environment | {"PREFECT_HOME": str(tmp_path / "prefect home"), "PYTHONPATH": root}


def test_server_is_started_before_the_model_library_is_imported(environment, phantoms, tmp_path):
    path = tmp_path / "AUDIT.toml"
    path.write_text(f'[corpus]\npath = "{phantoms}"\n[model]\narchitecture = "demo/shortcut"\n')
    process = subprocess.run(
        [sys.executable, "-c", START, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert process.stdout == "started []\n", process.stderr
    assert process.returncode == 130
    assert process.stderr.splitlines()[-1] == "m2ib-audit: interrupted"


@pytest.mark.slow
def test_server_that_cannot_start_is_reported(environment, tmp_path):
    code = "from flows.commands.output import exit_on_error\nfrom flows.server import start_server\n"
    process = subprocess.run(
        [sys.executable, "-c", f"{code}with exit_on_error(), start_server(): pass"], cwd=tmp_path, capture_output=True,
        env=environment | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////nowhere/prefect.db"},
        text=True, check=False,
    )  # fmt: skip
    assert "m2ib-audit: Prefect's temporary server did not start (" in process.stderr
    assert "unable to open database file" in process.stderr
    assert "Fatal Python error" not in process.stderr


@pytest.mark.parametrize(
    ("settings", "temporary"),
    [
        ({PREFECT_API_URL: "http://127.0.0.1:4200/api"}, True),
        ({PREFECT_API_URL: None, PREFECT_SERVER_EPHEMERAL_ENABLED: False}, True),
        ({PREFECT_API_URL: None, PREFECT_SERVER_EPHEMERAL_ENABLED: True}, False),
    ],
)
def test_no_server_is_started_beside_that_of_the_user(monkeypatch, settings, temporary):
    monkeypatch.setattr(server.subprocess, "Popen", lambda *_, **__: pytest.fail("a server was started"))
    before = dict(os.environ)
    with temporary_settings(settings), start_server(temporary):
        pass
    assert os.environ == before
