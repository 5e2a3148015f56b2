"""The public calls: calibrate feature statistics, attribute pairs."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from m2ib.batching import fitting_batch_size, float32_products
from m2ib.bottleneck import Fit, GatedTokens, fit, price_per_nat
from m2ib.config import BottleneckConfig, GateConfig, TowerName
from m2ib.encoders import DualEncoder, Images
from m2ib.errors import CalibrationError
from m2ib.noise import KeyedNoise
from m2ib.programs import Programs
from m2ib.results import Attribution
from m2ib.statistics import FeatureStatistics, RunningMoments, TowerStatistics
from m2ib.towers.base import CONTENT, KINDS, PADDING, HiddenTokens, Tower, at_least_float32


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
            image = _moments(
                encoder.image, batches, config.image, len(images), made_for(encoder, "image", config.image)
            )
        if config.text.statistics != "unit":
            batches = (encoder.token_ids(texts[rows]) for rows in _batches(len(texts), batch_size))
            text = _moments(encoder.text, batches, config.text, len(texts), made_for(encoder, "text", config.text))
    return FeatureStatistics(image, text)


def made_for(encoder: DualEncoder, name: TowerName, gate: GateConfig) -> str:
    """What statistics with this gate belong to."""
    layer = gate.resolve_layer(getattr(encoder, name).blocks)
    return f"{name} tower of model {encoder.digest[:12]}, layer {layer}, per {gate.statistics}"


def _moments(tower: Tower, batches: Iterable[Tensor], gate: GateConfig, count: int, purpose: str) -> TowerStatistics:
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
    return moments.finish(purpose)


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
    Raises TypeError and ValueError for inputs of another kind, size or number than expected and for a layer that a
    tower does not have, CalibrationError for statistics that are missing or of another model, layer or setting.
    """
    config, statistics = config or BottleneckConfig(), statistics or FeatureStatistics()
    config.check_layers(encoder.image.blocks, encoder.text.blocks)
    _check_arguments(images, texts, keys, batch_size)
    _check_images(encoder, images)
    _check_statistics(encoder, config, statistics)
    if batch_size is None:
        batch_size = 1 if len(images) == 1 else fitting_batch_size(encoder, config)
    parts: list[Attribution] = []
    done = 0
    with encoder.frozen(), float32_products(encoder.device, exact=config.precision == "float32"):
        while done < len(images):
            batch_size = min(batch_size, encoder.largest_batch)
            rows = slice(done, min(done + batch_size, len(images)))
            pixels, ids = encoder.pixels(images[rows]), encoder.token_ids(texts[rows])
            batch_keys = keys[rows] if keys is not None else _content_keys(pixels, ids)
            try:
                parts.append(_attribute_batch(encoder, pixels, ids, batch_keys, config, statistics))
            except torch.OutOfMemoryError:
                if rows.stop - rows.start == 1:
                    raise
                encoder.largest_batch = (rows.stop - rows.start + 1) // 2
                continue
            done = rows.stop
    return _concatenate(parts)


