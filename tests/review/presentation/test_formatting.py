import math

import pytest

from review.presentation import formatting, numbers


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *((1, "100%"), (0.9996, "100%"), (0.77, "77.0%"), (0.0625, "6.25%"), (0.00331, "0.331%")),
        *((-0.0444, "-4.44%"), (-0.5, "-50.0%"), (-1e-9, "0%")),
        *((1e-9, "<0.001%"), (0, "0%"), (None, numbers.NO_VALUE), (math.nan, numbers.NO_VALUE)),
    ],
)
def test_shares_have_about_three_figures(share, text):
    assert numbers.format_percent(share) == text


@pytest.mark.parametrize(
    ("nats", "text"), [(-1e-9, "0.0"), (99.96, "100.0"), (12345.6, "12,346"), (None, numbers.NO_VALUE)]
)
def test_nats_have_one_decimal(nats, text):
    assert numbers.format_nats(nats) == text


def test_untrusted_text_is_isolated_in_sentences():
    assert formatting.format_slice("word", "ظل") == "in pairs whose caption contains “\u2068ظل\u2069”"
    assert formatting.format_slice("phrase", "left lung") == "in pairs whose caption contains “left lung”"
    assert formatting.format_slice_label("phrase", "left lung") == "words “left lung”"
    assert formatting.format_slice("attribute", "site=a=b") == "in pairs with site = a=b"
    assert formatting.format_slice("cluster", "map cluster 1") == "in the pairs of map cluster 1"
    assert formatting.format_region("corner top-left") == "the top-left corner"
    assert formatting.format_region("frame") == "the outer frame"
    assert formatting.format_region_label("stamp 1") == "overlay 1"
    assert formatting.format_region_label("frame") == "frame"


def test_a_phrase_loses_only_its_outer_quotes():
    assert formatting.format_region('"as before"') == "the phrase “as before”"
    assert formatting.format_region('"""') == 'the phrase “"”'
    assert formatting.format_region('".""') == 'the phrase “."”'


def test_long_reasons_are_cut_in_the_headline():
    headline = formatting.format_headline({"status": "stopped", "reason": "word " * 100}, [])
    assert len(headline) < 150
    assert headline.endswith(" …")


def test_times_that_are_not_iso_are_shown_as_they_are():
    assert numbers.format_time("2026-01-02T03:04:05+01:00") == "2026-01-02 02:04:05 UTC"
    assert numbers.format_time("yesterday") == "yesterday"
    assert numbers.format_time(None) == numbers.NO_VALUE


def test_an_alert_is_phrased_as_strongly_as_its_state_allows():
    alert = {"region": "corner top-left", "slice_kind": "word", "slice": "dense"}
    assert formatting.format_alert({**alert, "state": "confirmed"}).startswith(
        "the score relies on the top-left corner"
    )
    assert formatting.format_alert({**alert, "state": "suspected"}).startswith(
        "attribution concentrates on the top-left corner"
    )
    manifest = {"status": "completed", "reason": None, "counts": {"attributions": 1}}
    alerts = [
        {**alert, "state": state, "rank": rank} for rank, state in enumerate(("confirmed", "suspected", "suspected"))
    ]
    assert formatting.format_headline(manifest, alerts[::-1]) == formatting.format_headline(manifest, alerts)
    assert formatting.format_headline(manifest, alerts).startswith(
        "1 confirmed and 2 suspected alerts. The strongest: the score relies"
    )
    assert formatting.format_headline(manifest, alerts[:1]).startswith("1 confirmed alert: the score relies")


@pytest.mark.parametrize(
    ("rule", "side", "text"),
    [
        ("region_mass", "image", "3.46 times its share of the area"),
        ("region_cost", "image", "covering it cost 346% of the margin in the screening"),
        ("region_contrast", "image", "3.46 times its share in the other pairs"),
        ("spread_stamp", "image", "3.46 times as frequent as in all pairs"),
        ("phrase_mass", "text", "3.46 times the odds expected from its share of the words"),
    ],
)
def test_effect_names_what_its_rule_compares_with(rule, side, text):
    assert formatting.format_effect({"rule": rule, "side": side, "effect": 3.46}) == text


