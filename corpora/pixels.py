"""Checks and conversions that all image decoders share: sizes, JPEG scans, errors, and wide values as 8 bits."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpora.errors import ImageError
from corpora.records import Limits, Reason

# libjpeg-turbo recommends a limit against small files with many progressive scans, which take hours; real ones have 10.
_MAX_JPEG_SCANS = 500
_MARKER = np.dtype("<u2")
_START_OF_SCAN = 0xDAFF  # as the two bytes read


def check_shape(size: tuple[int, int], limits: Limits) -> None:
    """Check a width and a height, as a header announces them. Raises ImageError above the limits."""
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"The header announces {width} x {height} pixels, expected at most {limits.max_pixels} in total: "
            "scale the image down.",
        )
    if max(size) > limits.max_aspect_ratio * min(size):
        raise ImageError(
            Reason.EXTREME_ASPECT,
            f"The image is {width} x {height}, expected a longer side of at most {limits.max_aspect_ratio} times the "
            "shorter, as scaling it for a model would exhaust the memory: crop it.",
        )


def check_scans(data: bytes) -> None:
    """Reject a JPEG that takes far more time to decode than its size suggests. Raises ImageError."""
    if data.startswith(b"\xff\xd8") and (scans := _count_scans(data)) > _MAX_JPEG_SCANS:
        raise ImageError(
            Reason.TOO_MANY_SCANS,
            f"The JPEG has {scans} scans, expected at most {_MAX_JPEG_SCANS}, as each takes time: save it again as a "
            "baseline JPEG.",
        )


def _count_scans(data: bytes) -> int:
    # data.count(b"\xff\xda") in a fifth of its time; decoding takes twelve times as long.
    pairs = (np.frombuffer(data, _MARKER, (len(data) - start) // 2, start) for start in (0, 1))
    return sum(int(np.count_nonzero(shifted == _START_OF_SCAN)) for shifted in pairs)


def decoder_error(error: Exception, *, truncated: bool = False) -> ImageError:
    """Translate an exception of a decoder into an ImageError.

    Args:
        error: The exception.
        truncated: Whether the data are known to be shorter than they announce.
    """
    text = ascii(f"{type(error).__name__}: {error}"[:200])
    if isinstance(error, (MemoryError, Image.DecompressionBombError)):
        return ImageError(Reason.TOO_MANY_PIXELS, f"The image needs too much memory ({text}): scale it down.")
    if truncated or isinstance(error, EOFError) or "truncated" in text.lower():
        return ImageError(
            Reason.TRUNCATED_IMAGE, f"The image data end too early ({text}): copy the file again from its source."
        )
    return ImageError(
        Reason.CORRUPT_IMAGE, f"The image data cannot be decoded ({text}): restore the file from its source."
    )


def to_bytes(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Scale values (height, width, ...) linearly to 8 bits: `low` and below become 0, `high` and above 255."""
    scaled = np.empty(values.shape, np.uint8)
    factor = 255 / (high - low)
    for row, source in enumerate(values):  # row by row: float64 of a whole image takes eight times its bytes
        scaled[row] = np.clip((source.astype(np.float64) - low) * factor, 0, 255) + 0.5
    return scaled


def stretch(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale values (height, width) linearly to 8 bits, from their least value (0) to their greatest (255).

    Viewers do the same where a file states no window. Absolute levels are lost: two scans of different exposure look
    alike. An image of one value becomes black.

    Raises:
        ImageError: A value is NaN or infinite (unsupported_pixels).
    """
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        raise ImageError(
            Reason.UNSUPPORTED_PIXELS,
            f"The pixels range from {low} to {high}, expected finite values: choose the intensity window yourself "
            "and save the image as 8 bits.",
        )
    return to_bytes(values, low, high) if high > low else np.zeros(values.shape, np.uint8)
