import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import CaptionError, Limits, Reason, clean_caption


def test_only_normalization_and_outer_white_space_change() -> None:
    assert clean_caption("\n  cafe\u0301  two\n lines\ttab\x07 ") == "caf\u00e9  two\n lines\ttab\x07"


@pytest.mark.parametrize("raw", ["", " \t\r\n", "\u200b\ufeff", "\x01\u2028"])
def test_text_without_visible_characters_is_empty(raw: str) -> None:
    with pytest.raises(CaptionError) as caught:
        clean_caption(raw)
    assert caught.value.reason is Reason.EMPTY_CAPTION


@pytest.mark.parametrize("raw", ["a\x00b", "a\ud800", "\udcff"])
def test_text_that_cannot_be_stored_is_rejected(raw: str) -> None:
    with pytest.raises(CaptionError) as caught:
        clean_caption(raw)
    assert caught.value.reason is Reason.CAPTION_ENCODING


def test_length_limit_is_inclusive() -> None:
    limits = Limits(max_caption_chars=3)
    assert clean_caption(" abc ", limits) == "abc"
    with pytest.raises(CaptionError, match=r"4 characters \(expected at most 3\)") as caught:
        clean_caption("abcd", limits)
    assert caught.value.reason is Reason.CAPTION_TOO_LONG


@pytest.mark.parametrize(
    "raw",
    [
        bytes(range(1, 256)).decode("latin-1"),
        b"\x89PNG\r\n\x1a\n\xff\xd8\xff\xe0\x10JFIF".decode("utf-8", "replace"),
        "a\x01b\x02",
    ],
)
def test_text_of_mostly_invalid_characters_is_rejected(raw: str) -> None:
    with pytest.raises(CaptionError) as caught:
        clean_caption(raw)
    assert caught.value.reason is Reason.CAPTION_NOT_TEXT


@pytest.mark.parametrize(
    "caption",
    [
        "a\tb\nc\r\nd",
        "caf\N{REPLACEMENT CHARACTER} at night",
        "\N{WOMAN}\u200d\u2695",
        "<p>No &amp; finding</p>",
        "\U0010ffff",  # unassigned, as the emoji of a later Unicode are
    ],
)
def test_unusual_text_and_markup_are_unchanged(caption: str) -> None:
    assert clean_caption(caption) == caption


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_cleaning_is_idempotent(raw: str) -> None:
    try:
        caption = clean_caption(raw)
    except CaptionError:
        return
    assert caption.encode()  # storable
    assert clean_caption(caption) == caption
