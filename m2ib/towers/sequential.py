"""Image towers that consist of an embedding, a sequence of blocks and a head.

Blocks exchange tokens or convolutional feature maps. `m2ib/towers/trunks.py` defines the parts of each model family.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from m2ib.errors import UnsupportedModelError
from m2ib.towers.base import CONTENT, FIRST_SPECIAL, HiddenTokens, Pixels, Tower, in_weights_precision

Shared = dict[str, Tensor]
Block = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class TowerParts:
    """Functions that compute the parts of an image tower. They call the modules of the model.

    Each block runs with the tensors that `embed` returns for all blocks (rotary embeddings, position bias). Layers
    between two stages belong to the next block. Blocks before `first_token_layer` return feature maps, the others
    return tokens: CLS and registers (`prefix_tokens`), then the patches of the grid.
    """

    embed: Callable[[Tensor], tuple[Tensor, Shared]]
    blocks: Sequence[Block]
    head: Callable[[Tensor], Tensor]
    pooling: str
    first_token_layer: int = -1
    channels_last: bool = False  # whether feature maps are (inputs, h, w, channels)
    prefix_tokens: int = 0
    grid: Callable[[Tensor], tuple[int, int]] = lambda _pixels: (0, 0)


def sequential_block(*modules: nn.Module) -> Block:
    """Return a block that runs modules one after the other. The modules take only hidden states."""

    def step(x: Tensor, _shared: Mapping[str, Tensor]) -> Tensor:
        for module in modules:
            x = module(x)
        return x

    return step


def flatten_stages(stages: Any, before: Sequence[str] = ()) -> list[Block]:
    """Return the blocks of all stages in order: those in `stage.blocks`, or else the children of the stage.

    `before` are the names of the modules that a stage runs before its first block, such as "downsample".
    """
    steps: list[Block] = []
    waiting: list[nn.Module] = []
    for stage in stages:
        waiting += [getattr(stage, name) for name in before]
        for block in getattr(stage, "blocks", stage):
            steps.append(sequential_block(*waiting, block))
            waiting = []
    return steps


class SequentialImageTower(Tower):
    """Image tower that runs the functions of `TowerParts`."""

    def __init__(self, visual: nn.Module, parts: TowerParts) -> None:
        self._visual = visual
        self._parts = parts
        self.num_blocks = len(parts.blocks)
        self.pooling = parts.pooling

    @torch.no_grad()
    def run_prefix(self, inputs: Pixels, layer: int) -> HiddenTokens:
        """Return the hidden states after block `layer`: CLS and registers, then patches row by row."""
        x, shared = self._parts.embed(in_weights_precision(inputs, self._visual))
        for block in self._parts.blocks[: layer + 1]:
            x = block(x, shared)
        return self._describe_tokens(inputs, x, shared, layer)

    def _describe_tokens(self, inputs: Pixels, x: Tensor, shared: Shared, layer: int) -> HiddenTokens:
        """Return what the blocks exchange after block `layer` as tokens."""
        if layer < self._parts.first_token_layer:
            x = x if self._parts.channels_last else x.permute(0, 2, 3, 1)
            grid = (x.shape[1], x.shape[2])
            x, prefix_tokens = x.flatten(1, 2), 0
        else:
            grid, prefix_tokens = self._parts.grid(inputs), self._parts.prefix_tokens
        if x.shape[1] != prefix_tokens + grid[0] * grid[1]:
            raise UnsupportedModelError(
                f"image tower: got {x.shape[1]} tokens after block {layer}, expected {prefix_tokens} special tokens "
                f"and {grid[0]} x {grid[1]} patches"
            )
        kinds = torch.full(x.shape[:2], CONTENT, device=x.device)
        kinds[:, :prefix_tokens] = FIRST_SPECIAL
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return HiddenTokens(hidden=x, valid=valid, kinds=kinds, grid=grid, ids=None, context={}, shared=shared)

    @torch.no_grad()
    def embed_and_capture(
        self, inputs: Pixels, tokens: HiddenTokens, layer: int, deep: int
    ) -> tuple[Tensor, HiddenTokens]:
        """Return embeddings, and the hidden states after block `deep`, which may have a smaller grid."""
        x = self._run_blocks(self._shape_tokens(tokens.hidden, tokens.grid, layer), tokens.shared, layer, deep)
        return self._finish(x, tokens.shared, deep), self._describe_tokens(inputs, x, tokens.shared, deep)

    def _embed_codes(self, x: Tensor, context: dict[str, Tensor], grid: tuple[int, int] | None, layer: int) -> Tensor:
        return self._finish(self._shape_tokens(x, grid, layer), context, layer)

    def _shape_tokens(self, x: Tensor, grid: tuple[int, int] | None, layer: int) -> Tensor:
        """Return tokens after block `layer` as its next block takes them: as a feature map, if it is a convolution."""
        if layer >= self._parts.first_token_layer or grid is None:
            return x
        x = x.unflatten(1, grid)
        return x if self._parts.channels_last else x.permute(0, 3, 1, 2)

    def _run_blocks(self, x: Tensor, context: Mapping[str, Tensor], layer: int, last: int) -> Tensor:
        """Run the blocks after `layer` up to block `last`."""
        for block in self._parts.blocks[layer + 1 : last + 1]:
            x = block(x, context)
        return x

    def _finish(self, x: Tensor, context: Mapping[str, Tensor], layer: int) -> Tensor:
        """Run the blocks after `layer` and the head."""
        return self._parts.head(self._run_blocks(x, context, layer, self.num_blocks - 1))
