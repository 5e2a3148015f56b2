"""Readers of tables that contain the bytes of images: Parquet files, and datasets that `save_to_disk` wrote."""

import json
import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import pyarrow as pa

from corpora import roots
from corpora.errors import CorpusError, ImageError, RowError
from corpora.readers import metadata, patterns
from corpora.readers.imagefolder import resolve_inside
from corpora.readers.metadata import UNREADABLE, column_values, is_bytes, summarize
from corpora.readers.protocol import Columns, ContainerReader, Row, require_rows
from corpora.readers.table_files import Cursor, Damage, TableFile, open_table
from corpora.records import DEFAULT_LIMITS, Limits, Place, Reason
from corpora.roots import Root, open_binary, real_path

_MAX_CURSORS = 4
SAVED = _DICT, _STATE = "dataset_dict.json", "state.json"
"""File names. A folder that `save_to_disk` of Hugging Face datasets wrote contains at least one of them."""

_Entry = TypeVar("_Entry")
_EXPECTED = "expected a table with image bytes; restore it from its source or export it again"


class TableList(NamedTuple):
    """The table files of a corpus.

    Attributes:
        base: Folder of the files. On the Hub, the dataset at one commit.
        splits: Mapping from each file's path relative to `base`, in reading order, to its split, such as "train". Rows
            of a file get no attribute `split` if it is None.
    """

    base: Root
    splits: Mapping[str, str | None]


