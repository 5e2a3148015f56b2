"""The lake of the benchmark is one that the pages can show, and every page is asked for."""

import json
import sys

import pytest

from benchmarks import review


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    lake = tmp_path_factory.mktemp("benchmark") / "lake"
    review.write_lake(lake, runs=2, pairs=400, shard=150)
    return lake


def test_every_page_of_a_small_lake_answers(small):
    taken = review.measure(small, 2)
    assert set(taken) == set(review.pages(["a", "b"]))
    assert all(len(each) == 2 for each in taken.values())


def test_the_last_line_is_json(small, tmp_path, monkeypatch, capsys):
    (tmp_path / "2x400x150").symlink_to(small)
    (small / "complete").touch()
    arguments = ["review", "--runs", "2", "--pairs", "400", "--shard", "150", "--times", "1", "--lake", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    review.main()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["attributions"] == 800
    assert set(told["pages"]) == set(review.pages(["a", "b"]))
