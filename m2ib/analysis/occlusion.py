"""Does the score need a region? Cover it, cover equal regions elsewhere, paste it into other images, and compare.

The score is the margin of a pair's own caption over foils: a cosine alone hides what a second cue for the same caption
still carries. Masks are of what the model sees, (height, width), true inside. Nothing here is fitted and the model is
only read: embeddings of changed pixels are all that it costs.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from m2ib.analysis.masks import Mask, count_touched_borders, extent_of, is_frame
from m2ib.encoders import DualEncoder

Fill = Literal["mean", "blur", "swap"]

BATCH = 64
_MET = 0.1
"""Share of its pixels that a control of a spread pattern may have in common with it: it is smaller by so much."""
_ALIKE = 0.5
"""Two controls of a spread pattern that share more of their pixels than this are one, and not counted twice."""


def control_masks(mask: Mask, count: int, key: str) -> list[Mask]:
    """Up to `count` regions of the same number of pixels elsewhere, none of which touches a pixel of the region.

    What makes a place matter besides its content is its distance from the border, so that is kept where it can be:
    a region at one to three borders gets its mirror images (and, in a square picture, its rotations), for a corner
    the other corners; one at a single border also slides along it. A region on all four borders, a frame, gets rings
    further inside, and an island shifted copies, as does a strip that has but one mirror image. key: decides which,
    where there are more than `count`. None at all for a region too large to leave room.

    A pattern that is spread over the picture leaves no place free of it: its copies are moved round the picture, as a
    torus, to where they meet the fewest of its pixels, a tenth of them at most, and lose these.
    """
    if not mask.any() or mask.all() or count < 1:
        return []
    touched = count_touched_borders(mask)
    if is_frame(mask):
        return _rings(mask, count)
    if touched == 4:
        return _interleaved(mask, count, key)
    found = _apart(_mirrored(mask) + (_slid(mask) if touched == 1 else []), mask) if touched else []
    usable = found if len(found) > 1 else _apart(found + _shifted(mask, key, count), mask)
    if len(usable) <= count:
        return usable
    chosen = _generator(key).choice(len(usable), size=count, replace=False)
    return [usable[index] for index in sorted(chosen)]


def _apart(controls: list[Mask], mask: Mask) -> list[Mask]:
    """Those that touch no pixel of the region, each once."""
    return list({control.tobytes(): control for control in controls if not (control & mask).any()}.values())


def _generator(key: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]))


def _mirrored(mask: Mask) -> list[Mask]:
    """The symmetries of the picture: flips, and in a square one quarter turns."""
    turns = (0, 1, 2, 3) if mask.shape[0] == mask.shape[1] else (0, 2)
    turned = [np.rot90(mask, turn) for turn in turns]
    return [np.ascontiguousarray(flip) for one in turned for flip in (one, one[:, ::-1])]


def _moved(mask: Mask, top: int, left: int) -> Mask:
    """The region with its extent's upper left pixel at another place."""
    first, last, near, far = extent_of(mask)
    moved = np.zeros_like(mask)
    moved[top : top + last - first, left : left + far - near] = mask[first:last, near:far]
    return moved


def _slid(mask: Mask) -> list[Mask]:
    """Places along the one border that the region touches, a quarter of its length apart."""
    first, last, near, far = extent_of(mask)
    if first == 0 or last == mask.shape[0]:
        return [_moved(mask, first, left) for left in _stops(mask.shape[1], far - near)]
    return [_moved(mask, top, near) for top in _stops(mask.shape[0], last - first)]


