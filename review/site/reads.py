"""The log of reads: which signed-in user opened which page or download, of which run and pair, and when.

LAKE.reads/reads.jsonl     one JSON object a line, in a folder beside the lake that only its owner can read
LAKE.reads/reads.1.jsonl   the lines before; each file has at most 10 MB, and the oldest of ten is deleted

A line is written before the answer is sent. It has neither filters nor queries, which can contain captions, nor full
names, which the users file has. Several sites can write to one log.
"""

import contextlib
import fcntl
import json
import logging
import operator
import os
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import stores
from stores import InputError, Root

log = logging.getLogger("m2ib_audit.review")

MAX_BYTES: Final = 10_000_000
MAX_FILES: Final = 10
ERASED: Final = "[erased]"
"""Replacement of the id of an erased pair."""
_MAX_CHARS: Final = 200  # of a value


class ReadsError(InputError):
    """The log of reads cannot be written; the message says what to change."""


def get_folder(lake: Root) -> Path:
    """Return the folder of the log of reads: beside a local lake; in the working directory for object storage."""
    folder = lake.resolve().parent if isinstance(lake, Path) else Path.cwd()
    return folder / f"{lake.resolve().name if isinstance(lake, Path) else lake.name or 'lake'}.reads"


class ReadsLog:
    """A log of reads in a folder. All methods are thread-safe, and safe against other processes."""

    def __init__(self, folder: Path, lake: Root) -> None:
        """Create the folder. Raises ReadsError if it cannot be written, or is in the lake."""
        self.folder = folder
        if isinstance(lake, Path) and folder.resolve().is_relative_to(lake.resolve()):
            raise ReadsError(
                f"--reads: got {folder}, which is in the lake, expected a folder elsewhere; choose another"
            )
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock(), self._open():
                pass
        except OSError as error:
            raise ReadsError(
                f"log of reads: cannot be written to {folder} ({error.strerror or error}), expected a folder of this "
                "account; use the account of the site, or another folder: m2ib-audit review --reads FOLDER"
            ) from error

    def add(self, **values: Any) -> None:
        """Append a line with the time and these values, except for None. An error is logged, and nobody is kept out."""
        shown = {key: str(value)[:_MAX_CHARS] for key, value in values.items() if value is not None}
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **shown}).encode() + b"\n"
        try:
            with self._lock():
                with self._open() as file:
                    file.write(line)
                    size = file.tell()
                if size > MAX_BYTES:
                    self._rotate()
        except OSError as error:
            text = "the log of reads cannot be written to %s: %s"
            log.error(text, self.folder, error)  # noqa: TRY400  # the message is complete

    def erase_pairs(self, pair_ids: Iterable[str]) -> int:
        """Replace the ids of erased pairs, and return the number of lines that had one."""
        erased, changed = set(pair_ids), 0
        with self._lock():
            for path in filter(Path.exists, map(self._get_path, range(MAX_FILES))):
                old = path.read_bytes().splitlines(keepends=True)
                new = [_erase(line, erased) for line in old]
                if new != old:
                    changed += sum(map(operator.ne, new, old))
                    with stores.write_atomically(path) as temporary:
                        temporary.touch(0o600)
                        temporary.write_bytes(b"".join(new))
        return changed

    def _get_path(self, number: int) -> Path:
        return self.folder / (f"reads.{number}.jsonl" if number else "reads.jsonl")

    def _open(self) -> BinaryIO:
        return os.fdopen(os.open(self._get_path(0), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")

    def _rotate(self) -> None:
        for number in reversed(range(MAX_FILES - 1)):
            with contextlib.suppress(FileNotFoundError):
                self._get_path(number).replace(self._get_path(number + 1))

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def _erase(line: bytes, pair_ids: Collection[str]) -> bytes:
    """Return a line without the id of an erased pair."""
    try:
        values = json.loads(line)
    except ValueError:  # somebody edited it
        return line
    return json.dumps(values | {"pair": ERASED}).encode() + b"\n" if values.get("pair") in pair_ids else line
