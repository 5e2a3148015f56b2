"""Storing shards in the lake: regions as the model sees them, and no pair is lost."""

from collections import Counter

import pyarrow.parquet as pq
import pytest

import sql
from tasks.errors import StoreError
from tasks.records import Shard, ShardResult, parse_box
from tasks.regions import clip_to_view
from tasks.settings import RegionsConfig
from tasks.store import corner_boxes, frame_boxes, region_rows, store

WHOLE = (0, 0, 1, 1)


def compute_area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def compute_overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.25, 0.5])
def test_a_frame_is_a_ring_of_boxes_that_do_not_overlap(width):
    boxes = frame_boxes(width)
    assert sum(compute_area(box) for box in boxes) == pytest.approx(1 - (1 - 2 * width) ** 2)
    for number, box in enumerate(boxes):
        assert 0 <= box[0] <= box[2] <= 1
        assert 0 <= box[1] <= box[3] <= 1
        assert all(compute_overlap(box, other) == 0 for other in boxes[number + 1 :])
        assert compute_overlap(box, (width, width, 1 - width, 1 - width)) == pytest.approx(0)


@pytest.mark.parametrize("size", [0.1, 0.25, 0.5])
def test_corners_are_squares_where_their_names_say(size):
    boxes = corner_boxes(size)
    points = {
        "corner top-left": (0, 0),
        "corner top-right": (1, 0),
        "corner bottom-left": (0, 1),
        "corner bottom-right": (1, 1),
    }
    assert boxes.keys() == points.keys()
    for name, (x, y) in points.items():
        box = boxes[name]
        assert compute_area(box) == pytest.approx(size**2)
        assert x in (box[0], box[2])
        assert y in (box[1], box[3])
    assert sum(compute_overlap(one, other) for one in boxes.values() for other in boxes.values()) == pytest.approx(
        4 * size**2
    )


@pytest.mark.parametrize(
    ("box", "view", "expected"),
    [
        ((0.1, 0.2, 0.3, 0.4), WHOLE, (0.1, 0.2, 0.3, 0.4)),
        # A landscape image of which the model sees the middle half.
        ((0.25, 0, 0.5, 1), (0.25, 0, 0.75, 1), (0, 0, 0.5, 1)),
        ((0, 0, 1, 1), (0.25, 0, 0.75, 1), WHOLE),
        ((0.7, 0.1, 0.9, 0.2), (0.25, 0, 0.75, 1), (0.9, 0.1, 1, 0.2)),
        # Boxes outside the view, or touching only its border, have no area in it.
        ((0, 0, 0.2, 1), (0.25, 0, 0.75, 1), None),
        ((0, 0, 0.25, 1), (0.25, 0, 0.75, 1), None),
        ((0.75, 0, 1, 1), (0.25, 0, 0.75, 1), None),
        # A padded portrait image: the view is twice as wide as the image.
        ((0, 0, 1, 0.5), (-0.5, 0, 1.5, 1), (0.25, 0, 0.75, 0.5)),
    ],
)
def test_box_is_converted_to_shares_of_the_view(box, view, expected):
    clipped = clip_to_view(box, view)
    assert clipped == (None if expected is None else pytest.approx(expected))


def make_view_row(pair_id, view=WHOLE):
    return {
        "pair_id": pair_id,
        **dict(zip(("view_x0", "view_y0", "view_x1", "view_y1"), view, strict=True)),
    }


def test_frame_and_corners_are_the_same_for_all_pairs():
    rows = list(
        region_rows(RegionsConfig(frame=0.05, corner=0.25), {}, [make_view_row("p"), make_view_row("q")], {}, Counter())
    )
    assert [(row["region"], row["kind"], row["pair_id"]) for row in rows] == [
        *[("frame", "frame", None)] * 4,
        *[(name, "corner", None) for name in corner_boxes(0.25)],
    ]
    assert sum(compute_area((row["x0"], row["y0"], row["x1"], row["y1"])) for row in rows[:4]) == pytest.approx(
        1 - 0.9**2
    )


