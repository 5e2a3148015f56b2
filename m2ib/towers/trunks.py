"""Embedding, blocks and head of open_clip's ResNet and of the timm trunks."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from timm.layers.hybrid_embed import HybridEmbed
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from timm.models.vitamin import MbConvStages
from torch import Tensor, nn

from m2ib.errors import UnsupportedModelError
from m2ib.towers.base import class_name
from m2ib.towers.sequential import ALL_TOKENS, Block, Shared, TowerParts, flatten_stages, sequential_block

# Pooling by the names of timm and open_clip.
POOLING = {
    "token": "CLS token", "avg": "average", "max": "maximum", "avgmax": "average and maximum",
    "map": "attention", "abs_attn": "attention", "rot_attn": "attention",
}  # fmt: skip


def modified_resnet_parts(visual: ModifiedResNet) -> TowerParts:
    """open_clip's ResNet: four stages of bottleneck blocks, pooled by attention."""
    blocks = flatten_stages([visual.layer1, visual.layer2, visual.layer3, visual.layer4])
    return TowerParts(
        embed=lambda pixels: (visual.stem(pixels), {}),
        blocks=blocks,
        head=visual.attnpool,
        pooling="attention",
        first_token_layer=len(blocks),
    )


def timm_parts(visual: TimmModel) -> TowerParts:
    """A timm trunk and open_clip's head. Raises UnsupportedModelError for a trunk of no known class."""
    trunk: Any = visual.trunk
    for kind, build in _TRUNKS.items():
        if isinstance(trunk, kind):
            return build(trunk, visual.head)
    known = ", ".join(sorted({kind.__name__ for kind in _TRUNKS}))
    raise UnsupportedModelError(f"image tower: timm trunk {class_name(trunk)}, expected one of {known}")


def _pooling(trunk: Any, head: nn.Module) -> str:
    """Return how the trunk, or open_clip's head after it, pools tokens."""
    if getattr(trunk, "attn_pool", None) is not None or getattr(head, "pool", None) is not None:
        return "attention"
    name = getattr(trunk, "global_pool", None)
    if not isinstance(name, str):  # a module, here or in the trunk's own head
        pool = name if name is not None else getattr(trunk.head, "global_pool", None)
        name = str(getattr(pool, "pool_type", ""))
    if not name:
        raise UnsupportedModelError(
            f"image tower: pooling of {class_name(trunk)} is {name!r}, so it gives no single embedding; "
            f"expected one of {', '.join(POOLING)}"
        )
    return POOLING.get(name, name)


def _grid(patch_embed: Any) -> Callable[[Tensor], tuple[int, int]]:
    def grid(pixels: Tensor) -> tuple[int, int]:
        rows, columns = patch_embed.dynamic_feat_size(tuple(pixels.shape[-2:]))
        return int(rows), int(columns)

    return grid


def _vision_transformer(trunk: Any, head: nn.Module) -> TowerParts:
    """ViTs with CLS, average or attention pooling, with or without registers; for ViTamin, convolutions first."""

    def tokens(x: Tensor) -> Tensor:
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(x)))

    parts = TowerParts(
        embed=lambda pixels: (tokens(trunk.patch_embed(pixels)), {}),
        blocks=[sequential_block(block) for block in trunk.blocks],
        head=lambda x: head(trunk.forward_head(trunk.norm(x))),
        pooling=_pooling(trunk, head),
        prefix_tokens=trunk.num_prefix_tokens,
        grid=_grid(trunk.patch_embed),
    )
    hybrid = trunk.patch_embed
    if not (isinstance(hybrid, HybridEmbed) and isinstance(hybrid.backbone, MbConvStages) and hybrid.flatten):
        return parts
    backbone = hybrid.backbone
    convolutions = flatten_stages(backbone.stages)
    first = trunk.blocks[0]

    def first_block(x: Tensor, _shared: Mapping[str, Tensor]) -> Tensor:
        return first(tokens(hybrid.proj(backbone.pool(x)).flatten(2).transpose(1, 2)))

    return TowerParts(
        embed=lambda pixels: (backbone.stem(pixels), {}),
        blocks=[*convolutions, first_block, *parts.blocks[1:]],
        head=parts.head,
        pooling=parts.pooling,
        first_token_layer=len(convolutions),
        prefix_tokens=parts.prefix_tokens,
        grid=parts.grid,
    )


