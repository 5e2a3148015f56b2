"""Tiny random models of the classes that the engine supports, and random pairs for them."""

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from PIL import Image

from m2ib import DualEncoder

CONTEXT = 12
PREPROCESS = {
    "size": 40, "mode": "RGB", "mean": (0.5,) * 3, "std": (0.25,) * 3,
    "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0,
}  # fmt: skip
TEXTS = ["nodule", "a left pleural effusion", "no acute finding", "enlarged heart in a portable chest radiograph"]


def tiny_model(kind=CLIP, seed=0, image_size=40, layers=3, **text):
    """Create a random model with image blocks on a 4x4 grid (for 40 pixels) and the same number of text blocks."""
    torch.manual_seed(seed)
    model = kind(
        embed_dim=24,
        vision_cfg={"image_size": image_size, "patch_size": 10, "width": 32, "layers": layers, "head_width": 16},
        text_cfg={"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": layers, **text},
    )
    for parameter in model.parameters():  # initial text weights of open_clip are so small that outputs would not differ
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.visual.preprocess_cfg = {**PREPROCESS, "size": image_size}
    return model


def make_encoder(model):
    return DualEncoder(model, open_clip.SimpleTokenizer(context_length=CONTEXT))


# test_towers.py has families of both classes: what is slow to test with both is tested with one of them first.
KINDS = [pytest.param(CLIP, id="CLIP"), pytest.param(CustomTextCLIP, id="CustomTextCLIP", marks=pytest.mark.slow)]


@pytest.fixture(scope="session", params=KINDS)
def encoder(request):
    return make_encoder(tiny_model(request.param))


@pytest.fixture(scope="session", params=KINDS)
def float64_encoder(request):
    """The same models in float64.

    Adam's first steps are signs of gradients: in float32 one feature in a million has a gradient that is all
    rounding, and moves the other way.
    """
    return make_encoder(tiny_model(request.param).double())


@pytest.fixture(scope="session")
def pairs():
    """Eleven random pairs: more than one batch in most tests, with captions of several lengths."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (48, 56, 3), dtype=np.uint8)) for _ in range(11)]
    return images, [f"{TEXTS[i % 4]} {'x' * (i % 3)}".strip() for i in range(11)]
