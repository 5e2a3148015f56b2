"""Where in a file that is not what it was the difference lies, as far as the file itself can tell."""

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_MAGIC = b"PAR1"
_PATIENCE = 600.0
"""Seconds that looking into a damaged file may take."""
MEMORY = 8 << 30
"""Bytes of address space for it: pyarrow takes more than a gigabyte of that, hardly any of it memory, to begin with."""
_UNREADABLE = (OSError, pa.ArrowException, MemoryError, OverflowError, ValueError)


def in_parquet(path: Path) -> str:
    """Where a Parquet file is damaged, as `looked_into` says, by a process of its own.

    Damage can make a reader crash, or ask for all memory there is; that must not end what verifies.
    """
    # -P: so that no module of this folder is taken for another's.
    command = [sys.executable, "-P", __file__, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False)  # noqa: S603  # ourselves
    except subprocess.TimeoutExpired:
        return f"unknown: reading it took more than {_PATIENCE:.0f} s"
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0 or not said:
        return f"footer or pages: so damaged that its reader crashes (exit code {done.returncode})"
    return said


def looked_into(path: Path) -> str:
    """Where a Parquet file of ours is damaged: its header or footer by bytes, its pages by rows and column.

    Pages carry checksums. What none of them covers is left for the footer, the headers of pages, and what was rewritten
    as a whole.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(max(0, size - 8))
        end = file.read()
    footer = size - 8 - int.from_bytes(end[:4], "little")
    if start != _MAGIC:
        return f"header, bytes 0 to 3: {start!r}, expected {_MAGIC!r}"
    if size < 12 or end[4:] != _MAGIC:
        return (
            f"footer, bytes {max(0, size - 4)} to {size - 1}: {end[-4:]!r}, expected {_MAGIC!r}: cut off, or more came"
        )
    if footer < 4:
        return f"footer, bytes {size - 8} to {size - 5}: its length does not fit into the file's {size} bytes"
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as opened:
            fault = next(_in_pages(opened, footer), None)
    except _UNREADABLE as error:
        fault = f"footer, bytes {footer} to {size - 1}: cannot be read ({_line(error)})"
    return fault or (
        f"footer, bytes {footer} to {size - 1}, or a page's header, or the file was written anew: all pages hold their "
        "checksums"
    )


def _in_pages(opened: Any, footer: int) -> Iterator[str]:
    chunks = list(_chunks(opened.metadata))
    if (told := max((end for _, _, end, _ in chunks), default=4)) != footer:
        yield f"size: pages end at byte {told}, and the footer begins at {footer}: bytes were added or taken away"
    first = 0
    for group in range(opened.metadata.num_row_groups):
        last = first + opened.metadata.row_group(group).num_rows - 1
        for _, column, end, begin in (chunk for chunk in chunks if chunk[0] == group):
            if fault := _unread(opened, group, column):
                yield f"rows {first} to {last}, column {column}, bytes {begin} to {end - 1}: {fault}"
        first = last + 1


def _chunks(metadata: Any) -> Iterator[tuple[int, str, int, int]]:
    """Row group, column, end and beginning of each column chunk."""
    for group in range(metadata.num_row_groups):
        for number in range(metadata.row_group(group).num_columns):
            chunk = metadata.row_group(group).column(number)
            offsets = [chunk.data_page_offset, chunk.dictionary_page_offset]
            begin = min(offset for offset in offsets if offset is not None and offset >= 4)
            yield group, chunk.path_in_schema, begin + chunk.total_compressed_size, begin


def _unread(opened: Any, group: int, column: str) -> str | None:
    try:
        opened.read_row_group(group, columns=[column])
    except _UNREADABLE as error:
        return _line(error)
    return None


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def in_manifest(data: bytes, differing: Mapping[str, str]) -> str:
    """Where a manifest is not what it was: the key, where another value of it tells, else the byte, else unknown.

    differing: what is said of listed files that are not what the manifest says, by path.
    """
    try:
        record = json.loads(data.decode())
    except UnicodeDecodeError as error:
        return f"byte {error.start}: no UTF-8"
    except ValueError as error:
        return f"no JSON ({error})"
    text = (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()
    if text != data:
        at = next((at for at, (one, other) in enumerate(zip(text, data, strict=False)) if one != other), None)
        return f"byte {min(len(text), len(data)) if at is None else at}: not as a manifest is written"
    return _at_key(record, differing) or "a value that no other one tells; compare it with a backup"


def _at_key(record: Any, differing: Mapping[str, str]) -> str | None:
    if not isinstance(record, dict):
        return "no object"
    for number, entry in enumerate(record.get("files", [])):
        if isinstance(entry, dict) and entry.get("path") in differing:
            return f"files[{number}].sha256 or the file itself: {entry['path']}"
    config = json.dumps(record.get("config"), sort_keys=True, separators=(",", ":")).encode()
    if hashlib.sha256(config).hexdigest() != record.get("config_digest"):
        return "config or config_digest: one is not that of the other"
    return None


if __name__ == "__main__":
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash that is expected leaves no dump
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))  # else damage may ask for all that the machine has
    sys.stdout.write(looked_into(Path(sys.argv[1])))
