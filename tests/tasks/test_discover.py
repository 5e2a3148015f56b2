"""Stamps become regions: each occurrence in its pair, beside the named ones, weighed like them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import sql
from corpora import Reason, RowError
from demo.corpus import generate
from tasks import discover as stage
from tasks.flag import flag_regions
from tasks.settings import DiscoverConfig

PAIRS = 60


@pytest.fixture(scope="module")
def wandering(tmp_path_factory):
    """A corpus whose tag is in a corner of its own for each image, and by file name where."""
    folder = tmp_path_factory.mktemp("wandering")
    corpus = generate(folder, PAIRS, corner="random")
    rows = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    return corpus, {row["file_name"]: row["tag_box"] for row in rows}


@pytest.fixture
def mapped(wandering, settings, tmp_path, begin_line):
    """A run over it with maps given by hand: mass on the tag, and a little everywhere."""
    corpus, boxes = wandering
    line = begin_line(settings(corpus, tmp_path / "lake", discover={"min_images": 3}))
    line.ingest()
    random = np.random.default_rng(0)
    rows = []
    for pair in pq.read_table(line.run.path("pairs")).to_pylist():
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
    line.run.write_table("attributions", rows)
    line.run.write_table("regions", [{"region": "frame", "kind": "frame", "x0": 0, "y0": 0, "x1": 1, "y1": 0.05}])
    return line


def rows(run, query):
    with run.connect() as connection:
        return sql.read(connection, query)


def test_what_wanders_is_found_and_weighed_beside_what_was_named(mapped, wandering):
    _, boxes = wandering
    assert mapped.discover() == 1
    tagged = {name for name, box in boxes.items() if box}
    found = rows(mapped.run, "SELECT file_name, x0, y0, x1, y1 FROM regions JOIN pairs USING (pair_id) ORDER BY 1")
    assert {row["file_name"] for row in found} == tagged
    for row in found:
        x0, y0, x1, y1 = boxes[row["file_name"]]
        assert (row["x0"], row["y0"], row["x1"], row["y1"]) == pytest.approx((x0, y0, x1, y1), abs=0.05)
    (stamp,) = rows(mapped.run, "FROM stamps")
    assert (stamp["region"], stamp["occurrences"], stamp["searched"]) == ("stamp 1", len(tagged), PAIRS)
    assert stamp["spread"] is False
    assert len(stamp["template"]) == stamp["channels"] * stamp["height"] * stamp["width"]
    assert len(stamp["strokes"]) == stamp["height"] * stamp["width"]
    assert stamp["null_score"] < stamp["threshold"] < stamp["score"]
    flag_regions(mapped.run, mapped.config.alerts, {})
    shares = rows(
        mapped.run,
        "SELECT region, count(*) AS n, avg(share) / avg(area) AS effect FROM region_shares GROUP BY 1",
    )
    assert {row["region"]: row["n"] for row in shares} == {"frame": PAIRS, "stamp 1": len(tagged)}
    assert next(row["effect"] for row in shares if row["region"] == "stamp 1") > 2


def test_doing_it_again_changes_nothing(mapped):
    mapped.discover()
    before = rows(mapped.run, "FROM regions"), rows(mapped.run, "FROM stamps")
    mapped.discover()
    assert (rows(mapped.run, "FROM regions"), rows(mapped.run, "FROM stamps")) == before


def test_an_image_that_changed_since_is_left_out(mapped, wandering, monkeypatch):
    read = stage.read_pixels
    lost = next(name for name, box in wandering[1].items() if box)

    def partly(corpus, pair, model):
        if pair["file_name"] == lost:
            raise RowError(Reason.CHANGED_SINCE_INGEST, "changed")
        return read(corpus, pair, model)

    monkeypatch.setattr(stage, "read_pixels", partly)
    assert mapped.discover() == 1
    (stamp,) = rows(mapped.run, "FROM stamps")
    assert stamp["searched"] == PAIRS - 1


def test_too_few_pairs_make_no_stamp(mapped):
    config = mapped.config
    rules = DiscoverConfig(pairs=4, peaks=3, min_images=3)
    assert stage.discover_overlays(mapped.run, config.corpus, config.models()[0], rules, 0) == 0
    assert rows(mapped.run, "FROM stamps") == []
    assert [row["region"] for row in rows(mapped.run, "FROM regions")] == ["frame"]
