"""Corpora whose images are bytes in tables: Parquet files, and what Hugging Face `datasets` saves to disk."""

import itertools
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from corpora import roots
from corpora.errors import CorpusError, ImageError, RowError
from corpora.readers import metadata
from corpora.readers import patterns as shards
from corpora.readers.imagefolder import resolve_inside
from corpora.readers.protocol import Columns, Row
from corpora.readers.table_cells import Images, decode_names, holds_bytes, image_columns, values
from corpora.readers.table_files import ArrowTable, Cursor, Damage, ParquetTable, TableFile, open_source, said
from corpora.records import DEFAULT_LIMITS, Limits, Place, Reason
from corpora.roots import Root, open_binary, real

_CURSORS = 4
SAVED = _DICT, _STATE = "dataset_dict.json", "state.json"
"""By one of these a folder is known that `save_to_disk` wrote."""

_Entry = TypeVar("_Entry")
_EXPECTED = "expected a table with image bytes: restore it from its source or export it again"


class TableReader(ABC):
    """The rows of all files, one file after the other.

    A column of images holds bytes, or structs with a field `bytes` (Hugging Face's Image). Where the table has no
    column of the default name, its only one of bytes is taken for `image`, and `caption` for `text`. Further columns
    become attributes, but for those with bytes. A file that cannot be read is one rejected row; what cannot be read
    within a file is rejected too, and reading goes on behind it.
    """

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        self._root, self._columns, self._limits = root, columns, limits
        self._lock = threading.Lock()
        self._files: frozenset[str] = frozenset()
        self._cursors: list[Cursor] = []

    @abstractmethod
    def _names(self) -> list[str]:
        """The files, relative to `_base`, in the order of their rows. Raises CorpusError."""

    @abstractmethod
    def _table(self, path: Root, once: bool) -> TableFile:
        """A file that was found to be one, open. once: it will be read from end to end."""

    def _base(self) -> Root:
        return self._root

    def _added(self, name: str) -> dict[str, object]:  # noqa: ARG002  # for those that need it
        """What a file's place says about its rows, as further columns."""
        return {}

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        names = self._listed()
        self._check(names)
        rows = (row for name in names for row in self._file_rows(name))
        first = next(rows, None)
        if first is None:
            raise CorpusError(f"Corpus {str(self._root)!r} has zero rows, expected at least one: export it again.")
        return itertools.chain([first], rows)

    def count(self) -> int:
        """See `Reader.count`."""
        return sum(map(self._file_count, self._listed()))

    def place(self, row: Row) -> Place:
        """See `Reader.place`."""
        if row.place is None:
            raise RowError(Reason.MALFORMED_ROW, f"{row.where} has no place, expected a row of a table.")
        return row.place

    def image(self, place: Place) -> bytes:
        """See `Reader.image`. A few places are kept from which reading goes on."""
        name, position = place.container, place.position
        if name not in self._files:
            self._files = frozenset(self._names())
        if name not in self._files or name is None or position is None or position < 0:
            raise ImageError(
                Reason.PATH_OUTSIDE_CORPUS,
                f"{place.name!a} is in none of the corpus's tables, expected a row of one: audit the corpus again.",
            )
        try:
            with self._lock:
                start, piece = self._cursor(name, position).read(position)
            if isinstance(piece, Damage):
                raise ImageError(Reason.UNREADABLE_FILE, f"cannot be read: {piece.what}; {_EXPECTED}.")
            return Images.of(piece.column(0)).read(position - start, self._limits)
        except RowError as error:
            raise ImageError(error.reason, f"{place.name!a} {error.detail}") from error

    def _listed(self) -> list[str]:
        names = self._names()
        if not names:
            raise CorpusError(f"Corpus {str(self._root)!r} {roots.absence(self._root) or 'has no files'}, {_EXPECTED}.")
        with self._lock:  # the corpus may be another one than at the last audit of this process
            self._files = frozenset(names)
            while self._cursors:
                self._cursors.pop().table.close()
        return names

    def _check(self, names: list[str]) -> None:
        errors: list[str] = []
        for name in names:
            try:
                with closing(self._open(name)) as table:
                    self._named(name, table.schema)
                    return
            except RowError as error:
                errors.append(f"{name[:200]} {error.detail}")
        if why := roots.absence(self._root):
            raise CorpusError(f"Corpus {str(self._root)!r} {why}, {_EXPECTED}.")
        raise CorpusError(f"None of the {len(names)} files of {str(self._root)!r} can be read; {errors[0]}")

    def _open(self, name: str, once: bool = False) -> TableFile:
        try:
            path = resolve_inside(real(self._base()), name)
            _check_file(path)
            table = self._table(path, once)
            decode_names(table.schema)
        except RowError:
            raise
        except (*metadata.UNREADABLE, RuntimeError) as error:  # RuntimeError: a circle of links
            reason = roots.reason_of(error) if isinstance(error, OSError) else Reason.UNREADABLE_FILE
            raise RowError(reason, f"cannot be read ({said(error)}), {_EXPECTED}.") from error
        return table

    def _named(self, name: str, schema: pa.Schema) -> Columns:
        path = self._base() / name
        image, caption = self._columns.image, self._columns.caption
        images = image_columns(schema)
        if image == "image" and image not in schema.names and len(images) == 1:
            image = images[0]
        if caption == "text" and caption not in schema.names and "caption" in schema.names:
            caption = "caption"
        columns = Columns(image, caption)
        metadata.check_columns(path, schema.names, columns)
        if image not in images:
            raise CorpusError(
                f"Column {image!r} of {str(path)!r} holds {schema.field(image).type}, expected the bytes of images, or "
                f"structs with them (columns that have: {images or 'none'}): name the column that holds them "
                f"({metadata.IMAGE_OPTION}); if it names image files, call the table metadata.parquet and put it "
                "beside them."
            )
        return columns

    def _file_count(self, name: str) -> int:
        try:
            with closing(self._open(name)) as table:
                return table.count()
        except RowError:
            return 1

    def _file_rows(self, name: str) -> Iterator[Row]:
        try:
            table = self._open(name, once=True)
        except RowError as error:
            yield Row(name[:200], trouble=error.detail, reason=error.reason, place=Place(name))
            return
        with closing(table):
            try:
                columns = self._named(name, table.schema)
            except CorpusError as error:
                yield from _lost(name, 0, Damage(table.count(), str(error)))
                return
            names = [entry.name for entry in table.schema if entry.name == columns.image or not holds_bytes(entry.type)]
            added = self._added(name)
            for start, piece in table.batches(0, names):
                if isinstance(piece, Damage):
                    yield from _lost(name, start, piece)
                else:
                    yield from self._batch_rows(name, start, piece, columns, added)

    def _batch_rows(
        self, name: str, start: int, batch: pa.RecordBatch, columns: Columns, added: dict[str, object]
    ) -> Iterator[Row]:
        others = {key: values(batch.column(key)) for key in batch.schema.names if key != columns.image}
        images = Images.of(batch.column(columns.image))
        for index in range(batch.num_rows):
            cells = added | {key: column[index] for key, column in others.items()}
            row = metadata.row_of(f"{name} row {start + index + 1}", cells, columns)
            place = _place(name, start + index)
            try:
                data = images.read(index, self._limits)
            except RowError as error:
                trouble = (row.trouble, row.reason) if row.trouble else (error.detail, error.reason)
                yield replace(row, place=place, trouble=trouble[0], reason=trouble[1])
            else:
                yield replace(row, place=place, data=data)

    def _cursor(self, name: str, position: int) -> Cursor:
        for cursor in self._cursors:
            if cursor.name == name and cursor.reaches(position):
                self._cursors.remove(cursor)
                break
        else:
            table = self._open(name)
            try:
                cursor = Cursor(name, table, position, self._named(name, table.schema).image)
            except CorpusError as error:
                table.close()
                raise RowError(Reason.UNREADABLE_FILE, f"cannot be read: {error}") from error
        self._cursors.append(cursor)
        if len(self._cursors) > _CURSORS:
            self._cursors.pop(0).table.close()
        return cursor


