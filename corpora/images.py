"""Decoding of untrusted image files to RGB pixels. A file that cannot be used raises `ImageError`."""

import hashlib
import io
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.ImageFile
from PIL import Image, ImageOps, UnidentifiedImageError

from corpora import roots
from corpora.dicom import decode_dicom
from corpora.errors import ImageError
from corpora.pixels import check_scans, check_shape, decoder_error, stretch
from corpora.records import DEFAULT_LIMITS, Limits, Reason

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = (".bmp", ".dcm", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of file names by which readers recognize image files."""

# After loading, an image of these formats holds no reference to its decoder or file.
_WITHOUT_DECODER = frozenset({"JPEG", "PNG", "BMP"})

# Pillow modes with 8 bits per channel. Pillow reduces color images of 16 bits per channel to their high bytes.
_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
# Pillow modes with one channel of more than 8 bits (CT, depth, microscopy). convert("RGB") would clip it to white, so
# `stretch` renders it.
_WIDE_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})

_PHOTOMETRIC = 262  # the TIFF tag

_DECODERS = r"(PIL|pydicom)\."
_QUIET = ("ignore", None, Warning, re.compile(_DECODERS), 0)

# (offset, bytes, name). Signatures distinguish a damaged image from a file of a different type. The signature of BMP,
# "BM", is too short for that.
_SUPPORTED_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"GIF8", "GIF"),
)
_OTHER_SIGNATURES = (
    (4, b"ftyp", "HEIF or AVIF"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xffO\xffQ", "JPEG 2000"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x00\x00\x01\x00", "icon"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "SVG or other XML"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"P5", "PGM"),
    (0, b"P6", "PPM"),
)
# Beginning of a web page, which many web servers send in place of a missing image.
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.{0,400}?-->\s*)?<(?:!doctype\s+html|html|head|body|title|script|meta)\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A decoded image with the digest of its file.

    Attributes:
        sha256: sha256 (hex) of the bytes of the file.
        width: Width of the decoded image in pixels.
        height: Height of the decoded image in pixels.
        pixels: The decoded image, RGB.
    """

    sha256: str
    width: int
    height: int
    pixels: Image.Image


def read_image(path: roots.Root, limits: Limits = DEFAULT_LIMITS) -> ImageFile:
    """Read, hash and decode an image file.

    Args:
        path: Path of the file. The caller must check that it is inside of the corpus; see `corpora.resolve_inside`.
        limits: Upper limits for the file and its pixels.

    Raises:
        ImageError: The file is missing, not a regular file, unreadable, empty or too large, or `decode` rejects it. A
            path that is not a regular file, such as a pipe, is never opened.
        RuntimeError: See `decode`.
    """
    return open_image(read_bytes(path, limits), limits)


def open_image(data: bytes, limits: Limits = DEFAULT_LIMITS, draft: tuple[int, int] | None = None) -> ImageFile:
    """Hash and decode the bytes of an image file.

    Args:
        data: All bytes of the file.
        limits: Upper limits for the file and its pixels.
        draft: See `decode`.

    Raises:
        ImageError: See `decode`.
        RuntimeError: See `decode`.
    """
    sha256 = hashlib.sha256(data).hexdigest()  # before decoding, which evicts the bytes from the CPU cache
    pixels = decode(data, limits, draft)
    return ImageFile(sha256, pixels.width, pixels.height, pixels)


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS, draft: tuple[int, int] | None = None) -> Image.Image:
    """Decode the first frame of an image to RGB, as `Image.open(...).convert("RGB")` does.

    The preprocessing of CLIP-like models converts images in the same way. Palettes, alpha, CMYK and 1-bit images are
    converted by Pillow, and EXIF orientation is not applied, so the audit uses the pixels that the model receives.
    (Pillow applies the orientation of TIFF files when it loads them.) Damage that does not affect pixels, such as a
    broken EXIF block, is accepted. A truncated file is rejected, except for a truncated JPEG with an end marker, which
    libjpeg accepts as complete.

    Two kinds of images are converted differently, because `convert` would lose their content. An image of one channel
    with 16 or 32 bits, integer or float, is scaled from its minimum to its maximum (`corpora.pixels.stretch`), and a
    white-is-zero TIFF is inverted. DICOM is rendered by `corpora.dicom`.

    The format is detected from the content of the file, never from its name. If the file is also a valid archive or
    web page, only the image is read.

    Args:
        data: All bytes of the file.
        limits: Upper limits for the file and its pixels.
        draft: Width and height that suffice, for a thumbnail. A larger JPEG is decoded at half, a quarter or an eighth
            of its size, up to eight times faster. By default the pixels are those that a model receives.

    Raises:
        ImageError: The image is rejected. Damaged or hostile bytes raise no other exception.
        RuntimeError: `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is on.
    """
    if PIL.ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, expected off: Pillow would pad truncated images with gray, and "
            "the audit would accept them. Find the code that switches it on, and switch it off."
        )
    _check_size(len(data), limits)
    check_scans(data)
    _silence_decoders()
    # A TIFF, or a JPEG with a comment, may also contain "DICM" at byte 128, so their signatures take precedence.
    if data.startswith(b"DICM", 128) and _match(data, _SUPPORTED_SIGNATURES) is None:
        return decode_dicom(data, limits)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # Only the header has been read so far; no pixel has been decoded.
            check_shape(image.size, limits)
            if image.mode not in _MODES and image.mode not in _WIDE_MODES:
                raise ImageError(  # noqa: TRY301  # not translated below
                    Reason.UNSUPPORTED_PIXELS,
                    f"The {image.format} has pixels of mode {image.mode!r} (expected gray or color). Save it as RGB.",
                )
            # In one piece: Pillow would copy and decode 64 KiB at a time, and take the interpreter's lock for each.
            image.decodermaxblock = max(image.decodermaxblock, len(data))
            if draft is not None:
                image.draft(None, draft)
            image.load()
            if image.mode in _WIDE_MODES:
                return _render_wide(image)
            # Converting RGB to RGB would copy the pixels. The copy exceeds what the allocator reuses per thread, so
            # that the operating system would map its memory again for each image.
            return image if image.mode == "RGB" and image.format in _WITHOUT_DECODER else image.convert("RGB")
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise _unidentified_image_error(data) from error
    except Exception as error:  # damaged or hostile bytes can make the plugins raise anything
        # The header of a WebP file states its length, but the WebP decoder accepts a shorter file.
        is_cut_webp = data.startswith(b"RIFF") and len(data) < int.from_bytes(data[4:8], "little") + 8
        raise decoder_error(error, truncated=is_cut_webp) from error


