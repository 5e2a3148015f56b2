"""Reading of table files (Parquet, or Arrow's stream format) in batches of bounded size.

A damaged file yields its readable batches, and `Damage` for the other rows. `count` and `batches` always agree on the
number of rows.
"""

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from corpora.errors import RowError
from corpora.readers.metadata import UNREADABLE, summarize
from corpora.records import Reason
from corpora.roots import Root, open_binary

_PIECE_BYTES = 8 * 2**20
_PIECE_ROWS = 32
_BUFFER_BYTES = 2**20
_STREAM_MARK = b"\xff\xff\xff\xff"
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


@dataclass(frozen=True, slots=True)
class Damage:
    """Consecutive rows of a table file that cannot be read. `problem` says why, as the end of a sentence."""

    num_rows: int
    problem: str


class TableFile(ABC):
    """An open table file. The constructor raises an exception from `UNREADABLE` if the schema cannot be read.

    Attributes:
        schema: Names and types of the columns.
        starts: Numbers of the rows at which reading can start, in ascending order.
    """

    schema: pa.Schema
    starts: Sequence[int] = (0,)

    def __init__(self, source: pa.NativeFile) -> None:
        self._source = source

    @abstractmethod
    def count(self) -> int:
        """Return the number of rows, including damaged rows."""

    @abstractmethod
    def batches(self, first: int, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch | Damage]]:
        """Yield batches of the named columns, each with the number of its first row.

        Iteration starts no later than at the batch that contains the row with the number `first`.
        """

    def close(self) -> None:
        """Close the file. Batches that were already read stay valid."""
        self._source.close()


class ParquetTable(TableFile):
    """A Parquet file. Its footer states the number of rows, so damage in a row group affects only its own rows."""

    def __init__(self, source: pa.NativeFile) -> None:
        super().__init__(source)
        # Without a buffer, or with pre_buffer, Arrow would read a whole column of a row group at once.
        self._file = pq.ParquetFile(
            source, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        )
        self.schema = self._file.schema_arrow
        footer = self._file.metadata
        self._sizes = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
        self.starts = list(itertools.accumulate(self._sizes, initial=0))
        if min(self._sizes, default=0) < 0 or self.count() > source.size():
            raise ValueError(f"its footer announces {self.count()} rows, but it has only {source.size()} bytes")

    def count(self) -> int:
        """See `TableFile.count`."""
        return self.starts[-1]

    def batches(self, first: int, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch | Damage]]:
        """See `TableFile.batches`."""
        for group, end in enumerate(self.starts[1:]):
            if end > first:
                yield from self._group(group, self.starts[group], names)

    def _group(self, group: int, start: int, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch | Damage]]:
        left = self._sizes[group]
        problem = "its row group ends early"
        try:
            average = self._file.metadata.row_group(group).total_byte_size // max(left, 1)
            rows = min(max(_PIECE_BYTES // max(average, 1), 1), _PIECE_ROWS)
            for batch in self._file.iter_batches(rows, [group], names, use_threads=False):
                yield start, batch[:left]
                size = min(left, batch.num_rows)
                start, left = start + size, left - size
        except UNREADABLE as error:
            problem = summarize(error)
        if left:
            yield start, Damage(left, problem)


class ArrowTable(TableFile):
    """A file in Arrow's stream format. The number of rows after damage is unknown, so they become one error row."""

    def __init__(self, source: pa.NativeFile) -> None:
        super().__init__(source)
        if source.read(len(_STREAM_MARK)) != _STREAM_MARK:
            raise ValueError("it is not in the stream format of Arrow, which save_to_disk writes")
        source.seek(0)
        self.schema = pa.ipc.open_stream(source).schema

    def count(self) -> int:
        """See `TableFile.count`."""
        return sum(piece.num_rows for piece in self._pieces())

    def batches(self, first: int, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch | Damage]]:
        """See `TableFile.batches`."""
        start = 0
        for piece in self._pieces():
            if start + piece.num_rows > first:
                yield start, piece if isinstance(piece, Damage) else _validate(piece.select(names))
            start += piece.num_rows

    def _pieces(self) -> Iterator[pa.RecordBatch | Damage]:
        size, rows = self._source.size(), 0
        try:
            self._source.seek(0)
            for batch in pa.ipc.open_stream(self._source):
                rows += batch.num_rows
                if batch.num_rows < 0 or rows > size:
                    raise ValueError(f"it announces {rows} rows, but has only {size} bytes")
                yield batch
            # Arrow's end mark is optional, but the library datasets always writes it. Without it, rows may be missing.
            if self._source.tell() != size or self._source.read_at(8, size - 8) != _END_OF_STREAM:
                yield Damage(1, "it has no end mark of Arrow: rows may be missing")
        except UNREADABLE as error:
            yield Damage(1, summarize(error))


class Cursor:
    """Reader of one column of a table file. It keeps its position and its last two batches between calls."""

    def __init__(self, name: str, table: TableFile, first: int, column: str) -> None:
        self.name, self.table = name, table
        self._pieces = table.batches(first, [column])
        self._recent: deque[tuple[int, pa.RecordBatch | Damage]] = deque(maxlen=2)

    def reaches(self, position: int) -> bool:
        """Return whether the cursor can read a row efficiently.

        True if the row is in a cached batch, or after it with no closer point to start reading (`TableFile.starts`).
        """
        if not self._recent:
            return False
        last, piece = self._recent[-1]
        start = max(start for start in self.table.starts if start <= position)
        return self._recent[0][0] <= position and start <= last + piece.num_rows

    def read(self, position: int) -> tuple[int, pa.RecordBatch | Damage]:
        """Return the batch that contains a row, with the number of the batch's first row.

        If the table has no such row, raise RowError. Its detail is the predicate of a sentence.
        """
        for start, piece in itertools.chain(tuple(self._recent), self._ahead()):
            if start <= position < start + piece.num_rows:
                return start, piece
        raise RowError(
            Reason.MISSING_FILE, "is behind the last row of its table. The table has changed; audit the corpus again."
        )

    def _ahead(self) -> Iterator[tuple[int, pa.RecordBatch | Damage]]:
        for found in self._pieces:
            self._recent.append(found)
            yield found


def open_table(path: Root, once: bool) -> TableFile:
    """Open a table file: Parquet if its suffix is .parquet, otherwise Arrow's stream format.

    `once` states that it is read only once, from beginning to end. Then a local file is not mapped into memory.
    """
    if not isinstance(path, Path):
        source = pa.PythonFile(open_binary(path), mode="r")
    elif once or path.suffix == ".parquet":
        source = pa.OSFile(str(path))
    else:
        # A mapped file allows skipping batches without reading them. For sequential reading it is not mapped, because
        # all its pages would count as used memory.
        source = pa.memory_map(str(path))
    return ParquetTable(source) if path.suffix == ".parquet" else ArrowTable(source)


def _validate(batch: pa.RecordBatch) -> pa.RecordBatch | Damage:
    # Arrow does not check the offsets in a stream, so no value may be read before this validation. Text is validated as
    # bytes, so that invalid UTF-8 makes only its own row unreadable.
    raw = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    try:
        for column in batch.columns:
            (column.view(raw[column.type]) if column.type in raw else column).validate(full=True)
        batch.validate()
    except UNREADABLE as error:
        return Damage(batch.num_rows, summarize(error))
    return batch
