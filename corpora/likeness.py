"""Near duplicates: images that look alike, by the distance of their perceptual hashes.

A hash is 64 bits of the picture's coarse cosine transform (pHash); rescaling or recompressing an image moves few of
them. Alike means that at most `MOST` bits differ: then at least one of the hash's four bands of 16 bits is the same, so
that only hashes that share a band need to be compared, and none is missed.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST: Final = 3
"""Bits in which near duplicates differ; one less than there are bands, so that the search is exact."""

_SIDE: Final = 32
_SAMPLES: Final = 256
# Whole numbers, whose products and sums doubles hold exactly: a bit is never the sign of a rounding error, in whatever
# order a machine adds up.
_COSINES: Final = np.rint(2**16 * np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE)))

_BANDS: Final = 4
_CHUNK: Final = 2048  # hashes compared with a whole bucket at a time

Hashes = NDArray[np.uint64]


def fingerprint(pixels: Image.Image) -> str:
    """The perceptual hash of an image: 16 hex digits, of the RGB pixels alone and alike on every machine.

    In grey at 32 x 32 pixels, the 8 x 8 lowest frequencies of the cosine transform: a bit each, set above their median.
    """
    grey = _coarse(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    values = np.frombuffer(grey.tobytes(), np.uint8).reshape(_SIDE, _SIDE).astype(np.float64)
    low = (_COSINES @ values @ _COSINES.T).flatten()
    ranked = np.sort(low)
    middle = len(low) // 2
    return np.packbits(2 * low > ranked[middle - 1] + ranked[middle]).tobytes().hex()


def _coarse(pixels: Image.Image) -> Image.Image:
    """A shorter side of 64 to 127 pixels, unless it has fewer: means over squares of at least 256 x 256 samples.

    The samples are pixels evenly apart: to average all of a large image costs a fifth of decoding it, and finds no more
    near duplicates (docs/decisions/0014).
    """
    step = max(1, min(pixels.size) // _SAMPLES)
    if step > 1:
        pixels = pixels.resize((pixels.width // step, pixels.height // step), Image.Resampling.NEAREST)
    factor = max(1, min(pixels.size) // (2 * _SIDE))
    return pixels.reduce(factor) if factor > 1 else pixels


def hashes(fingerprints: Iterable[str]) -> Hashes:
    """Fingerprints as the numbers that they spell."""
    return np.fromiter((int(text, 16) for text in fingerprints), np.uint64)


def groups(looks: Hashes) -> list[list[int]]:
    """Places of images that look alike, directly or by way of others; groups of two and more, the largest first.

    Memory grows with the number of images by some fifty bytes each. Time grows with the square of how many share a
    band.
    """
    distinct, inverse = np.unique(looks, return_inverse=True)
    leader = np.arange(len(distinct))
    for band in range(_BANDS):
        part = ((distinct >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(part, kind="stable")
        edges = np.flatnonzero(np.diff(part[order], prepend=-1, append=1 << 16))
        for start, stop in pairwise(edges):
            if stop - start > 1:
                _join(distinct, np.sort(order[start:stop]), leader)
    while (leader[leader] != leader).any():
        leader = leader[leader]
    group = leader[inverse]
    order = np.argsort(group, kind="stable")
    edges = np.flatnonzero(np.diff(group[order], prepend=-1, append=-1))
    found = [order[start:stop].tolist() for start, stop in pairwise(edges) if stop - start > 1]
    return sorted(found, key=lambda places: (-len(places), places))


def _join(distinct: Hashes, bucket: NDArray[np.int64], leader: NDArray[np.int64]) -> None:
    for start in range(0, len(bucket), _CHUNK):
        part = bucket[start : start + _CHUNK]
        near = np.bitwise_count(distinct[part][:, None] ^ distinct[bucket][None]) <= MOST
        for one, other in zip(*np.nonzero(np.triu(near, start + 1)), strict=True):
            a, b = _root(leader, int(part[one])), _root(leader, int(bucket[other]))
            leader[max(a, b)] = min(a, b)


def _root(leader: NDArray[np.int64], number: int) -> int:
    while leader[number] != number:
        leader[number] = leader[leader[number]]
        number = int(leader[number])
    return number
