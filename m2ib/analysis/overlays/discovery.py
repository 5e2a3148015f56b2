"""Find recurring overlays in a sample of images at places with high attribution.

Software draws a burnt-in tag, a logo or a word at a fixed size. Photographed content varies in size. Each threshold is
therefore estimated from the images themselves: the correlation of a template with the images is compared with that of
rescaled templates, slightly larger or smaller. A nodule, an edge or a chair correlates equally well with rescaled
templates. An overlay does not.
"""

import hashlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from m2ib.analysis.masks import Box, cover_with_rectangles, measure_overlaps
from m2ib.analysis.overlays.matching import (
    EXPLAINED,
    WATERMARK_AREA,
    ImageSpectra,
    Occurrence,
    Overlay,
    Placement,
    clip_mask,
    find_occurrences,
)
from m2ib.analysis.overlays.templates import complete_overlay, confirm_overlay, estimate_candidate
from m2ib.analysis.overlays.whitening import PATCH, Images, Whitener, downsample, drop_duplicate_channels
from m2ib.analysis.overlays.windows import Maps, Windows, compare_windows, cut_windows

ImageOccurrences = list[list[Occurrence]]  # occurrences of one overlay in each image

ATTEMPTS = 40  # maximum number of candidate templates to test, most prominent ones first


@dataclass(frozen=True)
class Discovery:
    """Result of `find_overlays`: overlays in a sample of images, and the filter to search other images for them."""

    whitener: Whitener  # filter that is applied to images before they are searched
    overlays: tuple[Overlay, ...] = ()  # in descending order of their share of the attribution

    def search(self, images: Images) -> list[ImageOccurrences]:
        """Return for each overlay and each image the list of occurrences, best first.

        If two overlays share strokes (drawn pixels) at one place, only the larger one is reported: a letter within a
        word is no occurrence of the letter. Occurrences of the same overlay overlap only if the overlay is periodic.
        The images must be preprocessed like the sample.
        """
        if not len(images) or not self.overlays:
            return [[] for _ in self.overlays]
        white = self.whitener.apply(images[:, : self.whitener.gain.shape[0]].float())
        spectra = ImageSpectra.compute(white, [overlay.extent for overlay in self.overlays], scale=1.0)
        return find_occurrences(spectra, self.overlays)

    def region(self, number: int, occurrences: Sequence[Occurrence], height: int, width: int) -> list[Box]:
        """Return the boxes that cover the overlay at index `number` in an image of `height` x `width` pixels.

        The result is one box for each of the overlay's occurrences in the image (from `search`), or several boxes that
        cover the strokes of a watermark.
        """
        overlay = self.overlays[number]
        if not overlay.is_watermark:
            return [occurrence.box for occurrence in occurrences]
        h, w = height // self.whitener.reduction, width // self.whitener.reduction
        ink = torch.zeros(h, w, dtype=torch.bool)
        for occurrence in occurrences:
            view, part = clip_mask(occurrence.y, occurrence.x, overlay.ink, ink)
            ink[view] |= part
        return [(x0 / w, y0 / h, x1 / w, y1 / h) for x0, y0, x1, y1 in cover_with_rectangles(ink.numpy())]


def find_overlays(images: Images, maps: Maps, peaks: int = 3, min_images: int = 5) -> Discovery:
    """Find overlays that recur in many images at the places with the highest attribution.

    The result does not depend on the order of the images. For n images, (peaks * n)^2 pairs of windows are
    compared, and all images are searched for each candidate, at most `ATTEMPTS`.

    Args:
        images: Preprocessed images.
        maps: Image map of each image, in nats.
        peaks: Number of windows to cut from each image, at the highest values of its map.
        min_images: Number of images that must contain an overlay, in addition to those that it is estimated from.

    Raises:
        ValueError: If images and maps differ in number, or are not finite.
    """
    if not 0 < len(images) == len(maps):
        raise ValueError(f"images and maps: got {len(images)} and {len(maps)}, expected one map per image")
    images, maps = images.detach().float(), maps.detach().float()
    if not (images.isfinite().all() and maps.isfinite().all()):
        raise ValueError("images and maps: got values that are not finite, expected only finite values")
    order = sorted(range(len(images)), key=lambda i: _digest(images[i], maps[i]))
    images, maps = drop_duplicate_channels(images[order]), maps[order]
    patch = max(images.shape[-2] / maps.shape[-2], images.shape[-1] / maps.shape[-1])
    whitener = Whitener.fit(images, max(1, round(patch / PATCH)))
    if len(images) < 2 * min_images:
        return Discovery(whitener)
    white, reduced = whitener.apply(images), downsample(images, whitener.reduction)
    return Discovery(whitener, _discover(white, reduced, maps, peaks, min_images))


