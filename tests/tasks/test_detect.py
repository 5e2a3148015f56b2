"""Detectors of other packages are found by name, and their failures lose no pair."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import corpora.readers.imagefolder
import sql
from demo.corpus import generate
from flows.begin import begin
from tasks.errors import BadInputError
from tasks.records import ShardResult
from tasks.regions import (
    GROUP,
    Detections,
    Detector,
    describe_detectors,
    detector_versions,
    load_detectors,
    run_detector,
    run_detectors,
)

DETECTOR_MODULE = """
raise_at_import = {raise_at_import}
if raise_at_import:
    raise RuntimeError("no licence")
def halves(image, caption):
    return {{"left": [(0, 0, 0.5, 1), (0, 0, 0.5, 0.5)], "right": []}}
def some(image, caption):
    if "consolidation" in caption:
        raise KeyError("caption")
    return {{"all": [(0.0, 0.0, 1.0, 1.0)]}}
def wrong(image, caption):
    return {{"all": [(0, 0, 80, 80)]}}
no_function = 3
"""


@pytest.fixture
def install_detectors(tmp_path, monkeypatch):
    """install_detectors(name, raise_at_import=False, **entries): install a distribution with entry points."""

    def install(name="foreign", raise_at_import=False, **entries):
        folder = tmp_path / f"site {name}"
        info = folder / f"{name}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = "\n".join(f"{key} = {value}" for key, value in entries.items())
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}\n")
        (folder / f"{name}_module.py").write_text(DETECTOR_MODULE.format(raise_at_import=raise_at_import))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, f"{name}_module", raising=False)

    return install


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("few"), 12)


@pytest.fixture
def run_stages(small_corpus, settings, tmp_path, begin_pipeline):
    """run_stages(*names): ingest with detectors and store; the model sees the left half, and of one pair has no map."""

    def run(*names):
        pipeline = begin_pipeline(settings(small_corpus, tmp_path / "lake", regions={"detectors": names}))
        (shard,) = pipeline.ingest()
        pairs = pipeline.run.read_row_group("pairs", 0)
        view = {"view_x0": 0.0, "view_y0": 0.0, "view_x1": 0.5, "view_y1": 1.0}
        error = {"pair_id": pairs[-1]["pair_id"], "stage": "attribute"}
        with pipeline.run.open_writer("attributions", "shard") as file:
            file.write({"pair_id": pair["pair_id"], **view} for pair in pairs[:-1])
        with pipeline.run.open_writer("ingest_errors", "shard") as file:
            file.write([error])
        for _ in range(2):  # a repeated stage replaces its rows
            pipeline.store([ShardResult(shard, "shard", len(pairs) - 1, 1, reused=False)])
        return pipeline

    return run


def read_boxes(pipeline, table):
    with pipeline.run.connect() as connection:
        kind = "WHERE kind = 'detected'" if table == "regions" else ""
        return sql.read(connection, f"SELECT pair_id, region, x0, y0, x1, y1 FROM {table} {kind} ORDER BY ALL")


def test_detected_boxes_are_regions_of_the_pairs_with_a_map(run_stages, install_detectors):
    install_detectors(halves="foreign_module:halves")
    pipeline = run_stages("halves")
    detections, regions = (read_boxes(pipeline, table) for table in ("detections", "regions"))
    for rows, expected, pairs in ((detections, (0, 0, 0.5, 1), 12), (regions, (0, 0, 1, 1), 11)):
        # Without overlap, in shares of the image and of what the model sees.
        assert {(row["region"], row["x0"], row["y0"], row["x1"], row["y1"]) for row in rows} == {
            ("halves: left", *expected)
        }
        assert len({row["pair_id"] for row in rows}) == len(rows) == pairs
    record = pipeline.run.read_manifest()
    assert (record["failed_detectors"], record["detector_failures"]) == ([], [])


def test_detector_that_fails_on_some_pairs_is_a_warning(run_stages, install_detectors):
    install_detectors(some="foreign_module:some", halves="foreign_module:halves")
    pipeline = run_stages("some", "halves")
    with pipeline.run.connect() as connection:
        failing = sql.read(connection, "SELECT pair_id, file_name FROM pairs WHERE caption LIKE '%consolidation%'")
    assert 0 < len(failing) < 12
    record = pipeline.run.read_manifest()
    assert record["failed_detectors"] == ["some"]
    (warning,) = record["detector_failures"]
    assert warning.startswith(f"detector some failed on {len(failing)} of 12 pairs, so these pairs have no regions ")
    assert warning.endswith(f"first error: {failing[0]['file_name']}: KeyError: 'caption'")
    regions = [row["region"] for row in read_boxes(pipeline, "detections")]
    assert (regions.count("some: all"), regions.count("halves: left")) == (12 - len(failing), 12)


def test_detector_that_fails_on_all_pairs_has_no_regions_and_a_warning(run_stages, install_detectors):
    install_detectors(wrong="foreign_module:wrong")
    pipeline = run_stages("wrong")
    (warning,) = pipeline.run.read_manifest()["detector_failures"]
    assert warning.startswith("detector wrong failed on 12 of 12 pairs")
    assert "in shares of the image" in warning
    assert read_boxes(pipeline, "detections") == read_boxes(pipeline, "regions") == []


def test_a_resumed_run_has_the_detections_of_its_pairs(run_stages, install_detectors, monkeypatch):
    install_detectors(halves="foreign_module:halves")
    pipeline = run_stages("halves")
    before = pipeline.run.read_manifest()
    monkeypatch.setattr("corpora.corpus.open_image", None)  # nothing is decoded again
    pipeline.ingest()
    assert pipeline.run.read_manifest() == before


def test_detectors_need_no_further_fetch_of_an_image(
    small_corpus, settings, tmp_path, begin_pipeline, install_detectors, monkeypatch
):
    install_detectors(halves="foreign_module:halves", some="foreign_module:some")
    config = settings(small_corpus, tmp_path / "lake", regions={"detectors": ["halves", "some"]})
    pipeline = begin_pipeline(config)
    fetched = []
    read_bytes = corpora.readers.imagefolder.read_bytes

    def count(path, limits):
        fetched.append(path.name)
        return read_bytes(path, limits)

    monkeypatch.setattr("corpora.readers.imagefolder.read_bytes", count)
    (shard,) = pipeline.ingest()
    assert len(set(fetched)) == len(fetched) == 12
    results = [pipeline.attribute(shard)]
    fetched.clear()
    pipeline.store(results)
    assert fetched == []
    assert {row["region"] for row in read_boxes(pipeline, "regions")} == {"halves: left", "some: all"}


def test_a_detector_is_never_called_by_two_threads_at_once():
    active = []

    def find(image, caption):
        active.append(caption)
        time.sleep(0.001)
        assert active == [caption]
        active.clear()
        return {"all": [(0, 0, 1, 1)]}

    detectors = [Detector("d", find)]
    pixels = Image.new("RGB", (4, 4))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: run_detectors(detectors, pixels, str(number)), range(50)))
    assert all(detections == Detections({"d: all": [(0, 0, 1, 1)]}, {}) for detections in found)


def test_a_detector_has_the_version_of_its_distribution(install_detectors):
    install_detectors(halves="foreign_module:halves")
    assert detector_versions(["halves"]) == {"halves": "foreign 1.2"}


def test_missing_or_unloadable_detector_is_bad_input(install_detectors):
    install_detectors(halves="foreign_module:halves", three="foreign_module:no_function", gone="foreign_module:gone")
    install_detectors("broken", raise_at_import=True, licensed="broken_module:halves")
    install_detectors("rival", halves="rival_module:halves")
    for name, fault in {
        "halve": "got 'halve', which no package provides; installed are: .*gone, halves, licensed, three",
        "halves": "which is provided by foreign, rival; uninstall all but one",
        "three": r"\(foreign_module:no_function\) cannot be loaded: TypeError: got int, expected a function",
        "gone": "cannot be loaded: AttributeError",
        "licensed": "cannot be loaded: RuntimeError: no licence",
    }.items():
        with pytest.raises(BadInputError, match=rf"regions.detectors: .*{fault}"):
            load_detectors([name])


@pytest.mark.parametrize(
    "result",
    [
        None, [(0, 0, 1, 1)], {"a": [(0, 0, 1)]}, {"a": [(0.5, 0, 0.5, 1)]}, {"a": [(0, 0, 1, float("nan"))]},
        {"a": [(0, 0, 1, 2)]}, {"a": [(0, 0, 0.5, 0.5)] * 65}, {"a": ["abcd"]}, {"a": 3},
    ],
)  # fmt: skip
def test_invalid_result_of_a_detector_is_an_error(result):
    with pytest.raises((ValueError, TypeError, AttributeError)):
        run_detector(Detector("d", lambda *_: result), np.zeros((4, 4, 3), np.uint8), "x")


def test_number_of_boxes_without_overlap_is_limited():
    bars = [(0, i / 16, 1, (i + 0.5) / 16) for i in range(8)]
    crossing = bars + [(y0, x0, y1, x1) for x0, y0, x1, y1 in bars]
    picture = np.zeros((4, 4, 3), np.uint8)
    assert len(run_detector(Detector("d", lambda *_: {"a": bars}), picture, "x")["d: a"]) == 8
    with pytest.raises(
        ValueError, match=r"'a': got 16 boxes, .* boxes without overlap are needed, expected at most 64"
    ):
        run_detector(Detector("d", lambda *_: {"a": crossing}), picture, "x")


def test_detector_cannot_change_the_image():
    def paint(image, caption):
        image[:] = 0

    with pytest.raises(ValueError, match="read-only"):
        run_detector(Detector("d", paint), np.ones((4, 4, 3), np.uint8), "x")


def test_run_records_its_detectors_which_must_be_installed(small_corpus, settings, tmp_path, install_detectors):
    install_detectors(halves="foreign_module:halves")
    config = settings(small_corpus, tmp_path / "lake", regions={"detectors": ["halves"]})
    assert begin(config, config.models(), None).read_manifest()["config"]["regions"]["detectors"] == {
        "halves": "foreign 1.2"
    }
    config = settings(small_corpus, tmp_path / "other", regions={"detectors": ["halve"]})
    with pytest.raises(BadInputError, match=r"regions.detectors: got 'halve'"):
        begin(config, config.models(), None)
    assert sql.read_manifests(tmp_path / "other") == []
    for regions in ({"detectors": ["a", "a"]}, {"detectors": ["a"], "boxes": {"a: x": [0, 0, 1, 1]}}):
        with pytest.raises(BadInputError, match=r"expected each detector once|must be distinct"):
            settings(small_corpus, tmp_path / "lake", regions=regions)


def test_installed_detectors_are_described(install_detectors):
    install_detectors(halves="foreign_module:halves")
    install_detectors("broken", raise_at_import=True, sad="broken_module:halves")
    rows = {row["name"]: row for row in describe_detectors()}
    assert rows["burnt-in"]["finds"] == "Detect lines of burnt-in text in an image."
    assert rows["burnt-in"]["package"].startswith("m2ib-audit ")
    assert rows["halves"] == {"name": "halves", "package": "foreign 1.2", "finds": "(no docstring)"}
    assert "cannot be loaded: RuntimeError: no licence" in rows["sad"]["finds"]
