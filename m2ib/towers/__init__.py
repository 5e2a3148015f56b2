"""The towers that the engine can cut, and which one fits a model. One family a file."""

from typing import Any

from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import nn

from m2ib.errors import UnsupportedModelError
from m2ib.towers.base import Tower, class_name
from m2ib.towers.chain import ChainImageTower
from m2ib.towers.huggingface import HuggingFaceTextTower
from m2ib.towers.text import Vocabulary, text_tower_of
from m2ib.towers.trunks import modified_resnet, timm_chain
from m2ib.towers.vit import OpenClipImageTower


def image_tower(model: nn.Module) -> Tower:
    """The image tower of an open_clip model. Raises UnsupportedModelError with the reason."""
    visual: Any = model.visual
    _refuse_single_output(model, "image", visual)
    if isinstance(visual, VisionTransformer):
        return OpenClipImageTower(visual)
    if isinstance(visual, ModifiedResNet):
        return ChainImageTower(visual, modified_resnet(visual))
    if isinstance(visual, TimmModel):
        return ChainImageTower(visual, timm_chain(visual))
    raise UnsupportedModelError(
        f"image tower: got {class_name(visual)}, expected open_clip's VisionTransformer, ModifiedResNet or TimmModel"
    )


def text_tower(model: nn.Module, tokenizer: Any = None) -> Tower:
    """The text tower of an open_clip model; `tokenizer` tells padding and markers (SOS, EOS) from words.

    Raises UnsupportedModelError with the reason.
    """
    text: Any = model if isinstance(model, CLIP) else model.text
    _refuse_single_output(model, "text", text)
    vocabulary = Vocabulary.of(tokenizer)
    if isinstance(text, TextTransformer | CLIP):
        return text_tower_of(text, vocabulary)
    if isinstance(text, HFTextEncoder):
        return HuggingFaceTextTower(text, vocabulary)
    raise UnsupportedModelError(
        f"text tower: got {class_name(text)}, expected open_clip's own text transformer or HFTextEncoder"
    )


def _refuse_single_output(model: nn.Module, name: str, tower: Any) -> None:
    if isinstance(model, CoCa) and not getattr(tower, "output_tokens", False):
        raise UnsupportedModelError(
            f"{name} tower: output_tokens is off, but CoCa takes tokens besides the embedding from both towers, so "
            "that it cannot embed a single input; set output_tokens in the model's configuration"
        )