def _stops(size: int, length: int) -> range:
    return range(0, size - length + 1, max(1, length // 4))


def _shifted(mask: Mask, key: str, count: int) -> list[Mask]:
    """Copies at random places that leave the region untouched; few tries find them, or there is no room."""
    first, last, near, far = extent_of(mask)
    generator, found = _generator(f"{key}\x1fshift"), []
    for _ in range(200):
        top = int(generator.integers(mask.shape[0] - (last - first) + 1))
        left = int(generator.integers(mask.shape[1] - (far - near) + 1))
        moved = _moved(mask, top, left)
        if not (moved & mask).any():
            found.append(moved)
            if len(found) == count:
                break
    return found


def _interleaved(mask: Mask, count: int, key: str) -> list[Mask]:
    """Copies of a spread pattern: the one that meets it the least, then the next that is unlike those before.

    How far two copies must lie apart for that, in which direction, follows from the pattern: a step across its strokes
    may do, one along them may not, and one that repeats it never does.
    """
    spectrum = np.fft.rfft2(mask)
    met = np.rint(np.fft.irfft2(np.abs(spectrum) ** 2, s=mask.shape)).astype(np.int64)
    ties = _generator(f"{key}\x1finterleave").random(mask.shape)
    order = np.lexsort((ties.ravel(), met.ravel()))
    unlike, free = met <= _ALIKE * mask.sum(), met <= _MET * mask.sum()
    found: list[Mask] = []
    while len(found) < count and free.any():
        place = order[free.ravel()[order]][0]
        move = (int(place) // mask.shape[1], int(place) % mask.shape[1])
        found.append(np.roll(mask, move, (0, 1)) & ~mask)
        free &= np.roll(unlike, move, (0, 1))
    return found


def _rings(mask: Mask, count: int) -> list[Mask]:
    """Rings of the frame's number of pixels, the first just inside it, each of the others a little further in.

    They overlap one another, not the frame. The innermost line of a ring may be incomplete, so that areas are equal.
    """
    rows, columns = np.indices(mask.shape)
    height, width = mask.shape
    depth = np.minimum.reduce([rows, columns, height - 1 - rows, width - 1 - columns])
    depth[mask] = -1
    levels = np.unique(depth[~mask])
    step = max(1, _thickness(mask) // 2)
    found = []
    for start in levels[:: int(step)][:count]:
        inside = np.flatnonzero((depth >= start).ravel())
        nearest = inside[np.argsort(depth.ravel()[inside], kind="stable")][: int(mask.sum())]
        if len(nearest) < mask.sum():
            break
        ring = np.zeros(mask.size, dtype=np.bool_)
        ring[nearest] = True
        found.append(ring.reshape(mask.shape))
    return found


def _thickness(mask: Mask) -> int:
    """Pixels from the upper border inwards, in the middle of it."""
    column = mask[:, mask.shape[1] // 2]
    return int(np.argmin(column)) if not column.all() else mask.shape[0]


def fill(
    pixels: Float[Tensor, "images 3 height width"],
    masks: Bool[Tensor, "images height width"],
    how: Fill,
    donors: Float[Tensor, "images 3 height width"] | None = None,
) -> Float[Tensor, "images 3 height width"]:
    """Replace the masked pixels, and no others, by something that the masked pixels have no part in.

    mean: the mean of a ring around the mask, an image and channel each. blur: a Gaussian blur of what surrounds the
    mask, weighed so that only unmasked pixels count. swap: the same pixels of `donors`. An empty mask changes nothing.
    Strokes, a mask that holds less than half of its extent and is no frame, are filled from beside each pixel.
    Raises ValueError for a mask that covers all of an image, and where donors are missing.
    """
    if how == "swap":
        if donors is None:
            raise ValueError("donors: got None, expected one image for each to swap with")
        filling = donors
    elif bool(masks.flatten(1).all(dim=1).any()):
        raise ValueError("masks: got one that covers the whole image, expected some surroundings to fill it from")
    else:
        filling = _ring_mean(pixels, masks) if how == "mean" else _surroundings(pixels, masks)
    return torch.where(masks[:, None], filling.to(pixels.dtype), pixels)


def _ring_mean(
    pixels: Float[Tensor, "images 3 height width"], masks: Bool[Tensor, "images height width"]
) -> Float[Tensor, "images 3 height width"]:
    reach = max(2, masks.shape[-1] // 16)
    inside = masks[:, None].float()
    grown = F.max_pool2d(inside, 2 * reach + 1, stride=1, padding=reach)
    ring = grown - inside
    total = (pixels.float() * ring).sum(dim=(2, 3), keepdim=True)
    means = (total / ring.sum(dim=(2, 3), keepdim=True).clamp(min=1)).repeat(1, 1, *pixels.shape[2:])
    for index in _thin(masks):
        # No pixel lies deeper than that, so that each sees past the mask.
        side = 2 * (reach + _depth(masks[index])) + 1
        free = (~masks[index]).to(means.dtype)[None]
        sums = (F.avg_pool2d(part[None], side, 1, side // 2)[0] for part in (pixels[index].float() * free, free))
        means[index] = next(sums) / next(sums)
    return means


def _surroundings(
    pixels: Float[Tensor, "images 3 height width"], masks: Bool[Tensor, "images height width"]
) -> Float[Tensor, "images 3 height width"]:
    """Normalised convolution: blur(x (1 - mask)) / blur(1 - mask), as wide as half the side of a square like the mask.

    Strokes: as wide as they are deep, half of their width. In float64: deep inside a large mask all weights are tiny.
    """
    sigma = masks.sum(dim=(1, 2)).double().sqrt().div(2).clamp(min=1.0)
    for index in _thin(masks):
        sigma[index] = _depth(masks[index])
    down, across = (_gaussian(size, sigma)[:, None] for size in masks.shape[1:])
    seen = (~masks)[:, None].double()
    weighed = down @ (pixels.double() * seen) @ across
    return weighed / (down @ seen @ across).clamp(min=torch.finfo(torch.float64).tiny)


def _thin(masks: Bool[Tensor, "images height width"]) -> list[int]:
    """Masks that hold less than half of their extent and are no frames."""
    found = []
    for index, mask in enumerate(masks.cpu().numpy()):
        if mask.any() and not is_frame(mask):
            first, last, near, far = extent_of(mask)
            if mask[first:last, near:far].mean() < 0.5:
                found.append(index)
    return found


def _depth(mask: Bool[Tensor, "height width"]) -> int:
    """How many pixels the deepest masked one lies off the nearest unmasked one, counted along rows and columns."""
    left, depth = mask[None].float(), 0
    while bool(left.any()):
        left = 1 - F.max_pool2d(1 - left, 3, stride=1, padding=1)
        depth += 1
    return depth


def _gaussian(size: int, sigma: Float[Tensor, " images"]) -> Float[Tensor, "images size size"]:
    places = torch.arange(size, dtype=torch.float64, device=sigma.device)
    return torch.exp(-0.5 * ((places[:, None] - places[None]) / sigma[:, None, None]) ** 2)


def occlude(
    encoder: DualEncoder,
    pixels: Float[Tensor, "images 3 height width"],
    masks: Bool[np.ndarray, "images masks height width"],
    how: Fill,
    donors: Float[Tensor, "images 3 height width"] | None = None,
    batch_size: int = BATCH,
) -> Float[np.ndarray, "images masks embed"]:
    """Embeddings of each image with each of its masks filled; see `fill`."""
    places = torch.cartesian_prod(torch.arange(masks.shape[0]), torch.arange(masks.shape[1]))
    boolean, parts = torch.from_numpy(masks), []
    with encoder.frozen():
        for part in places.split(batch_size):
            image, mask = part[:, 0], part[:, 1]
            changed = fill(pixels[image], boolean[image, mask], how, None if donors is None else donors[image])
            parts.append(_numbers(encoder.embed_images(encoder.pixels(changed))))
    return np.concatenate(parts).reshape(*masks.shape[:2], -1)


def embed(
    encoder: DualEncoder, pixels: Float[Tensor, "images 3 height width"], batch_size: int = BATCH
) -> Float[np.ndarray, "images embed"]:
    """Embeddings of the images as they are."""
    with encoder.frozen():
        parts = [_numbers(encoder.embed_images(encoder.pixels(part))) for part in pixels.split(batch_size)]
    return np.concatenate(parts)


def embed_captions(
    encoder: DualEncoder, captions: Sequence[str], batch_size: int = BATCH
) -> Float[np.ndarray, "texts embed"]:
    """Embeddings of captions."""
    batches = [captions[start : start + batch_size] for start in range(0, len(captions), batch_size)]
    with encoder.frozen():
        parts = [_numbers(encoder.embed_texts(encoder.token_ids(batch))) for batch in batches]
    return np.concatenate(parts)


def _numbers(embeddings: Tensor) -> NDArray[np.float64]:
    return embeddings.double().cpu().numpy()


def foil_margin(
    images: Float[np.ndarray, "pairs *versions embed"],
    own: Float[np.ndarray, "pairs embed"],
    foils: Float[np.ndarray, "pairs foils embed"],
) -> Float[np.ndarray, "pairs ..."]:
    """Cosine with the pair's own caption, less that with the foil that fits best: positive where the caption wins.

    All embeddings are normalised. The best foil is found anew for each version of an image.
    """
    versions = images.reshape(images.shape[0], -1, images.shape[-1])
    cosine = np.einsum("pve,pe->pv", versions, own)
    best = np.einsum("pve,pfe->pvf", versions, foils).max(axis=-1)
    return (cosine - best).reshape(images.shape[:-1])


def transplant(
    encoder: DualEncoder,
    sources: Float[Tensor, "images 3 height width"],
    hosts: Float[Tensor, "images 3 height width"],
    masks: Bool[np.ndarray, "images masks height width"],
    own: Float[np.ndarray, "images embed"],
    foils: Float[np.ndarray, "images foils embed"],
    batch_size: int = BATCH,
) -> Float[np.ndarray, "images masks"]:
    """How much a host's margin for the source's caption rises by the source's pixels, pasted at their own place."""
    before = foil_margin(embed(encoder, hosts, batch_size), own, foils)
    pasted = occlude(encoder, hosts, masks, "swap", donors=sources, batch_size=batch_size)
    return foil_margin(pasted, own, foils) - before[:, None]


def stamp(
    pixels: Float[Tensor, "images 3 height width"], masks: Bool[np.ndarray, "images height width"]
) -> Float[Tensor, "images 3 height width"]:
    """Draw a tag of our own into each mask: a chequered plate in the brightest and darkest values of the image.

    Made to be seen and to mean nothing: four by four squares, whatever the size of the mask.
    """
    stamped = pixels.clone()
    rows, columns = torch.arange(pixels.shape[2])[:, None], torch.arange(pixels.shape[3])[None]
    for image, mask in zip(stamped, masks, strict=True):
        top, bottom, left, right = extent_of(mask)
        squares = (rows - top) * 4 // (bottom - top) + (columns - left) * 4 // (right - left)
        plate = torch.where(squares % 2 == 0, image.amax(), image.amin())
        image[:] = torch.where(torch.from_numpy(mask), plate, image)
    return stamped
