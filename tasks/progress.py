"""Progress of long work: bars in a terminal, a line every 30 seconds without one, and the seconds of each stage.

All of it goes to standard error. Stages of an audit need only `track`; a flow times its stages with `Stages`.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

from review.presentation.formatting import format_duration

Item = TypeVar("Item")

INTERVAL = 30.0
"""Seconds between two lines where there is no terminal."""


class Bar:
    """One piece of work: `done` of `total` steps, or work of unknown length where total is None."""

    def __init__(self, description: str, total: float | None = None) -> None:
        self.description, self.total, self.done = description, total, 0.0
        self.began = monotonic()

    def advance(self, steps: float = 1) -> None:
        """Count steps that are done."""
        self.done += steps
        _display.refresh(self)

    def line(self) -> str:
        """Return the progress as one line of text."""
        elapsed = monotonic() - self.began
        text = f"{self.description}: {format_duration(elapsed)} so far"
        if self.total:
            text = f"{self.description}: {self.done:g} of {self.total:g}, {format_duration(elapsed)} so far"
            if 0 < self.done < self.total:
                text += f", about {format_duration(elapsed / self.done * (self.total - self.done))} left"
        return text


class _Display:
    """All bars of this process. Drawn while there is at least one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._bars: dict[Bar, Any] = {}  # and the task of rich that draws it
        self._rich: Any = None
        self._stop: threading.Event | None = None
        self._last_line = monotonic()

    def add(self, bar: Bar) -> None:
        with self._lock:
            if not self._bars:
                self._start()
            shown = None
            if self._rich is not None:
                shown = self._rich.add_task(bar.description, total=bar.total)
            self._bars[bar] = shown

    def remove(self, bar: Bar) -> None:
        with self._lock:
            shown = self._bars.pop(bar)
            if self._rich is not None:
                self._rich.remove_task(shown)
            if not self._bars:
                self._end()

    def refresh(self, bar: Bar) -> None:
        with self._lock:
            if self._rich is not None and bar in self._bars:
                self._rich.update(self._bars[bar], completed=bar.done)

    def _start(self) -> None:
        if not sys.stderr.isatty():
            self._last_line = monotonic()
            self._stop = threading.Event()
            threading.Thread(target=self._print_lines, args=(self._stop,), name="progress", daemon=True).start()
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeLeft())
        self._rich = Progress(*columns, console=Console(stderr=True), transient=True)
        self._rich.start()

    def _end(self) -> None:
        if self._stop is not None:
            self._stop.set()
            self._stop = None
        if self._rich is not None:
            self._rich.stop()
            self._rich = None

    def _print_lines(self, stop: threading.Event) -> None:
        while not stop.wait(max(0.0, self._last_line + INTERVAL - monotonic())):
            with self._lock:
                line = ", ".join(bar.line() for bar in list(self._bars)[-1:])
            self._last_line = monotonic()
            if line:
                sys.stderr.write(f"m2ib-audit: {line}\n")
                sys.stderr.flush()


_display = _Display()


@contextmanager
def bar(description: str, total: float | None = None) -> Iterator[Bar]:
    """Show a bar while the block runs.

    Args:
        description: What is done, as `confirming findings`.
        total: Number of steps; None if it is unknown.
    """
    shown = Bar(description, total)
    _display.add(shown)
    try:
        yield shown
    finally:
        _display.remove(shown)


def track(
    items: Iterable[Item],
    total: float | None = None,
    description: str = "",
    steps: Callable[[Item], float] = lambda _: 1,
) -> Iterator[Item]:
    """Yield the items and show how far the loop has come.

    Args:
        items: What the loop iterates over.
        total: Number of steps; by default the number of items, if they have one.
        description: What is done, as `confirming findings`.
        steps: Number of steps an item counts for.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as shown:
        for item in items:
            yield item
            shown.advance(steps(item))


class Stages(AbstractContextManager["Stages"]):
    """The clock of a run's stages: `with stages("ingest"): ...` shows the stage and counts its seconds.

    Args:
        seconds: Seconds of the stages in earlier attempts of the run; those of this one are added.
    """

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})
        self._all = bar("audit")

    def __enter__(self) -> Self:
        self._all.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.__exit__(kind, error, trace)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block as a stage of this name."""
        began = monotonic()
        try:
            with bar(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + monotonic() - began

    def rounded(self) -> dict[str, float]:
        """Return the seconds per stage, as the manifest keeps them."""
        return {name: round(seconds, 2) for name, seconds in self.seconds.items()}


def format_seconds_per_stage(seconds: Mapping[str, float]) -> str:
    """Return one line with the time of each stage, slowest first, as the end of an audit prints it."""
    slowest_first = sorted(seconds.items(), key=lambda item: -item[1])
    stages = ", ".join(f"{name} {format_duration(spent)}" for name, spent in slowest_first)
    return f"{format_duration(sum(seconds.values()))} in all: {stages}"
