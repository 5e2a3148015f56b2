"""Errors of a corpus as a whole, and of one of its rows."""

from corpora.records import Reason, escape


class CorpusError(ValueError):
    """The corpus as a whole cannot be read. The message says what is wrong, what was expected and the next step."""

    def __init__(self, message: str) -> None:
        super().__init__(escape(message))  # a name in it need not be valid Unicode


class RowError(ValueError):
    """One row cannot become a pair.

    Attributes:
        reason: The code to count by.
        detail: The message: what is wrong, what was expected and the next step.
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
