"""Near duplicates: images that look alike, by the distance of their perceptual hashes.

A hash is 64 bits of the picture's coarse cosine transform (pHash, as in ImageHash); rescaling or recompressing an image
moves few of them. Alike means that at most `MOST` bits differ: then at least one of the hash's four bands of 16 bits is
the same, so that only hashes that share a band need to be compared, and none is missed.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST: Final = 3
"""Bits in which near duplicates differ; one less than there are bands, so that the search is exact."""

_BANDS: Final = 4
_CHUNK: Final = 2048  # hashes compared with a whole bucket at a time

Hashes = NDArray[np.uint64]


def fingerprint(pixels: Image.Image) -> str:
    """The perceptual hash of an image: 16 hex digits."""
    import imagehash  # takes a second to import

    # The hash looks at 32 x 32 pixels: what makes twice as many of them at least is reduced the fast way first.
    factor = max(1, min(pixels.size) // 64)
    return str(imagehash.phash(pixels.reduce(factor) if factor > 1 else pixels))


def groups(fingerprints: Sequence[str]) -> list[list[int]]:
    """Places of images that look alike, directly or by way of others; groups of two and more, the largest first.

    Memory grows with the number of images by some ten bytes each. Time grows with the square of how many share a band.
    """
    hashes, inverse = np.unique(np.array([int(text, 16) for text in fingerprints], np.uint64), return_inverse=True)
    leader = np.arange(len(hashes))
    for band in range(_BANDS):
        part = ((hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(part, kind="stable")
        edges = np.flatnonzero(np.diff(part[order], prepend=-1, append=1 << 16))
        for start, stop in pairwise(edges):
            if stop - start > 1:
                _join(hashes, np.sort(order[start:stop]), leader)
    found: dict[int, list[int]] = {}
    for place, number in enumerate(inverse):
        found.setdefault(_root(leader, int(number)), []).append(place)
    return sorted((places for places in found.values() if len(places) > 1), key=lambda places: (-len(places), places))


def _join(hashes: Hashes, bucket: NDArray[np.int64], leader: NDArray[np.int64]) -> None:
    for start in range(0, len(bucket), _CHUNK):
        part = bucket[start : start + _CHUNK]
        near = np.bitwise_count(hashes[part][:, None] ^ hashes[bucket][None]) <= MOST
        for one, other in zip(*np.nonzero(near), strict=True):
            a, b = _root(leader, int(part[one])), _root(leader, int(bucket[other]))
            leader[max(a, b)] = min(a, b)


def _root(leader: NDArray[np.int64], number: int) -> int:
    while leader[number] != number:
        leader[number] = leader[leader[number]]
        number = int(leader[number])
    return number
