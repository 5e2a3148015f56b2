"""Recurring concepts of a run: found in half of the units, written for all pairs, and tested on the other half."""

import numpy as np
import pytest
import torch

import sql
from m2ib import PatchProjection
from tasks import concepts as stage
from tasks.concepts import concepts
from tasks.flag import flag
from tasks.lake.run import PROJECTION
from tasks.settings import AlertsConfig

PAIRS, CARRIERS, SIDE, DIMS = 170, 64, 6, 12
MASS = {"slice_kind": "word", "slice": "mass"}


def quantize(vectors):
    return np.round(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) * 127).astype(np.int8)


@pytest.fixture
def features():
    """Vectors of pairs, of which the first ones show a mark of two cells somewhere, and where it is."""
    random = np.random.default_rng(5)
    kinds = random.standard_normal((6, DIMS))
    vectors = kinds[random.integers(6, size=(PAIRS, SIDE, SIDE))]
    vectors = vectors + 0.8 * random.standard_normal(vectors.shape)
    marked = np.zeros(vectors.shape[:3], bool)
    for pair in range(CARRIERS):
        row, column = random.integers(SIDE), random.integers(SIDE - 1)
        marked[pair, row, column : column + 2] = True
    mark = 3 * random.standard_normal(DIMS)
    vectors[marked] = mark + 0.5 * random.standard_normal((2 * CARRIERS, DIMS))
    return quantize(vectors), marked


@pytest.fixture
def build_run(hand_written_run, features):
    """build_run(captions): a run with these features, whose marks hold most of the nats."""
    vectors, marked = features

    def build(captions=("mass",) * CARRIERS + ("clear",) * (PAIRS - CARRIERS)):
        hand_written_run.add_pairs(captions)
        maps = [(1 + 20 * mask).ravel().tolist() for mask in marked]
        hand_written_run.add_attributions(maps, (SIDE, SIDE))
        rows = [
            {
                "pair_id": f"pair-{number:04d}", "grid_h": SIDE, "grid_w": SIDE, "vectors": each.tobytes(),
                "hot": [*np.flatnonzero(mask).tolist(), *np.flatnonzero(~mask.ravel())[:5].tolist()],
            }
            for number, (each, mask) in enumerate(zip(vectors, marked, strict=True))
        ]  # fmt: skip
        hand_written_run.write_table("patch_features", rows)
        PatchProjection(torch.zeros(DIMS), torch.eye(DIMS), torch.tensor(9.0), 3, "model m, layer 3").save(
            hand_written_run.folder / PROJECTION
        )
        return hand_written_run

    return build


def read(run, query):
    with run.connect() as connection:
        return sql.read(connection, query)


def test_a_concept_is_found_in_all_pairs_and_is_a_region(build_run, features):
    _, marked = features
    run = build_run()
    concepts.fn(run, 10, 0)
    (concept,) = read(run, "FROM concepts")
    (found,) = read(run, "FROM concept_slices")
    boxes = read(run, "FROM regions WHERE kind = 'concept'")
    assert concept["concept"] == found["concept"] == boxes[0]["region"] == "concept 1"
    assert (found["slice_kind"], found["slice"], found["proposed"]) == ("word", "mass", True)
    assert found["prevalence"] > 0.9
    assert found["lift"] == pytest.approx(found["prevalence"] / max(found["elsewhere"], 0.01))
    assert concept["pairs"] == len({row["pair_id"] for row in boxes})
    assert not concept["context"]
    assert concept["made_for"].startswith("model m, layer 3, projection ")
    covered = np.zeros_like(marked)
    for box in boxes:
        x0, y0, x1, y1 = (round(box[key] * SIDE) for key in ("x0", "y0", "x1", "y1"))
        covered[int(box["pair_id"][5:]), y0:y1, x0:x1] = True
    assert covered[marked].mean() > 0.9
    assert marked[covered].mean() > 2 / 3  # a twentieth of the other pairs has it by construction


def test_only_units_that_propose_are_read_to_find_concepts(build_run):
    run = build_run()
    proposing = {row["pair_id"] for row in read(run, "SELECT pair_id FROM pair_units WHERE proposes")}
    concepts.fn(run, 10, 0)
    exemplars = {row["pair_id"] for row in read(run, "FROM concept_exemplars")}
    assert exemplars
    assert exemplars <= proposing
    assert len(proposing) < PAIRS


