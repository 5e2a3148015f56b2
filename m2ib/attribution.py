"""Compute M2IB attribution maps of image-caption pairs: the function `attribute` and its result."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast, overload

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from m2ib.bottleneck import FitResult, GatedTokens, PerPair, TokenMask, fit_gates, price_per_nat
from m2ib.config import BottleneckConfig, GateConfig, TowerName
from m2ib.devices import estimate_batch_size, float32_precision
from m2ib.encoders import DualEncoder, Images
from m2ib.errors import CalibrationError
from m2ib.noise import KeyedNoise
from m2ib.statistics import FeatureStatistics, TowerStatistics, cells_of, describe_scope
from m2ib.towers.base import CONTENT, PADDING, HiddenTokens, Tower, at_least_float32


@dataclass(frozen=True, repr=False)
class PairAttribution:
    """Attribution of one pair: `result[i]` of an `Attribution`, whose attributes of the same names describe it."""

    text: str
    cosine: float
    image_map: Float[Tensor, "grid_h grid_w"]
    tokens: Sequence[str]
    special: Sequence[bool]
    text_map: Float[Tensor, " _"]

    def __repr__(self) -> str:
        nats = float(self.image_map.sum()), float(self.text_map.sum())
        return f"PairAttribution({self.text!r}, cosine {self.cosine:.3f}, image {nats[0]:.4g} nats, text {nats[1]:.4g})"


@dataclass(frozen=True, repr=False)
class Attribution:
    """Attribution maps and scores of S image-caption pairs.

    Maps are in nats: the information that passes the fitted gate of each patch or token. They are not rescaled.
    `result[i]` is the `PairAttribution` of pair i, and `result[:8]` is the `Attribution` of the first eight pairs.

    Attributes:
        cosine: (S,) cosine of the image and text embeddings, without a bottleneck.
        image_map: (S, grid_h, grid_w) nats of each patch.
        image_special_nats: (S,) sum of the nats of CLS and register tokens, which have no place on the patch grid.
        image_cosine: (S,) mean cosine over the noise samples, with the fitted bottleneck in the image tower.
        tokens: List of the token strings of each caption.
        special: List of booleans for each caption: True where the token is SOS, EOS or another marker.
        text_map: Tensor of (tokens,) nats for each caption, including special tokens.
        text_padding_nats: (S,) sum of the nats of padding tokens in text towers whose output depends on padding. The
            text map does not contain padding.
        text_cosine: (S,) mean cosine over the noise samples, with the fitted bottleneck in the text tower.
        image_steps: (S,) number of Adam steps until the image map converged, at most `BottleneckConfig.steps`.
        text_steps: (S,) number of Adam steps until the text map converged, at most `BottleneckConfig.steps`.
        truncated: Number of characters at the end of each caption that do not fit into the model's context.
        texts: The captions.
        images: The PIL images that `attribute` was given. Empty if it was given an array or a tensor.
        views: Part of each of these images that the model sees; see `DualEncoder.field_of_view`.
    """

    cosine: PerPair
    image_map: Float[Tensor, "pairs grid_h grid_w"]
    image_special_nats: PerPair
    image_cosine: PerPair
    tokens: Sequence[Sequence[str]]
    special: Sequence[Sequence[bool]]
    text_map: Sequence[Float[Tensor, " _"]]
    text_padding_nats: PerPair
    text_cosine: PerPair
    image_steps: Int[Tensor, " pairs"]
    text_steps: Int[Tensor, " pairs"]
    truncated: Sequence[int]
    texts: Sequence[str] = ()
    images: Sequence[Image.Image] = ()
    views: Sequence[tuple[float, float, float, float]] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        rows, columns = self.image_map.shape[1:]
        means = float(self.cosine.mean()), float(self.image_nats.mean()), sum(self.text_nats) / len(self)
        return (
            f"Attribution({len(self)} pairs, image maps {rows} x {columns}; means: cosine {means[0]:.3f}, "
            f"image {means[1]:.4g} nats, text {means[2]:.4g} nats)"
        )

    @overload
    def __getitem__(self, index: int) -> PairAttribution: ...
    @overload
    def __getitem__(self, index: slice) -> "Attribution": ...
    def __getitem__(self, index: int | slice) -> "PairAttribution | Attribution":
        if isinstance(index, slice):
            return Attribution(**{one.name: getattr(self, one.name)[index] for one in fields(self)})
        i = range(len(self))[index]
        text = self.texts[i] if self.texts else ""
        return PairAttribution(
            text, float(self.cosine[i]), self.image_map[i], self.tokens[i], self.special[i], self.text_map[i]
        )

    def __iter__(self) -> Iterator[PairAttribution]:
        return (self[i] for i in range(len(self)))

    def overlay(self, i: int, top: float | None = None) -> Image.Image:
        """Draw the image map of a pair over its image, in gray: the part that the model sees, one square per patch.

        Args:
            i: Index of the pair.
            top: Nats of the brightest color. Defaults to the largest value of the map.

        Raises:
            ValueError: If `attribute` was given an array or a tensor instead of PIL images.
        """
        from m2ib.plotting import crop_view, draw_overlay

        if not self.images:
            raise ValueError(
                "overlay: got no pictures, expected a result of attribute(encoder, images, ...) on PIL images"
            )
        nats = self[i].image_map.numpy()
        return draw_overlay(crop_view(self.images[i], self.views[i]), nats, float(nats.max()) if top is None else top)

    def plot(self, pairs: Sequence[int] | None = None) -> Any:
        """Plot pairs with matplotlib: the overlay of each with a common color scale, and the nats of its tokens.

        Args:
            pairs: Indices of the pairs. Defaults to the first four.

        Returns:
            A `matplotlib.figure.Figure`, for `.savefig("maps.png")`. A notebook shows it after `%matplotlib inline`.

        Raises:
            ValueError: If `attribute` was given an array or a tensor instead of PIL images.
        """
        from m2ib.plotting import plot_pairs

        chosen = range(min(len(self), 4)) if pairs is None else pairs
        top = max(float(self.image_map[i].max()) for i in chosen)
        return plot_pairs([(self.overlay(i, top), self[i]) for i in chosen], top)

    def to_frame(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each pair and the attributes as columns; maps are lists."""
        import pandas as pd

        columns = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("images", "views")}
        columns |= {"image_nats": self.image_nats, "text_nats": self.text_nats}
        values = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in columns.items()}
        values["text_map"] = [row.tolist() for row in self.text_map]
        return pd.DataFrame({"text": values.pop("texts") or None, **values})

    @property
    def image_nats(self) -> PerPair:
        """Sum of each image map over all patches, (S,), in nats."""
        return self.image_map.sum(dim=(1, 2))

    @property
    def text_nats(self) -> list[float]:
        """Sum of each text map over all tokens, in nats."""
        return [float(row.sum()) for row in self.text_map]

    def stability(self, other: "Attribution") -> tuple[PerPair, PerPair]:
        """Return the Pearson correlation of each map with the map of the same pair in another attribution.

        Tokens that have 0 nats in both attributions do not enter the correlation, because their gates are not learned.

        Args:
            other: Attribution of the same pairs, usually with a different seed.

        Returns:
            Correlations of the image maps (S,) and of the text maps (S,). NaN where a map is constant or has fewer
            than three values.
        """
        images = [torch.stack([a.flatten(), b.flatten()]) for a, b in zip(self.image_map, other.image_map, strict=True)]
        texts = [torch.stack([a, b]) for a, b in zip(self.text_map, other.text_map, strict=True)]
        texts = [both[:, (both != 0).any(dim=0)] for both in texts]
        return torch.stack([_correlation(m) for m in images]), torch.stack([_correlation(m) for m in texts])