def test_concentration_of_a_screened_region_is_not_its_loss():
    screened = {"rule": "region_cost", "effect": 0.4, "share": 0.02, "area": 0.04}
    assert formatting.format_concentration(screened) == "0.50"
    assert formatting.format_concentration({**screened, "rule": "region_mass"}) == "0.40"
    assert formatting.format_concentration({**screened, "area": 0.0}) == numbers.NO_VALUE


@pytest.mark.parametrize(
    ("row", "count", "pairs", "sentence"),
    [
        ({}, "64", "64 pairs with the overlay", "in pairs whose caption contains “dense”"),
        ({"region": "frame"}, "64", "64 pairs", "the outer frame in pairs"),
        (
            {"slice_kind": "corpus", "run_pairs": 100},
            "64 of 100",
            "64 of 100 pairs, those with the overlay",
            "that have",
        ),
        ({"slice_kind": "corpus"}, "64", "64 pairs with the overlay", "recurring overlay 1 in all pairs that have it"),
        ({"slice_kind": "corpus", "region": '"no"', "run_pairs": 64}, "64", "64 pairs", "“no” in all pairs"),
        (
            {"slice_kind": "corpus", "region": "frame", "run_pairs": 64},
            "64",
            "64 pairs",
            "the outer frame in all pairs",
        ),
    ],
)
def test_pairs_that_have_the_region_are_not_all_pairs(row, count, pairs, sentence):
    alert = {**ALERT, **row}
    assert formatting.format_pair_count(alert) == count
    assert formatting.format_pairs(alert) == pairs
    assert f" in {pairs}; " in formatting.format_figures(alert)
    assert sentence in formatting.format_alert(alert)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ("m2ib.alert.still-firing", "alert still firing: overlay 1"),
        ("m2ib.audit.digest", "digest of 2 alerts"),
        ("m2ib.audit.open-alerts", "2 open alerts of earlier runs"),
        ("m2ib.audit.completed-with-errors", "run completed with errors"),
    ],
)
def test_a_message_says_what_it_is_about(event, text):
    assert formatting.format_message({"event": event, "region": "stamp 1", "alerts": 2}) == text


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((512, 512, 0), "100% of 512 rows"),
        ((500, 512, None), "97.7% of 512 rows"),
        ((60, 243, 183), "60 of 243 rows (sample)"),
        ((58, 1243, 1183), "58 of 1,243 rows (sample of 60)"),
        ((0, 0, 0), numbers.NO_VALUE),
    ],
)
def test_coverage_names_a_sample(counts, text):
    names = ("attributions", "corpus_rows", "not_sampled")
    assert formatting.format_coverage(dict(zip(names, counts, strict=True))) == text


ALERT = {
    "life": "worse", "state": "confirmed", "severity": "high", "alert_id": "a", "why": "severity high, was low",
    "side": "image", "rule": "region_mass", "region": "stamp 1", "slice_kind": "word", "slice": "dense", "n": 64,
    "share": 0.77, "area": 0.0625, "effect": 12.3, "score_effect": 0.08, "margin": 0.4, "score_effect_before": 0.06,
    "score_low": 0.07, "score_high": 0.09,
}  # fmt: skip


