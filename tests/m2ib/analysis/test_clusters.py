"""Maps that look at the same places become clusters; where there are no groups there is one."""

import numpy as np
import pytest

from m2ib.analysis import clusters
from m2ib.analysis.clusters import cluster_maps


def hot_at(random, places, side=10):
    """Maps with a third of their mass on one patch each, and the rest of it anywhere."""
    maps = random.random((len(places), side, side))
    for image_map, (row, column) in zip(maps, places, strict=True):
        image_map[row, column] += side * side / 4
    return maps


def ids_of(maps):
    return [f"pair-{number}" for number in range(len(maps))]


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_two_planted_groups_are_found_the_larger_first(random):
    maps = hot_at(random, [(0, 0)] * 30 + [(8, 8)] * 50)
    assert cluster_maps(maps, ids_of(maps), 0).tolist() == [1] * 30 + [0] * 50


def test_one_group_is_one_cluster(random):
    maps = random.random((200, 10, 10))
    assert set(cluster_maps(maps, ids_of(maps), 0)) == {0}


def test_the_mass_of_a_map_does_not_matter(random):
    maps = hot_at(random, [(0, 0)] * 30 + [(8, 8)] * 50)
    scaled = maps * random.uniform(1e-3, 1e3, size=(80, 1, 1))
    assert (cluster_maps(maps, ids_of(maps), 0) == cluster_maps(scaled, ids_of(maps), 0)).all()


@pytest.mark.parametrize("cap", [clusters.CAP, 60])
def test_the_order_of_rows_does_not_matter(random, monkeypatch, cap):
    monkeypatch.setattr(clusters, "CAP", cap)
    maps = hot_at(random, [(0, 0)] * 40 + [(0, 1)] * 40 + [(5, 5)] * 40 + [(9, 0)] * 15)
    order = random.permutation(len(maps))
    ids = ids_of(maps)
    moved = cluster_maps(maps[order], [ids[row] for row in order], 0)
    assert (moved == cluster_maps(maps, ids, 0)[order]).all()
    assert moved.max() >= 1


def test_maps_that_were_not_drawn_join_the_nearest(random, monkeypatch):
    monkeypatch.setattr(clusters, "CAP", 60)
    maps = hot_at(random, [(0, 0)] * 70 + [(8, 8)] * 130)
    assert cluster_maps(maps, ids_of(maps), 0).tolist() == [1] * 70 + [0] * 130


def test_a_map_without_mass_is_in_no_cluster(random):
    maps = hot_at(random, [(0, 0)] * 30 + [(8, 8)] * 30)
    maps[3], maps[4] = 0, np.nan
    found = cluster_maps(maps, ids_of(maps), 0)
    assert np.flatnonzero(found < 0).tolist() == [3, 4]
    assert cluster_maps(np.zeros((2, 3, 3)), ["a", "b"], 0).tolist() == [-1, -1]


def test_few_maps_or_equal_maps_are_one_cluster():
    assert cluster_maps(np.eye(9).reshape(9, 3, 3), ids_of(range(9)), 0).tolist() == [0] * 9
    assert set(cluster_maps(np.ones((40, 3, 3)), ids_of(range(40)), 0)) == {0}


def test_more_groups_than_can_be_told_apart_are_none(random):
    """Their eigenvalues are all zero: the largest gap would be one of rounding."""
    places = [(row, column) for row in range(4) for column in range(3)]
    maps = hot_at(random, [place for place in places for _ in range(15)], side=4)
    assert set(cluster_maps(maps, ids_of(maps), 0)) == {0}


def test_a_patch_counts_with_its_parts():
    maps = np.arange(2 * 12 * 5, dtype=float).reshape(2, 12, 5)
    reduced = clusters._downsample(maps).reshape(2, 8, 5)
    assert reduced.sum() == pytest.approx(maps.sum())
    assert reduced[:, 0] == pytest.approx(maps[:, 0] + maps[:, 1] / 2)
    assert reduced[:, 1] == pytest.approx(maps[:, 1] / 2 + maps[:, 2])