def test_exemplars_have_their_cells_and_vectors(build_run, features):
    vectors, _ = features
    run = build_run()
    concepts.fn(run, 10, 0)
    rows = read(run, "FROM concept_exemplars ORDER BY rank")
    assert [row["rank"] for row in rows] == [*range(1, len(rows) + 1)]
    for row in rows:
        y, x = round(row["y0"] * SIDE), round(row["x0"] * SIDE)
        assert row["vector"] == vectors[int(row["pair_id"][5:]), y, x].tobytes()


def test_rules_propose_a_concept_only_in_its_slices(build_run):
    run = build_run()
    concepts.fn(run, 10, 0)
    flag.fn(run, AlertsConfig(min_pairs=10), {})
    claims = {(row["region"], row["slice"]) for row in read(run, "FROM findings WHERE region LIKE 'concept %'")}
    assert claims == {("concept 1", "mass")}


def test_a_slice_that_cannot_be_tested_on_other_pairs_is_not_proposed(build_run):
    run = build_run()
    warnings = concepts.fn(run, 40, 0)
    assert not read(run, "FROM concepts")
    assert "slices too small" in warnings[0]
    assert run.read_manifest()["concept_search"]["small_slices"] == 1


def test_captions_that_have_nothing_to_do_with_the_images_give_no_concept(build_run):
    order = np.random.default_rng(1).permutation(PAIRS)
    run = build_run([("mass" if number < CARRIERS else "clear") for number in order])
    concepts.fn(run, 10, 0)
    assert not read(run, "FROM concepts")
    assert not read(run, "FROM regions WHERE kind = 'concept'")


def test_few_claims_of_a_slice_and_in_all_are_proposed_the_strongest_first(monkeypatch):
    class Fake:
        def __init__(self, strengths):
            self.slices, self.strength = strengths, strengths.get

    one, two, three = Fake({"a": 9.0, "b": 3.0}), Fake({"a": 8.0}), Fake({"a": 7.0, "b": 1.0})
    monkeypatch.setattr(stage, "CLAIMS_PER_SLICE", 2)
    assert stage._choose_claims([one, two, three]) == [(one, "a"), (two, "a"), (one, "b"), (three, "b")]
    monkeypatch.setattr(stage, "CLAIMS", 2)
    assert stage._choose_claims([one, two, three]) == [(one, "a"), (two, "a")]


def test_cells_with_an_unusually_large_norm_are_counted(build_run, hand_written_run):
    run = build_run()
    rows = [{**row, "vectors": bytes(DIMS) + row["vectors"][DIMS:]} for row in run.iter_rows("patch_features")]
    run.write_table("patch_features", rows)
    warnings = concepts.fn(run, 10, 0)
    assert run.read_manifest()["concept_search"]["dropped_cells"] == PAIRS
    assert f"{PAIRS} cells with an unusually large norm" in warnings[0]


def test_a_second_attempt_gives_the_same_rows(build_run):
    run = build_run()
    concepts.fn(run, 10, 0)
    tables = ("regions", "concepts", "concept_slices", "concept_exemplars")
    before = [read(run, f"FROM {table} ORDER BY ALL") for table in tables]
    concepts.fn(run, 10, 0)
    assert [read(run, f"FROM {table} ORDER BY ALL") for table in tables] == before


def test_an_empty_run_has_no_concepts(hand_written_run):
    assert concepts.fn(hand_written_run, 10, 0) == []
    assert not read(hand_written_run, "FROM concepts")


def test_a_concept_is_screened_in_the_pairs_that_propose(build_run):
    run = build_run()
    concepts.fn(run, 10, 0)
    proposing = {row["pair_id"] for row in read(run, "SELECT pair_id FROM pair_units WHERE proposes")}
    with run.connect() as connection:
        rows = sql.rows(connection, "derive/pairs_to_screen", run_id=run.run_id, min_pairs=10, seed=0, limit=64)
    assert {region for row in rows for region in row["regions"]} == {"concept 1"}
    assert {row["pair_id"] for row in rows} <= proposing
    assert len(rows) > 10


def test_a_concept_has_the_name_of_the_run_that_first_found_it(hand_written_run):
    names = read(
        hand_written_run, "SELECT lasting_name('concept 3', 'r') AS one, lasting_name('concepts', 'r') AS other"
    )
    assert names == [{"one": "concept 3 of r", "other": "concepts"}]