def _unidentified_image_error(data: bytes) -> ImageError:
    """Return the error for bytes in which Pillow finds no supported format."""
    expected = f"expected one of {', '.join(FORMATS)}"
    if _HTML.match(data[:1024]):
        return ImageError(
            Reason.NOT_AN_IMAGE,
            f"The file is HTML, a web page instead of the image ({expected}). Download it again, or drop the row.",
        )
    if name := _match(data, _OTHER_SIGNATURES):
        return ImageError(Reason.UNSUPPORTED_FORMAT, f"The file is {name} ({expected}). Convert it.")
    if name := _match(data, _SUPPORTED_SIGNATURES):
        return ImageError(
            Reason.CORRUPT_IMAGE,
            f"The file starts like a {name} file, but its header cannot be read. Restore it from its source.",
        )
    return ImageError(Reason.NOT_AN_IMAGE, f"The file starts with {data[:8]!r} ({expected}). Replace it.")


def _render_wide(image: PIL.ImageFile.ImageFile) -> Image.Image:
    gray = Image.fromarray(stretch(np.asarray(image)))
    # Pillow inverts white-is-zero TIFF of up to 8 bits only.
    white_is_zero = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    return (ImageOps.invert(gray) if white_is_zero else gray).convert("RGB")


def _check_size(size: int, limits: Limits) -> None:
    if size == 0:
        raise ImageError(
            Reason.EMPTY_FILE, "The image file has 0 bytes (expected an image). Restore the file, or drop the row."
        )
    if size > limits.max_file_bytes:
        raise ImageError(
            Reason.FILE_TOO_LARGE,
            f"The image file has {size} bytes (expected at most {limits.max_file_bytes}). Scale it down.",
        )


def _match(data: bytes, signatures: tuple[tuple[int, bytes, str], ...]) -> str | None:
    return next((name for offset, signature, name in signatures if data.startswith(signature, offset)), None)


def _silence_decoders() -> None:
    # Pillow and pydicom warn about odd metadata, palettes with alpha and large sizes. These problems either fail
    # later, are checked in this module, or change no pixel. The filter is permanent, because catch_warnings replaces
    # the filter list of the whole process, which is not safe when several threads decode.
    if warnings.filters[:1] != [_QUIET]:
        warnings.filterwarnings("ignore", module=_DECODERS)


def read_bytes(path: roots.Root, limits: Limits) -> bytes:
    """Read a regular file of at most `limits.max_file_bytes`. The caller must check that it is inside of the corpus.

    Raises ImageError if the file cannot be used. A path that is not a regular file, such as a pipe, is never opened.
    """
    try:
        size = roots.check_file(path)  # before opening, because opening a device has side effects
        if size is not None:
            _check_size(size, limits)
        if not isinstance(path, Path):
            return roots.read_at_most(path, (limits.max_file_bytes if size is None else size) + 1)
        # If a pipe replaces the file now, O_NONBLOCK lets os.open return, and the second check fails.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            size = roots.check_file(file.fileno()) or 0
            _check_size(size, limits)
            return file.read(size + 1)  # one byte more than the size, so that `decode` detects a growing file
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        problem = roots.row_error(error)
        raise ImageError(problem.reason, f"The file {problem.detail}") from error
