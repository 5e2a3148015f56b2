"""Reading of metadata files (CSV, TSV, JSON Lines, Parquet) row by row.

Each data row of a file is yielded exactly once, even if it is malformed.
"""

import codecs
import csv
import difflib
import itertools
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from corpora import roots
from corpora.errors import CorpusError, RowError
from corpora.readers.protocol import Columns, Row, require_rows
from corpora.records import is_storable
from corpora.roots import Root, open_binary

NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")

MAX_LINE_BYTES = 4 * 2**20
"""Length limit of a line in bytes. A longer line becomes one rejected row, and is never in memory completely."""

IMAGE_OPTION = "--image-column, or image_column in [corpus] of the AUDIT.toml"
CAPTION_OPTION = "--caption-column, or caption_column in [corpus] of the AUDIT.toml"

_BATCH_ROWS = 1024
_TOO_LONG = f"the row is longer than {MAX_LINE_BYTES} bytes"
_Item = TypeVar("_Item")

UNREADABLE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, pa.ArrowException)
"""Exceptions that pyarrow raises for damaged files. They are not all subclasses of `ArrowException`."""


def is_table(root: Root) -> bool:
    """Return whether a path is a file with the suffix of a metadata file: .csv, .tsv, .jsonl or .parquet."""
    return root.suffix in _READERS and roots.is_file(root)


def find(root: Root) -> Root:
    """Return the only metadata file of a corpus folder. Raises CorpusError if there is none, or more than one."""
    expected = f"expected a folder with exactly one of {', '.join(NAMES)}"
    similar = ""
    if isinstance(root, Path):
        if not root.is_dir():
            raise CorpusError(f"Corpus {str(root)!r} is not a folder ({expected}). Correct the path.")
        tables = sorted(path.name for path in root.glob("*.*") if path.suffix in _READERS)
        similar = f" (similar files: {tables or 'none'})"
    paths = [root / name for name in NAMES]
    found = [path for path in paths if (os.path.lexists(path) if isinstance(path, Path) else roots.is_file(path))]
    return select_listing(root, found, root, f"has no metadata file{similar}", expected)


def select_listing(root: Root, found: Sequence[Root], folder: Root, missing: str, expected: str) -> Root:
    """Return the list file of a corpus (the file that lists its rows), if there is only one candidate.

    Args:
        root: The path that the user gave, for error messages.
        found: All candidates.
        folder: The corpus folder.
        missing: Predicate of the error message if there is no candidate, such as "has no .tsv file".
        expected: Part of the error messages that states what is expected. It begins with the word "expected".

    Raises:
        CorpusError: There is no candidate, there are several, or `check_listing` rejects the only one.
    """
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:20])
        raise CorpusError(
            f"Corpus {str(root)!r} has several files that list its rows: {names}; {expected}. Give the path of one of "
            "them, or move the others away."
        )
    if not found:
        problem = roots.describe_absence(root) or f"{missing}; add the file, or correct the path{roots.web_hint(root)}"
        raise CorpusError(f"Corpus {str(root)!r} {problem} ({expected}).")
    return check_listing(found[0], folder, expected)


def check_listing(path: Root, folder: Root, expected: str) -> Root:
    """Check that a list file is a regular file inside of the corpus folder, and return its path.

    Raises CorpusError. For a file outside of the folder, the message contains `expected`.
    """
    if not roots.is_inside(path, folder):
        raise CorpusError(f"{str(path)!r} leads out of the corpus ({expected}). Copy the file into the folder.")
    try:
        if isinstance(path, Path):
            roots.check_file(path)
    except RowError as error:
        raise CorpusError(f"{str(path)!r} {error.detail}") from error
    return path


