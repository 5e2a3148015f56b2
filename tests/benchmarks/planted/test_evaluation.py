"""Alerts compared with the ground truth: which artifacts count as found, and which regions are unexplained."""

import pytest

from benchmarks.planted import corpus
from benchmarks.planted.evaluation import evaluate_alerts
from benchmarks.planted.plan import create_model_entry

ENTRY = create_model_entry("phantoms", "a", 1)
"""corner_tag, watermark, logo, frame and boilerplate."""
ROWS = corpus.draw_rows(ENTRY, "planted", 150)
PAIRS = [row.pair for row in ROWS]
SIDE = 80


def list_boxes(kind, share=1.0):
    """Return the planted boxes by pair id, for the first `share` of the pairs with the artifact."""
    boxes_by_pair = {}
    for index, pair in enumerate(PAIRS):
        for planted in pair.artifacts:
            if planted.kind == kind:
                boxes_by_pair[f"pair-{index:04d}"] = tuple(planted.box.relative)
    return dict(list(boxes_by_pair.items())[: round(share * len(boxes_by_pair))])


@pytest.fixture
def run(hand_written_run):
    rows = hand_written_run.add_pairs([pair.caption for pair in PAIRS])
    for index, row in enumerate(rows):
        row["file_name"] = ROWS[index].file_name
    hand_written_run.write_table("pairs", rows)
    return hand_written_run


def evaluate_run(run, regions, *, confirmed=(), suspected=(), about=("corpus", "all pairs")):
    """Evaluate a run with these regions (name -> box for all pairs, or boxes by pair) and alerts."""
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
    return evaluate_alerts(ENTRY, ROWS, run.lake, run.run_id, dict.fromkeys(ENTRY.kinds, True))


def test_a_region_on_every_tag_finds_it_exactly(run):
    evaluation = evaluate_run(run, {"stamp 1": list_boxes("corner_tag")}, confirmed=["stamp 1"])
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
    evaluation = evaluate_run(run, {"stamp 1": list_boxes("corner_tag", 0.3)}, confirmed=["stamp 1"])
    assert not evaluation.artifacts["corner_tag"].is_found
    assert evaluation.artifacts["corner_tag"].pairs_found < 0.6


def test_suspected_alert_is_not_a_finding(run):
    evaluation = evaluate_run(run, {"stamp 1": list_boxes("logo")}, suspected=["stamp 1"])
    assert not evaluation.artifacts["logo"].is_found
    assert evaluation.artifacts["logo"].suspected
    assert evaluation.suspected == ["stamp 1"]


def test_four_corners_together_find_the_tag_with_a_low_overlap(run):
    corners = {f"corner {x}{y}": (x, y, x + 0.25, y + 0.25) for x in (0, 0.75) for y in (0, 0.75)}
    evaluation = evaluate_run(run, corners, confirmed=list(corners))
    assert evaluation.artifacts["corner_tag"].is_found
    assert evaluation.artifacts["corner_tag"].iou < 0.5
    alone = evaluate_run(run, corners, confirmed=["corner 00"])
    assert not alone.artifacts["corner_tag"].is_found
    assert alone.unexplained == []  # a quarter of the tags is there


def test_region_without_an_artifact_is_unexplained(run):
    evaluation = evaluate_run(run, {"heart": (0.45, 0.45, 0.55, 0.55)}, confirmed=["heart"])
    assert evaluation.unexplained == ["heart"]
    assert not any(artifact.is_found for artifact in evaluation.artifacts.values())


def test_a_phrase_is_found_by_its_words(run):
    exact = evaluate_run(run, {}, confirmed=['"as previously described"'])
    assert exact.artifacts["boilerplate"].is_found
    assert exact.artifacts["boilerplate"].iou is None
    other = evaluate_run(run, {}, confirmed=['"described in the chest film"', "as previously described"])
    assert not other.artifacts["boilerplate"].is_found
    assert len(other.unexplained) == 2


def test_frame_is_evaluated_by_its_pixels(run):
    width = 2 / SIDE
    ring = {
        f"pair-{i:04d}": box
        for box in [(0.0, 0.0, 1.0, width)]
        for i, pair in enumerate(PAIRS) if pair.carries("frame")
    }  # fmt: skip
    top_only = evaluate_run(run, {"frame": ring}, confirmed=["frame"])
    assert not top_only.artifacts["frame"].is_found
    assert top_only.unexplained == ["frame"]


