"""Pairs are told apart whether they fit into memory or not, and a full disk is named."""

import hashlib
from contextlib import closing

import pytest

from corpora import CorpusError, pair_id
from corpora import duplicates as first_rows
from corpora.duplicates import FirstRows


def identity(number):
    return pair_id(hashlib.sha256(str(number // 3).encode()).hexdigest(), str(number))


def test_a_pair_is_known_by_the_row_it_stood_in_first():
    with closing(FirstRows()) as rows:
        assert [rows.add(identity(number % 4), number) for number in range(9)] == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_what_does_not_fit_into_memory_is_not_forgotten(monkeypatch):
    monkeypatch.setattr(first_rows, "_CACHE_KIBIBYTES", 16)
    with closing(FirstRows()) as rows:
        assert [rows.add(identity(number), number) for number in range(3000)] == list(range(3000))
        assert [rows.add(identity(number), 9999) for number in range(0, 3000, 7)] == list(range(0, 3000, 7))
        assert rows.add(identity(3000), 9999) == 9999


def test_two_corpora_are_two_lists():
    with closing(FirstRows()) as one, closing(FirstRows()) as other:
        assert one.add(identity(0), 5) == 5
        assert other.add(identity(0), 7) == 7


def test_no_room_for_the_list_is_an_error_that_says_what_to_do():
    with closing(FirstRows()) as rows:
        rows._database.execute("PRAGMA max_page_count = 4")
        with pytest.raises(CorpusError, match=r"cannot be written \(database or disk is full\).*SQLITE_TMPDIR"):
            list(map(rows.add, map(identity, range(3000)), range(3000)))