def test_zero_omits_frame_or_corners():
    assert {row["kind"] for row in region_rows(RegionsConfig(frame=0, corner=0.25), {}, [], {}, Counter())} == {
        "corner"
    }
    assert {row["kind"] for row in region_rows(RegionsConfig(frame=0.05, corner=0), {}, [], {}, Counter())} == {"frame"}
    assert list(region_rows(RegionsConfig(frame=0, corner=0), {}, [make_view_row("p")], {}, Counter())) == []


def test_configured_boxes_are_converted_to_the_view_of_each_pair():
    regions = RegionsConfig(frame=0, corner=0, boxes={"ruler": (0.5, 0, 1, 0.5)}, columns={"tag": "tag_box"})
    pairs = [
        make_view_row("p"),
        make_view_row("q", (0.25, 0, 0.75, 1)),
        make_view_row("r", (0, 0.6, 1, 1)),
    ]
    detections = {"p": [("tag", (0, 0, 0.5, 0.5))], "q": [("tag", (0.9, 0.9, 1, 1))]}
    rows = {
        (row["pair_id"], row["region"], row["kind"]): (row["x0"], row["y0"], row["x1"], row["y1"])
        for row in region_rows(regions, {}, pairs, detections, Counter())
    }
    assert rows == {
        ("p", "ruler", "box"): (0.5, 0, 1, 0.5),
        ("p", "tag", "column"): (0, 0, 0.5, 0.5),
        ("q", "ruler", "box"): (0.5, 0, 1, 0.5),
        # q's tag and r's ruler are cropped away, r has no tag
    }


def test_the_outside_of_a_region_is_what_the_model_sees_around_it():
    regions = RegionsConfig(frame=0, corner=0, columns={"lung": "lungs"}, outside=["lung"])
    pairs = [make_view_row("p"), make_view_row("q", (0.5, 0, 1, 1)), make_view_row("r"), make_view_row("s")]
    lung = ("lung", (0.5, 0.0, 1.0, 1.0))
    detections = {"p": [lung, ("lung", (0.0, 0.0, 0.25, 0.5))], "q": [lung], "s": [("burnt-in: text", (0, 0, 1, 0.1))]}
    gaps = Counter()
    rows = [row for row in region_rows(regions, {}, pairs, detections, gaps) if row["kind"] != "detected"]
    assert {(row["pair_id"], row["region"]) for row in rows} == {("p", "outside lung")}
    assert sum(compute_area((row["x0"], row["y0"], row["x1"], row["y1"])) for row in rows) == pytest.approx(0.375)
    assert gaps == {"lung": 3}  # nothing of q is outside, r and s have no lung


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0,0,1,1", (0, 0, 1, 1)), (" [0.1, 0.2, 0.3, 0.4] ", (0.1, 0.2, 0.3, 0.4)), ("(0 0 .5 1)", (0, 0, 0.5, 1))],
)
def test_a_box_is_read_from_text(text, expected):
    assert parse_box(text) == expected


@pytest.mark.parametrize("text", ["", "0,0,1", "0,0,1,1,1", "a,0,1,1", "0,0,0,1", "1,0,0,1", "0,0,inf,1", "0,nan,1,1"])
def test_invalid_box_raises(text):
    with pytest.raises(ValueError, match=r"got|convert"):
        parse_box(text)


def test_the_lake_shows_what_was_stored(phantom_audit):
    run = phantom_audit.run
    counts = run.read_manifest()["counts"]
    assert counts == {
        "corpus_rows": 40, "not_sampled": 0, "pairs": 40, "attributions": 40, "reused": 0, "errors": 0,
        "alerts": 0, "confirmed": 0,
    }  # fmt: skip
    assert [entry["rows"] for entry in run.read_manifest()["files"] if entry["table"] == "attributions"] == [16, 16, 8]
    with run.connect() as connection:
        kinds = sql.read(connection, "SELECT kind, count(*) AS n FROM regions GROUP BY kind ORDER BY kind")
    assert kinds == [{"kind": "corner", "n": 4}, {"kind": "frame", "n": 4}]