class TableReader(ContainerReader):
    """Reader of the rows of table files, one file after another.

    The image column contains bytes, or structs with a field `bytes` (the Image feature of Hugging Face). If the default
    column `image` does not exist, the only column with bytes is used. If the default column `text` does not exist,
    `caption` is used. Further columns become attributes, except for columns with bytes. An unreadable file becomes one
    rejected row. Unreadable rows of a file become rejected rows, and reading continues after them.
    """

    default_columns = Columns("image", "text")

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        super().__init__(root, columns, limits)
        self._lock = threading.Lock()
        self._tables = TableList(root, {})
        self._cursors: list[Cursor] = []

    @abstractmethod
    def _find_tables(self) -> TableList:
        """List the table files of the corpus. Raises CorpusError."""

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        names = self.containers()
        self._check_first(names)
        rows = (row for name in names for row in self.container_rows(name))
        return require_rows(rows, f"Corpus {str(self._root)!r} has zero rows (expected at least one). Export it again.")

    def image(self, place: Place) -> bytes:
        """See `Reader.image`. Recently used cursors are cached, so that sequential access is fast."""
        name, position = place.container, place.position
        if name not in self._tables.splits:
            self._tables = self._find_tables()
        if name not in self._tables.splits or name is None or position is None or position < 0:
            raise ImageError(
                Reason.PATH_OUTSIDE_CORPUS,
                f"{place.name!a} is in none of the tables of the corpus (expected a row of a table). Audit the "
                "corpus again.",
            )
        try:
            with self._lock:
                start, piece = self._cursor(name, position).read(position)
            if isinstance(piece, Damage):
                raise ImageError(Reason.UNREADABLE_FILE, f"cannot be read: {piece.problem}; {_EXPECTED}.")
            return _Images.of(piece.column(0)).read(position - start, self._limits)
        except RowError as error:
            raise ImageError(error.reason, f"{place.name!a} {error.detail}") from error

    def containers(self) -> list[str]:
        """See `ContainerReader.containers`."""
        tables = self._find_tables()
        if not tables.splits:
            problem = roots.describe_absence(self._root) or "has no table files"
            raise CorpusError(f"Corpus {str(self._root)!r} {problem}, {_EXPECTED}.")
        with self._lock:  # the corpus may have changed since it was last read in this process
            self._tables = tables
            while self._cursors:
                self._cursors.pop().table.close()
        return list(tables.splits)

    def _check_first(self, names: list[str]) -> None:
        """Check the columns of the first readable table file. Raises CorpusError, also if no file is readable."""
        errors: list[str] = []
        for name in names:
            try:
                with closing(self._open(name)) as table:
                    self._find_columns(name, table.schema)
                    return
            except RowError as error:
                errors.append(f"{name[:200]} {error.detail}")
        if problem := roots.describe_absence(self._root):
            raise CorpusError(f"Corpus {str(self._root)!r} {problem}, {_EXPECTED}.")
        raise CorpusError(f"None of the {len(names)} files of {str(self._root)!r} can be read; {errors[0]}")

    def _open(self, name: str, once: bool = False) -> TableFile:
        """Open a table file after checking its path. Raises RowError if it cannot be read. See `open_table`."""
        try:
            path = self.container_path(name)
            if roots.check_file(path) == 0:
                raise RowError(Reason.EMPTY_FILE, f"has 0 bytes, {_EXPECTED}.")  # noqa: TRY301  # not translated below
            table = open_table(path, once)
            _check_names(table.schema)
        except RowError:
            raise
        except (*UNREADABLE, RuntimeError) as error:  # RuntimeError: symbolic links form a loop
            problem = f"cannot be read ({summarize(error)}), {_EXPECTED}."
            raise RowError(roots.row_error(error).reason, problem) from error
        return table

    def _find_columns(self, name: str, schema: pa.Schema) -> Columns:
        """Return the names of the image column and the caption column of a table file. Raises CorpusError."""
        path = self._tables.base / name
        image, caption = self._columns.image, self._columns.caption
        images = _image_columns(schema)
        if image == "image" and image not in schema.names and len(images) == 1:
            image = images[0]
        if caption == "text" and caption not in schema.names and "caption" in schema.names:
            caption = "caption"
        columns = Columns(image, caption)
        metadata.check_columns(path, schema.names, columns)
        if image not in images:
            raise CorpusError(
                f"Column {image!r} of {str(path)!r} contains {schema.field(image).type}, expected the bytes of images, "
                f"or structs with them (columns with such values: {images or 'none'}); name another column "
                f"({metadata.IMAGE_OPTION}). If the column has the names of image files, rename the table to "
                "metadata.parquet and move it to their folder."
            )
        return columns

    def container_path(self, name: str) -> Root:
        """See `ContainerReader.container_path`."""
        return resolve_inside(real_path(self._tables.base), name)

    def container_count(self, name: str) -> int:
        """See `ContainerReader.container_count`."""
        try:
            with closing(self._open(name)) as table:
                return table.count()
        except RowError:
            return 1

    def container_rows(self, name: str) -> Iterator[Row]:
        """See `ContainerReader.container_rows`."""
        if name not in self._tables.splits:
            self._tables = self._find_tables()
        try:
            table = self._open(name, once=True)
        except RowError as error:
            yield Row(name[:200], problem=error.detail, reason=error.reason, place=Place(name))
            return
        with closing(table):
            try:
                columns = self._find_columns(name, table.schema)
            except CorpusError as error:
                yield from _damaged_rows(name, 0, Damage(table.count(), str(error)))
                return
            schema = table.schema
            names = [entry.name for entry in schema if entry.name == columns.image or not _contains_bytes(entry.type)]
            split = self._tables.splits.get(name)  # missing if the corpus has changed since it was listed
            extra: dict[str, object] = {} if split is None else {"split": split}
            for start, piece in table.batches(0, names):
                if isinstance(piece, Damage):
                    yield from _damaged_rows(name, start, piece)
                else:
                    yield from self._batch_rows(name, start, piece, columns, extra)

    def _batch_rows(
        self, name: str, start: int, batch: pa.RecordBatch, columns: Columns, extra: dict[str, object]
    ) -> Iterator[Row]:
        others = {key: _values(batch.column(key)) for key in batch.schema.names if key != columns.image}
        images = _Images.of(batch.column(columns.image))
        for index in range(batch.num_rows):
            cells = extra | {key: column[index] for key, column in others.items()}
            row = metadata.row_of(f"{name} row {start + index + 1}", cells, columns)
            place, data = _place(name, start + index), None
            try:
                data = images.read(index, self._limits)
            except RowError as error:
                if not row.problem:
                    row = replace(row, problem=error.detail, reason=error.reason)
            yield replace(row, place=place, data=data)

    def _cursor(self, name: str, position: int) -> Cursor:
        """Return a cursor over the image column of a table file, a cached one if it can read the row efficiently."""
        for cursor in self._cursors:
            if cursor.name == name and cursor.reaches(position):
                self._cursors.remove(cursor)
                break
        else:
            table = self._open(name)
            try:
                cursor = Cursor(name, table, position, self._find_columns(name, table.schema).image)
            except CorpusError as error:
                table.close()
                raise RowError(Reason.UNREADABLE_FILE, f"cannot be read: {error}") from error
        self._cursors.append(cursor)
        if len(self._cursors) > _MAX_CURSORS:
            self._cursors.pop(0).table.close()
        return cursor


