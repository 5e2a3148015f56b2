"""Maps that concentrate on the same places are clusters; without groups there is one cluster."""

import numpy as np
import pytest

from m2ib.analysis import clusters
from m2ib.analysis.clusters import cluster_maps


def make_maps(random, places, side=10):
    """Return maps with a third of their mass on one patch, and the rest at random."""
    maps = random.random((len(places), side, side))
    for image_map, (row, column) in zip(maps, places, strict=True):
        image_map[row, column] += side * side / 4
    return maps


def make_ids(maps):
    return [f"pair-{number}" for number in range(len(maps))]


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_two_planted_groups_are_two_clusters_the_larger_first(random):
    maps = make_maps(random, [(0, 0)] * 30 + [(8, 8)] * 50)
    assert cluster_maps(maps, make_ids(maps), 0).tolist() == [1] * 30 + [0] * 50


def test_one_group_is_one_cluster(random):
    maps = random.random((200, 10, 10))
    assert set(cluster_maps(maps, make_ids(maps), 0)) == {0}


def test_the_mass_of_a_map_does_not_matter(random):
    maps = make_maps(random, [(0, 0)] * 30 + [(8, 8)] * 50)
    scaled = maps * random.uniform(1e-3, 1e3, size=(80, 1, 1))
    assert (cluster_maps(maps, make_ids(maps), 0) == cluster_maps(scaled, make_ids(maps), 0)).all()


@pytest.mark.parametrize("cap", [clusters.CAP, 60])
def test_the_order_of_rows_does_not_matter(random, monkeypatch, cap):
    monkeypatch.setattr(clusters, "CAP", cap)
    maps = make_maps(random, [(0, 0)] * 40 + [(0, 1)] * 40 + [(5, 5)] * 40 + [(9, 0)] * 15)
    order = random.permutation(len(maps))
    ids = make_ids(maps)
    moved = cluster_maps(maps[order], [ids[row] for row in order], 0)
    assert (moved == cluster_maps(maps, ids, 0)[order]).all()
    assert moved.max() >= 1


def test_maps_that_were_not_sampled_join_the_nearest_cluster(random, monkeypatch):
    monkeypatch.setattr(clusters, "CAP", 60)
    maps = make_maps(random, [(0, 0)] * 70 + [(8, 8)] * 130)
    assert cluster_maps(maps, make_ids(maps), 0).tolist() == [1] * 70 + [0] * 130


def test_a_map_without_mass_is_in_no_cluster(random):
    maps = make_maps(random, [(0, 0)] * 30 + [(8, 8)] * 30)
    maps[3], maps[4] = 0, np.nan
    clusters = cluster_maps(maps, make_ids(maps), 0)
    assert np.flatnonzero(clusters < 0).tolist() == [3, 4]
    assert cluster_maps(np.zeros((2, 3, 3)), ["a", "b"], 0).tolist() == [-1, -1]


def test_few_maps_or_equal_maps_are_one_cluster():
    assert cluster_maps(np.eye(9).reshape(9, 3, 3), make_ids(range(9)), 0).tolist() == [0] * 9
    assert set(cluster_maps(np.ones((40, 3, 3)), make_ids(range(40)), 0)) == {0}


def test_too_many_groups_give_one_cluster(random):
    """All their eigenvalues are zero, so the largest gap would be a rounding error."""
    places = [(row, column) for row in range(4) for column in range(3)]
    maps = make_maps(random, [place for place in places for _ in range(15)], side=4)
    assert set(cluster_maps(maps, make_ids(maps), 0)) == {0}


def test_pooled_patches_keep_their_mass():
    maps = np.arange(2 * 12 * 5, dtype=float).reshape(2, 12, 5)
    reduced = clusters._downsample(maps).reshape(2, 8, 5)
    assert reduced.sum() == pytest.approx(maps.sum())
    assert reduced[:, 0] == pytest.approx(maps[:, 0] + maps[:, 1] / 2)
    assert reduced[:, 1] == pytest.approx(maps[:, 1] / 2 + maps[:, 2])
