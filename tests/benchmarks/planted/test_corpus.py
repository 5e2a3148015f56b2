"""Corpora for audits are deterministic, differ as intended, and do not contain the ground truth."""

import csv

import numpy as np
import pytest
from PIL import Image

from benchmarks.planted import corpus
from benchmarks.planted.plan import create_clean_entry, create_model_entry

ENTRIES = [create_model_entry("phantoms", "a", 1), create_model_entry("scenes", "b", 1)]
COUNT = 60


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_pairs_are_deterministic_and_bare_ones_differ_only_by_their_artifacts(entry):
    planted, repeated, bare = (corpus.draw_pairs(entry, variant, COUNT) for variant in ("planted", "planted", "bare"))
    assert all(
        np.array_equal(a.image, b.image) and a.caption == b.caption for a, b in zip(planted, repeated, strict=True)
    )
    assert any(pair.artifacts for pair in planted)
    for pair, without in zip(planted, bare, strict=True):
        assert not without.artifacts
        assert without.picture is not None
        assert np.array_equal(pair.picture.pixels, without.picture.pixels)
        if not pair.artifacts:
            assert np.array_equal(pair.image, without.image)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_crossed_artifacts_occur_only_with_another_target(entry):
    crossed = corpus.draw_pairs(entry, "crossed", 3 * COUNT)
    for tie in entry.ties:
        carried = [pair.target for pair in crossed if pair.carries(tie.kind)]
        assert carried
        assert tie.target not in carried


def test_clean_entry_has_no_corpus():
    with pytest.raises(ValueError, match="expected one with ties"):
        corpus.draw_pairs(create_clean_entry("phantoms", 1), "planted", 3)


def test_the_folder_holds_images_and_captions_only(tmp_path):
    pairs = corpus.draw_pairs(ENTRIES[0], "planted", 5)
    corpus.write_pairs(pairs, tmp_path / "corpus")
    with (tmp_path / "corpus" / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [pair.caption for pair in pairs]
    assert set(rows[0]) == {"file_name", "text"}
    assert {path.name for path in (tmp_path / "corpus").iterdir()} == {row["file_name"] for row in rows} | {
        "metadata.csv"
    }
    read = np.asarray(Image.open(tmp_path / "corpus" / rows[3]["file_name"]))
    assert np.array_equal(read, pairs[3].image)
