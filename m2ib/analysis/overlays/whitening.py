"""Whiten images: divide their spectrum by the mean amplitude spectrum of a sample.

Natural backgrounds become noise of unit variance, so that two backgrounds correlate only by chance.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Images: TypeAlias = Float[Tensor, "n c h w"]

PATCH = 16
"""Images are downsampled by a whole factor so that a patch has about this side in pixels, which limits the run time."""


@dataclass(frozen=True)
class Whitener:
    """Linear filter that makes the mean power spectrum of images flat.

    Images are extended by their mirror image, so that their borders are no edges.
    """

    gain: Float[Tensor, "c fh fw"]  # factor of each channel and frequency
    reduction: int  # factor by which images are downsampled before the filter

    @classmethod
    def fit(cls, images: Images, reduction: int) -> "Whitener":
        """Estimate the filter from a sample of images, which are first downsampled by the factor `reduction`."""
        power = torch.zeros(())
        for image in images:
            power = power + _mirrored_spectrum(downsample(image[None], reduction)).abs().square()[0].double()
        power[:, 0, 0] = 0
        h, w = (side // reduction for side in images.shape[-2:])
        mean = power / max(len(images), 1)
        # The floor prevents amplification of the empty frequency bands of enlarged images, which contain a pixel grid.
        floor = 1e-3 * mean.mean(dim=(1, 2), keepdim=True) + torch.finfo(torch.float32).tiny
        gain = (mean + floor).rsqrt() * (4 * h * w) ** 0.5
        # Use a short kernel to limit ringing around strokes.
        window = _hann(2 * h)[:, None] * _hann(2 * w)
        kernel = torch.fft.irfft2(gain, s=(2 * h, 2 * w)) * window
        kernel = kernel - kernel.sum((-2, -1), keepdim=True) * window / window.sum()  # ignore brightness
        return cls(torch.fft.rfft2(kernel).real.float(), reduction)

    def apply(self, images: Images) -> Float[Tensor, "n c rh rw"]:
        """Downsample and whiten images. The variance over the sample is about 1. A constant image becomes 0."""
        h, w = (side // self.reduction for side in images.shape[-2:])
        reduced = (downsample(image[None], self.reduction) for image in images)  # one at a time, to save memory
        spectra = (_mirrored_spectrum(image) * self.gain for image in reduced)
        return torch.cat([torch.fft.irfft2(spectrum, s=(2 * h, 2 * w))[..., :h, :w] for spectrum in spectra])


def downsample(images: Images, factor: int) -> Float[Tensor, "n c rh rw"]:
    """Downsample images by averaging squares of `factor` x `factor` pixels."""
    return images if factor == 1 else F.avg_pool2d(images, factor)


def drop_duplicate_channels(images: Images) -> Float[Tensor, "n d h w"]:
    """Return only the first channel if all others are affine functions of it, as in gray images; else return all."""
    flat = images.flatten(2).double()
    flat = flat - flat.mean(-1, keepdim=True)
    unit = flat / flat.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    correlation = (unit * unit[:, :1]).sum(-1)
    constant = flat.norm(dim=-1) < 1e-9
    return images[:, :1] if bool((correlation.gt(0.99999) | constant).all()) else images


def _hann(side: int) -> Tensor:
    """Return a Hann window around index 0, the center of a Fourier kernel. It is 0 beyond `PATCH` / 2 pixels."""
    at = torch.arange(side, dtype=torch.float64)
    distance = torch.minimum(at, side - at) / (PATCH / 2)
    return torch.where(distance < 1, 0.5 + 0.5 * torch.cos(torch.pi * distance), 0)


def _mirrored_spectrum(images: Images) -> Tensor:
    mirrored = torch.cat([images, images.flip(-1)], -1)
    return torch.fft.rfft2(torch.cat([mirrored, mirrored.flip(-2)], -2))
