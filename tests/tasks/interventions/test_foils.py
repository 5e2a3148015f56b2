"""Foils say something else than the pair's own caption, as the slice asks for, and are always the same ones."""

import pytest

import sql
from tasks.interventions.foils import FoilFinder, words_of

CORPUS = [
    "consolidation in the left lung", "left lung consolidation", "nodule in the right lung",
    "effusion in the left lung", "the heart is enlarged", "normal chest", "no acute finding",
    "pneumothorax on the right",
]  # fmt: skip
OWN = "consolidation in the left lung"


@pytest.fixture
def captions():
    return FoilFinder(CORPUS, seed=0)


def test_words_are_those_that_slices_are_made_of():
    assert words_of("Größe: 3/4_view, X-ray!") == {"größe", "3", "4", "view", "x", "ray"}


def test_words_are_those_of_the_view_in_any_script(hand_written_run):
    texts = ["हिन्दी में", "مُحَمَّد", "İstanbul ΟΔΟΣ", "e\u0301te\u0301 ❤️ \u0301x", "x_y 3.5½", "肺部影像"]
    # Joiners, a soft hyphen, a byte order mark, a mark of direction: within words, at their ends and alone.
    hidden = {
        "می\u200cخواهم": {"میخواهم"},
        "क्\u200dष \u200d": {"क्ष"},
        "co\u00adoperate\u200b \ufeffso": {"cooperate", "so"},
    }
    hidden |= {"עברית\u200f x\u2060-y": {"עברית", "x", "y"}, "肺\u200b部": {"肺部"}}
    assert {text: words_of(text) for text in hidden} == hidden
    texts += hidden
    hand_written_run.add_pairs(texts)
    with hand_written_run.connect() as connection:
        rows = sql.read(connection, "SELECT pair_id, slice FROM pair_slices WHERE slice_kind = 'word'")
    for row, text in zip(sorted({row["pair_id"] for row in rows}), texts, strict=True):
        assert {one["slice"] for one in rows if one["pair_id"] == row} == words_of(text)
    assert words_of("हिन्दी में") == {"हिन्दी", "में"}


def test_the_commonest_words_have_marks_and_no_digits():
    assert FoilFinder(["में 7a", "में b"], seed=0).most_common_words(3, exclude="") == ["में", "b"]


def test_foils_of_a_word_lack_it_whatever_else_they_share(captions):
    found = captions.find(OWN, "pair", "word", "consolidation", 8)
    assert len(found) == len(set(found)) == 6
    assert not [caption for caption in found if "consolidation" in caption]
    assert "left lung consolidation" in captions.find(OWN, "pair", "word", "in", 8)


def test_foils_are_those_that_are_admitted(captions):
    found = captions.find(OWN, "pair", "word", "consolidation", 8, lambda caption: "lung" not in caption)
    assert set(found) == {"the heart is enlarged", "normal chest", "no acute finding", "pneumothorax on the right"}


def test_foils_of_an_attribute_differ_in_content_words(captions):
    assert set(captions.find(OWN, "pair", "attribute", "sex=m", 8)) == set(CORPUS) - {OWN}


def test_foils_of_the_corpus_share_no_content_word(captions):
    # `the` is in more than half of the captions, hence no content.
    assert set(captions.find(OWN, "pair", "corpus", "all pairs", 8)) == {
        "the heart is enlarged", "normal chest", "no acute finding", "pneumothorax on the right",
    }  # fmt: skip


def test_word_order_alone_makes_no_foil():
    captions = FoilFinder(["left nodule", "nodule left", "normal chest"], seed=0)
    assert captions.find("left nodule", "pair", "attribute", "a=b", 8) == ["normal chest"]


def test_words_of_most_captions_are_no_content():
    captions = FoilFinder(["scan of a lung", "scan of a heart", "scan of a rib"], seed=0)
    assert set(captions.find("scan of a lung", "pair", "corpus", "all pairs", 8)) == {
        "scan of a heart", "scan of a rib",
    }  # fmt: skip


def test_foils_depend_on_seed_and_pair_and_not_on_the_order_of_the_corpus(captions):
    chosen = captions.find(OWN, "pair", "word", "consolidation", 3)
    assert len(chosen) == 3
    assert FoilFinder(CORPUS[::-1], seed=0).find(OWN, "pair", "word", "consolidation", 3) == chosen
    others = [captions.find(OWN, f"pair {n}", "word", "consolidation", 3) for n in range(9)]
    assert any(other != chosen for other in others)


def test_foils_of_a_collocation_lack_it_and_may_have_its_words():
    captions = FoilFinder(["left lung scar", "left lung", "left rib", "clear lung", "lung, left"], seed=0)
    found = captions.find("left lung scar", "pair", "phrase", "left lung", 8)
    assert set(found) == {"left rib", "clear lung", "lung, left"}
