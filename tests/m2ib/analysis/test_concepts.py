"""Recurring content is found where it is enriched in a slice, wherever it is in an image; without it, nothing is."""

import numpy as np
import pytest

from m2ib.analysis import concepts
from m2ib.analysis.concepts import (
    PatchSample,
    find_concepts,
    find_enriched,
    find_neighbors,
    find_regions,
    order_by_distance,
    score_cells,
    split_by_silhouette,
)

DIMS, SIDE = 12, 6
WORD = ("word", "mass")


def quantize(vectors):
    return np.round(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) * 127).astype(np.int8)


def make_sample(random, pairs=160, carriers=60, cells=2, noise=0.35):
    """A sample in which the first pairs show a mark that varies, anywhere; all have background of eight kinds."""
    kinds = random.standard_normal((8, DIMS))
    features = kinds[random.integers(8, size=(pairs, SIDE, SIDE))] + 0.8 * random.standard_normal(
        (pairs, SIDE, SIDE, DIMS)
    )
    mark = 3 * random.standard_normal(DIMS)
    marked = np.zeros((pairs, SIDE, SIDE), bool)
    hot = []
    for pair in range(pairs):
        places = random.permutation(SIDE * SIDE)
        if pair < carriers:
            row, column = random.integers(SIDE), random.integers(SIDE - cells + 1)
            marked[pair, row, column : column + cells] = True
            features[pair][marked[pair]] = (
                mark + noise * np.linalg.norm(mark) * random.standard_normal((cells, DIMS)) / 3
            )
        inside = np.flatnonzero(marked[pair])
        hot.append([*inside.tolist(), *[int(place) for place in places if place not in inside][: 8 - len(inside)]])
    ids = [f"pair-{number:04d}" for number in range(pairs)]
    units = [f"unit-{number * 7919 % 10007:05d}" for number in range(pairs)]
    return PatchSample(ids, units, quantize(features), hot), marked


@pytest.fixture
def random():
    return np.random.default_rng(3)


def test_a_mark_that_wanders_is_found_with_its_place_in_each_pair(random):
    sample, marked = make_sample(random)
    found = find_concepts(sample, {WORD: sample.ids[:64]})
    (concept,) = found.concepts
    regions = concept.find(sample.vectors)
    assert regions[marked].mean() > 0.9
    assert marked[regions].mean() > 2 / 3  # a twentieth of the other pairs has it by construction
    assert concept.slices.keys() == {WORD}
    inside, elsewhere, heat = concept.figures[WORD]
    assert inside > 0.85
    assert elsewhere <= 0.06
    assert heat > 0.75
    assert concept.units >= 50
    assert concept.stability > 0.8
    assert concept.area == pytest.approx(regions[regions.any(axis=(1, 2))].mean())


def test_captions_that_are_permuted_give_no_concept(random):
    sample, _ = make_sample(random)
    for _ in range(5):
        slices = {("word", str(number)): list(random.permutation(sample.ids)[:60]) for number in range(12)}
        assert not find_concepts(sample, slices).concepts


def test_concepts_that_are_left_out_are_counted(random, monkeypatch):
    sample, _ = make_sample(random)
    slices = {WORD: sample.ids[:64]}
    monkeypatch.setattr(concepts, "_QUANTILE", 0.99)  # of 96 pairs outside of the slice
    found = find_concepts(sample, slices)
    assert (len(found.concepts), found.beyond, found.everywhere) == (0, 0, 1)
    monkeypatch.setattr(concepts, "_MAX_CONCEPTS", 0)
    found = find_concepts(sample, slices)
    assert (len(found.concepts), found.beyond, found.everywhere) == (0, 1, 0)


def test_the_order_of_pairs_and_slices_does_not_matter(random):
    sample, _ = make_sample(random)
    slices = {WORD: sample.ids[:64], ("word", "scan"): sample.ids[:70]}
    expected = find_concepts(sample, slices)
    shuffled = sample.take(random.permutation(len(sample)).tolist())
    found = find_concepts(shuffled, dict(reversed(slices.items())))
    assert [(each.members, each.figures, each.high) for each in found.concepts] == [
        (each.members, each.figures, each.high) for each in expected.concepts
    ]


def test_the_same_content_in_two_slices_is_one_concept(random):
    sample, _ = make_sample(random, pairs=240)
    slices = {WORD: sample.ids[:48], ("word", "scan"): [*sample.ids[15:60], *sample.ids[100:105]]}
    found = find_concepts(sample, slices)
    assert [each.slices.keys() for each in found.concepts] == [slices.keys()]


