"""Image towers of open_clip's VisionTransformer with CLS, average or attention pooling (CLIP, DataComp, CoCa)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

from m2ib.errors import UnsupportedModelError
from m2ib.towers.attention import BlockwiseTower, run_blocks
from m2ib.towers.sequential import SequentialImageTower, TowerParts, sequential_block


class OpenClipImageTower(BlockwiseTower, SequentialImageTower):
    """Image tower with open_clip's VisionTransformer. Its last block computes only the CLS token if that is pooled."""

    POOLING: ClassVar = {"tok": "CLS token", "avg": "average"}

    def __init__(self, visual: VisionTransformer) -> None:
        if getattr(visual, "attn_pool_contrastive", None) is not None:
            raise UnsupportedModelError(
                f"image tower: got attentional_pool {visual.attn_pool_type!r}, expected true or false, because "
                "open_clip returns embeddings with one dimension too many for other values"
            )
        if visual.pool_type not in self.POOLING:
            raise UnsupportedModelError(
                f"image tower: got the pooling {visual.pool_type!r}, which does not give a single embedding; "
                f"expected one of {', '.join(self.POOLING)}"
            )

        def head(x: Tensor) -> Tensor:
            embedding: Tensor = visual._pool(x)[0]
            return embedding if visual.proj is None else embedding @ visual.proj

        self._blocks = visual.transformer.resblocks
        parts = TowerParts(
            embed=lambda pixels: (visual._embeds(pixels), {}),
            blocks=[sequential_block(block) for block in self._blocks],
            head=head,
            pooling="attention" if visual.attn_pool is not None else self.POOLING[visual.pool_type],
            prefix_tokens=1,
            grid=lambda _pixels: visual.grid_size,
        )
        super().__init__(visual, parts)

    def _run_blocks(self, x: Tensor, _context: Mapping[str, Tensor], layer: int, last: int) -> Tensor:
        return run_blocks(self._blocks[layer + 1 : last + 1], x, run_block=self.run_block)

    def _finish(self, x: Tensor, _context: Mapping[str, Tensor], layer: int) -> Tensor:
        first = torch.zeros(len(x), dtype=torch.long, device=x.device) if self.pooling == "CLS token" else None
        return self._parts.head(run_blocks(self._blocks[layer + 1 :], x, pooled=first, run_block=self.run_block))
