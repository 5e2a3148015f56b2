"""Which failures of a task are worth another try: a disk or a network that did not answer, and nothing else."""

import errno
from typing import Any

import sql

_GONE = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


def storage_is_full(error: BaseException | None) -> bool:
    """Whether the lake takes no more: every shard would fail alike, so that the run ends here and can go on later."""
    return isinstance(error, OSError) and error.errno in _FULL


def worth_a_retry(error: BaseException | None) -> bool:
    """Whether an error may be gone in a moment: not what is missing, forbidden or full, nor what the model raised."""
    if isinstance(error, sql.LakeError):  # of a lake in object storage
        error = error.__cause__
    return isinstance(error, OSError) and not isinstance(error, _GONE) and not storage_is_full(error)


def _may_retry(_task: Any, _run: Any, state: Any) -> bool:
    return worth_a_retry(state.result(raise_on_failure=False))


IO_RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [1, 4, 16],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _may_retry,
}
"""Settings of a task that reads the corpus or writes the lake."""
