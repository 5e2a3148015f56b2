"""The figures of the benchmark, for hand-written audits."""

import json
import math
import re

import numpy as np
import pytest

from benchmarks.planted import __main__ as main
from benchmarks.planted.__main__ import compute_share, format_table, measure_pointing, summarize
from benchmarks.planted.audits import AuditOutcome
from benchmarks.planted.evaluation import ArtifactResult, Evaluation
from benchmarks.planted.plan import create_clean_entry, list_cells

CELLS = list_cells("reporting")


def make_result(cell, is_found, learned=True):
    return ArtifactResult(cell.tie.strength, learned, is_found, is_found, is_found, 0.5 if is_found else None, 20, 0.9)


def make_outcome(cell, variant="planted", by_twin=False, confirmed=(), unexplained=(), **artifacts):
    evaluation = Evaluation(artifacts, list(confirmed), [], list(unexplained), 5)
    name = cell.twin.name if by_twin else cell.entry.name
    return AuditOutcome(cell.entry.name, variant, by_twin, cell.entry.tower, 800, name, "code", "abc", 10.0, evaluation)


def make_outcomes(cells, is_found, variant="planted", learned=lambda _: True):
    """Return an audit for each cell, with whether it found the artifact."""
    return [
        make_outcome(cell, variant, **{cell.tie.kind: make_result(cell, is_found(cell), learned(cell))})
        for cell in cells
    ]


def test_recall_counts_artifacts_that_are_learned_have_a_place_and_are_strongly_tied():
    strong = [c for c in CELLS if c.tie.strength >= 0.85 and c.tie.kind not in {"texture", "cast"}]
    missed = strong[0]
    outcomes = make_outcomes(CELLS, lambda cell: cell in strong and cell != missed)
    record = summarize(outcomes, 2 * len(CELLS), "reporting")
    assert record["recall"]["of"] == len(strong)
    assert record["recall"]["share"] == pytest.approx((len(strong) - 1) / len(strong))
    assert record["missed"] == [f"planted {missed.entry.name}/{missed.tie.kind}"]
    assert record["recall_of_weaker_ties"]["share"] == record["recall_without_place"]["share"] == 0
    assert sum(record["recall_by_tower"][tower]["of"] for tower in ("transformer", "convolutional")) == len(strong)
    assert (record["audits"], record["planned_audits"]) == (len(CELLS), 2 * len(CELLS))
    without = make_outcomes(CELLS, lambda cell: cell in strong and cell != missed, learned=lambda cell: cell != missed)
    record = summarize(without, len(CELLS), "reporting")
    assert record["recall"]["share"] == 1
    assert record["not_learned"] == [f"{missed.entry.name}/{missed.tie.kind}"]


@pytest.mark.parametrize(("variant", "name"), main.HEADINGS.items())
def test_recall_on_other_corpora_is_reported_apart(variant, name):
    strong = [c for c in CELLS if c.tie.strength >= 0.85 and c.tie.kind == "logo"]
    outcomes = make_outcomes(strong, lambda _: True) + make_outcomes(strong, lambda c: c != strong[0], variant)
    record = summarize(outcomes, 1, "reporting")
    assert record["recall"]["share"] == 1
    assert record[f"recall_{name}"]["share"] == pytest.approx(1 - 1 / len(strong))
    assert record["missed"] == [f"{variant} {strong[0].entry.name}/logo"]


def test_any_confirmed_alert_without_reliance_is_a_false_alarm():
    cell = CELLS[0]
    outcomes = [
        make_outcome(cell, confirmed=["stamp 1"], unexplained=["x"]),
        make_outcome(cell, "bare"),
        make_outcome(cell, "bare", confirmed=["frame"]),
        make_outcome(cell, "crossed", confirmed=["frame"]),
        make_outcome(cell, by_twin=True, confirmed=["stamp 1", "frame"]),
        make_outcome(cell, "repeated", by_twin=True),
    ]
    record = summarize(outcomes, 8, "reporting")
    assert record["false_alarms"]["share"] == 0.5
    assert record["false_alarms_ignoring_model"]["share"] == 0.5
    assert record["false_alarms_clean_images"] == record["false_alarms_clean_images"] | {
        "share": 0.5,
        "of": 2,
        "models": 1,
    }
    assert record["alerts_elsewhere"] == 1
    assert record["recall"]["share"] is None


