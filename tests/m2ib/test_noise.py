"""Keyed noise: the published generator, normal distribution, and one stream per pair."""

import pytest
import torch

from m2ib.noise import KeyedNoise, box_muller, philox

# Known answers of Philox4x32-10 in Random123, the reference implementation: counter, key, output.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_equals_the_published_vectors(counter, key, expected):
    words = philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert [int(word) for word in words] == expected


def test_draws_are_standard_normal():
    noise = KeyedNoise(0, ["a", "b"], "image").draw(1, 2, False, 500, 256)
    noise = noise.double().flatten()
    count = len(noise)
    assert abs(noise.mean()) < 4 / count**0.5
    assert abs(noise.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs(noise.pow(3).mean()) < 4 * (15 / count) ** 0.5
    assert abs(noise.pow(4).mean() - 3) < 4 * (96 / count) ** 0.5
    assert bool(noise.isfinite().all())
    neighbors = torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1]
    assert abs(neighbors) < 4 / count**0.5


def test_extreme_words_are_finite():
    ends = torch.tensor([0, 2**32 - 1])
    noise = box_muller(tuple(torch.meshgrid(ends, ends, ends, ends, indexing="ij")))
    assert bool(noise.isfinite().all())
    assert float(noise.abs().max()) > 6, "the smallest word gives the largest number"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same():
    here, there = (KeyedNoise(0, ["a", "b"], "image", device).draw(1, 2, True, 50, 64) for device in ("cpu", "cuda"))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)


def test_noise_of_a_pair_does_not_depend_on_its_batch():
    noise = KeyedNoise(3, ["a", "b", "c"], "text")
    both_pairs = noise.draw(2, 4, True, 7, 6)
    assert torch.equal(both_pairs[:2], -both_pairs[2:])
    assert torch.equal(KeyedNoise(3, ["b"], "text").draw(2, 4, True, 7, 6), both_pairs[:, 1:2]), "neighbors"
    assert torch.equal(noise.draw(2, 4, True, 7, 6, torch.tensor([2, 0])), both_pairs[:, [2, 0]]), "rows"
    assert torch.equal(noise.draw(2, 4, True, 5, 6), both_pairs[:, :, :5]), "padding"
    others = [
        KeyedNoise(4, ["a"], "text").draw(2, 4, True, 7, 6),
        KeyedNoise(3, ["a"], "image").draw(2, 4, True, 7, 6),
        KeyedNoise(3, ["a"], "text").draw(3, 4, True, 7, 6),
        both_pairs[:, 1:2],
        both_pairs[1:2, :1],
    ]
    assert all(
        abs(float(torch.corrcoef(torch.stack([o[0].flatten(), both_pairs[0, 0].flatten()]))[0, 1])) < 0.6
        for o in others
    )
