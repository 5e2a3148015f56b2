"""Define embedding, blocks and head of open_clip's ResNet and of image encoders from timm (trunks)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
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
from m2ib.towers.sequential import Block, Shared, TowerParts, flatten_stages, sequential_block

# Descriptions of the poolings of timm and open_clip.
POOLING = {
    "token": "CLS token", "avg": "average", "max": "maximum", "avgmax": "average and maximum",
    "map": "attention", "abs_attn": "attention", "rot_attn": "attention",
}  # fmt: skip


def modified_resnet_parts(visual: ModifiedResNet) -> TowerParts:
    """Return the parts of open_clip's ResNet, which has four stages of residual blocks and attention pooling."""
    blocks = flatten_stages([visual.layer1, visual.layer2, visual.layer3, visual.layer4])
    return TowerParts(lambda pixels: (visual.stem(pixels), {}), blocks, visual.attnpool, "attention", len(blocks))


def timm_parts(visual: TimmModel) -> TowerParts:
    """Return the parts of an image encoder from timm (the trunk) with open_clip's head."""
    trunk: Any = visual.trunk
    for kind, build in _TRUNKS.items():
        if isinstance(trunk, kind):
            return build(trunk, visual.head)
    supported = ", ".join(sorted({kind.__name__ for kind in _TRUNKS}))
    raise UnsupportedModelError(f"image tower: got the timm trunk {class_name(trunk)}, expected one of {supported}")


def _pooling(trunk: Any, head: nn.Module) -> str:
    """Describe how a timm trunk, or open_clip's head after it, pools tokens."""
    if getattr(trunk, "attn_pool", None) is not None or getattr(head, "pool", None) is not None:
        return "attention"
    name = getattr(trunk, "global_pool", None)
    if not isinstance(name, str):  # a module of the trunk or of the trunk's own head
        pool = name if name is not None else getattr(trunk.head, "global_pool", None)
        name = str(getattr(pool, "pool_type", ""))
    if not name:
        raise UnsupportedModelError(
            f"image tower: got the pooling {name!r} of {class_name(trunk)}, which does not give a single embedding; "
            f"expected one of {', '.join(POOLING)}"
        )
    return POOLING.get(name, name)


def _token_parts(
    trunk: Any, head: nn.Module, embed: Callable[[Tensor], tuple[Tensor, Shared]], blocks: list[Block]
) -> TowerParts:
    return TowerParts(
        embed=embed,
        blocks=blocks,
        head=lambda x: head(trunk.forward_head(trunk.norm(x))),
        pooling=_pooling(trunk, head),
        prefix_tokens=trunk.num_prefix_tokens,
        grid=lambda pixels: trunk.patch_embed.dynamic_feat_size(tuple(pixels.shape[-2:])),
    )


def _vision_transformer(trunk: Any, head: nn.Module) -> TowerParts:
    """Return the parts of a vision transformer from timm, or of ViTamin, which begins with convolutions."""

    def tokens(x: Tensor) -> Tensor:
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(x)))

    blocks = [sequential_block(block) for block in trunk.blocks]
    parts = _token_parts(trunk, head, lambda pixels: (tokens(trunk.patch_embed(pixels)), {}), blocks)
    hybrid = trunk.patch_embed
    if not (isinstance(hybrid, HybridEmbed) and isinstance(hybrid.backbone, MbConvStages) and hybrid.flatten):
        return parts
    backbone = hybrid.backbone
    convolutions = flatten_stages(backbone.stages)
    first = trunk.blocks[0]

    def first_block(x: Tensor, _shared: Mapping[str, Tensor]) -> Tensor:
        return first(tokens(hybrid.proj(backbone.pool(x)).flatten(2).transpose(1, 2)))

    return replace(
        parts,
        embed=lambda pixels: (backbone.stem(pixels), {}),
        blocks=[*convolutions, first_block, *blocks[1:]],
        first_token_layer=len(convolutions),
    )


def _eva(trunk: Any, head: nn.Module) -> TowerParts:
    """Return the parts of EVA or Perception Encoder. With `rope_mixed`, each block has its own rotary embeddings."""
    mixed = getattr(trunk, "rope_mixed", False)

    def embed(pixels: Tensor) -> tuple[Tensor, Shared]:
        x, rope = trunk._pos_embed(trunk.patch_embed(pixels))
        return trunk.norm_pre(x), {} if rope is None else {"rope": rope}

    def step(index: int, block: nn.Module) -> Block:
        def run(x: Tensor, shared: Mapping[str, Tensor]) -> Tensor:
            rope = shared.get("rope")
            return block(x, rope=rope[index] if mixed and rope is not None else rope)

        return run

    return _token_parts(trunk, head, embed, [step(index, block) for index, block in enumerate(trunk.blocks)])


def _relative_positions(trunk: Any, head: nn.Module) -> TowerParts:
    """Return the parts of a vision transformer with relative positions (one bias for all blocks, or one per block)."""

    def embed(pixels: Tensor) -> tuple[Tensor, Shared]:
        x = trunk.patch_embed(pixels)
        if trunk.cls_token is not None:
            x = torch.cat((trunk.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        return x, {} if trunk.shared_rel_pos is None else {"bias": trunk.shared_rel_pos.get_bias()}

    def step(block: nn.Module) -> Block:
        return lambda x, shared: block(x, shared_rel_pos=shared.get("bias"))

    return _token_parts(trunk, head, embed, [step(block) for block in trunk.blocks])


def _map_parts(
    trunk: Any,
    head: nn.Module,
    embed: Callable[[Tensor], Tensor],
    blocks: list[Block],
    last: Callable[[Tensor], Tensor],
    channels_last: bool = False,
) -> TowerParts:
    """Return the parts of a trunk whose blocks exchange feature maps.

    `embed` maps pixels to the input of the first block, and `last` runs between the last block and the pooling.
    """
    return TowerParts(
        embed=lambda pixels: (embed(pixels), {}),
        blocks=blocks,
        head=lambda x: head(trunk.forward_head(last(x))),
        pooling=_pooling(trunk, head),
        first_token_layer=len(blocks),
        channels_last=channels_last,
    )


def _convnext(trunk: Any, head: nn.Module) -> TowerParts:
    return _map_parts(trunk, head, trunk.stem, flatten_stages(trunk.stages, ("downsample",)), trunk.norm_pre)


def _fastvit(trunk: Any, head: nn.Module) -> TowerParts:
    """Return the parts of FastViT (MobileCLIP), whose later stages may apply attention to the feature map."""
    blocks = flatten_stages(trunk.stages, ("downsample", "pos_emb"))
    return _map_parts(trunk, head, trunk.stem, blocks, trunk.final_conv)


def _swin(trunk: Any, head: nn.Module) -> TowerParts:
    blocks = flatten_stages(trunk.layers, ("downsample",))
    return _map_parts(trunk, head, trunk.patch_embed, blocks, trunk.norm, channels_last=True)


def _resnet(trunk: Any, head: nn.Module) -> TowerParts:
    def embed(pixels: Tensor) -> Tensor:
        return trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(pixels))))

    blocks = flatten_stages([trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4])
    return _map_parts(trunk, head, embed, blocks, nn.Identity())


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
