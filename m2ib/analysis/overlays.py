"""Recurrent appearance under high attribution mass: overlays that are the same, pixel for pixel, in many images.

A burnt-in tag, a logo or a rendered word is drawn by a machine, always at the same size; what is photographed never is.
So every threshold here comes from the corpus itself: a template's scores are compared with those of the same template
drawn a little larger and smaller, searched in the same images. A nodule, an edge or a chair matches its rescaled self
as well as itself; an overlay does not.

Images are compared after whitening with the corpus's mean power spectrum, in which a natural background is noise of
unit variance and correlates by chance only.
"""

import hashlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from m2ib.analysis.masks import Box, cover_with_rectangles
from m2ib.analysis.template_search import FAINTEST, SCALES, Heard, best_places, hear, null_score, search, threshold

Images: TypeAlias = Float[Tensor, "n c h w"]
Maps: TypeAlias = Float[Tensor, "n gh gw"]

_PATCH = 16
"""Images are reduced by whole factors until a patch has about so many pixels: cost, not accuracy, asks for it."""
_SAME_PICTURE = 0.5
"""Two images that share more than half of their whitened, clipped content are one picture, not two with a stamp."""
_EXPLAINED = 0.75
"""Where this share of its strokes, or of a window's energy, is another stamp's, nothing is left to explain."""
_SPREAD = 0.5
"""Over more of the image than this, mass can say nothing about a mark: its share cannot be twice its area."""
_CHUNK = 2**24
"""Numbers held at a time while crops are compared."""


@dataclass(frozen=True)
class RecurrenceConfig:
    """What is looked for.

    peaks: hottest windows taken from each map. min_images: images in which a template must be found again besides those
    that it was made from. tries: clusters that are tested at most, the most promising first.
    """

    peaks: int = 3
    min_images: int = 5
    tries: int = 40


@dataclass(frozen=True)
class Occurrence:
    """Where a stamp was found in an image, and how well it fits: correlation within the strokes, 1 is identical.

    y, x: of the template's upper left pixel in the reduced image; it may lie outside. box: the part inside.
    """

    box: Box
    score: float
    y: int
    x: int


@dataclass(frozen=True)
class Stamp:
    """A recurrent overlay. Template and mask are of the reduced images; scores are correlations.

    null: the best score that a rescaled template reached in any image of the sample. threshold: what an occurrence must
    reach: it leaves less than half of what the null leaves unexplained.
    members: images that the first template was made from. score: median over the occurrences' images.
    share, area: mean share of the map's mass, and of the area, in the boxes of an image that has it.
    ink: the mask's pixels that differ from their surroundings by more than half of what the clearest one does.
    """

    template: Float[Tensor, "c th tw"]
    mask: Bool[Tensor, "th tw"]
    null: float
    members: int
    ink: Bool[Tensor, "th tw"]
    score: float = 0.0
    share: float = 0.0
    area: float = 0.0

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in pixels of the reduced images."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def threshold(self) -> float:
        """Score of an occurrence: half way, in energy, between the best rescaled match and identity."""
        return threshold(self.null)

    @property
    def spread(self) -> bool:
        """Whether it lies over most of the image, as a watermark does: such a mark is more than any box of it."""
        return self.area > _SPREAD


