"""Where a template lies in whitened images: correlation within its strokes, and what its rescaled foils reach."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Images: TypeAlias = Float[Tensor, "n c h w"]

SCALES = (0.8, 0.9, 1.1, 1.25)
"""Sizes at which a template is a foil of itself: within the spread of natural sizes, beyond that of a machine's."""
FAINTEST = 0.1
"""An occurrence has at least this share of the template's contrast: below, the score would be that of rounding."""
_BLOCK = 32
"""Images that are searched at a time."""


def threshold(null: float) -> float:
    """Score of an occurrence: half way, in energy, between the best foil and identity."""
    return ((1 + null**2) / 2) ** 0.5


@dataclass(frozen=True)
class Heard:
    """Whitened images with the spectra of themselves and of their energy, made once for all templates.

    Around each image are as many zeros as half of the largest template needs.
    """

    white: Images
    spectrum: Tensor
    energy: Tensor
    size: tuple[int, int]


def hear(white: Images, largest: tuple[int, int]) -> Heard:
    """Prepare images for templates. largest: height and width of the largest template."""
    h, w = (_smooth(max(side + most // 2, most)) for side, most in zip(white.shape[-2:], largest, strict=True))
    size = (h, w)
    return Heard(white, torch.fft.rfft2(white, s=size), torch.fft.rfft2(white.square().sum(1), s=size), size)


def _smooth(size: int) -> int:
    """The next number without prime factors above 5: its Fourier transform is fast."""
    left = size
    for factor in (2, 3, 5):
        while left % factor == 0:
            left //= factor
    return size if left == 1 else _smooth(size + 1)


def search(heard: Heard, template: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Correlation of the template with each image within the mask, wherever at least half of its strokes lie inside.

    The first place is half a template outside the upper left corner. In blocks of images.
    """
    h, w = heard.white.shape[-2:]
    th, tw = mask.shape
    size = heard.size
    strokes = template * mask
    total = strokes.square().sum()
    spoken = torch.fft.rfft2(strokes, s=size).conj()
    cover = torch.fft.rfft2(mask.to(strokes.dtype), s=size).conj()
    # Energy of the strokes that lie inside the image, place by place.
    inside = torch.fft.rfft2(strokes.new_ones(h, w), s=size)
    own = torch.fft.irfft2(inside * torch.fft.rfft2(strokes.square().sum(0), s=size).conj(), s=size)
    rows = torch.arange(-(th // 2), h + th // 2 - th + 1) % size[0]
    columns = torch.arange(-(tw // 2), w + tw // 2 - tw + 1) % size[1]
    own = own[rows][:, columns]
    for start in range(0, len(heard.white), _BLOCK):
        block = slice(start, start + _BLOCK)
        product = torch.fft.irfft2((heard.spectrum[block] * spoken).sum(1), s=size)[:, rows][..., columns]
        energy = torch.fft.irfft2(heard.energy[block] * cover, s=size)[:, rows][..., columns]
        norm = (own * torch.maximum(energy, FAINTEST**2 * own)).clamp_min(1e-12).sqrt()
        yield torch.where(own > total / 2, product / norm, -1)


def best_places(heard: Heard, template: Tensor, mask: Tensor) -> list[tuple[float, int, int]]:
    """Score and place (y, x), which may lie outside, of the best match in each image."""
    best = []
    for scores in search(heard, template, mask):
        values, places = scores.flatten(1).max(1)
        for score, place in zip(values.tolist(), places.tolist(), strict=True):
            y, x = divmod(place, scores.shape[2])
            best.append((score, y - mask.shape[0] // 2, x - mask.shape[1] // 2))
    return best


def null_score(heard: Heard, template: Tensor, mask: Tensor, enough: float) -> float:
    """The best score of the rescaled templates in any image; any score, once its threshold is not below `enough`."""
    best = 0.0
    for scale in SCALES:
        size = tuple(max(3, round(side * scale)) for side in mask.shape)
        foil = F.interpolate(template[None], size=size, mode="bicubic", antialias=scale < 1)[0]
        cover = F.interpolate(mask[None, None].float(), size=size, mode="bilinear", antialias=scale < 1)[0, 0] > 0.5
        for scores in search(heard, foil, cover):
            best = max(best, float(scores.max()))
            if not enough > threshold(best):
                return best
    return best
