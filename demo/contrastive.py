"""Train tiny CLIP models from scratch with a contrastive loss, on pairs that are generated during training.

On a CPU, returning memory to the system and requesting it again may take most of the time of a step. To prevent this,
set the environment variables in `ALLOCATOR_SETTINGS` before the process starts.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

BATCH: Final = 64
WARMUP_STEPS: Final = 60
LEARNING_RATE: Final = 1.5e-3
MAX_LOGIT_SCALE: Final = 50.0

ALLOCATOR_SETTINGS: Final = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "2",
    "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(frozen=True)
class Batch:
    """Images and captions of one training step."""

    pixels: Tensor  # preprocessed images, [n, 3, height, width]
    tokens: Tensor  # compact token ids of the captions, [n, context]; see `Vocabulary`
    positive: Tensor  # 1 where the caption of the column describes the image of the row, else 0, [n, n]


def pixel_batch(images: Sequence[np.ndarray[Any, Any]], preprocessing: Mapping[str, Any]) -> Tensor:
    """Convert gray or color uint8 images of the same size as open_clip's preprocessing does, without resizing.

    Gray images get three equal channels before the mean is subtracted. The result is [n, channels, height, width].
    """
    pixels = torch.from_numpy(np.stack(images)).float() / 255
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    mean, std = torch.tensor(preprocessing["mean"]), torch.tensor(preprocessing["std"])
    return (pixels - mean[:, None, None]) / std[:, None, None]


class Vocabulary:
    """Compact token ids: numbers from 0 for only those few tokens that captions use.

    Training uses a table of embeddings for these tokens only, because the table of all tokens is 70 times as large. The
    compact ids keep the order of the tokenizer's ids, so that end-of-text has the highest id, as CLIP expects.
    `architecture` is open_clip's `model_cfg`.
    """

    def __init__(self, texts: Sequence[str], architecture: Mapping[str, Any]) -> None:
        self.rows: int = architecture["text_cfg"]["vocab_size"]
        self.tokenizer = SimpleTokenizer(context_length=architecture["text_cfg"]["context_length"])
        self.used = torch.unique(self.tokenizer(list(texts)))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return the compact token ids of texts, [n, context]: the number of each token among the used tokens."""
        return torch.searchsorted(self.used, self.tokenizer(list(texts)))

    def expand(self, compact: Tensor) -> Tensor:
        """Return the embedding table of all tokens, given that of the used ones (`compact`). Other rows are zero."""
        full = compact.new_zeros(self.rows, compact.shape[1])
        full[self.used] = compact
        return full


def contrastive_loss(image: Tensor, text: Tensor, positive: Tensor, scale: Tensor) -> Tensor:
    """Return the contrastive loss (InfoNCE), averaged over image-to-text and text-to-image.

    `image` and `text` are normalized embeddings, [n, d], and `scale` is the factor of their cosines (CLIP's logit
    scale). `positive`, [n, n], is 1 where a caption (column) describes an image (row), else 0.
    """
    logits = scale * image @ text.T
    to_text = positive / positive.sum(dim=1, keepdim=True)
    to_image = positive.T / positive.T.sum(dim=1, keepdim=True)
    return (functional.cross_entropy(logits, to_text) + functional.cross_entropy(logits.T, to_image)) / 2


def optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Create the optimizers: Muon for the matrices of the transformer blocks, AdamW for all other parameters."""
    blocks = [one for name, one in model.named_parameters() if "resblocks" in name and one.ndim == 2]
    rest = [one for name, one in model.named_parameters() if "resblocks" not in name or one.ndim != 2]
    return [
        torch.optim.Muon(blocks, lr=LEARNING_RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the factor by which a step scales the learning rate: a linear warm-up, then a cosine decay to zero."""
    warmup = min(WARMUP_STEPS, steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def fit(
    architecture: Mapping[str, Any],
    vocabulary: Vocabulary,
    draw_batch: Callable[[], Batch],
    *,
    steps: int,
    seed: int,
    report: Callable[[str], None],
) -> dict[str, Tensor]:
    """Train a model from scratch, and return its weights by name in fp16, with the embedding table of all tokens.

    Args:
        architecture: open_clip's `model_cfg`.
        vocabulary: Tokens of the captions that `draw_batch` returns.
        draw_batch: Function that returns the pairs of the next step.
        steps: Number of steps.
        seed: Seed of the initial weights.
        report: Function that is called with a line of text about the progress every 20 steps.
    """
    torch.manual_seed(seed)
    text_cfg = {**architecture["text_cfg"], "vocab_size": len(vocabulary.used)}
    model = open_clip.CLIP(**{**architecture, "text_cfg": text_cfg})
    stepping = optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: learning_rate_factor(step, steps)) for o in stepping]
    started = time.perf_counter()
    for step in range(steps):
        batch = draw_batch()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = model.encode_image(batch.pixels)
            text = model.encode_text(batch.tokens)
        image, text = functional.normalize(image.float(), dim=-1), functional.normalize(text.float(), dim=-1)
        loss = contrastive_loss(image, text, batch.positive, model.logit_scale.exp())
        model.zero_grad()
        loss.backward()
        for optimizer, schedule in zip(stepping, schedules, strict=True):
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        if step % 20 == 19 or step == steps - 1:
            seconds = time.perf_counter() - started
            report(f"step {step + 1}/{steps}  loss {loss.item():.3f}  {seconds:.0f} s")
    weights = {key: value.detach() for key, value in model.state_dict().items()}
    weights["token_embedding.weight"] = vocabulary.expand(weights["token_embedding.weight"])
    return {key: value.half().contiguous() for key, value in weights.items()}


def save(
    weights: Mapping[str, Tensor], target: Path, architecture: Mapping[str, Any], preprocessing: Mapping[str, Any]
) -> None:
    """Write weights and configuration to the folder `target`, which open_clip can load with `local-dir:`.

    `architecture` is open_clip's `model_cfg`, and `preprocessing` its `preprocess_cfg`.
    """
    target.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": architecture, "preprocess_cfg": preprocessing}
    (target / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(dict(weights), target / "open_clip_model.safetensors", metadata={"format": "pt"})