def _digest(image: Tensor, attribution: Tensor) -> bytes:
    return hashlib.sha256(image.cpu().numpy().tobytes() + attribution.cpu().numpy().tobytes()).digest()


def _discover(white: Images, reduced: Images, maps: Maps, peaks: int, min_images: int) -> tuple[Overlay, ...]:
    windows, least = cut_windows(white, maps, peaks), 2 * min_images
    if len(windows) < least:
        return ()
    comparison = compare_windows(windows, white, least)
    prominence = comparison.prominence.clone()
    core = windows.core_size
    spectra = ImageSpectra.compute(white, [(2 * core[0], 2 * core[1])])
    overlays: list[Overlay] = []
    for _ in range(ATTEMPTS):
        seed = int(prominence.argmax())
        if not prominence[seed] > 0:
            break
        members = comparison.members_of(seed, windows)
        overlay = confirm_overlay(spectra, reduced, members, core, min_images)
        prominence[seed] = 0
        if overlay is not None:
            overlays.append(overlay)
            prominence[_explained_windows(windows, find_occurrences(spectra, [overlay])[0], spectra.image_size)] = 0
            prominence[comparison.scores[seed] > overlay.threshold] = 0
    return _merge_adjacent(spectra, reduced, maps, _select(spectra, maps, overlays, least), least)


def _explained_windows(windows: Windows, occurrences: ImageOccurrences, size: tuple[int, int]) -> Bool[Tensor, " m"]:
    """Return True for each window that has most of its energy (sum of squared pixels) in boxes of an overlay.

    `occurrences` contains these boxes for each image, and `size` is the height and width of the images.
    """
    height, width = windows.core_size
    explained = torch.zeros(len(windows), dtype=torch.bool)
    places = zip(windows.image.tolist(), windows.y.tolist(), windows.x.tolist(), strict=True)
    for number, (image, y, x) in enumerate(places):
        covered = _box_mask(occurrences[image], size)[y : y + height, x : x + width]
        energy = windows.core[number].square().sum(0)
        explained[number] = bool((energy * covered).sum() > EXPLAINED * energy.sum())
    return explained


def _select(spectra: ImageSpectra, maps: Maps, overlays: Sequence[Overlay], least: int) -> tuple[Overlay, ...]:
    """Search the images for all overlays together, and return those that still occur in at least `least` images.

    An overlay that is no watermark must have a larger share of the attribution than of the area. Of several watermarks
    in the same images only one is returned. Overlays are in descending order of their share of the attribution.
    """
    # Largest first, because the candidates may include several parts of one watermark.
    overlays = sorted(overlays, key=lambda overlay: -overlay.energy)
    while True:
        selected: list[Overlay] = []
        watermarked: set[int] = set()
        for overlay, by_image in zip(overlays, find_occurrences(spectra, overlays), strict=True):
            found = {image: occurrences for image, occurrences in enumerate(by_image) if occurrences}
            share, area = _measure_mass(maps, by_image, spectra.image_size)
            if len(found) < least:
                continue
            if area > WATERMARK_AREA:
                if len(watermarked & found.keys()) > EXPLAINED * len(found):
                    continue
                watermarked |= found.keys()
            elif not share > area:
                continue
            score = torch.tensor([occurrences[0].score for occurrences in found.values()]).median()
            selected.append(replace(overlay, score=float(score), share=share, area=area))
        if len(selected) == len(overlays):
            return tuple(sorted(selected, key=lambda overlay: -overlay.share))
        overlays = selected