class ParquetReader(TableReader):
    """Reader of Parquet files: one file, a pattern, or the files in a folder and its `data/`, sorted by path."""

    description = (
        "a .parquet file with image bytes in a column, or a folder with such files, in the folder itself or in data/"
    )

    @classmethod
    def fits(cls, root: Root) -> bool:
        """Return whether there are Parquet files, and the first by name has a binary column or is damaged."""
        reader = cls(root, cls.default_columns, DEFAULT_LIMITS)
        reader._tables = reader._find_tables()
        first = next(iter(reader._tables.splits), None)
        if first is None:
            return False
        try:
            with closing(reader._open(first)) as table:
                return bool(_image_columns(table.schema))
        except RowError:
            return True

    def _find_tables(self) -> TableList:
        if not roots.is_folder(self._root):
            names = [self._root.name] if self._root.suffix == ".parquet" else []
            if names and patterns.is_pattern(self._root):
                names = patterns.find(self._root, ".parquet")
            return TableList(self._root.parent, dict.fromkeys(names))
        folders = (("", self._root), ("data/", self._root / "data"))
        names = [
            f"{prefix}{name}"
            for prefix, folder in folders
            for name, is_dir in roots.list_folder(folder)
            if name.endswith(".parquet") and not name.startswith(".") and not is_dir
        ]
        return TableList(self._root, dict.fromkeys(sorted(names)))


class SavedDatasetReader(TableReader):
    """Reader of a folder that `save_to_disk` of Hugging Face datasets wrote: one dataset, or one per split.

    Splits are read in the order of dataset_dict.json, and each of their rows has the attribute `split`. The library
    itself is not needed, and no code in the folder is executed.
    """

    description = (
        "a folder that Hugging Face datasets saved to disk (state.json or dataset_dict.json), or "
        "hf://datasets/ORGANIZATION/NAME"
    )

    @classmethod
    def fits(cls, root: Root) -> bool:
        """See `Reader.fits`."""
        return any(roots.is_file(root / name) for name in SAVED)

    def _find_tables(self) -> TableList:
        splits: list[str | None] = [None]
        if roots.is_file(self._root / _DICT):
            splits = [*_get_list(self._load_json(_DICT), "splits", str)]
        tables: dict[str, str | None] = {}
        for split in splits:
            folder = "" if split is None else f"{split}/"
            for entry in _get_list(self._load_json(f"{folder}{_STATE}"), "_data_files", dict):
                tables[f"{folder}{entry.get('filename')}"] = split  # a file that is listed several times is read once
        return TableList(self._root, tables)

    def _load_json(self, name: str) -> object:
        try:
            path = resolve_inside(real_path(self._root), name)
            if isinstance(path, Path):
                roots.check_file(path)  # opening a pipe would block
            with open_binary(path) as file:
                text = file.read(metadata.MAX_LINE_BYTES + 1)
            if len(text) > metadata.MAX_LINE_BYTES:
                raise ValueError(f"it is longer than {metadata.MAX_LINE_BYTES} bytes")  # noqa: TRY301  # likewise
            return json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise CorpusError(
                f"{name[:200]!a} of {str(self._root)!r} cannot be read ({summarize(error)}), expected a file that "
                "save_to_disk wrote; save the dataset again."
            ) from error


