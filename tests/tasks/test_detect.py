"""Detectors of other packages: found by name, and nothing that they do loses a pair."""

import sys

import numpy as np
import pytest

import sql
from demo.corpus import generate
from flows.begin import begin
from tasks.detect import detect
from tasks.errors import BadInputError
from tasks.regions import GROUP, Detector, detector_versions, load_detectors, run_detector

FOREIGN = """
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
def installed(tmp_path, monkeypatch):
    """installed(raise_at_import=False, **entries): a distribution with a module and these entry points."""

    def install(name="foreign", raise_at_import=False, **entries):
        folder = tmp_path / f"site {name}"
        info = folder / f"{name}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = "\n".join(f"{key} = {value}" for key, value in entries.items())
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}\n")
        (folder / f"{name}_module.py").write_text(FOREIGN.format(raise_at_import=raise_at_import))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, f"{name}_module", raising=False)

    return install


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("few"), 12)


@pytest.fixture
def mapped(few, settings, tmp_path, begin_pipeline):
    """Twelve pairs with a map each, of which the model sees the left half."""
    line = begin_pipeline(settings(few, tmp_path / "lake"))
    line.ingest()
    pairs = line.run.read_row_group("pairs", 0)
    view = {"view_x0": 0.0, "view_y0": 0.0, "view_x1": 0.5, "view_y1": 1.0}
    line.run.write_table("attributions", [{"pair_id": pair["pair_id"], **view} for pair in pairs])
    line.run.write_table("regions", [{"region": "frame", "kind": "frame", "x0": 0, "y0": 0, "x1": 1, "y1": 0.05}])
    return line


def detected(line, *names):
    warnings = detect.fn(line.run, line.config.corpus, names)
    with line.run.connect() as connection:
        return warnings, sql.read(connection, "FROM regions WHERE kind = 'detected' ORDER BY ALL")


def test_what_a_detector_finds_is_a_region_of_its_pair_beside_the_named(mapped, installed):
    installed(halves="foreign_module:halves")
    for _ in range(2):  # again replaces
        warnings, rows = detected(mapped, "halves")
    assert warnings == []
    assert {(row["region"], row["x0"], row["y0"], row["x1"], row["y1"]) for row in rows} == {
        ("halves: left", 0, 0, 1, 1)  # the overlap once, and in shares of what the model sees
    }
    assert len({row["pair_id"] for row in rows}) == len(rows) == 12
    with mapped.run.connect() as connection:
        assert len(sql.read(connection, "FROM regions")) == 13


def test_a_detector_that_fails_on_some_pairs_is_told_and_loses_none(mapped, installed):
    installed(some="foreign_module:some", halves="foreign_module:halves")
    with mapped.run.connect() as connection:
        sick = sql.read(connection, "SELECT pair_id FROM pairs WHERE caption LIKE '%consolidation%'")
    assert 0 < len(sick) < 12
    (warning,), rows = detected(mapped, "some", "halves")
    assert warning.startswith(f"detector some failed on {len(sick)} of 12 pairs, so these have no regions ")
    assert "KeyError: 'caption'" in warning
    regions = [row["region"] for row in rows]
    assert (regions.count("some: all"), regions.count("halves: left")) == (12 - len(sick), 12)
    assert mapped.run.read_manifest()["failed_detectors"] == ["some"]


def test_a_detector_that_fails_on_all_pairs_costs_its_regions_and_says_so(mapped, installed):
    installed(wrong="foreign_module:wrong")
    (warning,), rows = detected(mapped, "wrong")
    assert warning.startswith("detector wrong failed on 12 of 12 pairs")
    assert "in shares of the image" in warning
    assert rows == []


def test_an_image_that_changed_has_no_region(mapped, installed, few, tmp_path):
    installed(halves="foreign_module:halves")
    name = mapped.run.read_row_group("pairs", 0)[0]["file_name"]
    before = (few / name).read_bytes()
    try:
        (few / name).write_bytes((few / mapped.run.read_row_group("pairs", 0)[1]["file_name"]).read_bytes())
        _, rows = detected(mapped, "halves")
    finally:
        (few / name).write_bytes(before)
    assert len(rows) == 11


def test_a_detector_has_the_version_of_its_distribution(installed):
    installed(halves="foreign_module:halves")
    assert detector_versions(["halves"]) == {"halves": "foreign 1.2"}


def test_what_is_not_installed_or_cannot_be_loaded_is_refused(installed):
    installed(halves="foreign_module:halves", three="foreign_module:no_function", gone="foreign_module:gone")
    installed("broken", raise_at_import=True, licensed="broken_module:halves")
    installed("rival", halves="rival_module:halves")
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
    "answer",
    [
        None, [(0, 0, 1, 1)], {"a": [(0, 0, 1)]}, {"a": [(0.5, 0, 0.5, 1)]}, {"a": [(0, 0, 1, float("nan"))]},
        {"a": [(0, 0, 1, 2)]}, {"a": [(0, 0, 0.5, 0.5)] * 65}, {"a": ["abcd"]}, {"a": 3},
    ],
)  # fmt: skip
def test_an_answer_that_is_no_region_is_an_error(answer):
    with pytest.raises((ValueError, TypeError, AttributeError)):
        run_detector(Detector("d", lambda *_: answer), np.zeros((4, 4, 3), np.uint8), "x")


def test_a_region_has_as_many_boxes_at_most_once_overlaps_are_resolved():
    bars = [(0, i / 16, 1, (i + 0.5) / 16) for i in range(8)]
    crossing = bars + [(y0, x0, y1, x1) for x0, y0, x1, y1 in bars]
    picture = np.zeros((4, 4, 3), np.uint8)
    assert len(run_detector(Detector("d", lambda *_: {"a": bars}), picture, "x")["d: a"]) == 8
    with pytest.raises(
        ValueError, match=r"'a': got 16 boxes, .* boxes without overlap are needed, expected at most 64"
    ):
        run_detector(Detector("d", lambda *_: {"a": crossing}), picture, "x")


def test_a_detector_cannot_change_what_the_next_one_sees():
    def paint(image, caption):
        image[:] = 0

    with pytest.raises(ValueError, match="read-only"):
        run_detector(Detector("d", paint), np.ones((4, 4, 3), np.uint8), "x")


def test_a_run_tells_its_detectors_and_begins_with_installed_ones_only(few, settings, tmp_path, installed):
    installed(halves="foreign_module:halves")
    config = settings(few, tmp_path / "lake", regions={"detectors": ["halves"]})
    assert begin(config, config.models(), None).read_manifest()["config"]["regions"]["detectors"] == {
        "halves": "foreign 1.2"
    }
    config = settings(few, tmp_path / "other", regions={"detectors": ["halve"]})
    with pytest.raises(BadInputError, match=r"regions.detectors: got 'halve'"):
        begin(config, config.models(), None)
    assert sql.read_manifests(tmp_path / "other") == []
    for regions in ({"detectors": ["a", "a"]}, {"detectors": ["a"], "boxes": {"a: x": [0, 0, 1, 1]}}):
        with pytest.raises(BadInputError, match=r"expected each detector once|must be distinct"):
            settings(few, tmp_path / "lake", regions=regions)
