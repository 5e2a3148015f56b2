"""Recurring overlays become regions: one for each occurrence, with shares like those of configured regions."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import sql
from corpora import Reason, RowError
from demo.corpus import generate
from tasks import discover as stage
from tasks import inputs
from tasks.flag import flag
from tasks.lake.run import Run
from tasks.settings import DiscoverConfig

PAIRS = 60


@pytest.fixture(scope="module")
def corpus_with_moving_tag(tmp_path_factory):
    """A corpus whose tag is in a random corner of each image, and the boxes of the tag by file name."""
    folder = tmp_path_factory.mktemp("wandering")
    corpus = generate(folder, PAIRS, corner="random")
    rows = [json.loads(pipeline) for pipeline in (folder / "truth.jsonl").read_text().splitlines()]
    return corpus, {row["file_name"]: row["tag_box"] for row in rows}


@pytest.fixture(scope="module")
def searched_pipeline(corpus_with_moving_tag, settings, tmp_path_factory, begin_pipeline):
    """A run on this corpus with hand-written maps (mass on the tag and some noise), after the search for overlays."""
    corpus, boxes = corpus_with_moving_tag
    pipeline = begin_pipeline(
        settings(corpus, tmp_path_factory.mktemp("discovered") / "lake", discover={"min_images": 3})
    )
    pipeline.ingest()
    random = np.random.default_rng(0)
    rows = []
    for pair in pq.read_table(pipeline.run.path("pairs")).to_pylist():
        nats = 0.2 * random.random((8, 8))
        if box := boxes[pair["file_name"]]:
            x0, y0, x1, y1 = (v * 8 for v in box)
            nats[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] += 1
        rows.append(
            {
                "pair_id": pair["pair_id"], "grid_h": 8, "grid_w": 8, "image_map": nats.ravel().tolist(),
                "image_nats": float(nats.sum()),
            }
        )  # fmt: skip
    pipeline.run.write_table("attributions", rows)
    pipeline.run.write_table("regions", [{"region": "frame", "kind": "frame", "x0": 0, "y0": 0, "x1": 1, "y1": 0.05}])
    assert pipeline.discover() == 1
    return pipeline


@pytest.fixture
def searched_copy(searched_pipeline, tmp_path):
    """A copy of the run that a test may change."""
    shutil.copytree(searched_pipeline.run.lake, tmp_path / "lake")
    return replace(searched_pipeline, run=Run(tmp_path / "lake", searched_pipeline.run.run_id))


def query_rows(run, query):
    with run.connect() as connection:
        return sql.read(connection, query)


def test_a_tag_in_a_random_corner_is_found_and_compared_with_configured_regions(
    searched_pipeline, corpus_with_moving_tag
):
    _, boxes = corpus_with_moving_tag
    tagged = {name for name, box in boxes.items() if box}
    occurrences = query_rows(
        searched_pipeline.run, "SELECT file_name, x0, y0, x1, y1 FROM regions JOIN pairs USING (pair_id) ORDER BY 1"
    )
    assert {row["file_name"] for row in occurrences} == tagged
    for row in occurrences:
        x0, y0, x1, y1 = boxes[row["file_name"]]
        assert (row["x0"], row["y0"], row["x1"], row["y1"]) == pytest.approx((x0, y0, x1, y1), abs=0.05)
    (stamp,) = query_rows(searched_pipeline.run, "FROM stamps")
    assert (stamp["region"], stamp["occurrences"], stamp["searched"]) == ("stamp 1", len(tagged), PAIRS)
    assert stamp["spread"] is False
    assert len(stamp["template"]) == stamp["channels"] * stamp["height"] * stamp["width"]
    assert len(stamp["strokes"]) == stamp["height"] * stamp["width"]
    assert stamp["null_score"] < stamp["threshold"] < stamp["score"]
    flag.fn(searched_pipeline.run, searched_pipeline.config.alerts, {})
    shares = query_rows(
        searched_pipeline.run,
        "SELECT region, count(*) AS n, avg(share) / avg(area) AS effect FROM region_shares GROUP BY 1",
    )
    assert {row["region"]: row["n"] for row in shares} == {"frame": PAIRS, "stamp 1": len(tagged)}
    assert next(row["effect"] for row in shares if row["region"] == "stamp 1") > 2


def test_a_repeated_search_replaces_its_rows_without_images_that_changed_since(
    searched_copy, corpus_with_moving_tag, monkeypatch
):
    run = searched_copy.run
    before = query_rows(run, "FROM regions LEFT JOIN pairs USING (pair_id) ORDER BY ALL")
    read = inputs.read_image
    changed_file = next(name for name, box in corpus_with_moving_tag[1].items() if box)

    def read_all_but_one(corpus, pair):
        if pair["file_name"] == changed_file:
            raise RowError(Reason.CHANGED_SINCE_INGEST, "changed")
        return read(corpus, pair)

    inputs.clear_images()
    monkeypatch.setattr(inputs, "read_image", read_all_but_one)
    assert searched_copy.discover() == 1
    (stamp,) = query_rows(run, "FROM stamps")
    assert stamp["searched"] == PAIRS - 1
    after = query_rows(run, "FROM regions LEFT JOIN pairs USING (pair_id) ORDER BY ALL")
    expected = {(row["region"], row["file_name"]) for row in before if row["file_name"] != changed_file}
    assert len(after) == len(expected)
    assert {(row["region"], row["file_name"]) for row in after} == expected


def test_too_few_pairs_give_no_overlay(searched_copy):
    config = searched_copy.config
    settings = DiscoverConfig(pairs=4, peaks=3, min_images=3)
    assert stage.discover.fn(searched_copy.run, stage.DiscoveryPlan(config.inputs()[0], settings, 0)) == 0
    assert query_rows(searched_copy.run, "FROM stamps") == []
    assert [row["region"] for row in query_rows(searched_copy.run, "FROM regions")] == ["frame"]
