"""What every decoder of images shares: what a picture may cost, and how wide values become 8 bits."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpora.errors import ImageError
from corpora.records import Limits, Reason

# libjpeg-turbo's own advice against few bytes that ask for hours of progressive scans; real files have ten.
_MAX_JPEG_SCANS = 500
_MARKER = np.dtype("<u2")
_START_OF_SCAN = 0xDAFF  # as its two bytes read


def check_shape(size: tuple[int, int], limits: Limits) -> None:
    """Hold a width and a height, as a header announces them, to the limits. Raises ImageError."""
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"The header announces {width} x {height} pixels, expected at most {limits.max_pixels} in all: "
            "scale the image down.",
        )
    if max(size) > limits.max_aspect_ratio * min(size):
        raise ImageError(
            Reason.EXTREME_ASPECT,
            f"The image is {width} x {height}, expected a longer side of at most {limits.max_aspect_ratio} "
            "times the shorter: crop it, scaled for a model it would fill the memory.",
        )


def check_scans(data: bytes) -> None:
    """Refuse a JPEG that costs far more time than its size says. Raises ImageError."""
    if data.startswith(b"\xff\xd8") and (scans := _count_scans(data)) > _MAX_JPEG_SCANS:
        raise ImageError(
            Reason.TOO_MANY_SCANS,
            f"The JPEG has {scans} scans, expected at most {_MAX_JPEG_SCANS}: it costs far more time than "
            "its size says; save it again as a baseline JPEG.",
        )


def _count_scans(data: bytes) -> int:
    # data.count(b"\xff\xda"), in a fifth of its time: that of decoding is twelve times as much.
    pairs = (np.frombuffer(data, _MARKER, (len(data) - start) // 2, start) for start in (0, 1))
    return sum(int(np.count_nonzero(shifted == _START_OF_SCAN)) for shifted in pairs)


def damage(error: Exception, *, cut: bool = False) -> ImageError:
    """The reason for whatever a decoder raised. cut: the data are known to be shorter than they say."""
    said = ascii(f"{type(error).__name__}: {error}"[:200])
    if isinstance(error, (MemoryError, Image.DecompressionBombError)):
        return ImageError(
            Reason.TOO_MANY_PIXELS, f"The image needs more memory than it may have ({said}): scale it down."
        )
    if cut or isinstance(error, EOFError) or "truncated" in said.lower():
        return ImageError(
            Reason.TRUNCATED_IMAGE,
            f"The image data end too early ({said}): copy the file again from its source.",
        )
    return ImageError(
        Reason.CORRUPT_IMAGE, f"The image data cannot be decoded ({said}): restore the file from its source."
    )


def to_bytes(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Values (height, width, ...) as 8 bits, linear: `low` and less is 0, `high` and more is 255, rounded."""
    scaled = np.empty(values.shape, np.uint8)
    factor = 255 / (high - low)
    for row, line in enumerate(values):  # line by line: the doubles of a whole image are eight times its bytes
        scaled[row] = np.clip((line.astype(np.float64) - low) * factor, 0, 255) + 0.5
    return scaled


def stretched(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values (height, width) as 8 bits, linear: the image's own least value is 0, its greatest 255.

    That is what viewers do where nothing says otherwise. It keeps what can be seen in an image and drops absolute
    levels: two scans of unlike exposure look alike. An image of one value is black.

    Raises:
        ImageError: a value is NaN or infinite (unsupported_pixels).
    """
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        raise ImageError(
            Reason.UNSUPPORTED_PIXELS,
            f"The pixels reach from {low} to {high}, expected finite values: choose the intensity window yourself "
            "and save the image as 8 bits.",
        )
    return to_bytes(values, low, high) if high > low else np.zeros(values.shape, np.uint8)
