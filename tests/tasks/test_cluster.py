"""Clusters of maps become slices like words and attributes; slices of words take precedence in explanations."""

import numpy as np
import pytest

import sql
from tasks.alert import explain_findings as explain
from tasks.cluster import cluster
from tasks.flag import flag
from tasks.settings import AlertsConfig

ALERTS = AlertsConfig(factor=2.0, min_pairs=15, examples=1)


@pytest.fixture
def run_with_two_groups(hand_written_run):
    """A run with maps of 8 x 8: 20 concentrate on the top-left corner, 30 on the middle; captions do not differ."""
    random = np.random.default_rng(0)
    maps = random.random((50, 64)) / 32
    maps[:20, 0] += 0.5
    maps[20:, 36] += 0.5
    hand_written_run.add_pairs([f"a chest{number}" for number in range(50)])
    hand_written_run.add_attributions(maps.tolist(), (8, 8))
    hand_written_run.add_regions(("corner", (0, 0, 0.25, 0.25)))
    return hand_written_run


def query_rows(run, query):
    with run.connect() as connection:
        return sql.read(connection, query)


def test_cluster_is_a_slice_with_findings(run_with_two_groups):
    assert cluster.fn(run_with_two_groups, min_pairs=15, seed=0) == 2
    slices = query_rows(
        run_with_two_groups,
        "SELECT slice, count(*) AS n FROM pair_slices WHERE slice_kind = 'cluster' GROUP BY 1 ORDER BY 1",
    )
    assert slices == [{"slice": "map cluster 1", "n": 30}, {"slice": "map cluster 2", "n": 20}]
    flag.fn(run_with_two_groups, ALERTS, {})
    # All pairs also exceed the factor: 2 / 5 of the maps have half of their mass in a sixteenth of the image.
    findings = query_rows(
        run_with_two_groups,
        "SELECT slice_kind, slice, n FROM findings WHERE region = 'corner' AND slice_kind = 'cluster'",
    )
    assert findings == [{"slice_kind": "cluster", "slice": "map cluster 2", "n": 20}]


def test_too_small_cluster_is_not_a_slice(run_with_two_groups):
    assert cluster.fn(run_with_two_groups, min_pairs=21, seed=0) == 1
    assert query_rows(run_with_two_groups, "SELECT DISTINCT cluster FROM clusters") == [{"cluster": "map cluster 1"}]


def test_repeated_stage_replaces_the_clusters(run_with_two_groups):
    for smallest in (1, 31):
        cluster.fn(run_with_two_groups, min_pairs=smallest, seed=0)
    assert query_rows(run_with_two_groups, "FROM clusters") == []


def test_similar_maps_give_no_cluster(hand_written_run):
    hand_written_run.add_pairs(["x"] * 40)
    hand_written_run.add_attributions(np.random.default_rng(0).random((40, 64)).tolist(), (8, 8))
    assert cluster.fn(hand_written_run, min_pairs=1, seed=0) == 0
    assert query_rows(hand_written_run, "FROM clusters") == []


def test_without_maps_there_are_no_clusters(hand_written_run):
    hand_written_run.add_pairs(["x"])
    hand_written_run.write_table("attributions", [])
    assert cluster.fn(hand_written_run, min_pairs=1, seed=0) == 0


def explain_findings(run, captions, shares, clustered, region="corner"):
    """Return the explaining slice of each finding, with the `clustered` pairs as a cluster."""
    run.add_pairs(captions)
    run.add_shares(region, shares)
    run.write_table("clusters", [{"pair_id": f"pair-{number:04d}", "cluster": "map cluster 1"} for number in clustered])
    with run.connect() as connection:
        findings = sql.rows(connection, "rules/region_mass", run_id=run.run_id, factor=2.0, min_pairs=2)
    run.write_table("findings", [{"rule": "region_mass", "side": "image", **row} for row in findings])
    with run.connect() as connection:
        found = explain(connection, run.run_id, AlertsConfig(factor=2.0, min_pairs=2))
    return {row["slice"]: row["explained_by"] for row in found}


def test_a_cluster_explains_no_word_though_its_effect_is_larger(hand_written_run):
    """Shares are 0.9 in the cluster and 0.4 in the other sick pair, so the effect of the word is the smaller one."""
    explanations = explain_findings(
        hand_written_run, ["sick"] * 4 + ["well"] * 20, [0.9, 0.9, 0.9, 0.4] + [0.0] * 20, (0, 1, 2)
    )
    assert explanations == {"sick": None, "map cluster 1": "sick"}


def test_cluster_that_no_word_explains_is_independent(hand_written_run):
    # All pairs, and the well ones, stay below .2, twice the area.
    shares = [0.9] * 5 + [0.0] * 45
    explanations = explain_findings(hand_written_run, ["sick"] * 2 + ["well"] * 48, shares, range(5))
    assert explanations == {"sick": None, "map cluster 1": None}


def test_clusters_are_tested_only_by_mass(hand_written_run):
    """The rules for the hottest corner, which depends on the maps, and for phrases do not use clusters."""
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
            slices = {row["slice"] for row in sql.rows(connection, f"rules/{rule}", **thresholds)}
            assert "sick" in slices
            assert "map cluster 1" not in slices
