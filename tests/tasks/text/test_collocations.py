"""Collocations are slices in any language, unless they equal the slice of one word."""

import pyarrow as pa
import pytest

import sql
from tasks.phrases import phrases
from tasks.settings import PhrasesConfig
from tasks.text.captions import Captions
from tasks.text.collocations import adjacent_words, find_collocations

THINGS = ("mass", "nodule", "scar", "fracture", "tube")
REST = [f"the {thing}" for thing in THINGS] * 6


def find_names(captions, min_pairs=4):
    texts = sorted(set(captions))
    rows = pa.table({"caption": texts, "pairs": [captions.count(caption) for caption in texts]})
    return find_collocations(Captions(rows), min_pairs)


def test_words_are_adjacent_with_nothing_but_white_space_between():
    assert adjacent_words("Left\tlung, upper  LOBE") == {"left lung", "upper lobe"}
    assert adjacent_words("x-ray a_b c\N{COMBINING ACUTE ACCENT} д") == {
        "ray a",
        "b c\N{COMBINING ACUTE ACCENT}",
        "c\N{COMBINING ACUTE ACCENT} д",
    }
    assert adjacent_words("lung") == frozenset()


@pytest.mark.parametrize("words", [("left", "lung"), ("левое", "лёгкое"), ("बायाँ", "फेफड़ा")])
def test_two_words_that_also_occur_apart_are_a_collocation(words):
    left, right = words
    captions = [f"{left} {right}"] * 4 + [f"{left} rib"] * 3 + [f"right {right}"] * 3 + REST
    assert find_names(captions) == {f"{left} {right}"}
    assert find_names(captions, min_pairs=5) == set()


@pytest.mark.parametrize(("elsewhere", "expected"), [(2, {"left lung"}), (1, set())])
def test_a_collocation_has_at_most_four_fifths_of_the_pairs_of_each_word(elsewhere, expected):
    captions = ["left lung"] * 8 + ["left rib"] * 8 + ["a lung"] * elsewhere
    assert find_names(captions + REST) == expected


@pytest.mark.parametrize(("elsewhere", "expected"), [(36, {"left lung"}), (37, set())])
def test_a_collocation_has_at_least_a_tenth_of_the_pairs_of_each_word(elsewhere, expected):
    captions = ["left lung"] * 4 + ["a lung"] * 2 + [f"left {number}" for number in range(elsewhere)]
    assert find_names([*captions, *REST, *REST]) == expected


@pytest.mark.parametrize(("others", "expected"), [(9, {"left lung"}), (8, set())])
def test_a_word_of_more_than_half_of_the_pairs_is_in_no_collocation(others, expected):
    assert find_names(["left lung"] * 6 + ["left rib"] * 3 + ["one lung"] * 3 + ["normal"] * (others - 3)) == expected


def test_a_weakly_associated_neighbor_does_not_split_a_phrase():
    """`in` belongs to `the`, whatever comes before it; of three words the closest two count."""
    captions = ["nodule in the lung"] * 5 + ["mass in the rib"] * 5 + ["one nodule"] * 3 + ["a normal heart"] * 20
    assert find_names(captions) == set()
    captions = ["left upper lobe"] * 6 + ["upper lobe"] * 3 + ["left lung"] * 6 + ["upper rib"] * 3 + ["lobe"] * 3
    assert find_names(captions + REST) == {"upper lobe"}


def test_of_two_equally_associated_bigrams_the_latter_counts():
    captions = ["low lung volume"] * 4 + ["low"] * 2 + ["lung"] * 2 + ["volume"] * 2
    assert find_names(captions + REST) == {"lung volume"}


def test_pairs_are_counted_whatever_the_order_or_repetition_in_a_caption():
    captions = ["left lung"] * 4 + ["left rib"] * 2 + ["a lung"] * 2 + REST
    assert find_names(captions) == find_names(captions[::-1]) == {"left lung"}
    assert find_names(["left lung left lung"] * 3 + ["left rib"] * 2 + ["a lung"] * 2 + REST) == set()
    assert find_names([]) == set()


def test_a_collocation_is_a_slice_of_the_attributed_pairs_that_have_it(hand_written_run):
    captions = ["Left  lung", "left lung", "left lung scar", "left, lung", "left rib", "a lung", *REST]
    hand_written_run.add_pairs(captions)
    hand_written_run.add_attributions([[1.0]] * len(captions), (1, 1), special=[True], tokens=["<s>"], text_map=[1.0])
    rows = [
        {**row, "caption": caption}
        for row, caption in zip(
            query_rows(hand_written_run, "FROM attributions ORDER BY pair_id"), captions, strict=True
        )
    ]
    hand_written_run.write_table("attributions", rows[1:])
    query = "SELECT pair_id, slice FROM pair_slices WHERE slice_kind = 'phrase' ORDER BY pair_id"
    phrases.fn(hand_written_run, PhrasesConfig(), 2)
    assert query_rows(hand_written_run, query) == [
        {"pair_id": f"pair-{number:04d}", "slice": "left lung"} for number in (1, 2)
    ]
    phrases.fn(hand_written_run, PhrasesConfig(), 3)
    assert query_rows(hand_written_run, query) == []


def query_rows(run, query):
    with run.connect() as connection:
        return sql.read(connection, query)


def test_a_phrase_has_no_finding_on_the_slice_of_its_own_words(hand_written_run):
    hand_written_run.add_pairs(["chest as before"] * 4)
    ids = [f"pair-{number:04d}" for number in range(4)]
    hand_written_run.write_table(
        "collocations",
        [{"pair_id": pair_id, "collocation": name} for pair_id in ids for name in ("as before", "chest as")],
    )
    hand_written_run.write_table(
        "region_shares",
        [{"pair_id": pair_id, "side": "text", "region": '"as before"', "share": 0.9, "area": 0.5} for pair_id in ids],
    )
    with hand_written_run.connect() as connection:
        findings = sql.rows(connection, "rules/phrase_mass", run_id=hand_written_run.run_id, factor=2.0, min_pairs=2)
    assert {row["slice"] for row in findings} == {"all pairs", "chest", "chest as"}
