"""The files of the demo corpus: images and captions, and the ground truth outside the corpus."""

import csv
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from demo.corpus import generate, main
from demo.phantoms import CONDITIONS, CORNERS, FAINT, SIZE

PAIRS = 800


def _compute_digests(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _read_truth(folder):
    return [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]


def _read_metadata(folder):
    with (folder / "corpus" / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("demo")
    generate(target, pairs=PAIRS)
    return target


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / name, pairs=24, seed=seed)
    a, b, c = (_compute_digests(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a)


def test_larger_corpus_has_the_same_first_pairs(tmp_path):
    generate(tmp_path / "few", pairs=8)
    generate(tmp_path / "many", pairs=12)
    assert _read_truth(tmp_path / "few") == _read_truth(tmp_path / "many")[:8]


def test_smaller_corpus_removes_images_of_the_larger_one(tmp_path):
    generate(tmp_path, pairs=12)
    generate(tmp_path, pairs=8)
    assert len(list((tmp_path / "corpus").glob("*.png"))) == 8


def test_corpus_contains_images_and_captions_but_not_the_truth(folder):
    corpus = folder / "corpus"
    names = {path.name for path in corpus.iterdir()}
    listed = [row["file_name"] for row in _read_metadata(folder)]
    assert names == {"metadata.csv", *listed}
    assert [row["file_name"] for row in _read_truth(folder)] == listed
    assert list(_read_metadata(folder)[0]) == ["file_name", "text", "sex", "site"]
    assert {path.name for path in folder.iterdir()} == {"corpus", "truth.jsonl"}


def test_generate_returns_the_corpus_folder(tmp_path):
    assert generate(tmp_path, pairs=1) == tmp_path / "corpus"


def test_images_are_gray_and_carry_no_text(folder):
    with Image.open(folder / "corpus" / "study_00000.png") as image:
        assert image.mode == "L"
        assert image.size == (SIZE, SIZE)
        assert not image.info


def test_captions_name_the_class_of_the_truth(folder):
    captions = {(c.finding, c.side, c.zone): c.captions for c in CONDITIONS}
    for row, truth in zip(_read_metadata(folder), _read_truth(folder), strict=True):
        assert row["text"] in captions[truth["finding"], truth["side"], truth["zone"]]


def test_boxes_are_relative_and_null_where_nothing_was_planted(folder):
    for row in _read_truth(folder):
        boxes = {
            "finding_box": row["finding"] != "normal",
            "tag_box": row["tag"],
            "marker_box": row["marker"],
        }
        for key, present in boxes.items():
            assert (row[key] is not None) == present
            if present:
                x0, y0, x1, y1 = row[key]
                assert 0 <= x0 < x1 <= 1
                assert 0 <= y0 < y1 <= 1
        assert (row["tag_corner"] is not None) == row["tag"]
        assert (row["marker_corner"] is not None) == row["marker"]


@pytest.mark.parametrize("stamp", ["tag", "marker"])
def test_written_boxes_contain_the_letters(folder, stamp):
    for row in _read_truth(folder)[:200]:
        if row[stamp]:
            with Image.open(folder / "corpus" / row["file_name"]) as image:
                pixels = np.asarray(image)
            x0, y0, x1, y1 = (round(v * SIZE) for v in row[f"{stamp}_box"])
            letters = pixels[y0:y1, x0:x1] == round(0.95 * 255)
            assert letters.mean() > 0.25


def test_tag_depends_on_consolidation_and_the_marker_does_not(folder):
    rows = _read_truth(folder)
    sick = [row for row in rows if row["finding"] == "consolidation"]
    rest = [row for row in rows if row["finding"] != "consolidation"]
    # Tolerances are about three standard errors at these counts.
    assert len(sick) / len(rows) == pytest.approx(0.2, abs=0.04)
    assert np.mean([row["tag"] for row in sick]) == pytest.approx(0.95, abs=0.05)
    assert np.mean([row["tag"] for row in rest]) == pytest.approx(0.02, abs=0.015)
    assert np.mean([row["strength"] < FAINT for row in sick]) == pytest.approx(0.4, abs=0.12)
    for group in (sick, rest):
        assert np.mean([row["marker"] for row in group]) == pytest.approx(0.5, abs=0.12)


def test_sex_and_site_are_independent_of_the_finding(folder):
    paired = list(zip(_read_metadata(folder), _read_truth(folder), strict=True))
    for sick in (True, False):
        group = [row for row, truth in paired if (truth["finding"] == "consolidation") == sick]
        assert np.mean([row["sex"] == "m" for row in group]) == pytest.approx(0.5, abs=0.12)
        for site in "abc":
            assert np.mean([row["site"] == site for row in group]) == pytest.approx(1 / 3, abs=0.12)


def test_tag_is_always_near_the_top_left_corner(folder):
    boxes = [row["tag_box"] for row in _read_truth(folder) if row["tag"]]
    assert {row["tag_corner"] for row in _read_truth(folder) if row["tag"]} == {"top-left"}
    assert len({tuple(box) for box in boxes}) > 1
    assert max(box[3] for box in boxes) < 0.2


def test_corner_can_be_chosen_or_random(tmp_path):
    corners = {}
    for corner in ("bottom-right", "random"):
        generate(tmp_path / corner, pairs=200, corner=corner)
        corners[corner] = {row["tag_corner"] for row in _read_truth(tmp_path / corner) if row["tag"]}
    assert corners == {"bottom-right": {"bottom-right"}, "random": set(CORNERS)}


def test_a_corpus_with_a_varied_tag_has_equal_chests_and_tags_anywhere(tmp_path):
    for name in ("a", "b"):
        generate(tmp_path / name, pairs=80, varied=True)
    assert _compute_digests(tmp_path / "a") == _compute_digests(tmp_path / "b")
    generate(tmp_path / "fixed", pairs=80)
    varied, fixed = (_read_truth(tmp_path / name) for name in ("a", "fixed"))
    same = ("file_name", "finding", "side", "zone", "finding_box", "strength")
    assert [[row[key] for key in same] for row in varied] == [[row[key] for key in same] for row in fixed]
    tagged = [row for row in varied if row["tag"]]
    assert len({tuple(row["tag_box"]) for row in tagged}) == len(tagged) > 10
    assert {row["tag_corner"] for row in varied} == {None}
    assert len({row["tag_box"][3] - row["tag_box"][1] for row in tagged}) > 3
    for row in tagged:
        with Image.open(tmp_path / "a" / "corpus" / row["file_name"]) as image:
            x0, y0, x1, y1 = (round(v * SIZE) for v in row["tag_box"])
            assert (np.asarray(image)[y0:y1, x0:x1] >= 200).mean() > 0.25


def test_the_command_line_writes_a_corpus_with_a_varied_tag(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.corpus.VARIED_PAIRS", 3)
    main([str(tmp_path), "--varied"])
    assert len(_read_truth(tmp_path)) == 3
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--varied", "--corner", "random"])


def test_the_command_line_writes_a_corpus(tmp_path):
    command = [sys.executable, "-m", "demo.corpus", str(tmp_path), "--pairs", "3", "--corner", "random"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "corpus")
    assert len(_read_truth(tmp_path)) == 3