@dataclass(frozen=True, slots=True)
class _Images:
    """A batch of an image column: the bytes of the images, and their paths if the column has them."""

    data: pa.Array
    paths: pa.Array | None

    @classmethod
    def of(cls, column: pa.Array) -> Self:
        if not pa.types.is_struct(column.type):
            return cls(column, None)
        # Unlike field(), flatten() yields null where the struct itself is null.
        fields = dict(zip((entry.name for entry in column.type), column.flatten(), strict=True))
        return cls(fields["bytes"], fields.get("path"))

    def read(self, index: int, limits: Limits) -> bytes:
        """Return the bytes of an image. Its size is checked before the bytes are copied.

        Raises RowError, whose detail is the predicate of a sentence, if the row has no image bytes or too many.
        """
        cell = self.data[index]
        if isinstance(cell, pa.DictionaryScalar):
            cell = cell.value
        if not cell.is_valid:
            path = None if self.paths is None else _values(self.paths[index : index + 1])[0]
            found = "no image" if path is None else f"only the path {str(path)[:200]!a} of its image"
            raise RowError(
                Reason.MISSING_FILE,
                f"has {found} (expected the bytes of an image). Embed the images when you export the table.",
            )
        data = cell.as_buffer()
        if data.size > limits.max_file_bytes:
            raise RowError(
                Reason.FILE_TOO_LARGE,
                f"has an image of {data.size} bytes (expected at most {limits.max_file_bytes}). Scale it down.",
            )
        return bytes(data.to_pybytes())


def _values(column: pa.Array) -> list[object]:
    """Convert a column to Python values, as `column_values` does.

    If Arrow cannot convert the column, each value is an exception object.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    try:
        return column_values(column)
    except UNREADABLE as error:
        return [ValueError(summarize(error))] * len(column)


def _fields(kind: pa.DataType) -> list[pa.Field]:
    """Return the child fields of a nested type."""
    return [kind.field(index) for index in range(kind.num_fields)] if pa.types.is_nested(kind) else []


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a dictionary-encoded type, or the type itself."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _image_columns(schema: pa.Schema) -> list[str]:
    """Return the names of columns whose type is binary, or a struct with a binary field `bytes`."""

    def can_contain(kind: pa.DataType) -> bool:
        fields = [entry.type for entry in kind if entry.name == "bytes"] if pa.types.is_struct(kind) else [kind]
        return any(is_bytes(_value_type(field)) for field in fields)

    return [entry.name for entry in schema if can_contain(entry.type)]


def _contains_bytes(kind: pa.DataType) -> bool:
    """Return whether a type is binary, or contains a binary type at any depth."""
    kind = _value_type(kind)
    return is_bytes(kind) or any(_contains_bytes(entry.type) for entry in _fields(kind))


def _check_names(fields: Iterable[pa.Field]) -> None:
    """Raise UnicodeDecodeError if a column name at any depth is not UTF-8. Otherwise Arrow would raise it later."""
    for entry in fields:
        str(entry.name)
        _check_names(_fields(_value_type(entry.type)))


def _get_list(loaded: object, key: str, kind: type[_Entry]) -> list[_Entry]:
    """Return the list under a key of a JSON object. Raises CorpusError unless all entries are of type `kind`."""
    found = loaded.get(key) if isinstance(loaded, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, kind) for entry in found):
        raise CorpusError(
            f"The key {key!r} of a saved dataset has {ascii(found)[:200]} (expected a list). Save the dataset again."
        )
    return found


def _place(name: str, position: int) -> Place:
    return Place(f"{name}/{position}", name, position)


def _damaged_rows(name: str, start: int, damage: Damage) -> Iterator[Row]:
    for position in range(start, start + damage.num_rows):
        yield Row(
            f"{name} row {position + 1}",
            problem=f"cannot be read: {damage.problem}; {_EXPECTED}.",
            reason=Reason.UNREADABLE_FILE,
            place=_place(name, position),
        )
