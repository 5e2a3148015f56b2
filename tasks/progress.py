"""Progress of long work: bars in a terminal, a line every 30 seconds without one, and the seconds of each stage.

All output goes to standard error. Stages of an audit call `track`; a flow times its stages with `Stages`.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import TypeVar

from rich import progress as bars
from rich.console import Console

from review.presentation.numbers import format_duration

Item = TypeVar("Item")

ATTRIBUTING = "attributing pairs"
"""Description of the bar that counts attributed pairs."""
INTERVAL = 30.0
"""Seconds between two lines of text, which are printed if standard error is no terminal."""


class _Display(bars.Progress):
    """The display of all progress bars of this process: bars in a terminal, otherwise lines of text."""

    def start(self) -> None:
        """Start drawing bars (in a terminal) or printing lines (without one)."""
        self.live.console = Console(stderr=True)  # where standard error is now
        self._ended = threading.Event()
        self.disable = not sys.stderr.isatty()
        if self.disable:
            threading.Thread(target=self._print_lines, args=(self._ended,), name="progress", daemon=True).start()
        super().start()

    def stop(self) -> None:
        """Stop drawing bars or printing lines."""
        self._ended.set()
        if not self.disable:
            super().stop()

    def _print_lines(self, ended: threading.Event) -> None:
        while not ended.wait(INTERVAL):
            for innermost in self.tasks[-1:]:
                sys.stderr.write(f"m2ib-audit: {format_progress(innermost)}\n")
                sys.stderr.flush()


_changes = threading.Lock()
_open_bars: dict[str, Callable[[float], None]] = {}
_display = _Display(
    bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeElapsedColumn(),
    bars.TimeRemainingColumn(), transient=True,
)  # fmt: skip


def format_progress(task: bars.Task) -> str:
    """Format the progress of a task as one line of text."""
    elapsed, done, total = task.elapsed or 0.0, task.completed, task.total
    steps = f"{done:g} of {total:g}, " if total else ""
    text = f"{task.description}: {steps}{format_duration(elapsed)} so far"
    if total and 0 < done < total:
        text += f", about {format_duration(elapsed / done * (total - done))} left"
    return text


@contextmanager
def bar(description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """Show a progress bar while the block runs; yield a function that adds a number of completed steps."""
    with _changes:
        if not _display.tasks:
            _display.start()
        task = _display.add_task(description, total=total)
    advance = partial(_advance, task, total)
    _open_bars[description] = advance
    try:
        yield advance
    finally:
        with _changes:
            _open_bars.pop(description, None)
            _display.remove_task(task)
            if not _display.tasks:
                _display.stop()


def _advance(task: bars.TaskID, total: float | None, steps: float) -> None:
    """Add steps to a bar, at most up to its total: a task that Prefect repeats reports its steps again."""
    with _changes:
        done = next((each.completed for each in _display.tasks if each.id == task), 0.0)
        _display.update(task, completed=done + steps if total is None else min(done + steps, total))


def advance_bar(description: str, steps: float) -> None:
    """Add completed steps to a bar of this process, if one with this description is shown."""
    if advance := _open_bars.get(description):
        advance(steps)


def track(
    items: Iterable[Item],
    total: float | None = None,
    description: str = "",
    steps: Callable[[Item], float] = lambda _: 1,
) -> Iterator[Item]:
    """Yield the items, and show the progress of the loop over them.

    `total` is the number of steps, by default the number of items; `steps` returns the number of steps of an item.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance(steps(item))


def print_line(line: str) -> None:
    """Print a line to standard error, above the bars if there are any."""
    console = _display.live.console if _display.tasks else Console(stderr=True)
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Log a warning of a run, and print it, because commands do not show the log."""
    from tasks.execution import run_logger  # imports Prefect, which most commands do without

    run_logger().warning("%s", text)
    print_line(f"m2ib-audit: {text}")


def show_cursor() -> None:
    """Show the terminal's cursor, which bars hide, before the process ends without removing them."""
    _display.live.console.show_cursor()


class Stages(dict[str, float]):
    """Seconds of each stage of a run, by name. `with stages("ingest"): ...` shows the stage and adds its seconds."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Show the block as the stage of this name, and add the seconds that it takes."""
        began = monotonic()
        try:
            with bar(name):
                yield
        finally:
            self.add(name, monotonic() - began)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to those of the stage of this name."""
        self[name] = round(self.get(name, 0.0) + seconds, 2)


def format_seconds_per_stage(seconds: Mapping[str, float]) -> str:
    """Return one line with the time of each stage, slowest first, as an audit prints it at its end."""
    slowest_first = sorted(seconds.items(), key=lambda item: -item[1])
    stages = ", ".join(f"{name} {format_duration(spent)}" for name, spent in slowest_first)
    return f"{format_duration(sum(seconds.values()))} in all: {stages}"
