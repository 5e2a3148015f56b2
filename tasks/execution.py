"""How stages run as Prefect tasks: their options, which failures are retried, and the logger."""

import contextlib
import errno
import logging
from collections.abc import Iterator
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

import sql

_PERMANENT = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


def is_storage_full(error: BaseException | None) -> bool:
    """Return whether an error means that the lake's storage is full. The run then ends, and can be resumed."""
    return isinstance(error, OSError) and error.errno in _FULL


def is_retryable(error: BaseException | None) -> bool:
    """Return whether an error may be temporary, such as a disk or network that did not answer."""
    if isinstance(error, sql.LakeError):  # raised from the error of a remote lake
        error = error.__cause__
    return isinstance(error, OSError) and not isinstance(error, _PERMANENT) and not is_storage_full(error)


TASK_OPTIONS: dict[str, Any] = {
    "cache_policy": NO_CACHE,  # the lake's files are the cache
    "persist_result": False,
    "retries": 3,
    "retry_delay_seconds": [1, 4, 16],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": lambda _task, _run, state: is_retryable(state.result(raise_on_failure=False)),
}
"""Options of every stage's Prefect task: no cache, and retries of storage errors."""


_running: set[object] = set()


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Count the block, or each call of a decorated function, as a task in flight: an interrupted run finishes it."""
    token = object()
    _running.add(token)
    try:
        yield
    finally:
        _running.discard(token)


def count_running() -> int:
    """Return the number of tasks in flight in this process. Takes no lock, so that a signal handler can call it."""
    return len(_running)


def run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Return Prefect's logger of the current flow or task run; outside a flow, return a standard Python logger."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)


@contextlib.contextmanager
def log_failure(message: str, *values: object, level: int = logging.ERROR) -> Iterator[None]:
    """Log an error of the block with `message` instead of raising it, for optional work such as notifications."""
    try:
        yield
    except Exception:  # noqa: BLE001  # a full disk or a server that is down must not hide how the audit ended
        run_logger().log(level, message, *values, exc_info=True)