def test_independent_values_have_wilsons_interval():
    from scipy.stats import binomtest

    for hits in (0, 1, 20, 39, 40):
        values = [(str(number), number < hits) for number in range(40)]
        exact = binomtest(hits, 40).proportion_ci(method="wilson")
        measured = compute_share(values)
        # values of different models are independent, up to the correction for the estimated mean
        assert measured["interval"] == pytest.approx([exact.low, exact.high], abs=0.003)
        assert measured == measured | {"share": hits / 40, "of": 40, "models": 40}


def test_values_that_share_a_model_count_as_fewer():
    def width(models):
        low, high = compute_share([(str(number % models), number % models < models / 2) for number in range(80)])[
            "interval"
        ]
        return high - low

    assert width(8) == pytest.approx(width(80) * math.sqrt(80 / 7), rel=0.25)


def test_the_interval_covers_the_true_share_when_models_differ():
    """Models miss all of their artifacts together or none: without the design effect, .78 are covered."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        values = [(str(model), bool(miss)) for model, miss in enumerate(rng.random(40) < 0.8) for _ in range(3)]
        low, high = compute_share(values)["interval"]
        covered += low <= 0.8 <= high
    assert covered / 400 > 0.92


def test_pointing_is_reported_by_generator_and_tower(monkeypatch):
    hits = {"phantoms": [1.0, 1.0, 0.0, 1.0], "scenes": [0.0, 1.0]}

    class FixedModel:
        def __init__(self, entry, _cache):
            self.name = entry.generator_name

        def measure_pointing(self, _config, _pairs):
            return {"one": hits[self.name], "two": [1.0], "one_chance": [0.1], "two_chance": [0.1]}

    monkeypatch.setattr(main, "PlantedModel", FixedModel)
    twins = [create_clean_entry(generator, seed) for generator, seed in (("phantoms", 6), ("scenes", 7), ("scenes", 6))]
    assert measure_pointing(twins, None, 4) == {
        "phantoms one transformer": 0.75, "phantoms two transformer": 1,
        "scenes one transformer": 0.5, "scenes two transformer": 1,
        "scenes one convolutional": 0.5, "scenes two convolutional": 1,
    }  # fmt: skip


def test_the_table_counts_by_kind_and_strength():
    chosen = [c for c in CELLS if c.tie.kind == "logo"]
    outcomes = make_outcomes(chosen, lambda c: c.tie.strength > 0.8) + make_outcomes(chosen, lambda _: True, "repeated")
    (line,) = [line for line in format_table(outcomes).splitlines() if line.startswith("logo")]
    (learned, of), *others = [tuple(map(int, pair)) for pair in re.findall(r"(\d+) of (\d+)", line)]
    *by_strength, repeated = others
    assert learned == of == len(chosen) == sum(of for _, of in by_strength)
    assert sum(num_found for num_found, _ in by_strength) == sum(c.tie.strength > 0.8 for c in chosen)
    assert repeated == (len(chosen), len(chosen))


def test_a_report_trains_nothing_and_says_what_is_left(tmp_path, capsys, monkeypatch):
    for name in ("train_all", "run_all_audits"):
        monkeypatch.setattr(main, name, None)
    main.main(["--report", "--cache", str(tmp_path), "--results", str(tmp_path / "none.jsonl")])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["audits"] == 0
    assert record["planned_audits"] == 8 * 36
    assert record["false_alarms"] == {"share": None, "of": 0}
