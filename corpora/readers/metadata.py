"""The spellings of a corpus's metadata (CSV, TSV, JSON Lines, Parquet), read as one stream of rows.

Each data row of the file comes out exactly once, whatever is wrong with it.
"""

import codecs
import csv
import difflib
import itertools
import json
import math
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from corpora import roots
from corpora.errors import CorpusError
from corpora.readers.protocol import Columns, Row
from corpora.records import is_storable
from corpora.roots import Root, open_binary

if TYPE_CHECKING:
    from upath import UPath

NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")

MAX_LINE_BYTES = 4 * 2**20
"""A longer line of text is one malformed row. It is skipped in pieces, never held in memory."""

IMAGE_OPTION = "--image-column, or image_column in [corpus] of the AUDIT.toml"
CAPTION_OPTION = "--caption-column, or caption_column in [corpus] of the AUDIT.toml"
"""Where people say which column it is."""

_BATCH_ROWS = 1024
_Item = TypeVar("_Item")

# Arrow does not keep to its own exceptions when a Parquet file is damaged.
UNREADABLE = (OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, pa.ArrowException)


def is_table(root: Root) -> bool:
    """Tell whether a root is not a folder, but a file with a spelling of metadata."""
    return root.suffix in _READERS and roots.is_file(root)


def find(root: Root) -> Root:
    """Find the one metadata file of a corpus folder.

    Raises:
        CorpusError: no such folder, no metadata file or several, or one that is not a regular file inside it.
    """
    expected = f"expected a folder with exactly one of {', '.join(NAMES)}"
    if not isinstance(root, Path):
        return _find_remote(root, expected)
    if not root.is_dir():
        raise CorpusError(f"Corpus {str(root)!r} is not a folder, {expected}: correct the path.")
    found = [root / name for name in NAMES if os.path.lexists(root / name)]
    if not found:
        there = sorted(
            entry.name for entry in root.glob("*.*") if entry.suffix in {".csv", ".tsv", ".jsonl", ".parquet"}
        )
        raise CorpusError(
            f"Corpus {str(root)!r} has no metadata file (similar files: {there or 'none'}), {expected}: "
            "add it or rename yours."
        )
    _check_one(root, found, expected)
    return checked(found[0], root, expected)


def checked(path: Root, root: Root, expected: str) -> Root:
    """Return the path of a listing if it is a regular file inside of a corpus folder, links followed.

    Raises:
        CorpusError: it is not; ends in what was `expected`.
    """
    if not isinstance(path, Path) or not isinstance(root, Path):
        return path  # there are no links, and what is no file does not open
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(root)):
        raise CorpusError(f"{str(path)!r} leads out of the corpus, {expected}: copy the file into the folder.")
    try:
        regular = stat.S_ISREG(real.stat().st_mode)
    except OSError as error:
        raise CorpusError(f"{str(path)!r} cannot be read ({error.strerror}), {expected}.") from error
    if not regular:
        raise CorpusError(f"{str(path)!r} is not a regular file, {expected}: replace it.")
    return path


def _find_remote(root: "UPath", expected: str) -> "UPath":
    found = [root / name for name in NAMES if roots.is_file(root / name)]
    if not found:
        why = roots.absence(root) or f"has no metadata file: add it or rename yours{roots.hint(root)}"
        raise CorpusError(f"Corpus {str(root)!r} {why}; {expected}.")
    _check_one(root, found, expected)
    return found[0]


def _check_one(root: Root, found: Sequence[Root], expected: str) -> None:
    if len(found) > 1:
        raise CorpusError(
            f"Corpus {str(root)!r} has {' and '.join(path.name for path in found)}, {expected}: keep the one "
            "that holds and move the others away."
        )


def read_rows(metadata: Root, columns: Columns) -> Iterator[Row]:
    """Stream the rows of a metadata file; header, columns and the first row are read before it returns.

    Raises:
        CorpusError: unreadable or corrupt, a required column missing or not of text, or zero rows; for a
            damage further down in the file also later, while the rows are read.
    """
    rows = _with_errors(metadata, _READERS[metadata.suffix](metadata, columns))
    first = next(rows, None)
    if first is None:
        raise CorpusError(f"{str(metadata)!r} has zero rows, expected at least one: export it again.")
    return itertools.chain([first], rows)


def count_rows(metadata: Root) -> int:
    """Count the rows that `read_rows` yields, without making anything of them.

    Raises:
        CorpusError: unreadable or corrupt.
    """
    return sum(_with_errors(metadata, _COUNTERS[metadata.suffix](metadata)))


