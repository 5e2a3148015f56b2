"""Tokens are located by their text; tokens that do not match are not located."""

import pytest

from tasks.text.spans import phrase_span, token_range, token_spans

CAPTION = "Nodule, as PREVIOUSLY described."


def locate(caption, tokens, phrase, special=None):
    spans = token_spans(caption, tokens, special or [False] * len(tokens))
    start = caption.index(phrase)
    return token_range((start, start + len(phrase)), spans, tokens)


@pytest.mark.parametrize(
    ("tokens", "special", "expected"),
    [
        # Pieces between special tokens, a whole word each, marks dropped by the tokenizer, an empty piece.
        (["<s>", "nod", "ule", ",", "as", "previous", "ly", "described", ".", "</s>"], {0, 9}, (5, 8)),
        (["nodule", ",", "as", "previously", "described", "."], {}, (3, 5)),
        (["nodule", "as", "previously", "described", "</s>"], {4}, (2, 4)),
        (["Nodule", ",", "as", "", "PREVIOUSLY", "described", "."], {}, (3, 6)),
        # Truncated by the context; a piece across the edge of the phrase; a piece that does not match.
        (["<s>", "nodule", ",", "as", "previously", "</s>"], {0, 5}, None),
        (["nodule, as", "previously", "described"], {}, None),
        (["nodule", "mass", "as", "previously", "described"], {}, None),
        (["<unk>"] * 6, {}, None),
    ],
)
def test_a_phrase_has_the_tokens_that_begin_and_end_exactly_with_it(tokens, special, expected):
    flags = [index in special for index in range(len(tokens))]
    assert locate(CAPTION, tokens, "as PREVIOUSLY described", flags) == expected


def test_partial_characters_are_skipped_and_the_following_tokens_are_located():
    tokens = ["\ufffd", "\ufffd", "as", "before"]
    assert locate("肺 as before", tokens, "as before") == (3, 4)
    assert locate("肺 as before", tokens, "肺") is None


@pytest.mark.parametrize("tokens", [["co", "\u00ad", "operative"], ["co\u00ad", "operative"], ["cooperative"]])
def test_invisible_characters_are_skipped_whether_or_not_they_are_tokens(tokens):
    caption = "\ufeffA co\u00adoperative\u200b patient"
    spans = token_spans(caption, ["a", *tokens, "patient"], [False] * (len(tokens) + 2))
    assert token_range((3, 15), spans, ["a", *tokens, "patient"]) == (2, 1 + len(tokens))
    assert spans[-1] == (17, 24)


def test_characters_that_are_longer_in_lower_case_keep_their_position():
    assert locate("İİ as before", ["İİ", "as", "before"], "as before") == (2, 3)


def test_the_span_of_tokens_is_that_of_their_phrase():
    tokens = ["nodule", ",", "as", "previously", "described", "."]
    spans = token_spans(CAPTION, tokens, [False] * 6)
    assert CAPTION[slice(*phrase_span(3, 5, spans))] == "as PREVIOUSLY described"
    with pytest.raises(ValueError, match="tokens: got 1 to 2"):
        phrase_span(1, 2, [None, None])
