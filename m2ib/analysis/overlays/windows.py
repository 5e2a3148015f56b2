"""Cut windows from images at the highest values of their attribution maps, and correlate all pairs of windows."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from m2ib.analysis.overlays.matching import MIN_CONTRAST, SCALES, Placement
from m2ib.analysis.overlays.whitening import Images

Maps: TypeAlias = Float[Tensor, "n gh gw"]

_SAME_IMAGE = 0.5  # near-duplicates have a higher cosine of their whitened, clipped pixels
_MAX_NUMBERS = 2**24  # numbers in memory at once while windows are compared


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
    """Correlations of the cores of m windows (see `Windows`) with the surroundings of all windows, in n images."""

    windows: Windows
    scores: Float[Tensor, "m m"]  # highest correlation of each core (row) within each window's surroundings (column)
    shifts: Int[Tensor, "m m"]  # place of that core within the surroundings, as a flat index
    by_image: Float[Tensor, "m n"]  # highest correlation of each core in each image; -1 for near-duplicates
    null_by_image: Float[Tensor, "m n"]  # the same for rescaled surroundings, which gives the null distribution

    @property
    def null_max(self) -> Float[Tensor, " m"]:
        """Highest correlation of each window's core with rescaled surroundings, which are a control."""
        return self.null_by_image.max(1).values

    def prominence(self, k: int) -> Float[Tensor, " m"]:
        """Return how clearly the core (center) of each window recurs in k images.

        The prominence is the k-th highest correlation of the core with images, minus that with rescaled images (the
        control), times the energy of the core (sum of squared values). A word has more energy than its letters, so it
        is more prominent. A core that matches fewer than k images better than any rescaled image has prominence 0.
        """
        kth = self.by_image.topk(k, 1).values[:, -1]
        excess = (kth - self.null_by_image.topk(k, 1).values[:, -1]) * self.windows.core.square().sum((1, 2, 3))
        return excess.masked_fill(kth <= self.null_max, 0)

    def members_of(self, seed: int) -> list[Placement]:
        """Return the place of the core (center) of window `seed`, then its best match in each image, best first.

        Only correlations above `null_max`, the highest one with rescaled images, count as matches.
        """
        windows = self.windows
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
    padded = F.pad(white, (pad_x, pad_x, pad_y, pad_y))
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
            surroundings.append(padded[i : i + 1, :, y : y + core_y + 2 * pad_y, x : x + core_x + 2 * pad_x])
    image, ys, xs = torch.tensor(places, dtype=torch.long).reshape(-1, 3).unbind(1)
    return Windows(image, ys, xs, torch.cat(cores), torch.cat(surroundings))


def compare_windows(windows: Windows, white: Images) -> Comparison:
    """Correlate the core (center) of each window with the surroundings of all windows, in whitened images (`white`).

    Rescaled surroundings are a control (overlays have a fixed size). Near-duplicates among the images do not count.
    """
    scores, shifts = _correlate_all(windows.core, windows.surroundings)
    rescaled = [_rescale(one[None], SCALES[i % len(SCALES)])[0] for i, one in enumerate(windows.surroundings)]
    null, _ = _correlate_all(windows.core, torch.stack(rescaled))
    same = _find_near_duplicates(white)[windows.image]
    by_image, null_by_image = (
        _best_by_image(one, windows.image, len(white)).masked_fill(same, -1) for one in (scores, null)
    )
    return Comparison(windows, scores, shifts, by_image, null_by_image)


def _correlate_all(cores: Tensor, surroundings: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest correlation (m, m) of each window's core in each window's surroundings, and its flat index."""
    size_y, size_x = cores.shape[-2:]
    side_y, side_x = surroundings.shape[-2:]
    span_y, span_x = side_y - size_y + 1, side_x - size_x + 1
    energy = F.avg_pool2d(surroundings.square().sum(1, keepdim=True), (size_y, size_x), 1)[:, 0] * (size_y * size_x)
    own = cores.square().sum((1, 2, 3))
    spectrum = torch.fft.rfft2(surroundings)
    best = torch.empty(len(cores), len(surroundings))
    shift = torch.empty(len(cores), len(surroundings), dtype=torch.long)
    step = max(1, _MAX_NUMBERS // max(spectrum[0, 0].numel() * len(surroundings), 1))
    for start in range(0, len(cores), step):
        batch = slice(start, start + step)
        conjugate = torch.fft.rfft2(cores[batch], s=(side_y, side_x)).conj()
        if spectrum.shape[1] > 1:
            product = torch.einsum("acuv,bcuv->abuv", conjugate, spectrum)
        else:
            product = conjugate * spectrum[:, 0]
        found = torch.fft.irfft2(product, s=(side_y, side_x))[..., :span_y, :span_x]
        norm = own[batch, None, None, None]
        scores = found / (norm * torch.maximum(energy, MIN_CONTRAST**2 * norm)).sqrt()
        best[batch], shift[batch] = scores.flatten(2).max(-1)
    return best, shift


def _rescale(pictures: Tensor, scale: float) -> Tensor:
    """Scale images about their center, and crop them or pad them with zeros to their original size."""
    h, w = pictures.shape[-2:]
    size = max(1, round(h * scale)), max(1, round(w * scale))
    resized = F.interpolate(pictures, size=size, mode="bicubic", antialias=scale < 1)
    top, left = (size[0] - h) // 2, (size[1] - w) // 2
    return F.pad(resized, (-left, w - size[1] + left, -top, h - size[0] + top))


def _find_near_duplicates(white: Images) -> Bool[Tensor, "n n"]:
    """Return True for each two whitened images that are near-duplicates, such as slightly different crops."""
    clipped = white.clamp(-1, 1).flatten(1)
    unit = clipped / clipped.norm(dim=1, keepdim=True).clamp_min(1e-9)
    return unit @ unit.T > _SAME_IMAGE


def _best_by_image(scores: Tensor, image: Tensor, n: int) -> Tensor:
    """Return the highest correlation of each window's core with each of n images, -1 for images without windows."""
    index = image.expand(len(scores), -1)
    return scores.new_full((len(scores), n), -1.0).scatter_reduce(1, index, scores, "amax")
