import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora import CaptionError, Limits, Reason, clean_caption


def test_only_form_and_outer_white_space_change() -> None:
    assert clean_caption("\n  cafe\u0301  two\n lines\ttab\x07 ") == "caf\u00e9  two\n lines\ttab\x07"


@pytest.mark.parametrize("raw", ["", " \t\r\n", "\u200b\ufeff", "\x01\u2028"])
def test_nothing_visible_is_empty(raw: str) -> None:
    with pytest.raises(CaptionError) as caught:
        clean_caption(raw)
    assert caught.value.reason is Reason.EMPTY_CAPTION


@pytest.mark.parametrize("raw", ["a\x00b", "a\ud800", "\udcff"])
def test_what_no_store_takes_is_refused(raw: str) -> None:
    with pytest.raises(CaptionError) as caught:
        clean_caption(raw)
    assert caught.value.reason is Reason.CAPTION_ENCODING


def test_length_limit_is_inclusive() -> None:
    limits = Limits(max_caption_chars=3)
    assert clean_caption(" abc ", limits) == "abc"
    with pytest.raises(CaptionError, match="4 characters, expected at most 3") as caught:
        clean_caption("abcd", limits)
    assert caught.value.reason is Reason.CAPTION_TOO_LONG


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_cleaning_twice_is_cleaning_once(raw: str) -> None:
    try:
        caption = clean_caption(raw)
    except CaptionError:
        return
    assert caption.encode()  # storable
    assert clean_caption(caption) == caption
