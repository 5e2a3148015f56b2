"""Train the model of an entry: all code that determines its weights."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.planted.artifacts import KINDS
from benchmarks.planted.generators import Pair, draw_pair, make_preprocessing
from benchmarks.planted.plan import Entry, TowerName
from demo import contrastive
from demo.phantoms import SIZE

_TOWERS: Final[dict[TowerName, dict[str, Any]]] = {
    "transformer": {"patch_size": 10, "width": 128, "layers": 5, "head_width": 32},
    # open_clip's ResNet; the default gate is then behind its second stage, on a grid of 10 x 10
    "convolutional": {"width": 16, "layers": [1, 2, 1, 1], "head_width": 64},
}
STEPS: Final = 600

_STREAM: Final = 700_001
"""First part of the seed of training pairs: differs from that of audited pairs."""


def make_architecture(tower: TowerName) -> dict[str, Any]:
    """Return open_clip's `model_cfg` of the models with this image tower; both have about as many parameters."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": SIZE, **_TOWERS[tower]},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3},
    }


def learn(entry: Entry, steps: int, report: Callable[[str], None]) -> dict[str, Tensor]:
    """Train the entry's model on newly drawn pairs; return its weights in fp16."""
    generator, architecture = entry.generator, make_architecture(entry.tower)
    rng = np.random.default_rng((_STREAM, entry.seed))
    written = [kind.write(text) for kind in KINDS.values() for text in generator.list_texts()]
    vocabulary = contrastive.Vocabulary(written, architecture)

    def draw_batch() -> contrastive.Batch:
        pairs = [draw_pair(generator, entry.planting, rng) for _ in range(contrastive.BATCH)]
        pixels = contrastive.pixel_batch([pair.image for pair in pairs], make_preprocessing(generator))
        return contrastive.Batch(pixels, vocabulary.encode([pair.caption for pair in pairs]), compute_positives(pairs))

    # At this size, fused attention takes half of a step on a CPU; plain matrix products take a tenth.
    with sdpa_kernel(SDPBackend.MATH):
        return contrastive.fit(architecture, vocabulary, draw_batch, steps=steps, seed=entry.seed, report=report)


def compute_positives(pairs: list[Pair]) -> Tensor:
    """Return 1 where the caption of a column is true of the picture of a row, [n, n]."""
    return torch.tensor([[column.wording.classes <= row.picture.classes for column in pairs] for row in pairs]).float()
