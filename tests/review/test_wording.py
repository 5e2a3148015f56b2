import math

import pytest

from review import wording


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
    assert wording.occasion("attribute", "site=a=b") == "where site is a=b"
    assert wording.place("corner top-left") == "the top-left corner"
    assert wording.place("frame") == "the outer frame"


def test_long_reasons_are_cut_in_the_headline():
    headline = wording.verdict({"status": "stopped", "reason": "word " * 100}, [])
    assert len(headline) < 150
    assert headline.endswith(" …")


def test_times_that_are_not_iso_are_shown_as_they_are():
    assert wording.moment("2026-01-02T03:04:05+01:00") == "2026-01-02 02:04:05 UTC"
    assert wording.moment("yesterday") == "yesterday"
    assert wording.moment(None) == wording.NONE
