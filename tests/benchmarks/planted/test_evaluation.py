"""Alerts compared with the ground truth: which artifacts count as found, and which regions are unexplained."""

import pytest

from benchmarks.planted import corpus
from benchmarks.planted.evaluation import evaluate_alerts
from benchmarks.planted.plan import create_model_entry

ENTRY = create_model_entry("phantoms", "a", 1)
"""corner_tag, watermark, logo, frame and boilerplate."""
PAIRS = corpus.draw_pairs(ENTRY, "planted", 150)
SIDE = 80


def boxes_of(kind, share=1.0):
    """The planted boxes by pair id, of the first `share` of the pairs that carry it."""
    found = {}
    for index, pair in enumerate(PAIRS):
        for planted in pair.artifacts:
            if planted.kind == kind:
                found[f"pair-{index:04d}"] = tuple(planted.box.relative)
    return dict(list(found.items())[: round(share * len(found))])


@pytest.fixture
def run(hand_written_run):
    rows = hand_written_run.add_pairs([pair.caption for pair in PAIRS])
    for index, row in enumerate(rows):
        row["file_name"] = corpus.format_file_name(index)
    hand_written_run.write_table("pairs", rows)
    return hand_written_run


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
    return evaluate_alerts(ENTRY, PAIRS, run.lake, run.run_id)


def test_a_region_on_every_tag_finds_it_exactly(run):
    evaluation = alerted(run, {"stamp 1": boxes_of("corner_tag")}, confirmed=["stamp 1"])
    tag = evaluation.artifacts["corner_tag"]
    assert tag.is_found
    assert tag.suspected
    assert tag.iou == pytest.approx(1)
    assert tag.pairs_found == 1
    assert tag.pairs == sum(
        pair.target == ENTRY.tie("corner_tag").target and pair.carries("corner_tag") for pair in PAIRS
    )
    assert evaluation.unexplained == []
    assert not evaluation.artifacts["logo"].is_found


def test_a_region_on_a_third_of_the_tags_does_not(run):
    evaluation = alerted(run, {"stamp 1": boxes_of("corner_tag", 0.3)}, confirmed=["stamp 1"])
    assert not evaluation.artifacts["corner_tag"].is_found
    assert evaluation.artifacts["corner_tag"].pairs_found < 0.6


def test_what_is_only_suspected_is_not_found(run):
    evaluation = alerted(run, {"stamp 1": boxes_of("logo")}, suspected=["stamp 1"])
    assert not evaluation.artifacts["logo"].is_found
    assert evaluation.artifacts["logo"].suspected
    assert evaluation.suspected == ["stamp 1"]


def test_four_corners_together_find_the_tag_and_overlap_it_badly(run):
    corners = {f"corner {x}{y}": (x, y, x + 0.25, y + 0.25) for x in (0, 0.75) for y in (0, 0.75)}
    evaluation = alerted(run, corners, confirmed=list(corners))
    assert evaluation.artifacts["corner_tag"].is_found
    assert evaluation.artifacts["corner_tag"].iou < 0.5
    alone = alerted(run, corners, confirmed=["corner 00"])
    assert not alone.artifacts["corner_tag"].is_found
    assert alone.unexplained == []  # a quarter of the tags lies there


def test_a_region_where_nothing_was_planted_is_alerted_for_something_else(run):
    evaluation = alerted(run, {"heart": (0.45, 0.45, 0.55, 0.55)}, confirmed=["heart"])
    assert evaluation.unexplained == ["heart"]
    assert not any(found.is_found for found in evaluation.artifacts.values())


def test_a_phrase_is_found_by_its_words(run):
    exact = alerted(run, {}, confirmed=['"as previously described"'])
    assert exact.artifacts["boilerplate"].is_found
    assert exact.artifacts["boilerplate"].iou is None
    other = alerted(run, {}, confirmed=['"described in the chest film"', "as previously described"])
    assert not other.artifacts["boilerplate"].is_found
    assert len(other.unexplained) == 2


def test_a_frame_is_judged_by_its_pixels(run):
    width = 2 / SIDE
    ring = {
        f"pair-{i:04d}": box
        for box in [(0.0, 0.0, 1.0, width)]
        for i, pair in enumerate(PAIRS) if pair.carries("frame")
    }  # fmt: skip
    top_only = alerted(run, {"frame": ring}, confirmed=["frame"])
    assert not top_only.artifacts["frame"].is_found
    assert top_only.unexplained == ["frame"]


@pytest.mark.parametrize(("word", "expected"), [("own", True), ("the", False), ("other", False)])
def test_an_alert_tells_the_tie_if_its_slice_is_the_targets(run, word, expected):
    target = ENTRY.tie("corner_tag").target.split()[-1]
    other = ENTRY.tie("logo").target.split()[-1]
    text = {"own": target, "other": other}.get(word, word)
    evaluation = alerted(run, {"stamp 1": boxes_of("corner_tag")}, confirmed=["stamp 1"], about=("word", text))
    assert evaluation.artifacts["corner_tag"].is_found
    assert evaluation.artifacts["corner_tag"].with_target == expected


@pytest.mark.parametrize(("kind", "expected"), [("phrase", True), ("attribute", False)])
def test_two_words_tell_the_tie_if_one_of_them_is_the_targets(run, kind, expected):
    words = f"the {ENTRY.tie('corner_tag').target.split()[-1]}"
    evaluation = alerted(run, {"stamp 1": boxes_of("corner_tag")}, confirmed=["stamp 1"], about=(kind, words))
    assert evaluation.artifacts["corner_tag"].with_target is expected
