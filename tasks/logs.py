"""The logger of what runs inside a flow, or without one."""

import logging

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger


def run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Prefect's logger of the run at hand, or an ordinary one where there is none."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)
