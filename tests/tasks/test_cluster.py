"""Clusters of maps become slices beside words and attributes; what a slice says in words comes before them."""

import numpy as np
import pytest

import sql
from tasks.cluster import cluster
from tasks.flag import flag
from tasks.settings import AlertsConfig

ALERTS = AlertsConfig(factor=2.0, min_pairs=15, examples=1)


@pytest.fixture
def grouped(hand_written_run):
    """Maps of 8 x 8: 20 look at the corner top-left, 30 at the middle; the captions say nothing of it."""
    random = np.random.default_rng(0)
    maps = random.random((50, 64)) / 32
    maps[:20, 0] += 0.5
    maps[20:, 36] += 0.5
    hand_written_run.add_pairs([f"a chest{number}" for number in range(50)])
    hand_written_run.add_attributions(maps.tolist(), (8, 8))
    hand_written_run.add_regions(("corner", (0, 0, 0.25, 0.25)))
    return hand_written_run


def rows(run, query):
    with run.connect() as connection:
        return sql.read(connection, query)


def test_a_cluster_is_a_slice_and_can_be_found(grouped):
    assert cluster.fn(grouped, min_pairs=15, seed=0) == 2
    slices = rows(
        grouped, "SELECT slice, count(*) AS n FROM pair_slices WHERE slice_kind = 'cluster' GROUP BY 1 ORDER BY 1"
    )
    assert slices == [{"slice": "map cluster 1", "n": 30}, {"slice": "map cluster 2", "n": 20}]
    flag.fn(grouped, ALERTS, {})
    # Over all pairs: 2 / 5 of the maps with half of their mass in a sixteenth of the image exceed it as well.
    found = rows(
        grouped, "SELECT slice_kind, slice, n FROM findings WHERE region = 'corner' AND slice_kind = 'cluster'"
    )
    assert found == [{"slice_kind": "cluster", "slice": "map cluster 2", "n": 20}]


def test_a_cluster_that_is_too_small_is_no_slice(grouped):
    assert cluster.fn(grouped, min_pairs=21, seed=0) == 1
    assert rows(grouped, "SELECT DISTINCT cluster FROM clusters") == [{"cluster": "map cluster 1"}]


def test_doing_it_again_replaces_the_clusters(grouped):
    for smallest in (1, 31):
        cluster.fn(grouped, min_pairs=smallest, seed=0)
    assert rows(grouped, "FROM clusters") == []


def test_maps_that_are_all_alike_make_no_slice(hand_written_run):
    hand_written_run.add_pairs(["x"] * 40)
    hand_written_run.add_attributions(np.random.default_rng(0).random((40, 64)).tolist(), (8, 8))
    assert cluster.fn(hand_written_run, min_pairs=1, seed=0) == 0
    assert rows(hand_written_run, "FROM clusters") == []


def test_without_maps_there_are_no_clusters(hand_written_run):
    hand_written_run.add_pairs(["x"])
    hand_written_run.write_table("attributions", [])
    assert cluster.fn(hand_written_run, min_pairs=1, seed=0) == 0


def explained(run, captions, shares, clustered, region="corner"):
    """Which slice explains the finding of each other, where `clustered` pairs are a cluster."""
    run.add_pairs(captions)
    run.add_shares(region, shares)
    run.write_table("clusters", [{"pair_id": f"pair-{number:04d}", "cluster": "map cluster 1"} for number in clustered])
    with run.connect() as connection:
        thresholds = {"run_id": run.run_id, "factor": 2.0, "min_pairs": 2}
        found = sql.rows(connection, "rules/region_mass", **thresholds)
    run.write_table("findings", [{"rule": "region_mass", "side": "image", **row} for row in found])
    with run.connect() as connection:
        return {
            row["slice"]: row["explained_by"] for row in sql.rows(connection, "derive/explained_findings", **thresholds)
        }


def test_a_cluster_explains_no_word_though_its_effect_is_larger(hand_written_run):
    """Pairs of the cluster have .9, the other sick pair .4: the word's effect is the smaller one."""
    found = explained(hand_written_run, ["sick"] * 4 + ["well"] * 20, [0.9, 0.9, 0.9, 0.4] + [0.0] * 20, (0, 1, 2))
    assert found == {"sick": None, "map cluster 1": "sick"}


def test_a_cluster_that_no_word_explains_stands_on_its_own(hand_written_run):
    # All pairs, and the well ones, stay below .2, twice the area.
    shares = [0.9] * 5 + [0.0] * 45
    found = explained(hand_written_run, ["sick"] * 2 + ["well"] * 48, shares, range(5))
    assert found == {"sick": None, "map cluster 1": None}


def test_clusters_are_weighed_by_mass_alone(hand_written_run):
    """Neither the hottest corner, which maps choose as well, nor the phrases of captions."""
    thresholds = {"run_id": hand_written_run.run_id, "factor": 2.0, "min_pairs": 2}
    hand_written_run.add_pairs(["sick"] * 4 + ["well"] * 4)
    shares = [0.9] * 4 + [0.1] * 4
    table = [
        {"pair_id": f"pair-{number:04d}", "side": side, "region": region, "share": share, "area": 0.1, "nats": share}
        for number, share in enumerate(shares)
        for side, region in (("image", "hottest corner"), ("text", '"as before"'))
    ]
    hand_written_run.write_table("region_shares", table)
    hand_written_run.write_table(
        "clusters", [{"pair_id": f"pair-{number:04d}", "cluster": "map cluster 1"} for number in range(4)]
    )
    with hand_written_run.connect() as connection:
        for rule in ("hottest_corner", "phrase_mass"):
            found = {row["slice"] for row in sql.rows(connection, f"rules/{rule}", **thresholds)}
            assert "sick" in found
            assert "map cluster 1" not in found
