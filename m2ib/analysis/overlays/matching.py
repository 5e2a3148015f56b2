"""Match templates in whitened images by normalized cross-correlation, restricted to the strokes of the template."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.fft import ifft, irfft, next_fast_len, rfft2
from torch import Tensor

from m2ib.analysis.masks import Box
from m2ib.analysis.overlays.whitening import Images

SCALES = (0.8, 0.9, 1.1, 1.25)  # of rescaled templates: natural sizes vary by more than this, overlays by less
MIN_CONTRAST = 0.1  # minimum contrast of an occurrence, as a share of the template's; below it the score is rounding
EXPLAINED = 0.75  # share (of strokes, energy or images) that counts as nearly all
WATERMARK_AREA = 0.5  # minimum area of a watermark, as a share of the image
CACHED = 2**17  # complex numbers in an inverse transform; more do not fit into the cache of a processor core

Spectrum = NDArray[np.complex64]
Placement = tuple[int, int, int]
"""Index of an image, and row and column of a window's upper left pixel in this image."""


def match_threshold(null_score: float) -> float:
    """Return the correlation that an occurrence must exceed, given that of rescaled templates (`null_score`).

    Rescaled templates are a control: an overlay has a fixed size, so they match it only by chance. The squared
    threshold is half way between the squared null score and 1, the correlation of an identical copy.
    """
    return ((1 + null_score**2) / 2) ** 0.5


@dataclass(frozen=True)
class Occurrence:
    """Place in an image where an overlay occurs."""

    box: Box  # bounding box of the overlay, clipped to the image
    score: float  # correlation of image and template within the strokes; 1 for an identical copy
    y: int  # row of the template's upper left pixel in the downsampled image; negative if clipped
    x: int  # column of that pixel


@dataclass(frozen=True)
class Overlay:
    """A tag, logo or watermark that is identical in many images.

    The height and width of the arrays, th and tw, are pixels of the downsampled images. The mean `share` and `area`
    and the median `score` are over the images with an occurrence.
    """

    template: Float[Tensor, "c th tw"]  # mean of the whitened occurrences, 0 outside the mask
    mask: Bool[Tensor, "th tw"]  # True for pixels of strokes, which whitening makes wider
    null_score: float  # highest correlation of a rescaled template in any image of the sample
    ink: Bool[Tensor, "th tw"]  # True for strokes as drawn: pixels with more than half of the largest contrast
    member_count: int = 0  # number of images that the first version of the template was estimated from
    score: float = 0.0  # median correlation
    share: float = 0.0  # mean share of the attribution inside the boxes
    area: float = 0.0  # mean share of the area inside the boxes

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the template, in pixels of the downsampled images."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def energy(self) -> float:
        """Sum of the squared values of the template."""
        return float(self.template.square().sum())

    @property
    def threshold(self) -> float:
        """Correlation that an occurrence must exceed; see `match_threshold`."""
        return match_threshold(self.null_score)

    @property
    def is_watermark(self) -> bool:
        """True if the overlay covers most of the image, so that a single box does not describe its place."""
        return self.area > WATERMARK_AREA


