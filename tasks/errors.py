"""Errors that an operator must act on."""


class AuditError(Exception):
    """Base of the audit's operator-facing errors."""


class BadInputError(AuditError):
    """The corpus, the model or the configuration cannot be audited as given; the message says what to change."""


class ResumeError(BadInputError):
    """A run cannot be resumed: it is unknown, complete, or began with other settings."""


class OutcomeError(AuditError):
    """The audit ended in a way that an operator must look at; `outcome` is its result."""

    def __init__(self, message: str, outcome: object) -> None:
        super().__init__(message, outcome)
        self.outcome = outcome

    def __str__(self) -> str:
        return str(self.args[0])


class GateError(OutcomeError):
    """A gate stopped the pipeline before any alert; the message says which checks failed."""


class ShardsError(OutcomeError):
    """Shards failed and the run completed without their pairs; the message says which shards, and why."""


class StoreError(AuditError):
    """The files of a stage are not what the next stage expects."""
