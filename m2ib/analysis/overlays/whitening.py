"""Whiten images: divide their spectrum by the mean amplitude spectrum of a sample.

Natural backgrounds become noise of unit variance, so that two backgrounds correlate only by chance.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.fft import dctn, idctn
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
        h, w = (side // reduction for side in images.shape[-2:])
        power = torch.zeros(images.shape[1], h, w, dtype=torch.float64)
        for image in images:
            power += _cosine_transform(downsample(image[None], reduction)[0]).square()
        power[:, 0, 0] = 0
        # Half spectrum of the mirrored images, which have twice the height and width.
        mirrored = torch.cat([F.pad(power, (0, 1, 0, 1)), F.pad(power[:, 1:], (0, 1)).flip(1)], 1)
        mean = mirrored / max(len(images), 1)
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
        gain = self.gain[:, :h, :w]
        white = images.new_empty(len(images), len(gain), h, w)
        for image, result in zip(images, white, strict=True):  # one at a time, to save memory
            spectrum = _cosine_transform(downsample(image[None], self.reduction)[0]) * gain
            result.copy_(torch.from_numpy(idctn(spectrum.numpy(), axes=(1, 2))))
        return white


def downsample(images: Images, factor: int) -> Float[Tensor, "n c rh rw"]:
    """Downsample images by averaging squares of `factor` x `factor` pixels."""
    return images if factor == 1 else F.avg_pool2d(images, factor)


def drop_duplicate_channels(images: Images) -> Float[Tensor, "n d h w"]:
    """Return only the first channel if all others are affine functions of it, as in gray images; else return all."""
    return images[:, :1] if all(map(_is_gray, images)) else images


def _is_gray(image: Float[Tensor, "c h w"]) -> bool:
    flat = image.flatten(1).double()
    flat -= flat.mean(1, keepdim=True)
    norm = flat.norm(dim=1)
    unit = flat / norm.clamp_min(1e-9)[:, None]
    return bool(((unit @ unit[0]).gt(0.99999) | norm.lt(1e-9)).all())


def _hann(side: int) -> Tensor:
    """Return a Hann window around index 0, the center of a Fourier kernel. It is 0 beyond `PATCH` / 2 pixels."""
    at = torch.arange(side, dtype=torch.float64)
    distance = torch.minimum(at, side - at) / (PATCH / 2)
    return torch.where(distance < 1, 0.5 + 0.5 * torch.cos(torch.pi * distance), 0)


def _cosine_transform(image: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """Return the amplitudes of the Fourier transform of the image and its mirror images, with their signs."""
    return torch.from_numpy(dctn(image.numpy(), axes=(1, 2)))
