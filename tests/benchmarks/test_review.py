"""The site can show the lake of the benchmark, and every page is requested."""

import json
import sys

import pytest

from benchmarks import review


@pytest.fixture(scope="module")
def small_lake(tmp_path_factory):
    lake = tmp_path_factory.mktemp("benchmark") / "lake"
    review.write_lake(lake, runs=2, pairs=400, shard=150)
    return lake


@pytest.mark.slow
def test_every_page_of_a_small_lake_is_served_and_the_last_line_is_json(small_lake, tmp_path, monkeypatch, capsys):
    (tmp_path / "2x400x150").symlink_to(small_lake)
    (small_lake / "complete").touch()
    arguments = ["review", "--runs", "2", "--pairs", "400", "--shard", "150", "--times", "1", "--lake", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    review.main()
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["attributions"] == 800
    assert set(report["pages"]) == set(review.make_urls(["a", "b"]))
