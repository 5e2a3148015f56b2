"""States that an operator must act on."""


class AuditError(Exception):
    """Base of the audit's operator-facing errors."""


class BadInputError(AuditError):
    """The corpus, the model or the configuration cannot be audited as given; the message says what to change."""


class ResumeError(BadInputError):
    """A run cannot be resumed: unknown, already complete, or started with something else."""


class StoreError(AuditError):
    """What a stage left behind is not what the next one needs."""
