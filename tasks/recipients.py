"""Recipients of notifications: which notification block of Prefect gets which messages, and how they are sent.

The list of recipients is a variable of the Prefect server, which `m2ib-audit notify` writes. Messages are sent by the
process of the run, so that it knows whether they were delivered.
"""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from prefect import runtime
from prefect.blocks.abstract import NotificationBlock, NotificationError
from prefect.blocks.core import Block
from prefect.exceptions import PrefectException
from prefect.variables import Variable

from tasks import mail  # noqa: F401  # registers its block
from tasks.messages import Event
from tasks.settings import NotifyConfig

ALERT_KINDS = ("new", "worse", "resolved", "still-firing", "not-seen")
RUN_KINDS = {
    "m2ib.audit.digest": "digest",
    "m2ib.audit.failed": "failed",
    "m2ib.audit.stopped": "stopped",
    "m2ib.audit.interrupted": "interrupted",
    "m2ib.audit.completed-with-errors": "errors",
    "m2ib.audit.completed": "completed",
    "m2ib.audit.open-alerts": "new",
}
"""Kind of message, as `m2ib-audit notify --on` names it, for each event about a run."""
VARIABLE = "m2ib_audit_recipients"
_RETRY_SECONDS = (1.0, 4.0)  # waits between the attempts to send one message; the next run tries again
_MAX_SECONDS = 60.0  # per recipient and run: a slow web hook must not hold up the audit
_TEMPORARY = (408, 425, 429)


class RecipientsError(Exception):
    """The Prefect server did not say who is to be notified."""


class DeliveryError(Exception):
    """A message was not delivered. The text says why in one line, without the URL, which can be secret.

    Attributes:
        is_down: Whether the recipient did not answer, so that further messages need not be tried.
        is_temporary: Whether trying again soon may help.
    """

    def __init__(self, reason: str, is_down: bool = False, is_temporary: bool = True) -> None:
        super().__init__(reason)
        self.is_down, self.is_temporary = is_down, is_temporary


@dataclass(frozen=True)
class Recipient:
    """A notification block, and which messages it gets."""

    block: str  # TYPE/NAME
    on: tuple[str, ...]
    confirmed: bool = False

    def wants(self, event: Event) -> bool:
        """Return whether the recipient gets the message of an event."""
        kind = RUN_KINDS.get(event.event, event.event.rpartition(".")[2])
        return kind in self.on and (not self.confirmed or event.resource.get("m2ib.state", "confirmed") == "confirmed")


def is_enabled(settings: NotifyConfig) -> bool:
    """Return whether this process notifies: by default, the run of a deployment does, and a command does not."""
    return runtime.deployment.id is not None if settings.enabled is None else settings.enabled


def read_recipients() -> list[Recipient]:
    """Return the recipients that the Prefect server knows. Raises RecipientsError if it does not answer."""
    try:
        stored: Any = Variable.get(VARIABLE, default={})
    except (OSError, RuntimeError, httpx.HTTPError, PrefectException) as error:
        raise RecipientsError(f"the Prefect server did not answer ({type(error).__name__})") from error
    return [Recipient(block, tuple(entry["on"]), entry["confirmed"]) for block, entry in stored.items()]


def write_recipients(recipients: Iterable[Recipient]) -> None:
    """Replace the list of recipients on the Prefect server."""
    stored = {each.block: {"on": list(each.on), "confirmed": each.confirmed} for each in recipients}
    Variable.set(VARIABLE, stored, overwrite=True)


def deliver(block: str, messages: Sequence[tuple[str, str]]) -> list[str | None]:
    """Send messages, given as subject and body, through a notification block of Prefect.

    Returns None for each message that was delivered, and for each other one the reason in one line. If the recipient
    does not answer, further messages are not tried.
    """
    deadline, reason = time.monotonic() + _MAX_SECONDS, ""
    outcomes: list[str | None] = []
    loaded: NotificationBlock | None = None
    for subject, body in messages:
        if not reason and time.monotonic() > deadline:
            reason = f"not sent: earlier messages took more than {_MAX_SECONDS:.0f} s"
        if reason:
            outcomes.append(reason)
            continue
        try:
            loaded = loaded or _load(block)
            _send(loaded, subject, body)
            outcomes.append(None)
        except DeliveryError as error:
            outcomes.append(str(error))
            reason = str(error) if error.is_down else ""
    return outcomes


def _load(block: str) -> NotificationBlock:
    try:
        loaded = Block.load(block)
    except Exception as error:
        raise DeliveryError(f"the block cannot be loaded: {_first_line(error)}", is_down=True) from error
    if not isinstance(loaded, NotificationBlock):
        raise DeliveryError("it is not a notification block", is_down=True)
    return loaded


def _send(block: NotificationBlock, subject: str, body: str) -> None:
    """Send one message, in several attempts. Raises DeliveryError."""
    for wait in (*_RETRY_SECONDS, None):
        try:
            with block.raise_on_failure():
                block.notify(body, subject)  # type: ignore[unused-coroutine]  # not a coroutine outside an event loop
        except Exception as error:  # any block of any package
            failure = _describe(error)
            if wait is None or not failure.is_temporary:
                raise failure from error
            time.sleep(wait)
        else:
            return


def _describe(error: Exception) -> DeliveryError:
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        is_temporary = status >= 500 or status in _TEMPORARY
        return DeliveryError(f"HTTP {status} {error.response.reason_phrase}", is_temporary, is_temporary)
    if isinstance(error, httpx.TimeoutException):
        return DeliveryError("no answer in time", is_down=True, is_temporary=False)
    if isinstance(error, httpx.TransportError):
        return DeliveryError(f"no connection: {_first_line(error)}", is_down=True)
    if isinstance(error, NotificationError):
        return DeliveryError(_first_line(error.log) or "the service refused it")
    return DeliveryError(f"{type(error).__name__}: {_first_line(error)}", is_temporary=False)


def _first_line(error: object) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return re.sub(r"\S+://\S+", "(URL)", line)[:200]
