"""Estimate a template from aligned windows, confirm it in further images, and find the pixels of its strokes."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from m2ib.analysis.overlays.matching import (
    MIN_CONTRAST,
    ImageSpectra,
    Overlay,
    Placement,
    compute_null_score,
    cut_window,
    find_best_matches,
    find_occurrences,
)
from m2ib.analysis.overlays.whitening import Images

Candidate = tuple[Overlay, list[Placement]]
"""Preliminary overlay, and the place of its best match in each image that matches it above the overlay's threshold."""


def confirm_overlay(
    images: ImageSpectra, reduced: Images, members: Sequence[Placement], core: tuple[int, int], min_images: int
) -> Overlay | None:
    """Estimate an overlay from similar windows, and confirm it in images that it was not estimated from.

    Half of the windows give a first template, which must match in `min_images` other images. All matches then give the
    final template. The result is None if a template is not confirmed.

    Args:
        images: Whitened images of the sample.
        reduced: The same images, downsampled but not whitened.
        members: Places of the similar windows, best first.
        core: Height and width of these windows.
        min_images: Number of other images in which the first template must match.
    """
    size = (2 * core[0], 2 * core[1])
    # Use only the most similar windows: these contain the same word, others may share only a letter.
    half = members[: 2 * min_images : 2]
    candidate = estimate_candidate(images, half, core, size, min_images, sources={image for image, _, _ in half})
    # Estimate the template again from all matches, around its own center.
    for least in (min_images, 2 * min_images):
        if candidate is None or len(candidate[1]) < min_images:  # rescaled templates match as well, as for an edge
            return None
        overlay, placements = candidate
        window = (max(size[0], overlay.extent[0]), max(size[1], overlay.extent[1]))
        candidate = estimate_candidate(images, placements, overlay.extent, window, least)
    return None if candidate is None else complete_overlay(images, reduced, candidate[0], len(half))


def estimate_candidate(
    images: ImageSpectra,
    placements: Sequence[Placement],
    extent: tuple[int, int],
    window: tuple[int, int],
    least: int,
    sources: Collection[int] = (),
) -> Candidate | None:
    """Estimate a template from windows at given places, and search all images for it.

    The result is None if fewer than `least` images match the template clearly better than rescaled templates.

    Args:
        images: Whitened images of the sample.
        placements: Places of the content that the windows have in common, such as a word.
        extent: Height and width of this content.
        window: Height and width of the windows around the content from which the template is estimated.
        least: Number of images that must contain the template.
        sources: Indices of images that do not count for `least`, because the windows are from them.
    """
    estimate = _estimate_template(images.white, placements, window, extent)
    if estimate is None:
        return None
    matches = find_best_matches(images, *estimate)
    scores = sorted((score for i, (score, _, _) in enumerate(matches) if i not in sources), reverse=True)
    required = scores[least - 1] if len(scores) >= least else 0.0
    overlay = Overlay(*estimate, compute_null_score(images, *estimate, required), ink=estimate[1])
    if not required > overlay.threshold:
        return None
    return overlay, [(i, y, x) for i, (score, y, x) in enumerate(matches) if score > overlay.threshold]


def complete_overlay(images: ImageSpectra, reduced: Images, overlay: Overlay, member_count: int) -> Overlay:
    """Return the overlay with `member_count`, and its strokes as drawn (`ink`) from unwhitened images (`reduced`)."""
    (found,) = find_occurrences(images, [overlay])
    placements = [(i, one.y, one.x) for i, occurrences in enumerate(found) for one in occurrences]
    return replace(overlay, ink=_estimate_ink(reduced, placements, overlay.mask), member_count=member_count)


def _estimate_template(
    white: Images, placements: Sequence[Placement], size: tuple[int, int], core: tuple[int, int]
) -> tuple[Tensor, Tensor] | None:
    """Return the mean of aligned windows (the template) and the mask of its strokes, both cropped to the mask.

    A pixel belongs to a stroke if the squared mean over the windows exceeds their variance, each averaged over the 3 x
    3 neighborhood of the pixel. The result is None if the mask has fewer than nine pixels.

    Args:
        white: Whitened images.
        placements: Places of the content that the windows have in common, such as a word.
        size: Height and width of the windows.
        core: Height and width of this content, which is in the middle of each window.
    """
    top, left = (size[0] - core[0]) // 2, (size[1] - core[1]) // 2
    inside = torch.ones_like(white[0, :1])
    stack = torch.stack([cut_window(white[i], y - top, x - left, size) for i, y, x in placements])
    weight = torch.stack([cut_window(inside, y - top, x - left, size) for _, y, x in placements])
    count = weight.sum(0).clamp_min(1)
    mean = (stack * weight).sum(0) / count
    variance = ((stack - mean).square() * weight).sum(0) / (count - 1).clamp_min(1)
    # Subtract the part of the variance that the squared mean contains by chance.
    shared = (mean.square() - variance / count).sum(0, keepdim=True)
    shared, differing = (F.avg_pool2d(v[None], 3, 1, 1)[0, 0] for v in (shared, variance.sum(0, keepdim=True)))
    mask = (shared > differing) & (shared > MIN_CONTRAST * shared.max()) & (count[0] > len(placements) / 2)
    if int(mask.sum()) < 9:
        return None
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    extent = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    return mean[:, *extent] * mask[extent], mask[extent]


def _estimate_ink(reduced: Images, placements: Sequence[Placement], mask: Tensor) -> Bool[Tensor, "th tw"]:
    """Return the mask of the strokes as drawn: pixels with more than half of the largest contrast.

    Contrast is the difference from the surroundings in unwhitened images (`reduced`), because whitening widens strokes.
    """
    total, count = reduced.new_zeros((reduced.shape[1], *mask.shape)), reduced.new_zeros(mask.shape)
    for i, y, x in placements:
        top, left = max(-y, 0), max(-x, 0)
        pixels = reduced[i, :, max(y, 0) : y + mask.shape[0], max(x, 0) : x + mask.shape[1]]
        view = (slice(top, top + pixels.shape[-2]), slice(left, left + pixels.shape[-1]))
        total[:, *view] += pixels
        count[view] += 1
    mean = total / count.clamp_min(1)
    around = ((~mask) & (count > 0)).to(mean.dtype)
    reach = max(mask.shape)
    while reach > 2 and bool((_sum_around(around[None], reach // 2)[0][mask] > 0).all()):
        reach //= 2  # smallest reach at which each pixel of a stroke has surroundings
    background = _sum_around(mean * around, reach) / _sum_around(around[None], reach).clamp_min(1)
    contrast = (mean - background).abs().amax(0) * mask
    return contrast > contrast.max() / 2


def _sum_around(pictures: Tensor, reach: int) -> Tensor:
    return F.avg_pool2d(pictures[None], 2 * reach + 1, 1, reach, divisor_override=1)[0]
