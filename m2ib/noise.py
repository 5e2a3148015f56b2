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

    def draw(
        self, draws: int, antithetic: bool, tokens: int, width: int, rows: Sequence[int] | None = None
    ) -> Float[Tensor, "draws pairs tokens width"]:
        """The next draws of all pairs, or of some; with `antithetic`, the second half is the first, negated."""
        rows = range(len(self._generators)) if rows is None else rows
        base = draws // 2 if antithetic else draws
        out = torch.zeros(draws, len(rows), tokens, width)
        for place, pair in enumerate(rows):
            length = self._lengths[pair]
            out[:base, place, :length] = torch.randn(base, length, width, generator=self._generators[pair])
        if antithetic:
            torch.neg(out[:base], out=out[base:])
        return out
