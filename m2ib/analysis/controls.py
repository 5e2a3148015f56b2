"""Control regions: masks of the same area as a region, elsewhere in the image."""

import hashlib

import numpy as np

from m2ib.analysis.masks import Mask, count_touched_borders, extent_of, is_frame

# Shares of its pixels that a control of a spread pattern may have in common with it (and loses), and with another one.
_MAX_OVERLAP, _MAX_COMMON = 0.1, 0.5
_RANDOM_TRIES = 200


def make_control_masks(mask: Mask, count: int, key: str) -> list[Mask]:
    """Make regions with the same number of pixels, none of which touches a pixel of the region.

    Besides its content, what makes a place matter is its distance from the border. Controls keep that where possible:

    - A region at one to three borders is mirrored and, in a square image, rotated; a corner becomes the other corners.
      One at a single border also slides along it.
    - A frame becomes rings further inside.
    - An island, or a strip with only one mirror image, is shifted at random.
    - A pattern that covers the image leaves no free place. Its copies are shifted cyclically to where they overlap it
      least, by a tenth of its pixels at most, and lose these.

    Args:
        mask: (height, width) of the region.
        count: Number of controls at most.
        key: Decides which controls are taken where there are more than `count`.

    Returns:
        The controls, each once; none for a region too large to leave room.
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
    """Keep the controls that touch no pixel of the region, each once."""
    return list({control.tobytes(): control for control in controls if not (control & mask).any()}.values())


def _generator(key: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]))


def _symmetries(mask: Mask) -> list[Mask]:
    """Return the mask under the symmetries of the image: flips and, in a square, quarter turns."""
    turned = [np.rot90(mask, turn) for turn in range(0, 4, 1 if mask.shape[0] == mask.shape[1] else 2)]
    return [np.ascontiguousarray(flip) for one in turned for flip in (one, one[:, ::-1])]


def _move(mask: Mask, top: int, left: int) -> Mask:
    """Move the region so that its extent begins at another row and column."""
    first, last, near, far = extent_of(mask)
    moved = np.zeros_like(mask)
    moved[top : top + last - first, left : left + far - near] = mask[first:last, near:far]
    return moved


def _slide(mask: Mask) -> list[Mask]:
    """Move the region along the one border that it touches, in steps of a quarter of its length."""
    first, last, near, far = extent_of(mask)
    along = first == 0 or last == mask.shape[0]
    size, length = (mask.shape[1], far - near) if along else (mask.shape[0], last - first)
    starts = range(0, size - length + 1, max(1, length // 4))
    return [_move(mask, first, start) if along else _move(mask, start, near) for start in starts]


def _shift_randomly(mask: Mask, key: str, count: int) -> list[Mask]:
    """Move the region to random places that it leaves free; few tries find them, or there is no room."""
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
    """Shift a spread pattern cyclically to where it overlaps itself least, then to the next place unlike those before.

    The autocorrelation of the pattern gives the overlap of each shift. A step across its strokes may be enough to
    differ, a step along them may not, and a step that repeats the pattern never is.
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
    """Return rings with the frame's number of pixels: the first just inside it, each other a little further in.

    They overlap one another, not the frame. The innermost line of a ring may be incomplete, so that areas are equal.
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
