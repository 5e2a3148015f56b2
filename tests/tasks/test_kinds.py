"""Alerts without mass: a mark that lowers the score, the absence of a mark, and properties of the whole image."""

import torch

from tasks.interventions import samples as samples_module
from tasks.interventions.samples import InterventionPlan
from tasks.measure_images import measure_images
from tasks.settings import ConfirmConfig

from .conftest import CORNER, ToyModel, find_alerts, query_rows

BOX = (0.0, 0.0, 0.25, 0.25)


class WarmModel(ToyModel):
    """Scores `shadow` by how much more red than blue the whole image has, weighted by `reliance`."""

    def embed_images(self, pixels):
        self.num_embedded += len(pixels)
        warmth = pixels[:, 0].mean((1, 2)) - pixels[:, 2].mean((1, 2))
        shadow = 0.3 + self.reliance * warmth + 0.2 * pixels[:, :, 8:16, 8:16].mean((1, 2, 3))
        return torch.nn.functional.normalize(torch.stack([shadow, *[torch.full_like(shadow, 0.3)] * 2], 1), dim=1)


CAPTIONS = ["a shadow"] * 30 + ["normal chest"] * 25 + ["large heart"] * 25


def paint_cast(pixels, caption, number):
    if "shadow" in caption and number % 10:
        pixels *= [1.3, 1.0, 0.7]


def test_colors_that_the_score_needs_are_confirmed(write_run, use_model):
    run, plan = write_run(CAPTIONS, paint_cast)
    use_model(WarmModel(2.0))
    alerts = find_alerts(run, plan)
    assert {(row["rule"], row["region"]) for row in alerts} == {("image_wide", "image-wide color")}
    (found,) = [row for row in alerts if row["slice"] == "shadow"]
    assert (found["state"], found["direction"], found["share"], found["area"]) == ("confirmed", None, 1, 1)
    assert "a" in found["same_slices"]
    assert found["effect"] > 0.8
    assert all(int(pair_id[-4:]) < 30 for pair_id in found["pair_ids"])
    tests = query_rows(run, "FROM confirmations WHERE slice = 'shadow' AND region = 'image-wide color'")
    assert {row["fill"] for row in tests} == {"match", "lend"}
    assert all(row["passed"] and row["effect"] > row["floor"] > 0 for row in tests)
    assert len({row["margin"] for row in tests}) == 1  # both are losses of the pairs' own margin
    assert all(row["losing"] < 0.5 for row in tests)


def test_colors_that_the_model_ignores_are_proposed_and_no_alert(write_run, use_model):
    run, plan = write_run(CAPTIONS, paint_cast)
    use_model(WarmModel(0.0))
    assert find_alerts(run, plan) == []
    (finding,) = query_rows(run, "FROM findings WHERE slice = 'shadow' AND rule = 'image_wide'")
    assert finding["n"] == 30
    verdicts = query_rows(run, "FROM verdicts WHERE slice = 'shadow'")
    assert {row["confirmed"] for row in verdicts} == {False}


def test_without_a_cast_little_is_proposed_and_nothing_confirmed(write_run, use_model):
    run, plan = write_run(CAPTIONS, lambda *_: None)
    use_model(WarmModel(2.0))
    assert find_alerts(run, plan) == []


def test_images_are_not_measured_without_tests(write_run, use_model):
    run, plan = write_run(CAPTIONS, paint_cast)
    use_model(WarmModel(2.0))
    disabled = InterventionPlan(plan.inputs, ConfirmConfig(enabled=False), 8, 0)
    assert measure_images.fn(run, disabled) == 0
    assert query_rows(run, "FROM image_statistics") == []


def paint_mark(chosen):
    def paint(pixels, caption, number):
        if chosen(caption, number):
            pixels[CORNER, CORNER] = 235

    return paint


def test_a_mark_whose_absence_is_the_cue_is_confirmed(write_run, use_model):
    def is_marked(caption, number):
        return "shadow" not in caption and number % 8

    run, plan = write_run(CAPTIONS, paint_mark(is_marked))
    marked = [number for number, caption in enumerate(CAPTIONS) if is_marked(caption, number)]
    run.add_regions(*(("stamp 1", BOX, f"pair-{number:04d}") for number in marked), kind="recurrent")
    model = use_model(ToyModel(-1.0))  # a bright corner speaks against a shadow
    alerts = {(row["region"], row["slice"]): row for row in find_alerts(run, plan)}
    found = alerts["absence of stamp 1", "shadow"]
    assert (found["rule"], found["state"], found["direction"]) == ("overlay_absence", "confirmed", "lowers")
    assert (found["n"], found["share"]) == (30, 0)
    tests = query_rows(run, "FROM confirmations WHERE region = 'absence of stamp 1' AND slice = 'shadow'")
    assert [(row["fill"], row["passed"], row["direction"]) for row in tests] == [("paste", True, "lowers")]
    assert tests[0]["drop"] > tests[0]["control_drop"]
    model.reliance = 0.0
    samples_module.clear_samples(run)
    assert find_alerts(run, plan) == []


def test_a_mark_that_lowers_the_score_is_confirmed_and_pasted_where_it_is_absent(write_run, use_model):
    def is_marked(caption, number):
        return "normal" in caption and number % 3

    captions = ["a shadow"] * 30 + ["normal chest"] * 90 + ["large heart"] * 20
    run, plan = write_run(captions, paint_mark(is_marked))
    marked = [number for number, caption in enumerate(captions) if is_marked(caption, number)]
    run.add_regions(*(("stamp 1", BOX, f"pair-{number:04d}") for number in marked), kind="recurrent")
    model = use_model(ToyModel(1.0))  # a bright corner speaks for a shadow
    find_alerts(run, plan)
    (found,) = query_rows(run, "FROM alerts WHERE region = 'stamp 1' AND slice = 'normal'")
    assert (found["rule"], found["state"], found["direction"]) == ("region_gain", "confirmed", "lowers")
    tests = query_rows(run, "FROM confirmations WHERE region = 'stamp 1' AND slice = 'normal' AND direction = 'lowers'")
    assert {row["fill"] for row in tests} == {"mean", "blur", "swap"}
    for row in tests:
        assert row["passed"]
        assert row["drop"] > 0  # a gain
        assert row["transplant_low"] > 0  # pairs of the slice without the mark lose by it
        assert row["transplant_n"] > 8
    model.reliance = 0.0
    samples_module.clear_samples(run)
    assert find_alerts(run, plan) == []
