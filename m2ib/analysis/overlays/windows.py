"""Cut windows from images at the highest values of their attribution maps, and correlate all pairs of windows."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.fft import rfft2
from torch import Tensor

from m2ib.analysis.overlays.matching import CACHED, MIN_CONTRAST, SCALES, Placement, cut_window, multiply_spectra
from m2ib.analysis.overlays.whitening import Images

Maps: TypeAlias = Float[Tensor, "n gh gw"]

_SAME_IMAGE = 0.5  # near-duplicates have a higher cosine of their whitened, clipped pixels
_COLUMNS = 32  # windows to transform at once; few, because a core is rejected only after a whole block of them


@dataclass(frozen=True)
class Windows:
    """m windows of whitened images around the highest values of the attribution maps.

    Each window has a core of 2 x 2 map cells, and surroundings, twice as high and wide, in which cores are searched.
    """

    image: Int[Tensor, " m"]  # index of each window's image
    y: Int[Tensor, " m"]  # row of the upper left pixel of each core
    x: Int[Tensor, " m"]  # column of that pixel
    core: Float[Tensor, "m c s t"]
    surroundings: Float[Tensor, "m c u v"]

    def __len__(self) -> int:
        return len(self.image)

    @property
    def core_size(self) -> tuple[int, int]:
        """Height and width, in pixels, of a core (the center of a window, without its surroundings)."""
        return self.core.shape[-2], self.core.shape[-1]


@dataclass(frozen=True)
class Comparison:
    """Correlations of the cores of k windows (see `Windows`) with the surroundings of all m windows, in n images."""

    scores: Float[Tensor, "k m"]  # highest correlation of each core (row) within each window's surroundings (column)
    shifts: Int[Tensor, "k m"]  # place of that core within the surroundings, as a flat index
    by_image: Float[Tensor, "k n"]  # highest correlation of each core in each image; -1 for near-duplicates
    null_max: Float[Tensor, " k"]  # highest correlation of each core with rescaled surroundings, which are a control
    prominence: Float[Tensor, " k"]  # how clearly each core recurs; 0 if it does not, and `null_max` is then infinite

    def members_of(self, seed: int, windows: Windows) -> list[Placement]:
        """Return the place of the core (center) of window `seed`, then its best match in each image, best first.

        Only correlations above `null_max`, the highest one with rescaled images, count as matches.
        """
        found = [(int(windows.image[seed]), int(windows.y[seed]), int(windows.x[seed]))]
        above = (self.by_image[seed] > self.null_max[seed]).nonzero()[:, 0]
        pad_y, pad_x = ((side + 1) // 2 for side in windows.core_size)
        span_x = windows.surroundings.shape[-1] - windows.core_size[1] + 1
        for image in above[self.by_image[seed, above].argsort(descending=True, stable=True)].tolist():
            candidates = (windows.image == image).nonzero()[:, 0]
            window = int(candidates[self.scores[seed, candidates].argmax()])
            dy, dx = divmod(int(self.shifts[seed, window]), span_x)
            found.append((image, int(windows.y[window]) + dy - pad_y, int(windows.x[window]) + dx - pad_x))
        return found


def find_hot_cells(maps: Maps, peaks: int) -> list[list[tuple[int, int]]]:
    """Return the cells (row, column) with the highest values of each map, at most `peaks` for each map.

    Cells must not be adjacent to each other and must be above the mean of the map.
    """
    width = maps.shape[2]
    found: list[list[tuple[int, int]]] = []
    for one in maps:
        left, cells = one.clone(), []
        for _ in range(peaks):
            y, x = divmod(int(left.argmax()), width)
            if not left[y, x] > one.mean():
                break
            cells.append((y, x))
            left[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = -torch.inf
        found.append(cells)
    return found


def cut_windows(white: Images, maps: Maps, peaks: int) -> Windows:
    """Cut at most `peaks` windows of 2 x 2 map cells from each whitened image (`white`), at the highest map values.

    Windows of almost constant pixels are omitted.
    """
    _, c, h, w = white.shape
    cell_y, cell_x = h / maps.shape[1], w / maps.shape[2]
    core_y, core_x = (min(max(8, round(2 * cell)), side) for cell, side in ((cell_y, h), (cell_x, w)))
    pad_y, pad_x = (core_y + 1) // 2, (core_x + 1) // 2
    places: list[Placement] = []
    cores = [white.new_zeros((0, c, core_y, core_x))]
    surroundings = [white.new_zeros((0, c, core_y + 2 * pad_y, core_x + 2 * pad_x))]
    for i, cells in enumerate(find_hot_cells(maps, peaks)):
        for row, column in cells:
            y = min(max(round((row + 0.5) * cell_y - core_y / 2), 0), h - core_y)
            x = min(max(round((column + 0.5) * cell_x - core_x / 2), 0), w - core_x)
            core = white[i : i + 1, :, y : y + core_y, x : x + core_x]
            if core.square().mean() < 1e-3:
                continue
            places.append((i, y, x))
            cores.append(core)
            around = (core_y + 2 * pad_y, core_x + 2 * pad_x)
            surroundings.append(cut_window(white[i : i + 1], y - pad_y, x - pad_x, around))
    image, ys, xs = torch.tensor(places, dtype=torch.long).reshape(-1, 3).unbind(1)
    return Windows(image, ys, xs, torch.cat(cores), torch.cat(surroundings))


def compare_windows(windows: Windows, white: Images, least: int, rows: slice = slice(None)) -> Comparison:
    """Correlate the core (center) of each window with the surroundings of all windows, in whitened images (`white`).

    Rescaled surroundings are a control (overlays have a fixed size). Near-duplicates among the images do not count.
    The prominence of a core is the `least`-th highest correlation with images, minus that with rescaled images, times
    the energy of the core (sum of squared values). A word has more energy than its letters, so it is more prominent. A
    core that matches fewer than `least` images better than any rescaled image has prominence 0.

    Args:
        windows: Windows from the images.
        white: Whitened images.
        least: Number of images in which a core must recur.
        rows: Range of the cores to compare. The result for a core does not depend on it.
    """
    cores, n = windows.core[rows], len(white)
    same = _find_near_duplicates(white)[windows.image[rows]]
    blocks = torch.arange(len(windows)).split(_COLUMNS)
    found = [_correlate(cores, windows.surroundings[block]) for block in blocks]
    scores, shifts = (torch.cat(part, 1) for part in zip(*found, strict=True))
    by_image = _best_by_image(scores, windows.image, n).masked_fill(same, -1)
    kth = by_image.topk(least, 1).values[:, -1]
    # Most cores recur nowhere: some rescaled surroundings soon match them better, and the rest need no search.
    null = torch.full_like(scores, -1)
    left = torch.arange(len(cores))
    for block in blocks:
        if not len(left):
            break
        rescaled = [_rescale(windows.surroundings[i : i + 1], SCALES[i % len(SCALES)]) for i in block.tolist()]
        against, _ = _correlate(cores[left], torch.cat(rescaled))
        null[left[:, None], block] = against.masked_fill(same[left][:, windows.image[block]], -1)
        left = left[null[left].amax(1) < kth[left]]
    null_by_image = _best_by_image(null[left], windows.image, n)
    excess = kth[left] - null_by_image.topk(least, 1).values[:, -1]
    null_max, prominence = torch.full_like(kth, torch.inf), torch.zeros_like(kth)
    null_max[left] = null_by_image.amax(1)
    prominence[left] = excess * cores[left].square().sum((1, 2, 3))
    return Comparison(scores, shifts, by_image, null_max, prominence)


def _correlate(cores: Tensor, surroundings: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest correlation (k, m) of each of k cores in each of m surroundings, and its flat index."""
    size_y, size_x = cores.shape[-2:]
    side_y, side_x = surroundings.shape[-2:]
    span_y, span_x = side_y - size_y + 1, side_x - size_x + 1
    energy = surroundings.square().sum(1, keepdim=True)
    for size in ((size_y, 1), (1, size_x)):
        energy = F.avg_pool2d(energy, size, 1) * max(size)
    norm = cores.square().sum((1, 2, 3))[:, None, None, None]
    scale, most = energy[:, 0].rsqrt().numpy(), (MIN_CONTRAST**2 * norm).rsqrt().numpy()
    spectrum = rfft2(surroundings.numpy())
    conjugate = np.conj(rfft2((cores / norm.sqrt()).numpy(), s=(side_y, side_x)))
    best = cores.new_empty(len(cores), len(surroundings))
    shift = best.new_empty(best.shape, dtype=torch.long)
    step = max(1, CACHED // spectrum[:, 0].size)
    for start in range(0, len(cores), step):
        batch = slice(start, start + step)
        found = multiply_spectra(conjugate[batch, None], spectrum, side_x, (span_y, span_x))
        scores = (found * np.minimum(scale, most[batch])).reshape(*found.shape[:2], -1)
        best[batch], shift[batch] = torch.from_numpy(scores.max(-1)), torch.from_numpy(scores.argmax(-1))
    return best, shift


def _rescale(pictures: Tensor, scale: float) -> Tensor:
    """Scale images about their center, and crop them or pad them with zeros to their original size."""
    h, w = pictures.shape[-2:]
    size = max(1, round(h * scale)), max(1, round(w * scale))
    resized = F.interpolate(pictures, size=size, mode="bicubic", antialias=scale < 1)
    return cut_window(resized, (size[0] - h) // 2, (size[1] - w) // 2, (h, w))


def _find_near_duplicates(white: Images) -> Bool[Tensor, "n n"]:
    """Return True for each two whitened images that are near-duplicates, such as slightly different crops."""
    clipped = white.clamp(-1, 1).flatten(1)
    unit = clipped / clipped.norm(dim=1, keepdim=True).clamp_min(1e-9)
    return unit @ unit.T > _SAME_IMAGE


def _best_by_image(scores: Tensor, image: Tensor, n: int) -> Tensor:
    """Return the highest correlation of each window's core with each of n images, -1 for images without windows."""
    index = image.expand(len(scores), -1)
    return scores.new_full((len(scores), n), -1.0).scatter_reduce(1, index, scores, "amax")
