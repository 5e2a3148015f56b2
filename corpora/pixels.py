"""Functions shared by all image decoders: size checks, error translation and conversion to 8 bits."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpora.errors import ImageError
from corpora.records import Limits, Reason

# libjpeg-turbo recommends a limit, because a small file with many progressive scans can take hours to decode. Real
# images have about 10 scans.
_MAX_JPEG_SCANS = 500
_MARKER = np.dtype("<u2")
_START_OF_SCAN = 0xDAFF  # the bytes FF DA, read as little-endian


def check_shape(size: tuple[int, int], limits: Limits) -> None:
    """Check width and height of an image before it is decoded. Raises ImageError if `limits` are exceeded."""
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"The header announces {width} x {height} pixels (expected at most {limits.max_pixels} in total). "
            "Scale the image down.",
        )
    if max(size) > limits.max_aspect_ratio * min(size):
        raise ImageError(
            Reason.EXTREME_ASPECT,
            f"The image has {width} x {height} pixels (expected a longer side of at most {limits.max_aspect_ratio} "
            "times the shorter, because scaling it for a model would exhaust the memory). Crop it.",
        )


def check_scans(data: bytes) -> None:
    """Reject a JPEG with so many progressive scans that decoding it would take too long. Raises ImageError.

    Data of any other format are accepted.
    """
    if data.startswith(b"\xff\xd8") and (scans := _count_scans(data)) > _MAX_JPEG_SCANS:
        raise ImageError(
            Reason.TOO_MANY_SCANS,
            f"The JPEG has {scans} scans (expected at most {_MAX_JPEG_SCANS}, as each takes time). Save it again as a "
            "baseline JPEG.",
        )


def _count_scans(data: bytes) -> int:
    # Equals data.count(b"\xff\xda") and takes a fifth of its time, or a twelfth of the time of decoding.
    pairs = (np.frombuffer(data, _MARKER, (len(data) - start) // 2, start) for start in (0, 1))
    return sum(int(np.count_nonzero(shifted == _START_OF_SCAN)) for shifted in pairs)


def decoder_error(error: Exception, *, truncated: bool = False) -> ImageError:
    """Translate an exception of a decoder to an ImageError. `truncated` states that data are missing."""
    text = ascii(f"{type(error).__name__}: {error}"[:200])
    if isinstance(error, (MemoryError, Image.DecompressionBombError)):
        return ImageError(Reason.TOO_MANY_PIXELS, f"The image needs too much memory ({text}). Scale it down.")
    if truncated or isinstance(error, EOFError) or "truncated" in text.lower():
        return ImageError(
            Reason.TRUNCATED_IMAGE, f"The image data end too early ({text}). Copy the file again from its source."
        )
    return ImageError(
        Reason.CORRUPT_IMAGE, f"The image data cannot be decoded ({text}). Restore the file from its source."
    )


def to_bytes(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Scale values of shape (height, width, ...) linearly to 8 bits.

    Values of at most `low` become 0, and values of at least `high` become 255.
    """
    scaled = np.empty(values.shape, np.uint8)
    factor = 255 / (high - low)
    for row, source in enumerate(values):  # row by row, because a float64 copy of the image needs 8 bytes per value
        scaled[row] = np.clip((source.astype(np.float64) - low) * factor, 0, 255) + 0.5
    return scaled


def stretch(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale values of shape (height, width) linearly to 8 bits: the minimum becomes 0, the maximum 255.

    Viewers do the same if a file states no intensity window. Absolute levels are lost, so two scans of different
    exposure look alike. An image whose values are all equal becomes black.

    Raises:
        ImageError: A value is NaN or infinite (reason `unsupported_pixels`).
    """
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        raise ImageError(
            Reason.UNSUPPORTED_PIXELS,
            f"The pixels range from {low} to {high} (expected finite values). Choose the intensity window yourself "
            "and save the image as 8 bits.",
        )
    return to_bytes(values, low, high) if high > low else np.zeros(values.shape, np.uint8)
