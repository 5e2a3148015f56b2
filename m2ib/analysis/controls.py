"""Make control regions: masks with the same area as a region of an image, at different places in the image."""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt, label

from m2ib.analysis.masks import Mask, count_touched_borders, extent_of, is_frame

# Limits for the controls of a pattern that is spread over the image, as shares of its pixels: the overlap with the
# pattern, which is removed from the control, and the overlap with another control.
_MAX_OVERLAP, _MAX_COMMON = 0.1, 0.5
_RANDOM_TRIES = 200
_MAX_PIECES = 8  # of a region; more are a pattern
_GAP = 1 / 32  # of the image's side: parts of a region that are closer to each other are moved together
_MAX_TRIMMED = 0.25  # share of a strip's mirror image that may overlap the strip


def make_control_masks(mask: Mask, count: int, key: str) -> list[Mask]:
    """Make control regions with the same number of pixels as a region and without any of its pixels.

    The importance of a place depends on its content and on its distance from the border. Where possible, controls have
    the same distance from the border as the region. A frame becomes rings further inside. Of any other region, each
    piece is moved on its own, to a place that is free of the region and of the other moved pieces:

    - It is mirrored and, in a square image, rotated: a corner becomes the other corners. What a mirrored strip has in
      common with the region is replaced by as many pixels next to it.
    - If fewer than two such places are free, it is also moved along the nearest border.
    - If there are still fewer, it is also moved to random places.

    Where pieces have no place of their own, and for a pattern of more than `_MAX_PIECES` pieces or one that touches all
    sides, the whole mask is shifted cyclically to where it overlaps itself least, by at most a tenth of its pixels. The
    overlap is removed from the control, which makes it smaller.

    At most `count` distinct masks are returned, and none if the region leaves no place for a control. `key` is the seed
    of the random choices.
    """
    if not mask.any() or mask.all() or count < 1:
        return []
    if is_frame(mask):
        return _rings(mask, count)
    pieces = _split(mask)
    found: dict[bytes, Mask] = {}
    if len(pieces) <= _MAX_PIECES and all(count_touched_borders(piece) < 4 for piece in pieces):
        for control in _move_pieces(mask, pieces, count, key):
            found[control.tobytes()] = control
    return list(found.values()) if len(found) > 1 else _interleave(mask, count, key)


def _split(mask: Mask) -> list[Mask]:
    """Split a mask into pieces that are further than `_GAP` from each other, the largest first."""
    reach = max(1, round(min(mask.shape) * _GAP / 2))
    numbers, count = label(binary_dilation(mask, np.ones((3, 3)), reach), np.ones((3, 3)))
    pieces = [mask & (numbers == number) for number in range(1, min(count, _MAX_PIECES + 1) + 1)]
    return sorted(pieces, key=lambda piece: -int(piece.sum()))


def _move_pieces(mask: Mask, pieces: list[Mask], count: int, key: str) -> Iterator[Mask]:
    """Yield at most `count` controls of a mask, each the union of one moved copy of each piece."""
    generator = _generator(key)
    places = []
    for piece in pieces:
        mirrored, along = _symmetries(piece, mask), _slide(piece, mask)
        ranked = [mirrored, along] if len(mirrored) > 1 else [mirrored + along]
        places.append([[some[index] for index in generator.permutation(len(some))] for some in ranked])
    for number in range(count):
        control = np.zeros_like(mask)
        for piece, ranked in zip(pieces, places, strict=True):
            # Each control begins with another place.
            tried = (some[(number + turn) % len(some)] for some in ranked for turn in range(len(some)))
            moved = next((one for one in tried if not (one & control).any()), None)
            if moved is None or len(ranked[0]) < min(2, number + 1):
                moved = _shift_randomly(piece, mask | control, generator)
            if moved is None:
                break
            control = control | moved
        else:
            yield control


def _generator(key: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]))


def _keep_free(controls: list[Mask], mask: Mask) -> list[Mask]:
    """Return the distinct controls that have no pixel in common with the mask."""
    return list({control.tobytes(): control for control in controls if not (control & mask).any()}.values())


def _symmetries(piece: Mask, mask: Mask) -> list[Mask]:
    """Return the free mirror images of a piece, and its rotations by half turns (by quarter turns in a square image).

    A strip from border to border overlaps its rotations in the corners of the image; see `_trim`.
    """
    turned = [np.rot90(piece, turn) for turn in range(0, 4, 1 if piece.shape[0] == piece.shape[1] else 2)]
    images = [np.ascontiguousarray(flip) for one in turned for flip in (one, one[:, ::-1])]
    return _keep_free([_trim(one, mask) for one in images] if count_touched_borders(piece) == 3 else images, mask)


