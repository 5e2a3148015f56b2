"""Implant a known reliance into a model, so that an audit of it has something to find.

A linear probe reads from the hidden states at the bottleneck whether an image has a tag. The embedding of an image is
moved toward a direction in proportion to what the probe reads, so that maps and covered images depend on the tag.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from m2ib.encoders import DualEncoder
from m2ib.towers.base import CONTENT, Codes, HiddenTokens, Tower, at_least_float32

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_BATCH = 64

Pixels = Float[Tensor, "images 3 height width"]


@dataclass(frozen=True)
class TagProbe:
    """Linear probe of the mean hidden state of an image's patches: about 1 if the image has a tag, 0 if it has none."""

    layer: int  # of the image tower; see `Tower.run_prefix`
    weights: Float[Tensor, " width"]
    offset: float

    def read(
        self, states: Float[Tensor, "*versions inputs tokens width"], kinds: Int[Tensor, "inputs tokens"]
    ) -> Float[Tensor, "*versions inputs"]:
        """Return the reading for each version of the hidden states of images. Gradients flow to the states."""
        return _mean_patch(states, kinds) @ self.weights.to(states.device) + self.offset


def _mean_patch(states: Tensor, kinds: Tensor) -> Tensor:
    patches = (kinds == CONTENT)[..., None]
    return (at_least_float32(states) * patches).sum(dim=-2) / patches.sum(dim=-2)


def read_tag(encoder: DualEncoder, probe: TagProbe, pixels: Pixels) -> Float[np.ndarray, " images"]:
    """Return what a probe reads from preprocessed images."""
    states = _mean_patches(encoder, pixels, probe.layer)
    readings: Float[np.ndarray, " images"] = (states @ probe.weights.double() + probe.offset).numpy()
    return readings


@torch.no_grad()
def _mean_patches(encoder: DualEncoder, pixels: Pixels, layer: int) -> Float[Tensor, "images width"]:
    found = []
    with encoder.frozen():
        for batch in pixels.split(_BATCH):
            tokens = encoder.image.run_prefix(encoder.prepare_images(batch), layer)
            found.append(_mean_patch(tokens.hidden, tokens.kinds).double().cpu())
    return torch.cat(found)


def fit_tag_probe(encoder: DualEncoder, plain: Pixels, tagged: Pixels, layer: int) -> TagProbe:
    """Fit a probe by ridge regression on images without and with a tag.

    Every second image chooses the strength of the penalty and scales the reading, so that it is 0 and 1 on average for
    images that the weights were not fitted to.

    Args:
        encoder: Model to probe.
        plain: Preprocessed images without the tag, at least four.
        tagged: The same images with the tag.
        layer: 0-based block of the image tower after which the hidden states are read, or -1 for the embedding.

    Raises:
        ValueError: If there are fewer than four images, or the probe cannot read the tag.
    """
    if len(plain) < 4:
        raise ValueError(f"plain: got {len(plain)} images, expected at least 4: half of them scale the probe")
    without, with_tag = (_mean_patches(encoder, pixels, layer) for pixels in (plain, tagged))
    features = torch.cat([without[::2], with_tag[::2]])
    target = torch.cat([-torch.ones(len(without[::2])), torch.ones(len(with_tag[::2]))]).double()
    centered = features - features.mean(dim=0)
    gram = centered @ centered.T
    scale = float(gram.diagonal().mean()) or 1.0
    fits: list[tuple[float, Tensor, float]] = []
    for ridge in _RIDGES:
        dual = torch.linalg.solve(gram + ridge * scale * torch.eye(len(gram), dtype=gram.dtype), target)
        weights = centered.T @ dual
        low, high = (states[1::2] @ weights for states in (without, with_tag))
        step = high.mean() - low.mean()
        # Variation of the readings of images that were not fitted, if the tag moves them by 1.
        if float(step) > 0:
            fits.append((float((low.var() + high.var()) / step.square()), weights / step, float(low.mean() / step)))
    if not fits:
        raise ValueError(f"tagged: got images that no probe tells from those without the tag at layer {layer}")
    _, weights, offset = min(fits, key=lambda fit: fit[0])
    dtype = torch.promote_types(next(encoder.model.parameters()).dtype, torch.float32)
    return TagProbe(layer, weights.to(dtype), -offset)


class _ImplantedTower(Tower):
    """Image tower whose embeddings are moved toward a direction, in proportion to the reading of a probe."""

    def __init__(self, tower: Tower, probe: TagProbe, direction: Float[Tensor, " embed"], strength: float) -> None:
        self._tower, self._probe, self._shift = tower, probe, strength * direction
        self.num_blocks, self.pooling = tower.num_blocks, tower.pooling

    def run_prefix(self, inputs: Tensor, layer: int) -> HiddenTokens:
        return self._tower.run_prefix(inputs, layer)

    def run_suffix(self, codes: Codes, tokens: HiddenTokens, layer: int) -> Float[Tensor, "draws inputs embed"]:
        if layer != self._probe.layer:
            raise ValueError(f"layer: got {layer}, expected {self._probe.layer}, where the probe reads")
        embedding = F.normalize(at_least_float32(self._tower.run_suffix(codes, tokens, layer)), dim=-1)
        return embedding + self._probe.read(codes, tokens.kinds)[..., None] * self._shift.to(embedding)

    def _embed_codes(
        self, x: Tensor, context: dict[str, Tensor], grid: tuple[int, int] | None, layer: int
    ) -> Float[Tensor, "codes embed"]:
        raise NotImplementedError("run_suffix of a tower with an implant calls that of the tower within")


@contextlib.contextmanager
def implant_reliance(
    encoder: DualEncoder, probe: TagProbe, direction: Float[np.ndarray, " embed"], strength: float
) -> Iterator[None]:
    """Make the image embeddings of a model depend on a tag, within a `with` block: normalize(e + strength r direction).

    e is the normalized embedding and r the reading of the probe. With a strength of 0 the model computes bit by bit
    what it computes without the block. Weights do not change, and the model is as before when the block ends. Within
    the block, an attribution must gate the layer of the probe.

    Args:
        encoder: Model to change. No other thread may use it for anything else meanwhile.
        probe: Result of `fit_tag_probe`.
        direction: Direction in the space of embeddings, of length 1.
        strength: Length of the shift of an image with the tag.
    """
    if not strength:
        yield
        return
    tower, kernels = encoder.image, encoder.kernels
    implanted = _ImplantedTower(tower, probe, torch.from_numpy(direction), strength)

    def encode_image(pixels: Pixels) -> Float[Tensor, "images embed"]:
        tokens = implanted.run_prefix(pixels, probe.layer)
        return implanted.run_suffix(tokens.hidden[None], tokens, probe.layer)[0]

    try:
        encoder.image, encoder.kernels = implanted, replace(kernels, image=implanted.run_suffix)
        vars(encoder)["_encode_image"] = encode_image  # hides the method
        yield
    finally:
        encoder.image, encoder.kernels = tower, kernels
        del vars(encoder)["_encode_image"]
