"""Exceptions for a corpus that cannot be read, and for single rows that cannot be audited."""

from corpora.records import Reason, escape
from stores import InputError


class CorpusError(InputError, ValueError):
    """The corpus as a whole cannot be read. The message states the problem, the expected state and the next step."""

    def __init__(self, message: str) -> None:
        super().__init__(escape(message))  # file names in the message may be invalid Unicode


class RowError(ValueError):
    """One row cannot become a pair.

    Attributes:
        reason: Category of the error, by which rejected rows are counted.
        detail: The message, with the problem, the expected state and the next step.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, escape(detail))
        self.reason = reason
        self.detail = escape(detail)

    def __str__(self) -> str:
        return self.detail


class ImageError(RowError):
    """The image file of a row cannot be used."""


class CaptionError(RowError):
    """The caption of a row cannot be used."""
