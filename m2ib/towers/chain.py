"""An image tower as a chain embed -> blocks -> head, whatever its hidden states look like between two blocks.

A family says which of its own modules are which (`m2ib/towers/trunks.py`); everything else is here, once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m2ib.errors import UnsupportedModelError
from m2ib.towers.base import CONTENT, FIRST_SPECIAL, HiddenTokens, in_weights_precision

Shared = dict[str, Tensor]
Block = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
NO_MAPS = -1


@dataclass(frozen=True)
class Chain:
    """The parts of an image tower; each calls the model's own modules.

    embed: pixels -> what the first block takes, and what all blocks get besides (rotary embeddings, position bias).
    blocks: one step each; what stands between two stages belongs to the first block after it.
    head: output of the last block -> embedding. pooling: in words.
    maps: cuts before this one are feature maps: NO_MAPS for a tower of tokens, len(blocks) for a convolutional one.
    channels_last: maps are (inputs, h, w, channels), not (inputs, channels, h, w).
    prefix_tokens: CLS and registers in front of the patches. grid: of the patches of some pixels, for cuts of tokens.
    """

    embed: Callable[[Tensor], tuple[Tensor, Shared]]
    blocks: Sequence[Block]
    head: Callable[[Tensor], Tensor]
    pooling: str
    maps: int = NO_MAPS
    channels_last: bool = False
    prefix_tokens: int = 0
    grid: Callable[[Tensor], tuple[int, int]] | None = None


def in_turn(*modules: nn.Module) -> Block:
    """One step of a chain: modules that take the hidden states and nothing else."""

    def step(x: Tensor, _shared: Mapping[str, Tensor]) -> Tensor:
        for module in modules:
            x = module(x)
        return x

    return step


def staged(stages: Any, before: Sequence[str] = ()) -> list[Block]:
    """The blocks of all stages in order; `before` names what a stage runs in front of its first block."""
    steps: list[Block] = []
    waiting: list[nn.Module] = []
    for stage in stages:
        waiting += [getattr(stage, name) for name in before]
        for block in getattr(stage, "blocks", stage):
            steps.append(in_turn(*waiting, block))
            waiting = []
    return steps


class ChainImageTower:
    """An image tower that is a `Chain`."""

    def __init__(self, visual: nn.Module, chain: Chain) -> None:
        self._visual = visual
        self._chain = chain
        self.blocks = len(chain.blocks)
        self.pooling = chain.pooling

    @torch.no_grad()
    def prefix(self, inputs: Float[Tensor, "inputs 3 height width"], layer: int) -> HiddenTokens:
        """Hidden states at the cut: CLS and registers if there are any, then patches or map cells row by row."""
        x, shared = self._chain.embed(in_weights_precision(inputs, self._visual))
        for block in self._chain.blocks[: layer + 1]:
            x = block(x, shared)
        if layer < self._chain.maps:
            x = x if self._chain.channels_last else x.permute(0, 2, 3, 1)
            grid = (x.shape[1], x.shape[2])
            x, prefix_tokens = x.flatten(1, 2), 0
        else:
            if self._chain.grid is None:
                raise TypeError("chain of tokens: got no `grid`, expected one that tells their rows and columns")
            grid, prefix_tokens = self._chain.grid(inputs), self._chain.prefix_tokens
        if x.shape[1] != prefix_tokens + grid[0] * grid[1]:
            raise UnsupportedModelError(
                f"image tower: {x.shape[1]} tokens after block {layer}, expected {prefix_tokens} in front of a grid of "
                f"{grid[0]} x {grid[1]}"
            )
        kinds = torch.full(x.shape[:2], CONTENT, device=x.device)
        kinds[:, :prefix_tokens] = FIRST_SPECIAL
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return HiddenTokens(hidden=x, valid=valid, kinds=kinds, grid=grid, ids=None, context={}, shared=shared)

    def suffix(
        self, codes: Float[Tensor, "draws inputs tokens width"], tokens: HiddenTokens, layer: int
    ) -> Float[Tensor, "draws inputs embed"]:
        """Embeddings of codes at the cut."""
        x = codes.flatten(0, 1).to(tokens.hidden.dtype)
        if layer < self._chain.maps and tokens.grid is not None:
            x = x.unflatten(1, tokens.grid)
            x = x if self._chain.channels_last else x.permute(0, 3, 1, 2)
        for block in self._chain.blocks[layer + 1 :]:
            x = block(x, tokens.shared)
        return self._chain.head(x).unflatten(0, codes.shape[:2])
