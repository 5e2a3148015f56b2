"""The public calls: calibrate feature statistics, attribute pairs."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from m2ib.batching import fitting_batch_size
from m2ib.bottleneck import Fit, GatedTokens, at_least_float32, fit
from m2ib.encoders import DualEncoder, Images
from m2ib.errors import CalibrationError
from m2ib.noise import KeyedNoise
from m2ib.statistics import FeatureStatistics, RunningMoments, TowerStatistics
from m2ib.towers.base import CONTENT, KINDS, HiddenTokens, Tower
from m2ib.types import Attribution, BottleneckConfig, GateConfig


def _cells(tokens: HiddenTokens, gate: GateConfig) -> Int[Tensor, "inputs tokens"]:
    """The cell of the statistics that each token belongs to."""
    if gate.statistics == "position":
        positions = torch.arange(tokens.hidden.shape[1], device=tokens.hidden.device)
        return positions.expand(tokens.kinds.shape)
    return tokens.kinds


def _batches(count: int, batch_size: int) -> list[slice]:
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    return [slice(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


def calibrate(
    encoder: DualEncoder,
    images: Images,
    texts: Sequence[str],
    config: BottleneckConfig,
    batch_size: int = 64,
) -> FeatureStatistics:
    """Mean and deviation of the features at both bottlenecks over an unlabelled sample (a few hundred pairs will do).

    images and texts need not be paired. Raises CalibrationError when a statistic cannot be estimated.
    """
    with encoder.frozen():
        image = text = None
        if config.image.statistics != "unit":
            batches = (encoder.pixels(images[rows]) for rows in _batches(len(images), batch_size))
            image = _moments(encoder.image, batches, config.image, len(images))
        if config.text.statistics != "unit":
            batches = (encoder.token_ids(texts[rows]) for rows in _batches(len(texts), batch_size))
            text = _moments(encoder.text, batches, config.text, len(texts))
    return FeatureStatistics(image, text)


def _moments(tower: Tower, batches: Iterable[Tensor], gate: GateConfig, count: int) -> TowerStatistics:
    if count < 2:
        raise CalibrationError(f"calibration sample: got {count}, expected at least 2 and better a few hundred")
    moments: RunningMoments | None = None
    layer = gate.resolve_layer(tower.blocks)
    for batch in batches:
        tokens = tower.prefix(batch, layer)
        cells = _cells(tokens, gate)
        if moments is None:
            _, positions, width = tokens.hidden.shape
            moments = RunningMoments(positions if gate.statistics == "position" else KINDS, width)
        moments.add(tokens.hidden[tokens.valid], cells[tokens.valid])
    if moments is None:
        raise CalibrationError("calibration sample: got no batch")
    return moments.finish()


def attribute(
    encoder: DualEncoder,
    images: Images,
    texts: Sequence[str],
    config: BottleneckConfig | None = None,
    statistics: FeatureStatistics | None = None,
    *,
    keys: Sequence[str] | None = None,
    batch_size: int | None = None,
) -> Attribution:
    """M2IB maps of both towers for the pairs (images[i], texts[i]) (Wang et al., NeurIPS 2023, section 3).

    images: PIL images, or a tensor that `encoder.preprocess` made. config: default the audit's settings.
    statistics: from `calibrate`, needed unless both towers use `unit`. keys: identity of each pair for its noise;
    default a digest of its pixels and tokens. A map depends on its pair, key, seed and settings alone, not on
    neighbours or batch size. The model is left as it was found. batch_size: default `fitting_batch_size`. When a
    device runs out of memory after all the batch is halved.
    Raises ValueError for unequal lengths, CalibrationError for missing statistics.
    """
    config = config or BottleneckConfig()
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    if len(images) != len(texts):
        raise ValueError(f"images and texts: got {len(images)} and {len(texts)}, expected one text an image")
    if keys is not None and len(keys) != len(images):
        raise ValueError(f"keys: got {len(keys)}, expected one for each of {len(images)} pairs")
    if not len(images):
        raise ValueError("images: got none, expected at least one pair")
    statistics = statistics or FeatureStatistics()
    for name, gate in (("image", config.image), ("text", config.text)):
        if gate.statistics != "unit" and getattr(statistics, name) is None:
            raise CalibrationError(
                f"{name}.statistics is {gate.statistics!r}, but no statistics were given: pass "
                "`statistics=m2ib.calibrate(encoder, images, texts, config)`, or use m2ib.preset('paper')"
            )
    batch_size = batch_size or fitting_batch_size(encoder, config)
    parts: list[Attribution] = []
    done = 0
    with encoder.frozen():
        while done < len(images):
            rows = slice(done, min(done + batch_size, len(images)))
            pixels, ids = encoder.pixels(images[rows]), encoder.token_ids(texts[rows])
            batch_keys = keys[rows] if keys is not None else _content_keys(pixels, ids)
            try:
                parts.append(_attribute_batch(encoder, pixels, ids, batch_keys, config, statistics))
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size = (min(batch_size, len(images)) + 1) // 2
                continue
            done = rows.stop
    return _concatenate(parts)


def _content_keys(pixels: Float[Tensor, "pairs 3 h w"], ids: Int[Tensor, "pairs context"]) -> list[str]:
    return [
        hashlib.sha256(image.cpu().numpy().tobytes() + text.cpu().numpy().tobytes()).hexdigest()
        for image, text in zip(pixels, ids, strict=True)
    ]


def _attribute_batch(
    encoder: DualEncoder,
    pixels: Float[Tensor, "pairs 3 h w"],
    ids: Int[Tensor, "pairs context"],
    keys: Sequence[str],
    config: BottleneckConfig,
    statistics: FeatureStatistics,
) -> Attribution:
    # Prompts of one image share its prefix and embedding, and so do images of one text.
    first_image, image_of = _distinct(pixels)
    first_text, text_of = _distinct(ids)
    image_embedding = encoder.embed_images(pixels[first_image])[image_of]
    text_embedding = encoder.embed_texts(ids[first_text])[text_of]
    image_tokens = encoder.image.prefix(pixels[first_image], config.image.resolve_layer(encoder.image.blocks))
    text_tokens = encoder.text.prefix(ids[first_text], config.text.resolve_layer(encoder.text.blocks))
    image_tokens, text_tokens = image_tokens.rows(image_of), text_tokens.rows(text_of)
    image_noise, text_noise = (
        KeyedNoise(config.seed, keys, tower, encoder.device, encoder.noise_source) for tower in ("image", "text")
    )
    image = _fit_tower(encoder.image, image_tokens, text_embedding, image_noise, config, config.image, statistics.image)
    text = _fit_tower(encoder.text, text_tokens, image_embedding, text_noise, config, config.text, statistics.text)
    # An image tower's tokens have a grid, a text tower's have ids.
    grid, words = cast("tuple[int, int]", image_tokens.grid), cast("Tensor", text_tokens.ids)
    patches = image_tokens.kinds == CONTENT
    rows = range(len(keys))
    return Attribution(
        cosine=(image_embedding * text_embedding).sum(dim=-1).cpu(),
        image_map=image.nats[patches].reshape(len(keys), *grid).cpu(),
        image_special_nats=(image.nats * ~patches).sum(dim=1).cpu(),
        image_cosine=image.cosine.cpu(),
        tokens=[encoder.token_strings(words[i, text_tokens.valid[i]]) for i in rows],
        special=[(text_tokens.kinds[i, text_tokens.valid[i]] != CONTENT).tolist() for i in rows],
        text_map=[text.nats[i, text_tokens.valid[i]].cpu() for i in rows],
        text_cosine=text.cosine.cpu(),
        image_steps=image.steps.cpu(),
        text_steps=text.steps.cpu(),
    )


def _distinct(inputs: Tensor) -> tuple[list[int], list[int]]:
    """Where each distinct input first stands, and for each input which of these it is.

    Sums are compared before inputs, on the inputs' device: that takes one pass and one wait for the device.
    """
    sums: list[float] = inputs.flatten(1).sum(dim=1, dtype=torch.float64).tolist()
    alike: dict[float, list[int]] = {}
    first: list[int] = []
    which: list[int] = []
    for i, total in enumerate(sums):
        same = next((place for place in alike.get(total, []) if torch.equal(inputs[first[place]], inputs[i])), None)
        if same is None:
            same = len(first)
            alike.setdefault(total, []).append(same)
            first.append(i)
        which.append(same)
    return first, which


def _fit_tower(
    tower: Tower,
    tokens: HiddenTokens,
    target: Float[Tensor, "pairs embed"],
    noise: KeyedNoise,
    config: BottleneckConfig,
    gate: GateConfig,
    statistics: TowerStatistics | None,
) -> Fit:
    layer = gate.resolve_layer(tower.blocks)
    hidden = at_least_float32(tokens.hidden)
    if statistics is None:
        mean, std = torch.zeros_like(hidden), torch.ones_like(hidden)
    else:
        mean, std = (moment.to(hidden.dtype) for moment in statistics.at(_cells(tokens, gate)))
    special = tokens.valid & (tokens.kinds != CONTENT)
    gated = GatedTokens(
        hidden=hidden,
        mean=mean,
        std=std,
        learned=tokens.valid if gate.special == "learned" else tokens.valid & ~special,
        closed=special if gate.special == "closed" else torch.zeros_like(special),
    )

    def suffix(codes: Tensor, rows: Tensor | None) -> Tensor:
        some = tokens if rows is None or len(rows) == len(tokens.hidden) else tokens.rows(rows)
        with torch.autocast(codes.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            return tower.suffix(codes, some, layer)

    return fit(gated, suffix, target, noise, gate, config)


def _concatenate(parts: Sequence[Attribution]) -> Attribution:
    return Attribution(
        cosine=torch.cat([part.cosine for part in parts]),
        image_map=torch.cat([part.image_map for part in parts]),
        image_special_nats=torch.cat([part.image_special_nats for part in parts]),
        image_cosine=torch.cat([part.image_cosine for part in parts]),
        tokens=[row for part in parts for row in part.tokens],
        special=[row for part in parts for row in part.special],
        text_map=[row for part in parts for row in part.text_map],
        text_cosine=torch.cat([part.text_cosine for part in parts]),
        image_steps=torch.cat([part.image_steps for part in parts]),
        text_steps=torch.cat([part.text_steps for part in parts]),
    )
