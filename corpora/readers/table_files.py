"""A table file (Parquet, or the stream format of Arrow), read in pieces of bounded size.

A damaged file yields what can be read, and `Damage` for the rest; `count` and `batches` always agree on the rows.
"""

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
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
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


@dataclass(frozen=True, slots=True)
class Damage:
    """Rows of a file that cannot be read, and why (the end of a sentence)."""

    num_rows: int
    problem: str


class TableFile(ABC):
    """An open table file. Opening raises one of `UNREADABLE` if not even its columns can be read."""

    schema: pa.Schema

    def __init__(self, source: pa.NativeFile) -> None:
        self._source = source

    @abstractmethod
    def count(self) -> int:
        """Return the number of rows, including damaged ones."""

    @abstractmethod
    def start(self, position: int) -> int:
        """Return the row at which reading has to begin to reach a row."""

    @abstractmethod
    def batches(self, first: int, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch | Damage]]:
        """Yield batches of some columns, each with the number of its first row, from the one that contains `first`."""

    def close(self) -> None:
        """Close the file; batches that were read stay valid."""
        self._source.close()


class ParquetTable(TableFile):
    """A Parquet file. Its footer states the number of rows, so a damaged row group costs its own rows only."""

    def __init__(self, source: pa.NativeFile) -> None:
        super().__init__(source)
        # Without a buffer, or with pre_buffer, Arrow reads a whole column of a row group at once.
        self._file = pq.ParquetFile(
            source, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        )
        self.schema = self._file.schema_arrow
        footer = self._file.metadata
        self._sizes = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
        if min(self._sizes, default=0) < 0 or sum(self._sizes) > source.size():
            raise ValueError(f"its footer announces {sum(self._sizes)} rows in {source.size()} bytes")

    def count(self) -> int:
        """See `TableFile.count`."""
        return sum(self._sizes)

    def start(self, position: int) -> int:
        """See `TableFile.start`."""
        start = 0
        for size in self._sizes:
            if start + size > position:
                break
            start += size
        return start

    def batches(self, first: int, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch | Damage]]:
        """See `TableFile.batches`."""
        start = 0
        for group, size in enumerate(self._sizes):
            if start + size > first:
                yield from self._group(group, start, names)
            start += size

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
    """A file in the stream format of Arrow. How many rows follow damage is unknown, so damage counts as one row."""

    def __init__(self, source: pa.NativeFile) -> None:
        super().__init__(source)
        self.schema = pa.ipc.open_stream(source).schema

    def count(self) -> int:
        """See `TableFile.count`."""
        return sum(piece.num_rows for piece in self._pieces())

    def start(self, position: int) -> int:  # noqa: ARG002  # the interface
        """See `TableFile.start`: skipping a batch costs nothing."""
        return 0

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
                    raise ValueError(f"it announces {rows} rows in {size} bytes")
                yield batch
            # A stream may lack an end mark, but the library datasets writes one: without it, rows are missing.
            if self._source.tell() != size or self._source.read_at(8, size - 8) != _END_OF_STREAM:
                yield Damage(1, "it has no end mark: rows may be missing")
        except UNREADABLE as error:
            yield Damage(1, summarize(error))


class Cursor:
    """A position in a column from which reading continues. The last two batches are kept."""

    def __init__(self, name: str, table: TableFile, first: int, column: str) -> None:
        self.name, self.table = name, table
        self._pieces = table.batches(first, [column])
        self._recent: deque[tuple[int, pa.RecordBatch | Damage]] = deque(maxlen=2)

    def reaches(self, position: int) -> bool:
        """Return whether a row is in memory, or ahead without a better place to begin in between."""
        if not self._recent:
            return False
        last, piece = self._recent[-1]
        return self._recent[0][0] <= position and self.table.start(position) <= last + piece.num_rows

    def read(self, position: int) -> tuple[int, pa.RecordBatch | Damage]:
        """Return the batch that contains a row, with the number of its first row.

        Raises:
            RowError: There is no such row; the detail is the end of a sentence.
        """
        for start, piece in itertools.chain(tuple(self._recent), self._ahead()):
            if start <= position < start + piece.num_rows:
                return start, piece
        raise RowError(Reason.MISSING_FILE, "is behind the last row, expected one of its table: audit again.")

    def _ahead(self) -> Iterator[tuple[int, pa.RecordBatch | Damage]]:
        for found in self._pieces:
            self._recent.append(found)
            yield found


def open_source(path: Root, mapped: bool) -> pa.NativeFile:
    """Open a file for Arrow; `mapped` maps a local file into memory."""
    if not isinstance(path, Path):
        return pa.PythonFile(open_binary(path), mode="r")
    return pa.memory_map(str(path)) if mapped else pa.OSFile(str(path))


def _validate(batch: pa.RecordBatch) -> pa.RecordBatch | Damage:
    # Arrow trusts the offsets in a stream, so no cell may be read before this. Text that is not UTF-8 costs only its
    # own row, so it is validated as bytes.
    raw = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    try:
        for column in batch.columns:
            (column.view(raw[column.type]) if column.type in raw else column).validate(full=True)
        batch.validate()
    except UNREADABLE as error:
        return Damage(batch.num_rows, summarize(error))
    return batch
