"""Trials of the self-audit: small audits of copied samples, whose result is known; they leave nothing behind."""

import tempfile
from dataclasses import replace

import pytest
import torch

import sql
from flows import self_audit as flow
from tasks.inputs import load_model
from tasks.interventions.samples import InterventionPlan
from tasks.lake.run import Run
from tasks.self_audit import TRIALS, Trial, describe_skipped, estimate_embeddings, open_trial, trial_of


@pytest.fixture
def audited(phantom_audit, tmp_path, monkeypatch):
    """The audited phantoms, their configuration, and the plan of their tests."""
    monkeypatch.setattr(flow, "run_trial", flow.run_trial.fn)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    config = phantom_audit.config
    tests = InterventionPlan(config.inputs()[0], config.confirm, config.alerts.min_pairs, config.seed)
    return phantom_audit.run, config, tests


def with_share(config, share):
    return config.model_copy(update={"confirm": config.confirm.model_copy(update={"self_audit": share})})


def use_trials(monkeypatch, *trials):
    from tasks import self_audit

    monkeypatch.setattr(self_audit, "TRIALS", trials)
    monkeypatch.setattr(self_audit, "ROUNDS", 1)


def read_rows(run):
    with run.connect() as connection:
        return sql.rows(connection, "review/self_audit", run_id=run.run_id)


def test_trials_have_a_row_and_leave_model_run_and_disk_as_they_were(audited, phantom_audit, tmp_path, monkeypatch):
    run, config, tests = audited
    phantom_audit.to_alerts()
    network = load_model(config.models()[0])
    weights = {key: value.clone() for key, value in network.model.state_dict().items()}
    pixels = torch.zeros((1, 3, *network.image_size))
    embedding, before = network.embed_images(pixels), run.read_manifest()["files"]
    use_trials(monkeypatch, Trial("implanted", halves=False), Trial("permuted", halves=False))
    assert flow.self_audit(run, with_share(config, 1.0), replace(tests, confirm=with_share(config, 1.0).confirm)) == 2
    tag, permuted = read_rows(run)
    assert (tag["kind"], tag["n"], tag["region"], tag["copies"]) == ("implanted", 5, "top-left", 1)
    assert tag["area"] == pytest.approx(0.03)
    assert 0 < tag["carried"] <= 1
    assert tag["strength"] > 0
    assert tag["confirmed"] in (0, 1)
    assert (tag["reason"] is None) == bool(tag["confirmed"])
    assert (permuted["kind"], permuted["confirmed"], permuted["reason"]) == ("permuted", 0, None)
    assert permuted["tests"] >= 0
    assert tag["cost"] > 5 * 20  # the maps
    files = [entry for entry in run.read_manifest()["files"] if entry["table"] != "self_audits"]
    assert files == before
    assert list((tmp_path / "temporary").glob("m2ib-self-audit-*")) == []
    assert torch.equal(network.embed_images(pixels), embedding)
    assert all(torch.equal(value, weights[key]) for key, value in network.model.state_dict().items())


def test_trials_cost_at_most_a_share_of_the_run_and_the_others_have_a_reason(audited):
    run, config, tests = audited
    assert flow.self_audit(run, config, tests) == len(TRIALS)  # a tenth of 40 maps is less than any trial
    assert {row["confirmed"] for row in read_rows(run)} == {None}
    assert {row["reason"] for row in read_rows(run)} == {
        f"the self-audit of this run may cost {budget_of(run, config, tests):,} embeddings ([confirm] self_audit)"
    }
    config = with_share(config, 0)
    assert flow.self_audit(run, config, replace(tests, confirm=config.confirm)) == 0


def budget_of(run, config, tests):
    counts = run.read_manifest()["counts"]
    return round(0.1 * flow.count_embeddings(run, tests, counts["attributions"]))


