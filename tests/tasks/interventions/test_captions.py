"""Captions lack a phrase according to the stored occurrences; truncated text is ignored."""

import pytest

from tasks.interventions.phrases import ModelCaptions
from tasks.phrases import phrases
from tasks.settings import PhrasesConfig

CAPTIONS = ["normal heart", "no  acute finding", "No   Acute mass", "no acute finding İ", "large heart"]


@pytest.fixture
def model_captions(hand_written_run):
    hand_written_run.add_pairs(CAPTIONS)
    rows = hand_written_run.add_attributions([[1.0]] * len(CAPTIONS), (1, 1))
    for row, caption in zip(rows, CAPTIONS, strict=True):
        words = caption.lower().split()[:3]
        row |= {"caption": caption, "tokens": ["<s>", *words, "</s>"], "special": [True, *[False] * len(words), True]}
    hand_written_run.write_table("attributions", rows)
    phrases.fn(hand_written_run, PhrasesConfig(listed=("no", "no acute")), 8)
    return ModelCaptions(hand_written_run)


def test_captions_without_a_phrase_are_those_without_occurrences(model_captions):
    for span in ((0, 2), (0, 9)):  # the word alone and with the next word
        assert model_captions.find_without({"pair-0001": [span]}) == {"normal heart", "large heart"}


def test_caption_is_truncated_after_its_last_token(model_captions):
    assert [model_captions.truncate(caption) for caption in CAPTIONS[2:4]] == ["No   Acute mass", "no acute finding"]