@dataclass(frozen=True)
class Whitener:
    """Divides out the corpus's mean amplitude spectrum. Images are mirrored, so that borders leak nothing."""

    gain: Float[Tensor, "c fh fw"]
    reduction: int

    @classmethod
    def fit(cls, images: Images, reduction: int) -> "Whitener":
        """From a sample; constant images have no spectrum and are left out of the mean."""
        power = torch.zeros(())
        for image in images:
            power = power + _spectrum(_reduced(image[None], reduction)).abs().square()[0].double()
        power[:, 0, 0] = 0
        h, w = (side // reduction for side in images.shape[-2:])
        mean = power / max(len(images), 1)
        # Enlarged pictures have empty bands: what is there is the grid of their pixels, which all of them share.
        floor = 1e-3 * mean.mean(dim=(1, 2), keepdim=True) + torch.finfo(torch.float32).tiny
        gain = (mean + floor).rsqrt() * (4 * h * w) ** 0.5
        # A short kernel, so that strokes ring no further than they must.
        window = _window(2 * h)[:, None] * _window(2 * w)
        kernel = torch.fft.irfft2(gain, s=(2 * h, 2 * w)) * window
        kernel = kernel - kernel.sum((-2, -1), keepdim=True) * window / window.sum()  # blind to local brightness
        return cls(torch.fft.rfft2(kernel).real.float(), reduction)

    def __call__(self, images: Images) -> Float[Tensor, "n c rh rw"]:
        """Whitened images, reduced; the variance is about 1 over the sample, and 0 for a constant image."""
        reduced = _reduced(images, self.reduction)
        h, w = reduced.shape[-2:]
        return torch.fft.irfft2(_spectrum(reduced) * self.gain, s=(2 * h, 2 * w))[..., :h, :w]


@dataclass(frozen=True)
class Discovery:
    """The stamps of a sample, most mass first, and what is needed to search for them elsewhere."""

    whitener: Whitener
    stamps: tuple[Stamp, ...] = ()

    def search(self, images: Images) -> list[list[list[Occurrence]]]:
        """For each stamp and image all places where the stamp is found, best first.

        Where two stamps share their strokes, the larger one has the place: a letter is no stamp of its own within its
        word. Places of one stamp overlap only where it repeats itself.
        """
        if not len(images) or not self.stamps:
            return [[] for _ in self.stamps]
        images = images[:, : self.whitener.gain.shape[0]].float()
        largest = tuple(max(stamp.extent[side] for stamp in self.stamps) for side in (0, 1))
        white = torch.cat([self.whitener(image[None]) for image in images])
        return _places(hear(white, (largest[0], largest[1])), self.stamps)

    def region(self, number: int, occurrences: Sequence[Occurrence], height: int, width: int) -> list[Box]:
        """Boxes, of which no two overlap, that together cover the stamp in an image of height x width pixels.

        One box for each occurrence, but of a mark over most of the image its strokes alone.
        """
        stamp = self.stamps[number]
        if not stamp.spread:
            return [occurrence.box for occurrence in occurrences]
        h, w = height // self.whitener.reduction, width // self.whitener.reduction
        inked = torch.zeros(h, w, dtype=torch.bool)
        for occurrence in occurrences:
            view, part = _clipped(occurrence.y, occurrence.x, stamp.ink, inked)
            inked[view] |= part
        return [(x0 / w, y0 / h, x1 / w, y1 / h) for x0, y0, x1, y1 in cover_with_rectangles(inked.numpy())]


def find_stamps(images: Images, maps: Maps, config: RecurrenceConfig | None = None) -> Discovery:
    """Find overlays that recur under the hottest windows of the maps.

    The result does not depend on the order of the images. Cost: (peaks n)^2 window comparisons, and n searches a try.

    Raises:
        ValueError: if there are no images, images and maps do not match, or they are not finite.
    """
    config = config or RecurrenceConfig()
    images, maps = images.detach().float(), maps.detach().float()
    if not len(images) or len(images) != len(maps) or images.ndim != 4 or maps.ndim != 3:
        got = f"images {tuple(images.shape)} and maps {tuple(maps.shape)}"
        raise ValueError(f"got {got}, expected at least one image, as (n, c, h, w) and (n, gh, gw)")
    if not (images.isfinite().all() and maps.isfinite().all()):
        raise ValueError("images or maps: got values that are not finite, expected pixels and nats")
    order = sorted(range(len(images)), key=lambda i: _digest(images[i], maps[i]))
    images, maps = _without_copies(images[order]), maps[order]
    patch = max(images.shape[-2] / maps.shape[-2], images.shape[-1] / maps.shape[-1])
    whitener = Whitener.fit(images, max(1, round(patch / _PATCH)))
    if len(images) < 2 * config.min_images:
        return Discovery(whitener)
    white = torch.cat([whitener(image[None]) for image in images])
    return Discovery(whitener, _discover(white, _reduced(images, whitener.reduction), maps, config))


def _digest(image: Tensor, attribution: Tensor) -> bytes:
    return hashlib.sha256(image.cpu().numpy().tobytes() + attribution.cpu().numpy().tobytes()).digest()


def _without_copies(images: Images) -> Float[Tensor, "n d h w"]:
    """One channel where the others are affine copies of it, as in grey images."""
    flat = images.flatten(2).double()
    flat = flat - flat.mean(-1, keepdim=True)
    unit = flat / flat.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    alike = (unit * unit[:, :1]).sum(-1)
    empty = flat.norm(dim=-1) < 1e-9
    return images[:, :1] if bool((alike.gt(0.99999) | empty).all()) else images


def _window(side: int) -> Tensor:
    """Falls from 1 at 0, where kernels of the Fourier transform are centred, to 0 at half a patch to either side."""
    at = torch.arange(side, dtype=torch.float64)
    away = torch.minimum(at, side - at) / (_PATCH / 2)
    return torch.where(away < 1, 0.5 + 0.5 * torch.cos(torch.pi * away), 0)


def _reduced(images: Images, factor: int) -> Float[Tensor, "n c rh rw"]:
    return images if factor == 1 else F.avg_pool2d(images, factor)


def _spectrum(images: Images) -> Tensor:
    mirrored = torch.cat([images, images.flip(-1)], -1)
    return torch.fft.rfft2(torch.cat([mirrored, mirrored.flip(-2)], -2))


# Crops


@dataclass(frozen=True)
class _Crops:
    """Windows around the hottest cells. core: what is compared; around: where it is looked for, once as large."""

    image: Int[Tensor, " m"]
    y: Int[Tensor, " m"]
    x: Int[Tensor, " m"]
    core: Float[Tensor, "m c s t"]
    around: Float[Tensor, "m c u v"]


def hot_cells(maps: Maps, peaks: int) -> list[list[tuple[int, int]]]:
    """For each map its hottest cells, not adjacent to each other, as far as they hold more than a cell's even share."""
    width = maps.shape[2]
    found: list[list[tuple[int, int]]] = []
    for one in maps:
        left, cells = one.clone(), []
        for _ in range(peaks):
            place = int(left.argmax())
            y, x = divmod(place, width)
            if not left[y, x] > one.mean():
                break
            cells.append((y, x))
            left[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = -torch.inf
        found.append(cells)
    return found


def _cut(white: Images, maps: Maps, peaks: int) -> _Crops:
    _, c, h, w = white.shape
    cell_y, cell_x = h / maps.shape[1], w / maps.shape[2]
    core_y, core_x = (min(max(8, round(2 * cell)), side) for cell, side in ((cell_y, h), (cell_x, w)))
    pad_y, pad_x = (core_y + 1) // 2, (core_x + 1) // 2
    padded = F.pad(white, (pad_x, pad_x, pad_y, pad_y))
    image, ys, xs, cores, arounds = [], [], [], [], []
    for i, cells in enumerate(hot_cells(maps, peaks)):
        for row, column in cells:
            y = min(max(round((row + 0.5) * cell_y - core_y / 2), 0), h - core_y)
            x = min(max(round((column + 0.5) * cell_x - core_x / 2), 0), w - core_x)
            core = white[i, :, y : y + core_y, x : x + core_x]
            if core.square().mean() < 1e-3:  # nothing is drawn there
                continue
            image.append(i)
            ys.append(y)
            xs.append(x)
            cores.append(core)
            arounds.append(padded[i, :, y : y + core_y + 2 * pad_y, x : x + core_x + 2 * pad_x])
    empty = white.new_zeros((0, c, core_y, core_x))
    return _Crops(
        torch.tensor(image, dtype=torch.long),
        torch.tensor(ys, dtype=torch.long),
        torch.tensor(xs, dtype=torch.long),
        torch.stack(cores) if cores else empty,
        torch.stack(arounds) if arounds else empty,
    )


def _compare(cores: Tensor, arounds: Tensor) -> tuple[Tensor, Tensor]:
    """Best correlation of each core in each window, over all shifts, and the shift: (m, m') and (m, m')."""
    size_y, size_x = cores.shape[-2:]
    side_y, side_x = arounds.shape[-2:]
    span_y, span_x = side_y - size_y + 1, side_x - size_x + 1
    energy = F.avg_pool2d(arounds.square().sum(1, keepdim=True), (size_y, size_x), 1)[:, 0] * (size_y * size_x)
    own = cores.square().sum((1, 2, 3))
    heard = torch.fft.rfft2(arounds)
    best = torch.empty(len(cores), len(arounds))
    shift = torch.empty(len(cores), len(arounds), dtype=torch.long)
    step = max(1, _CHUNK // max(heard[0, 0].numel() * len(arounds), 1))
    for start in range(0, len(cores), step):
        some = cores[start : start + step]
        spoken = torch.fft.rfft2(some, s=(side_y, side_x)).conj()
        product = torch.einsum("acuv,bcuv->abuv", spoken, heard) if heard.shape[1] > 1 else spoken * heard[:, 0]
        found = torch.fft.irfft2(product, s=(side_y, side_x))[..., :span_y, :span_x]
        norm = own[start : start + step, None, None, None]
        scores = found / (norm * torch.maximum(energy, FAINTEST**2 * norm)).sqrt()
        value, place = scores.flatten(2).max(-1)
        best[start : start + step], shift[start : start + step] = value, place
    return best, shift


def _rescaled(pictures: Tensor, scale: float) -> Tensor:
    """Drawn larger or smaller about the centre, in a frame of the same size: cut, or continued by zeros."""
    h, w = pictures.shape[-2:]
    size = max(1, round(h * scale)), max(1, round(w * scale))
    drawn = F.interpolate(pictures, size=size, mode="bicubic", antialias=scale < 1)
    top, left = (size[0] - h) // 2, (size[1] - w) // 2
    return F.pad(drawn, (-left, w - size[1] + left, -top, h - size[0] + top))


# Clusters


def _alike(white: Images) -> Bool[Tensor, "n n"]:
    """Which images are one picture: copies, and crops or recodings that hardly differ."""
    clipped = white.clamp(-1, 1).flatten(1)
    unit = clipped / clipped.norm(dim=1, keepdim=True).clamp_min(1e-9)
    return unit @ unit.T > _SAME_PICTURE


def _best_by_image(scores: Tensor, image: Tensor, n: int) -> Tensor:
    """The best score in each image of the windows that belong to it; -1 where there is none. (m, n)."""
    spread = image.expand(len(scores), -1)
    return scores.new_full((len(scores), n), -1.0).scatter_reduce(1, spread, scores, "amax")


def _discover(white: Images, reduced: Images, maps: Maps, config: RecurrenceConfig) -> tuple[Stamp, ...]:
    n, (h, w) = len(white), white.shape[-2:]
    crops = _cut(white, maps, config.peaks)
    if len(crops.image) < 2 * config.min_images:
        return ()
    scores, shifts = _compare(crops.core, crops.around)
    # 1. Each crop's null: the same windows, each drawn larger or smaller.
    foils = torch.stack([_rescaled(a[None], SCALES[i % len(SCALES)])[0] for i, a in enumerate(crops.around)])
    null, _ = _compare(crops.core, foils)
    same = _alike(white)[crops.image]
    per_image = _best_by_image(scores, crops.image, n).masked_fill(same, -1)
    null_image = _best_by_image(null, crops.image, n).masked_fill(same, -1)
    # 2. A crop is promising if k images match it better than any rescaled window does: by what it shares with the k-th
    # beyond the null's k-th. Larger things come first, so that a word is found before its letters.
    k = 2 * config.min_images
    bar = null_image.max(1).values
    kth = per_image.topk(k, 1).values[:, -1]
    promise = (kth - null_image.topk(k, 1).values[:, -1]) * crops.core.square().sum((1, 2, 3))
    promise = promise.masked_fill(kth <= bar, 0)
    stamps: list[Stamp] = []
    core = (crops.core.shape[-2], crops.core.shape[-1])
    heard = _hear(white, [(2 * core[0], 2 * core[1])])
    for _ in range(config.tries):
        seed = int(promise.argmax())
        if not promise[seed] > 0:
            break
        members = _members(seed, crops, scores, shifts, per_image, bar)
        stamp = _confirmed(heard, reduced, members, core, config)
        promise[seed] = 0
        if stamp is not None:
            stamps.append(stamp)
            promise[_explained(crops, _places(heard, [stamp])[0], h, w)] = 0
            promise[scores[seed] > stamp.threshold] = 0
    return _joined(heard, reduced, maps, _settled(heard, maps, stamps, config), config)


def _settled(heard: Heard, maps: Maps, stamps: list[Stamp], config: RecurrenceConfig) -> tuple[Stamp, ...]:
    """The stamps that hold out beside each other, most mass first; a larger one has a place before a smaller.

    Each holds more mass than area, unless it lies over so much of the image that this would say nothing. Two that do
    so in the same images are one.
    """
    # The larger first: of a watermark several sheets may be found, all of them parts of one.
    stamps = sorted(stamps, key=lambda stamp: -float(stamp.template.square().sum()))
    while True:
        weighed: list[Stamp] = []
        sheets: set[int] = set()
        for stamp, places in zip(stamps, _places(heard, stamps), strict=True):
            found = {image: occurrences for image, occurrences in enumerate(places) if occurrences}
            share, area = _mass(maps, places, (heard.white.shape[-2], heard.white.shape[-1]))
            if len(found) < 2 * config.min_images:
                continue
            if area > _SPREAD:
                if len(sheets & found.keys()) > _EXPLAINED * len(found):
                    continue
                sheets |= found.keys()
            elif not share > area:
                continue
            score = torch.tensor([occurrences[0].score for occurrences in found.values()]).median()
            weighed.append(replace(stamp, score=float(score), share=share, area=area))
        if len(weighed) == len(stamps):
            return tuple(sorted(weighed, key=lambda stamp: -stamp.share))
        stamps = weighed


def _members(
    seed: int, crops: _Crops, scores: Tensor, shifts: Tensor, per_image: Tensor, bar: Tensor
) -> list[tuple[int, int, int]]:
    """Image and place of the seed's core in each image where it beats its own null, best first; the seed leads."""
    found = [(int(crops.image[seed]), int(crops.y[seed]), int(crops.x[seed]))]
    above = (per_image[seed] > bar[seed]).nonzero()[:, 0]
    pad_y, pad_x = ((side + 1) // 2 for side in crops.core.shape[-2:])
    span_x = crops.around.shape[-1] - crops.core.shape[-1] + 1
    for image in above[per_image[seed, above].argsort(descending=True, stable=True)].tolist():
        windows = (crops.image == image).nonzero()[:, 0]
        window = int(windows[scores[seed, windows].argmax()])
        dy, dx = divmod(int(shifts[seed, window]), span_x)
        found.append((image, int(crops.y[window]) + dy - pad_y, int(crops.x[window]) + dx - pad_x))
    return found


def _template(
    white: Images, places: Sequence[tuple[int, int, int]], size: tuple[int, int], core: tuple[int, int]
) -> tuple[Tensor, Tensor, tuple[int, int]] | None:
    """Mean and stroke mask of aligned windows, cut to the mask, and the cut's offset from the places.

    A pixel belongs to a stroke if what the members share exceeds what they differ by, over its 3 x 3 neighbourhood.
    """
    top, left = (size[0] - core[0]) // 2, (size[1] - core[1]) // 2
    known = F.pad(torch.ones_like(white[:1, :1]), (size[1],) * 2 + (size[0],) * 2)
    padded = F.pad(white, (size[1],) * 2 + (size[0],) * 2)
    views = [
        (slice(y - top + size[0], y - top + 2 * size[0]), slice(x - left + size[1], x - left + 2 * size[1]))
        for _, y, x in places
    ]
    stack = torch.stack([padded[i, :, v, u] for (i, _, _), (v, u) in zip(places, views, strict=True)])
    weight = torch.stack([known[0, :, v, u] for v, u in views])
    count = weight.sum(0).clamp_min(1)
    mean = (stack * weight).sum(0) / count
    spread = ((stack - mean).square() * weight).sum(0) / (count - 1).clamp_min(1)
    # The mean's square holds a part of the spread by chance.
    shared = (mean.square() - spread / count).sum(0, keepdim=True)
    shared, differing = (F.avg_pool2d(v[None], 3, 1, 1)[0, 0] for v in (shared, spread.sum(0, keepdim=True)))
    most = shared.max()
    mask = (shared > differing) & (shared > FAINTEST * most) & (count[0] > len(places) / 2)
    if int(mask.sum()) < 9:
        return None
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    cut = mask[y0:y1, x0:x1]
    return mean[:, y0:y1, x0:x1] * cut, cut, (y0 - top, x0 - left)


def _confirmed(
    heard: Heard,
    reduced: Images,
    members: list[tuple[int, int, int]],
    core: tuple[int, int],
    config: RecurrenceConfig,
) -> Stamp | None:
    """The stamp behind a cluster, or None if half of the cluster does not find it in the images of the other half."""
    size = (2 * core[0], 2 * core[1])
    # The closest: a word's nearest are the same word, further off are words that share a letter with it.
    half = members[: 2 * config.min_images : 2]
    drawn = _template(heard.white, half, size, core)
    if drawn is None:
        return None
    best = best_places(heard, drawn[0], drawn[1])
    made_from = {image for image, _, _ in half}
    others = sorted((score for i, (score, _, _) in enumerate(best) if i not in made_from), reverse=True)
    enough = others[config.min_images - 1] if len(others) >= config.min_images else 0.0
    null = null_score(heard, drawn[0], drawn[1], enough)
    bar = threshold(null)
    if not enough > bar:
        return None
    # All that was found draws the template anew, about its own centre.
    sketch = _Sketch(drawn[0], drawn[1], null, best)
    for least in (config.min_images, 2 * config.min_images):
        places, (h, w) = sketch.places, sketch.extent
        if len(places) < config.min_images:  # an edge is its own foil: nothing beats the null
            return None
        anew = _drawn(heard, places, (h, w), (max(size[0], h), max(size[1], w)), least)
        if anew is None:
            return None
        sketch = anew
    return _inked(heard, reduced, sketch, len(half))


@dataclass(frozen=True)
class _Sketch:
    """A template while it is drawn. best: score and place (y, x) of its best match in each image."""

    template: Float[Tensor, "c th tw"]
    mask: Bool[Tensor, "th tw"]
    null: float
    best: list[tuple[float, int, int]]

    @property
    def extent(self) -> tuple[int, int]:
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """Image and place of each match above the threshold."""
        return [(i, y, x) for i, (score, y, x) in enumerate(self.best) if score > threshold(self.null)]


def _drawn(
    heard: Heard, places: Sequence[tuple[int, int, int]], extent: tuple[int, int], window: tuple[int, int], least: int
) -> _Sketch | None:
    """What things of this extent at these places draw in a window about them; None unless `least` images hold it."""
    drawn = _template(heard.white, places, window, extent)
    if drawn is None:
        return None
    template, mask, _ = drawn
    best = best_places(heard, template, mask)
    enough = sorted((score for score, _, _ in best), reverse=True)[least - 1]
    null = null_score(heard, template, mask, enough)
    return _Sketch(template, mask, null, best) if enough > threshold(null) else None


def _inked(heard: Heard, reduced: Images, sketch: _Sketch, members: int) -> Stamp:
    stamp = Stamp(sketch.template, sketch.mask, sketch.null, members, ink=sketch.mask)
    found = [(i, one.y, one.x) for i, places in enumerate(_places(heard, [stamp])[0]) for one in places]
    return replace(stamp, ink=_ink(reduced, found, sketch.mask))


def _joined(
    heard: Heard, reduced: Images, maps: Maps, stamps: tuple[Stamp, ...], config: RecurrenceConfig
) -> tuple[Stamp, ...]:
    """The stamps, with those that always stand side by side made one: parts of an overlay wider than the crops.

    It is no larger than an image, and holds out as any stamp does in nearly all images of its parts; else they stay.
    """
    found = _places(heard, stamps)
    for (one, ones), (other, others) in combinations(zip(stamps, found, strict=True), 2):
        parts = _side_by_side(one, other, ones, others)
        if parts is None or any(map(operator.gt, parts[1], heard.white.shape[-2:])):
            continue
        places, extent = parts
        wider = _hear(heard.white, [extent, *(stamp.extent for stamp in stamps)])
        least = max(2 * config.min_images, math.ceil(_EXPLAINED * len(places)))
        sketch = _drawn(wider, places, extent, extent, least)
        if sketch is None:
            continue
        whole = _inked(wider, reduced, sketch, min(one.members, other.members))
        rest = [stamp for stamp in stamps if stamp is not one and stamp is not other]
        settled = _settled(wider, maps, [whole, *rest], config)
        if any(stamp.mask is whole.mask for stamp in settled):
            return _joined(wider, reduced, maps, settled, config)
    return stamps


def _side_by_side(
    one: Stamp, other: Stamp, ones: list[list[Occurrence]], others: list[list[Occurrence]]
) -> tuple[list[tuple[int, int, int]], tuple[int, int]] | None:
    """Image and place, and the extent, of what two stamps are parts of: one box says the same as their two.

    None unless they have the same offset, within a pixel, in nearly all images that have either. A mark over most of
    the image is no part: it has any offset.
    """
    both = [(i, a[0], b[0]) for i, (a, b) in enumerate(zip(ones, others, strict=True)) if a and b]
    if not both or one.spread or other.spread:
        return None
    dy, dx = torch.tensor([(b.y - a.y, b.x - a.x) for _, a, b in both]).median(0).values.tolist()
    alike = [(i, a) for i, a, b in both if abs(b.y - a.y - dy) <= 1 and abs(b.x - a.x - dx) <= 1]
    if len(alike) <= _EXPLAINED * sum(bool(a or b) for a, b in zip(ones, others, strict=True)):
        return None
    (h, w), (other_h, other_w) = one.extent, other.extent
    top, left = min(dy, 0), min(dx, 0)
    joint = torch.zeros(max(h, dy + other_h) - top, max(w, dx + other_w) - left)
    joint[-top : h - top, -left : w - left] = 1
    joint[dy - top : dy - top + other_h, dx - left : dx - left + other_w] = 1
    if not float(joint.mean()) > _EXPLAINED:
        return None
    return [(i, a.y + top, a.x + left) for i, a in alike], (joint.shape[0], joint.shape[1])


def _ink(reduced: Images, places: Sequence[tuple[int, int, int]], mask: Tensor) -> Bool[Tensor, "th tw"]:
    """The strokes as drawn: whitening and its neighbourhoods widen them. Half of the contrast is where an edge lies."""
    total, count = reduced.new_zeros((reduced.shape[1], *mask.shape)), reduced.new_zeros(mask.shape)
    for i, y, x in places:
        top, left = max(-y, 0), max(-x, 0)
        seen = reduced[i, :, max(y, 0) : y + mask.shape[0], max(x, 0) : x + mask.shape[1]]
        view = (slice(top, top + seen.shape[-2]), slice(left, left + seen.shape[-1]))
        total[:, *view] += seen
        count[view] += 1
    mean = total / count.clamp_min(1)
    around = ((~mask) & (count > 0)).to(mean.dtype)
    reach = max(mask.shape)
    while reach > 2 and bool((_summed(around[None], reach // 2)[0][mask] > 0).all()):
        reach //= 2  # the closest surroundings that every pixel has
    ground = _summed(mean * around, reach) / _summed(around[None], reach).clamp_min(1)
    contrast = (mean - ground).abs().amax(0) * mask
    return contrast > contrast.max() / 2


def _summed(pictures: Tensor, reach: int) -> Tensor:
    side = 2 * reach + 1
    return F.avg_pool2d(pictures[None], side, 1, reach, divisor_override=1)[0]


def _mass(maps: Maps, places: list[list[Occurrence]], size: tuple[int, int]) -> tuple[float, float]:
    """Mean share of mass, and of area, in the boxes of the images that have the stamp. size: of the reduced images."""
    down, across = (_overlap(side, cells) for side, cells in zip(size, maps.shape[1:], strict=True))
    shares, areas = [], []
    for one, occurrences in zip(maps.double(), places, strict=True):
        if occurrences and (total := one.sum()) > 0:
            cover = down @ _boxed(occurrences, *size).double() @ across.T
            shares.append(float((one * cover).sum() / total))
            areas.append(float(cover.mean()))
    return (sum(shares) / len(shares), sum(areas) / len(areas)) if shares else (0.0, 0.0)


def _boxed(occurrences: Sequence[Occurrence], h: int, w: int) -> Bool[Tensor, "h w"]:
    boxed = torch.zeros(h, w, dtype=torch.bool)
    for x0, y0, x1, y1 in (occurrence.box for occurrence in occurrences):
        boxed[round(y0 * h) : round(y1 * h), round(x0 * w) : round(x1 * w)] = True
    return boxed


def _overlap(side: int, cells: int) -> Float[Tensor, "cells side"]:
    """The part of each cell of a row that each of its pixels makes up."""
    edges, pixels = torch.arange(cells + 1, dtype=torch.float64) / cells, torch.arange(side + 1).double() / side
    stop = torch.minimum(edges[1:, None], pixels[None, 1:])
    return (stop - torch.maximum(edges[:-1, None], pixels[None, :-1])).clamp_min(0) * cells


# Search


def _hear(white: Images, extents: Sequence[tuple[int, int]]) -> Heard:
    """For templates of these extents and their foils."""
    height, width = (math.ceil(max(sides) * max(SCALES)) for sides in zip(*extents, strict=True))
    return hear(white, (height, width))


def _places(heard: Heard, stamps: Sequence[Stamp]) -> list[list[list[Occurrence]]]:
    """For each stamp and image the places above the stamp's threshold; the stamp with the most energy chooses first."""
    n, (h, w) = len(heard.white), heard.white.shape[-2:]
    taken = torch.zeros(n, h, w, dtype=torch.bool)
    found: list[list[list[Occurrence]]] = [[] for _ in stamps]
    for s in sorted(range(len(stamps)), key=lambda s: -float(stamps[s].template.square().sum())):
        scores = (one for block in search(heard, stamps[s].template, stamps[s].mask) for one in block)
        found[s] = [_free(one, stamps[s], used) for one, used in zip(scores, taken, strict=True)]
    return found


def _free(scores: Tensor, stamp: Stamp, taken: Tensor) -> list[Occurrence]:
    """Peaks above the stamp's threshold, best first, whose strokes are not taken by other stamps; takes their strokes.

    Two of them overlap only where the template agrees with its shifted self: its strokes lie on its strokes.
    """
    h, w = taken.shape
    th, tw = stamp.mask.shape
    peaks = (scores > stamp.threshold) & (scores == F.max_pool2d(scores[None], 3, 1, 1)[0])
    rows, columns = peaks.nonzero().unbind(1)
    order = scores[rows, columns].argsort(descending=True, stable=True)
    mine = torch.zeros_like(taken)
    boxed = torch.zeros_like(taken)
    found: list[Occurrence] = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        y, x = row - th // 2, column - tw // 2
        view, part = _clipped(y, x, stamp.mask, taken)
        both = boxed[view]
        if int((taken[view] & part).sum()) > _EXPLAINED * int(part.sum()):
            continue
        if bool(both.any()) and not _agree(mine[view] & both, part & both):
            continue
        top, left = view[0].start, view[1].start
        box = (left / w, top / h, (left + part.shape[1]) / w, (top + part.shape[0]) / h)
        found.append(Occurrence(box, float(scores[row, column]), y, x))
        mine[view] |= part
        boxed[view] = True
    taken |= mine
    return found


def _agree(one: Tensor, other: Tensor) -> bool:
    return int((one & other).sum()) > _EXPLAINED * int((one | other).sum())


def _clipped(y: int, x: int, mask: Tensor, image: Tensor) -> tuple[tuple[slice, slice], Tensor]:
    """Where a mask placed at y, x lies in the image, and the part of the mask that does."""
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + mask.shape[0], image.shape[0]), min(x + mask.shape[1], image.shape[1])
    return (slice(top, bottom), slice(left, right)), mask[top - y : bottom - y, left - x : right - x]


def _explained(crops: _Crops, places: list[list[Occurrence]], h: int, w: int) -> Tensor:
    """Crops that hold little besides the stamps that were found: three quarters of the energy is theirs."""
    size_y, size_x = crops.core.shape[-2:]
    explained = torch.zeros(len(crops.image), dtype=torch.bool)
    for i, (image, y, x) in enumerate(zip(crops.image.tolist(), crops.y.tolist(), crops.x.tolist(), strict=True)):
        stamped = _boxed(places[image], h, w)
        energy = crops.core[i].square().sum(0)
        inside = (energy * stamped[y : y + size_y, x : x + size_x]).sum()
        explained[i] = bool(inside > _EXPLAINED * energy.sum())
    return explained
