"""A region that the score relies on is confirmed; one that only has attribution is not, and the reason is stored."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import sql
from review.presentation import formatting
from tasks.alert import alert
from tasks.confirm import _adjust, confirm
from tasks.interventions.marks import LoweringInterventions
from tasks.interventions.regions import RegionInterventions
from tasks.interventions.samples import clear_samples, load_samples
from tasks.interventions.statistics import LEAST_OUTSIDE, LEAST_UNITS, deciding_p
from tasks.regions import complement_boxes
from tasks.settings import AlertsConfig, ConfirmConfig

ALERTS = AlertsConfig(factor=2.0, min_pairs=3, examples=2)


def read_table(run, table="confirmations"):
    with run.connect() as connection:
        return sql.read(connection, f"FROM {table} ORDER BY ALL")


def test_region_that_the_score_needs_is_confirmed_and_others_are_not(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    use_toy_model(1.0)
    assert confirm.fn(run, plan) == 2
    rows = read_table(run)
    assert len(rows) == 3 * 3  # the finding on text is not tested here
    # The frame cuts through the corner, so the score needs it as well.
    assert {row["region"] for row in rows if row["confirmed"]} == {"corner top-left", "frame"}
    assert {row["tests"] for row in rows} == {3}  # a finding is one test, by the largest p of its fills
    for region in {row["region"] for row in rows}:
        of_region = [row for row in rows if row["region"] == region]
        assert len({row["q"] for row in of_region if row["n"]}) == 1
    for row in (row for row in rows if row["n"]):
        assert row["effect"] == pytest.approx(row["drop"] - row["control_drop"])
        assert (row["reason"] is None) == row["passed"]
        assert row["low"] <= row["effect"] <= row["high"]
        assert row["q"] >= row["p"]
        assert row["n"] == row["units"] == 17  # of 48 pairs: those that did not propose
        assert row["split"]
    of_corner = [row for row in rows if row["region"] == "corner top-left"]
    assert all(row["passed"] and row["low"] > row["floor"] > 0 for row in of_corner)
    assert {row["fill"] for row in of_corner} == {"mean", "blur", "swap"}
    (other, *_) = [row for row in rows if row["region"] == "corner top-right" and row["fill"] == "mean"]
    assert other["reason"].startswith("got a score loss of ")
    assert "expected more than the floor" in other["reason"]


def test_a_fill_that_does_not_pass_ends_the_test_of_its_finding(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    model = use_toy_model(0.0)
    assert confirm.fn(run, plan) == 0
    assert [row for row in read_table(run) if row["passed"]] == []
    num_embedded_without_reliance, model.num_embedded = model.num_embedded, 0
    by_fill = {row["fill"]: row for row in read_table(run) if row["region"] == "corner top-right"}
    assert by_fill["mean"]["n"] == 17
    for fill in ("blur", "swap"):
        assert (by_fill[fill]["n"], by_fill[fill]["effect"], by_fill[fill]["passed"]) == (0, None, False)
        assert by_fill[fill]["reason"] == "not measured: all fills must pass, and the fill mean did not; see its row"
    assert {(row["q"], row["tests"]) for row in read_table(run) if row["n"]} == {(1.0, 3)}  # it still counts as a test
    with run.connect() as connection:
        verdicts = sql.read(connection, "FROM verdicts")
    assert {(row["weakest"], row["tested"], row["confirmed"]) for row in verdicts} == {("mean", 17, False)}
    clear_samples(run)
    model.reliance = 1.0
    confirm.fn(run, plan)
    assert model.num_embedded > 2 * num_embedded_without_reliance


def test_few_units_outside_of_the_slice_are_compared_and_decide_nothing(run_with_findings, use_toy_model, rewrite_rows):
    run, plan = run_with_findings
    use_toy_model(1.0)
    rewrite_rows(run, "region_shares", lambda rows: rows[: 3 * 45])  # of all of the slice, and of 15 others
    assert confirm.fn(run, plan) == 2
    rows = [row for row in read_table(run) if row["region"] == "corner top-left"]
    ((units, effect, p),) = {(row["outside_units"], row["outside_effect"], row["outside_p"]) for row in rows}
    assert LEAST_UNITS <= units < LEAST_OUTSIDE
    assert effect < rows[0]["floor"]
    assert p < 0.01
    assert LEAST_OUTSIDE == formatting.LEAST_OUTSIDE
    other = {**rows[0], "outside_p": 0.5}
    assert deciding_p(other) is None
    assert deciding_p(other | {"outside_units": LEAST_OUTSIDE}) == 0.5


def test_the_reason_of_a_hottest_corner_is_the_test_that_failed(run_with_findings, use_toy_model, rewrite_rows):
    run, plan = run_with_findings
    use_toy_model(0.0)

    def rename(rows):
        return [row | {"region": "hottest corner"} for row in rows if row["region"] == "corner top-left"]

    for table in ("findings", "region_shares", "regions"):
        rewrite_rows(run, table, rename)
    confirm.fn(run, plan)
    (first,) = [row for row in read_table(run) if row["fill"] == "mean"]
    assert first["outside_units"] is None
    assert first["reason"].startswith(("got a score loss", "ended after"))


def test_a_repeated_stage_gives_the_same_rows_and_alerts_are_confirmed_or_suspected(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    use_toy_model(1.0)
    confirm.fn(run, plan)
    first = read_table(run)
    confirm.fn(run, plan)
    assert read_table(run) == first
    alerts = alert.fn(run, ALERTS)
    states = {row["region"]: row["state"] for row in alerts}
    assert states.pop("corner top-left") == states.pop("frame") == "confirmed"
    assert set(states.values()) == {"suspected"}
    assert alerts[0]["severity"] == "high"  # the middle is dim: without the corner the caption does not win
    assert {row["severity"] for row in alerts if row["state"] == "suspected"} == {None}
    assert run.read_manifest()["counts"]["confirmed"] == 2
    with run.connect() as connection:
        (first, *_) = sql.rows(connection, "review/alerts", run_id=run.run_id)
    assert first["tested"] == 17
    assert first["score_effect"] > first["floor"]


def test_unreadable_image_is_left_out(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    use_toy_model(1.0)
    (plan.inputs.corpus.root / "3.png").unlink()
    (plan.inputs.corpus.root / "4.png").write_bytes(b"no image")
    Image.new("RGB", (24, 24)).save(plan.inputs.corpus.root / "40.png")  # a host image may have changed
    assert confirm.fn(run, replace(plan, confirm=ConfirmConfig(pairs=64))) == 2
    assert {row["n"] for row in read_table(run)} == {0, 17}


def test_unmeasurable_finding_is_not_confirmed_and_has_a_reason(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    use_toy_model(1.0)
    for number in range(30):
        (plan.inputs.corpus.root / f"{number}.png").unlink()
    assert confirm.fn(run, plan) == 0
    rows = read_table(run)
    assert {row["fill"] for row in rows} == {"mean", "blur", "swap"}
    assert {row["reason"] for row in rows} == {
        "got 0 measurable pairs of 17 (17 with unreadable images) in 0 units, expected at least 5 units; "
        "check the images and captions of the pairs, or audit a larger corpus"
    }
    assert {(row["tests"], row["effect"], row["confirmed"]) for row in rows} == {(0, None, False)}
    assert {row["state"] for row in alert.fn(run, ALERTS)} == {"suspected"}


def test_corpus_with_one_caption_has_no_foils_and_a_reason(run_with_findings, use_toy_model, rewrite_rows):
    run, plan = run_with_findings
    use_toy_model(1.0)
    rewrite_rows(run, "pairs", lambda rows: [{**row, "caption": "a shadow"} for row in rows])
    assert confirm.fn(run, plan) == 0
    assert all("24 with no foil" in row["reason"] for row in read_table(run))


def test_two_captions_are_enough_and_their_hosts_are_several_images(run_with_findings, use_toy_model, rewrite_rows):
    run, plan = run_with_findings
    use_toy_model(1.0)
    shadowed = {"a shadow": "photo with a shadow"}
    rewrite_rows(
        run,
        "pairs",
        lambda rows: [{**row, "caption": shadowed.get(row["caption"], "photo without a normal")} for row in rows],
    )
    assert confirm.fn(run, plan) == 2
    rows = read_table(run)
    assert {row["region"] for row in rows if row["confirmed"]} == {"corner top-left", "frame"}
    assert {row["minimal_n"] for row in rows} == {None}  # two words differ
    interventions = RegionInterventions(load_samples(run, plan))
    boxes = {None: [(0.0, 0.0, 0.25, 0.25)]}
    sample = interventions.sample([f"pair-{number:04d}" for number in range(12)], boxes, "word", "shadow")
    assert {len(hosts) for hosts in sample.hosts} >= {3}
    assert all(len(set(hosts)) == len(hosts) <= 4 for hosts in sample.hosts)


def test_loss_against_captions_that_differ_in_one_word_is_reported(run_with_findings, use_toy_model, rewrite_rows):
    run, plan = run_with_findings
    model = use_toy_model(1.0)
    confirm.fn(run, plan)
    num_embedded, model.num_embedded = model.num_embedded, 0
    assert {row["minimal_effect"] for row in read_table(run)} == {None}

    wide = {f"pair-{number:04d}" for number in range(0, 30, 2)}
    rewrite_rows(
        run,
        "pairs",
        lambda rows: [{**row, "caption": "a wide shadow"} if row["pair_id"] in wide else row for row in rows],
    )
    rewrite_rows(run, "findings", lambda rows: [{**row, "slice_kind": "corpus", "slice": "all pairs"} for row in rows])
    clear_samples(run)
    confirm.fn(run, plan)
    corner = [row for row in read_table(run) if row["region"] == "corner top-left" and row["n"]]
    # The model does not tell a wide shadow from another one.
    for row in corner:
        assert abs(row["effect"]) > 1e-4
        assert (row["minimal_effect"], row["minimal_low"], row["minimal_high"]) == pytest.approx((0, 0, 0))
        assert 0 < row["minimal_n"] < row["n"]
    assert model.num_embedded <= 1.5 * num_embedded
    with run.connect() as connection:
        verdicts = sql.read(connection, "FROM verdicts WHERE region = 'corner top-left'")
    assert {row["minimal_n"] for row in verdicts} == {row["minimal_n"] for row in corner}


def test_regions_of_single_pairs_are_measured_in_place(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    use_toy_model(1.0)
    boxes = [("mark", (0.0, 0.0, 0.25, 0.25), f"pair-{number:04d}") for number in range(12)]
    run.add_regions(*boxes)
    run.add_shares("mark", [0.5] * 12)
    run.write_table("findings", [{"rule": "r", "region": "mark", "slice_kind": "word", "slice": "shadow", "n": 12}])
    assert confirm.fn(run, plan) == 1
    assert {row["n"] for row in read_table(run)} == {12}


def test_swap_is_the_mean_over_hosts_with_other_captions(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    use_toy_model(1.0)
    interventions = RegionInterventions(load_samples(run, plan))
    sample = interventions.sample(
        [f"pair-{number:04d}" for number in range(12)], {None: [(0.0, 0.0, 0.25, 0.25)]}, "word", "shadow"
    )
    assert {len(hosts) for hosts in sample.hosts} == {4}  # two other captions, two images each
    assert all(int(host[-4:]) >= 30 for hosts in sample.hosts for host in hosts)  # these captions have no shadow
    mean_of_hosts = interventions.margins(sample, "swap")
    of_single_hosts = [
        interventions.margins(replace(sample, hosts=[[hosts[position]] for hosts in sample.hosts]), "swap")
        for position in range(4)
    ]
    assert not np.allclose(of_single_hosts[0].region, of_single_hosts[1].region)
    np.testing.assert_allclose(mean_of_hosts.region, np.mean([one.region for one in of_single_hosts], axis=0))
    np.testing.assert_allclose(mean_of_hosts.controls, np.mean([one.controls for one in of_single_hosts], axis=0))


def test_images_of_overlapping_slices_are_embedded_once(run_with_findings, use_toy_model, rewrite_rows):
    run, plan = run_with_findings
    model = use_toy_model(1.0)
    confirm.fn(run, plan)
    num_embedded_without_overlap = model.num_embedded
    rewrite_rows(run, "findings", lambda rows: [*rows, *({**row, "slice": "a"} for row in rows)])
    model.num_embedded = 0
    confirm.fn(run, plan)
    assert model.num_embedded < 1.7 * num_embedded_without_overlap
    by_slice = {}
    for row in read_table(run):
        by_slice.setdefault(row["slice"], []).append((row["region"], row["fill"], row["n"], row["drop"]))
    assert by_slice["a"] == by_slice["shadow"]


@pytest.mark.parametrize("what", ["covered images", "captions", "images"])
def test_images_are_read_while_the_device_computes(run_with_findings, use_toy_model, monkeypatch, what):
    run, plan = run_with_findings
    use_toy_model(1.0)
    samples = load_samples(run, plan)
    compute, images = samples.compute, samples.read_images(["pair-0000", "pair-0001"])
    pixels = samples.prepare_images(images)
    masks = np.zeros((2, 1, *pixels.shape[2:]), np.bool_)
    masks[:, :, :4] = True
    embed = {
        "covered images": lambda: samples.embed_occluded(pixels, ["0", "1"], masks, "mean"),
        "captions": lambda: samples.embed_captions(["a caption"]),
        "images": lambda: samples.embed_pairs(["pair-0000"]),
    }
    reader, read = ThreadPoolExecutor(1), []

    def read_and_compute(*args):
        read.append(reader.submit(samples.read_image, f"pair-{len(read) + 2:04d}").result(timeout=20))
        return compute(*args)

    monkeypatch.setattr(samples, "compute", read_and_compute)
    embed[what]()
    assert read
    assert all(image is not None for image in read)


def test_disabled_confirmation_leaves_every_alert_suspected(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    model = use_toy_model(1.0)
    disabled = replace(plan, confirm=ConfirmConfig(enabled=False))
    assert confirm.fn(run, disabled) == 0
    assert model.num_embedded == 0
    assert {row["state"] for row in alert.fn(run, ALERTS)} == {"suspected"}
    assert {entry["table"] for entry in run.read_manifest()["files"]} >= {"confirmations"}


def test_planted_tag_is_confirmed_on_phantoms_and_the_model_is_unchanged(phantom_audit):
    from tasks.inputs import load_model

    network = load_model(phantom_audit.config.models()[0])
    before = {key: value.clone() for key, value in network.model.state_dict().items()}
    independent = phantom_audit.to_alerts()
    states = {(row["region"], row["slice"]): row["state"] for row in independent}
    assert states["corner top-left", "consolidation"] == "confirmed"
    assert ("corner top-left", "all pairs") not in states
    assert all(torch.equal(value, before[key]) for key, value in network.model.state_dict().items())


def test_finding_of_two_rules_is_one_test_with_one_verdict(run_with_findings, use_toy_model):
    run, plan = run_with_findings
    use_toy_model(1.0)
    num_confirmed = confirm.fn(run, plan)
    before = {(row["region"], row["fill"]): row for row in read_table(run)}
    findings = read_table(run, "findings")
    run.write_table("findings", [*findings, *({**row, "rule": "again"} for row in findings)])
    assert confirm.fn(run, plan) == num_confirmed
    rows = read_table(run)
    assert {row["rule"] for row in rows} == {"region_mass", "again"}
    for row in rows:
        earlier = before[row["region"], row["fill"]]
        assert all(row[key] == earlier[key] for key in ("effect", "low", "q", "tests", "confirmed"))


def test_foils_that_name_what_the_other_image_shows_do_not_count_when_pixels_are_swapped(
    run_with_findings, use_toy_model
):
    """Pixels of a normal chest must not count against the pair because "normal chest" is among its foils."""
    run, plan = run_with_findings
    use_toy_model(1.0)
    interventions = RegionInterventions(load_samples(run, plan))
    sample = interventions.sample_claim(("corner top-left", "word", "shadow"), [f"pair-{n:04d}" for n in range(24)])
    normal, heart = interventions._samples.embed_captions(["normal chest", "large heart"])
    hosts = {name: [f"pair-{number:04d}"] * 24 for name, number in (("shadow", 29), ("normal", 30), ("heart", 59))}
    foils = {name: interventions._leave_out_foils(sample, pairs).foils for name, pairs in hosts.items()}
    np.testing.assert_array_equal(foils["normal"], np.broadcast_to(heart, sample.foils.shape))
    np.testing.assert_array_equal(foils["heart"], np.broadcast_to(normal, sample.foils.shape))
    assert {tuple(foil) for foil in foils["shadow"].reshape(-1, 3)} == {tuple(normal), tuple(heart)}
    only_normal = replace(sample, foil_captions=[["normal chest"]] * 24)  # no other foil: it is kept
    kept = interventions._leave_out_foils(only_normal, hosts["normal"])
    np.testing.assert_array_equal(kept.foils, sample.foils)


@pytest.mark.parametrize("copies", [4, *(pytest.param(number, marks=pytest.mark.slow) for number in (2, 3))])
def test_a_region_in_several_places_is_confirmed(run_with_findings, use_toy_model, copies):
    """A mark near each corner, of which the score needs one: each has a control of its own near the border."""
    run, plan = run_with_findings
    low, high = (1 / 24, 7 / 24), (17 / 24, 23 / 24)
    places = [(low, low), (high, high), (high, low), (low, high)][:copies]
    run.add_regions(*[("marks", (x[0], y[0], x[1], y[1])) for x, y in places])
    run.add_shares("marks", [0.1] * 60, area=0.1)
    finding = {"region": "marks", "side": "image", "slice_kind": "word", "slice": "shadow", "n": 30}
    run.write_table("findings", [finding | {"rule": "region_cost", "share": 0.1, "area": 0.1, "effect": 0.5}])
    use_toy_model(1.0)
    assert confirm.fn(run, plan) == 1
    assert {(row["confirmed"], row["control_drop"] < row["drop"] / 4) for row in read_table(run)} == {(True, True)}
    assert {row["exchanged"] for row in read_table(run)} == {False}


@pytest.fixture
def run_with_outside(run_with_findings):
    """A run with a finding on everything outside of the middle, which has the corner that shadows are bright in."""
    run, plan = run_with_findings
    boxes = complement_boxes([(0.25, 0.25, 0.75, 0.75)])
    run.add_regions(*[("outside middle", box) for box in boxes], kind="outside")
    run.add_shares("outside middle", [0.9] * 60, area=0.75)
    finding = {"region": "outside middle", "side": "image", "slice_kind": "word", "slice": "shadow", "n": 30}
    run.write_table("findings", [finding | {"rule": "region_contrast", "share": 0.9, "area": 0.75, "effect": 2.0}])
    return run, plan


@pytest.mark.parametrize("reliance", [1.0, 0.0])
def test_a_region_over_most_of_the_image_is_exchanged_with_that_of_other_pairs(
    run_with_outside, use_toy_model, reliance
):
    run, plan = run_with_outside
    use_toy_model(reliance)
    assert confirm.fn(run, plan) == (reliance > 0)
    rows = {row["fill"]: row for row in read_table(run)}
    assert rows["mean"]["n"] > 8
    assert {row["exchanged"] for row in rows.values()} == {True}
    if reliance:
        assert all(row["effect"] > row["floor"] for row in rows.values())
        assert rows["swap"]["control_drop"] == pytest.approx(0, abs=0.05)  # the outside of another shadow does as well
    assert {row["transplant_rise"] for row in rows.values()} == {None}


def test_pairs_without_the_region_are_not_exchanged_with(run_with_outside, use_toy_model):
    run, plan = run_with_outside
    boxes = complement_boxes([(0.25, 0.25, 0.75, 0.75)])
    has_region = [f"pair-{number:04d}" for number in (*range(28), *range(30, 40))]
    run.add_regions(*[("outside middle", box, pair_id) for box in boxes for pair_id in has_region], kind="outside")
    use_toy_model(1.0)
    interventions = RegionInterventions(load_samples(run, plan))
    sample = interventions.sample_claim(("outside middle", "word", "shadow"), [f"pair-{n:04d}" for n in range(30)])
    assert set(sample.pair_ids) <= set(has_region)
    used = [donor.pair_id for donors in sample.donors for donor in donors]
    assert len(used) == len(set(used))  # what one donor shows counts once
    for pair_id, donors in zip(sample.pair_ids, sample.donors, strict=True):
        assert all(donor.rest[6:18, 6:18].all() and donor.rest.sum() == 12 * 12 for donor in donors)
        host, *partners = (donor.pair_id for donor in donors)
        assert {host, *partners} <= set(has_region)
        assert partners
        assert all(host >= "pair-0030" > partner != pair_id for partner in partners)


def test_too_few_pairs_with_a_large_region_give_a_reason(run_with_outside, use_toy_model):
    run, plan = run_with_outside
    boxes = complement_boxes([(0.25, 0.25, 0.75, 0.75)])
    run.add_regions(*[("outside middle", box, f"pair-{n:04d}") for box in boxes for n in range(30)], kind="outside")
    use_toy_model(1.0)
    assert confirm.fn(run, plan) == 0
    (reason,) = {row["reason"] for row in read_table(run) if row["fill"] == "mean"}
    assert "with no other image that can be read and has the region" in reason


def test_q_of_a_finding_includes_the_comparison_with_other_units():
    claim = {"region": "frame", "slice_kind": "word", "slice": "shadow"}
    rows = [claim | {"p": 1e-6, "outside_p": 0.3, "outside_units": 64}]
    assert [*_adjust(rows, [], 0.01).values()] == [pytest.approx(0.3)]


def test_a_large_region_that_lowers_the_score_is_not_pasted(run_with_outside, use_toy_model):
    run, plan = run_with_outside
    use_toy_model(1.0)
    interventions = LoweringInterventions(load_samples(run, plan))
    sample = interventions.sample_claim(("outside middle", "word", "shadow"), [f"pair-{n:04d}" for n in range(30)])
    assert any(sample.donors)
    interventions._lacking = [f"pair-{number:04d}" for number in range(30, 60)]
    assert interventions.transplant(sample) is None