def read_rows(metadata: Root, columns: Columns) -> Iterator[Row]:
    """Return an iterator over the rows of a metadata file. The header and the first row are read immediately.

    Raises CorpusError if the file is unreadable or has no rows, or a required column is missing or not text.
    """
    rows = _translate_errors(metadata, _READERS[metadata.suffix][0](metadata, columns))
    return require_rows(rows, f"{str(metadata)!r} has zero rows (expected at least one). Export it again.")


def count_rows(metadata: Root) -> int:
    """Return the number of rows that `read_rows` yields, without creating the rows. Raises CorpusError."""
    return sum(_translate_errors(metadata, _READERS[metadata.suffix][1](metadata)))


def _translate_errors(metadata: Root, rows: Iterator[_Item]) -> Iterator[_Item]:
    try:
        yield from rows
    except CorpusError:
        raise
    except UNREADABLE as error:
        raise CorpusError(
            f"{str(metadata)!r} cannot be read ({summarize(error)}), expected a readable {metadata.suffix[1:]} file; "
            "restore it from its source or export it again."
        ) from error


def _read_csv(metadata: Root, columns: Columns) -> Iterator[Row]:
    records = _csv_records(metadata)
    number, header = next(records, (1, []))
    if isinstance(header, str):
        separator = "tab" if metadata.suffix == ".tsv" else "comma"
        raise CorpusError(
            f"The header of {str(metadata)!r} is not CSV ({header}), expected {separator}-separated UTF-8; export it "
            "again."
        )
    names = [name or f"column_{position}" for position, name in enumerate(header, start=1)]
    check_columns(metadata, names, columns)
    if not all(map(is_storable, names)):
        raise CorpusError(
            f"The header of {str(metadata)!r} contains NUL or bytes that are not UTF-8 ({excerpt(names)}). "
            "Export it again as UTF-8."
        )
    for number, record in records:
        location = f"line {number}"
        if isinstance(record, str):
            yield Row(location, problem=f"is not CSV: {record}")
        else:
            yield row_of_fields(location, record, names, columns)


def _count_csv(metadata: Root) -> Iterator[int]:
    return (1 for _ in itertools.islice(_csv_records(metadata), 1, None))  # without the header


def _csv_records(metadata: Root) -> Iterator[tuple[int, list[str] | str]]:
    """Yield each CSV record with the number of its first line, or an error message for a record that is not CSV.

    By the rules of CSV, a field with an unbalanced quote continues to the next quote. If that makes a record invalid,
    only its first line is an error, and the following lines are parsed again. A .tsv file is parsed in the same way
    with tabs as separators, because pandas and spreadsheets also quote fields in .tsv files.
    """
    delimiter = "\t" if metadata.suffix == ".tsv" else ","
    source = lines(metadata)
    again: deque[tuple[int, str | None]] = deque()

    def feed(consumed: list[tuple[int, str | None]]) -> Iterator[str]:
        size = 0
        while line := again.popleft() if again else next(source, None):
            consumed.append(line)
            text = line[1]
            # The limit of the csv module is not used, because any library in the process can change it.
            if text is None or (size := size + len(text)) > MAX_LINE_BYTES:
                raise csv.Error(_TOO_LONG)
            yield text

    while True:
        consumed: list[tuple[int, str | None]] = []
        try:
            record = next(csv.reader(feed(consumed), delimiter=delimiter, strict=True), None)
        except csv.Error as error:
            yield consumed[0][0], str(error)
            again.extendleft(reversed(consumed[1:]))
            continue
        if record is None:
            return
        if record:  # empty for a blank line
            yield consumed[0][0], record


def _read_jsonl(metadata: Root, columns: Columns) -> Iterator[Row]:
    # Objects may have different keys, so a column is missing only if no line has it. Usually line 1 has both columns.
    names: dict[str, None] = {}
    for _, text in lines(metadata):
        loaded = parse_object(text)
        if isinstance(loaded, dict):
            names.update(dict.fromkeys(loaded))
        if columns.image in names and columns.caption in names:
            break
    else:
        check_columns(metadata, list(names), columns)
    for number, text in lines(metadata):
        location = f"line {number}"
        if text is not None and not text.strip():
            continue
        loaded = parse_object(text)
        yield Row(location, problem=loaded) if isinstance(loaded, str) else row_of(location, loaded, columns)