def _trim(control: Mask, mask: Mask) -> Mask:
    """Replace the pixels of a control that are in the mask by as many free pixels nearest to it, if they are few."""
    rest = control & ~mask
    missing = int(control.sum() - rest.sum())
    if not 0 < missing <= _MAX_TRIMMED * control.sum():
        return control
    distance = np.where(mask | rest, np.inf, distance_transform_edt(~rest))
    nearest = np.argsort(distance.ravel(), kind="stable")[:missing]
    if np.isinf(distance.ravel()[nearest]).any():
        return control
    rest.ravel()[nearest] = True
    return rest


def _move(piece: Mask, top: int, left: int) -> Mask:
    """Move a piece so that its bounding box begins at row `top` and column `left`."""
    first, last, near, far = extent_of(piece)
    moved = np.zeros_like(piece)
    moved[top : top + last - first, left : left + far - near] = piece[first:last, near:far]
    return moved


def _slide(piece: Mask, mask: Mask) -> list[Mask]:
    """Move a piece along the nearest border, in steps of a quarter of its length, to free places.

    In a corner, that is any border which is about as near. The piece comes no nearer to the other borders than it is to
    this one.
    """
    (height, width), (first, last, near, far) = piece.shape, extent_of(piece)
    high, wide = last - first, far - near
    distances = first, height - last, near, width - far
    found: list[Mask] = []
    for side, distance in enumerate(distances):
        if distance > min(distances) + min(height, width) * _GAP:
            continue
        along, size, length = (True, width, wide) if side < 2 else (False, height, high)
        starts = range(distance, size - length - distance + 1, max(1, length // 4, round(size * _GAP)))
        found += [_move(piece, first, start) if along else _move(piece, start, near) for start in starts]
    return _keep_free(found, mask)


def _shift_randomly(piece: Mask, taken: NDArray[np.bool_], generator: np.random.Generator) -> Mask | None:
    """Move a piece to a random place that is not taken; None if there is none among `_RANDOM_TRIES`."""
    first, last, near, far = extent_of(piece)
    part = piece[first:last, near:far]
    rows, columns = piece.shape[0] - (last - first) + 1, piece.shape[1] - (far - near) + 1
    for _ in range(_RANDOM_TRIES):
        top, left = int(generator.integers(rows)), int(generator.integers(columns))
        if not (taken[top : top + part.shape[0], left : left + part.shape[1]] & part).any():
            return _move(piece, top, left)
    return None


def _interleave(mask: Mask, count: int, key: str) -> list[Mask]:
    """Shift a mask cyclically to at most `count` places with little overlap with the mask and with each other.

    The autocorrelation of the mask gives its overlap with each shifted mask. Shifts with less overlap are used first.
    """
    spectrum = np.fft.rfft2(mask)
    overlap = np.rint(np.fft.irfft2(np.abs(spectrum) ** 2, s=mask.shape)).astype(np.int64)
    ties = _generator(f"{key}\x1finterleave").random(mask.shape)
    order = np.lexsort((ties.ravel(), overlap.ravel()))
    different, free = overlap <= _MAX_COMMON * mask.sum(), overlap <= _MAX_OVERLAP * mask.sum()
    found: list[Mask] = []
    while len(found) < count and free.any():
        place = order[free.ravel()[order]][0]
        shift = (int(place) // mask.shape[1], int(place) % mask.shape[1])
        found.append(np.roll(mask, shift, (0, 1)) & ~mask)
        free &= np.roll(different, shift, (0, 1))
    return found


def _rings(mask: Mask, count: int) -> list[Mask]:
    """Return at most `count` rings inside a frame, each with the same number of pixels as the frame.

    The first ring is adjacent to the frame, and each further ring is a little further inside. Rings may overlap each
    other. The innermost line of a ring may be incomplete, so that the areas are equal.
    """
    rows, columns = np.indices(mask.shape)
    height, width = mask.shape
    depth = np.minimum.reduce([rows, columns, height - 1 - rows, width - 1 - columns])
    depth[mask] = -1
    levels = np.unique(depth[~mask])
    middle = mask[:, width // 2]
    thickness = height if middle.all() else int(np.argmin(middle))
    found = []
    for start in levels[:: max(1, thickness // 2)][:count]:
        inside = np.flatnonzero((depth >= start).ravel())
        nearest = inside[np.argsort(depth.ravel()[inside], kind="stable")][: int(mask.sum())]
        if len(nearest) < mask.sum():
            break
        ring = np.zeros(mask.size, dtype=np.bool_)
        ring[nearest] = True
        found.append(ring.reshape(mask.shape))
    return found
