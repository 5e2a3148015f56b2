"""The log of the server on standard error, bounded: whoever causes errors must not fill the disk with them."""

import contextlib
import copy
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, TextIO

MAX_LINES: Final = 10
"""Number of records of one kind that are logged in a minute; only the first has a traceback."""
MAX_KINDS: Final = 50
"""Number of kinds of records that are logged in a minute."""
MAX_CHARS: Final = 1000
"""Maximum length of a message."""
_SECONDS: Final = 60.0


class BoundedHandler(logging.StreamHandler[TextIO]):
    """Handler that logs the first records of each kind in a minute, and later how many it left out."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Create a handler that has logged nothing yet."""
        super().__init__(stream)
        self._clock, self._start = clock, clock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record, shortened, or count it as left out. It runs under the lock of the handler."""
        if self._clock() - self._start >= _SECONDS:
            self._start = self._clock()
            self._counts.clear()
        kind = (record.name, str(record.msg)[:40])  # the text before its arguments
        if self._counts[kind] >= MAX_LINES or len(self._counts) > MAX_KINDS:
            self._left_out += 1
            return
        self._counts[kind] += 1
        record, message = copy.copy(record), record.getMessage()  # a copy, because other handlers get it, too
        if self._counts[kind] > 1:
            record.exc_info = record.exc_text = None
        message = message if len(message) <= MAX_CHARS else message[: MAX_CHARS - 1] + "…"
        note = f" ({self._left_out} messages before this one were left out)" if self._left_out else ""
        record.msg, record.args, self._left_out = message + note, None, 0
        super().emit(record)


@contextlib.contextmanager
def log_to_stderr() -> Iterator[None]:
    """Write warnings and errors of a `with` block to standard error, within the limits of `BoundedHandler`."""
    handler = BoundedHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
