"""Foils differ from the caption of the pair as the slice requires, and are reproducible."""

import pytest

import sql
from tasks.interventions.foils import FoilFinder, words_of

CORPUS = [
    "consolidation in the left lung", "left lung consolidation", "nodule in the right lung",
    "effusion in the left lung", "the heart is enlarged", "normal chest", "no acute finding",
    "pneumothorax on the right",
]  # fmt: skip
CAPTION = "consolidation in the left lung"


@pytest.fixture
def foil_finder():
    return FoilFinder(CORPUS, seed=0)


def test_words_are_split_as_in_slices():
    assert words_of("Größe: 3/4_view, X-ray!") == {"größe", "3", "4", "view", "x", "ray"}


def test_words_equal_those_of_the_view_in_any_script(hand_written_run):
    texts = ["हिन्दी में", "مُحَمَّد", "İstanbul ΟΔΟΣ", "e\u0301te\u0301 ❤️ \u0301x", "x_y 3.5½", "肺部影像"]
    # Joiners, a soft hyphen, a byte order mark, a mark of direction: within words, at their ends and alone.
    with_invisible = {
        "می\u200cخواهم": {"میخواهم"},
        "क्\u200dष \u200d": {"क्ष"},
        "co\u00adoperate\u200b \ufeffso": {"cooperate", "so"},
    }
    with_invisible |= {"עברית\u200f x\u2060-y": {"עברית", "x", "y"}, "肺\u200b部": {"肺部"}}
    assert {text: words_of(text) for text in with_invisible} == with_invisible
    texts += with_invisible
    hand_written_run.add_pairs(texts)
    with hand_written_run.connect() as connection:
        rows = sql.read(connection, "SELECT pair_id, slice FROM pair_slices WHERE slice_kind = 'word'")
    for row, text in zip(sorted({row["pair_id"] for row in rows}), texts, strict=True):
        assert {one["slice"] for one in rows if one["pair_id"] == row} == words_of(text)
    assert words_of("हिन्दी में") == {"हिन्दी", "में"}


def test_most_common_words_have_combining_marks_but_no_digits():
    assert FoilFinder(["में 7a", "में b"], seed=0).most_common_words(3, exclude="") == ["में", "b"]


def test_foils_of_a_word_lack_it(foil_finder):
    foils = foil_finder.find(CAPTION, "pair", "word", "consolidation", 8)
    assert len(foils) == len(set(foils)) == 6
    assert not [caption for caption in foils if "consolidation" in caption]
    assert "left lung consolidation" in foil_finder.find(CAPTION, "pair", "word", "in", 8)


def test_foils_pass_the_filter(foil_finder):
    foils = foil_finder.find(CAPTION, "pair", "word", "consolidation", 8, lambda caption: "lung" not in caption)
    assert set(foils) == {"the heart is enlarged", "normal chest", "no acute finding", "pneumothorax on the right"}


def test_foils_of_an_attribute_differ_in_content_words(foil_finder):
    assert set(foil_finder.find(CAPTION, "pair", "attribute", "sex=m", 8)) == set(CORPUS) - {CAPTION}


def test_foils_of_the_corpus_share_no_content_word(foil_finder):
    # `the` is in more than half of the captions, so it is not a content word.
    assert set(foil_finder.find(CAPTION, "pair", "corpus", "all pairs", 8)) == {
        "the heart is enlarged", "normal chest", "no acute finding", "pneumothorax on the right",
    }  # fmt: skip


def test_captions_with_the_same_words_are_not_foils():
    foil_finder = FoilFinder(["left nodule", "nodule left", "normal chest"], seed=0)
    assert foil_finder.find("left nodule", "pair", "attribute", "a=b", 8) == ["normal chest"]


def test_words_of_most_captions_are_not_content_words():
    foil_finder = FoilFinder(["scan of a lung", "scan of a heart", "scan of a rib"], seed=0)
    assert set(foil_finder.find("scan of a lung", "pair", "corpus", "all pairs", 8)) == {
        "scan of a heart", "scan of a rib",
    }  # fmt: skip


def test_foils_depend_on_seed_and_pair_and_not_on_the_order_of_the_corpus(foil_finder):
    foils = foil_finder.find(CAPTION, "pair", "word", "consolidation", 3)
    assert len(foils) == 3
    assert FoilFinder(CORPUS[::-1], seed=0).find(CAPTION, "pair", "word", "consolidation", 3) == foils
    others = [foil_finder.find(CAPTION, f"pair {n}", "word", "consolidation", 3) for n in range(9)]
    assert any(other != foils for other in others)


def test_minimal_foils_differ_in_one_word_exchanged_added_or_left_out():
    captions = ["chest with a tube", "chest without a tube", "chest with tube", "chest with a large tube",
                "chest with the large tube", "tube a with chest", "heart", "foot"]  # fmt: skip
    finder = FoilFinder(captions, seed=0)
    found = finder.find_minimal("chest with a tube", "any", "", 8)
    # The same words in another order are no foil.
    assert set(found) == {"chest without a tube", "chest with tube", "chest with a large tube"}
    assert finder.find_minimal("chest with a tube", "any", "", 2) == found[:2]
    assert finder.find_minimal("heart", "any", "", 8) == ["foot"]


def test_minimal_foils_of_a_word_exchange_that_word():
    finder = FoilFinder(["left lung scar", "right lung scar", "left lung node", "a rib", "heart"], seed=0)
    assert finder.find_minimal("left lung scar", "word", "scar", 8) == ["left lung node"]
    assert finder.find_minimal("left lung scar", "word", "left", 8) == ["right lung scar"]
    assert set(finder.find_minimal("left lung scar", "corpus", "all pairs", 8)) == {
        "right lung scar", "left lung node",
    }  # fmt: skip
    assert finder.find_minimal("heart", "word", "heart", 8) == []


def test_one_other_caption_is_a_foil_of_every_slice():
    finder = FoilFinder(["a photo of a cat", "a photo of a dog"], seed=0)
    for kind, name in (("corpus", "all pairs"), ("word", "cat"), ("attribute", "site=a")):
        assert finder.find("a photo of a cat", "pair", kind, name, 8) == ["a photo of a dog"]
    assert finder.find_minimal("a photo of a cat", "corpus", "all pairs", 8) == ["a photo of a dog"]


def test_foils_of_a_collocation_lack_it_and_may_have_its_words():
    foil_finder = FoilFinder(["left lung scar", "left lung", "left rib", "clear lung", "lung, left"], seed=0)
    foils = foil_finder.find("left lung scar", "pair", "phrase", "left lung", 8)
    assert set(foils) == {"left rib", "clear lung", "lung, left"}


def test_foils_that_depend_on_the_caption_alone_share_no_content_word_if_possible(foil_finder):
    assert foil_finder.find(CAPTION, "pair", "any", "", 8) == foil_finder.find(CAPTION, "pair", "corpus", "", 8)
    finder = FoilFinder(["left lung", "right heart", "lung heart", "left right"], seed=0)
    assert len(finder.find("left heart", "pair", "any", "", 8)) == 4  # each shares a word