def test_test_result_gives_what_the_row_has():
    text = formatting.format_test({**ALERT, "floor": 0.04, "q": 0.001, "tests": 12, "score_effect_before": None})
    assert text == (
        "covering it reduces the margin of 0.400 by 0.080 more than covering equal regions elsewhere "
        "(95% interval 0.070 to 0.090, floor 0.040, q 0.001, 12 tests)"
    )
    assert formatting.format_test({**ALERT, "region": "outside lung"}).startswith(
        "taking it from other pairs reduces the margin of 0.400 by 0.080 more than taking it from pairs of the slice"
    )
    suspected = {**ALERT, "state": "suspected", "side": "text", "reason": "below the floor"}
    assert formatting.format_test(suspected).startswith("leaving it out reduces the margin")
    assert formatting.format_test(suspected).endswith("; below the floor")
    assert "does not reduce the margin of 0.400 more than the controls do (score loss -0.010, 95% interval" in (
        formatting.format_test({**suspected, "score_effect": -0.01})
    )
    assert formatting.format_test({**suspected, "score_effect": None}) == "not tested: below the floor"
    assert "[confirm] enabled = false" in formatting.format_test({**suspected, "score_effect": None, "reason": None})


def test_alert_update_is_one_line_with_escaped_names():
    assert formatting.format_alert_update(ALERT) == (
        "WORSE (confirmed, high severity): the score relies on recurring overlay 1 in pairs whose caption contains "
        "“dense”; covering it reduces the margin of 0.400 by 0.080 more than covering equal regions elsewhere (95% "
        "interval 0.070 to 0.090, previously 0.060); 77.0% of the attribution on 6.25% of the image in 64 pairs with "
        "the overlay; 12.30 times its share of the area (rule region_mass); severity high, was low"
    )
    assert "“DENSE”" in formatting.format_alert_update(ALERT, str.upper)
    assert "previously" not in formatting.format_alert_update({**ALERT, "life": "resolved", "alert_id": None})


def test_control_characters_do_not_reach_a_terminal():
    assert "\x1b" not in formatting.format_region("\x1b[31mred")
    assert "\n" not in formatting.format_slice("attribute", "site=a\nALERT")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB"), (None, numbers.NO_VALUE)],
)
def test_bytes_have_binary_units(size, text):
    assert numbers.format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7620, "2 h 7 min"), (None, "–")]
)
def test_durations_have_at_most_two_units(seconds, text):
    assert numbers.format_duration(seconds) == text


def test_alerts_are_counted_alike():
    rows = [{"state": "confirmed", "explained_by": None}, {"state": "suspected", "explained_by": "x"}]
    assert formatting.format_alert_count([]) == "no alerts"
    assert formatting.format_alert_count(rows[:1]) == "1 alert (1 confirmed)"
    assert formatting.format_alert_count(rows) == "2 alerts, 1 of them independent (1 confirmed)"


def test_comparison_with_other_units_is_in_sentences():
    row = {"side": "image", "region": "frame", "slice_kind": "word", "units": 32, "split": True, "losing": 0.1}
    others = {"outside_units": 64, "outside_effect": 0.0104, "outside_p": 0.0002}
    assert formatting.format_comparison(row | others) == (
        "The test has 32 independent units. In 64 units outside of the slice that have the region, the score loss is "
        "0.010 (p 0.0002)."
    )
    whole = row | {"slice_kind": "corpus", "outside_units": 0, "outside_p": None}
    assert "The slice is the whole corpus" in formatting.format_comparison(whole)
    gain = formatting.format_comparison(row | others | {"direction": "lowers"})
    assert "have the region, the score gain is 0.010 (p 0.0002)" in gain
    few = {
        "side": "text",
        "region": '"seen"',
        "slice_kind": "word",
        "units": 8,
        "split": False,
        "losing": 0.75,
        "outside_units": 3,
        "outside_p": None,
    }
    text = formatting.format_comparison(few)
    assert text.startswith("The test has 8 distinct captions. Too few units outside of the slice have the phrase (3)")
    assert "a rule chose it by the same units" in text
    assert "prefers another caption in 75.0% of these pairs" in text
    absence = few | {"side": "image", "region": "absence of stamp 1"}
    assert "Too few units outside of the slice lack the mark (3)" in formatting.format_comparison(absence)
    some = formatting.format_comparison(row | others | {"outside_units": 9})
    assert some.endswith("(p 0.0002). These are too few to decide whether the alert is confirmed.")
    failed = row | {"outside_units": None, "outside_p": None}
    assert formatting.format_comparison(failed) == "The test has 32 independent units."
    assert formatting.format_comparison({"units": None}) == formatting.format_comparison({}) == ""


