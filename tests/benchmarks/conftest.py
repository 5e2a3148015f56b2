"""A model with the number of blocks that the settings of the paper need, so small that a plain loop takes a second."""

import open_clip
import pytest
import torch
from open_clip.model import CLIP

from m2ib import DualEncoder

CONTEXT = 20


@pytest.fixture(scope="session")
def encoder():
    torch.manual_seed(0)
    model = CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 16, "patch_size": 8, "width": 16, "layers": 6, "head_width": 8},
        text_cfg={"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 6},
    )
    for parameter in model.parameters():  # initial text weights of open_clip are so small that outputs would not differ
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.visual.preprocess_cfg = {
        "size": 16, "mode": "RGB", "mean": (0.5,) * 3, "std": (0.25,) * 3,
        "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0,
    }  # fmt: skip
    return DualEncoder(model.eval(), open_clip.SimpleTokenizer(context_length=CONTEXT))
