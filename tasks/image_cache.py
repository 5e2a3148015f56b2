"""Cache of prepared images, so that the stages after attribution do not fetch and decode an image again."""

import os
import tempfile
import threading
import weakref

import numpy as np
from numpy.typing import NDArray

Prepared = NDArray[np.uint8]
"""An image as the model's transform resizes it, before normalization: (height, width, 3)."""


class ImageCache:
    """Prepared images of one shape, by the sha256 of their files, in a temporary file of limited size.

    The file has no name, so it is gone when the process ends, however it ends, and when the cache is cleared. Images
    are kept in the order of their first use until the file is full; later ones are not kept.
    """

    def __init__(self, shape: tuple[int, ...], limit: int) -> None:
        self._shape, self._size = shape, int(np.prod(shape))
        self._slots = limit // self._size
        self._slot_of: dict[str, int] = {}
        self.misses = 0  # number of times that an image was not in the cache
        self._lock = threading.Lock()
        opened = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        weakref.finalize(self, opened.close)  # when no reader uses the cache any more
        self._file = opened.fileno()

    def read_into(self, target: Prepared, sha256: str) -> bool:
        """Copy the prepared image of a file into an array; return False if it is not in the cache."""
        slot = self._slot_of.get(sha256)
        if slot is None:
            with self._lock:
                self.misses += 1
            return False
        return os.preadv(self._file, [target.data.cast("B")], slot * self._size) == self._size

    def add(self, sha256: str, image: Prepared) -> None:
        """Keep the prepared image of a file, unless the cache or the disk is full."""
        with self._lock:
            if sha256 in self._slot_of or len(self._slot_of) >= self._slots:
                return
            slot = len(self._slot_of)
            try:
                written = os.pwrite(self._file, np.ascontiguousarray(image).data.cast("B"), slot * self._size)
            except OSError:
                written = 0
            if written == self._size:
                self._slot_of[sha256] = slot
            else:
                self._slots = slot  # the disk is full