def _correlation(maps: Float[Tensor, "two tokens"]) -> Float[Tensor, ""]:
    if maps.shape[1] < 3:
        return torch.tensor(math.nan)
    centered = maps.double() - maps.double().mean(dim=1, keepdim=True)
    return ((centered[0] * centered[1]).sum() / centered.norm(dim=1).prod()).float()


def attribute(
    encoder: DualEncoder,
    images: Images,
    texts: Sequence[str],
    config: BottleneckConfig | None = None,
    statistics: FeatureStatistics | None = None,
    *,
    keys: Sequence[str] | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Compute the image and text maps of the pairs (images[i], texts[i]) (Wang et al., NeurIPS 2023, section 3).

    A map depends only on its own pair, key, seed and settings. It does not depend on the other pairs or the batch size.
    The training mode and gradient flags of the model are restored afterwards.

    Args:
        encoder: Model to explain.
        images: PIL images, an array (pairs, height, width, 3) of images resized by `encoder.resize`, or a tensor
            (pairs, 3, height, width) of images preprocessed by `encoder.prepare_images`.
        texts: One caption for each image.
        config: Settings. Defaults to `BottleneckConfig()`.
        statistics: Result of `calibrate`. Required unless the setting `statistics` of both towers is `unit`.
        keys: String for each pair that, with the seed, determines its noise. Defaults to a digest of the pair's pixels
            and token ids.
        batch_size: Number of pairs to process at once. Defaults to `estimate_batch_size`. Halved whenever a device runs
            out of memory.
        progress: Function that is called after each batch with the number of finished pairs and of all pairs.

    Returns:
        Maps in nats and scores of the pairs.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has the wrong shape or length, or a gated layer does not exist.
        CalibrationError: If statistics are missing, or were computed for a different model, layer or setting.
    """
    config, statistics = config or BottleneckConfig(), statistics or FeatureStatistics()
    config.check_layers(encoder.image.num_blocks, encoder.text.num_blocks)
    _check_arguments(encoder, images, texts, keys, batch_size)
    _check_statistics(encoder, config, statistics)
    if batch_size is None:
        batch_size = 1 if len(images) == 1 else estimate_batch_size(encoder, config)
    parts: list[Attribution] = []
    done = 0
    with encoder.frozen(), float32_precision(encoder.device, exact=config.precision == "float32"):
        while done < len(images):
            batch_size = min(batch_size, encoder.max_batch_size)
            rows = slice(done, min(done + batch_size, len(images)))
            pixels, ids = encoder.prepare_images(images[rows]), encoder.tokenize(texts[rows])
            batch_keys = keys[rows] if keys is not None else _content_keys(pixels, ids)
            try:
                parts.append(_attribute_batch(encoder, pixels, texts[rows], ids, batch_keys, config, statistics))
            except torch.OutOfMemoryError:
                if rows.stop - rows.start == 1:
                    raise
                encoder.max_batch_size = (rows.stop - rows.start + 1) // 2
                continue
            done = rows.stop
            if progress is not None:
                progress(done, len(images))
    pictures = [] if isinstance(images, np.ndarray | Tensor) else list(images)
    views = [encoder.field_of_view(*picture.size) for picture in pictures]
    return replace(_concatenate(parts), texts=list(texts), images=pictures, views=views)


def _check_arguments(
    encoder: DualEncoder, images: Images, texts: Sequence[str], keys: Sequence[str] | None, batch_size: int | None
) -> None:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    for name, given in (("texts", texts), ("keys", keys)):
        if isinstance(given, str):
            raise TypeError(f"{name}: got one string, expected a list with one item per pair")
    if not len(images) == len(texts) > 0:
        raise ValueError(
            f"images and texts: got {len(images)} and {len(texts)}, expected one text per image, and at least one image"
        )
    if keys is not None and len(keys) != len(images):
        raise ValueError(f"keys: got {len(keys)} keys, expected {len(images)}, one key per pair")
    _check_images(encoder, images)


def _check_images(encoder: DualEncoder, images: Images) -> None:
    if isinstance(images, np.ndarray):
        resized = (*encoder.image_size, 3)
        if images.shape[1:] != resized or images.dtype != np.uint8:
            raise ValueError(
                f"images: got an array of {images.dtype} and shape {images.shape}, expected uint8 and "
                f"(pairs, {', '.join(map(str, resized))}), as encoder.resize returns it for each image"
            )
    if isinstance(images, Tensor):
        expected = (3, *encoder.image_size)
        if images.shape[1:] != expected or not images.is_floating_point():
            raise ValueError(
                f"images: got a tensor of {images.dtype} and shape {tuple(images.shape)}, expected floating point and "
                f"(pairs, {', '.join(map(str, expected))}), as encoder.prepare_images returns it, or PIL images"
            )
        if not bool(images.isfinite().all()):
            raise ValueError("images: got pixels that are NaN or infinite, expected finite numbers")


def _check_statistics(encoder: DualEncoder, config: BottleneckConfig, statistics: FeatureStatistics) -> None:
    name: TowerName
    for name, gate, given in (("image", config.image, statistics.image), ("text", config.text, statistics.text)):
        if gate.statistics == "unit":
            continue
        expected = describe_scope(encoder, name, gate)
        if given is None or given.scope != expected:
            got = "none" if given is None else f"statistics for the {given.scope}"
            raise CalibrationError(
                f"statistics: got {got}, expected statistics for the {expected} (setting {name}.statistics); pass the "
                "result of m2ib.calibrate with this model and these settings, or use m2ib.preset('paper')"
            )


def _content_keys(pixels: Float[Tensor, "pairs 3 h w"], ids: Int[Tensor, "pairs context"]) -> list[str]:
    return [
        hashlib.sha256(image.view(torch.uint8).numpy().tobytes() + text.numpy().tobytes()).hexdigest()
        for image, text in zip(pixels.cpu().contiguous(), ids.cpu(), strict=True)
    ]


def _attribute_batch(
    encoder: DualEncoder,
    pixels: Float[Tensor, "pairs 3 h w"],
    texts: Sequence[str],
    ids: Int[Tensor, "pairs context"],
    keys: Sequence[str],
    config: BottleneckConfig,
    statistics: FeatureStatistics,
) -> Attribution:
    image_tokens, image_embedding = _embed_clean(encoder.image, pixels, config.image)
    text_tokens, text_embedding = _embed_clean(encoder.text, ids, config.text)
    image = _fit_tower(encoder, "image", image_tokens, text_embedding, keys, config, statistics)
    text = _fit_tower(encoder, "text", text_tokens, image_embedding, keys, config, statistics)
    # `grid` is never None for an image tower, and `ids` never None for a text tower.
    grid = cast("tuple[int, int]", image_tokens.grid)
    patches = image_tokens.kinds == CONTENT
    # Copy once per batch instead of once per pair, because each copy from the device makes the host wait.
    words, kinds = cast("Tensor", text_tokens.ids).cpu(), text_tokens.kinds.cpu()
    shown, text_nats = text_tokens.valid.cpu() & (kinds != PADDING), text.nats.cpu()
    rows = range(len(keys))
    return Attribution(
        cosine=(image_embedding * text_embedding).sum(dim=-1).cpu(),
        image_map=image.nats[patches].reshape(len(keys), *grid).cpu(),
        image_special_nats=(image.nats * ~patches).sum(dim=1).cpu(),
        image_cosine=image.cosine.cpu(),
        tokens=[encoder.decode_tokens(words[i, shown[i]].tolist()) for i in rows],
        special=[(kinds[i, shown[i]] != CONTENT).tolist() for i in rows],
        text_map=[text_nats[i, shown[i]] for i in rows],
        text_padding_nats=(text_nats * (kinds == PADDING)).sum(dim=1),
        text_cosine=text.cosine.cpu(),
        image_steps=image.steps.cpu(),
        text_steps=text.steps.cpu(),
        truncated=encoder.count_truncated_characters(texts, ids.cpu()),
    )


@torch.no_grad()
def _embed_clean(tower: Tower, inputs: Tensor, gate: GateConfig) -> tuple[HiddenTokens, Float[Tensor, "pairs embed"]]:
    """Return the hidden states of each input at the gate, and its normalized embedding without a bottleneck.

    The blocks before the gate run once for both results, which halves the work. Inputs that occur several times, such
    as one image with several captions, are computed once.
    """
    layer = gate.resolve_layer(tower.num_blocks)
    first, which = _find_distinct(inputs)
    repeated = len(first) < len(inputs)
    tokens = tower.run_prefix(inputs[first] if repeated else inputs, layer)
    embedding = F.normalize(at_least_float32(tower.run_suffix(tokens.hidden[None], tokens, layer)[0]), dim=-1)
    if not repeated:
        return tokens, embedding
    rows = torch.tensor(which, device=inputs.device)
    return tokens.select(rows), embedding[rows]


def _find_distinct(inputs: Tensor) -> tuple[list[int], list[int]]:
    """Return the indices of the distinct inputs of a batch, and for each input which of these is equal to it.

    The sum of each input serves as a hash, so that most inputs are compared without reading their values.
    """
    sums: list[float] = inputs.flatten(1).sum(dim=1, dtype=torch.float64).tolist()
    by_sum: dict[float, list[int]] = {}
    first: list[int] = []
    which: list[int] = []
    for i, total in enumerate(sums):
        same = next((place for place in by_sum.get(total, []) if torch.equal(inputs[first[place]], inputs[i])), None)
        if same is None:
            same = len(first)
            by_sum.setdefault(total, []).append(same)
            first.append(i)
        which.append(same)
    return first, which


def _fit_tower(
    encoder: DualEncoder,
    name: TowerName,
    tokens: HiddenTokens,
    target: Float[Tensor, "pairs embed"],
    keys: Sequence[str],
    config: BottleneckConfig,
    statistics: FeatureStatistics,
) -> FitResult:
    gate: GateConfig = getattr(config, name)
    moments: TowerStatistics | None = getattr(statistics, name)
    layer = gate.resolve_layer(getattr(encoder, name).num_blocks)
    kernels = encoder.kernels
    hidden = at_least_float32(tokens.hidden)
    if moments is None:
        mean, std = torch.zeros_like(hidden), torch.ones_like(hidden)
    else:
        mean, std = (moment.to(hidden.dtype) for moment in moments.look_up(cells_of(tokens, gate)))
    learned, closed = gate_masks(tokens, gate)
    gated = GatedTokens(hidden=hidden, mean=mean, std=std, learned_mask=learned, closed_mask=closed)
    gated_tokens = (tokens.valid & (tokens.kinds != PADDING) & learned).sum(dim=1)
    price = price_per_nat(gate, gated_tokens, hidden.shape[2])

    def suffix(codes: Tensor, rows: Tensor | None) -> Tensor:
        some = tokens if rows is None or len(rows) == len(tokens.hidden) else tokens.select(rows)
        with torch.autocast(codes.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            embeddings: Tensor = getattr(kernels, name)(codes, some, layer)
            return embeddings

    noise = KeyedNoise(config.seed, keys, name, encoder.device, kernels.noise)
    return fit_gates(gated, suffix, target, noise, price.to(hidden.dtype), config, (kernels.code, kernels.step))


def gate_masks(tokens: HiddenTokens, gate: GateConfig) -> tuple[TokenMask, TokenMask]:
    """Return the masks (pairs, tokens) of the tokens with a learned gate and of the tokens that are replaced by noise.

    Tokens in neither mask pass the bottleneck unchanged. Padding tokens that the pooled token attends to never pass
    unchanged, because after the first block they contain information about the words.
    """
    special = tokens.valid & (tokens.kinds != CONTENT)
    if gate.special == "closed":
        return tokens.valid & ~special, special
    passes = special & (tokens.kinds != PADDING) if gate.special == "open" else torch.zeros_like(special)
    return tokens.valid & ~passes, torch.zeros_like(special)


def _concatenate(parts: Sequence[Attribution]) -> Attribution:
    def join(values: list[Any]) -> Any:
        if isinstance(values[0], Tensor):
            return torch.cat(values)
        return [row for rows in values for row in rows]

    return Attribution(**{one.name: join([getattr(part, one.name) for part in parts]) for one in fields(Attribution)})
