"""The pixels and words that each kind of artifact adds."""

import numpy as np
import pytest

from benchmarks.planted.artifacts import KINDS, render_letters
from benchmarks.planted.plan import SETS
from demo.phantoms import TAG, letter_bitmap

PAINTING = [kind for kind in KINDS.values() if kind.modality == "image"]
WRITING = [kind for kind in KINDS.values() if kind.modality == "text"]
SHAPES = [(80, 80), (80, 80, 3), (64, 64, 3)]


def make_image(shape, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 0.9, shape).astype(np.float32)


def paint(kind, pixels, seed):
    subject = np.zeros(pixels.shape[:2], bool)
    subject[20:60, 20:60] = True
    return kind.paint(pixels, np.random.default_rng(seed), "nodule", subject)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", PAINTING, ids=lambda kind: kind.name)
def test_mask_equals_the_changed_pixels(kind, shape):
    for seed in range(20):
        pixels = make_image(shape, seed)
        after, mask = paint(kind, pixels, seed)
        changed = after != pixels
        assert np.array_equal(changed if changed.ndim == 2 else changed.any(axis=-1), mask)
        assert after.dtype == np.float32
        assert 0 <= after.min() <= after.max() <= 1


@pytest.mark.parametrize("kind", PAINTING, ids=lambda kind: kind.name)
def test_painting_does_not_change_its_input(kind):
    pixels = make_image((80, 80, 3))
    before = pixels.copy()
    first, second = (paint(kind, pixels, 5) for _ in range(2))
    assert np.array_equal(pixels, before)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("corner_tag", 0.01, 0.03), ("fixed_tag", 0.01, 0.03), ("watermark", 0.1, 0.3), ("frame", 0.09, 0.11),
        ("logo", 0.007, 0.008), ("word", 0.005, 0.02), ("texture", 1, 1),
        ("copied_tag", 0.01, 0.06), ("absent_tag", 0.005, 0.02), ("background", 0.75, 0.75), ("cast", 1, 1),
    ],
)  # fmt: skip
def test_an_artifact_takes_its_share_of_the_image(name, least, most):
    assert least <= paint(KINDS[name], make_image((80, 80)), 1)[1].mean() <= most


def list_places(name):
    masks = [paint(KINDS[name], make_image((80, 80)), seed)[1] for seed in range(60)]
    return np.array([[axis.min() for axis in np.nonzero(mask)] for mask in masks])


def test_the_corner_tag_is_in_every_corner_and_nowhere_else():
    corners = list_places("corner_tag")
    height, width = letter_bitmap(TAG).shape
    assert {(y < 40, x < 40) for y, x in corners} == {(a, b) for a in (True, False) for b in (True, False)}
    assert all(y < 6 or y >= 80 - height - 6 for y in corners[:, 0])
    assert all(x < 6 or x >= 80 - width - 6 for x in corners[:, 1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_copied_tag_is_in_two_to_four_corners(shape):
    side = shape[0]
    met = set()
    for seed in range(60):
        _, mask = paint(KINDS["copied_tag"], make_image(shape), seed)
        corners = mask.reshape(2, side // 2, 2, side // 2).sum(axis=(1, 3))
        assert set(corners.ravel().tolist()) <= {0, render_letters("ER").sum() * 4}
        met.add(tuple((corners > 0).ravel().tolist()))
    assert {sum(one) for one in met} == {2, 3, 4}
    assert {one for one in met if sum(one) == 2} >= {(True, False, False, True), (True, True, False, False)}


def test_a_background_leaves_the_subject_unchanged():
    pixels = make_image((80, 80, 3))
    painted, mask = paint(KINDS["background"], pixels, 0)
    assert not mask[20:60, 20:60].any()
    assert np.array_equal(painted[20:60, 20:60], pixels[20:60, 20:60])


def test_the_fixed_tag_moves_by_a_pixel_or_two():
    positions = list_places("fixed_tag")
    assert (np.ptp(positions, axis=0) == 4).all()


@pytest.mark.parametrize("name", ["logo", "word"])
def test_a_logo_or_word_can_be_anywhere(name):
    positions = list_places(name)
    assert np.ptp(positions[:, 0]) > 50
    assert np.ptp(positions[:, 1]) > 30


def test_rendered_word_is_legible():
    _, mask = paint(KINDS["word"], make_image((80, 80)), 3)
    rows, columns = np.nonzero(mask)
    assert np.array_equal(
        mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], render_letters("NODULE").astype(bool)
    )


@pytest.mark.parametrize("word", ["", "A" * 20])
def test_a_word_that_does_not_fit_raises(word):
    with pytest.raises(ValueError, match="letters"):
        KINDS["word"].paint(make_image((80, 80)), np.random.default_rng(0), word, np.zeros((80, 80), bool))


def test_a_letter_without_bitmap_raises():
    with pytest.raises(ValueError, match="the font has no 7"):
        render_letters("A7")


def test_letters_differ_from_each_other():
    bitmaps = {render_letters(chr(code)).tobytes() for code in range(ord("A"), ord("Z") + 1)}
    assert len(bitmaps) == 26


@pytest.mark.parametrize("kind", WRITING, ids=lambda kind: kind.name)
def test_captions_get_the_words_in_order(kind):
    added = kind.write("a red circle").split()
    assert [word for word in added if word in kind.words] == list(kind.words)
    assert " ".join(word for word in added if word not in kind.words) == "a red circle"


@pytest.mark.parametrize("kind", PAINTING, ids=lambda kind: kind.name)
def test_image_artifacts_do_not_change_captions(kind):
    assert kind.write("a red circle") == "a red circle"
    assert kind.words == ()


def test_only_what_is_everywhere_has_no_place():
    assert [kind.name for kind in KINDS.values() if not kind.has_place] == ["texture", "cast"]


def test_sets_partition_the_kinds():
    assert sorted(name for names in SETS.values() for name in names) == sorted(KINDS)
