"""Repeated pairs are detected whether they fit into memory or not, and a full disk is an error."""

import hashlib
from contextlib import closing

import pytest

from corpora import CorpusError, pair_id
from corpora.duplicates import FirstRows


def make_pair_id(number):
    return pair_id(hashlib.sha256(str(number // 3).encode()).hexdigest(), str(number))


def test_the_first_row_of_a_pair_is_returned():
    with closing(FirstRows()) as rows:
        assert rows.add([(make_pair_id(number % 4), number) for number in range(9)]) == [0, 1, 2, 3, 0, 1, 2, 3, 0]
        assert rows.add([]) == []


def test_pairs_that_do_not_fit_into_memory_are_remembered(monkeypatch):
    monkeypatch.setattr("corpora.duplicates._CACHE_KIBIBYTES", 16)
    with closing(FirstRows()) as rows:
        assert rows.add([(make_pair_id(number), number) for number in range(3000)]) == list(range(3000))
        assert rows.add([(make_pair_id(number), 9999) for number in range(0, 3000, 7)]) == list(range(0, 3000, 7))
        assert rows.add([(make_pair_id(number), 9999) for number in (3000, 2999)]) == [9999, 2999]


def test_lists_are_independent():
    with closing(FirstRows()) as first, closing(FirstRows()) as second:
        assert first.add([(make_pair_id(0), 5)]) == [5]
        assert second.add([(make_pair_id(0), 7)]) == [7]


def test_a_full_disk_is_an_error_with_advice():
    with closing(FirstRows()) as rows:
        rows._database.execute("PRAGMA max_page_count = 4")
        with pytest.raises(CorpusError, match=r"cannot be written \(database or disk is full\).*SQLITE_TMPDIR"):
            rows.add([(make_pair_id(number), number) for number in range(3000)])
