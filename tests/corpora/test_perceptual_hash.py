"""Exactly the near-duplicates are found, without comparing all pairs of images."""

import io

import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from corpora.perceptual_hash import MAX_DIFFERENT_BITS, group_near_duplicates, parse_hashes, perceptual_hash


def make_drawing(seed, size=96):
    image, numbers = Image.new("RGB", (96, 96), (90, 90, 90)), np.random.default_rng(seed)
    for _ in range(12):
        x, y = (int(number) for number in numbers.integers(96, size=2))
        color = tuple(int(number) for number in numbers.integers(256, size=3))
        ImageDraw.Draw(image).ellipse((x - 18, y - 18, x + 18, y + 18), fill=color)
    return image.resize((size, size))


def test_only_resized_copies_are_near_duplicates():
    hashes = [perceptual_hash(make_drawing(seed, size)) for seed in range(6) for size in (96, 80)]
    assert {len(text) for text in hashes} == {16}
    assert group_near_duplicates(parse_hashes(hashes)) == [[place, place + 1] for place in range(0, 12, 2)]


def group_by_all_pairs(hashes):
    """Group by comparing all pairs."""
    sets = [{place} for place in range(len(hashes))]
    for one in range(len(hashes)):
        for other in range(one):
            if (hashes[one] ^ hashes[other]).bit_count() <= MAX_DIFFERENT_BITS and sets[one] is not sets[other]:
                joint = sets[one] | sets[other]
                for place in joint:
                    sets[place] = joint
    return sorted({tuple(sorted(found)) for found in sets if len(found) > 1}, key=lambda found: (-len(found), found))


@given(st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=4)), max_size=12))
def test_groups_equal_those_of_comparing_all_pairs(changes):
    bases = (0, 2**64 - 1, 0x0123456789ABCDEF, 0x5555555555555555)
    hashes = [bases[base] ^ sum(1 << bit for bit in bits) for base, bits in changes]
    assert [
        tuple(found) for found in group_near_duplicates(parse_hashes(f"{value:016x}" for value in hashes))
    ] == group_by_all_pairs(hashes)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_large_buckets_are_compared_in_parts(monkeypatch, chunk):
    hashes = [0, 1, 3, 0xFF, 0xFE, 1 << 63]
    monkeypatch.setattr("corpora.perceptual_hash._CHUNK", chunk)
    assert [tuple(found) for found in group_near_duplicates(np.array(hashes, np.uint64))] == group_by_all_pairs(hashes)


def compute_hash_with_scipy(pixels):
    """Compute the hash of 32 x 32 pixels with the transform of SciPy."""
    low = scipy.fft.dctn(np.asarray(pixels.convert("L"), np.float64))[:8, :8].ravel()
    return "".join(str(int(value > np.median(low))) for value in low)


@pytest.mark.parametrize("seed", range(8))
def test_a_hash_is_that_of_the_cosine_transform(seed):
    small = make_drawing(seed, 32)
    assert f"{int(perceptual_hash(small), 16):064b}" == compute_hash_with_scipy(small)


@pytest.mark.parametrize("color", [(7, 8, 9), (255, 255, 255), (90, 17, 203)])
@pytest.mark.parametrize("size", [(1, 1), (31, 200), (64, 64), (500, 700)])
def test_a_uniform_image_has_one_hash_whatever_its_color_and_size(color, size):
    assert perceptual_hash(Image.new("RGB", size, color)) == "8000000000000000"


def make_photograph(seed, width=900, height=700):
    """Make noise whose amplitude decreases with frequency, as in photographs, with some edges."""
    numbers = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum = np.exp(2j * np.pi * numbers.random(frequency.shape)) / np.maximum(frequency, 1 / width)
    values = np.fft.irfft2(spectrum, s=(height, width))
    image = Image.fromarray((120 + 45 * values / values.std()).clip(0, 255).astype(np.uint8)).convert("RGB")
    for x, y, radius in numbers.integers((0, 0, 20), (width, height, 150), (8, 3)):
        ImageDraw.Draw(image).ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=(int(radius), 60, int(y) % 256)
        )
    return image


def test_copies_of_photographs_are_found_from_a_subset_of_pixels():
    found, changed = 0, 0
    for seed in range(12):
        original = make_photograph(seed)
        file = io.BytesIO()
        original.save(file, "JPEG", quality=60)
        copies = [
            Image.open(file),
            original.resize((810, 630)),
            original.resize((450, 350)),
            original.resize((270, 210), Image.Resampling.BOX),
        ]
        hashes = parse_hashes(map(perceptual_hash, [original, *(copy.convert("RGB") for copy in copies)]))
        found += int((np.bitwise_count(hashes[0] ^ hashes[1:]) <= MAX_DIFFERENT_BITS).sum())
        changed += len(copies)
    assert found >= 0.9 * changed


def test_different_photographs_are_not_near_duplicates():
    assert group_near_duplicates(parse_hashes(perceptual_hash(make_photograph(seed)) for seed in range(12))) == []