def _check_arguments(images: Images, texts: Sequence[str], keys: Sequence[str] | None, batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    for name, given in (("images", images), ("texts", texts), ("keys", keys)):
        if given is not None and (isinstance(given, str) or not hasattr(given, "__len__")):
            raise TypeError(f"{name}: got one {type(given).__name__}, expected a list with one for each pair")
    if len(images) != len(texts):
        raise ValueError(f"images and texts: got {len(images)} and {len(texts)}, expected one text an image")
    if keys is not None and len(keys) != len(images):
        raise ValueError(f"keys: got {len(keys)}, expected one for each of {len(images)} pairs")
    if not len(images):
        raise ValueError("images: got none, expected at least one pair")
    if wrong := {type(text).__name__ for text in texts if not isinstance(text, str)}:
        raise TypeError(f"texts: got {', '.join(sorted(wrong))} among them, expected strings")


def _check_images(encoder: DualEncoder, images: Images) -> None:
    if isinstance(images, Tensor):
        expected = (3, *encoder.image_size)
        if images.shape[1:] != expected or not images.is_floating_point():
            raise ValueError(
                f"images: got a tensor of {images.dtype} and shape {tuple(images.shape)}, expected floating point and "
                f"(pairs, {', '.join(map(str, expected))}), as encoder.preprocess makes it; PIL images do as well"
            )
        if not bool(images.isfinite().all()):
            raise ValueError("images: got NaN or infinity among the pixels, expected finite numbers")
    elif wrong := {type(image).__name__ for image in images if not isinstance(image, Image.Image)}:
        raise TypeError(
            f"images: got {', '.join(sorted(wrong))} among them, expected PIL images, or one tensor of what "
            "encoder.preprocess made; open a path with PIL.Image.open"
        )


def _check_statistics(encoder: DualEncoder, config: BottleneckConfig, statistics: FeatureStatistics) -> None:
    name: TowerName
    for name, gate, given in (("image", config.image, statistics.image), ("text", config.text, statistics.text)):
        if gate.statistics == "unit":
            continue
        if given is None:
            raise CalibrationError(
                f"{name}.statistics is {gate.statistics!r}, but no statistics were given: pass "
                "`statistics=m2ib.calibrate(encoder, images, texts, config)`, or use m2ib.preset('paper')"
            )
        if given.made_for != (wanted := made_for(encoder, name, gate)):
            raise CalibrationError(
                f"statistics: got those of the {given.made_for}; expected those of the {wanted}; calibrate with this "
                "model and these settings"
            )


def _content_keys(pixels: Float[Tensor, "pairs 3 h w"], ids: Int[Tensor, "pairs context"]) -> list[str]:
    return [
        hashlib.sha256(image.view(torch.uint8).numpy().tobytes() + text.numpy().tobytes()).hexdigest()
        for image, text in zip(pixels.cpu().contiguous(), ids.cpu(), strict=True)
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
    image_tokens, image_embedding = _cut(encoder.image, pixels, config.image)
    text_tokens, text_embedding = _cut(encoder.text, ids, config.text)
    image_noise, text_noise = (
        KeyedNoise(config.seed, keys, tower, encoder.device, encoder.programs.noise) for tower in ("image", "text")
    )
    image = _fit_tower(
        encoder.image, "image", encoder.programs, image_tokens, text_embedding, image_noise, config, config.image,
        statistics.image,
    )  # fmt: skip
    text = _fit_tower(
        encoder.text, "text", encoder.programs, text_tokens, image_embedding, text_noise, config, config.text,
        statistics.text,
    )  # fmt: skip
    # An image tower's tokens have a grid, a text tower's have ids.
    grid = cast("tuple[int, int]", image_tokens.grid)
    patches = image_tokens.kinds == CONTENT
    # From the device once a batch, not once a pair: each copy makes the host wait.
    words, kinds = cast("Tensor", text_tokens.ids).cpu(), text_tokens.kinds.cpu()
    shown, text_nats = text_tokens.valid.cpu() & (kinds != PADDING), text.nats.cpu()
    rows = range(len(keys))
    return Attribution(
        cosine=(image_embedding * text_embedding).sum(dim=-1).cpu(),
        image_map=image.nats[patches].reshape(len(keys), *grid).cpu(),
        image_special_nats=(image.nats * ~patches).sum(dim=1).cpu(),
        image_cosine=image.cosine.cpu(),
        tokens=[encoder.token_strings(words[i, shown[i]].tolist()) for i in rows],
        special=[(kinds[i, shown[i]] != CONTENT).tolist() for i in rows],
        text_map=[text_nats[i, shown[i]] for i in rows],
        text_padding_nats=(text_nats * (kinds == PADDING)).sum(dim=1),
        text_cosine=text.cosine.cpu(),
        image_steps=image.steps.cpu(),
        text_steps=text.steps.cpu(),
    )


@torch.no_grad()
def _cut(tower: Tower, inputs: Tensor, gate: GateConfig) -> tuple[HiddenTokens, Float[Tensor, "pairs embed"]]:
    """Hidden states of each input at the gate, and its clean normalised embedding.

    By prefix and suffix, which give the model's own embedding (`m2ib/towers/check.py`) for half of the work.
    """
    layer = gate.resolve_layer(tower.blocks)
    first, which = _distinct(inputs)
    repeated = len(first) < len(inputs)
    tokens = tower.prefix(inputs[first] if repeated else inputs, layer)
    embedding = F.normalize(at_least_float32(tower.suffix(tokens.hidden[None], tokens, layer)[0]), dim=-1)
    if not repeated:
        return tokens, embedding
    rows = torch.tensor(which, device=inputs.device)
    return tokens.rows(rows), embedding[rows]


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
    name: TowerName,
    programs: Programs,
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
    learned, closed = gates(tokens, gate)
    gated = GatedTokens(hidden=hidden, mean=mean, std=std, learned=learned, closed=closed)
    gated_tokens = (tokens.valid & (tokens.kinds != PADDING) & learned).sum(dim=1)
    price = price_per_nat(gate, gated_tokens, hidden.shape[2])

    def suffix(codes: Tensor, rows: Tensor | None) -> Tensor:
        some = tokens if rows is None or len(rows) == len(tokens.hidden) else tokens.rows(rows)
        with torch.autocast(codes.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            embeddings: Tensor = getattr(programs, name)(codes, some, layer)
            return embeddings

    elementwise = programs.code, programs.update
    return fit(gated, suffix, target, noise, price.to(hidden.dtype), config, elementwise)


def gates(tokens: HiddenTokens, gate: GateConfig) -> tuple[Bool[Tensor, "pairs tokens"], Bool[Tensor, "pairs tokens"]]:
    """Which tokens have a learned gate, and which a closed one; all others pass unchanged.

    Padding that the tower reads is never open, or words would pass by it.
    """
    special = tokens.valid & (tokens.kinds != CONTENT)
    match gate.special:
        case "learned":
            return tokens.valid, torch.zeros_like(special)
        case "closed":
            return tokens.valid & ~special, special
        case _:
            return tokens.valid & ~(special & (tokens.kinds != PADDING)), torch.zeros_like(special)


def _concatenate(parts: Sequence[Attribution]) -> Attribution:
    return Attribution(
        cosine=torch.cat([part.cosine for part in parts]),
        image_map=torch.cat([part.image_map for part in parts]),
        image_special_nats=torch.cat([part.image_special_nats for part in parts]),
        image_cosine=torch.cat([part.image_cosine for part in parts]),
        tokens=[row for part in parts for row in part.tokens],
        special=[row for part in parts for row in part.special],
        text_map=[row for part in parts for row in part.text_map],
        text_padding_nats=torch.cat([part.text_padding_nats for part in parts]),
        text_cosine=torch.cat([part.text_cosine for part in parts]),
        image_steps=torch.cat([part.image_steps for part in parts]),
        text_steps=torch.cat([part.text_steps for part in parts]),
    )