def _eva(trunk: Any, head: nn.Module) -> TowerParts:
    """EVA and the Perception Encoder: rotary embeddings, one for all blocks or (`rope_mixed`) one a block."""
    mixed = getattr(trunk, "rope_mixed", False)

    def embed(pixels: Tensor) -> tuple[Tensor, Shared]:
        x, rope = trunk._pos_embed(trunk.patch_embed(pixels))
        return trunk.norm_pre(x), {} if rope is None else {"rope": rope}

    def step(index: int, block: nn.Module) -> Block:
        def run(x: Tensor, shared: Mapping[str, Tensor]) -> Tensor:
            rope = shared.get("rope")
            return block(x, rope=rope[index] if mixed and rope is not None else rope)

        return run

    return TowerParts(
        embed=embed,
        blocks=[step(index, block) for index, block in enumerate(trunk.blocks)],
        head=lambda x: head(trunk.forward_head(trunk.norm(x))),
        pooling=_pooling(trunk, head),
        prefix_tokens=trunk.num_prefix_tokens,
        grid=_grid(trunk.patch_embed),
    )


def _relative_positions(trunk: Any, head: nn.Module) -> TowerParts:
    """ViTs with relative positions, in each block or shared by all."""

    def embed(pixels: Tensor) -> tuple[Tensor, Shared]:
        x = trunk.patch_embed(pixels)
        if trunk.cls_token is not None:
            x = torch.cat((trunk.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        return x, {} if trunk.shared_rel_pos is None else {"bias": trunk.shared_rel_pos.get_bias()}

    def step(block: nn.Module) -> Block:
        return lambda x, shared: block(x, shared_rel_pos=shared.get("bias"))

    return TowerParts(
        embed=embed,
        blocks=[step(block) for block in trunk.blocks],
        head=lambda x: head(trunk.forward_head(trunk.norm(x))),
        pooling=_pooling(trunk, head),
        prefix_tokens=trunk.num_prefix_tokens,
        grid=_grid(trunk.patch_embed),
    )


def _feature_map_parts(
    embed: Callable[[Tensor], Tensor],
    blocks: list[Block],
    head: Callable[[Tensor], Tensor],
    pooling: str,
    channels_last: bool = False,
) -> TowerParts:
    return TowerParts(
        embed=lambda pixels: (embed(pixels), {}),
        blocks=blocks,
        head=head,
        pooling=pooling,
        first_token_layer=len(blocks) if blocks else ALL_TOKENS,
        channels_last=channels_last,
    )


def _convnext(trunk: Any, head: nn.Module) -> TowerParts:
    return _feature_map_parts(
        trunk.stem,
        flatten_stages(trunk.stages, before=("downsample",)),
        lambda x: head(trunk.forward_head(trunk.norm_pre(x))),
        _pooling(trunk, head),
    )


def _fastvit(trunk: Any, head: nn.Module) -> TowerParts:
    """MobileCLIP's convolutional towers; the later stages may be blocks of attention over a map."""
    if trunk.fork_feat:
        raise UnsupportedModelError("image tower: FastVit with fork_feat returns several maps, expected one embedding")
    return _feature_map_parts(
        trunk.stem,
        flatten_stages(trunk.stages, before=("downsample", "pos_emb")),
        lambda x: head(trunk.forward_head(trunk.final_conv(x))),
        _pooling(trunk, head),
    )


def _swin(trunk: Any, head: nn.Module) -> TowerParts:
    return _feature_map_parts(
        trunk.patch_embed,
        flatten_stages(trunk.layers, before=("downsample",)),
        lambda x: head(trunk.forward_head(trunk.norm(x))),
        _pooling(trunk, head),
        channels_last=True,
    )


def _resnet(trunk: Any, head: nn.Module) -> TowerParts:
    return _feature_map_parts(
        lambda pixels: trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(pixels)))),
        flatten_stages([trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]),
        lambda x: head(trunk.forward_head(x)),
        _pooling(trunk, head),
    )


_TRUNKS: dict[type[nn.Module], Callable[[Any, nn.Module], TowerParts]] = {
    VisionTransformer: _vision_transformer,
    Eva: _eva,
    VisionTransformerRelPos: _relative_positions,
    ConvNeXt: _convnext,
    FastVit: _fastvit,
    SwinTransformer: _swin,
    SwinTransformerV2: _swin,
    ResNet: _resnet,
}
