"""The plan covers all kinds and strengths, and its splits are disjoint."""

import itertools
from collections import Counter
from typing import get_args

import pytest

from benchmarks.planted import plan
from benchmarks.planted.artifacts import KINDS
from benchmarks.planted.plan import GENERATORS, SEEDS, STRENGTHS, create_clean_entry, list_cells, list_entries

FULL = list_entries()


def test_every_kind_has_every_strength_once_in_each_generator():
    first = [e for e in FULL if e.seed < len(STRENGTHS)]
    met = Counter((e.generator_name, tie.kind, tie.strength) for e in first for tie in e.ties)
    assert met == {(g, kind, strength): 1 for g in GENERATORS for kind in KINDS for strength in STRENGTHS}


def test_every_kind_is_tied_to_each_target_before_one_repeats_with_another_strength():
    for generator, drawing in GENERATORS.items():
        for kind in KINDS:
            ties = [e.tie(kind) for e in FULL if e.generator_name == generator and kind in e.kinds and e.ties]
            first = [tie.target for tie in ties[: len(drawing.targets)]]
            assert len(set(first)) == len(first) == min(len(SEEDS), len(drawing.targets))
            assert len(set(ties)) == len(SEEDS)


def test_no_target_of_a_model_has_two_artifacts_and_strengths_are_mixed():
    for entry in FULL:
        targets = [tie.target for tie in entry.ties]
        assert len(set(targets)) == len(targets)
        assert entry.clean or set(STRENGTHS) == {tie.strength for tie in entry.ties}


def test_each_generator_and_seed_has_two_models_and_a_clean_twin():
    assert len(FULL) == len({e.name for e in FULL}) == 6 * len(SEEDS)
    assert sum(e.clean for e in FULL) == 2 * len(SEEDS)
    for cell in list_cells():
        assert cell.twin in FULL
        assert cell.twin.clean
        assert (cell.twin.generator_name, cell.twin.seed) == (cell.entry.generator_name, cell.entry.seed)
        assert cell.twin.word == cell.entry.word
        assert cell.tie.kind in cell.twin.kinds


def test_models_for_choosing_settings_are_trained_first():
    assert [e.seed for e in FULL] == sorted(e.seed for e in FULL)
    assert [e.generator_name for e in FULL[:6]] == ["phantoms"] * 3 + ["scenes"] * 3


def test_splits_are_disjoint():
    split = [list_cells(name) for name in get_args(plan.Split)]
    for one, other in itertools.combinations(split, 2):
        assert not {c.entry for c in one} & {c.entry for c in other}
        assert not {c.twin for c in one} & {c.twin for c in other}
        assert not {c.entry.seed for c in one} & {c.entry.seed for c in other}
    choosing = list_cells("choosing")
    assert not any(c.tie.kind in plan.UNSEEN for c in choosing)
    unused = [c for c in list_cells() if c.split is None]
    assert sum(map(len, split)) + len(unused) == len(list_cells()) == 18 * len(SEEDS)
    assert not {c.tie.kind for c in unused} & {c.tie.kind for c in choosing}


def test_each_split_has_enough_cells():
    has_place = [
        c
        for c in list_cells("reporting")
        if c.tie.strength >= 0.85 and KINDS[c.tie.kind].has_place and c.tie.kind != "texture"
    ]
    assert len({c.tie.kind for c in has_place if KINDS[c.tie.kind].modality == "image"}) == 6
    assert {c.tie.kind for c in list_cells("reporting") if c.tie.kind in plan.UNSEEN} == set(plan.UNSEEN)
    assert {KINDS[c.tie.kind].modality for c in list_cells("choosing")} == {"image", "text"}
    assert {c.entry.generator_name for c in list_cells("choosing")} == set(GENERATORS)


def test_nothing_is_chosen_on_an_unseen_kind():
    assert not set(plan.CHOOSING_KINDS) & set(plan.UNSEEN)
    assert {*plan.CHOOSING_KINDS, *plan.UNSEEN} <= set(KINDS)


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
    assert len(lines) == (18 + 2) * len(SEEDS)
    assert sum(line.endswith("choosing") for line in lines) == len(list_cells("choosing"))
