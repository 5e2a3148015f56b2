"""Compute M2IB attribution maps of image-caption pairs: the function `attribute` and its result."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, SupportsIndex, cast, overload

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int8
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from m2ib.arguments import check_argument
from m2ib.bottleneck import FitResult, GatedTokens, PerPair, TokenMask, fit_gates, price_per_nat
from m2ib.config import BottleneckConfig, GateConfig, TowerName
from m2ib.devices import copy_to, estimate_batch_size, float32_precision
from m2ib.encoders import DualEncoder, Images
from m2ib.errors import CalibrationError
from m2ib.noise import KeyedNoise
from m2ib.patches import PatchProjection
from m2ib.statistics import FeatureStatistics, TowerStatistics, cells_of, check_inputs, describe_scope
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
        patches: (S, rows, columns, dims) vectors of the patches at a deep block, on a grid of their own; see
            `PatchProjection`. None unless `start_attribution` was given one.
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
    patches: Int8[Tensor, "pairs rows columns dims"] | None = None
    texts: Sequence[str] = ()
    images: Sequence[Image.Image] = ()
    views: Sequence[tuple[float, float, float, float]] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        rows, columns = self.image_map.shape[1:]
        means = float(self.cosine.mean()), float(self.image_nats.mean()), sum(self.text_nats) / len(self)
        number = "1 pair" if len(self) == 1 else f"{len(self)} pairs"
        return (
            f"Attribution({number}, image maps {rows} x {columns}; means: cosine {means[0]:.3f}, "
            f"image {means[1]:.4g} nats, text {means[2]:.4g} nats)"
        )

    @overload
    def __getitem__(self, index: int) -> PairAttribution: ...
    @overload
    def __getitem__(self, index: slice) -> "Attribution": ...
    def __getitem__(self, index: int | slice) -> "PairAttribution | Attribution":
        if isinstance(index, slice):
            values = {one.name: getattr(self, one.name) for one in fields(self)}
            sliced: dict[str, Any] = {key: None if value is None else value[index] for key, value in values.items()}
            return Attribution(**sliced)
        check_argument("pair", index, SupportsIndex, f"an index from 0 to {len(self) - 1}, or a slice such as [:8]")
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair: got {index}, expected an index from 0 to {len(self) - 1}")
        i = index % len(self)
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
            pairs: Indices of the pairs, such as [0, 7]. Defaults to the first four.

        Returns:
            A `matplotlib.figure.Figure`, for `.savefig("maps.png")`. A notebook shows it after `%matplotlib inline`.

        Raises:
            ValueError: If `attribute` was given an array or a tensor instead of PIL images, or there is no index.
        """
        from m2ib.plotting import plot_pairs

        chosen = range(min(len(self), 4)) if pairs is None else pairs
        if not isinstance(chosen, Sequence) or not chosen:
            raise ValueError(f"pairs: got {pairs!r}, expected a list with the indices of one pair or more, such as [0]")
        top = max(float(self[i].image_map.max()) for i in chosen)
        return plot_pairs([(self.overlay(i, top), self[i]) for i in chosen], top)

    def to_frame(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each pair and the attributes as columns; maps are lists."""
        import pandas as pd

        hidden = ("images", "views", "patches")
        columns = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in hidden}
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
        images = np.stack([each.image_map.flatten(1).numpy() for each in (self, other)])
        texts = np.stack([pad_sequence([*each.text_map], batch_first=True).numpy() for each in (self, other)])
        return _correlate(images, np.ones(images.shape[1:], np.bool_)), _correlate(texts, (texts != 0).any(axis=0))


def _correlate(maps: Float[np.ndarray, "two pairs tokens"], counted: Bool[np.ndarray, "pairs tokens"]) -> PerPair:
    """Correlate the two maps of each pair over the counted tokens."""
    values, number = maps.astype(np.float64), counted.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN where a map is constant
        centered = (values - ((values * counted).sum(axis=2) / number)[..., None]) * counted
        norms = np.sqrt((centered**2).sum(axis=2))
        correlations = (centered[0] * centered[1]).sum(axis=1) / (norms[0] * norms[1])
    return torch.from_numpy(np.where(number < 3, math.nan, correlations).astype(np.float32))


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
    return start_attribution(
        encoder, images, texts, config, statistics, keys=keys, batch_size=batch_size, progress=progress
    )()


def start_attribution(
    encoder: DualEncoder,
    images: Images,
    texts: Sequence[str],
    config: BottleneckConfig | None = None,
    statistics: FeatureStatistics | None = None,
    *,
    keys: Sequence[str] | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    projection: PatchProjection | None = None,
) -> Callable[[], Attribution]:
    """Start what `attribute` does, with the same arguments, and return a function that waits for the results.

    With a projection (result of `calibrate_patches`), the results have the patches of each image, at no forward pass.

    A GPU works on after this function has returned, so that the next pairs can be copied and started meanwhile. A CPU
    has computed everything by then. Any thread may call the returned function: it starts no work on the device, and no
    PyTorch operation that is large enough for a team of threads.
    """
    config, statistics = config or BottleneckConfig(), statistics or FeatureStatistics()
    check_inputs(encoder, images, texts, config)
    expected = "the result of m2ib.calibrate; read a file with m2ib.FeatureStatistics.load(path)"
    check_argument("statistics", statistics, FeatureStatistics, expected)
    if keys is not None:
        check_argument("keys", keys, str, "a string for each pair", is_list=True)
    config.check_layers(encoder.image.num_blocks, encoder.text.num_blocks)
    _check_arguments(encoder, images, texts, keys, batch_size, progress)
    _check_statistics(encoder, config, statistics)
    if batch_size is None:
        batch_size = 1 if len(images) == 1 else estimate_batch_size(encoder, config)
    parts: list[Callable[[], Attribution]] = []
    done = 0
    with encoder.frozen(), float32_precision(encoder.device, exact=config.precision == "float32"):
        while done < len(images):
            batch_size = min(batch_size, encoder.max_batch_size)
            rows = slice(done, min(done + batch_size, len(images)))
            pixels, ids = encoder.prepare_images(images[rows]), encoder.tokenizer([*texts[rows]])
            batch_keys = keys[rows] if keys is not None else _content_keys(pixels, ids)
            try:
                settings = config, statistics, projection
                parts.append(_start_batch(encoder, pixels, texts[rows], ids, batch_keys, *settings))
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
    return lambda: replace(
        _concatenate([finish() for finish in parts]), texts=list(texts), images=pictures, views=views
    )


def _check_arguments(
    encoder: DualEncoder,
    images: Images,
    texts: Sequence[str],
    keys: Sequence[str] | None,
    batch_size: int | None,
    progress: object,
) -> None:
    if progress is not None and not callable(progress):
        raise TypeError(f"progress: got {progress!r}, expected a function of two numbers: the finished and all pairs")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    if not len(images) == len(texts) > 0:
        raise ValueError(
            f"images and texts: got {len(images)} and {len(texts)}, expected one text per image, and at least one image"
        )
    if empty := [i for i, text in enumerate(texts) if not text.strip()]:
        raise ValueError(f"texts: got an empty caption for pair {empty[0]}, expected captions with words; leave it out")
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
        for image, text in zip(pixels.cpu().contiguous(), ids, strict=True)
    ]


def _start_batch(
    encoder: DualEncoder,
    pixels: Float[Tensor, "pairs 3 h w"],
    texts: Sequence[str],
    ids: Int[Tensor, "pairs context"],
    keys: Sequence[str],
    config: BottleneckConfig,
    statistics: FeatureStatistics,
    projection: PatchProjection | None,
) -> Callable[[], Attribution]:
    """Start the attribution of a batch, given its pixels on the device and its token ids in main memory."""
    distinct = _find_distinct(pixels)
    image_tokens, image_embedding, vectors = _embed_clean(encoder.image, pixels, distinct, config.image, projection)
    moved = copy_to(encoder.device, ids)
    text_tokens, text_embedding, _ = _embed_clean(encoder.text, moved, _find_distinct(ids), config.text)
    image = _fit_tower(encoder, "image", image_tokens, text_embedding, keys, config, statistics)
    text = _fit_tower(encoder, "text", text_tokens, image_embedding, keys, config, statistics)
    patches = image_tokens.kinds == CONTENT
    read = _copy_results(
        cosine=(image_embedding * text_embedding).sum(dim=-1),
        patches=patches,
        image_nats=image.nats,
        image_special_nats=(image.nats * ~patches).sum(dim=1),
        image_cosine=image.cosine,
        image_steps=image.steps,
        words=cast("Tensor", text_tokens.ids),  # never None for a text tower
        valid=text_tokens.valid,
        kinds=text_tokens.kinds,
        text_nats=text.nats,
        text_padding_nats=(text.nats * (text_tokens.kinds == PADDING)).sum(dim=1),
        text_cosine=text.cosine,
        text_steps=text.steps,
        **({} if vectors is None else {"vectors": vectors}),
    )
    # While a GPU computes. Only this thread calls the tokenizer, which another thread could not call at the same time.
    truncated = encoder.count_truncated_characters(texts, ids)
    encoder.decode_tokens(ids.unique().tolist())
    grid = cast("tuple[int, int]", image_tokens.grid)  # never None for an image tower

    def finish() -> Attribution:
        results = read()
        patches, words, kinds, text_nats = (results.pop(name) for name in ("patches", "words", "kinds", "text_nats"))
        shown, special = results.pop("valid") & (kinds != PADDING), kinds != CONTENT
        rows = range(len(words))
        maps = torch.from_numpy(results.pop("image_nats")[patches].reshape(-1, *grid))
        captured = None if vectors is None else torch.from_numpy(results.pop("vectors"))
        per_pair: dict[str, Any] = {name: torch.from_numpy(values) for name, values in results.items()}
        return Attribution(
            image_map=maps,
            tokens=[encoder.decode_tokens(words[i, shown[i]].tolist()) for i in rows],
            special=[special[i, shown[i]].tolist() for i in rows],
            text_map=[torch.from_numpy(text_nats[i, shown[i]]) for i in rows],
            truncated=truncated,
            patches=captured,
            **per_pair,
        )

    return finish


def _copy_results(**results: Tensor) -> Callable[[], dict[str, np.ndarray]]:
    """Start to copy tensors with a row for each pair to main memory; return a function that waits for the arrays.

    They are packed into one, because each copy waits for the GPU. All their values are exact in float64.
    """
    packed = torch.cat([values.reshape(len(values), -1).double() for values in results.values()], dim=1)
    kinds = {name: (values.shape, str(values.dtype).removeprefix("torch.")) for name, values in results.items()}
    ends = np.cumsum([math.prod(shape[1:]) for shape, _ in kinds.values()])
    copied = packed.to("cpu", non_blocking=True)
    done = torch.cuda.current_stream(packed.device).record_event() if packed.is_cuda else None

    def read() -> dict[str, np.ndarray]:
        if done is not None:
            done.synchronize()
        columns = zip(kinds.items(), np.split(copied.numpy(), ends[:-1], axis=1), strict=True)
        return {name: column.reshape(shape).astype(dtype) for (name, (shape, dtype)), column in columns}

    return read


@torch.no_grad()
def _embed_clean(
    tower: Tower,
    inputs: Tensor,
    distinct: tuple[list[int], list[int]],
    gate: GateConfig,
    projection: PatchProjection | None = None,
) -> tuple[HiddenTokens, Float[Tensor, "pairs embed"], Int8[Tensor, "pairs rows columns dims"] | None]:
    """Return the hidden states of each input at the gate, its normalized embedding, and the vectors of its patches.

    The blocks before the gate run once for all results, which halves the work. Inputs that occur several times, such
    as one image with several captions, are computed once; see `_find_distinct`.
    """
    layer = gate.resolve_layer(tower.num_blocks)
    first, which = distinct
    repeated = len(first) < len(inputs)
    inputs = inputs[copy_to(inputs.device, torch.tensor(first))] if repeated else inputs
    tokens = tower.run_prefix(inputs, layer)
    vectors = None
    if projection is None:
        embedding = tower.run_suffix(tokens.hidden[None], tokens, layer)[0]
    else:
        embedding, deep = tower.embed_and_capture(inputs, tokens, layer, projection.layer)
        vectors = projection.project(deep)
    embedding = F.normalize(at_least_float32(embedding), dim=-1)
    if not repeated:
        return tokens, embedding, vectors
    rows = copy_to(inputs.device, torch.tensor(which))
    return tokens.select(rows), embedding[rows], None if vectors is None else vectors[rows]


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
    if len(parts) == 1:
        return parts[0]

    def join(values: list[Any]) -> Any:
        if values[0] is None:
            return None
        if isinstance(values[0], Tensor):
            return torch.cat(values)
        return [row for rows in values for row in rows]

    return Attribution(**{one.name: join([getattr(part, one.name) for part in parts]) for one in fields(Attribution)})
