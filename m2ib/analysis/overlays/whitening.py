"""Whitening: divide images by the mean amplitude spectrum of the corpus.

In whitened images a natural background is noise of unit variance, which correlates by chance only.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Images: TypeAlias = Float[Tensor, "n c h w"]

PATCH = 16
"""Images are downsampled by whole factors until a patch has about this many pixels, which limits the cost."""


@dataclass(frozen=True)
class Whitener:
    """A linear filter that flattens the mean power spectrum. Images are mirrored, so that borders have no edge.

    Attributes:
        gain: (channels, rows, columns) factor of each frequency.
        reduction: Whole factor by which images are downsampled.
    """

    gain: Float[Tensor, "c fh fw"]
    reduction: int

    @classmethod
    def fit(cls, images: Images, reduction: int) -> "Whitener":
        """Estimate the filter from a sample. Constant images have no spectrum and do not count."""
        power = torch.zeros(())
        for image in images:
            power = power + _mirrored_spectrum(downsample(image[None], reduction)).abs().square()[0].double()
        power[:, 0, 0] = 0
        h, w = (side // reduction for side in images.shape[-2:])
        mean = power / max(len(images), 1)
        # Enlarged pictures have empty bands, which hold only the grid of their pixels. All enlarged pictures share it.
        floor = 1e-3 * mean.mean(dim=(1, 2), keepdim=True) + torch.finfo(torch.float32).tiny
        gain = (mean + floor).rsqrt() * (4 * h * w) ** 0.5
        # A short kernel limits ringing around strokes.
        window = _hann(2 * h)[:, None] * _hann(2 * w)
        kernel = torch.fft.irfft2(gain, s=(2 * h, 2 * w)) * window
        kernel = kernel - kernel.sum((-2, -1), keepdim=True) * window / window.sum()  # ignores local brightness
        return cls(torch.fft.rfft2(kernel).real.float(), reduction)

    def __call__(self, images: Images) -> Float[Tensor, "n c rh rw"]:
        """Downsample and whiten. The variance is about 1 over the sample, and 0 for a constant image."""
        reduced = downsample(images, self.reduction)
        h, w = reduced.shape[-2:]
        return torch.fft.irfft2(_mirrored_spectrum(reduced) * self.gain, s=(2 * h, 2 * w))[..., :h, :w]

    def apply_to_each(self, images: Images) -> Float[Tensor, "n c rh rw"]:
        """Whiten images one at a time, which needs less memory."""
        return torch.cat([self(image[None]) for image in images])


def downsample(images: Images, factor: int) -> Float[Tensor, "n c rh rw"]:
    """Average over squares of `factor` x `factor` pixels."""
    return images if factor == 1 else F.avg_pool2d(images, factor)


def drop_duplicate_channels(images: Images) -> Float[Tensor, "n d h w"]:
    """Keep one channel where the others are affine copies of it, as in gray images."""
    flat = images.flatten(2).double()
    flat = flat - flat.mean(-1, keepdim=True)
    unit = flat / flat.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    correlation = (unit * unit[:, :1]).sum(-1)
    constant = flat.norm(dim=-1) < 1e-9
    return images[:, :1] if bool((correlation.gt(0.99999) | constant).all()) else images


def _hann(side: int) -> Tensor:
    """Window that falls from 1 at index 0, the center of a Fourier kernel, to 0 at half a patch on either side."""
    at = torch.arange(side, dtype=torch.float64)
    distance = torch.minimum(at, side - at) / (PATCH / 2)
    return torch.where(distance < 1, 0.5 + 0.5 * torch.cos(torch.pi * distance), 0)


def _mirrored_spectrum(images: Images) -> Tensor:
    mirrored = torch.cat([images, images.flip(-1)], -1)
    return torch.fft.rfft2(torch.cat([mirrored, mirrored.flip(-2)], -2))
