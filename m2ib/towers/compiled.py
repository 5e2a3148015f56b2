"""A tower whose suffix runs as one compiled program."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from m2ib.towers.base import HiddenTokens, Tower


class CompiledTower:
    """Another tower, with `torch.compile` over its suffix: that part runs often, the prefix once.

    options: of `torch.compile`. The first batch of a shape waits for the compiler; after a second shape PyTorch
    compiles for any.
    """

    def __init__(self, tower: Tower, **options: Any) -> None:
        self.blocks = tower.blocks
        self.pooling = tower.pooling
        self._tower = tower
        self._suffix: Callable[..., Tensor] = torch.compile(tower.suffix, **options)

    def prefix(self, inputs: Tensor, layer: int) -> HiddenTokens:
        """The tower's own."""
        return self._tower.prefix(inputs, layer)

    def suffix(self, codes: Tensor, tokens: HiddenTokens, layer: int) -> Tensor:
        """The tower's own, compiled."""
        return self._suffix(codes, tokens, layer)
