"""Detectors of other packages are found by name, and their failures lose no pair."""

import sys

import numpy as np
import pytest

import sql
from demo.corpus import generate
from flows.begin import begin
from tasks.detect import detect
from tasks.errors import BadInputError
from tasks.regions import GROUP, Detector, detector_versions, load_detectors, run_detector

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
def attributed_pipeline(small_corpus, settings, tmp_path, begin_pipeline):
    """Twelve pairs with maps, of whose images the model sees the left half."""
    pipeline = begin_pipeline(settings(small_corpus, tmp_path / "lake"))
    pipeline.ingest()
    pairs = pipeline.run.read_row_group("pairs", 0)
    view = {"view_x0": 0.0, "view_y0": 0.0, "view_x1": 0.5, "view_y1": 1.0}
    pipeline.run.write_table("attributions", [{"pair_id": pair["pair_id"], **view} for pair in pairs])
    pipeline.run.write_table("regions", [{"region": "frame", "kind": "frame", "x0": 0, "y0": 0, "x1": 1, "y1": 0.05}])
    return pipeline


def run_stage(pipeline, *names):
    warnings = detect.fn(pipeline.run, pipeline.config.corpus, names)
    with pipeline.run.connect() as connection:
        return warnings, sql.read(connection, "FROM regions WHERE kind = 'detected' ORDER BY ALL")


def test_detected_boxes_are_regions_of_their_pair(attributed_pipeline, install_detectors):
    install_detectors(halves="foreign_module:halves")
    for _ in range(2):  # a repeated stage replaces its rows
        warnings, rows = run_stage(attributed_pipeline, "halves")
    assert warnings == []
    assert {(row["region"], row["x0"], row["y0"], row["x1"], row["y1"]) for row in rows} == {
        ("halves: left", 0, 0, 1, 1)  # without overlap, in shares of what the model sees
    }
    assert len({row["pair_id"] for row in rows}) == len(rows) == 12
    with attributed_pipeline.run.connect() as connection:
        assert len(sql.read(connection, "FROM regions")) == 13


def test_detector_that_fails_on_some_pairs_is_a_warning(attributed_pipeline, install_detectors):
    install_detectors(some="foreign_module:some", halves="foreign_module:halves")
    with attributed_pipeline.run.connect() as connection:
        failing = sql.read(connection, "SELECT pair_id FROM pairs WHERE caption LIKE '%consolidation%'")
    assert 0 < len(failing) < 12
    (warning,), rows = run_stage(attributed_pipeline, "some", "halves")
    assert warning.startswith(f"detector some failed on {len(failing)} of 12 pairs, so these pairs have no regions ")
    assert "KeyError: 'caption'" in warning
    regions = [row["region"] for row in rows]
    assert (regions.count("some: all"), regions.count("halves: left")) == (12 - len(failing), 12)
    assert attributed_pipeline.run.read_manifest()["failed_detectors"] == ["some"]


def test_detector_that_fails_on_all_pairs_has_no_regions_and_a_warning(attributed_pipeline, install_detectors):
    install_detectors(wrong="foreign_module:wrong")
    (warning,), rows = run_stage(attributed_pipeline, "wrong")
    assert warning.startswith("detector wrong failed on 12 of 12 pairs")
    assert "in shares of the image" in warning
    assert rows == []


def test_changed_image_has_no_region(attributed_pipeline, install_detectors, small_corpus, tmp_path):
    install_detectors(halves="foreign_module:halves")
    name = attributed_pipeline.run.read_row_group("pairs", 0)[0]["file_name"]
    before = (small_corpus / name).read_bytes()
    try:
        (small_corpus / name).write_bytes(
            (small_corpus / attributed_pipeline.run.read_row_group("pairs", 0)[1]["file_name"]).read_bytes()
        )
        _, rows = run_stage(attributed_pipeline, "halves")
    finally:
        (small_corpus / name).write_bytes(before)
    assert len(rows) == 11


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