def test_a_trial_does_not_spend_more_on_tests_than_what_is_left(audited, phantom_audit, tmp_path):
    run, config, tests = audited
    phantom_audit.to_alerts()
    plan = config.attribution_plan(run.read_manifest())
    from tasks.parts import make_parts

    trial = Trial("implanted", halves=False)
    (part,) = make_parts(run, "self-audit", [{**vars(trial), "place": 0}])
    maps = 5 * tests.pair_cost
    (row,) = flow.run_trial(run, config, tests, plan, part, tmp_path / "scratch", maps)
    assert (row.get("confirmed"), row["tests"]) == (None, 0)
    assert row["reason"] == "it had findings that could not be tested at the cost that was left"
    assert maps < row["cost"] < estimate_embeddings(trial, tests)


def test_a_corpus_without_a_word_for_both_halves_says_so(audited, tmp_path):
    run, config, tests = audited
    plan = config.attribution_plan(run.read_manifest())
    from tasks.parts import make_parts

    (part,) = make_parts(run, "self-audit", [{**vars(Trial("implanted")), "place": 0}])
    large = replace(tests, min_pairs=1000)
    (row,) = flow.run_trial(run, config, large, plan, part, tmp_path / "scratch", 10**6)
    assert row == describe_skipped(part.work, large, "no word is in 2000 units and not in as many")


def test_copies_with_a_tag_are_attributed_anew_and_others_keep_their_maps(audited, tmp_path):
    run, config, tests = audited
    plan = config.attribution_plan(run.read_manifest())
    scratch = Run(tmp_path / "scratch" / "lake", "trial-000")
    with open_trial(
        run, scratch, tests, plan, {**vars(Trial("implanted", halves=False, affected=0.6)), "place": 0}
    ) as it:
        pairs = [*scratch.iter_rows("pairs")]
        assert [shard.pairs for shard in it.shards] == [3]
        assert (it.kept[0].attributions, len(pairs), it.sample.inside, it.sample.tagged) == (7, 10, 5, 3)
        assert all(it.sample.slice in pair["caption"] for pair in pairs[:5])
        assert not any(it.sample.slice in pair["caption"] for pair in pairs[5:])
        images = {pair["pair_id"]: pair["image_sha256"] for pair in pairs}
    assert len({*images.values()}) == 10
    assert {row["pair_id"] for row in run.iter_rows("pairs")} >= {*images}


def test_exchanged_captions_are_those_of_other_pairs(audited, tmp_path):
    run, config, tests = audited
    plan = config.attribution_plan(run.read_manifest())
    scratch = Run(tmp_path / "scratch" / "lake", "trial-000")
    before = {row["pair_id"]: row["caption"] for row in run.iter_rows("pairs")}
    with open_trial(run, scratch, tests, plan, {**vars(Trial("permuted")), "place": 0}) as opened:
        after = {row["pair_id"]: row["caption"] for row in scratch.iter_rows("pairs")}
        assert opened.kept == []
        assert [shard.pairs for shard in opened.shards] == [len(after)]
    assert sorted(after.values()) == sorted(before[pair_id] for pair_id in after)
    assert sum(after[pair_id] != before[pair_id] for pair_id in after) > len(after) / 2


def test_tag_is_drawn_where_the_trial_says():
    import numpy as np

    from tasks.self_audit import _draw_tag

    image = np.full((100, 100, 3), 128, np.uint8)
    drawn = _draw_tag(image, [*Trial("implanted", copies=4, area=0.01).boxes.values()])
    changed = (drawn != image).any(axis=2)
    assert changed.mean() == pytest.approx(0.04)
    assert changed[2:12, 2:12].all()
    assert changed[88:98, 88:98].all()
    assert {*drawn[2:12, 2:12].flatten().tolist()} == {0, 255}
    assert (image == 128).all()


def test_cost_of_a_trial_is_dominated_by_its_maps_and_swaps(audited):
    _, _, tests = audited
    plan = replace(tests, min_pairs=20)
    assert estimate_embeddings(Trial("permuted", halves=False), plan) == 840 + 20 * (5 * 6 + 7)
    assert estimate_embeddings(Trial("implanted"), plan) == 40 * 21 + 11 * 40 + 3 * 20 * (5 * 6 + 7)
    assert trial_of({**vars(TRIALS[0]), "place": 3}) == TRIALS[0]