def test_many_copies_of_one_unit_are_no_concept(random):
    sample, _ = make_sample(random, carriers=6)
    rows = [*range(6), *[number % 6 for number in range(60)], *range(6, 160)]
    copied = sample.take(rows)
    ids = [f"pair-{number:04d}" for number in range(len(rows))]
    copied = PatchSample(ids, copied.units, copied.vectors, copied.hot)
    assert not find_concepts(copied, {WORD: ids[:70]}).concepts


def test_content_that_is_not_hot_is_not_found(random):
    sample, marked = make_sample(random)
    hot = [[cell for cell in random.permutation(SIDE * SIDE).tolist() if not mask.flat[cell]][:8] for mask in marked]
    cold = PatchSample(sample.ids, sample.units, sample.vectors, hot)
    assert not find_concepts(cold, {WORD: sample.ids[:64]}).concepts


def test_a_concept_that_no_half_of_the_sample_confirms_is_rejected_and_counted(random, monkeypatch):
    sample, _ = make_sample(random)
    slices = {WORD: sample.ids[:64]}
    found = find_concepts(sample, slices)
    monkeypatch.setattr(concepts, "_STABLE", found.concepts[0].stability + 0.01)
    rejected = find_concepts(sample, slices)
    assert (found.unstable, rejected.unstable, len(rejected.concepts)) == (0, 1, 0)


def test_neighbors_are_the_nearest_cells_of_the_nearest_other_units(random, monkeypatch):
    vectors = quantize(random.standard_normal((60, 5))).astype(np.float32)
    units = np.sort(random.integers(14, size=60))
    units = np.unique(units, return_inverse=True)[1]
    monkeypatch.setattr(concepts, "_BLOCK", 60 * 7)
    found = find_neighbors(vectors, units, 4)
    for row in range(60):
        by_unit = {}
        for column in range(60):
            if units[column] != units[row]:
                product = int(vectors[row] @ vectors[column])
                if units[column] not in by_unit or product > by_unit[units[column]][0]:
                    by_unit[units[column]] = product, column
        ranked = sorted(by_unit.values(), key=lambda each: (-each[0], each[1]))
        assert found[row].tolist() == [column for _, column in ranked[:4]]


def test_a_cell_is_enriched_if_chance_hardly_gives_so_many_neighbors_in_the_slice():
    units = np.arange(100)
    members = units < 20
    neighbors = np.tile(np.arange(80, 90), (100, 1))  # ten others
    neighbors[0, :8] = np.arange(1, 9)  # eight of ten: a probability of 2e-5
    neighbors[1, :5] = np.arange(2, 7)  # five of ten: 3 %
    neighbors[50, :8] = np.arange(1, 9)  # not in the slice
    assert find_enriched(units, neighbors, members).tolist() == [0]


def test_two_heaps_are_two_parts_and_one_heap_is_one(random):
    heaps = np.concatenate([random.standard_normal((20, 4)) + 12, random.standard_normal((15, 4)) - 12])
    labels = split_by_silhouette(heaps)
    assert len(set(labels[:20])) == len(set(labels[20:])) == 1
    assert labels[0] != labels[-1]
    assert split_by_silhouette(random.standard_normal((40, 12))).tolist() == [0] * 40


def test_a_bank_begins_with_the_medoid_and_goes_on_with_what_differs_most():
    vectors = np.array([[10.0, 0], [9, 1], [0, 10], [10, 1]])
    assert order_by_distance(vectors).tolist()[:2] == [3, 2]
    assert sorted(order_by_distance(vectors).tolist()) == [0, 1, 2, 3]


def test_a_cell_is_scored_by_its_five_nearest_members(random, monkeypatch):
    vectors = quantize(random.standard_normal((3, 4, 5, 6)))
    bank = quantize(random.standard_normal((9, 6)))
    monkeypatch.setattr(concepts, "_BLOCK", 40)
    products = np.sort(vectors.astype(int) @ bank.astype(int).T, axis=-1)[..., -5:]
    assert score_cells(bank, vectors) == pytest.approx(products.mean(axis=-1) / 127**2)


def test_a_region_grows_from_a_certain_cell_over_adjacent_likely_ones():
    scores = np.zeros((2, 5, 5))
    scores[0, 0, 0], scores[0, 1, 1], scores[0, 4, 4] = 0.9, 0.5, 0.5
    scores[1, 0, 0] = 0.5  # beside the certain cell of the other pair
    regions = find_regions(scores, 0.4, 0.8)
    assert np.argwhere(regions).tolist() == [[0, 0, 0], [0, 1, 1]]


def test_too_few_pairs_for_neighbors_give_nothing(random):
    sample, _ = make_sample(random, pairs=12, carriers=8)
    assert not find_concepts(sample, {WORD: sample.ids[:8]}).concepts
