"""Captions lack a phrase according to the stored occurrences; truncated text is ignored."""

import pytest

from tasks.interventions import samples
from tasks.interventions.phrases import ModelCaptions
from tasks.interventions.samples import InterventionPlan, Samples
from tasks.phrases import phrases
from tasks.settings import ConfirmConfig, CorpusConfig, Inputs, ModelConfig, PhrasesConfig

CAPTIONS = ["normal heart", "no  acute finding", "No   Acute mass", "no acute finding İ", "large heart"]


@pytest.fixture
def model_captions(hand_written_run, tmp_path, monkeypatch):
    hand_written_run.add_pairs(CAPTIONS)
    rows = hand_written_run.add_attributions([[1.0]] * len(CAPTIONS), (1, 1))
    for row, caption in zip(rows, CAPTIONS, strict=True):
        words = caption.lower().split()[:3]
        row |= {"caption": caption, "tokens": ["<s>", *words, "</s>"], "special": [True, *[False] * len(words), True]}
    hand_written_run.write_table("attributions", rows)
    phrases.fn(hand_written_run, PhrasesConfig(listed=("no", "no acute")), 8)
    monkeypatch.setattr(samples, "load_model", lambda _: None)
    inputs = Inputs(corpus=CorpusConfig(path=tmp_path, format="folder"), model=ModelConfig(architecture="none"))
    return ModelCaptions(Samples(hand_written_run, InterventionPlan(inputs, ConfirmConfig(), 8, 0)))


def test_captions_without_a_phrase_are_those_without_occurrences(model_captions):
    for span in ((0, 2), (0, 9)):  # the word alone and with the next word
        assert model_captions.find_without({"pair-0001": [span]}) == {"normal heart", "large heart"}


def test_caption_is_truncated_after_its_last_token(model_captions):
    truncated = [model_captions.truncate(pair_id) for pair_id in ("pair-0002", "pair-0003")]
    assert truncated == ["No   Acute mass", "no acute finding"]
