"""What the benchmark counts, over audits and interventions that are given by hand."""

import re

import pytest

from benchmarks.planted import __main__ as main
from benchmarks.planted.__main__ import Row, pointing, share, summary, table
from benchmarks.planted.audits import Audited
from benchmarks.planted.evaluation import Found, Judged
from benchmarks.planted.interventions import Effect, Verdict
from benchmarks.planted.plan import cells, clean_entry

NOTHING = Effect(0.0, 0.0, 0.0, 0.0)
LEARNED = Effect(0.0, 1.0, 0.0, 0.5)


def row(cell, found, learned=True):
    verdict = Verdict(cell, LEARNED if learned else NOTHING, NOTHING)
    return Row(verdict, Found(found, found, found, 0.5 if found else None, 20, 0.9 if found else 0.0))


def audited(cell, variant="planted", ignoring=False, confirmed=(), elsewhere=()):
    return Audited(cell.entry, variant, ignoring, 10.0, Judged({}, list(confirmed), [], list(elsewhere), 5))


def test_recall_counts_what_was_learned_has_a_place_and_is_strongly_tied():
    reporting = cells("reporting")
    strong = [c for c in reporting if c.tie.strength >= 0.85 and c.tie.kind != "texture"]
    weak = next(c for c in reporting if c.tie.strength == 0.7 and c.tie.kind != "texture")
    texture = next(c for c in reporting if c.tie.kind == "texture" and c.tie.strength >= 0.85)
    rows = [
        *(row(c, True) for c in strong[1:]),
        row(strong[0], False),
        row(weak, False),
        row(texture, False),
    ]
    told = summary(rows, [], "reporting")
    assert told["recall"] == pytest.approx((len(strong) - 1) / len(strong))
    assert told["artefacts"] == len(strong)
    assert told["artefact_kinds"] == 8
    assert told["missed"] == [f"{strong[0].entry.name}/{strong[0].tie.kind}"]
    assert told["recall_of_weaker_ties"] == 0
    not_learned = summary([*rows[:-3], row(strong[0], False, learned=False)], [], "reporting")
    assert not_learned["recall"] == 1
    assert not_learned["not_learned"] == told["missed"]


def test_any_confirmed_alert_where_nothing_is_relied_on_is_a_false_alarm():
    cell = cells("reporting")[0]
    told = summary(
        [],
        [
            audited(cell, confirmed=["stamp 1"], elsewhere=["x"]),
            audited(cell, "bare"),
            audited(cell, "bare", confirmed=["frame"]),
            audited(cell, "crossed"),
            audited(cell, ignoring=True, confirmed=["stamp 1", "frame"]),
        ],
        "reporting",
    )
    assert told["false_alarms_ignoring_model"] == 1
    assert told["false_alarms_clean_images"] == 0.5
    assert told["false_alarms_wrong_captions"] == 0
    assert told["alerts_elsewhere"] == 1
    assert told["recall"] is None


def test_pointing_is_told_by_generator(monkeypatch):
    hits = {"phantoms": [1.0, 1.0, 0.0, 1.0], "scenes": [0.0, 1.0]}

    class Told:
        def __init__(self, entry, _cache):
            self.name = entry.generator_name

        def pointing(self, _config, _pairs):
            return {"one": hits[self.name], "two": [1.0], "one_chance": [0.1], "two_chance": [0.1]}

    monkeypatch.setattr(main, "Model", Told)
    twins = [clean_entry(generator, seed) for generator in hits for seed in (1, 2)]
    assert pointing(twins, None, 4) == {"phantoms_one": 0.75, "phantoms_two": 1, "scenes_one": 0.5, "scenes_two": 1}


def test_a_share_comes_with_its_interval():
    mean, low, high = share([True, True, False, True])
    assert low < mean == 0.75 < high


def test_the_table_counts_by_kind_and_strength():
    chosen = [c for c in cells("reporting") if c.tie.kind == "logo"]
    text = table([row(c, c.tie.strength > 0.8) for c in chosen])
    (line,) = [line for line in text.splitlines() if line.startswith("logo")]
    (learned, of), *by_strength = [tuple(map(int, pair)) for pair in re.findall(r"(\d) of (\d)", line)]
    assert learned == of == len(chosen) == sum(of for _, of in by_strength)
    assert sum(found for found, _ in by_strength) == sum(c.tie.strength > 0.8 for c in chosen)
