"""The figures of the benchmark, for hand-written audits and interventions."""

import re

import pytest

from benchmarks.planted import __main__ as main
from benchmarks.planted.__main__ import Row, compute_share, format_table, measure_pointing, summarize
from benchmarks.planted.audits import AuditOutcome
from benchmarks.planted.evaluation import ArtifactResult, Evaluation
from benchmarks.planted.interventions import Effect, Verdict
from benchmarks.planted.plan import create_clean_entry, list_cells

NOTHING = Effect(0.0, 0.0, 0.0, 0.0)
LEARNED = Effect(0.0, 1.0, 0.0, 0.5)


def make_row(cell, is_found, learned=True):
    verdict = Verdict(cell, LEARNED if learned else NOTHING, NOTHING)
    return Row(
        verdict, ArtifactResult(is_found, is_found, is_found, 0.5 if is_found else None, 20, 0.9 if is_found else 0.0)
    )


def make_outcome(cell, variant="planted", by_twin=False, confirmed=(), unexplained=()):
    return AuditOutcome(cell.entry, variant, by_twin, 10.0, Evaluation({}, list(confirmed), [], list(unexplained), 5))


def test_recall_counts_artifacts_that_are_learned_have_a_place_and_are_strongly_tied():
    reporting = list_cells("reporting")
    strong = [c for c in reporting if c.tie.strength >= 0.85 and c.tie.kind != "texture"]
    weak = next(c for c in reporting if c.tie.strength == 0.7 and c.tie.kind != "texture")
    texture = next(c for c in reporting if c.tie.kind == "texture" and c.tie.strength >= 0.85)
    rows = [
        *(make_row(c, True) for c in strong[1:]),
        make_row(strong[0], False),
        make_row(weak, False),
        make_row(texture, False),
    ]
    record = summarize(rows, [], "reporting")
    assert record["recall"] == pytest.approx((len(strong) - 1) / len(strong))
    assert record["artefacts"] == len(strong)
    assert record["artefact_kinds"] == 8
    assert record["missed"] == [f"{strong[0].entry.name}/{strong[0].tie.kind}"]
    assert record["recall_of_weaker_ties"] == 0
    not_learned = summarize([*rows[:-3], make_row(strong[0], False, learned=False)], [], "reporting")
    assert not_learned["recall"] == 1
    assert not_learned["not_learned"] == record["missed"]


def test_any_confirmed_alert_without_reliance_is_a_false_alarm():
    cell = list_cells("reporting")[0]
    record = summarize(
        [],
        [
            make_outcome(cell, confirmed=["stamp 1"], unexplained=["x"]),
            make_outcome(cell, "bare"),
            make_outcome(cell, "bare", confirmed=["frame"]),
            make_outcome(cell, "crossed"),
            make_outcome(cell, by_twin=True, confirmed=["stamp 1", "frame"]),
        ],
        "reporting",
    )
    assert record["false_alarms_ignoring_model"] == 1
    assert record["false_alarms_clean_images"] == 0.5
    assert record["false_alarms_wrong_captions"] == 0
    assert record["alerts_elsewhere"] == 1
    assert record["recall"] is None


def test_pointing_is_reported_by_generator(monkeypatch):
    hits = {"phantoms": [1.0, 1.0, 0.0, 1.0], "scenes": [0.0, 1.0]}

    class FixedModel:
        def __init__(self, entry, _cache):
            self.name = entry.generator_name

        def measure_pointing(self, _config, _pairs):
            return {"one": hits[self.name], "two": [1.0], "one_chance": [0.1], "two_chance": [0.1]}

    monkeypatch.setattr(main, "PlantedModel", FixedModel)
    twins = [create_clean_entry(generator, seed) for generator in hits for seed in (1, 2)]
    assert measure_pointing(twins, None, 4) == {
        "phantoms_one": 0.75,
        "phantoms_two": 1,
        "scenes_one": 0.5,
        "scenes_two": 1,
    }


def test_share_has_an_interval():
    mean, low, high = compute_share([True, True, False, True])
    assert low < mean == 0.75 < high


def test_the_table_counts_by_kind_and_strength():
    chosen = [c for c in list_cells("reporting") if c.tie.kind == "logo"]
    text = format_table([make_row(c, c.tie.strength > 0.8) for c in chosen])
    (line,) = [line for line in text.splitlines() if line.startswith("logo")]
    (learned, of), *by_strength = [tuple(map(int, pair)) for pair in re.findall(r"(\d) of (\d)", line)]
    assert learned == of == len(chosen) == sum(of for _, of in by_strength)
    assert sum(num_found for num_found, _ in by_strength) == sum(c.tie.strength > 0.8 for c in chosen)
