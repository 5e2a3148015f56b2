"""Interrupts of a run by Ctrl-C or SIGTERM: what they do is said at once, and a second one ends the process."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from flows.commands.output import Exit
from tasks.execution import count_running
from tasks.progress import print_line, show_cursor

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def explain_interrupts(next_step: str) -> Iterator[None]:
    """Say what an interrupt does while the block runs, in the main thread.

    The first interrupt has its usual effect: the stage ends, and the tasks that run at the time are finished, so that a
    resumed run can use their results. The second one ends the process, and the run can be resumed as after a crash.
    """
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    interrupted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            show_cursor()
            print_line(f"m2ib-audit: stopped at once; {next_step}")
            os._exit(Exit.INTERRUPTED)
        interrupted = True
        running = count_running()
        doing = f"finishing {running} task{'s'[: running > 1]} in flight" if running else "ending the run"
        print_line(f"m2ib-audit: interrupted: {doing}; press Ctrl-C again to stop at once; {next_step}")
        if callable(handler := handlers[signal.Signals(number)]):
            handler(number, frame)

    for number in _SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is handle:  # otherwise Prefect has restored its own
                signal.signal(number, handler)