def _with_errors(metadata: Root, rows: Iterator[_Item]) -> Iterator[_Item]:
    try:
        yield from rows
    except CorpusError:
        raise
    except UNREADABLE as error:
        raise CorpusError(
            f"{str(metadata)!r} cannot be read ({type(error).__name__}: {str(error)[:200]}), expected a "
            f"readable {metadata.suffix[1:]} file: restore it from its source or export it again."
        ) from error


def _read_csv(metadata: Root, columns: Columns) -> Iterator[Row]:
    records = _csv_records(metadata)
    number, header = next(records, (1, []))
    if isinstance(header, str):
        raise CorpusError(
            f"The header of {str(metadata)!r} is not CSV ({header}), "
            f"expected {'tab' if metadata.suffix == '.tsv' else 'comma'}-separated UTF-8."
        )
    names = [name or f"column_{position}" for position, name in enumerate(header, start=1)]
    check_columns(metadata, names, columns)
    if not all(map(is_storable, names)):
        raise CorpusError(
            f"The header of {str(metadata)!r} holds NUL or bytes that are not UTF-8 ({excerpt(names)}), "
            "expected UTF-8: export it again as UTF-8."
        )
    for number, record in records:
        where = f"line {number}"
        if isinstance(record, str):
            yield Row(where, trouble=f"is not CSV: {record}")
        elif len(record) != len(names):
            yield Row(
                where,
                trouble=f"has {len(record)} fields where the header has {len(names)}: {excerpt(record)}",
            )
        else:
            yield row_of(where, dict(zip(names, record, strict=True)), columns)


def _count_csv(metadata: Root) -> Iterator[int]:
    records = _csv_records(metadata)
    next(records, None)
    yield from (1 for _ in records)


def _csv_records(metadata: Root) -> Iterator[tuple[int, list[str] | str]]:
    """Yield records with the number of their first line; a text in place of a record says why there is none.

    A stray quote would swallow the lines up to the next one. Here it costs its own line only: what the reader
    had taken beyond that line is read again as lines of their own. A .tsv is the same with tabs: pandas and
    spreadsheets quote fields with tabs, line breaks or quotes there too.
    """
    delimiter = "\t" if metadata.suffix == ".tsv" else ","
    source = lines(metadata)
    again: deque[tuple[int, str | None]] = deque()

    def feed(taken: list[tuple[int, str | None]]) -> Iterator[str]:
        size = 0
        while line := again.popleft() if again else next(source, None):
            taken.append(line)
            text = line[1]
            # csv has a limit of its own, which any library in the process may have lifted.
            if text is None or (size := size + len(text)) > MAX_LINE_BYTES:
                raise csv.Error(_TOO_LONG)
            yield text

    while True:
        taken: list[tuple[int, str | None]] = []
        try:
            record = next(csv.reader(feed(taken), delimiter=delimiter, strict=True), None)
        except csv.Error as error:
            yield taken[0][0], str(error)
            again.extendleft(reversed(taken[1:]))
            continue
        if record is None:
            return
        if record:  # a blank line is none
            yield taken[0][0], record


def _read_jsonl(metadata: Root, columns: Columns) -> Iterator[Row]:
    # Objects need not all have the same keys: a column is missing when no row has it. Mostly line 1 tells.
    names: dict[str, None] = {}
    for _, text in lines(metadata):
        loaded = json_object(text)
        if isinstance(loaded, dict):
            names.update(dict.fromkeys(loaded))
        if columns.image in names and columns.caption in names:
            break
    else:
        check_columns(metadata, list(names), columns)
    for number, text in lines(metadata):
        where = f"line {number}"
        if text is not None and not text.strip():
            continue
        loaded = json_object(text)
        yield Row(where, trouble=loaded) if isinstance(loaded, str) else row_of(where, loaded, columns)


def _count_jsonl(metadata: Root) -> Iterator[int]:
    return (1 for _, text in lines(metadata) if text is None or text.strip())


def json_object(text: str | None) -> dict[str, object] | str:
    """The JSON object that a text holds (None: it was too long), or what is wrong with it, after 'the row ...'."""
    if text is None:
        return _TOO_LONG
    try:
        loaded = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:  # also for integers of more digits than Python reads
        return f"is not JSON ({error}): {excerpt(text)}"
    if not isinstance(loaded, dict):
        return f"is JSON but not an object: {excerpt(text)}"
    return loaded


