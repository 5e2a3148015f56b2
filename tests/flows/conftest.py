"""Prefect for the slow tests: with a separate home, on loopback."""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest


def disable_prefect(patch):
    """Make flows call the plain functions of their tasks, so that they need no server; patch: a MonkeyPatch."""
    import logging

    from prefect import Task

    from flows import audit, engines, fan_out, lifecycle, reflag, self_audit
    from tasks import messages as artifacts
    from tasks import notify

    for module in (audit, fan_out, lifecycle, reflag):
        for name, value in vars(module).copy().items():
            if isinstance(value, Task):
                patch.setattr(module, name, value.fn)
        if hasattr(module, "get_run_logger"):
            patch.setattr(module, "get_run_logger", lambda: logging.getLogger("audit"))
    patch.setattr(self_audit, "run_trial", self_audit.run_trial.fn)  # which calls the functions of the stages itself
    patch.setattr(engines, "ThreadPoolTaskRunner", lambda **_: contextlib.nullcontext())
    patch.setattr(notify, "emit_event", lambda *_, **__: None)
    for name in [name for name in vars(artifacts) if name.endswith("_artifact")]:
        patch.setattr(artifacts, name, lambda *_, **__: None)


@pytest.fixture
def no_prefect(monkeypatch):
    """Flows run without Prefect."""
    disable_prefect(monkeypatch)


@pytest.fixture(autouse=True)
def unfrozen():
    """Objects that a command froze are collected again, so that DuckDB's binding reports no leaks at exit."""
    yield
    gc.unfreeze()


ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}


@pytest.fixture(scope="session")
def prefect_environment(tmp_path_factory):
    """The environment of a Prefect that shares nothing with the user's; it starts a server itself."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return inherited | ENVIRONMENT | {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect home"))}


class Server:
    """A Prefect server on loopback."""

    def __init__(self, port, environment):
        self.api = f"http://127.0.0.1:{port}/api"
        self.environment = environment | {"PREFECT_API_URL": self.api}

    def post(self, route, body):
        request = urllib.request.Request(
            f"{self.api}/{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def is_healthy(self):
        try:
            with urllib.request.urlopen(f"{self.api}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


def free_port():
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        return free_socket.getsockname()[1]


@contextlib.contextmanager
def run_server(environment, log):
    """Run a server until the block ends, unless the block kills it; yields the server and its process group."""
    server = Server(free_port(), environment)
    port = server.api.split(":")[2].split("/")[0]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port],
            env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while not server.is_healthy():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield server, process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # the server and its services
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


@pytest.fixture(scope="session")
def prefect_server(prefect_environment, tmp_path_factory):
    with run_server(prefect_environment, tmp_path_factory.mktemp("prefect server") / "log") as (server, _):
        yield server


@pytest.fixture
def start_server(tmp_path):
    """start_server(environment): a server that a test may kill."""
    return lambda environment: run_server(environment, tmp_path / "server log")
