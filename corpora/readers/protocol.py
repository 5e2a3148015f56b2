"""The interface of readers: rows as stored, the place of each image, and the bytes of an image on request."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from corpora.errors import CorpusError
from corpora.records import Limits, Place, Reason
from corpora.roots import Root


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the two columns that every table of pairs must have."""

    image: str
    caption: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row as stored in the corpus. Bytes that are not UTF-8 appear as lone surrogates (PEP 383).

    Attributes:
        location: Where people find the row, as the beginning of a sentence: "line 3", "row 3" (counted from 1).
        problem: Why the row cannot be read, as the rest of that sentence; None if it can.
        reason: The reason of the problem.
        place: Place of the image, if the format does not need the file name for it.
        data: Bytes of the image, if they were read with the row.
    """

    location: str
    file_name: object = None
    caption: object = None
    attributes: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    reason: Reason = Reason.MALFORMED_ROW
    place: Place | None = None
    data: bytes | None = None


class Reader(ABC):
    """The reader of one format. Nothing is read before a method is called; `image` may be called from any thread.

    Attributes:
        default_columns: Names of the two columns unless the user names others.
        description: What the format looks like, for the error when no format fits.
    """

    default_columns: ClassVar[Columns]
    description: ClassVar[str]

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        self._root, self._columns, self._limits = root, columns, limits

    @classmethod
    @abstractmethod
    def fits(cls, root: Root) -> bool:
        """Return whether a root looks like this format, opening as little as possible."""

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Return all rows, in an order that depends on the corpus alone.

        Raises:
            CorpusError: The corpus as a whole cannot be read. Raised at the call for a damaged header or first row,
                while iterating for damage further down.
        """

    @abstractmethod
    def count(self) -> int:
        """Count the rows that `rows` yields, without building them, so that lost rows are noticed.

        Raises:
            CorpusError: The corpus as a whole cannot be read.
        """

    @abstractmethod
    def place(self, row: Row) -> Place:
        """Return the place of the image of a row, without opening the image.

        Raises:
            RowError: The row names no image in the corpus.
        """

    @abstractmethod
    def image(self, place: Place) -> bytes:
        """Read the bytes of an image, at most `Limits.max_file_bytes`.

        Raises:
            ImageError: The image is missing, unreadable, empty or too large.
            RowError: The place is outside of the corpus.
        """


def require_rows(rows: Iterator[Row], message: str) -> Iterator[Row]:
    """Read the first row ahead.

    Raises:
        CorpusError: There is no row (`message`), or the first cannot be read.
    """
    first = next(rows, None)
    if first is None:
        raise CorpusError(message)
    return itertools.chain([first], rows)
