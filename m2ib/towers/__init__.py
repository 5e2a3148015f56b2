"""The towers that the engine can cut, and which one fits a model. One family a file."""

from typing import Any

from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import nn

from m2ib.errors import UnsupportedModelError
from m2ib.towers.base import Tower, class_name
from m2ib.towers.text import CausalTextTower
from m2ib.towers.vit import OpenClipImageTower


def image_tower(model: nn.Module) -> Tower:
    """The image tower of an open_clip model. Raises UnsupportedModelError with the reason."""
    visual: Any = model.visual
    if isinstance(visual, VisionTransformer):
        return OpenClipImageTower(visual)
    raise UnsupportedModelError(f"image tower: got {class_name(visual)}, expected open_clip's VisionTransformer")


def text_tower(model: nn.Module) -> Tower:
    """The text tower of an open_clip model. Raises UnsupportedModelError with the reason."""
    text: Any = model.text if isinstance(model, CustomTextCLIP) else model
    if isinstance(text, TextTransformer | CLIP):
        return CausalTextTower(text)
    raise UnsupportedModelError(f"text tower: got {class_name(text)}, expected open_clip's own text transformer")
