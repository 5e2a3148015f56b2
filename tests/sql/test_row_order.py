"""Sums that a run stores are the same to the last bit, in whatever order DuckDB's threads add the rows."""

import random

import numpy as np
import pyarrow as pa
import pytest

import sql

PAIRS, GRID = 40, (5, 6)


@pytest.fixture
def run(hand_written_run):
    """A run with irregular maps, regions of several boxes, phrases of several words, and screenings."""
    rng = np.random.default_rng(0)
    rows = hand_written_run.add_pairs(["a shadow", "a nodule"] * (PAIRS // 2))
    text_map = rng.gamma(0.3, size=12).astype(np.float32).tolist()
    hand_written_run.add_attributions(
        rng.gamma(0.1, size=(PAIRS, GRID[0] * GRID[1])).astype(np.float32), GRID, tokens=["t"] * 12,
        special=[False] * 12, text_map=text_map, text_nats=float(np.sum(text_map)),
    )  # fmt: skip
    boxes = np.sort(rng.uniform(size=(30, 2, 2)), axis=1).reshape(-1, 4)
    hand_written_run.add_regions(*((f"region {number % 5}", box.tolist()) for number, box in enumerate(boxes)))
    spans = [{"pair_id": row["pair_id"], "first": k, "last": k + 1} for row in rows for k in (1, 4, 8)]
    hand_written_run.write_table("phrases", [{**span, "region": '"a phrase"', "kind": "listed"} for span in spans])
    costs = [
        {"pair_id": row["pair_id"], "region": "frame", "margin": float(margin), "drop": float(drop)}
        for row, (margin, drop) in zip(rows, rng.normal(size=(PAIRS, 2)) ** 3, strict=True)
    ]
    hand_written_run.write_table("screenings", costs)
    return hand_written_run


def compute(run, seed):
    """Compute what the stages derive, after the rows of all tables were shuffled."""

    def shuffle(table):
        order = list(range(table.num_rows))
        random.Random(seed).shuffle(order)
        return table.take(order)

    for table in ("attributions", "regions", "phrases", "screenings", "pairs"):
        with run.connect() as connection:
            rows = sql.read_table(connection, f"FROM {table}")
        run.write_table(table, shuffle(rows))
    with run.connect() as connection:
        queries = ("derive/region_shares", "derive/phrase_shares")
        shares = [sql.table(connection, query, run_id=run.run_id) for query in queries]
    run.write_table("region_shares", shuffle(pa.concat_tables(shares, promote_options="permissive")))
    with run.connect() as connection:
        views = ("slice_shares", "slice_costs")
        return [*shares, *(sql.read_table(connection, f"FROM {view} ORDER BY ALL") for view in views)]


def test_derived_rows_do_not_depend_on_the_order_of_rows(run):
    expected = compute(run, 0)
    assert [table.num_rows for table in expected] == [5 * PAIRS, PAIRS, 6 * 4, 4]
    for seed in range(1, 6):
        for table, other in zip(expected, compute(run, seed), strict=True):
            assert other.equals(table)


def test_exact_sums_are_those_of_doubles_up_to_rounding(run):
    shares = compute(run, 0)[0].to_pylist()
    with run.connect() as connection:
        boxes, maps = sql.read(connection, "FROM regions"), sql.read(connection, "FROM attributions")
    height, width = GRID
    ys, xs = np.arange(height + 1) / height, np.arange(width + 1) / width
    covered = dict.fromkeys((box["region"] for box in boxes), 0)
    for box in boxes:
        rows = np.clip(np.minimum(ys[1:], box["y1"]) - np.maximum(ys[:-1], box["y0"]), 0, None)
        columns = np.clip(np.minimum(xs[1:], box["x1"]) - np.maximum(xs[:-1], box["x0"]), 0, None)
        covered[box["region"]] = covered[box["region"]] + np.outer(rows, columns)
    map_of = {row["pair_id"]: (np.array(row["image_map"]), row["image_nats"]) for row in maps}
    for row in shares:
        patches, total = map_of[row["pair_id"]]
        nats = float((patches.reshape(GRID) * covered[row["region"]] * height * width).sum())
        assert row["nats"] == pytest.approx(nats, rel=1e-13)
        assert row["share"] == pytest.approx(nats / total, rel=1e-13)
        assert row["area"] == pytest.approx(covered[row["region"]].sum(), rel=1e-13)
