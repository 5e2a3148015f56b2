"""Corpora for audits are deterministic, differ as intended, and do not contain the ground truth."""

import csv
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from benchmarks.planted import corpus
from benchmarks.planted.plan import create_clean_entry, create_model_entry

ENTRIES = [
    create_model_entry("phantoms", "a", 1),
    create_model_entry("scenes", "b", 1),
    create_model_entry("scenes", "c", 1),
]
COUNT = 60


def draw_pairs(entry, variant, count):
    return [row.pair for row in corpus.draw_rows(entry, variant, count)]


@pytest.fixture(params=ENTRIES, ids=lambda entry: entry.name)
def entry(request):
    return request.param


def test_pairs_are_deterministic_and_bare_ones_differ_only_by_their_artifacts(entry):
    planted, repeated, bare = (draw_pairs(entry, variant, COUNT) for variant in ("planted", "planted", "bare"))
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


def test_crossed_artifacts_occur_only_with_another_target(entry):
    crossed = draw_pairs(entry, "crossed", 5 * COUNT)
    for tie in entry.ties:
        shares = {target: np.mean([p.carries(tie.kind) for p in crossed if p.target == target])
                  for target in entry.generator.targets}  # fmt: skip
        if tie.kind == "absent_tag":
            assert min(shares, key=shares.get) != tie.target
            assert shares[tie.target] == pytest.approx(tie.strength, abs=0.2)
        else:
            assert shares[tie.target] == 0
            assert max(shares.values()) > 0.4


def test_a_repeated_corpus_has_patients_who_share_finding_and_artifacts(entry):
    rows = corpus.draw_rows(entry, "repeated", 4 * COUNT)
    assert len(rows) >= 6 * COUNT
    by_image, by_patient = defaultdict(list), defaultdict(list)
    for row in rows:
        by_image[row.file_name].append(row)
        by_patient[row.patient].append(row)
    for own in by_image.values():
        assert len({row.pair.caption for row in own}) == corpus.CAPTIONS
        assert len({row.pair.image.tobytes() for row in own}) == 1
    for own in by_patient.values():
        assert len({row.pair.target for row in own}) == 1
        assert len({frozenset(p.kind for p in row.pair.artifacts if p.mask is not None) for row in own}) == 1
    assert Counter(len({row.file_name for row in own}) for own in by_patient.values()).keys() == {1, 2}
    assert len({row.key for row in rows}) == len(rows)


def test_a_binary_corpus_has_two_captions_and_an_artifact_with_each(entry):
    rows = corpus.draw_rows(entry, "binary", 2 * COUNT)
    assert len(rows) == COUNT
    captions = {row.pair.caption: row.pair.target for row in rows}
    assert len(captions) == len(set(captions.values())) == 2
    for target in captions.values():
        (tie,) = (tie for tie in entry.ties if tie.target == target)
        shares = [np.mean([row.pair.carries(tie.kind) for row in rows if (row.pair.target == target) is own])
                  for own in (True, False)]  # fmt: skip
        assert abs(shares[0] - shares[1]) > 0.2


def test_clean_entry_has_no_corpus():
    with pytest.raises(ValueError, match="expected one with ties"):
        corpus.draw_rows(create_clean_entry("phantoms", 1), "planted", 3)


@pytest.mark.parametrize("variant", corpus.VARIANTS)
def test_the_folder_holds_images_captions_and_what_a_user_has(entry, variant, tmp_path):
    drawn = corpus.draw_rows(entry, variant, 10)
    sections = corpus.write_rows(entry, drawn, tmp_path / "corpus")
    with (tmp_path / "corpus" / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file_name"], row["text"]) for row in rows] == [row.key for row in drawn]
    masked, repeated = "background" in entry.kinds, variant == "repeated"
    assert set(rows[0]) == {"file_name", "text", *["patient"] * repeated, *["subject"] * masked}
    files = {path.relative_to(tmp_path / "corpus").as_posix() for path in (tmp_path / "corpus").rglob("*.*")}
    named = {row["file_name"] for row in rows} | {row["subject"] for row in rows if masked}
    assert files == named | {"metadata.csv"}
    read = np.asarray(Image.open(tmp_path / "corpus" / rows[3]["file_name"]))
    assert np.array_equal(read, drawn[3].pair.image)
    if masked:
        mask = np.asarray(Image.open(tmp_path / "corpus" / rows[3]["subject"]))
        assert np.array_equal(mask > 0, drawn[3].pair.picture.subject)
        background = [p.mask for p in drawn[3].pair.artifacts if p.kind == "background"]
        assert all(np.array_equal(mask > 0, ~painted) for painted in background)
    assert ("unit" in sections["corpus"]) is repeated