def _count_jsonl(metadata: Root) -> Iterator[int]:
    return (1 for _, text in lines(metadata) if text is None or text.strip())


def parse_object(text: str | None) -> dict[str, object] | str:
    """Parse a JSON object. `text` is None if it was too long to read.

    Returns the object, or an error message as the predicate of a sentence, such as "is not JSON (...)".
    """
    if text is None:
        return f"is longer than {MAX_LINE_BYTES} bytes"
    try:
        loaded = json.loads(text, object_pairs_hook=_distinct_keys)
    except (ValueError, RecursionError) as error:  # ValueError also for integers with too many digits for Python
        return f"is not JSON ({error}): {excerpt(text)}"
    return loaded if isinstance(loaded, dict) else f"is JSON but not an object: {excerpt(text)}"


def _distinct_keys(items: list[tuple[str, object]]) -> dict[str, object]:
    # JSON does not define which of two equal keys is valid, so different parsers may read different captions.
    loaded = dict(items)
    if len(loaded) < len(items):
        raise ValueError("a key occurs twice")
    return loaded


def _read_parquet(metadata: Root, columns: Columns) -> Iterator[Row]:
    with open_binary(metadata) as opened, pq.ParquetFile(opened) as file:
        schema = file.schema_arrow
        check_columns(metadata, schema.names, columns)
        for entry in schema:
            kind = entry.type.value_type if pa.types.is_dictionary(entry.type) else entry.type
            if entry.name in (columns.image, columns.caption) and not _is_text(kind):
                raise CorpusError(
                    f"Column {entry.name!r} of {str(metadata)!r} is {entry.type} (expected text). Cast it, or use "
                    f"another one ({IMAGE_OPTION if entry.name == columns.image else CAPTION_OPTION})."
                )
            if is_bytes(kind):
                raise CorpusError(
                    f"Column {entry.name!r} of {str(metadata)!r} is {entry.type} (expected text or numbers). Drop the "
                    "column."
                )
        number = 1
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            values = [column_values(column) for column in batch.columns]
            for cells in zip(*values, strict=True):
                yield row_of(f"row {number}", dict(zip(schema.names, cells, strict=True)), columns)
                number += 1


def _count_parquet(metadata: Root) -> Iterator[int]:
    with open_binary(metadata) as opened, pq.ParquetFile(opened) as file:
        yield file.metadata.num_rows


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.null())


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is one of the binary types."""
    return kind in (pa.binary(), pa.large_binary()) or pa.types.is_fixed_size_binary(kind)


def column_values(column: pa.Array) -> list[object]:
    """Convert an Arrow column to a list of Python values for `row_of`.

    Invalid UTF-8 becomes text with lone surrogates. A value that cannot be converted becomes an exception object.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if _is_text(kind):
        # Parquet files may contain invalid UTF-8, and one invalid value must not make its batch unreadable.
        cells = column.cast(pa.large_binary()).to_pylist()
        return [None if cell is None else cell.decode("utf-8", "surrogateescape") for cell in cells]
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or kind == pa.float64() or pa.types.is_nested(kind):
        return [_parquet_value(cell) for cell in column]
    # For dates, times, decimals and floats of 16 or 32 bits, Arrow's text is shorter than Python's and supports more
    # years.
    texts: list[object] = column.cast(pa.string()).to_pylist()
    return texts


def _parquet_value(cell: pa.Scalar) -> object:
    try:
        return cell.as_py()
    except (ValueError, OverflowError) as error:  # nested text that is not UTF-8, a year above 9999
        return error


