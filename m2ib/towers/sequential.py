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
ALL_TOKENS = -1


@dataclass(frozen=True)
class TowerParts:
    """The parts of an image tower. They call the modules of the model.

    Attributes:
        embed: Function that maps pixels to the input of the first block, and to tensors that all blocks use (rotary
            embeddings, position bias).
        blocks: Functions that run one block each. Layers between two stages belong to the next block.
        head: Function that maps the output of the last block to the embedding.
        pooling: Description of how the tower pools.
        first_token_layer: Index of the first block whose output consists of tokens. Earlier outputs are feature maps.
            ALL_TOKENS if there are no feature maps, len(blocks) if there are no tokens.
        channels_last: Whether feature maps are (inputs, h, w, channels) instead of (inputs, channels, h, w).
        prefix_tokens: Number of CLS and register tokens before the patches.
        grid: Function that maps pixels to the number of rows and columns of the patch tokens.
    """

    embed: Callable[[Tensor], tuple[Tensor, Shared]]
    blocks: Sequence[Block]
    head: Callable[[Tensor], Tensor]
    pooling: str
    first_token_layer: int = ALL_TOKENS
    channels_last: bool = False
    prefix_tokens: int = 0
    grid: Callable[[Tensor], tuple[int, int]] | None = None


def sequential_block(*modules: nn.Module) -> Block:
    """Return a block that runs modules one after the other. The modules take only hidden states."""

    def step(x: Tensor, _shared: Mapping[str, Tensor]) -> Tensor:
        for module in modules:
            x = module(x)
        return x

    return step


def flatten_stages(stages: Any, before: Sequence[str] = ()) -> list[Block]:
    """Return the blocks of all stages in order.

    Args:
        stages: Modules that contain blocks, in `stage.blocks` or as their children.
        before: Names of the modules that a stage runs before its first block, such as "downsample".
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
    """Image tower that runs the functions of `TowerParts`.

    Args:
        visual: Image encoder of the model.
        parts: Parts of that encoder.
    """

    def __init__(self, visual: nn.Module, parts: TowerParts) -> None:
        self._visual = visual
        self._parts = parts
        self.num_blocks = len(parts.blocks)
        self.pooling = parts.pooling

    @torch.no_grad()
    def run_prefix(self, inputs: Pixels, layer: int) -> HiddenTokens:
        """Return the hidden states after block `layer`: CLS and registers, then patches or map cells row by row."""
        x, shared = self._parts.embed(in_weights_precision(inputs, self._visual))
        for block in self._parts.blocks[: layer + 1]:
            x = block(x, shared)
        if layer < self._parts.first_token_layer:
            x = x if self._parts.channels_last else x.permute(0, 2, 3, 1)
            grid = (x.shape[1], x.shape[2])
            x, prefix_tokens = x.flatten(1, 2), 0
        else:
            if self._parts.grid is None:
                raise TypeError(
                    "grid: got None, expected a function that returns the rows and columns of the patch tokens"
                )
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

    def _embed_codes(self, x: Tensor, context: dict[str, Tensor], grid: tuple[int, int] | None, layer: int) -> Tensor:
        if layer < self._parts.first_token_layer and grid is not None:
            x = x.unflatten(1, grid)
            x = x if self._parts.channels_last else x.permute(0, 3, 1, 2)
        for block in self._parts.blocks[layer + 1 :]:
            x = block(x, context)
        return self._parts.head(x)
