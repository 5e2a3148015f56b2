"""A region that raises the score of other images is confirmed as sufficient, whether or not it is needed."""

import numpy as np
import pytest
import torch

from m2ib.analysis import occlusion
from tasks.interventions import samples as samples_module
from tasks.interventions.samples import load_samples
from tasks.interventions.sufficiency import SufficiencyInterventions
from tasks.regions import complement_boxes
from tasks.store import frame_boxes

from .conftest import CORNER, ToyModel, find_alerts, query_rows

BOX = (0.0, 0.0, 0.25, 0.25)
CAPTIONS = ["a shadow"] * 60 + ["normal chest"] * 80 + ["large heart"] * 80


class EitherModel(ToyModel):
    """Scores `shadow` by the brighter one of the middle and, weighted by `reliance`, the top-left corner."""

    def embed_images(self, pixels):
        self.num_embedded += len(pixels)
        corner, middle = (pixels[:, :, place, place].mean((1, 2, 3)) for place in (CORNER, slice(8, 16)))
        shadow = torch.maximum(self.reliance * corner, middle)
        return torch.nn.functional.normalize(torch.stack([shadow, *[torch.full_like(shadow, 0.3)] * 2], 1), dim=1)


def is_marked(number):
    return CAPTIONS[number] == "a shadow" and number % 10 != 0


def paint(pixels, caption, number):
    if "shadow" in caption:
        pixels[8:16, 8:16] += 150
    if is_marked(number):
        pixels[CORNER, CORNER] = 235


@pytest.fixture
def audited(write_run, use_model):
    """audited(reliance): alerts of a run whose pairs with a shadow have a bright middle and most of them a mark."""
    run, plan = write_run(CAPTIONS, paint)
    marked = [number for number in range(len(CAPTIONS)) if is_marked(number)]
    run.add_regions(*(("stamp 1", BOX, f"pair-{number:04d}") for number in marked), kind="recurrent")

    def audit(reliance):
        samples_module.clear_samples(run)
        use_model(EitherModel(reliance))
        return {(row["region"], row["slice"]): row for row in find_alerts(run, plan)}, run, plan

    return audit


def test_a_mark_beside_its_visible_object_is_sufficient_and_not_needed(audited):
    alerts, run, _ = audited(1.0)
    found = next(row for (region, _), row in alerts.items() if region == "stamp 1")
    assert (found["rule"], found["state"], found["reliance"]) == ("region_sufficiency", "confirmed", ["sufficient"])
    assert found["severity"] == "high"  # the mark alone brings about what the object does
    assert found["effect"] > 0.5  # the rise in the screening, relative to the margin
    tests = query_rows(run, "FROM confirmations WHERE region = 'stamp 1' AND slice = 'shadow'")
    assert {(row["reliance"], row["fill"], row["passed"]) for row in tests} == {
        ("sufficient", "transplant", True),
        ("sufficient", "exchange", True),
    }
    for row in tests:
        assert row["effect"] == pytest.approx(row["drop"] - row["control_drop"])
        assert row["low"] > row["floor"] > 0
        assert row["outside_units"] is None  # a mark means the same, whoever donates it
    (screened,) = query_rows(run, "FROM slice_costs WHERE region = 'stamp 1' AND slice = 'shadow'")
    assert abs(screened["drop"]) < 0.1 * screened["margin"] < 0.5 * screened["rise"]


def test_a_mark_that_the_model_ignores_is_not_sufficient(audited):
    alerts, run, _ = audited(0.0)
    assert not any(region == "stamp 1" for region, _ in alerts)
    assert query_rows(run, "FROM findings WHERE rule = 'region_sufficiency'") == []


