"""Cells of a table: the bytes of an image, and the values of everything else."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from corpora.errors import RowError
from corpora.readers.metadata import UNREADABLE, column_values, is_bytes
from corpora.readers.table_files import said
from corpora.records import Limits, Reason


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns that can hold images: of bytes, or of structs with a field `bytes` that does."""
    return [entry.name for entry in schema if is_bytes(_plain(entry.type)) or _has_bytes_field(entry.type)]


def holds_bytes(kind: pa.DataType) -> bool:
    """Tell whether there are raw bytes anywhere in the cells of this type."""
    kind = _plain(kind)
    return is_bytes(kind) or any(holds_bytes(entry.type) for entry in _fields(kind))


def decode_names(fields: Iterable[pa.Field]) -> None:
    """Raise UnicodeDecodeError, which Arrow would raise later, if a name at any depth is not UTF-8."""
    for entry in fields:
        str(entry.name)
        decode_names(_fields(_plain(entry.type)))


def values(column: pa.Array) -> list[object]:
    """As `column_values`, with the error in each cell's place if Arrow cannot give the column as text."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    try:
        return column_values(column)
    except UNREADABLE as error:
        return [ValueError(said(error))] * len(column)


@dataclass(frozen=True, slots=True)
class Images:
    """A stretch of a column of images: their bytes, and their paths if it has any."""

    data: pa.Array
    paths: pa.Array | None

    @classmethod
    def of(cls, column: pa.Array) -> Self:
        """From one of the `image_columns`."""
        if not pa.types.is_struct(column.type):
            return cls(column, None)
        # Unlike field(), flatten() takes the struct's own nulls into account.
        fields = dict(zip((entry.name for entry in column.type), column.flatten(), strict=True))
        return cls(fields["bytes"], fields.get("path"))

    def read(self, index: int, limits: Limits) -> bytes:
        """The bytes of an image; nothing is copied before its size is known.

        Raises:
            RowError: no bytes (missing_file), or too many (file_too_large); the detail is the end of a sentence.
        """
        cell = self.data[index]
        if isinstance(cell, pa.DictionaryScalar):
            cell = cell.value
        if not cell.is_valid:
            path = None if self.paths is None else values(self.paths[index : index + 1])[0]
            found = "no image" if path is None else f"only the path {str(path)[:200]!a} of its image"
            raise RowError(
                Reason.MISSING_FILE, f"has {found}, expected its bytes: embed the images when you export the table."
            )
        data = cell.as_buffer()
        if data.size > limits.max_file_bytes:
            raise RowError(
                Reason.FILE_TOO_LARGE,
                f"has an image of {data.size} bytes, expected at most {limits.max_file_bytes}: scale it down.",
            )
        return bytes(data.to_pybytes())


def _fields(kind: pa.DataType) -> list[pa.Field]:
    return [kind.field(index) for index in range(kind.num_fields)] if pa.types.is_nested(kind) else []


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _has_bytes_field(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(entry.name == "bytes" and is_bytes(_plain(entry.type)) for entry in kind)