@dataclass(frozen=True)
class ImageSpectra:
    """Whitened images (see `Whitener`) and their Fourier transforms, which are computed once for all templates.

    They are NumPy arrays: PyTorch would start its threads for each of many small operations.

    Images are padded with zeros by half of the largest template before the transform.
    """

    white: Images
    spectrum: Spectrum
    energy: Spectrum  # Fourier transform of the squared images, summed over channels
    size: tuple[int, int]  # height and width of the padded images

    @classmethod
    def compute(cls, white: Images, extents: Sequence[tuple[int, int]], scale: float = max(SCALES)) -> "ImageSpectra":
        """Transform whitened images (`white`) for templates of these sizes (height, width), enlarged up to `scale`."""
        largest = (math.ceil(max(sides) * scale) for sides in zip(*extents, strict=True))
        padded = (max(n + most // 2, most) for n, most in zip(white.shape[-2:], largest, strict=True))
        h, w = (next_fast_len(size, real=True) for size in padded)
        energy = rfft2(white.square().sum(1, keepdim=True).numpy(), s=(h, w))
        return cls(white, rfft2(white.numpy(), s=(h, w)), energy, (h, w))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the whitened images, without padding."""
        return self.white.shape[-2], self.white.shape[-1]


def multiply_spectra(one: Spectrum, other: Spectrum, width: int, span: tuple[int, int]) -> NDArray[np.float32]:
    """Multiply spectra from `rfft2`, sum over channels, and transform back.

    The result is the first rows and columns (`span`) of images with `width` columns.
    """
    product = one[..., 0, :, :] * other[..., 0, :, :]
    for channel in range(1, one.shape[-3]):
        product += one[..., channel, :, :] * other[..., channel, :, :]
    rows = ifft(product, axis=-2, overwrite_x=True)[..., : span[0], :]  # `irfft2` would transform all rows
    found: NDArray[np.float32] = irfft(rows, n=width)[..., : span[1]]
    return found


def correlate(images: ImageSpectra, template: Tensor, mask: Tensor) -> Iterator[NDArray[np.float32]]:
    """Correlate the strokes of a template (its pixels inside the mask) with all places of each image.

    Yields:
        Correlations (images, rows, columns) for a batch of images. At the first row and column, half of the template
        is outside the image. A place at which less than half of the strokes are inside the image has the value 0.
    """
    (h, w), (th, tw), size = images.image_size, mask.shape, images.size
    top, left = th // 2, tw // 2
    span = (h + 2 * top - th + 1, w + 2 * left - tw + 1)

    def transform(pixels: Tensor) -> Spectrum:
        padded = F.pad(pixels, (0, size[1] - tw, 0, size[0] - th))
        return np.conj(rfft2(padded.roll((-top, -left), (-2, -1)).numpy()))

    strokes = template * mask
    strokes_spectrum, mask_spectrum = transform(strokes), transform(mask[None].to(strokes.dtype))
    # Energy of the strokes inside the image, for each place.
    inside = rfft2(np.ones((1, h, w), np.float32), s=size)
    own = multiply_spectra(inside, transform(strokes.square().sum(0, keepdim=True)), size[1], span)
    own[own <= float(strokes.square().sum()) / 2] = np.inf
    step = max(1, CACHED // images.energy[0].size)
    for start in range(0, len(images.white), step):
        batch = slice(start, start + step)
        scores = multiply_spectra(images.spectrum[batch], strokes_spectrum, size[1], span)
        energy = multiply_spectra(images.energy[batch], mask_spectrum, size[1], span)
        scores /= np.sqrt(own * np.maximum(energy, MIN_CONTRAST**2 * own))
        yield scores


def find_best_matches(images: ImageSpectra, template: Tensor, mask: Tensor) -> list[tuple[float, int, int]]:
    """Find the place with the highest correlation of a template in each image.

    The result is the correlation, and row and column of the template's upper left pixel (negative if it is outside).
    """
    best = []
    for scores in correlate(images, template, mask):
        flat = scores.reshape(len(scores), -1)
        for score, place in zip(flat.max(1).tolist(), flat.argmax(1).tolist(), strict=True):
            y, x = divmod(place, scores.shape[2])
            best.append((score, y - mask.shape[0] // 2, x - mask.shape[1] // 2))
    return best


def compute_null_score(images: ImageSpectra, template: Tensor, mask: Tensor, required: float) -> float:
    """Return the highest correlation of the template with any image after rescaling (a control, see `match_threshold`).

    The search stops once the resulting match threshold reaches `required`, because the template is then rejected.
    """
    best = 0.0
    for scale in SCALES:
        size = tuple(max(3, round(side * scale)) for side in mask.shape)
        foil = F.interpolate(template[None], size=size, mode="bicubic", antialias=scale < 1)[0]
        cover = F.interpolate(mask[None, None].float(), size=size, mode="bilinear", antialias=scale < 1)[0, 0] > 0.5
        for scores in correlate(images, foil, cover):
            best = max(best, float(scores.max()))
            if not required > match_threshold(best):
                return best
    return best


def find_occurrences(images: ImageSpectra, overlays: Sequence[Overlay]) -> list[list[list[Occurrence]]]:
    """Return the occurrences of each overlay in each image, best first.

    Overlays with more energy (sum of squared values) are searched first. Strokes (drawn pixels) that belong to an
    occurrence of an earlier overlay do not count for later overlays.
    """
    used = torch.zeros(len(images.white), *images.image_size, dtype=torch.bool)
    found: list[list[list[Occurrence]]] = [[] for _ in overlays]
    for number in sorted(range(len(overlays)), key=lambda number: -overlays[number].energy):
        overlay = overlays[number]
        scores = (torch.from_numpy(one) for batch in correlate(images, overlay.template, overlay.mask) for one in batch)
        found[number] = [_select_peaks(one, overlay, pixels) for one, pixels in zip(scores, used, strict=True)]
    return found


def _select_peaks(scores: Tensor, overlay: Overlay, used: Tensor) -> list[Occurrence]:
    """Return the occurrences of an overlay in one image, best first, and add their strokes to the mask `used`.

    `scores` are the correlations with all places of the image, from `correlate`. Occurrences of the same overlay
    may overlap only if strokes lie on strokes, as in a periodic pattern.
    """
    h, w = used.shape
    th, tw = overlay.mask.shape
    above = scores > overlay.threshold
    if not bool(above.any()):
        return []
    around = F.pad(scores, (1, 1, 1, 1)).unfold(0, 3, 1).unfold(1, 3, 1)  # 3 x 3 neighborhood of each place
    rows, columns = (above.nonzero()[around[above].amax((1, 2)) == scores[above]]).unbind(1)
    order = scores[rows, columns].argsort(descending=True, stable=True)
    own_strokes = torch.zeros_like(used)
    own_boxes = torch.zeros_like(used)
    found: list[Occurrence] = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        y, x = row - th // 2, column - tw // 2
        view, part = clip_mask(y, x, overlay.mask, used)
        overlap = own_boxes[view]
        if int((used[view] & part).sum()) > EXPLAINED * int(part.sum()):
            continue
        if bool(overlap.any()):
            before, now = own_strokes[view] & overlap, part & overlap
            if not int((before & now).sum()) > EXPLAINED * int((before | now).sum()):
                continue
        top, left = view[0].start, view[1].start
        box = (left / w, top / h, (left + part.shape[1]) / w, (top + part.shape[0]) / h)
        found.append(Occurrence(box, float(scores[row, column]), y, x))
        own_strokes[view] |= part
        own_boxes[view] = True
    used |= own_strokes
    return found


def clip_mask(y: int, x: int, mask: Tensor, image: Tensor) -> tuple[tuple[slice, slice], Tensor]:
    """Clip a mask to an image. The mask's upper left pixel is at row `y` and column `x` of the image.

    The result is the slices of the image that the mask covers, and the part of the mask inside the image.
    """
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + mask.shape[0], image.shape[0]), min(x + mask.shape[1], image.shape[1])
    return (slice(top, bottom), slice(left, right)), mask[top - y : bottom - y, left - x : right - x]


def cut_window(pictures: Tensor, y: int, x: int, size: tuple[int, int]) -> Tensor:
    """Cut a window of height and width `size` from images, with zeros outside them.

    Row `y` and column `x` of its upper left pixel may be negative. The window overlaps with the images.
    """
    h, w = pictures.shape[-2:]
    return F.pad(pictures, (-x, x + size[1] - w, -y, y + size[0] - h))