class ParquetReader(TableReader):
    """A .parquet file, a pattern of some, or those in a folder and its data/, in the order of their paths."""

    @classmethod
    def fits(cls, root: Root) -> bool:
        """Tell whether there are such files and the first holds bytes, or is damaged."""
        reader = cls(root, Columns("image", "text"), DEFAULT_LIMITS)
        names = reader._names()
        if not names:
            return False
        try:
            with closing(reader._open(names[0])) as table:
                return bool(image_columns(table.schema))
        except RowError:
            return True

    def _base(self) -> Root:
        return self._root if roots.is_folder(self._root) else self._root.parent

    def _names(self) -> list[str]:
        if not roots.is_folder(self._root):
            if self._root.suffix != ".parquet":
                return []
            return shards.find(self._root, ".parquet")[1] if shards.is_pattern(self._root) else [self._root.name]
        return sorted(_parquet_files(self._root) + [f"data/{name}" for name in _parquet_files(self._root / "data")])

    def _table(self, path: Root, once: bool) -> TableFile:  # noqa: ARG002  # Arrow needs it
        return ParquetTable(open_source(path, mapped=False))


class DatasetsReader(TableReader):
    """A folder that `save_to_disk` of Hugging Face datasets wrote, of one dataset or of one for each split.

    Splits are read in the order in which they are listed; the attribute `split` says which, if there are several.
    The library itself is not needed, and nothing in the folder is executed.
    """

    @classmethod
    def fits(cls, root: Root) -> bool:
        """Tell whether the folder says so."""
        return any(roots.is_file(root / name) for name in SAVED)

    def _names(self) -> list[str]:
        if not roots.is_file(self._root / _DICT):
            return self._data_files("")
        splits = _list(self._json(_DICT), "splits", str)
        return [name for split in splits for name in self._data_files(f"{split}/")]

    def _data_files(self, folder: str) -> list[str]:
        name = f"{folder}{_STATE}"
        entries = _list(self._json(name), "_data_files", dict)
        # Once each: a file that is listed a thousand times is no more data.
        return list(dict.fromkeys(f"{folder}{entry.get('filename')}" for entry in entries))

    def _json(self, name: str) -> object:
        try:
            path = resolve_inside(real(self._root), name)
            if isinstance(path, Path) and path.exists() and not path.is_file():
                raise ValueError("it is not a regular file")  # noqa: TRY301  # told below, like the rest
            with open_binary(path) as file:
                text = file.read(metadata.MAX_LINE_BYTES + 1)
            if len(text) > metadata.MAX_LINE_BYTES:
                raise ValueError(f"it is longer than {metadata.MAX_LINE_BYTES} bytes")  # noqa: TRY301  # likewise
            return json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise CorpusError(
                f"{name[:200]!a} of {str(self._root)!r} cannot be read ({said(error)}), expected what save_to_disk "
                "writes: save the dataset again."
            ) from error

    def _added(self, name: str) -> dict[str, object]:
        return {"split": name.split("/", maxsplit=1)[0]} if roots.is_file(self._root / _DICT) else {}

    def _table(self, path: Root, once: bool) -> TableFile:
        # A map finds a batch without reading the others; read from end to end it would count as memory in use.
        return ArrowTable(open_source(path, mapped=not once))


