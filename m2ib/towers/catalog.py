"""Which of open_clip's named models the engine supports, and where it cuts them, without weights.

Towers are built on PyTorch's meta device: shapes without memory. Configurations of Hugging Face text towers are on a
hub, so these are classified by the family in their name.
"""

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import open_clip
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CLIPTextCfg, CustomTextCLIP
from torch import nn

from m2ib.config import BottleneckConfig, GateConfig
from m2ib.errors import UnsupportedModelError
from m2ib.towers import find_image_tower, find_text_tower
from m2ib.towers.huggingface import FAMILIES, POOLERS

_Kind = Literal["CLIP", "CustomTextCLIP", "CoCa"]
_CLASSES: dict[_Kind, type[nn.Module]] = {"CLIP": CLIP, "CustomTextCLIP": CustomTextCLIP, "CoCa": CoCa}

ON_THE_HUB = "its configuration is read from the hub"

# `model_type` of encoders on the hub, by the first of these that their name contains.
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
    """Support of one tower.

    Attributes:
        supported: Whether it can be attributed.
        reason: Why not.
        pooling: How it pools tokens, in words.
        num_blocks: Number of blocks.
        layer: Block that the settings gate, -1 for the embeddings.
        grid: Rows and columns of the map at that layer; None for texts.
        note: What cannot be known without the hub.
    """

    supported: bool
    reason: str = ""
    pooling: str | None = None
    num_blocks: int | None = None
    layer: int | None = None
    grid: tuple[int, int] | None = None
    note: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """Support of a named open_clip model."""

    name: str
    image: TowerFacts
    text: TowerFacts

    @property
    def supported(self) -> bool:
        """Whether both towers are supported."""
        return self.image.supported and self.text.supported

    @property
    def reason(self) -> str:
        """Why the model is not supported; empty if it is."""
        return "; ".join(tower.reason for tower in (self.image, self.text) if tower.reason)


def describe_models(config: BottleneckConfig | None = None) -> Iterator[ModelFacts]:
    """Describe every model of `open_clip.list_models()`, with the layers that `config` (default: the audit's) gates."""
    config = config or BottleneckConfig()
    for name in open_clip.list_models():
        parts = open_clip.get_model_config(name)
        kind = _kind(parts)
        vision, text = json.dumps(parts["vision_cfg"], sort_keys=True), json.dumps(parts["text_cfg"], sort_keys=True)
        image_facts = _describe_image_tower(kind, int(parts["embed_dim"]), vision, config.image)
        text_facts = _describe_text_tower(kind, int(parts["embed_dim"]), text, config.text)
        yield ModelFacts(name, image_facts, text_facts)


def _kind(parts: dict[str, Any]) -> _Kind:
    """Return the class that open_clip's factory chooses."""
    if not (parts.get("custom_text") or parts["text_cfg"].get("hf_model_name")):
        return "CLIP"
    return "CoCa" if "multimodal_cfg" in parts else "CustomTextCLIP"


def _build(kind: _Kind, embed_dim: int, vision_cfg: dict[str, Any], text_cfg: dict[str, Any]) -> nn.Module:
    decoder = {"multimodal_cfg": {**_TINY_TEXT, "n_queries": 8}} if kind == "CoCa" else {}
    with torch.device("meta"):
        return _CLASSES[kind](embed_dim=embed_dim, vision_cfg=vision_cfg, text_cfg=text_cfg, **decoder).eval()


@contextlib.contextmanager
def _as_unsupported(tower: str) -> Iterator[None]:
    """Turn errors of open_clip and timm for a part that they cannot build or run into UnsupportedModelError."""
    try:
        yield
    except UnsupportedModelError:
        raise
    except Exception as error:  # open_clip, timm and transformers raise many types
        raise UnsupportedModelError(f"{tower} tower: {type(error).__name__}: {error}") from error


@functools.cache
def _describe_image_tower(kind: _Kind, embed_dim: int, vision: str, gate: GateConfig) -> TowerFacts:
    """Build the tower beside a tiny text tower; cached, because many models share a tower."""
    try:
        with _as_unsupported("image"), torch.no_grad():
            model = _build(kind, embed_dim, json.loads(vision), _TINY_TEXT)
            tower = find_image_tower(model)
            layer = gate.resolve_layer(tower.num_blocks)
            visual: Any = model.visual
            size = visual.image_size
            height, width = (size, size) if isinstance(size, int) else size
            tokens = tower.run_prefix(torch.zeros(1, 3, height, width, device="meta"), layer)
    except UnsupportedModelError as error:
        return TowerFacts(False, str(error))
    return TowerFacts(True, "", tower.pooling, tower.num_blocks, layer, tokens.grid)


@functools.cache
def _describe_text_tower(kind: _Kind, embed_dim: int, text: str, gate: GateConfig) -> TowerFacts:
    text_cfg = json.loads(text)
    if text_cfg.get("hf_model_name"):
        return _describe_hub_tower(kind, CLIPTextCfg(**text_cfg))
    try:
        with _as_unsupported("text"):
            tower = find_text_tower(_build(kind, embed_dim, _TINY_VISION, text_cfg))
            layer = gate.resolve_layer(tower.num_blocks)
    except UnsupportedModelError as error:
        return TowerFacts(False, str(error))
    return TowerFacts(True, "", tower.pooling, tower.num_blocks, layer)


def _describe_hub_tower(kind: _Kind, text_cfg: CLIPTextCfg) -> TowerFacts:
    name = str(text_cfg.hf_model_name)
    family = next((family for part, family in _TYPE_BY_NAME.items() if part in name.lower()), None)
    if family not in FAMILIES:
        return TowerFacts(False, f"text tower: {name!r} has no known family, expected one of {', '.join(FAMILIES)}")
    pooler = "".join(part.title() for part in str(text_cfg.hf_pooler_type).split("_"))
    if pooler not in POOLERS:
        return TowerFacts(False, f"text tower: got the pooling {pooler}, expected one of {', '.join(POOLERS)}")
    if kind == "CoCa" and not text_cfg.output_tokens:
        return TowerFacts(False, "text tower: output_tokens is off, but CoCa takes tokens besides the embedding")
    return TowerFacts(True, pooling=POOLERS[pooler], note=f"{name}: {ON_THE_HUB}")