def _measure_mass(maps: Maps, by_image: ImageOccurrences, size: tuple[int, int]) -> tuple[float, float]:
    """Return the mean share of attribution, and of area, inside an overlay's boxes, over the images that have any."""
    down, across = (  # share of each cell that each pixel covers
        torch.from_numpy(measure_overlaps(np.arange(cells + 1) / cells, np.arange(side + 1) / side)) * cells
        for side, cells in zip(size, maps.shape[1:], strict=True)
    )
    shares, areas = [], []
    for one, occurrences in zip(maps.double(), by_image, strict=True):
        if occurrences and (total := one.sum()) > 0:
            cover = down @ _box_mask(occurrences, size).double() @ across.T
            shares.append(float((one * cover).sum() / total))
            areas.append(float(cover.mean()))
    return (sum(shares) / len(shares), sum(areas) / len(areas)) if shares else (0.0, 0.0)


def _box_mask(occurrences: Sequence[Occurrence], size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    h, w = size
    mask = torch.zeros(h, w, dtype=torch.bool)
    for x0, y0, x1, y1 in (occurrence.box for occurrence in occurrences):
        mask[round(y0 * h) : round(y1 * h), round(x0 * w) : round(x1 * w)] = True
    return mask


def _merge_adjacent(
    spectra: ImageSpectra, reduced: Images, maps: Maps, overlays: tuple[Overlay, ...], least: int
) -> tuple[Overlay, ...]:
    """Merge overlays that always occur side by side, which are parts of an overlay that is larger than a window.

    Two overlays are merged only if the result fits into an image, and occurs in nearly all images that contain both and
    in at least `least` images.
    """
    found = find_occurrences(spectra, overlays)
    for (one, ones), (other, others) in combinations(zip(overlays, found, strict=True), 2):
        union = _find_union(one, other, ones, others)
        if union is None or any(map(operator.gt, union[1], spectra.image_size)):
            continue
        placements, extent = union
        wider = ImageSpectra.compute(spectra.white, [extent, *(overlay.extent for overlay in overlays)])
        required = max(least, math.ceil(EXPLAINED * len(placements)))
        candidate = estimate_candidate(wider, placements, extent, extent, required)
        if candidate is None:
            continue
        whole = complete_overlay(wider, reduced, candidate[0], min(one.member_count, other.member_count))
        rest = [overlay for overlay in overlays if overlay is not one and overlay is not other]
        selected = _select(wider, maps, [whole, *rest], least)
        if any(overlay.mask is whole.mask for overlay in selected):
            return _merge_adjacent(wider, reduced, maps, selected, least)
    return overlays


def _find_union(
    one: Overlay, other: Overlay, ones: ImageOccurrences, others: ImageOccurrences
) -> tuple[list[Placement], tuple[int, int]] | None:
    """Return the places, and the height and width, of a larger overlay that has both overlays as its parts.

    They are parts if their offset from each other is the same (within one pixel) in nearly all images with either one,
    and they fill their common bounding box. Otherwise the result is None. A watermark is never a part, because its
    offset varies. `ones` and `others` are the occurrences of the two overlays in each image.
    """
    both = [(i, a[0], b[0]) for i, (a, b) in enumerate(zip(ones, others, strict=True)) if a and b]
    if not both or one.is_watermark or other.is_watermark:
        return None
    dy, dx = torch.tensor([(b.y - a.y, b.x - a.x) for _, a, b in both]).median(0).values.tolist()
    aligned = [(i, a) for i, a, b in both if abs(b.y - a.y - dy) <= 1 and abs(b.x - a.x - dx) <= 1]
    if len(aligned) <= EXPLAINED * sum(bool(a or b) for a, b in zip(ones, others, strict=True)):
        return None
    (h, w), (other_h, other_w) = one.extent, other.extent
    top, left = min(dy, 0), min(dx, 0)
    union = torch.zeros(max(h, dy + other_h) - top, max(w, dx + other_w) - left)
    union[-top : h - top, -left : w - left] = 1
    union[dy - top : dy - top + other_h, dx - left : dx - left + other_w] = 1
    if not float(union.mean()) > EXPLAINED:
        return None
    return [(i, a.y + top, a.x + left) for i, a in aligned], (union.shape[0], union.shape[1])
