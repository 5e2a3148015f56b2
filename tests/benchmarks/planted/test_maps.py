"""Figures compared with hand-computed ones, the rule of choice, and the command line on artificial measurements."""

import json

import numpy as np
import pytest

from benchmarks.planted import maps
from benchmarks.planted.maps import (
    BEFORE,
    Row,
    choose_image,
    choose_text,
    compute_auroc,
    compute_detection,
    compute_tpr,
)

QUICK = ["--quick", "--settings", "20% position,80% feature closed beta 0.1,embeddings closed,paper"]


def make_row(name, mean, **figures):
    """Make a setting whose resamples differ by 0.1 from its mean true positive rate."""
    resampled = mean + np.linspace(-0.1, 0.1, 101)[np.random.default_rng(len(name)).permutation(101)]
    base = {"one": 1.0, "two": 1.0, "ops": 1.0, "spoken": 1.0}
    return Row(name, {**base, "tpr": mean, **figures}, (mean - 0.1, mean + 0.1), {}, resampled)


def list_names(rows):
    return [r.name for r in rows]


def test_auroc_counts_ties_half():
    assert compute_auroc(np.array([3.0, 2.0]), np.array([2.0, 1.0])) == pytest.approx(3.5 / 4)


def test_tpr_allows_a_twentieth_of_the_twin():
    twin = np.arange(100.0)
    assert compute_tpr(np.array([94.0, 95.0, 96.0]), twin) == pytest.approx(1 / 3)
    assert compute_tpr(twin, twin) <= 0.05


def test_detection_of_separate_and_of_equal_values():
    shares = np.random.default_rng(0).random(60)
    apart, resampled = compute_detection(shares + 2, shares, np.random.default_rng(1))
    assert apart["auroc"] == apart["tpr"] == apart["sets"] == 1
    assert (resampled == 1).all()
    alike, resampled = compute_detection(shares, shares, np.random.default_rng(1))
    assert alike["auroc"] == pytest.approx(0.5)
    assert alike["sets"] < 0.1
    assert resampled.mean() < 0.15
    assert alike["ratio"] == 1


def test_sets_find_what_single_pairs_do_not():
    rng = np.random.default_rng(0)
    figures, _ = compute_detection(rng.normal(0.5, 1, 200), rng.normal(0, 1, 200), rng)
    assert figures["tpr"] < 0.4
    assert figures["sets"] > figures["tpr"] + 0.2


def test_rule_selects_the_best_setting_that_points():
    rows = [make_row("blind", 0.99, two=0.84), make_row("good", 0.9), make_row("lesser", 0.5, ops=0.1)]
    assert list_names(choose_image(rows)) == ["good"]


def test_rule_selects_the_cheapest_of_equal_settings():
    rows = [make_row("dear", 0.90), make_row("cheap", 0.87, ops=0.3), make_row("lesser", 0.5, ops=0.1)]
    assert list_names(choose_image(rows)) == ["cheap", "dear"]


def test_all_settings_compete_if_none_points():
    assert list_names(choose_image([make_row("a", 0.9, one=0.9), make_row("b", 0.4, one=0.94)])) == ["a"]


def test_earlier_text_default_is_kept_if_equal():
    before = BEFORE["text"]
    assert list_names(
        choose_text([make_row("other", 0.92), make_row(before, 0.9), make_row("silent", 1, spoken=0.4)])
    ) == [before, "other"]
    assert list_names(choose_text([make_row("other", 0.92), make_row(before, 0.5)])) == ["other"]


class FixedModel:
    """Measurements in which the model attributes more to planted artifacts than its twin."""

    def __init__(self, entry, *_):
        self.entry = entry
        self.encoder = None

    def measure_cell(self, cell, config, pairs):
        shares = np.random.default_rng(0).random(pairs) + 2 * (not self.entry.clean)
        return {"own": shares.tolist(), "wrong": (shares / 2).tolist(), "all": shares.tolist()}

    def measure_pointing(self, config, pairs):
        return {"one": [1.0], "two": [1.0, 0.0]}

    def measure_words(self, config, pairs):
        figures = {"named": 0.6, "named_chance": 0.3, "spoken": 1.0, "clean": 0.5, "behind": 0.4}
        return {key: [value] for key, value in figures.items()}


@pytest.fixture
def fixed_models(monkeypatch):
    monkeypatch.setattr(maps, "PlantedModel", FixedModel)
    monkeypatch.setattr(maps, "is_cached", lambda *_: True)
    monkeypatch.setattr(maps, "create_random_encoder", lambda _: None)
    monkeypatch.setattr(maps.Costs, "_measure", lambda _, config: (1.0, float(config.draws)))


def test_the_command_prints_tables_and_json_last(fixed_models, capsys):
    maps.main(QUICK)
    printed = capsys.readouterr().out.splitlines()
    result = json.loads(printed[-1])
    assert result["split"] == "reporting"  # the split of the quick model
    assert set(result["image"]["settings"]) == {"20% position", "80% feature closed beta 0.1", "paper"}
    figures = result["image"]["settings"]["paper"]["figures"]
    assert (figures["tpr"], figures["one"], figures["two"], figures["wrong"], figures["ops"]) == (1, 1, 0.5, 0.5, 5)
    assert result["text"]["chosen"] == BEFORE["text"]
    assert result["text"]["settings"]["paper"]["figures"]["retained"] == pytest.approx(0.8)
    assert sum(line.startswith("chosen by the rule") for line in printed) == 2


@pytest.mark.slow
def test_costs_are_relative_to_the_earlier_default(encoder, monkeypatch):
    monkeypatch.setattr(maps.Costs, "_seconds", lambda *_: 1.0)
    costs = maps.Costs(encoder, encoder)
    assert costs.compare(maps.IMAGE[BEFORE["image"]])["ops"] == 1
    paper, late, early = (costs.compare(maps.IMAGE[name])["ops"] for name in ("paper", "80% feature closed beta 0.1",
                                                                       "embeddings position"))  # fmt: skip
    assert late < 1 < early
    assert paper > late


def test_unknown_setting_is_rejected(capsys):
    with pytest.raises(SystemExit):
        maps.main(["--settings", "90% magic"])
    assert "90% magic" in capsys.readouterr().err


def test_an_empty_cache_is_an_error_with_the_next_step(tmp_path):
    with pytest.raises(SystemExit, match=r"benchmarks\.planted\.training"):
        maps.main(["--cache", str(tmp_path)])
