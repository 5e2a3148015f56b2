"""Perceptual hashes of images, and groups of near-duplicates by their Hamming distance.

A hash consists of 64 bits of the low frequencies of an image's cosine transform (pHash). Scaling or recompressing the
image changes few of these bits. Two images are near-duplicates if at most `MAX_DIFFERENT_BITS` bits of their hashes
differ. Then at least one of the four 16-bit bands of the two hashes is equal. The search compares only hashes with an
equal band, and finds all near-duplicates.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_DIFFERENT_BITS: Final = 3
"""Largest number of differing hash bits of near-duplicates. It is below `_BANDS`, so the search misses none."""

_SIDE: Final = 32
_SAMPLES: Final = 6  # pixels along each side of the part of an image that becomes a gray value
# Rounded to integers, whose products and sums float64 represents exactly. So no bit depends on the order of summation,
# which differs between machines.
_COSINES: Final = np.rint(2**16 * np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE)))

_BANDS: Final = 4
_CHUNK: Final = 2048  # number of hashes compared at a time with all hashes that have an equal band

Hashes = NDArray[np.uint64]


def perceptual_hash(pixels: Image.Image) -> str:
    """Return the perceptual hash of an RGB image as 16 hex digits. The result is the same on every machine.

    The image is reduced to 32 x 32 gray values. Each of the 8 x 8 lowest frequencies of their cosine transform yields
    one bit, which is set if the coefficient is above the median of the 64 coefficients.
    """
    return hash_thumbnails([make_thumbnail(pixels)])[0]


def make_thumbnail(pixels: Image.Image) -> bytes:
    """Return the 32 x 32 gray values of an RGB image from which `hash_thumbnails` computes its hash.

    Each is the average of 6 x 6 evenly spaced pixels. Averages of all pixels take four times as long, and find few more
    near-duplicates (docs/decisions/0014). The places are shares of the sides, so they are the same in scaled copies.
    """
    side = _SIDE * _SAMPLES
    return pixels.resize((side, side), Image.Resampling.NEAREST).reduce(_SAMPLES).convert("L").tobytes()


def hash_thumbnails(thumbnails: Sequence[bytes]) -> list[str]:
    """Return the perceptual hash of each thumbnail. For one alone, NumPy takes ten times as long per thumbnail."""
    values = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, _SIDE, _SIDE).astype(np.float64)
    low = (_COSINES @ (values @ _COSINES.T)).reshape(-1, 64)
    ranked = np.sort(low)
    return [row.tobytes().hex() for row in np.packbits(2 * low > ranked[:, 31:32] + ranked[:, 32:33], axis=1)]


def parse_hashes(texts: Iterable[str]) -> Hashes:
    """Parse hashes of 16 hex digits into 64-bit integers."""
    return np.fromiter((int(text, 16) for text in texts), np.uint64)


def group_near_duplicates(hashes: Hashes) -> list[list[int]]:
    """Group near-duplicate images. A group is a connected component: its images are linked by near-duplicate pairs.

    Memory grows by about 50 bytes per image. Time grows with the square of the number of hashes with an equal band
    (one of the four 16-bit parts of a hash).

    Returns:
        Groups of two or more indices into `hashes`, the largest group first.
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
    """Return one array per value that occurs more than once: the indices at which it occurs."""
    order = np.argsort(values, kind="stable")
    edges = np.flatnonzero(np.diff(values[order], prepend=-1, append=-1))
    return [order[start:stop] for start, stop in pairwise(edges) if stop - start > 1]


def _join(distinct: Hashes, bucket: NDArray[np.int64], leader: NDArray[np.int64]) -> None:
    """Merge the groups of all near-duplicates among the hashes of a bucket.

    `bucket` has the sorted indices into `distinct` of hashes with an equal band. `leader` is the parent array of a
    disjoint-set forest over `distinct`. It is updated in place.
    """
    for start in range(0, len(bucket), _CHUNK):
        part = bucket[start : start + _CHUNK]
        near = np.bitwise_count(distinct[part][:, None] ^ distinct[bucket][None]) <= MAX_DIFFERENT_BITS
        for one, other in zip(*np.nonzero(np.triu(near, start + 1)), strict=True):
            a, b = _find_root(leader, int(part[one])), _find_root(leader, int(bucket[other]))
            leader[max(a, b)] = min(a, b)


def _find_root(leader: NDArray[np.int64], number: int) -> int:
    """Return the root of an element of a disjoint-set forest, and halve the path to it."""
    while leader[number] != number:
        leader[number] = leader[leader[number]]
        number = int(leader[number])
    return number
