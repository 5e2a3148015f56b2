"""Overlays that are equal in many images are found; things that are only similar are not."""

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from m2ib.analysis.masks import cover_with_rectangles
from m2ib.analysis.overlays import find_overlays
from m2ib.analysis.overlays.whitening import Whitener
from m2ib.analysis.overlays.windows import compare_windows, cut_windows, find_hot_cells

SIDE, CELLS, N = 64, 8, 48
PATTERN = torch.tensor(
    [[c == "#" for c in row] for row in ("#.##..###.#", "##..#.#...#", "#.#.##.##..", "...#.##..##", "##.#...#.##")]
).float()


def make_textures(n=N, seed=0, channels=1):
    """Return smooth backgrounds with noise, as in photographs."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, channels, 8, 8, generator=random)
    ground = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")
    return ground + 0.1 * torch.randn(n, channels, SIDE, SIDE, generator=random)


def make_maps(boxes, seed=0):
    """Return maps with mass on a box of each image (None for no box), and some at random."""
    maps = 0.3 * torch.rand(len(boxes), CELLS, CELLS, generator=torch.Generator().manual_seed(seed))
    for one, box in zip(maps, boxes, strict=True):
        if box is not None:
            x0, y0, x1, y1 = (v * CELLS for v in box)
            one[int(y0) : int(y1 - 1e-6) + 1, int(x0) : int(x1 - 1e-6) + 1] += 1
    return maps


WIDE = torch.rand(5, 47, generator=torch.Generator().manual_seed(6)).gt(0.5).float()
"""Wider than the windows in which the templates of such images are first drawn."""


def add_pattern(images, share=0.5, seed=1, pattern=PATTERN):
    """Add the pattern to a share of the images at a random place; returns the images and the boxes."""
    random, boxes = torch.Generator().manual_seed(seed), []
    images = images.clone()
    h, w = pattern.shape
    for i, image in enumerate(images):
        y, x = (int(torch.randint(SIDE - side, (), generator=random)) for side in (h, w))
        if i < share * len(images):
            image[:, y : y + h, x : x + w] = torch.where(pattern > 0, 3.0, -3.0)
            boxes.append((x / SIDE, y / SIDE, (x + w) / SIDE, (y + h) / SIDE))
        else:
            boxes.append(None)
    return images, boxes


def make_blobs(n=N, seed=3):
    """Return soft discs of random size and place, which resemble each other like findings and objects."""
    random = torch.Generator().manual_seed(seed)
    images, boxes = make_textures(n, seed), []
    places = torch.arange(SIDE).float()
    for image in images:
        y, x = (float(v) for v in 12 + (SIDE - 24) * torch.rand(2, generator=random))
        radius = 4 + 4 * float(torch.rand((), generator=random))
        distance = ((places[:, None] - y) ** 2 + (places - x) ** 2).sqrt()
        image.add_(3 * torch.sigmoid((radius - distance) / 0.7))
        boxes.append(((x - radius) / SIDE, (y - radius) / SIDE, (x + radius) / SIDE, (y + radius) / SIDE))
    return images, boxes


def intersection_over_union(one, other):
    width = max(min(one[2], other[2]) - max(one[0], other[0]), 0)
    height = max(min(one[3], other[3]) - max(one[1], other[1]), 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)


@pytest.fixture(scope="module")
def sample():
    """Images with the pattern, its boxes, and the overlays found in them. Not to be changed."""
    images, boxes = add_pattern(make_textures())
    return images, boxes, find_overlays(images, make_maps(boxes))


@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_an_overlay_is_found_wherever_it_is_and_nowhere_else(channels, sample):
    images, boxes, found = sample
    if channels > 1:
        images, boxes = add_pattern(make_textures(channels=channels))
        found = find_overlays(images, make_maps(boxes))
    assert len(found.overlays) == 1
    (stamp,) = found.overlays
    assert stamp.null_score < stamp.threshold < stamp.score <= 1 + 1e-5
    assert stamp.share > stamp.area
    (places,) = found.search(images)
    assert [bool(occurrences) for occurrences in places] == [box is not None for box in boxes]
    for occurrences, box in zip(places, boxes, strict=True):
        if box is not None:
            assert len(occurrences) == 1
            assert intersection_over_union(occurrences[0].box, box) > 0.5


def test_overlay_is_found_in_images_outside_the_sample(sample):
    _, _, found = sample
    others, where = add_pattern(make_textures(seed=8), seed=9)
    (places,) = found.search(others)
    assert [bool(occurrences) for occurrences in places] == [box is not None for box in where]


def test_share_and_area_are_means_over_the_images_with_the_overlay(sample):
    images, boxes, found = sample
    maps = make_maps(boxes).repeat_interleave(SIDE // CELLS, 1).repeat_interleave(SIDE // CELLS, 2)
    covered = [make_mask([one.box for one in occurrences]) for occurrences in found.search(images)[0]]
    shares = [float(one[mask].sum() / one.sum()) for one, mask in zip(maps, covered, strict=True) if mask.any()]
    areas = [float(mask.float().mean()) for mask in covered if mask.any()]
    assert found.overlays[0].share == pytest.approx(np.mean(shares), abs=1e-5)
    assert found.overlays[0].area == pytest.approx(np.mean(areas), abs=1e-5)


def test_a_part_of_an_overlay_needs_enough_images_of_its_own():
    letter, word = PATTERN, torch.cat([PATTERN, WIDE[:, :16]], 1)
    for alone in (8, 12):
        words, word_boxes = add_pattern(make_textures(16), share=1, pattern=word)
        letters, letter_boxes = add_pattern(make_textures(32, seed=4), share=alone / 32, seed=2, pattern=letter)
        boxes = [*word_boxes, *letter_boxes]
        found = find_overlays(torch.cat([words, letters]), make_maps(boxes))
        assert len(found.overlays) == 1 + (alone >= 10)


def test_overlay_wider_than_the_crops_is_found_once():
    images, boxes = add_pattern(make_textures(), pattern=WIDE)
    found = find_overlays(images, make_maps(boxes))
    assert len(found.overlays) == 1
    (places,) = found.search(images)
    assert [len(occurrences) for occurrences in places] == [box is not None for box in boxes]
    for occurrences, box in zip(places, boxes, strict=True):
        assert box is None or intersection_over_union(occurrences[0].box, box) > 0.6


def add_watermark(images, share=0.5, seed=1):
    """Images of which a share has the pattern again and again, wherever the sheet begins, and where its strokes are."""
    random, images = torch.Generator().manual_seed(seed), images.clone()
    tile = F.pad(PATTERN.flip(0), (0, 5, 0, 6))
    sheet = torch.cat([tile.roll(4 * row, 1).repeat(1, 9) for row in range(9)])
    strokes = torch.zeros(len(images), SIDE, SIDE, dtype=torch.bool)
    for i in range(int(share * len(images))):
        y, x = (int(torch.randint(side, (), generator=random)) for side in tile.shape)
        strokes[i] = sheet[y : y + SIDE, x : x + SIDE] > 0
        images[i, :, strokes[i]] += 0.8
    return images, strokes


def make_mask(boxes):
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        mask[round(y0 * SIDE) : round(y1 * SIDE), round(x0 * SIDE) : round(x1 * SIDE)] = True
    return mask


def test_a_watermark_is_found_by_its_strokes_although_it_has_no_more_mass_than_area():
    images, strokes = add_watermark(make_textures())
    found = find_overlays(images, make_maps([None] * N))
    assert [stamp.is_watermark for stamp in found.overlays] == [True]
    (places,) = found.search(images)
    assert [bool(occurrences) for occurrences in places] == strokes.flatten(1).any(1).tolist()
    region = torch.stack([make_mask(found.region(0, occurrences, SIDE, SIDE)) for occurrences in places])
    assert (region & strokes).sum() > 0.8 * (region | strokes).sum()


def test_tag_over_a_watermark_is_a_separate_overlay():
    images, strokes = add_watermark(make_textures())
    images, boxes = add_pattern(images.flip(0), share=0.75)
    found = find_overlays(images, make_maps(boxes))
    assert sorted(stamp.is_watermark for stamp in found.overlays) == [False, True]
    for stamp, places in zip(found.overlays, found.search(images), strict=True):
        truth = strokes.flip(0).flatten(1).any(1).tolist() if stamp.is_watermark else [box is not None for box in boxes]
        assert [bool(occurrences) for occurrences in places] == truth


def test_rectangles_are_disjoint_and_cover_the_mask():
    mask = torch.rand(9, 13, generator=torch.Generator().manual_seed(4)) > 0.4
    counts = torch.zeros(9, 13)
    for x0, y0, x1, y1 in cover_with_rectangles(mask.numpy()):
        counts[y0:y1, x0:x1] += 1
    assert torch.equal(counts, mask.float())
    assert cover_with_rectangles(np.ones((3, 4), np.bool_)) == [(0, 0, 4, 3)]
    assert cover_with_rectangles(np.zeros((3, 4), np.bool_)) == []


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_textures_have_no_overlay(seed):
    assert find_overlays(make_textures(seed=seed), make_maps([None] * N, seed)).overlays == ()


@pytest.mark.parametrize("seed", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_similar_objects_are_not_an_overlay(seed):
    images, boxes = make_blobs(seed=seed)
    assert find_overlays(images, make_maps(boxes)).overlays == ()


def test_straight_edge_is_not_an_overlay():
    images = make_textures()
    images[..., :3], images[..., :3, :], images[..., -3:], images[..., -3:, :] = 4, 4, 4, 4
    assert find_overlays(images, make_maps([(0, 0, 0.2, 0.2)] * N)).overlays == ()


def test_pattern_without_mass_is_not_an_overlay():
    images, boxes = add_pattern(make_textures())
    maps = make_maps([None] * N)
    for one, box in zip(maps, boxes, strict=True):
        if box is not None:
            x0, y0, x1, y1 = (v * CELLS for v in box)
            one[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = 0
    assert find_overlays(images, maps).overlays == ()


def test_copies_of_one_image_have_no_overlay():
    images = make_textures(1).expand(N, -1, -1, -1) + 0.01 * make_textures(seed=5)
    assert find_overlays(images, make_maps([(0.2, 0.2, 0.4, 0.4)] * N)).overlays == ()


def test_gray_in_three_channels_equals_gray_in_one(sample):
    images, boxes, one = sample
    gray = images.expand(-1, 3, -1, -1) * torch.tensor([1.0, 2.0, 0.5])[:, None, None] + 1
    three = find_overlays(gray, make_maps(boxes))
    assert [stamp.mask.shape for stamp in one.overlays] == [stamp.mask.shape for stamp in three.overlays]
    assert [bool(places) for places in three.search(gray)[0]] == [bool(places) for places in one.search(images)[0]]


def test_the_order_of_images_does_not_matter(sample):
    images, boxes, found = sample
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    (first,), (other,) = found.overlays, find_overlays(images[order], make_maps(boxes)[order]).overlays
    assert torch.equal(first.template, other.template)
    assert (first.null_score, first.score, first.share) == (other.null_score, other.score, other.share)


@pytest.mark.parametrize(
    ("images", "maps"),
    [
        (torch.zeros(30, 3, 64, 64), torch.rand(30, 8, 8, generator=torch.Generator().manual_seed(0))),
        (make_textures(1), torch.ones(1, 8, 8)),
        (make_textures(30), torch.zeros(30, 8, 8)),
        (make_textures(30), torch.ones(30, 1, 1)),
        (make_textures(30), torch.rand(30, 2, 3, generator=torch.Generator().manual_seed(0))),
        (make_textures(30)[..., :9, :9], torch.rand(30, 3, 3, generator=torch.Generator().manual_seed(0))),
    ],
    ids=["constant images", "one image", "empty maps", "one cell", "few cells", "tiny images"],
)
def test_empty_or_uniform_input_has_no_overlay(images, maps):
    found = find_overlays(images, maps)
    assert found.overlays == ()
    assert found.search(images) == []


@pytest.mark.slow
def test_images_of_large_patches_are_downsampled():
    images, boxes = add_pattern(make_textures())
    large = F.interpolate(images, scale_factor=4, mode="bicubic")
    found = find_overlays(large, make_maps(boxes))
    assert found.whitener.reduction == 2
    (places,) = found.search(large)
    assert [bool(occurrences) for occurrences in places] == [box is not None for box in boxes]


def test_hot_cells_are_separate_and_have_more_than_an_even_share():
    one = torch.ones(1, 4, 4)
    assert find_hot_cells(one, 3) == [[]]
    one[0, 1, 1], one[0, 1, 2], one[0, 3, 3] = 9, 8, 7
    assert find_hot_cells(one, 3) == [[(1, 1), (3, 3)]]
    assert find_hot_cells(one, 1) == [[(1, 1)]]


def test_whitening_filters_an_image_together_with_its_mirror_images():
    images = make_textures(24, channels=2)[..., :47, :38]
    whitener = Whitener.fit(images, 1)
    mirrored = torch.cat([images, images.flip(-1)], -1)
    spectrum = torch.fft.rfft2(torch.cat([mirrored, mirrored.flip(-2)], -2))
    expected = torch.fft.irfft2(spectrum * whitener.gain, s=(94, 76))[..., :47, :38]
    torch.testing.assert_close(whitener.apply(images), expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def windows():
    """Images, of which the first two are near-duplicates and the third has little contrast, and their windows."""
    images, boxes = add_pattern(make_textures(24, channels=2), share=0.75)
    images[1] = images[0] + 0.01
    images[2] *= 0.05
    return images, cut_windows(images, make_maps(boxes), 2)


def correlate_directly(core, surroundings):
    """Return the correlations of a core with all places of its surroundings, with the minimum contrast of 0.1."""
    places = surroundings.unfold(1, core.shape[1], 1).unfold(2, core.shape[2], 1)
    energy = places.square().sum((0, 3, 4)).clamp_min(0.01 * core.square().sum())
    return (places * core[:, None, None]).sum((0, 3, 4)) / (core.norm() * energy.sqrt())


def test_windows_are_compared_by_normalized_correlation(windows):
    images, cut = windows
    least = 5
    found = compare_windows(cut, images, least)
    for row in range(0, len(cut), 3):
        best, null = torch.full((24,), -1.0), torch.full((24,), -1.0)
        for column, image in enumerate(cut.image.tolist()):
            around = cut.surroundings[column]
            scores = correlate_directly(cut.core[row], around)
            assert found.scores[row, column] == pytest.approx(float(scores.max()), abs=1e-5)
            assert scores.flatten()[found.shifts[row, column]] == pytest.approx(float(scores.max()), abs=1e-5)
            if image == cut.image[row] or {image, int(cut.image[row])} == {0, 1}:
                continue
            rescaled = rescale(around, (0.8, 0.9, 1.1, 1.25)[column % 4])
            best[image] = max(best[image], scores.max())
            null[image] = max(null[image], correlate_directly(cut.core[row], rescaled).max())
        torch.testing.assert_close(found.by_image[row], best, atol=1e-5, rtol=0)
        best, null = best.sort(descending=True).values, null.sort(descending=True).values
        if best[least - 1] > null[0]:
            expected = (best[least - 1] - null[least - 1]) * cut.core[row].square().sum()
            assert found.null_max[row] == pytest.approx(float(null[0]), abs=1e-5)
            assert found.prominence[row] == pytest.approx(float(expected), rel=1e-4)
        else:
            assert (found.null_max[row], found.prominence[row]) == (torch.inf, 0)
    assert 0 < int((found.prominence > 0).sum()) < len(cut)


def rescale(picture, scale):
    """Scale an image about its center to a size that is rounded, and crop it or pad it with zeros."""
    old, result = picture.shape[-1], torch.zeros_like(picture)
    new = round(old * scale)
    resized = F.interpolate(picture[None], size=(new, new), mode="bicubic", antialias=scale < 1)[0]
    if new > old:
        start = (new - old) // 2
        return resized[:, start : start + old, start : start + old]
    start = -((new - old) // 2)
    result[:, start : start + new, start : start + new] = resized
    return result


@pytest.mark.parametrize("size", [1, 7])
def test_the_comparison_of_a_window_does_not_depend_on_the_other_rows(windows, size):
    images, cut = windows
    parts = [compare_windows(cut, images, 5, slice(start, start + size)) for start in range(0, len(cut), size)]
    for name, whole in vars(compare_windows(cut, images, 5)).items():
        torch.testing.assert_close(torch.cat([getattr(part, name) for part in parts]), whole, atol=1e-6, rtol=1e-5)


def test_values_that_are_not_finite_raise():
    with pytest.raises(ValueError, match="not finite"):
        find_overlays(torch.full((2, 1, 8, 8), torch.nan), torch.zeros(2, 2, 2))


@pytest.mark.parametrize("maps", [0, 3])
def test_each_image_needs_a_map(maps, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests' own check of shapes
    with pytest.raises(ValueError, match=f"got 2 and {maps}, expected one map per image"):
        find_overlays(torch.zeros(2, 1, 8, 8), torch.zeros(maps, 2, 2))