def _check_file(path: Root) -> None:
    if not isinstance(path, Path):
        found = roots.info(path)
        if found["type"] != "file":
            raise RowError(Reason.NOT_A_REGULAR_FILE, f"is a folder, {_EXPECTED}.")
        if found["size"] == 0:
            raise RowError(Reason.EMPTY_FILE, f"has 0 bytes, {_EXPECTED}.")
        return
    if not path.exists():
        raise RowError(Reason.MISSING_FILE, f"is not there, {_EXPECTED}.")
    if not path.is_file():
        raise RowError(Reason.NOT_A_REGULAR_FILE, f"is not a regular file, {_EXPECTED}.")
    if path.stat().st_size == 0:
        raise RowError(Reason.EMPTY_FILE, f"has 0 bytes, {_EXPECTED}.")


def _list(loaded: object, key: str, kind: type[_Entry]) -> list[_Entry]:
    found = loaded.get(key) if isinstance(loaded, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, kind) for entry in found):
        raise CorpusError(f"{key!r} of a saved dataset is {ascii(found)[:200]}, expected a list: save it again.")
    return found


def _parquet_files(folder: Root) -> list[str]:
    if isinstance(folder, Path):
        listed = [(path.name, path.is_dir()) for path in folder.glob("*.parquet")]
    else:
        listed = roots.entries(folder)
    return [name for name, is_dir in listed if name.endswith(".parquet") and not name.startswith(".") and not is_dir]


def _place(name: str, position: int) -> Place:
    return Place(f"{name}/{position}", name, position)


def _lost(name: str, start: int, damage: Damage) -> Iterator[Row]:
    for position in range(start, start + damage.num_rows):
        yield Row(
            f"{name} row {position + 1}",
            trouble=f"cannot be read: {damage.what}; {_EXPECTED}.",
            reason=Reason.UNREADABLE_FILE,
            place=_place(name, position),
        )
