"""Which captions lack a phrase is what the run stored, not how they are spelt; what was cut off is not seen."""

import pytest

from tasks.interventions.phrases import ModelCaptions
from tasks.phrases import phrases
from tasks.settings import PhrasesConfig

CAPTIONS = ["normal heart", "no  acute finding", "No   Acute mass", "no acute finding İ", "large heart"]


@pytest.fixture
def captions(hand_written_run):
    hand_written_run.add_pairs(CAPTIONS)
    rows = hand_written_run.add_attributions([[1.0]] * len(CAPTIONS), (1, 1))
    for row, caption in zip(rows, CAPTIONS, strict=True):
        words = caption.lower().split()[:3]
        row |= {"caption": caption, "tokens": ["<s>", *words, "</s>"], "special": [True, *[False] * len(words), True]}
    hand_written_run.write_table("attributions", rows)
    phrases.fn(hand_written_run, PhrasesConfig(listed=("no", "no acute")), 8)
    return ModelCaptions(hand_written_run)


def test_captions_lack_a_phrase_unless_it_was_found_in_them(captions):
    for place in ((0, 2), (0, 9)):  # the word alone, and with the next
        assert captions.find_without({"pair-0001": [place]}) == {"normal heart", "large heart"}


def test_a_caption_ends_where_the_last_token_that_is_told_does(captions):
    assert [captions.truncate(caption) for caption in CAPTIONS[2:4]] == ["No   Acute mass", "no acute finding"]
