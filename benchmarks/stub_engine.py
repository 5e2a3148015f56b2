"""A stub in place of the engine, for benchmarks of everything around it: it tokenizes captions and computes no map."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import open_clip
import torch
from safetensors.torch import save_file

import m2ib
from m2ib import Attribution, DualEncoder

GRID: Final = 7
"""Patches along each side of a map, as in a ViT-B-32."""
_WORDS: Final = (
    "small large young old quiet tired wet happy thin round",
    "red blue green black white brown gray yellow pink orange",
    "dog cat horse bird cow sheep bear goat duck fox",
    "sits runs waits sleeps stands walks hides plays rests jumps",
    "beside behind near under above inside opposite outside around below",
    "wooden metal plastic paper glass leather stone cotton rubber brick",
    "table chair bench box wall door boat car fence bridge",
    "harbor garden kitchen street forest station museum field market village",
)
PLANTED: Final = "harbor"
"""The maps of captions with this word concentrate in a corner, so that the rules find something."""


def make_caption(number: int) -> str:
    """Return one of 10^8 distinct captions of about 17 tokens."""
    mixed = number * 7_654_321 % 10**8  # consecutive captions differ in most words
    words = [slot.split()[mixed // 10**place % 10] for place, slot in enumerate(_WORDS)]
    return "a {} {} {} {} {} a {} {} in the {} on this day".format(*words)


def write_model(folder: Path, patch_size: int) -> str:
    """Write a model with tiny towers and random weights, whose images have `GRID` patches; return its architecture."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": GRID * patch_size, "patch_size": patch_size, "width": 16, "layers": 2, "head_width": 8,
        },
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }  # fmt: skip
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    for parameter in model.parameters():  # open_clip's own text weights are so small that captions hardly differ
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@contextmanager
def replace_engine(microseconds: float = 0.0) -> Iterator[None]:
    """Replace `m2ib.start_attribution` in the block by a stub that costs so much per pair, without the lock."""

    def start(
        network: DualEncoder, _images: Any, texts: Sequence[str], *_: Any, **_keywords: Any
    ) -> Callable[[], Attribution]:
        ids = network.tokenize(texts)
        time.sleep(len(texts) * microseconds / 1e6)
        maps = _make_maps(network, texts, ids)
        return lambda: maps

    with patch.object(m2ib, "start_attribution", start):
        yield


def _make_maps(network: DualEncoder, texts: Sequence[str], ids: torch.Tensor) -> Attribution:
    pairs, lengths = len(texts), (ids != 0).sum(dim=1).tolist()
    image_map = torch.rand(pairs, GRID, GRID)
    image_map[[PLANTED in text for text in texts], 0, 0] += GRID**2
    return Attribution(
        cosine=torch.full((pairs,), 0.3),
        image_map=image_map,
        image_special_nats=torch.zeros(pairs),
        image_cosine=torch.full((pairs,), 0.3),
        tokens=[network.decode_tokens(row[:length]) for row, length in zip(ids.tolist(), lengths, strict=True)],
        special=[[True, *[False] * (length - 2), True] for length in lengths],
        text_map=torch.rand(sum(lengths)).split(lengths),
        text_padding_nats=torch.zeros(pairs),
        text_cosine=torch.full((pairs,), 0.3),
        image_steps=torch.ones(pairs, dtype=torch.int64),
        text_steps=torch.ones(pairs, dtype=torch.int64),
        truncated=network.count_truncated_characters(texts, ids),
    )
