"""Describe which models of open_clip are supported and which layer is gated, without loading weights.

Towers are built on PyTorch's meta device, which has shapes but no memory. The configurations of Hugging Face text
towers are not part of open_clip, so their family is inferred from the model's name.
"""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CLIPTextCfg, CustomTextCLIP
from open_clip.utils import to_2tuple
from torch import nn

from m2ib.config import BottleneckConfig, GateConfig, TowerName
from m2ib.errors import UnsupportedModelError
from m2ib.towers import find_image_tower, find_text_tower
from m2ib.towers.huggingface import FAMILIES, POOLERS

_Kind = Callable[..., nn.Module]

ON_THE_HUB = "its configuration is read from the Hugging Face Hub"

# `model_type` of encoders on the Hugging Face Hub. The first key that the name contains applies.
_TYPE_BY_NAME = {
    "xlm-roberta": "xlm-roberta", "xlm-v": "xlm-roberta", "roberta": "roberta", "nllb": "m2m_100", "m2m100": "m2m_100",
    "mt5": "mt5", "bert": "bert",
}  # fmt: skip
_TINY_VISION = {"layers": 1, "width": 64, "head_width": 64, "image_size": 32, "patch_size": 16, "output_tokens": True}
_TINY_TEXT = {
    "layers": 1, "width": 64, "heads": 1, "context_length": 8, "vocab_size": 8, "output_tokens": True,
}  # fmt: skip


@dataclass(frozen=True)
class TowerFacts:
    """Whether a tower is supported, and how it is gated."""

    supported: bool
    reason: str = ""  # why the tower is not supported
    pooling: str | None = None  # how the tower pools its tokens, in words
    num_blocks: int | None = None
    layer: int | None = None  # 0-based index of the block whose output is gated, or -1 for the embeddings
    grid: tuple[int, int] | None = None  # rows and columns of the image map at that layer; None for texts
    note: str = ""  # what is unknown until the configuration is read from the Hugging Face Hub


@dataclass(frozen=True)
class ModelFacts:
    """Whether the towers of a model that open_clip knows by name are supported."""

    name: str
    image: TowerFacts
    text: TowerFacts

    @property
    def supported(self) -> bool:
        """True if both towers are supported."""
        return self.image.supported and self.text.supported

    @property
    def reason(self) -> str:
        """Why the model is not supported. Empty for a supported model."""
        return "; ".join(tower.reason for tower in (self.image, self.text) if tower.reason)


def describe_models(config: BottleneckConfig | None = None) -> Iterator[ModelFacts]:
    """Describe each model of `open_clip.list_models()`, and the layers that `config` (default: the audit's) gates."""
    config = config or BottleneckConfig()
    for name in open_clip.list_models():
        parts = open_clip.get_model_config(name)
        kind = _kind(parts)
        vision, text = (json.dumps(parts[key], sort_keys=True) for key in ("vision_cfg", "text_cfg"))
        image_facts = _describe_tower("image", kind, int(parts["embed_dim"]), vision, config.image)
        text_facts = _describe_tower("text", kind, int(parts["embed_dim"]), text, config.text)
        yield ModelFacts(name, image_facts, text_facts)


def _kind(parts: dict[str, Any]) -> _Kind:
    """Return the class of model that `open_clip.create_model` chooses for a configuration (`parts`)."""
    if not (parts.get("custom_text") or parts["text_cfg"].get("hf_model_name")):
        return CLIP
    return CoCa if "multimodal_cfg" in parts else CustomTextCLIP


def _build(kind: _Kind, embed_dim: int, vision_cfg: dict[str, Any], text_cfg: dict[str, Any]) -> nn.Module:
    decoder = {"multimodal_cfg": {**_TINY_TEXT, "n_queries": 8}} if kind is CoCa else {}
    with torch.device("meta"):
        return kind(embed_dim=embed_dim, vision_cfg=vision_cfg, text_cfg=text_cfg, **decoder).eval()


@functools.cache
def _describe_tower(name: TowerName, kind: _Kind, embed_dim: int, tower_cfg: str, gate: GateConfig) -> TowerFacts:
    """Build a model with this tower and a tiny tower of the other modality, and describe the tower.

    The result is cached, because many models share a tower. `tower_cfg` is JSON, which is hashable.
    """
    cfg = json.loads(tower_cfg)
    if cfg.get("hf_model_name"):
        return _describe_hub_tower(kind, CLIPTextCfg(**cfg))
    grid = None
    try:
        with torch.no_grad():
            if name == "image":
                model = _build(kind, embed_dim, cfg, _TINY_TEXT)
                tower = find_image_tower(model)
                visual: Any = model.visual
                layer = gate.resolve_layer(tower.num_blocks)
                pixels = torch.zeros(1, 3, *to_2tuple(visual.image_size), device="meta")
                grid = tower.run_prefix(pixels, layer).grid
            else:
                tower = find_text_tower(_build(kind, embed_dim, _TINY_VISION, cfg))
                layer = gate.resolve_layer(tower.num_blocks)
    except UnsupportedModelError as error:
        return TowerFacts(False, str(error))
    except Exception as error:  # noqa: BLE001  # open_clip, timm and transformers raise many types
        return TowerFacts(False, f"{name} tower: {type(error).__name__}: {error}")
    return TowerFacts(True, "", tower.pooling, tower.num_blocks, layer, grid)


def _describe_hub_tower(kind: _Kind, text_cfg: CLIPTextCfg) -> TowerFacts:
    name = str(text_cfg.hf_model_name)
    family = next((family for part, family in _TYPE_BY_NAME.items() if part in name.lower()), None)
    if family not in FAMILIES:
        return TowerFacts(
            False, f"text tower: got {name!r}, expected an encoder of one of the families {', '.join(FAMILIES)}"
        )
    pooler = "".join(part.title() for part in str(text_cfg.hf_pooler_type).split("_"))
    if pooler not in POOLERS:
        return TowerFacts(False, f"text tower: got the pooling {pooler}, expected one of {', '.join(POOLERS)}")
    if kind is CoCa and not text_cfg.output_tokens:
        return TowerFacts(False, "text tower: got output_tokens = false, expected true, because CoCa needs tokens")
    return TowerFacts(True, pooling=POOLERS[pooler], note=f"{name}: {ON_THE_HUB}")