def test_words_about_a_test_say_whether_the_region_was_covered_or_taken_from_other_pairs():
    row = {"side": "image", "region": "lung", "state": "confirmed", "margin": 0.4, "score_effect": 0.1, "reason": None}
    assert formatting.format_test(row).startswith("covering it reduces the margin")
    assert formatting.format_test(row | {"exchanged": True}).startswith("taking it from other pairs reduces the margin")


def test_loss_against_minimal_foils_is_a_sentence_if_it_was_measured():
    figures = {"minimal_n": 32, "minimal_effect": 0.0101, "minimal_low": -0.004, "minimal_high": 0.0206}
    row = {"side": "image", "region": "frame", **figures}
    text = formatting.format_minimal(row)
    assert ", the score gain is 0.010" in formatting.format_minimal(row | {"direction": "lowers"})
    assert text.endswith("the score loss is 0.010 (-0.004 to 0.021, 32 units); this has no influence on the verdict.")
    assert formatting.format_minimal({**row, "minimal_effect": None}) == formatting.format_minimal({}) == ""


@pytest.mark.parametrize(
    ("given", "sentence", "figures", "test"),
    [
        (
            {"rule": "region_gain", "direction": "lowers", "effect": 0.3},
            "recurring overlay 1 lowers the score in pairs whose caption contains “dense” that have it",
            "77.0% of the attribution on 6.25% of the image in 64 pairs with the overlay; "
            "covering it gained 30.0% of the margin in the screening (rule region_gain)",
            "covering it raises the margin of 0.400 by 0.080 more than covering equal regions elsewhere",
        ),
        (
            {"rule": "region_sufficiency", "reliance": ["sufficient"], "effect": 0.3},
            "pasted into other images, recurring overlay 1 raises their score for captions that contain “dense”",
            "77.0% of the attribution on 6.25% of the image in 64 pairs with the overlay; "
            "pasting it elsewhere gained 30.0% of the margin in the screening (rule region_sufficiency)",
            "pasting it into other pairs raises their score for these captions by 0.080 more than pasting controls; "
            "the margin of the pairs themselves is 0.400",
        ),
        (
            {"rule": "overlay_absence", "direction": "lowers", "region": "absence of stamp 1", "effect": 3.0},
            "the score relies on the absence of recurring overlay 1 in pairs whose caption contains “dense”",
            "64 pairs that lack the mark; 3.00 times as often absent as in the other pairs (rule overlay_absence)",
            "pasting the mark reduces the margin of 0.400 by 0.080 more than pasting other parts of the same images",
        ),
        (
            {"rule": "image_wide", "region": "image-wide color", "effect": 2.0},
            "the score relies on the colors of the whole image in pairs whose caption contains “dense”",
            "64 pairs; 2.00 standard deviations from the other pairs (rule image_wide)",
            "taking them from images outside of the slice reduces the margin of 0.400 by 0.080 more than taking them "
            "from other images of it",
        ),
    ],
)
def test_kinds_of_alerts_say_what_they_are_about_and_in_which_direction(given, sentence, figures, test):
    alert = {**ALERT, "score_effect_before": None, **given}
    assert formatting.format_alert(alert).replace(" that have it", "") == sentence.replace(" that have it", "")
    assert formatting.format_figures(alert) == figures
    assert formatting.format_test(alert).startswith(test)


