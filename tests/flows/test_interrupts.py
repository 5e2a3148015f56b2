"""The first interrupt of a run says what it waits for, the second one ends the process."""

import os
import signal
import subprocess
import sys

import pytest

from flows.interrupts import explain_interrupts
from tasks.execution import count_running, running

SCRIPT = """
import contextlib, signal, sys, time
from flows.interrupts import explain_interrupts
from tasks.execution import running

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, interrupt)
with explain_interrupts("resume with: it"), contextlib.ExitStack() as tasks:
    for _ in range(int(sys.argv[1])):
        tasks.enter_context(running())
    try:
        print("working", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("finishing", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "tasks", "doing"),
    [
        (signal.SIGINT, 2, "finishing 2 tasks in flight"),
        (signal.SIGTERM, 1, "finishing 1 task in flight"),
        (signal.SIGINT, 0, "ending the run"),
    ],
)
def test_second_interrupt_ends_the_process_at_once(number, tasks, doing):
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tasks)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for word in ("working", "finishing"):
            assert process.stdout.readline() == f"{word}\n"
            process.send_signal(number)
        assert process.wait(timeout=10) == 130
        assert process.stderr.read().splitlines() == [
            f"m2ib-audit: interrupted: {doing}; press Ctrl-C again to stop at once; resume with: it",
            "m2ib-audit: stopped at once; resume with: it",
        ]


def test_handlers_are_restored_unless_somebody_else_has_changed_them(capsys):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(KeyboardInterrupt), explain_interrupts("resume"):
        os.kill(os.getpid(), signal.SIGINT)
    assert "interrupted: ending the run" in capsys.readouterr().err
    assert {number: signal.getsignal(number) for number in before} == before
    try:
        with explain_interrupts("resume"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])


def test_tasks_in_flight_are_counted_also_when_they_fail():
    counts = []

    @running()
    def work():
        counts.append(count_running())
        raise ValueError("failed")

    for _ in range(2):
        with pytest.raises(ValueError, match="failed"), running():
            work()
    assert (counts, count_running()) == ([2, 2], 0)
