"""open_clip's VisionTransformer: CLS, average and attention pooling (CLIP, DataComp, CoCa)."""

import torch
from jaxtyping import Float
from open_clip.transformer import VisionTransformer
from torch import Tensor

from m2ib.towers.attention import run_blocks
from m2ib.towers.base import CONTENT, FIRST_SPECIAL, HiddenTokens


class OpenClipImageTower:
    """open_clip's VisionTransformer."""

    def __init__(self, visual: VisionTransformer) -> None:
        self._visual = visual
        self._blocks = visual.transformer.resblocks
        self.blocks = len(self._blocks)
        self.image_size: tuple[int, int] = visual.image_size
        if visual.attn_pool is not None:
            self.pooling = "attention"
        else:
            self.pooling = {"tok": "CLS token", "avg": "average"}[visual.pool_type]
        self._pools_first = self.pooling == "CLS token"

    @torch.no_grad()
    def prefix(self, inputs: Float[Tensor, "inputs 3 height width"], layer: int) -> HiddenTokens:
        """Hidden states at the cut: CLS, then the patches row by row."""
        x = self._visual._embeds(inputs)
        for block in self._blocks[: layer + 1]:
            x = block(x)
        kinds = torch.full(x.shape[:2], CONTENT, device=x.device)
        kinds[:, 0] = FIRST_SPECIAL
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        grid: tuple[int, int] = self._visual.grid_size
        return HiddenTokens(hidden=x, valid=valid, kinds=kinds, grid=grid, ids=None, context={})

    def suffix(
        self, codes: Float[Tensor, "draws inputs tokens width"], tokens: HiddenTokens, layer: int
    ) -> Float[Tensor, "draws inputs embed"]:
        """Embeddings of codes at the cut."""
        x = codes.flatten(0, 1)
        first = torch.zeros(len(x), dtype=torch.long, device=x.device) if self._pools_first else None
        x = run_blocks(self._blocks[layer + 1 :], x, pooled=first)
        embedding: Tensor = self._visual._pool(x)[0]
        if self._visual.proj is not None:
            embedding = embedding @ self._visual.proj
        return embedding.unflatten(0, codes.shape[:2])
