"""Computation on devices: one thread per device makes all PyTorch calls of a process.

PyTorch's CPU operations run in a team of OpenMP threads for each calling thread. With a second team there are more
threads than cores, so that every small operation has to wake its team up, and an audit takes half as long again
(docs/decisions/0027). Readers and tasks therefore pass their work to the thread of the device.
"""

import ctypes
import os
import platform
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Lock, current_thread
from typing import Final, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_PREFIX: Final = "compute on "
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 2**30
_LARGEST_MMAP_THRESHOLD: Final = 2**25  # glibc accepts no more

_lock = Lock()


@cache
def _thread_of(device: str) -> ThreadPoolExecutor:
    _keep_memory()
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=_PREFIX + device)


def _forget_threads() -> None:
    global _lock  # noqa: PLW0603  # another thread of the parent may have had the lock
    _lock = Lock()
    _thread_of.cache_clear()


os.register_at_fork(after_in_child=_forget_threads)  # a forked process has none of its parent's threads


@cache
def _keep_memory() -> None:
    """Make glibc reuse freed memory, instead of returning it to the system and clearing new pages for each batch."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def submit(
    device: str, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> "Future[Result]":
    """Queue a call for the thread of a device, which makes one call at a time. The arguments should be one batch.

    The queue is bounded by the callers: none has more than two calls in it.
    """
    if current_thread().name.startswith(_PREFIX):
        raise RuntimeError(
            f"device {device}: got a call from the thread of a device, which would wait for itself forever"
        )
    with _lock:  # two threads must not both create the thread of a device
        thread = _thread_of(device)
    return thread.submit(function, *args, **kwargs)


def compute(
    device: str, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Call a function in the thread of a device, and return its result or raise its error."""
    return submit(device, function, *args, **kwargs).result()
