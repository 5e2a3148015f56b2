"""open_clip's VisionTransformer: CLS, average and attention pooling (CLIP, DataComp, CoCa)."""

import torch
from jaxtyping import Float
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

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
        # The last block needs the query of the pooled token only, if one token is pooled.
        self._pools_first = self.pooling == "CLS token" and isinstance(self._blocks[-1], ResidualAttentionBlock)

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
        rest = self._blocks[layer + 1 :]
        if self._pools_first and len(rest):
            for block in rest[:-1]:
                x = block(x)
            x = last_block_for_one_query(rest[-1], x, x[:, :1], mask=None)
        else:
            for block in rest:
                x = block(x)
        embedding: Tensor = self._visual._pool(x)[0]
        if self._visual.proj is not None:
            embedding = embedding @ self._visual.proj
        return embedding.unflatten(0, codes.shape[:2])


def last_block_for_one_query(
    block: ResidualAttentionBlock,
    x: Float[Tensor, "codes tokens width"],
    query: Float[Tensor, "codes one width"],
    mask: Tensor | None,
) -> Float[Tensor, "codes one width"]:
    """The block's output at one token a code: keys and values of all tokens, the rest of that token alone.

    Exact, as nothing after attention mixes tokens. query: the input at that token. mask: additive, (codes, 1, tokens).
    """
    normed = block.ln_1(x)
    attention = block.attention(q_x=block.ln_1(query), k_x=normed, v_x=normed, attn_mask=mask)
    y = query + block.ls_1(attention)
    return y + block.ls_2(block.mlp(block.ln_2(y)))
