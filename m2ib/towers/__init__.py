"""Find the image tower and the text tower of a model. A tower is the encoder of one modality."""

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
from m2ib.towers.huggingface import HuggingFaceTextTower
from m2ib.towers.sequential import SequentialImageTower
from m2ib.towers.text import OpenClipTextTower, Vocabulary
from m2ib.towers.trunks import modified_resnet_parts, timm_parts
from m2ib.towers.vit import OpenClipImageTower


def find_image_tower(model: nn.Module) -> Tower:
    """Return the image tower of an open_clip model. Raises UnsupportedModelError for other image encoders."""
    visual: Any = model.visual
    _check_output_tokens(model, "image", visual)
    if isinstance(visual, VisionTransformer):
        return OpenClipImageTower(visual)
    if isinstance(visual, ModifiedResNet):
        return SequentialImageTower(visual, modified_resnet_parts(visual))
    if isinstance(visual, TimmModel):
        return SequentialImageTower(visual, timm_parts(visual))
    raise UnsupportedModelError(
        f"image tower: got {class_name(visual)}, expected open_clip's VisionTransformer, ModifiedResNet or TimmModel"
    )


def find_text_tower(model: nn.Module, tokenizer: Any = None) -> Tower:
    """Return the text tower of an open_clip model. Raises UnsupportedModelError for other text encoders.

    `tokenizer` is that of the model, and declares the token ids of padding and markers (SOS, EOS).
    """
    text: Any = model if isinstance(model, CLIP) else model.text
    _check_output_tokens(model, "text", text)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    if isinstance(text, TextTransformer | CLIP):
        return OpenClipTextTower(text, vocabulary)
    if isinstance(text, HFTextEncoder):
        return HuggingFaceTextTower(text, vocabulary)
    raise UnsupportedModelError(
        f"text tower: got {class_name(text)}, expected open_clip's own text transformer or HFTextEncoder"
    )


def _check_output_tokens(model: nn.Module, name: str, tower: Any) -> None:
    if isinstance(model, CoCa) and not getattr(tower, "output_tokens", False):
        raise UnsupportedModelError(
            f"{name} tower: got output_tokens = false, expected true, because CoCa needs the tokens of both towers; "
            "change it in the model's configuration"
        )
