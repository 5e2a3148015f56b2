"""One file of a table whose cells are images: Parquet, or Arrow's stream format, read in pieces of bounded size.

A damaged file gives what can be read, and for the rest `Damage`; `count` and `batches` always agree on the rows.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from corpora.errors import RowError
from corpora.readers.metadata import UNREADABLE
from corpora.records import Reason
from corpora.roots import Root, open_binary

_PIECE_BYTES = 8 * 2**20
_PIECE_ROWS = 32
_BUFFER_BYTES = 2**20
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


@dataclass(frozen=True, slots=True)
class Damage:
    """Rows of a file that cannot be read, and why (as the end of a sentence)."""

    num_rows: int
    what: str


class TableFile(Protocol):
    """An open file. Made from its bytes, it raises one of `UNREADABLE` if they tell not even the columns."""

    schema: pa.Schema

    def count(self) -> int:
        """The number of rows, of damage too."""
        ...

    def start(self, position: int) -> int:
        """The row at which reading has to begin in order to come to another."""
        ...

    def batches(self, first: int, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch | Damage]]:
        """Stretches of rows of some columns, each with the number of its first row, from one that holds `first`."""
        ...

    def close(self) -> None:
        """Close the file; what was read from it stays valid."""
        ...


class ParquetTable:
    """A Parquet file. Its footer says the number of rows, so that a damaged row group costs its own rows only."""

    def __init__(self, source: pa.NativeFile) -> None:
        self._source = source
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
        what = "its row group ends early"
        try:
            average = self._file.metadata.row_group(group).total_byte_size // max(left, 1)
            rows = min(max(_PIECE_BYTES // max(average, 1), 1), _PIECE_ROWS)
            for batch in self._file.iter_batches(rows, [group], names, use_threads=False):
                yield start, batch[:left]
                taken = min(left, batch.num_rows)
                start, left = start + taken, left - taken
        except UNREADABLE as error:
            what = said(error)
        if left:
            yield start, Damage(left, what)

    def close(self) -> None:
        """See `TableFile.close`."""
        self._source.close()


class ArrowTable:
    """A file in Arrow's stream format. Nothing tells how many rows lie behind a damage: it counts as one row."""

    def __init__(self, source: pa.NativeFile) -> None:
        self._source = source
        self.schema = pa.ipc.open_stream(source).schema

    def count(self) -> int:
        """See `TableFile.count`."""
        return sum(piece.num_rows for piece in self._pieces())

    def start(self, position: int) -> int:  # noqa: ARG002  # as of the protocol
        """See `TableFile.start`: passing over a batch costs nothing."""
        return 0

    def batches(self, first: int, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch | Damage]]:
        """See `TableFile.batches`."""
        start = 0
        for piece in self._pieces():
            if start + piece.num_rows > first:
                yield start, piece if isinstance(piece, Damage) else _valid(piece.select(names))
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
            # A stream may also end with its file. What datasets writes does not, so there something is missing.
            if self._source.tell() != size or self._source.read_at(8, size - 8) != _END_OF_STREAM:
                yield Damage(1, "it does not end with the mark of an end: rows may be missing")
        except UNREADABLE as error:
            yield Damage(1, said(error))

    def close(self) -> None:
        """See `TableFile.close`."""
        self._source.close()


class Cursor:
    """A place in a column from which reading goes on; of the stretches that it read, the last two are kept."""

    def __init__(self, name: str, table: TableFile, first: int, column: str) -> None:
        self.name, self.table = name, table
        self._pieces = table.batches(first, [column])
        self._recent: deque[tuple[int, pa.RecordBatch | Damage]] = deque(maxlen=2)

    def reaches(self, position: int) -> bool:
        """Tell whether a row is known, or ahead, with no better place to begin in between."""
        if not self._recent:
            return False
        last, piece = self._recent[-1]
        return self._recent[0][0] <= position and self.table.start(position) <= last + piece.num_rows

    def read(self, position: int) -> tuple[int, pa.RecordBatch | Damage]:
        """The stretch that holds a row, and the number of its first.

        Raises:
            RowError: there is no such row; the detail is the end of a sentence.
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
    """A file for Arrow to read; mapped into memory if that is asked for and it is a local one."""
    if not isinstance(path, Path):
        return pa.PythonFile(open_binary(path), mode="r")
    return pa.memory_map(str(path)) if mapped else pa.OSFile(str(path))


def said(error: BaseException) -> str:
    """An error in few words."""
    return f"{type(error).__name__}: {str(error)[:200]}"


def _valid(batch: pa.RecordBatch) -> pa.RecordBatch | Damage:
    # Arrow trusts the offsets in a stream: a cell may be looked at only after this. Text that is not UTF-8
    # costs its own row, so it is looked at as bytes here.
    raw = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    try:
        for column in batch.columns:
            (column.view(raw[column.type]) if column.type in raw else column).validate(full=True)
        batch.validate()
    except UNREADABLE as error:
        return Damage(batch.num_rows, said(error))
    return batch
