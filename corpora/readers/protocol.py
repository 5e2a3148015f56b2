"""Interface of corpus readers (`Reader`), and the rows that they yield (`Row`)."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from corpora.errors import CorpusError, RowError
from corpora.records import Limits, Place, Reason
from corpora.roots import Root


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the image column and the caption column of a corpus, both of which are required."""

    image: str
    caption: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a corpus before its values are checked. Invalid UTF-8 appears as lone surrogates (PEP 383).

    Attributes:
        location: Location of the row for messages, such as "line 3" or "row 3" (counted from 1).
        file_name: Name of the image file, of any type.
        caption: The caption, of any type.
        attributes: Values of all columns except image and caption, as text.
        problem: Why the row cannot be read, as the predicate of a sentence whose subject is `location`. None if the row
            can be read.
        reason: Category of the problem.
        place: Location of the image in its container. None if `Reader.place` derives the location from `file_name`.
        data: Bytes of the image, or None if they were not read together with the row.
        regions: Regions of the image that the format describes, as text by name.
    """

    location: str
    file_name: object = None
    caption: object = None
    attributes: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    reason: Reason = Reason.MALFORMED_ROW
    place: Place | None = None
    data: bytes | None = None
    regions: dict[str, str] = field(default_factory=dict)


class Reader(ABC):
    """Base class for readers of a corpus format. The constructor reads no rows. The method `image` is thread-safe.

    Attributes:
        default_columns: Default names of the image column and the caption column.
        description: Description of the format, for the error message about an unknown format.
    """

    default_columns: ClassVar[Columns]
    description: ClassVar[str]

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        self._root, self._columns, self._limits = root, columns, limits

    @property
    def is_remote(self) -> bool:
        """Whether the corpus is in a remote store."""
        return not isinstance(self._root, Path)

    @classmethod
    @abstractmethod
    def fits(cls, root: Root) -> bool:
        """Return whether a path or URL looks like a corpus of this format. As few files as possible are opened."""

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Return an iterator over all rows. Their order depends only on the corpus.

        Raises:
            CorpusError: The corpus as a whole cannot be read. Raised by the call itself for a damaged header or first
                row, and during iteration for later damage.
        """

    @abstractmethod
    def count(self) -> int:
        """Return the number of rows that `rows` yields, without creating them. Comparing both detects lost rows.

        Raises:
            CorpusError: The corpus as a whole cannot be read.
        """

    def place(self, row: Row) -> Place:
        """Return the location of a row's image, without opening the image.

        Raises:
            RowError: The row does not refer to an image in the corpus.
        """
        if row.place is None:
            raise RowError(Reason.MISSING_FILE, f"{row.location} has no image. Add one.")
        return row.place

    @abstractmethod
    def image(self, place: Place) -> bytes:
        """Read the bytes of an image, at most `Limits.max_file_bytes`.

        Raises:
            ImageError: The image is missing, unreadable, empty or too large.
            RowError: The image is outside of the corpus.
        """


class ContainerReader(Reader):
    """Base class for readers of a format that keeps images in containers, such as tars, which are read in sequence."""

    @abstractmethod
    def containers(self) -> list[str]:
        """List the names of the containers in the order of their rows. Raises CorpusError."""

    @abstractmethod
    def container_path(self, name: str) -> Root:
        """Return the path of a container. Raises RowError if it is not a file in the corpus."""

    @abstractmethod
    def container_rows(self, name: str) -> Iterator[Row]:
        """Yield the rows of a container. A container that cannot be read is one rejected row."""

    @abstractmethod
    def container_count(self, name: str) -> int:
        """Return the number of rows that `container_rows` yields, without creating them."""

    def count(self) -> int:
        """See `Reader.count`."""
        return sum(map(self.container_count, self.containers()))


def require_rows(rows: Iterator[Row], message: str) -> Iterator[Row]:
    """Read the first row, so that errors in it are raised immediately, and return an iterator over all rows.

    Raises CorpusError with the given message if there is no row.
    """
    first = next(rows, None)
    if first is None:
        raise CorpusError(message)
    return itertools.chain([first], rows)
