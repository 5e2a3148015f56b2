"""When a command starts Prefect's temporary server. Its end is tested in test_crash_prefect."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED, temporary_settings
from typer.testing import CliRunner

from flows import cli, server
from flows.server import start_server
from tasks.errors import AuditError

START = """
import subprocess, sys
from flows.cli import app

class Recorder(subprocess.Popen):
    def __init__(self, arguments, **options):
        print("started", [name for name in ("torch", "open_clip", "prefect.server") if name in sys.modules])
        raise KeyboardInterrupt

subprocess.Popen = Recorder
for path in sys.argv[1:]:
    try:
        app(["run", path])
    except SystemExit as done:
        print("code", done.code)
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
    assert process.stdout == "started []\ncode 130\n", process.stderr
    assert process.stderr.splitlines()[-1] == "m2ib-audit: interrupted"


FAULTS = [
    ('path = "nowhere"', 'architecture = "ViT-B-32"', "nowhere' does not exist"),
    ('path = "."', 'architecture = "ViT-B-32"', "metadata"),
    ('path = "PHANTOMS"\ncaption_column = "report"', 'architecture = "demo/clean"', "no column 'report'"),
    ('path = "PHANTOMS"', 'architecture = "ViT-B32"', "[model] architecture: got 'ViT-B32', expected a name from"),
    ('path = "PHANTOMS"', 'architecture = "ViT-B-32"\npretrained = "w.pt"', "but there is no such file"),
    ('path = "PHANTOMS"', 'architecture = "demo/clean"\n[ledger]\nkey = "none"', "none cannot be read"),
    ('path = "PHANTOMS"', 'architecture = "demo/clean"\n[regions.masks]\ntag = "none.png"', "none.png"),
]


def test_wrong_inputs_are_reported_before_a_server_is_started(environment, phantoms, tmp_path):
    for number, (corpus, model, _) in enumerate(FAULTS):
        text = f"[corpus]\n{corpus}\n[model]\n{model}\n".replace("PHANTOMS", str(phantoms))
        (tmp_path / f"{number}.toml").write_text(text)
    process = subprocess.run(
        [sys.executable, "-c", START, *(f"{number}.toml" for number in range(len(FAULTS)))],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.stdout == "code 2\n" * len(FAULTS), process.stderr
    messages = process.stderr.split("auditing ")[1:]
    for message, (*_, fault) in zip(messages, FAULTS, strict=True):
        assert fault in message
    assert not (tmp_path / "lake").exists()


@pytest.fixture
def silent_server():
    """The URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"


@pytest.mark.parametrize("temporary", [True, False])
def test_a_server_that_does_not_answer_is_reported(monkeypatch, silent_server, temporary):
    monkeypatch.setattr(server, "_SECONDS_TO_ANSWER", 0.2)
    with (
        temporary_settings({PREFECT_API_URL: silent_server}),
        pytest.raises(AuditError, match=f"{silent_server} did not answer within 0.2 seconds; check it, or unset"),
        start_server(temporary),
    ):
        pytest.fail("the flow was imported")


def test_a_server_that_is_down_is_reported():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(AuditError, match=rf"the Prefect server {url} cannot be reached \(.*refused.*\); check it"),
        start_server(),
    ):
        pytest.fail("the flow was imported")


def test_setting_up_notifications_reports_a_server_that_does_not_answer(monkeypatch, silent_server):
    monkeypatch.setattr(server, "_SECONDS_TO_ANSWER", 0.2)
    with temporary_settings({PREFECT_API_URL: silent_server}):
        result = CliRunner().invoke(cli.app, ["notify", "--block", "custom-webhook/x"])
    assert result.exit_code == 1
    assert "did not answer within 0.2 seconds" in result.stderr


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
    monkeypatch.setattr(server, "check_server", lambda: None)
    before = dict(os.environ)
    check = lambda: pytest.fail("the flow makes this check")  # noqa: E731
    with temporary_settings(settings), start_server(temporary, check):
        pass
    assert os.environ == before
