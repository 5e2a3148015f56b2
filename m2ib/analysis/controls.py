"""Make control regions: masks with the same area as a region of an image, at different places in the image."""

import hashlib

import numpy as np

from m2ib.analysis.masks import Mask, count_touched_borders, extent_of, is_frame

# Limits for the controls of a pattern that is spread over the image, as shares of its pixels: the overlap with the
# pattern, which is removed from the control, and the overlap with another control.
_MAX_OVERLAP, _MAX_COMMON = 0.1, 0.5
_RANDOM_TRIES = 200


def make_control_masks(mask: Mask, count: int, key: str) -> list[Mask]:
    """Make control regions with the same number of pixels as a region and without any of its pixels.

    The importance of a place depends on its content and on its distance from the border. Where possible, controls have
    the same distance from the border as the region:

    - A region that touches one to three borders is mirrored and, in a square image, rotated. A corner becomes the other
      corners. A region at a single border is also moved along this border.
    - A frame becomes rings further inside.
    - A region that touches no border, or has only one mirror image, is moved to random places.
    - A pattern that is spread over the whole image is shifted cyclically to where it overlaps itself least, by at most
      a tenth of its pixels. The overlap is removed from the control, which makes it smaller.

    At most `count` distinct masks are returned, and none if the region leaves no place for a control. `key` is the seed
    of the random choices.
    """
    if not mask.any() or mask.all() or count < 1:
        return []
    touched = count_touched_borders(mask)
    if is_frame(mask):
        return _rings(mask, count)
    if touched == 4:
        return _interleave(mask, count, key)
    found = _keep_disjoint(_symmetries(mask) + (_slide(mask) if touched == 1 else []), mask) if touched else []
    usable = found if len(found) > 1 else _keep_disjoint(found + _shift_randomly(mask, key, count), mask)
    if len(usable) <= count:
        return usable
    chosen = _generator(key).choice(len(usable), size=count, replace=False)
    return [usable[index] for index in sorted(chosen)]


def _keep_disjoint(controls: list[Mask], mask: Mask) -> list[Mask]:
    """Return the distinct controls that have no pixel in common with the mask."""
    return list({control.tobytes(): control for control in controls if not (control & mask).any()}.values())


def _generator(key: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]))


def _symmetries(mask: Mask) -> list[Mask]:
    """Return a mask's mirror images and its rotations by half turns, or by quarter turns if the image is square."""
    turned = [np.rot90(mask, turn) for turn in range(0, 4, 1 if mask.shape[0] == mask.shape[1] else 2)]
    return [np.ascontiguousarray(flip) for one in turned for flip in (one, one[:, ::-1])]


def _move(mask: Mask, top: int, left: int) -> Mask:
    """Move a region so that its bounding box begins at row `top` and column `left`."""
    first, last, near, far = extent_of(mask)
    moved = np.zeros_like(mask)
    moved[top : top + last - first, left : left + far - near] = mask[first:last, near:far]
    return moved


def _slide(mask: Mask) -> list[Mask]:
    """Move a region along the single border that it touches, in steps of a quarter of its length."""
    first, last, near, far = extent_of(mask)
    along = first == 0 or last == mask.shape[0]
    size, length = (mask.shape[1], far - near) if along else (mask.shape[0], last - first)
    starts = range(0, size - length + 1, max(1, length // 4))
    return [_move(mask, first, start) if along else _move(mask, start, near) for start in starts]


def _shift_randomly(mask: Mask, key: str, count: int) -> list[Mask]:
    """Move a region to at most `count` random places that do not overlap it. Stop after `_RANDOM_TRIES` tries."""
    first, last, near, far = extent_of(mask)
    generator = _generator(f"{key}\x1fshift")
    found: list[Mask] = []
    rows, columns = mask.shape[0] - (last - first) + 1, mask.shape[1] - (far - near) + 1
    for _ in range(_RANDOM_TRIES):
        moved = _move(mask, int(generator.integers(rows)), int(generator.integers(columns)))
        if not (moved & mask).any():
            found.append(moved)
        if len(found) == count:
            break
    return found


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
