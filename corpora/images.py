"""The hygiene of images: from a file nobody vouches for to RGB pixels, or to an `ImageError`."""

import hashlib
import io
import os
import re
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.ImageFile
from PIL import Image, ImageOps, UnidentifiedImageError

from corpora import roots
from corpora.dicom import decode_dicom
from corpora.errors import ImageError
from corpora.pixels import check_scans, check_shape, damage, stretched
from corpora.records import DEFAULT_LIMITS, Limits, Reason

if TYPE_CHECKING:
    from upath import UPath

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

# Once loaded, an image of these keeps no decoder.
_SINGLE = frozenset({"JPEG", "PNG", "BMP"})

# 8 bits a channel; of 16-bit colour Pillow keeps the high bytes.
_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
# One wider channel (CT, depth, microscopy): convert("RGB") would clip it to white, so `stretched` renders it.
_WIDE_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})

_PHOTOMETRIC = 262  # the TIFF tag

_DECODERS = r"(PIL|pydicom)\."
_QUIET = ("ignore", None, Warning, re.compile(_DECODERS), 0)

# (offset, bytes, name): tells a damaged image from what never was one. BMP's "BM" is too short to tell.
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
# What a server sends in place of an image that is gone.
_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.{0,400}?-->\s*)?<(?:!doctype\s+html|html|head|body|title|script|meta)\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file read once: the sha256 of its bytes and, from the same bytes, the RGB pixels."""

    sha256: str
    width: int
    height: int
    pixels: Image.Image


def read_image(path: roots.Root, limits: Limits = DEFAULT_LIMITS) -> ImageFile:
    """Read, hash and fully decode an image file. Whether the path may be followed is for the caller to know.

    Raises:
        ImageError: the file is missing, not a regular file (it is then not opened), unreadable, empty or too
            large, or `decode` refuses it.
        RuntimeError: see `decode`.
    """
    return open_image(read_bytes(path, limits), limits)


def open_image(data: bytes, limits: Limits = DEFAULT_LIMITS) -> ImageFile:
    """Hash and fully decode the bytes of an image file; raises as `decode` does."""
    sha256 = hashlib.sha256(data).hexdigest()  # first: decoding drives the bytes out of the processor's cache
    pixels = decode(data, limits)
    return ImageFile(sha256, pixels.width, pixels.height, pixels)


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """Decode the first frame to RGB, fully loaded, as `Image.open(...).convert("RGB")` gives it.

    That is what the preprocessing of CLIP-like models does, so palettes, alpha, CMYK and 1-bit images are
    converted in the same way, and EXIF orientation is deliberately not applied: the audit must look at the
    pixels that the model sees. (Pillow itself turns TIFF files while it loads them, for the model and here.)
    Damage that leaves the pixels alone, such as a broken EXIF block, passes for the same reason. A file cut
    short is refused; only a JPEG that was cut and then closed with an end marker is whole to libjpeg.

    Two departures, where plain conversion shows nothing. One channel of 16 or 32 bits, integer or float, which it
    would clip to white, is rendered by its own range (`corpora.pixels.stretched`), white-is-zero TIFF inverted.
    DICOM is rendered as `corpora.dicom` says. Every stage reads through here, so all look at the same 8 bits.

    The beginning of a file decides what it is, never its name: of a file that is several things at once, an image
    and an archive or a page, only the image is read.

    Raises:
        ImageError: with the reason; nothing that the bytes can do raises anything else.
        RuntimeError: `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is on: truncated images would pass, padded grey.
    """
    if PIL.ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, expected off: Pillow would pad truncated images with "
            "grey and the audit would take them for whole. Find the code that switches it on, switch it off."
        )
    if not data:
        raise ImageError(Reason.EMPTY_FILE, "The image file has 0 bytes, expected an image: restore or drop it.")
    _check_bytes(len(data), limits)
    check_scans(data)
    _hush_decoder()
    # A TIFF, or a JPEG with a comment, may have these letters there: what it begins with goes first.
    if data.startswith(b"DICM", 128) and _named(data, _SUPPORTED_SIGNATURES) is None:
        return decode_dicom(data, limits)
    with _open(data) as image:
        # The header only: no pixel has been decoded so far.
        check_shape(image.size, limits)
        if image.mode not in _MODES | _WIDE_MODES:
            raise ImageError(
                Reason.UNSUPPORTED_PIXELS,
                f"The {image.format} has pixels of mode {image.mode!r}, expected grey or colour: save it as RGB.",
            )
        return _load(image, data)


def _open(data: bytes) -> PIL.ImageFile.ImageFile:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(
            Reason.TOO_MANY_PIXELS,
            f"The header announces more pixels than Pillow ever opens ({error}): scale the image down.",
        ) from error
    except UnidentifiedImageError as error:
        if _HTML.match(data[:1024]):
            raise ImageError(
                Reason.NOT_AN_IMAGE,
                f"The file is HTML, a web page in place of the image, expected one of {', '.join(FORMATS)}: "
                "download the image again, or drop the row.",
            ) from error
        if name := _named(data, _OTHER_SIGNATURES):
            raise ImageError(
                Reason.UNSUPPORTED_FORMAT,
                f"The file is {name}, expected one of {', '.join(FORMATS)}: convert it.",
            ) from error
        if name := _named(data, _SUPPORTED_SIGNATURES):
            raise ImageError(
                Reason.CORRUPT_IMAGE,
                f"The file starts like {name} but its header cannot be read: restore it from its source.",
            ) from error
        raise ImageError(
            Reason.NOT_AN_IMAGE,
            f"The file starts with {data[:8]!r}, expected one of {', '.join(FORMATS)}: replace it.",
        ) from error
    except Exception as error:  # the plugins raise whatever hostile bytes lead them to
        raise damage(error, cut=_is_cut(data)) from error


def _load(image: PIL.ImageFile.ImageFile, data: bytes) -> Image.Image:
    try:
        image.load()
        if image.mode in _WIDE_MODES:
            return _rendered(image)
        # Of what is RGB already, convert would make a copy: more memory than a thread's allocator keeps, so that the
        # system hands it over page by page, for each image anew.
        return image if image.mode == "RGB" and image.format in _SINGLE else image.convert("RGB")
    except ImageError:
        raise
    except Exception as error:  # as in _open
        raise damage(error, cut=_is_cut(data)) from error


def _is_cut(data: bytes) -> bool:
    # WebP says its length at the start; its decoder only says no.
    return data.startswith(b"RIFF") and len(data) < int.from_bytes(data[4:8], "little") + 8


def _rendered(image: PIL.ImageFile.ImageFile) -> Image.Image:
    grey = Image.fromarray(stretched(np.asarray(image)))
    # Pillow inverts white-is-zero TIFF up to 8 bits, and no wider one.
    white_is_zero = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    return (ImageOps.invert(grey) if white_is_zero else grey).convert("RGB")


def _check_bytes(size: int, limits: Limits) -> None:
    if size > limits.max_file_bytes:
        raise ImageError(
            Reason.FILE_TOO_LARGE,
            f"The image file has {size} bytes, expected at most {limits.max_file_bytes}: scale it down.",
        )


def _named(data: bytes, signatures: tuple[tuple[int, bytes, str], ...]) -> str | None:
    for offset, signature, name in signatures:
        if data.startswith(signature, offset):
            return name
    return None


def _hush_decoder() -> None:
    # What Pillow and pydicom warn about (odd metadata, palettes with alpha, sizes that it finds large) fails later, is
    # checked here or changes no pixel. A standing filter instead of catch_warnings, which swaps the filter
    # list of the whole process and would tear it when several threads decode.
    if warnings.filters[:1] != [_QUIET]:
        warnings.filterwarnings("ignore", module=_DECODERS)


def read_bytes(path: roots.Root, limits: Limits) -> bytes:
    """The bytes of a regular file within the limits. Whether the path may be followed is for the caller to know.

    Raises:
        ImageError: missing, not a regular file (it is then not opened), unreadable, too large, or out of reach.
    """
    try:
        return _read_local(path, limits) if isinstance(path, Path) else _read_remote(path, limits)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(
            Reason.MISSING_FILE, "There is no such file, expected an image: restore it or drop the row."
        ) from error
    except ConnectionError as error:
        raise ImageError(
            Reason.UNREACHABLE_FILE, f"The file's store does not answer ({error}): check the network, audit again."
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            Reason.UNREADABLE_FILE,
            f"The file cannot be read ({type(error).__name__}: {getattr(error, 'strerror', None) or error}): "
            "check its name, its permissions and the disk.",
        ) from error


def _read_local(path: Path, limits: Limits) -> bytes:
    # O_NONBLOCK: should a FIFO take the file's place between stat and open, the open returns and fstat tells.
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"):
        flags |= getattr(os, name, 0)
    _check_file(path.stat(), limits)  # before the open, which already has side effects on a device
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        _check_file(status, limits)
        return file.read(status.st_size + 1)  # one more: a file that grows is seen by decode's own check


def _read_remote(path: "UPath", limits: Limits) -> bytes:
    found = roots.info(path)
    if found["type"] != "file":
        raise ImageError(Reason.NOT_A_REGULAR_FILE, "The path is a folder, expected an image file: correct the name.")
    size = found["size"]
    if size is not None:  # a web server need not say
        _check_size(size, limits)
    return roots.read_at_most(path, (limits.max_file_bytes if size is None else size) + 1)


def _check_file(status: os.stat_result, limits: Limits) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        raise ImageError(
            Reason.NOT_A_REGULAR_FILE, f"The path is {kind}, expected an image file: correct the file name."
        )
    _check_size(status.st_size, limits)


def _check_size(size: int, limits: Limits) -> None:
    if size == 0:
        raise ImageError(Reason.EMPTY_FILE, "The image file has 0 bytes, expected an image: restore or drop it.")
    _check_bytes(size, limits)
