"""What can go wrong with a corpus as a whole, and with one of its rows."""

from corpora.records import Reason, escaped


class CorpusError(ValueError):
    """The corpus as a whole cannot be read; the message says what, got, expected, and the next step."""

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))  # a name in it may be no Unicode


class RowError(ValueError):
    """One row cannot become a pair: `reason` is the code to count by, `detail` the sentence to act on."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, escaped(detail))
        self.reason = reason
        self.detail = escaped(detail)

    def __str__(self) -> str:
        return self.detail


class ImageError(RowError):
    """The image file of a row cannot be used."""


class CaptionError(RowError):
    """The caption of a row cannot be used."""
