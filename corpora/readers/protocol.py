"""What a format's reader gives: rows as they stand, where each one's image lies, and the image's bytes on request."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from corpora.records import Place, Reason


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the two columns that every table of pairs must have."""

    image: str
    caption: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands in the corpus. `trouble` says why it could not be read, `reason` under which name.

    where: where people find it, as the beginning of a sentence: the line of a text file, or what it is counted from 1.
    Bytes that are not UTF-8 appear as lone surrogates (PEP 383), for the judge of the field. place: of the image, where
    the format knows it without the file name. data: the image's bytes, where they came along.
    """

    where: str
    file_name: object = None
    caption: object = None
    attributes: dict[str, str] = field(default_factory=dict)
    trouble: str | None = None
    reason: Reason = Reason.MALFORMED_ROW
    place: Place | None = None
    data: bytes | None = None


class Reader(Protocol):
    """One format. Made for a corpus, it reads nothing before it is asked to; `image` may be called from any thread."""

    def rows(self) -> Iterator[Row]:
        """All rows, in an order that the corpus decides alone; header and first row are read before it returns.

        Raises:
            CorpusError: the corpus as a whole cannot be read; for a damage further down also later.
        """
        ...

    def count(self) -> int:
        """The number of rows that `rows` yields, found without making anything of them: what accounts for them.

        Raises:
            CorpusError: the corpus as a whole cannot be read.
        """
        ...

    def place(self, row: Row) -> Place:
        """Where a row's image lies; nothing is opened but what tells whether a path may be followed.

        Raises:
            RowError: nowhere in the corpus.
        """
        ...

    def image(self, place: Place) -> bytes:
        """The bytes of an image, at most as many as the limits allow.

        Raises:
            ImageError: missing, unreadable, empty or too large.
            RowError: outside of the corpus.
        """
        ...
