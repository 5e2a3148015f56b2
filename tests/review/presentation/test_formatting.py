import math

import pytest

from review.presentation import formatting as wording


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *((1, "100%"), (0.9996, "100%"), (0.77, "77.0%"), (0.0625, "6.25%"), (0.00331, "0.331%")),
        *((1e-9, "<0.001%"), (0, "0%"), (None, wording.NONE), (math.nan, wording.NONE)),
    ],
)
def test_shares_have_about_three_figures(share, text):
    assert wording.percent(share) == text


@pytest.mark.parametrize(
    ("bits", "text"), [(-1e-9, "0.0"), (99.96, "100.0"), (12345.6, "12,346"), (None, wording.NONE)]
)
def test_bits(bits, text):
    assert wording.bits(bits) == text


def test_a_bit_is_ln_2_nats():
    assert wording.to_bits(math.log(2)) == pytest.approx(1)
    assert wording.to_bits(None) is None


def test_foreign_words_are_isolated_in_sentences():
    assert wording.occasion("word", "ظل") == "when the caption says “\u2068ظل\u2069”"
    assert wording.occasion("phrase", "left lung") == "when the caption says “left lung”"
    assert wording.slice_name("phrase", "left lung") == "words “left lung”"
    assert wording.occasion("attribute", "site=a=b") == "where site is a=b"
    assert wording.occasion("cluster", "map cluster 1") == "in the pairs of map cluster 1, whose maps are alike"
    assert wording.place("corner top-left") == "the top-left corner"
    assert wording.place("frame") == "the outer frame"


def test_a_phrase_is_said_without_its_quotes_also_if_it_is_one_itself():
    assert wording.place('"as before"') == "the phrase “as before”"
    assert wording.place('"""') == 'the phrase “"”'
    assert wording.place('".""') == 'the phrase “."”'


def test_long_reasons_are_cut_in_the_headline():
    headline = wording.verdict({"status": "stopped", "reason": "word " * 100}, [])
    assert len(headline) < 150
    assert headline.endswith(" …")


def test_times_that_are_not_iso_are_shown_as_they_are():
    assert wording.moment("2026-01-02T03:04:05+01:00") == "2026-01-02 02:04:05 UTC"
    assert wording.moment("yesterday") == "yesterday"
    assert wording.moment(None) == wording.NONE


TRIAL = {"area": 0.03, "n": 64, "margin": 0.4, "sets": 100}


def test_the_self_audit_tells_the_smallest_effect_that_is_nearly_always_found():
    sizes = [
        {**TRIAL, "kind": "sensitivity", "size": size, "confirmed": found}
        for size, found in ((0.04, 40), (0.08, 96), (0.2, 100))
    ]
    (told,) = wording.self_audit(sizes)
    assert "3.00% of the area that moves every pair's margin by 0.080 (20.0% of it) in 96.0% of samples" in told
    (told,) = wording.self_audit(sizes[:1])  # none is found nearly always: the largest is told
    assert "by as much as 0.040 (10.0% of it) would have been confirmed in only 40.0% of samples of 64 pairs" in told
    assert wording.self_audit([]) == []


def test_the_self_audit_tells_its_own_tag_and_its_false_alarms():
    tag = {**TRIAL, "kind": "tag", "effect": 0.2, "low": 0.1, "high": 0.3, "confirmed": 1}
    random = [{**TRIAL, "kind": "random", "confirmed": confirmed} for confirmed in (0, 1)]
    told = wording.self_audit([*random, tag])
    assert "cost 0.200 of the margin" in told[0]
    assert "this model reacts to any tag" in told[0]
    assert told[1].startswith("of 2 random regions of that size over random slices, 1 was confirmed")


def test_a_claim_is_as_strong_as_its_state():
    alert = {"region": "corner top-left", "slice_kind": "word", "slice": "dense"}
    assert wording.claim({**alert, "state": "confirmed"}).startswith("the model relies on the top-left corner")
    assert wording.claim({**alert, "state": "suspected"}).startswith("the model looks at the top-left corner")
    manifest = {"status": "completed", "reason": None, "counts": {"attributions": 1}}
    alerts = [{**alert, "state": state} for state in ("confirmed", "suspected", "suspected")]
    assert wording.verdict(manifest, alerts).startswith(
        "1 confirmed and 2 suspected alerts. The strongest: the model relies"
    )
    assert wording.verdict(manifest, alerts[:1]).startswith("1 confirmed alert: the model relies")


@pytest.mark.parametrize(
    ("rule", "side", "said"),
    [
        ("region_mass", "image", "3.46 times its share of the area"),
        ("region_cost", "image", "covering it took 346% of the margin at first sight"),
        ("region_contrast", "image", "3.46 times as much as in the other pairs"),
        ("spread_stamp", "image", "3.46 times as often there as in all pairs"),
        ("phrase_mass", "text", "3.46 times the odds of its words"),
    ],
)
def test_an_effect_is_told_in_its_rule_s_terms(rule, side, said):
    assert wording.weight({"rule": rule, "side": side, "effect": 3.46}) == said
