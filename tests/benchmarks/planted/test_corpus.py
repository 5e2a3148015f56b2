"""Audited corpora: deterministic, apart from one another in what they should be, and without a word of the truth."""

import csv

import numpy as np
import pytest
from PIL import Image

from benchmarks.planted import corpus
from benchmarks.planted.plan import artefact_entry, clean_entry

ENTRIES = [artefact_entry(generator, name, 1) for generator in ("phantoms", "scenes") for name in ("a", "b")]
COUNT = 120


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_same_pairs_come_again_and_bare_ones_differ_by_their_artefacts_alone(entry):
    planted, again, bare = (corpus.draw(entry, variant, COUNT) for variant in ("planted", "planted", "bare"))
    assert all(np.array_equal(a.image, b.image) and a.caption == b.caption for a, b in zip(planted, again, strict=True))
    assert any(pair.planted for pair in planted)
    for pair, without in zip(planted, bare, strict=True):
        assert not without.planted
        assert without.picture is not None
        assert np.array_equal(pair.picture.pixels, without.picture.pixels)
        if not pair.planted:
            assert np.array_equal(pair.image, without.image)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_crossed_artefacts_never_lie_with_their_own_target_but_with_another(entry):
    crossed = corpus.draw(entry, "crossed", 3 * COUNT)
    for tie in entry.ties:
        carried = [pair.target for pair in crossed if pair.carries(tie.kind)]
        assert carried
        assert tie.target not in carried


def test_a_clean_entry_has_no_corpus_of_its_own():
    with pytest.raises(ValueError, match="expected one with ties"):
        corpus.draw(clean_entry("phantoms", 1), "planted", 3)


def test_the_folder_holds_images_and_captions_only(tmp_path):
    pairs = corpus.draw(ENTRIES[0], "planted", 5)
    corpus.write(pairs, tmp_path / "corpus")
    with (tmp_path / "corpus" / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [pair.caption for pair in pairs]
    assert set(rows[0]) == {"file_name", "text"}
    assert {path.name for path in (tmp_path / "corpus").iterdir()} == {row["file_name"] for row in rows} | {
        "metadata.csv"
    }
    read = np.asarray(Image.open(tmp_path / "corpus" / rows[3]["file_name"]))
    assert np.array_equal(read, pairs[3].image)
