"""Perceptual hashes of images, and groups of near-duplicates by their Hamming distance.

A hash is 64 bits of the coarse cosine transform of an image (pHash). Rescaling or recompressing changes few of them.
Two images are near-duplicates if at most `MAX_DIFFERENT_BITS` bits differ. At least one of the four 16-bit bands of
their hashes is then equal, so comparing only hashes that share a band misses none.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_DIFFERENT_BITS: Final = 3
"""Largest Hamming distance of near-duplicates: one less than the number of bands, which makes the search exact."""

_SIDE: Final = 32
_SAMPLES: Final = 256
# Integers: float64 holds their products and sums exactly, so no bit depends on the order in which a machine adds up.
_COSINES: Final = np.rint(2**16 * np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE)))

_BANDS: Final = 4
_CHUNK: Final = 2048  # hashes compared with a whole bucket at a time

Hashes = NDArray[np.uint64]


def perceptual_hash(pixels: Image.Image) -> str:
    """Return the perceptual hash of an RGB image as 16 hex digits, the same on every machine.

    The image is reduced to 32 x 32 gray values. Each of the 8 x 8 lowest frequencies of their cosine transform gives a
    bit, set where it is above the median.
    """
    gray = _reduce(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    values = np.frombuffer(gray.tobytes(), np.uint8).reshape(_SIDE, _SIDE).astype(np.float64)
    low = (_COSINES @ values @ _COSINES.T).flatten()
    ranked = np.sort(low)
    middle = len(low) // 2
    return np.packbits(2 * low > ranked[middle - 1] + ranked[middle]).tobytes().hex()


def _reduce(pixels: Image.Image) -> Image.Image:
    """Reduce the shorter side to 64 to 127 pixels by averaging squares of at least 256 x 256 evenly spaced samples.

    Averaging all pixels of a large image takes a fifth of the time of decoding it, and finds no more near-duplicates
    (docs/decisions/0014).
    """
    step = max(1, min(pixels.size) // _SAMPLES)
    if step > 1:
        pixels = pixels.resize((pixels.width // step, pixels.height // step), Image.Resampling.NEAREST)
    factor = max(1, min(pixels.size) // (2 * _SIDE))
    return pixels.reduce(factor) if factor > 1 else pixels


def parse_hashes(texts: Iterable[str]) -> Hashes:
    """Parse hashes of 16 hex digits into 64-bit integers."""
    return np.fromiter((int(text, 16) for text in texts), np.uint64)


def group_near_duplicates(hashes: Hashes) -> list[list[int]]:
    """Group images that are near-duplicates, directly or through others.

    Memory grows by about 50 bytes per image, and time with the square of the number of hashes that share a band.

    Args:
        hashes: One hash per image.

    Returns:
        Groups of two or more positions in `hashes`, the largest group first.
    """
    distinct, inverse = np.unique(hashes, return_inverse=True)
    leader = np.arange(len(distinct))
    for band in range(_BANDS):
        part = ((distinct >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.int64)
        for bucket in _group_equal(part):
            _join(distinct, np.sort(bucket), leader)
    while (leader[leader] != leader).any():
        leader = leader[leader]
    groups = [positions.tolist() for positions in _group_equal(leader[inverse])]
    return sorted(groups, key=lambda positions: (-len(positions), positions))


def _group_equal(values: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the positions of each value that occurs more than once."""
    order = np.argsort(values, kind="stable")
    edges = np.flatnonzero(np.diff(values[order], prepend=-1, append=-1))
    return [order[start:stop] for start, stop in pairwise(edges) if stop - start > 1]


def _join(distinct: Hashes, bucket: NDArray[np.int64], leader: NDArray[np.int64]) -> None:
    """Union the near-duplicates of a bucket; `leader` is the parent array of a disjoint-set forest."""
    for start in range(0, len(bucket), _CHUNK):
        part = bucket[start : start + _CHUNK]
        near = np.bitwise_count(distinct[part][:, None] ^ distinct[bucket][None]) <= MAX_DIFFERENT_BITS
        for one, other in zip(*np.nonzero(np.triu(near, start + 1)), strict=True):
            a, b = _find_root(leader, int(part[one])), _find_root(leader, int(bucket[other]))
            leader[max(a, b)] = min(a, b)


def _find_root(leader: NDArray[np.int64], number: int) -> int:
    while leader[number] != number:
        leader[number] = leader[leader[number]]
        number = int(leader[number])
    return number