def test_shards_are_invisible_before_they_are_stored(begin_pipeline, settings, phantoms, tmp_path):
    pipeline = begin_pipeline(settings(phantoms, tmp_path / "lake", bottleneck={"steps": 1}))
    result = pipeline.attribute(pipeline.ingest()[2])
    with pipeline.run.connect() as connection:
        assert sql.read(connection, "FROM attributions") == []
    file = pipeline.run.path("attributions", result.name)
    data = file.read_bytes()
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(StoreError, match=rf"{file} is damaged: .* resume the run"):
        pipeline.store([result])
    file.write_bytes(data)
    with pipeline.run.connect() as connection:
        assert sql.read(connection, "FROM attributions") == []
    assert pipeline.store([result]) == 8


@pytest.mark.parametrize(("attributions", "errors"), [(7, 0), (0, 7), (9, 0), (8, 1), (0, 0)])
def test_shard_with_missing_or_additional_pairs_raises(hand_written_run, attributions, errors):
    result = ShardResult(Shard(3, 8), "part-x", attributions, errors, reused=True)
    before = hand_written_run.read_manifest()
    with pytest.raises(StoreError, match="shard 3"):
        store.fn(hand_written_run, [result], RegionsConfig(frame=0, corner=0), {})
    assert hand_written_run.read_manifest() == before


def test_regions_of_a_column_reach_the_lake(begin_pipeline, settings, phantoms, tmp_path):
    root = tmp_path / "boxed"
    root.mkdir()
    lines = (phantoms / "metadata.csv").read_text().splitlines()[:5]
    boxes = ["tag_box", '"0,0,0.25,0.25"', "", '"0.5,0.5,1,1"', '"0.1,0.1,0.2"']
    (root / "metadata.csv").write_text("".join(f"{row},{box}\n" for row, box in zip(lines, boxes, strict=True)))
    for row in lines[1:]:
        name = row.split(",", 1)[0]
        (root / name).write_bytes((phantoms / name).read_bytes())
    regions = {"frame": 0, "corner": 0, "columns": {"tag": "tag_box"}, "boxes": {"half": (0, 0, 0.5, 1)}}
    pipeline = begin_pipeline(settings(root, tmp_path / "lake", bottleneck={"steps": 1}, regions=regions))
    pipeline.to_lake()
    with pipeline.run.connect() as connection:
        rows = sql.read(
            connection, "SELECT row_number, region, kind, x0, x1 FROM regions JOIN pairs USING (pair_id) ORDER BY ALL"
        )
        errors = sql.read(connection, "SELECT row_number, reason FROM ingest_errors")
    assert [(row["row_number"], row["region"], row["kind"], row["x0"], row["x1"]) for row in rows] == [
        (0, "half", "box", 0, 0.5), (0, "tag", "column", 0, 0.25), (1, "half", "box", 0, 0.5),
        (2, "half", "box", 0, 0.5), (2, "tag", "column", 0.5, 1),
    ]  # fmt: skip
    assert errors == [{"row_number": 3, "reason": "malformed_box"}]


def test_error_rows_of_an_earlier_attempt_are_ignored(begin_pipeline, settings, phantoms, tmp_path):
    """The attempt wrote an error row and was killed before it stored the attributions of the shard."""
    pipeline = begin_pipeline(settings(phantoms, tmp_path / "lake", bottleneck={"steps": 1}))
    shards = pipeline.ingest()
    results = [pipeline.attribute(shard) for shard in shards]
    pair = pipeline.run.read_row_group("pairs", 2)[0]
    with pipeline.run.open_writer("ingest_errors", results[2].name) as writer:
        writer.write([{**pair, "stage": "attribute", "reason": "unreachable_file", "detail": "no network"}])
    assert pipeline.store(results) == 40
    assert pipeline.run.read_manifest()["counts"]["errors"] == 0
    assert list(pipeline.run.iter_rows("ingest_errors")) == []
