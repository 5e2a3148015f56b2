"""Repeated pairs are detected whether they fit into memory or not, and a full disk is an error."""

import hashlib
from contextlib import closing

import pytest

from corpora import CorpusError, pair_id
from corpora.duplicates import FirstRows


def identity(number):
    return pair_id(hashlib.sha256(str(number // 3).encode()).hexdigest(), str(number))


def test_the_first_row_of_a_pair_is_returned():
    with closing(FirstRows()) as rows:
        assert [rows.add(identity(number % 4), number) for number in range(9)] == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_pairs_that_do_not_fit_into_memory_are_kept(monkeypatch):
    monkeypatch.setattr("corpora.duplicates._CACHE_KIBIBYTES", 16)
    with closing(FirstRows()) as rows:
        assert [rows.add(identity(number), number) for number in range(3000)] == list(range(3000))
        assert [rows.add(identity(number), 9999) for number in range(0, 3000, 7)] == list(range(0, 3000, 7))
        assert rows.add(identity(3000), 9999) == 9999


def test_lists_are_independent():
    with closing(FirstRows()) as one, closing(FirstRows()) as other:
        assert one.add(identity(0), 5) == 5
        assert other.add(identity(0), 7) == 7


def test_a_full_disk_is_an_error_with_advice():
    with closing(FirstRows()) as rows:
        rows._database.execute("PRAGMA max_page_count = 4")
        with pytest.raises(CorpusError, match=r"cannot be written \(database or disk is full\).*SQLITE_TMPDIR"):
            list(map(rows.add, map(identity, range(3000)), range(3000)))
