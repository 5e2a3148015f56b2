"""Noise that belongs to a pair: keyed by (seed, pair, tower), so that no neighbour, batch or shard changes it."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from m2ib.types import TowerName


def generator(seed: int, key: str, tower: TowerName) -> torch.Generator:
    """The generator of one pair's noise in one tower."""
    digest = hashlib.sha256(f"{seed}\x1f{tower}\x1f{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


class KeyedNoise:
    """Standard normal draws for a batch of pairs, one generator a pair.

    Each call of `draw` advances every generator by its own pair's length only; padding gets zeros.
    """

    def __init__(self, seed: int, keys: Sequence[str], tower: TowerName, lengths: Sequence[int]) -> None:
        self._generators = [generator(seed, key, tower) for key in keys]
        self._lengths = list(lengths)

    def draw(self, draws: int, antithetic: bool, tokens: int, width: int) -> Float[Tensor, "draws pairs tokens width"]:
        """The next draws; with `antithetic`, the second half is the first with the other sign."""
        base = draws // 2 if antithetic else draws
        out = torch.zeros(base, len(self._generators), tokens, width)
        for pair, (source, length) in enumerate(zip(self._generators, self._lengths, strict=True)):
            out[:, pair, :length] = torch.randn(base, length, width, generator=source)
        return torch.cat([out, -out]) if antithetic else out