def test_what_pasting_does_is_a_sentence_if_it_was_tested():
    pasted = {
        "pasted_effect": 0.11,
        "pasted_low": 0.09,
        "pasted_high": 0.13,
        "pasted_rise": 0.12,
        "pasted_control_rise": 0.01,
        "pasted_n": 48,
        "pasted_confirmed": True,
    }
    text = formatting.format_pasting(ALERT | pasted | {"reliance": ["needed", "sufficient"]})
    assert text == (
        "Pasted into 48 images with other captions, it changed their score for these captions by 0.120, the controls "
        "by 0.010 (95% interval of the difference 0.090 to 0.130). So it is sufficient."
    )
    assert "not shown to need it" in formatting.format_pasting(ALERT | pasted | {"reliance": ["sufficient"]})
    assert "does not show" in formatting.format_pasting(ALERT | pasted | {"pasted_confirmed": False})
    assert formatting.format_pasting(ALERT) == formatting.format_pasting({"pasted_effect": None}) == ""


def test_alerts_of_earlier_releases_were_tested_for_what_is_needed():
    assert formatting.format_reliance({"state": "confirmed"}) == "needed"
    assert formatting.format_reliance({"state": "confirmed", "reliance": None}) == "needed"
    assert formatting.format_reliance({"state": "suspected"}) == ""
    both = {"state": "confirmed", "reliance": ["needed", "sufficient"]}
    assert formatting.format_reliance(both) == "needed and sufficient"


def test_regions_without_boxes_have_labels():
    assert formatting.format_region_label("absence of stamp 2") == "absence of overlay 2"
    assert formatting.format_region_kind("absence of burnt-in: text") is None
    assert formatting.format_region("image-wide spectrum") == "the sharpness and texture of the whole image"


def test_units_are_those_of_the_column_or_images():
    row = {"units": 50, "pairs": 208, "unit_column": "patient"}
    assert formatting.format_units(row) == "50 units (values of the column “patient”) of 208 pairs"
    assert formatting.format_units({**row, "unit_column": None}).startswith("50 units (images; near-duplicates")


def test_numbers_of_other_runs_name_their_run():
    row = {
        "region": "stamp 1", "slice_kind": "word", "slice": "lung", "side": "image", "state": "confirmed",
        "run_id": "20261130T010000-b", "last_run": "20261128T215800-a",
    }  # fmt: skip
    dated = "recurring overlay 1 of the run of 2026-11-28 21:58 in pairs"
    assert dated in formatting.format_alert({**row, "life": "not_seen"})
    assert dated in formatting.format_alert({**row, "life": "resolved"})
    assert "of the run" not in formatting.format_alert({**row, "life": "still_firing"})
    assert "of the run" not in formatting.format_alert({**row, "life": "resolved", "region": "frame"})
    absence = formatting.format_alert({**row, "life": "not_seen", "region": "absence of stamp 1"})
    assert "the absence of recurring overlay 1 of the run of" in absence
    cluster = {**row, "life": "not_seen", "slice_kind": "cluster", "slice": "map cluster 2", "region": "frame"}
    assert formatting.format_alert(cluster).endswith("map cluster 2 of the run of 2026-11-28 21:58")


def test_all_pairs_are_those_that_have_the_region_if_not_all_do():
    row = {"region": "lung", "slice_kind": "corpus", "slice": "all pairs", "side": "image", "state": "confirmed"}
    row["n"] = 73
    assert formatting.format_alert({**row, "run_pairs": 150}).endswith("in all pairs that have it")
    assert formatting.format_pairs({**row, "run_pairs": 150}) == "73 of 150 pairs, those with the region"
    overlay = {**row, "region": "stamp 1"}
    assert formatting.format_alert({**overlay, "run_pairs": 73}).endswith("in all pairs")
    assert formatting.format_alert(overlay).endswith("in all pairs that have it")  # unknown: as overlays are
    assert formatting.format_alert({**row, "region": "frame", "run_pairs": 150}).endswith("in all pairs")


def test_an_empty_interval_is_left_out():
    assert numbers.format_interval(0.01, 0.0206) == "0.010 to 0.021"
    assert numbers.format_interval(None, None) == ""
    row = {
        "side": "image",
        "region": "frame",
        "minimal_n": 1,
        "minimal_effect": 0.01,
        "minimal_low": None,
        "minimal_high": None,
    }
    assert "(1 unit)" in formatting.format_minimal(row)
