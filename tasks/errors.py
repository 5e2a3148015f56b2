"""Errors that a user of the audit must act on."""

from stores import InputError


class AuditError(Exception):
    """Base class of the errors that a user of the audit must act on."""


class BadInputError(AuditError, InputError):
    """The corpus, the model or the configuration cannot be audited as given; the message says what to change."""


class ResumeError(BadInputError):
    """A run cannot be resumed: it is unknown, complete, or began with different settings."""


class OutcomeError(AuditError):
    """The audit ended with a status other than `completed`; `outcome` is its result."""

    def __init__(self, message: str, outcome: object) -> None:
        super().__init__(message, outcome)
        self.outcome = outcome

    def __str__(self) -> str:
        return str(self.args[0])


class GateError(OutcomeError):
    """A gate stopped the run before any alert was raised; the message says which checks failed."""


class ShardsError(OutcomeError):
    """The run completed, but without the pairs of failed shards; the message says which shards failed, and why."""


class StoreError(AuditError):
    """A file of a run is missing, damaged, or different from what the next stage expects."""
