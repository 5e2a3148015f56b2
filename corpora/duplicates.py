"""Detection of repeated pairs in bounded memory, with a temporary file for the pairs that do not fit."""

import sqlite3
from contextlib import closing

from corpora.errors import CorpusError

_CACHE_KIBIBYTES = 32 * 1024


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

    def add(self, pair_id: str, row: int) -> int:
        """Record a row, and return the number of the first row with the same pair: `row` itself if the pair is new.

        Raises CorpusError if the temporary file cannot be written.
        """
        key = bytes.fromhex(pair_id.replace("-", ""))
        try:
            with closing(self._database.execute("INSERT OR IGNORE INTO pairs VALUES (?, ?)", (key, row))) as made:
                if made.rowcount:
                    return row
            with closing(self._database.execute("SELECT first FROM pairs WHERE id = ?", (key,))) as found:
                return int(found.fetchone()[0])
        except sqlite3.OperationalError as error:
            raise CorpusError(
                f"The temporary list of pairs cannot be written ({error}). It needs about 40 bytes per pair. "
                "Free disk space, or set the environment variable SQLITE_TMPDIR to another folder."
            ) from error

    def close(self) -> None:
        """Close the mapping, and delete its temporary file."""
        self._database.close()
