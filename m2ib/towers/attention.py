"""Run open_clip's transformer blocks without the copies that nn.MultiheadAttention makes of batch-first input.

nn.MultiheadAttention transposes its input, so that its projections run over non-contiguous tensors. On a CPU this takes
a seventh of the time of the blocks after the gate. This module applies the same weights by plain matrix products and
PyTorch's fused attention.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Self, TypeGuard

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from m2ib.towers.base import Tower


def is_standard_block(block: nn.Module) -> TypeGuard[ResidualAttentionBlock]:
    """Return True for open_clip's block with plain self-attention, for which `run_block` gives the same output."""
    if not isinstance(block, ResidualAttentionBlock) or hasattr(block, "ln_1_kv"):
        return False
    attention = block.attn
    return (
        type(attention) is nn.MultiheadAttention
        and attention._qkv_same_embed_dim
        and attention.bias_k is None
        and not attention.add_zero_attn
        and attention.dropout == 0.0
    )


def run_block(
    block: ResidualAttentionBlock,
    x: Float[Tensor, "codes tokens width"],
    mask: Tensor | None = None,
    query: Float[Tensor, "codes queries width"] | None = None,
) -> Float[Tensor, "codes queries width"]:
    """Run one of open_clip's standard transformer blocks, for which `is_standard_block` is True.

    A code is one noisy version of an input. The additive attention mask is (queries, tokens) or (codes, 1, queries,
    tokens). The output is for the tokens in `query` (default: all tokens), whose choice does not change its values.
    """
    residual = x if query is None else query
    normed = block.ln_1(x)
    y = residual + block.ls_1(_attend(block.attn, normed, None if query is None else block.ln_1(query), mask))
    return y + block.ls_2(block.mlp(block.ln_2(y)))


class BlockwiseTower(Tower):
    """Tower that runs the blocks after the gate by a replaceable function, which may be compiled.

    All blocks have the same code, so one compiled function serves all of them. For 12 blocks, its compilation takes a
    twelfth of the time that all blocks together take.
    """

    run_block: Callable[..., Tensor] = staticmethod(run_block)

    def with_block_function(self, run_block: Callable[..., Tensor]) -> Self:
        """Return a tower with the same weights that runs its blocks by a different function, such as a compiled one."""
        tower = copy.copy(self)
        tower.run_block = run_block
        return tower


def run_blocks(
    blocks: Sequence[nn.Module],
    x: Float[Tensor, "codes tokens width"],
    mask: Tensor | None = None,
    pooled: Int[Tensor, " codes"] | None = None,
    run_block: Callable[..., Tensor] = run_block,
) -> Float[Tensor, "codes queries width"]:
    """Run consecutive transformer blocks with an additive attention mask (tokens, tokens).

    `pooled` is the index of the token that the tower pools, for each input. If it is given, the last block computes
    only this token. `run_block` is the function of that name or a compiled version of it.
    """

    def run(block: nn.Module, x: Tensor) -> Tensor:
        return run_block(block, x, mask) if is_standard_block(block) else block(x, attn_mask=mask)

    for block in blocks[:-1]:
        x = run(block, x)
    rows = torch.arange(len(x), device=x.device)
    if len(blocks) and pooled is not None and is_standard_block(blocks[-1]):
        row = None if mask is None else mask[pooled][:, None, None]
        return run_block(blocks[-1], x, row, query=x[rows, pooled][:, None])
    if len(blocks):
        x = run(blocks[-1], x)
    return x if pooled is None else x[rows, pooled][:, None]


def _attend(
    attention: nn.MultiheadAttention,
    x: Float[Tensor, "codes tokens width"],
    query: Float[Tensor, "codes queries width"] | None,
    mask: Tensor | None,
) -> Float[Tensor, "codes queries width"]:
    heads, width = attention.num_heads, attention.embed_dim
    weight, bias = attention.in_proj_weight, attention.in_proj_bias

    def split(value: Tensor) -> Tensor:
        return value.unflatten(-1, (heads, width // heads)).transpose(1, 2)

    if query is None:
        q, k, v = (split(part) for part in F.linear(x, weight, bias).chunk(3, dim=-1))
    else:
        q = split(F.linear(query, weight[:width], None if bias is None else bias[:width]))
        both = F.linear(x, weight[width:], None if bias is None else bias[width:])
        k, v = (split(part) for part in both.chunk(2, dim=-1))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))