def row_of_fields(location: str, fields: Sequence[str], names: Sequence[str], columns: Columns) -> Row:
    """Convert the fields of a CSV record to a row. `names` are the columns of the header. See `row_of`."""
    if len(fields) != len(names):
        problem = f"has {len(fields)} fields where the header has {len(names)}: {excerpt(fields)}"
        return Row(location, problem=problem)
    return row_of(location, dict(zip(names, fields, strict=True)), columns)


def row_of(location: str, cells: dict[str, object], columns: Columns) -> Row:
    """Convert values by column name to a row. All values except image and caption become attributes.

    The image and the caption are removed from `cells`. `location` describes the row in messages (`Row.location`).
    """
    file_name = cells.pop(columns.image, None)
    caption = cells.pop(columns.caption, None)
    attributes, problem = attributes_of(cells)
    return Row(location, file_name, caption, attributes, problem)


def attributes_of(cells: dict[str, object]) -> tuple[dict[str, str], str | None]:
    """Convert values by column name to attributes, which are texts. Missing values are omitted.

    The second result is an error message (the predicate of a sentence), or None if there is no error.
    """
    attributes: dict[str, str] = {}
    problem: str | None = None
    for name, value in cells.items():
        try:
            text = _text(value)
        except (ValueError, OverflowError, RecursionError) as error:
            problem = f"has a value in column {name[:200]!r} that cannot be converted to text ({error})"
            continue
        if text:
            attributes[name] = text
            if not is_storable(name) or not is_storable(text):
                problem = f"contains NUL or bytes that are not UTF-8 in column {name[:200]!r}"
    return attributes, problem


def _text(value: object) -> str:
    """Convert the value of an attribute to text: empty if the value is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas uses NaN for missing numbers
        return ""
    if isinstance(value, Exception):
        raise value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return str(value)


def check_columns(metadata: Root, names: Sequence[str], columns: Columns) -> None:
    """Raise CorpusError if a table lacks a required column, or has two columns of the same name."""
    found = ", ".join(map(ascii, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    for required, option in ((columns.image, IMAGE_OPTION), (columns.caption, CAPTION_OPTION)):
        if required not in names:
            close = difflib.get_close_matches(required, names[:1000], n=1, cutoff=0.0)
            raise CorpusError(
                f"{str(metadata)!r} has no column {required!r} (columns found: {found or 'none'}"
                + (f"; the nearest is {close[0]!a}" if close else "")
                + f"). Rename the column, or choose the right one with {option}."
            )
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if repeated:
        raise CorpusError(
            f"{str(metadata)!r} has the columns {', '.join(map(ascii, sorted(repeated)))} more than once "
            "(expected distinct names). Rename them."
        )


def lines(metadata: Root) -> Iterator[tuple[int, str | None]]:
    """Yield the number of each line, counted from 1, and its text, or None if it is longer than `MAX_LINE_BYTES`.

    A byte order mark is removed. Raises CorpusError if the file is UTF-16.
    """
    with open_binary(metadata) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise CorpusError(f"{str(metadata)!r} is UTF-16 (expected UTF-8). Export it again as UTF-8.")
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                yield number, None
            else:
                yield number, line.decode("utf-8", "surrogateescape")


def excerpt(content: object) -> str:
    """Return the first 200 characters of a value's ASCII representation, for a message."""
    # ASCII, because invalid UTF-8 must not reach a log or a lake.
    text = ascii(content)
    return text if len(text) <= 200 else f"{text[:200]}..."


def summarize(error: BaseException) -> str:
    """Return the type of an exception and the first 200 characters of its text, for a message."""
    return f"{type(error).__name__}: {str(error)[:200]}"


_READERS: dict[str, tuple[Callable[[Root, Columns], Iterator[Row]], Callable[[Root], Iterator[int]]]] = {
    ".csv": (_read_csv, _count_csv),
    ".tsv": (_read_csv, _count_csv),
    ".jsonl": (_read_jsonl, _count_jsonl),
    ".parquet": (_read_parquet, _count_parquet),
}
