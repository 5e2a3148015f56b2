"""Template matching in whitened images by normalized cross-correlation within a template's stroke mask."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from m2ib.analysis.masks import Box
from m2ib.analysis.overlays.whitening import Images

SCALES = (0.8, 0.9, 1.1, 1.25)  # of a template's foils: within the variation of natural sizes, beyond that of prints
MIN_CONTRAST = 0.1  # least share of the template's contrast in an occurrence; below it rounding decides the score
EXPLAINED = 0.75  # a share of strokes, or of a window's energy, that makes up (nearly) all of it
WATERMARK_AREA = 0.5  # least area of a watermark, whose share of mass cannot be twice its area
_BATCH = 32  # images that are searched at a time

Placement = tuple[int, int, int]
"""Index of an image, and row and column of a window's upper left pixel in it."""


def match_threshold(null_score: float) -> float:
    """Return the score that an occurrence must reach: half way, in energy, between the best foil and identity."""
    return ((1 + null_score**2) / 2) ** 0.5


@dataclass(frozen=True)
class Occurrence:
    """One match of an overlay in one image.

    Attributes:
        box: The part of the template inside the image, in shares of the image.
        score: Correlation within the strokes; 1 is identical.
        y, x: Template's upper left pixel in the downsampled image. It may lie outside.
    """

    box: Box
    score: float
    y: int
    x: int


@dataclass(frozen=True)
class Overlay:
    """A recurring overlay. Template and masks are those of the downsampled images; scores are correlations.

    Attributes:
        template: Mean whitened content, 0 outside the mask.
        mask: Pixels of strokes.
        null_score: The best score that a rescaled template reached in any image of the sample.
        member_count: Images that the first template was averaged from.
        ink: Pixels of the mask with more than half of the contrast of the clearest one.
        score: Median over the images with an occurrence.
        share: Mean share of the map's mass in the boxes of such an image.
        area: Mean share of the area in the boxes of such an image.
    """

    template: Float[Tensor, "c th tw"]
    mask: Bool[Tensor, "th tw"]
    null_score: float
    member_count: int
    ink: Bool[Tensor, "th tw"]
    score: float = 0.0
    share: float = 0.0
    area: float = 0.0

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in pixels of the downsampled images."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def energy(self) -> float:
        """Sum of the template's squares."""
        return float(self.template.square().sum())

    @property
    def threshold(self) -> float:
        """Score of an occurrence; see `match_threshold`."""
        return match_threshold(self.null_score)

    @property
    def is_watermark(self) -> bool:
        """Whether it covers most of the image, so that no single box describes it."""
        return self.area > WATERMARK_AREA


@dataclass(frozen=True)
class ImageSpectra:
    """Whitened images with the Fourier transforms of themselves and of their energy, shared by all templates.

    Images are padded with zeros by half of the largest template.
    """

    white: Images
    spectrum: Tensor
    energy: Tensor
    size: tuple[int, int]

    @classmethod
    def compute(cls, white: Images, extents: Sequence[tuple[int, int]], scale: float = max(SCALES)) -> "ImageSpectra":
        """Transform images for templates of these heights and widths, enlarged by up to `scale`."""
        largest = (math.ceil(max(sides) * scale) for sides in zip(*extents, strict=True))
        h, w = (_fast_fft_size(max(n + most // 2, most)) for n, most in zip(white.shape[-2:], largest, strict=True))
        return cls(white, torch.fft.rfft2(white, s=(h, w)), torch.fft.rfft2(white.square().sum(1), s=(h, w)), (h, w))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.white.shape[-2], self.white.shape[-1]


def _fast_fft_size(size: int) -> int:
    """Return the next number without prime factors above 5."""
    left = size
    for factor in (2, 3, 5):
        while left % factor == 0:
            left //= factor
    return size if left == 1 else _fast_fft_size(size + 1)


def correlate(images: ImageSpectra, template: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Yield scores (n, rows, columns) of a template's placements within the mask, in batches of images.

    -1 where less than half of the strokes lie inside the image. The first placement is half a template outside the
    upper left corner.
    """
    h, w = images.image_size
    th, tw = mask.shape
    size = images.size
    strokes = template * mask
    total = strokes.square().sum()
    strokes_spectrum = torch.fft.rfft2(strokes, s=size).conj()
    mask_spectrum = torch.fft.rfft2(mask.to(strokes.dtype), s=size).conj()
    # Energy of the strokes that lie inside the image, for each placement.
    inside = torch.fft.rfft2(strokes.new_ones(h, w), s=size)
    own = torch.fft.irfft2(inside * torch.fft.rfft2(strokes.square().sum(0), s=size).conj(), s=size)
    rows = torch.arange(-(th // 2), h + th // 2 - th + 1) % size[0]
    columns = torch.arange(-(tw // 2), w + tw // 2 - tw + 1) % size[1]
    own = own[rows][:, columns]
    for start in range(0, len(images.white), _BATCH):
        batch = slice(start, start + _BATCH)
        product = torch.fft.irfft2((images.spectrum[batch] * strokes_spectrum).sum(1), s=size)[:, rows][..., columns]
        energy = torch.fft.irfft2(images.energy[batch] * mask_spectrum, s=size)[:, rows][..., columns]
        norm = (own * torch.maximum(energy, MIN_CONTRAST**2 * own)).clamp_min(1e-12).sqrt()
        yield torch.where(own > total / 2, product / norm, -1)


def find_best_matches(images: ImageSpectra, template: Tensor, mask: Tensor) -> list[tuple[float, int, int]]:
    """Return score, row and column of the best match in each image. Its placement may lie outside the image."""
    best = []
    for scores in correlate(images, template, mask):
        values, places = scores.flatten(1).max(1)
        for score, place in zip(values.tolist(), places.tolist(), strict=True):
            y, x = divmod(place, scores.shape[2])
            best.append((score, y - mask.shape[0] // 2, x - mask.shape[1] // 2))
    return best


def compute_null_score(images: ImageSpectra, template: Tensor, mask: Tensor, required: float) -> float:
    """Return the best score of the rescaled templates in any image; stop once its threshold reaches `required`."""
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

    Overlays with more energy are searched first, and an occurrence needs strokes that no earlier overlay uses.
    """
    used = torch.zeros(len(images.white), *images.image_size, dtype=torch.bool)
    found: list[list[list[Occurrence]]] = [[] for _ in overlays]
    for number in sorted(range(len(overlays)), key=lambda number: -overlays[number].energy):
        overlay = overlays[number]
        scores = (one for batch in correlate(images, overlay.template, overlay.mask) for one in batch)
        found[number] = [_select_peaks(one, overlay, pixels) for one, pixels in zip(scores, used, strict=True)]
    return found


def _select_peaks(scores: Tensor, overlay: Overlay, used: Tensor) -> list[Occurrence]:
    """Select score peaks whose strokes are not in `used`, best first, and add their strokes to `used`.

    Two occurrences of one overlay overlap only where the template equals its shifted self: strokes lie on strokes.
    """
    h, w = used.shape
    th, tw = overlay.mask.shape
    peaks = (scores > overlay.threshold) & (scores == F.max_pool2d(scores[None], 3, 1, 1)[0])
    rows, columns = peaks.nonzero().unbind(1)
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
    """Clip a mask placed at (y, x) to an image: return the slices of the image, and the part of the mask in them."""
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + mask.shape[0], image.shape[0]), min(x + mask.shape[1], image.shape[1])
    return (slice(top, bottom), slice(left, right)), mask[top - y : bottom - y, left - x : right - x]