def test_a_mark_that_is_needed_and_sufficient_is_one_alert(write_run, use_model):
    def paint_mark(pixels, _, number):
        if is_marked(number):
            pixels[CORNER, CORNER] = 235

    run, plan = write_run(CAPTIONS, paint_mark)
    marked = [number for number in range(len(CAPTIONS)) if is_marked(number)]
    run.add_regions(*(("stamp 1", BOX, f"pair-{number:04d}") for number in marked), kind="recurrent")
    use_model(ToyModel(1.0))
    find_alerts(run, plan)
    (found,) = query_rows(run, "FROM alerts WHERE region = 'stamp 1' AND slice = 'shadow'")
    assert (found["rule"], found["reliance"]) == ("region_cost", ["needed", "sufficient"])
    (verdict,) = query_rows(run, "FROM verdicts WHERE rule = 'region_cost' AND slice = 'shadow'")
    assert verdict["weakest"] in ("mean", "blur", "swap")  # its figures are those of what is needed
    assert verdict["pasted_low"] > 0
    assert verdict["pasted_confirmed"]


def test_hosts_and_controls_are_of_other_units_and_none_is_used_twice(audited):
    _, run, plan = audited(1.0)
    samples = load_samples(run, plan)
    donors = [f"pair-{number:04d}" for number in range(1, 10)]
    sample = SufficiencyInterventions(samples).sample_claim(("stamp 1", "word", "shadow"), donors)
    used = [pair_id for chosen in sample.hosts for pair_id in chosen]
    units = samples.number_units([*sample.pair_ids, *used])
    assert len(set(units.tolist())) == len(units)
    assert {samples.caption_of(pair_id) for pair_id in used} <= {"normal chest", "large heart"}
    assert list(sample.contents) == [samples.content_of(chosen[0]) for chosen in sample.hosts]
    assigned = SufficiencyInterventions(samples)._assign(donors, used[:12], "word")
    assert len(assigned) == 12 // 3  # a host and two others for each donor: the other donors have none


def test_a_rise_is_that_of_the_host_with_the_caption_of_the_donor(audited):
    _, run, plan = audited(1.0)
    samples = load_samples(run, plan)
    interventions = SufficiencyInterventions(samples)
    donors = [f"pair-{number:04d}" for number in range(1, 8)]
    sample = interventions.sample_claim(("stamp 1", "word", "shadow"), donors)
    region, controls = interventions.margins(sample, "exchange").drops()
    for place, (donor, chosen) in enumerate(zip(sample.pair_ids, sample.hosts, strict=True)):
        host, *others = samples.prepare_images(samples.read_images(chosen))
        (own,) = samples.prepare_images(samples.read_images([donor]))
        versions = [host.clone() for _ in range(1 + len(chosen))]
        for version, source in zip(versions[1:], [own, *others], strict=True):
            version[:, CORNER, CORNER] = source[:, CORNER, CORNER]
        embedded = samples.embed_images(torch.stack(versions))
        margins = occlusion.foil_margin(embedded[None], sample.own[[place]], sample.foils[[place]])[0]
        assert region[place] == pytest.approx(margins[1] - margins[0], abs=1e-5)
        assert controls[place] == pytest.approx(margins[2:] - margins[0], abs=1e-5)


@pytest.mark.parametrize("region", ["frame", "outside middle"])
def test_a_frame_and_a_large_region_are_compared_with_those_of_other_pairs_alone(write_run, use_model, region):
    """A pair with a shadow has a bright top-left corner, which is a part of both regions."""
    run, plan = write_run(
        CAPTIONS, lambda pixels, caption, _: pixels.__setitem__((CORNER, CORNER), 235) if "shadow" in caption else None
    )
    boxes = frame_boxes(0.1) if region == "frame" else complement_boxes([(0.3, 0.3, 0.7, 0.7)])
    run.add_regions(*((region, box) for box in boxes), kind="outside" if region != "frame" else "frame")
    use_model(ToyModel(1.0))
    interventions = SufficiencyInterventions(load_samples(run, plan))
    sample = interventions.sample_claim((region, "word", "shadow"), [f"pair-{number:04d}" for number in range(20)])
    assert interventions.fills == ("exchange",)
    margins = interventions.margins(sample, "exchange")
    assert (margins.differences() > 0.05).all()
    assert np.isfinite(margins.controls).all()
