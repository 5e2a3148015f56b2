"""Alerts against the truth: what counts as found, how exactly, and what as alerted for something else."""

import pytest

from benchmarks.planted import corpus
from benchmarks.planted.evaluation import judge
from benchmarks.planted.plan import artefact_entry

ENTRY = artefact_entry("phantoms", "a", 1)
"""corner_tag, watermark, logo, frame and boilerplate."""
PAIRS = corpus.draw(ENTRY, "planted", 150)
SIDE = 80


def boxes_of(kind, share=1.0):
    """The planted boxes by pair id, of the first `share` of the pairs that carry it."""
    found = {}
    for index, pair in enumerate(PAIRS):
        for planted in pair.planted:
            if planted.kind == kind:
                found[f"pair-{index:04d}"] = tuple(planted.box.relative)
    return dict(list(found.items())[: round(share * len(found))])


@pytest.fixture
def run(hand_written):
    rows = hand_written.add_pairs([pair.caption for pair in PAIRS])
    for index, row in enumerate(rows):
        row["file_name"] = corpus.file_name(index)
    hand_written.write_table("pairs", rows)
    return hand_written


def alerted(run, regions, *, confirmed=(), suspected=(), about=("corpus", "all pairs")):
    """Judge a run with these regions (name -> box for all pairs, or boxes by pair) and alerts."""
    boxes = []
    for name, of in regions.items():
        boxes += [(name, of)] if isinstance(of, tuple) else [(name, box, pair_id) for pair_id, box in of.items()]
    run.add_regions(*boxes)
    states = dict.fromkeys(confirmed, "confirmed") | dict.fromkeys(suspected, "suspected")
    run.write_table(
        "alerts",
        [
            {"alert_id": name, "region": name, "state": state, "slice_kind": about[0], "slice": about[1]}
            for name, state in states.items()
        ],
    )
    run.write_table(
        "region_shares",
        [
            {"pair_id": pair_id, "region": name, "share": 0.5, "area": 0.1}
            for name, of in regions.items() if isinstance(of, dict) for pair_id in of
        ],
    )  # fmt: skip
    return judge(ENTRY, PAIRS, run.lake, run.run_id)


def test_a_region_on_every_tag_finds_it_exactly(run):
    judged = alerted(run, {"stamp 1": boxes_of("corner_tag")}, confirmed=["stamp 1"])
    tag = judged.artefacts["corner_tag"]
    assert tag.found
    assert tag.suspected
    assert tag.iou == pytest.approx(1)
    assert tag.pairs_found == 1
    assert tag.pairs == sum(
        pair.target == ENTRY.tie("corner_tag").target and pair.carries("corner_tag") for pair in PAIRS
    )
    assert judged.elsewhere == []
    assert not judged.artefacts["logo"].found


def test_a_region_on_a_third_of_the_tags_does_not(run):
    judged = alerted(run, {"stamp 1": boxes_of("corner_tag", 0.3)}, confirmed=["stamp 1"])
    assert not judged.artefacts["corner_tag"].found
    assert judged.artefacts["corner_tag"].pairs_found < 0.6


def test_what_is_only_suspected_is_not_found(run):
    judged = alerted(run, {"stamp 1": boxes_of("logo")}, suspected=["stamp 1"])
    assert not judged.artefacts["logo"].found
    assert judged.artefacts["logo"].suspected
    assert judged.suspected == ["stamp 1"]


def test_four_corners_together_find_the_tag_and_overlap_it_badly(run):
    corners = {f"corner {x}{y}": (x, y, x + 0.25, y + 0.25) for x in (0, 0.75) for y in (0, 0.75)}
    judged = alerted(run, corners, confirmed=list(corners))
    assert judged.artefacts["corner_tag"].found
    assert judged.artefacts["corner_tag"].iou < 0.5
    alone = alerted(run, corners, confirmed=["corner 00"])
    assert not alone.artefacts["corner_tag"].found
    assert alone.elsewhere == []  # a quarter of the tags lies there


def test_a_region_where_nothing_was_planted_is_alerted_for_something_else(run):
    judged = alerted(run, {"heart": (0.45, 0.45, 0.55, 0.55)}, confirmed=["heart"])
    assert judged.elsewhere == ["heart"]
    assert not any(found.found for found in judged.artefacts.values())


def test_a_phrase_is_found_by_its_words(run):
    exact = alerted(run, {}, confirmed=['"as previously described"'])
    assert exact.artefacts["boilerplate"].found
    assert exact.artefacts["boilerplate"].iou is None
    other = alerted(run, {}, confirmed=['"described in the chest film"', "as previously described"])
    assert not other.artefacts["boilerplate"].found
    assert len(other.elsewhere) == 2


def test_a_frame_is_judged_by_its_pixels(run):
    width = 2 / SIDE
    ring = {
        f"pair-{i:04d}": box
        for box in [(0.0, 0.0, 1.0, width)]
        for i, pair in enumerate(PAIRS) if pair.carries("frame")
    }  # fmt: skip
    top_only = alerted(run, {"frame": ring}, confirmed=["frame"])
    assert not top_only.artefacts["frame"].found
    assert top_only.elsewhere == ["frame"]


@pytest.mark.parametrize(("word", "expected"), [("own", True), ("the", False), ("other", False)])
def test_an_alert_tells_the_tie_if_its_slice_is_the_targets(run, word, expected):
    target = ENTRY.tie("corner_tag").target.split()[-1]
    other = ENTRY.tie("logo").target.split()[-1]
    said = {"own": target, "other": other}.get(word, word)
    judged = alerted(run, {"stamp 1": boxes_of("corner_tag")}, confirmed=["stamp 1"], about=("word", said))
    assert judged.artefacts["corner_tag"].found
    assert judged.artefacts["corner_tag"].of_target == expected


@pytest.mark.parametrize(("kind", "expected"), [("phrase", True), ("attribute", False)])
def test_two_words_tell_the_tie_if_one_of_them_is_the_targets(run, kind, expected):
    words = f"the {ENTRY.tie('corner_tag').target.split()[-1]}"
    judged = alerted(run, {"stamp 1": boxes_of("corner_tag")}, confirmed=["stamp 1"], about=(kind, words))
    assert judged.artefacts["corner_tag"].of_target is expected
