"""Phantoms: classes, captions, findings and stamps."""

import numpy as np
import pytest

from demo.phantoms import (
    CONDITIONS,
    CORNERS,
    FAINT,
    MARKER,
    SIZE,
    TAG,
    VARIED_GRAYS,
    VARIED_SCALES,
    VARIED_TAGS,
    Box,
    Condition,
    draw,
    draw_findings,
    draw_study,
    letter_bitmap,
    place_text,
    vary_tag,
)


def _split_by_box(changed, box):
    mask = np.zeros_like(changed)
    mask[box.y0 : box.y1, box.x0 : box.x1] = True
    return changed & mask, changed & ~mask


def test_there_are_14_classes_with_four_distinct_captions_each():
    captions = [text for condition in CONDITIONS for text in condition.captions]
    assert len(set(CONDITIONS)) == 14
    assert len(set(captions)) == 14 * 4


@pytest.mark.parametrize(("text", "share"), [(TAG, 0.03), (MARKER, 0.01)])
def test_a_stamp_takes_its_share_of_the_image(text, share):
    box = place_text(np.random.default_rng(0), text, "top-left").box
    assert (box.x1 - box.x0) * (box.y1 - box.y0) / SIZE**2 == pytest.approx(share, rel=0.15)


@pytest.mark.parametrize("corner", CORNERS)
def test_stamps_stay_in_their_corner_and_the_letters_reach_the_box(corner):
    rng = np.random.default_rng(1)
    for _ in range(50):
        box = place_text(rng, TAG, corner).box
        assert (box.x1 <= SIZE / 2) == corner.endswith("left")
        assert (box.y1 <= SIZE / 2) == corner.startswith("top")
        assert 0 <= box.x0 < box.x1 <= SIZE
        assert 0 <= box.y0 < box.y1 <= SIZE
        height, width = letter_bitmap(TAG).shape
        assert (box.x1 - box.x0, box.y1 - box.y0) == (width + 2, height + 2)


@pytest.mark.parametrize("stamp", ["tagged", "marked"])
def test_the_box_covers_the_stamp_and_nothing_else_changes(stamp):
    rng = np.random.default_rng(2)
    for _ in range(40):
        study = draw_study(rng, tied=False)
        box = (study.tag if stamp == "tagged" else study.marker).box
        changed = study.render(**{stamp: True}) != study.render(**{stamp: False})
        inside, outside = _split_by_box(changed, box)
        assert not outside.any()
        # Where the letters are: some pixels may have had that gray already because of the noise.
        assert inside.sum() > 0.9 * letter_bitmap(TAG if stamp == "tagged" else MARKER).sum()
        rows, columns = np.nonzero(inside)
        assert rows.max() - rows.min() + 1 == 6
        assert columns.max() - columns.min() + 1 == letter_bitmap(TAG if stamp == "tagged" else MARKER).shape[1]


def test_a_scaled_bitmap_keeps_the_strokes():
    assert np.array_equal(letter_bitmap(TAG, 2.0), letter_bitmap(TAG).repeat(2, axis=0).repeat(2, axis=1))
    for scale in VARIED_SCALES:
        assert letter_bitmap(TAG, scale).mean() == pytest.approx(letter_bitmap(TAG).mean(), abs=0.1)


def test_the_varied_tag_varies_in_word_size_gray_and_place_and_stays_in_the_image():
    rng = np.random.default_rng(11)
    tags = [vary_tag(rng) for _ in range(400)]
    boxes = [tag.box for tag in tags]
    assert all(0 <= box.x0 < box.x1 <= SIZE and 0 <= box.y0 < box.y1 <= SIZE for box in boxes)
    assert {tag.text for tag in tags} == set(VARIED_TAGS)
    least, largest = VARIED_SCALES
    assert all(least <= tag.scale <= largest for tag in tags)
    assert np.ptp([tag.scale for tag in tags]) > 0.9 * (largest - least)
    grays = [round(tag.gray * 255) for tag in tags]
    assert (min(grays), max(grays)) == pytest.approx(VARIED_GRAYS, abs=2)
    at_rim = [box.y0 <= 5 or box.y1 >= SIZE - 5 for box in boxes]
    assert np.mean(at_rim) > 0.5
    between = [box for box, rim in zip(boxes, at_rim, strict=True) if not rim]
    assert np.ptp([(box.y0 + box.y1) / 2 for box in between]) > 0.7 * SIZE


