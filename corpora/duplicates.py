"""Which row of a corpus a pair stood in first, in bounded memory: what does not fit lies in a temporary file."""

import sqlite3
from contextlib import closing

from corpora.errors import CorpusError

_CACHE_KIBIBYTES = 32 * 1024
_EXPECTED = "expected room for some 40 bytes a pair: free some, or name another folder in SQLITE_TMPDIR"


class FirstRows:
    """Pairs and the rows they stood in first. SQLite deletes the file itself, also when the process is killed."""

    def __init__(self) -> None:
        # "": a database of this connection alone, whose file is there only once the cache is full. A stream of pairs
        # may be read on by another thread than began it, though never by two at a time.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (
            f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}",
            "PRAGMA journal_mode = OFF",
            "CREATE TABLE pairs (id BLOB PRIMARY KEY, first INTEGER NOT NULL) WITHOUT ROWID",
            "BEGIN",  # and no end: nothing has to outlast the connection
        ):
            self._database.execute(statement)

    def first(self, pair_id: str, row: int) -> int:
        """The row in which a pair stood first: this one, from now on, if it is new.

        Raises:
            CorpusError: there is no room for temporary files.
        """
        key = bytes.fromhex(pair_id.replace("-", ""))
        try:
            with closing(self._database.execute("INSERT OR IGNORE INTO pairs VALUES (?, ?)", (key, row))) as made:
                if made.rowcount:
                    return row
            with closing(self._database.execute("SELECT first FROM pairs WHERE id = ?", (key,))) as found:
                return int(found.fetchone()[0])
        except sqlite3.OperationalError as error:
            raise CorpusError(f"The list of pairs that were read cannot be kept ({error}), {_EXPECTED}.") from error

    def close(self) -> None:
        """Forget all."""
        self._database.close()