def _distinct(items: list[tuple[str, object]]) -> dict[str, object]:
    # JSON leaves open which of two equal keys holds, so two readers may see two captions.
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
                    f"Column {entry.name!r} of {str(metadata)!r} is {entry.type}, expected text: cast it, or name "
                    f"another ({IMAGE_OPTION if entry.name == columns.image else CAPTION_OPTION})."
                )
            if is_bytes(kind):
                raise CorpusError(
                    f"Column {entry.name!r} of {str(metadata)!r} holds raw bytes ({entry.type}), expected "
                    "attributes that read as text: drop it."
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
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null))


def is_bytes(kind: pa.DataType) -> bool:
    """Tell whether cells of this type are raw bytes."""
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def column_values(column: pa.Array) -> list[object]:
    """The cells of a column for `row_of`: text that is not UTF-8 with surrogates, errors in place of what fails."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if _is_text(kind):
        # Parquet does not check that its strings are UTF-8: one bad cell must not take its batch along.
        cells = column.cast(pa.large_binary()).to_pylist()
        return [None if cell is None else cell.decode("utf-8", "surrogateescape") for cell in cells]
    python = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_float64, pa.types.is_nested)
    if any(test(kind) for test in python):
        return [_parquet_value(cell) for cell in column]
    # Dates, times, decimals, narrow floats: Arrow writes them shorter than Python and knows more years.
    texts: list[object] = column.cast(pa.string()).to_pylist()
    return texts


def _parquet_value(cell: pa.Scalar) -> object:
    try:
        return cell.as_py()
    except (ValueError, OverflowError) as error:  # nested text that is not UTF-8, a year beyond 9999
        return error


def row_of(where: str, cells: dict[str, object], columns: Columns) -> Row:
    """A row of named values; all but image and caption become attributes, with trouble if one has no text."""
    file_name = cells.pop(columns.image, None)
    caption = cells.pop(columns.caption, None)
    attributes, trouble = attributes_of(cells)
    return Row(where, file_name, caption, attributes, trouble)


def attributes_of(cells: dict[str, object]) -> tuple[dict[str, str], str | None]:
    """The attributes of a row as plain text without the missing ones, and what is wrong with one, if any."""
    attributes: dict[str, str] = {}
    trouble: str | None = None
    for name, value in cells.items():
        try:
            text = _text(value)
        except (ValueError, OverflowError, RecursionError) as error:
            trouble = f"has a value in column {name[:200]!r} that has no text form ({error})"
            continue
        if text:
            attributes[name] = text
            if not is_storable(name) or not is_storable(text):
                trouble = f"holds NUL or bytes that are not UTF-8 in column {name[:200]!r}"
    return attributes, trouble


def _text(value: object) -> str:
    """Plain text of an attribute; empty for what counts as missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):  # NaN: a missing number in pandas
        return ""
    if isinstance(value, Exception):
        raise value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return str(value)


def check_columns(metadata: Root, names: Sequence[str], columns: Columns) -> None:
    """Raise CorpusError if a required column is missing, or a name occurs twice."""
    found = ", ".join(map(ascii, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    for required, option in ((columns.image, IMAGE_OPTION), (columns.caption, CAPTION_OPTION)):
        if required not in names:
            close = difflib.get_close_matches(required, names[:1000], n=1, cutoff=0.0)
            raise CorpusError(
                f"{str(metadata)!r} has no column {required!r} (columns found: {found or 'none'}"
                + (f"; the nearest is {close[0]!a}" if close else "")
                + f"): rename the column, or name the one that holds it: {option}."
            )
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if repeated:
        raise CorpusError(
            f"{str(metadata)!r} has the columns {', '.join(map(ascii, sorted(repeated)))} more than once, "
            "expected distinct names: rename them."
        )


def lines(metadata: Root) -> Iterator[tuple[int, str | None]]:
    """Physical lines counted from 1, without a byte order mark; None for one beyond `MAX_LINE_BYTES`.

    Raises:
        CorpusError: the file is UTF-16.
    """
    with open_binary(metadata) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise CorpusError(f"{str(metadata)!r} is UTF-16, expected UTF-8: export it again as UTF-8.")
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                yield number, None
            else:
                yield number, line.decode("utf-8", "surrogateescape")


def excerpt(content: object) -> str:
    """What is shown of a content, at most 200 characters of ASCII."""
    # ascii: bytes that are not UTF-8 must not reach a log or a store.
    text = ascii(content)
    return text if len(text) <= 200 else f"{text[:200]}..."


_TOO_LONG = f"the row is longer than {MAX_LINE_BYTES} bytes"
_READERS: dict[str, Callable[[Root, Columns], Iterator[Row]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
_COUNTERS: dict[str, Callable[[Root], Iterator[int]]] = {
    ".csv": _count_csv,
    ".tsv": _count_csv,
    ".jsonl": _count_jsonl,
    ".parquet": _count_parquet,
}
