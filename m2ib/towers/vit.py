"""open_clip's VisionTransformer: CLS, average and attention pooling (CLIP, DataComp, CoCa)."""

from typing import ClassVar

import torch
from jaxtyping import Float
from open_clip.transformer import VisionTransformer
from torch import Tensor

from m2ib.errors import UnsupportedModelError
from m2ib.towers.attention import BlockwiseTower, run_blocks
from m2ib.towers.base import CONTENT, FIRST_SPECIAL, HiddenTokens, in_weights_precision


class OpenClipImageTower(BlockwiseTower):
    """open_clip's VisionTransformer."""

    POOLING: ClassVar = {"tok": "CLS token", "avg": "average"}

    def __init__(self, visual: VisionTransformer) -> None:
        if getattr(visual, "attn_pool_contrastive", None) is not None:
            raise UnsupportedModelError(
                f"image tower: attentional_pool {visual.attn_pool_type!r} is unfinished in open_clip (its embedding "
                "has one dimension too many); expected attentional_pool true or false"
            )
        if visual.pool_type not in self.POOLING:
            raise UnsupportedModelError(
                f"image tower: pooling {visual.pool_type!r} gives no single embedding; "
                f"expected one of {', '.join(self.POOLING)}"
            )
        self._visual = visual
        self._blocks = visual.transformer.resblocks
        self.num_blocks = len(self._blocks)
        self.pooling = "attention" if visual.attn_pool is not None else self.POOLING[visual.pool_type]
        self._pools_first = self.pooling == "CLS token"

    @torch.no_grad()
    def run_prefix(self, inputs: Float[Tensor, "inputs 3 height width"], layer: int) -> HiddenTokens:
        """Return the hidden states at the cut: CLS, then the patches row by row."""
        x = self._visual._embeds(in_weights_precision(inputs, self._visual))
        for block in self._blocks[: layer + 1]:
            x = block(x)
        kinds = torch.full(x.shape[:2], CONTENT, device=x.device)
        kinds[:, 0] = FIRST_SPECIAL
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        grid: tuple[int, int] = self._visual.grid_size
        return HiddenTokens(hidden=x, valid=valid, kinds=kinds, grid=grid, ids=None, context={})

    def run_suffix(
        self, codes: Float[Tensor, "draws inputs tokens width"], tokens: HiddenTokens, layer: int
    ) -> Float[Tensor, "draws inputs embed"]:
        """Return the embeddings of codes at the cut."""
        x = codes.flatten(0, 1).to(tokens.hidden.dtype)
        first = torch.zeros(len(x), dtype=torch.long, device=x.device) if self._pools_first else None
        x = run_blocks(self._blocks[layer + 1 :], x, pooled=first, run_block=self.run_block)
        embedding: Tensor = self._visual._pool(x)[0]
        if self._visual.proj is not None:
            embedding = embedding @ self._visual.proj
        return embedding.unflatten(0, codes.shape[:2])
