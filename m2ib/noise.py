"""Generate noise that depends only on the seed, the pair and the tower, not on the batch, the shard or the device.

The module implements the counter-based generator Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as
1, 2, 3", SC 2011) in integer tensor operations. CPU and GPU generate the same integers, and normal numbers that differ
only by rounding.
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from m2ib.config import TowerName
from m2ib.devices import copy_to

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key after each round
LOW = 0xFFFFFFFF

Words = Int[Tensor, "..."]


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Return four tensors of 32 random bits for each counter, by the generator Philox4x32-10.

    The words of counter and key are int64 tensors with values below 2**32, which are broadcast against each other.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # The product of two words may exceed 2**63. The mask removes the sign of the shift; the other bits are correct.
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = second.bitwise_right_shift(32).bitwise_and_(LOW), first.bitwise_right_shift(32).bitwise_and_(LOW)
        c0, c2 = c0 ^ c1 ^ k0, c2 ^ c3 ^ k1
        c1, c3 = second.bitwise_and_(LOW), first.bitwise_and_(LOW)
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return c0, c1, c2, c3


def box_muller(words: tuple[Words, Words, Words, Words]) -> Float[Tensor, "..."]:
    """Transform uniform random integers below 2**32 to standard normal numbers (Box and Muller 1958).

    The result has four finite numbers in a new last dimension.
    """
    a, b, c, d = (word.float() for word in words)
    # Add half a unit, because the logarithm of 0 is not finite.
    radius = [torch.sqrt(-2.0 * torch.log((word + 0.5) * 2.0**-32)) for word in (a, c)]
    angle = [word * (2.0 * math.pi * 2.0**-32) for word in (b, d)]
    parts = [r * turn for r, t in zip(radius, angle, strict=True) for turn in (torch.cos(t), torch.sin(t))]
    return torch.stack(parts, dim=-1)


def normals(
    keys: Int[Tensor, "pairs 2"], draws: int, step: Int[Tensor, ""], count: int
) -> Float[Tensor, "draws pairs count"]:
    """Return `count` standard normal numbers for each noise sample and pair in one optimization step.

    Value i of a noise sample depends only on the pair's key (two 32-bit integers), the number of the sample, the step
    and i. It does not depend on `count`, so that padding does not change the noise.
    """
    place = torch.arange(-(-count // 4), device=keys.device)
    draw = torch.arange(draws, device=keys.device)[:, None, None]
    key = (keys[:, :1], keys[:, 1:])
    return box_muller(philox((place, draw, step, torch.zeros_like(step)), key)).flatten(-2)[..., :count]


class KeyedNoise:
    """Source of standard normal noise for a batch of pairs.

    Equal seeds, keys (a string for each pair) and towers give equal noise. `source` is the function `normals`, or a
    compiled version of it.
    """

    def __init__(
        self,
        seed: int,
        keys: Sequence[str],
        tower: TowerName,
        device: torch.device | str = "cpu",
        source: Callable[..., Tensor] = normals,
    ) -> None:
        digests = [hashlib.sha256(f"{seed}\x1f{tower}\x1f{key}".encode()).digest() for key in keys]
        words = [[int.from_bytes(digest[at : at + 4], "big") for at in (0, 4)] for digest in digests]
        self._keys = copy_to(torch.device(device), torch.tensor(words))
        self._source = source

    def draw(
        self, step: int, draws: int, antithetic: bool, tokens: int, width: int, rows: Tensor | None = None
    ) -> Float[Tensor, "draws pairs tokens width"]:
        """Generate `draws` noise samples for one optimization step, for all pairs or those at the indices `rows`.

        If `antithetic`, the second half of the samples is the negative of the first half.
        """
        keys = self._keys if rows is None else self._keys[rows]
        base = draws // 2 if antithetic else draws
        number = torch.full((), step, dtype=torch.long, device=keys.device)  # copying a Python number would synchronize
        eps = self._source(keys, base, number, tokens * width).unflatten(-1, (tokens, width))
        return torch.cat([eps, -eps]) if antithetic else eps