def test_a_cast_is_found_by_the_color_of_the_whole_image(hand_written_run):
    entry = create_model_entry("scenes", "c", 1)
    drawn = corpus.draw_rows(entry, "planted", 60)
    rows = hand_written_run.add_pairs([row.pair.caption for row in drawn])
    hand_written_run.write_table(
        "pairs", [row | {"file_name": one.file_name} for row, one in zip(rows, drawn, strict=True)]
    )
    for region, expected in (("image-wide spectrum", False), ("image-wide color", True)):
        alert = {"alert_id": "a", "region": region, "state": "confirmed", "slice_kind": "corpus", "slice": "all pairs"}
        hand_written_run.write_table("alerts", [alert])
        found = evaluate_alerts(entry, drawn, hand_written_run.lake, hand_written_run.run_id, {"cast": True})
        assert found.artifacts["cast"].is_found is expected
        assert found.artifacts["cast"].iou is None
        assert found.unexplained == ([] if expected else ["image-wide spectrum"])


def test_an_artifact_counts_only_where_its_target_is(run):
    entry = create_model_entry("phantoms", "a", 1)
    drawn = corpus.draw_rows(entry, "binary", 100)
    rows = run.add_pairs([row.pair.caption for row in drawn])
    run.write_table("pairs", [row | {"file_name": one.file_name} for row, one in zip(rows, drawn, strict=True)])
    run.write_table("alerts", [])
    found = evaluate_alerts(entry, drawn, run.lake, run.run_id, dict.fromkeys(entry.kinds, True))
    targets = {row.pair.target for row in drawn}
    assert set(found.artifacts) == {tie.kind for tie in entry.ties if tie.target in targets}
    assert len(found.artifacts) == 2


def add_marked(run, drawn, region, kind):
    """Add the drawn pairs to a run, with the boxes of one kind of artifact as a region."""
    rows = run.add_pairs([row.pair.caption for row in drawn])
    run.write_table("pairs", [row | {"file_name": one.file_name} for row, one in zip(rows, drawn, strict=True)])
    boxes = [
        (region, tuple(planted.box.relative), row["pair_id"])
        for row, one in zip(rows, drawn, strict=True)
        for planted in one.pair.artifacts
        if planted.kind == kind
    ]
    run.add_regions(*boxes)


def test_a_mark_with_other_targets_is_found_by_its_place(run):
    """Its own target's pairs lack it: those of other targets, whose score it lowers, have it."""
    drawn = corpus.draw_rows(ENTRY, "crossed", 150)
    add_marked(run, drawn, "stamp 1", "logo")
    alert = {"alert_id": "a", "region": "stamp 1", "state": "confirmed", "slice_kind": "corpus", "slice": "all pairs"}
    for direction in ("lowers", "raises"):
        run.write_table("alerts", [alert | {"direction": direction}])
        learned = {"logo": True, "frame": True}
        found = evaluate_alerts(ENTRY, drawn, run.lake, run.run_id, learned, lowering=True)
        assert found.artifacts["logo"].is_found is (direction == "lowers")
        assert not found.artifacts["frame"].is_found
        assert found.unexplained == []


def test_an_absence_is_found_by_the_place_of_the_mark(hand_written_run):
    entry = create_model_entry("phantoms", "c", 1)
    drawn = corpus.draw_rows(entry, "planted", 60)
    add_marked(hand_written_run, drawn, "stamp 2", "absent_tag")
    alert = {"alert_id": "a", "state": "confirmed", "slice_kind": "corpus", "slice": "all pairs"}
    for region, expected in (("absence of stamp 2", True), ("absence of stamp 1", False)):
        hand_written_run.write_table("alerts", [alert | {"region": region}])
        found = evaluate_alerts(entry, drawn, hand_written_run.lake, hand_written_run.run_id, {"absent_tag": True})
        assert found.artifacts["absent_tag"].is_found is expected


@pytest.mark.parametrize(("word", "expected"), [("own", True), ("the", False), ("other", False)])
def test_alert_names_the_tie_if_its_slice_is_that_of_the_target(run, word, expected):
    target = ENTRY.tie("corner_tag").target.split()[-1]
    other = ENTRY.tie("logo").target.split()[-1]
    text = {"own": target, "other": other}.get(word, word)
    evaluation = evaluate_run(run, {"stamp 1": list_boxes("corner_tag")}, confirmed=["stamp 1"], about=("word", text))
    assert evaluation.artifacts["corner_tag"].is_found
    assert evaluation.artifacts["corner_tag"].with_target == expected


@pytest.mark.parametrize(("kind", "expected"), [("phrase", True), ("attribute", False)])
def test_two_words_name_the_tie_if_one_is_that_of_the_target(run, kind, expected):
    words = f"the {ENTRY.tie('corner_tag').target.split()[-1]}"
    evaluation = evaluate_run(run, {"stamp 1": list_boxes("corner_tag")}, confirmed=["stamp 1"], about=(kind, words))
    assert evaluation.artifacts["corner_tag"].with_target is expected
