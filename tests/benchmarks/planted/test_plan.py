"""The plan covers all kinds, strengths and towers, and its splits are disjoint."""

from collections import Counter

import pytest

from benchmarks.planted import plan
from benchmarks.planted.artifacts import KINDS
from benchmarks.planted.plan import (
    GENERATORS,
    SEEDS,
    SETS,
    STRENGTHS,
    TOWERS,
    create_clean_entry,
    list_cells,
    list_entries,
)

FULL = list_entries()
SEED_COUNT = sum(map(len, SEEDS.values()))


@pytest.mark.parametrize("split", SEEDS)
def test_every_kind_has_every_strength_once_in_each_generator_and_tower(split):
    met = Counter((e.generator_name, e.tower, tie.kind, tie.strength) for e in list_entries(split) for tie in e.ties)
    assert met == {(g, t, kind, s): 1 for g in GENERATORS for t in TOWERS for kind in KINDS for s in STRENGTHS}


def test_every_kind_is_tied_to_each_target_before_one_repeats_with_another_strength():
    for generator, drawing in GENERATORS.items():
        for kind in KINDS:
            ties = [e.tie(kind) for e in FULL if e.generator_name == generator and kind in e.kinds and e.ties]
            assert {tie.target for tie in ties[: len(drawing.targets)]} == set(drawing.targets)
            assert len(set(ties)) == SEED_COUNT


def test_no_target_of_a_model_has_two_artifacts_and_strengths_are_mixed():
    for entry in FULL:
        targets = [tie.target for tie in entry.ties]
        assert len(set(targets)) == len(targets)
        assert entry.clean or set(STRENGTHS) == {tie.strength for tie in entry.ties}


def test_each_generator_and_seed_has_a_model_for_each_set_and_a_clean_twin():
    assert len(FULL) == len({e.name for e in FULL}) == 2 * (len(SETS) + 1) * SEED_COUNT
    assert sum(e.clean for e in FULL) == 2 * SEED_COUNT
    for cell in list_cells():
        assert cell.twin in FULL
        assert cell.twin.clean
        assert (cell.twin.generator_name, cell.twin.seed) == (cell.entry.generator_name, cell.entry.seed)
        assert (cell.twin.word, cell.twin.tower) == (cell.entry.word, cell.entry.tower)
        assert cell.tie.kind in cell.twin.kinds


def test_a_mark_whose_absence_is_the_cue_is_with_the_other_targets():
    entry = next(e for e in FULL if "absent_tag" in e.kinds and e.ties)
    tie = entry.tie("absent_tag")
    for target, rate in entry.planting.rates["absent_tag"].items():
        assert rate == pytest.approx(1 - tie.strength if target == tie.target else tie.strength)


def test_splits_are_disjoint_and_those_of_the_choosing_split_are_trained_first():
    assert not set(SEEDS["choosing"]) & set(SEEDS["reporting"])
    assert (*list_entries("choosing"), *list_entries("reporting")) == FULL
    for split in SEEDS:
        assert {cell.split for cell in list_cells(split)} == {split}


def test_the_reporting_split_is_large_enough():
    """Targets: 80 learned artifacts, 8 of each kind, 130 audits without any; all if each is learned."""
    from benchmarks.planted.audits import AUDITS

    cells = Counter(cell.tie.kind for cell in list_cells("reporting"))
    assert set(cells) == set(KINDS)
    assert min(cells.values()) >= 8
    models = [entry for entry in list_entries("reporting") if not entry.clean]
    assert len(models) * sum(by_twin or variant == "bare" for variant, by_twin in AUDITS) >= 130


def test_quick_is_one_model_of_one_strength_and_its_twin():
    model, twin = list_entries(quick=True)
    assert {tie.strength for tie in model.ties} == {plan.QUICK_STRENGTH}
    assert twin == create_clean_entry("phantoms", plan.QUICK_SEED)
    assert twin in FULL
    assert model not in FULL
    assert {c.split for c in list_cells(quick=True)} == {"reporting"}
    assert all(c.twin == twin for c in list_cells(quick=True))


def test_the_rendered_word_is_that_of_the_target_it_is_tied_to():
    for entry in FULL:
        if "word" in entry.kinds and entry.ties:
            prompts = [
                text
                for label in range(len(entry.generator.classes))
                if entry.generator.get_target(label) == entry.tie("word").target
                for text in entry.generator.list_prompts(label)
            ]
            assert any(entry.word.lower() in prompt.split() for prompt in prompts)


def test_a_kind_that_is_not_tied_raises():
    with pytest.raises(ValueError, match="phantoms-clean-0"):
        create_clean_entry("phantoms", 0).tie("logo")


def test_every_tie_is_described():
    lines = plan.describe(FULL).splitlines()
    assert len(lines) == 2 * (len(KINDS) + 1) * SEED_COUNT
    assert sum(line.endswith("choosing") for line in lines) == len(list_cells("choosing"))
