"""Detection of repeated pairs in bounded memory, with a temporary file for the pairs that do not fit."""

import sqlite3
from collections.abc import Sequence

from corpora.errors import CorpusError

_CACHE_KIBIBYTES = 32 * 1024
_ROWS_PER_STATEMENT = 256  # SQLite limits the number of parameters


class FirstRows:
    """Mapping of each pair to the number of its first row.

    SQLite moves the mapping to a temporary file when it needs more memory than `_CACHE_KIBIBYTES`. The file is deleted
    even if the process is killed.
    """

    def __init__(self) -> None:
        # "" opens a private database, which SQLite writes to a file only when the cache is full. The thread that reads
        # pairs may change between rows, but two threads never read at the same time.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (
            f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}",
            "PRAGMA journal_mode = OFF",
            "CREATE TABLE pairs (id BLOB PRIMARY KEY, first INTEGER NOT NULL) WITHOUT ROWID",
            "BEGIN",  # never committed: the data are not needed after the connection is closed
        ):
            self._database.execute(statement)

    def add(self, rows: Sequence[tuple[str, int]]) -> list[int]:
        """Record rows, each given as its pair id and its number.

        Returns:
            For each row, the number of the first row with the same pair: its own number if the pair is new.

        Raises:
            CorpusError: The temporary file cannot be written.
        """
        keys = [bytes.fromhex(pair_id.replace("-", "")) for pair_id, _ in rows]
        numbers = [number for _, number in rows]
        execute = self._database.execute
        try:
            new = 0
            for start in range(0, len(rows), _ROWS_PER_STATEMENT):
                part = slice(start, start + _ROWS_PER_STATEMENT)
                values = [value for row in zip(keys[part], numbers[part], strict=True) for value in row]
                places = ", ".join(["(?, ?)"] * (len(values) // 2))
                new += execute(f"INSERT OR IGNORE INTO pairs VALUES {places}", values).rowcount  # noqa: S608  # only question marks
            if new == len(rows):
                return numbers
            return [execute("SELECT first FROM pairs WHERE id = ?", (key,)).fetchone()[0] for key in keys]
        except sqlite3.OperationalError as error:
            raise CorpusError(
                f"The temporary list of pairs cannot be written ({error}). It needs about 40 bytes per pair. "
                "Free disk space, or set the environment variable SQLITE_TMPDIR to another folder."
            ) from error

    def close(self) -> None:
        """Close the mapping, and delete its temporary file."""
        self._database.close()
