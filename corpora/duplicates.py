"""Detection of repeated pairs in bounded memory: what does not fit is in a temporary file."""

import sqlite3
from contextlib import closing

from corpora.errors import CorpusError

_CACHE_KIBIBYTES = 32 * 1024


class FirstRows:
    """The first row of each pair. SQLite deletes its temporary file itself, even if the process is killed."""

    def __init__(self) -> None:
        # "" is a private database, with a file only once the cache is full. Pairs may be read by another thread than
        # the one that began, though never by two at a time.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (
            f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}",
            "PRAGMA journal_mode = OFF",
            "CREATE TABLE pairs (id BLOB PRIMARY KEY, first INTEGER NOT NULL) WITHOUT ROWID",
            "BEGIN",  # never committed: nothing has to outlast the connection
        ):
            self._database.execute(statement)

    def add(self, pair_id: str, row: int) -> int:
        """Add a row, and return the first row with the same pair: this one if the pair is new.

        Raises:
            CorpusError: There is no space for temporary files.
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
                f"The temporary list of pairs cannot be written ({error}), expected space for about 40 bytes per pair: "
                "free some, or name another folder in SQLITE_TMPDIR."
            ) from error

    def close(self) -> None:
        """Discard all rows."""
        self._database.close()