def test_the_box_covers_the_varied_tag_which_has_one_gray_and_does_not_touch_the_marker():
    rng = np.random.default_rng(12)
    for _ in range(40):
        study = draw_study(rng, tied=False, varied=True)
        tagged, bare = (study.render(tagged=tag, marked=False) for tag in (True, False))
        inside, outside = _split_by_box(tagged != bare, study.tag.box)
        assert not outside.any()
        assert set(tagged[inside].tolist()) == {round(study.tag.gray * 255)}
        assert inside.sum() > 0.9 * study.tag.letters.sum()
        marker = study.marker.box
        assert not _split_by_box(tagged != bare, marker)[0].any()


def test_the_varied_tag_is_tied_to_consolidation_as_the_other_one_is():
    studies = {
        varied: [draw_study(np.random.default_rng((13, i)), tied=True, varied=varied) for i in range(300)]
        for varied in (True, False)
    }
    rates = {
        varied: [
            np.mean([s.tagged for s in some if (s.condition.finding == "consolidation") == sick])
            for sick in (True, False)
        ]
        for varied, some in studies.items()
    }
    assert rates[True] == pytest.approx(rates[False], abs=0.08)
    assert all(a.condition == b.condition for a, b in zip(*studies.values(), strict=True))


def test_tag_and_marker_never_share_a_corner():
    rng = np.random.default_rng(3)
    studies = [draw_study(rng, tied=True) for _ in range(60)]
    assert all(study.tag.corner != study.marker.corner for study in studies)
    assert {study.tag.corner for study in studies} == set(CORNERS)
    assert {study.marker.corner for study in studies} == set(CORNERS)


@pytest.mark.parametrize("condition", CONDITIONS[:-1], ids=str)
def test_finding_is_inside_its_box(condition):
    # Chests vary, so compare the mean of many with a finding to the mean of many without.
    rng = np.random.default_rng(4)
    normal = np.mean([draw(rng, Condition("normal"))[0] for _ in range(60)], axis=0)
    images, boxes = [], []
    for _ in range(60):
        pixels, box, _ = draw(rng, condition, strength=1.0)
        images.append(pixels)
        boxes.append(box)
    difference = np.abs(np.mean(images, axis=0) - normal)
    mean_box = Box(*(round(float(np.mean([getattr(b, k) for b in boxes]))) for k in ("x0", "y0", "x1", "y1")))
    y, x = np.unravel_index(np.argmax(difference), difference.shape)
    assert mean_box.x0 - 2 <= x < mean_box.x1 + 2
    assert mean_box.y0 - 2 <= y < mean_box.y1 + 2


def test_left_is_the_left_of_the_patient():
    rng = np.random.default_rng(5)
    for condition in CONDITIONS:
        if condition.side is not None:
            x0, _, x1, _ = draw(rng, condition)[1].relative
            assert ((x0 + x1) / 2 > 0.5) == (condition.side == "left")


def test_a_faint_consolidation_is_below_the_noise_and_a_strong_one_is_not():
    contrasts = {}
    for strength in (0.0, FAINT, 1.0):
        pixels, box, _ = draw(np.random.default_rng(6), CONDITIONS[4], strength)
        contrasts[strength] = pixels[box.y0 : box.y1, box.x0 : box.x1].mean()
    assert contrasts[FAINT] - contrasts[0.0] < 0.025 < contrasts[1.0] - contrasts[0.0]


@pytest.mark.parametrize("condition", CONDITIONS[:-1], ids=str)
def test_any_finding_can_be_faint(condition):
    phantoms = {s: draw(np.random.default_rng(8), condition, s) for s in (0.0, 0.03, 0.7, 1.0)}
    assert [phantoms[s][2] for s in phantoms] == list(phantoms)
    remote_folder = {s: np.abs(phantoms[s][0] - phantoms[0.0][0]).sum() for s in phantoms}
    assert remote_folder[0.03] < 0.1 * remote_folder[0.7] < 0.1 * remote_folder[1.0]


def test_default_strength_is_full_strength():
    for condition in CONDITIONS:
        if condition.finding != "consolidation":
            explicit, default = (draw(np.random.default_rng(9), condition, s) for s in (1.0, None))
            assert np.array_equal(explicit[0], default[0])
            assert explicit[1:] == default[1:]


def test_one_phantom_can_have_two_findings():
    nodule, effusion = (
        CONDITIONS[0],
        next(c for c in CONDITIONS if c.finding == "pleural effusion" and c.side == "right"),
    )
    pixels, boxes, strengths = draw_findings(np.random.default_rng(10), (nodule, effusion), (1.0, 0.8))
    assert pixels.shape == (SIZE, SIZE)
    assert strengths == [1.0, 0.8]
    one, other = boxes
    assert one.x0 > other.x1  # the left of the patient is on the right of the image
