"""Candidate phrases are parts without which captions are still complete, not their subjects."""

from collections import Counter

import pyarrow as pa
import pytest

from tasks.text.boilerplate import Candidates, phrase_words
from tasks.text.captions import Captions

FINDINGS = [f"{side} {finding}" for side in ("left", "right") for finding in ("nodule", "effusion", "mass", "scar")]
PHRASE = "as previously described"


def find_spans(captions, listed=(), min_pairs=4):
    counts = sorted(Counter(captions).items())
    rows = pa.table({"caption": [text for text, _ in counts], "pairs": [pairs for _, pairs in counts]})
    candidates = Candidates(Captions(rows), listed, min_pairs)
    found = sorted((one.region, one.kind, text, span) for text, _ in counts for one, span in candidates.locate(text))
    spans = {}
    for region, kind, text, span in found:
        of_phrase = spans.setdefault((kind, region), {})
        of_phrase[text] = (*of_phrase.get(text, ()), span)
    return spans


def test_boilerplate_is_a_fixed_run_of_words_that_captions_can_omit():
    captions = [*FINDINGS, *(f"{finding} {PHRASE}" for finding in FINDINGS[:5]), "film as requested"]
    spans = find_spans(captions)
    assert list(spans) == [("boilerplate", f'"{PHRASE}"')]
    # `as` also occurs elsewhere, but the run is that of `previously`.
    assert spans["boilerplate", f'"{PHRASE}"'] == {
        f"{finding} {PHRASE}": ((len(finding) + 1, len(finding) + 1 + len(PHRASE)),) for finding in FINDINGS[:5]
    }


def test_boilerplate_is_found_after_a_word_that_all_captions_have():
    captions_of_patients = [
        f"{view} view of a {sex} patient" for view in ("front", "side") for sex in ("male", "female")
    ]
    captions = [*captions_of_patients, *(f"{caption} {PHRASE}" for caption in captions_of_patients)]
    assert list(find_spans(captions)) == [("boilerplate", f'"{PHRASE}"')]


def test_neighboring_words_decide_if_no_caption_repeats():
    openings = [f"{word} lungs" for word in ("clear", "dense", "small", "large")] * 2
    captions = [f"{opening} and heart of size {size}" for opening, size in zip(openings, "abcdefgh", strict=True)]
    with_phrase = [caption.replace("lungs and", f"lungs {PHRASE} and") for caption in captions[:4]]
    assert list(find_spans([*captions[4:], *with_phrase])) == [("boilerplate", f'"{PHRASE}"')]


@pytest.mark.parametrize(
    "captions",
    [
        # An addition whose words also occur in other phrasings.
        [f"a {a}{b}" for a in ("cube", "ball", "cone") for b in ("", " and a white ring")] * 2
        + ["one white cone", "a ring", "a white ball beside a ring", "ring and cube"],
        # An adjective: one word is not boilerplate.
        [f"{size}{finding}" for size in ("", "small ") for finding in FINDINGS],
        # A run without which nothing is left, and one without which the rest is incomplete.
        ["no acute disease"] * 9 + [f"a photo of a {kind}" for kind in ("dog", "cat", "stuffed animal")] * 5,
        # A run of nearly all captions.
        [f"{finding} {PHRASE}" for finding in FINDINGS],
        # A run of too few captions.
        [*FINDINGS, *(f"{finding} {PHRASE}" for finding in FINDINGS[:3])],
    ],
)
def test_subject_of_captions_is_not_boilerplate(captions):
    assert find_spans(captions) == {}


def test_an_identifier_is_extended_to_its_fixed_run():
    captions = [*FINDINGS, *(f"Unit 7 {finding}" for finding in FINDINGS[:5])]
    assert list(find_spans(captions)) == [("identifier", '"unit 7"')]


def test_different_identifiers_of_one_pattern_are_one_candidate_even_if_all_captions_have_one():
    captions = [f"ACC-{number:05d}: {finding}" for number, finding in enumerate(FINDINGS)]
    spans = find_spans(captions)
    assert ("identifier", '"acc-99999"') in spans
    assert all(own == ((0, 9),) for own in spans["identifier", '"acc-99999"'].values())


def test_punctuation_is_a_candidate_unless_nearly_all_captions_have_it():
    captions = [*(f"{finding}." for finding in FINDINGS), *(f"{finding} (!)." for finding in FINDINGS[:4])]
    assert ("punctuation", '"(!)."') in find_spans(captions)
    assert ("punctuation", '"."') not in find_spans([f"{finding}." for finding in FINDINGS])
    assert find_spans([f"x-ray {finding}" for finding in FINDINGS] + ["other"] * 8) == {}  # a hyphen is part of a word


def test_listed_phrases_are_whole_words_in_any_case_however_few_pairs_have_them():
    spans = find_spans(["For  Comparison: nodule", "for comparisons", "Größe für GRÖSSE"], ["for comparison", "größe"])
    assert spans == {
        ("listed", '"for comparison"'): {"For  Comparison: nodule": ((0, 15),)},
        ("listed", '"größe"'): {"Größe für GRÖSSE": ((0, 5),)},
    }


def test_listed_punctuation_is_found_within_and_outside_words():
    captions = ["chest(prior)", "chest (prior) film.", "priority"]
    assert find_spans(captions, [".", "(prior)", "prior)", "hest"]) == {
        ("listed", '"."'): {"chest (prior) film.": ((18, 19),)},
        ("listed", '"(prior)"'): {"chest(prior)": ((5, 12),), "chest (prior) film.": ((6, 13),)},
        ("listed", '"prior)"'): {"chest(prior)": ((6, 12),), "chest (prior) film.": ((7, 13),)},
    }


def test_a_varying_number_and_a_constant_one_are_two_candidates():
    varied, same = [f"size {number} mm" for number in range(1, 9)], ["size 9 mm"] * 30
    others = [f"size {word} mm" for word in ("small", "large", "unknown")] * 2
    spans = find_spans([*varied, *same, *others])
    assert set(spans["identifier", '"#"']) == set(varied)
    assert set(spans["identifier", '"9"']) == {"size 9 mm"}


def test_invisible_characters_are_ignored():
    hidden = PHRASE.replace("prev", "\ufeffpre\u00adv")
    captions = [*FINDINGS, *(f"{finding} {words}" for finding in FINDINGS[:4] for words in (PHRASE, hidden))]
    spans = find_spans(captions)
    assert list(spans) == [("boilerplate", f'"{PHRASE}"')]
    for caption, own in spans["boilerplate", f'"{PHRASE}"'].items():
        assert [caption[slice(*span)] for span in own] == [hidden if "\u00ad" in caption else PHRASE]
    assert find_spans([hidden], ["pre\u200bviously"])["listed", '"previously"'] == {hidden: ((4, 15),)}
    assert find_spans([hidden], ["pre"]) == {}


@pytest.mark.parametrize("word", ["हिन्दी", "مُحَمَّد", "e\u0301te\u0301"])
def test_combining_marks_belong_to_their_word(word):
    assert phrase_words(f"{word}-7 {word}") == [f"{word}-7", word]
    assert find_spans([f"{word} {finding}" for finding in FINDINGS] + FINDINGS) == {}
    assert find_spans([f"{word}s"], [word[:-1], word]) == {}


def test_the_order_of_the_captions_does_not_matter():
    captions = [*FINDINGS, *(f"{finding} {PHRASE}" for finding in FINDINGS[:5]), *(f"unit 7 {f}" for f in FINDINGS)]
    assert find_spans(captions) == find_spans(captions[::-1])


def test_no_captions_have_no_candidates():
    assert find_spans([]) == {}
