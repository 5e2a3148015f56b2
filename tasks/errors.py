"""States that an operator must act on."""


class AuditError(Exception):
    """Base of the audit's operator-facing errors."""


class BadInputError(AuditError):
    """The corpus, the model or the configuration cannot be audited as given; the message says what to change."""


class ResumeError(BadInputError):
    """A run cannot be resumed: unknown, already complete, or started with something else."""


class OutcomeError(AuditError):
    """The audit came to an end that an operator must look at; `outcome` says what became of it."""

    def __init__(self, message: str, outcome: object) -> None:
        super().__init__(message, outcome)
        self.outcome = outcome

    def __str__(self) -> str:
        return str(self.args[0])


class GateError(OutcomeError):
    """A gate stopped the line before any alert; the message says which checks failed."""


class ShardsError(OutcomeError):
    """Shards were set aside and the run completed without their pairs; the message says which, and why."""


class StoreError(AuditError):
    """What a stage left behind is not what the next one needs."""
