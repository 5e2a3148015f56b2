"""A process that is killed leaves no server behind, or `m2ib-audit doctor` names it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import server
from flows.doctor import check_leftovers

KILLED = """
import os, signal, subprocess, sys
{start}
other = subprocess.Popen(["sleep", "60"], pass_fds=[process.stdin.fileno()], stdout=subprocess.DEVNULL)
print(process.pid, other.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def start_and_kill():
    """start_and_kill(code): run code that starts `process` in a process that then kills itself; return its pid.

    A further process, which lives on, has its standard input open.
    """
    started = []

    def start(code: str) -> int:
        killed = subprocess.run([sys.executable, "-c", KILLED.format(start=code)], stdout=subprocess.PIPE, check=False)
        assert killed.returncode == -signal.SIGKILL
        started.extend(map(int, killed.stdout.split()))
        return started[0]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for_end(process: int) -> None:
    end = time.monotonic() + 30
    while not has_ended(process):
        assert time.monotonic() < end, f"process {process} lives on"
        time.sleep(0.1)


SERVE = """
import runpy, sys, types

async def application(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    print("serves", flush=True)
    await receive()

# The server's file, with an application in place of Prefect.
sys.modules["prefect.server.api.server"] = types.SimpleNamespace(create_app=lambda **_: application)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_temporary_server_ends_with_its_killed_command_although_a_process_keeps_its_pipe_open(start_and_kill):
    start = (
        "import socket; listener = socket.create_server(('127.0.0.1', 0)); number = listener.fileno()\n"
        f"arguments = ['-c', {SERVE!r}, {server.__file__!r}, str(number), str(os.getpid())]\n"
        "process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, "
        "pass_fds=[number])\n"
        "assert process.stdout.readline() == b'serves\\n'"
    )
    wait_for_end(start_and_kill(start))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_doctor_names_a_temporary_server_of_prefect_whose_command_was_killed(start_and_kill):
    name = "prefect.server.api.server:create_app"
    start = (
        "environment = {**os.environ, 'PREFECT__SERVER_EPHEMERAL': '1'}\n"
        f"process = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', {name!r}], env=environment, "
        "stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)"
    )
    process = start_and_kill(start)
    assert f"kill {process}" in [check.next_step for check in check_leftovers()]
    os.kill(process, signal.SIGKILL)
    wait_for_end(process)
    assert f"kill {process}" not in [check.next_step for check in check_leftovers()]
