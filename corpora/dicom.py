"""Rendering of DICOM files: the first frame as the 8-bit RGB image that a viewer shows.

This module needs pydicom, which the extra `dicom` installs. The steps are modality LUT or rescale, VOI LUT or window
(the first of several), and photometric interpretation (DICOM PS3.3 C.7.6.3, C.11.1 and C.11.2). Gray values without a
usable window stay unchanged if they have 8 bits. Otherwise they are scaled from their minimum to their maximum
(`corpora.pixels.stretch`). Overlays, ICC profiles, padding values and the lookup tables of enhanced multi-frame files
are not applied. Only the data elements listed in `_TAGS` are read, so the only patient data that can leave the file is
text burnt into its pixels.
"""

import io
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpora.errors import ImageError
from corpora.pixels import check_scans, check_shape, decoder_error, stretch, to_bytes
from corpora.records import Limits, Reason

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_COLORS = ("Red", "Green", "Blue")
_TAGS: list[Any] = [
    *_PIXELS, "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows",
    "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction",
    *(f"{color}PaletteColorLookupTable{part}" for color in _COLORS for part in ("Descriptor", "Data")),
]  # fmt: skip
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_RLE = "1.2.840.10008.1.2.5"
_JPEG_12_BIT = "1.2.840.10008.1.2.4.51"


def decode_dicom(data: bytes, limits: Limits) -> Image.Image:
    """Render the first frame of a DICOM file (PS3.10: a preamble of 128 bytes, then `DICM`) to RGB.

    Image sizes are checked before any pixel is decoded, both in the file header and in the header of a compressed
    frame. Damaged or hostile bytes raise no other exception than ImageError.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImageError(
            Reason.UNSUPPORTED_FORMAT,
            "The file is DICOM, which needs pydicom. Run pip install 'm2ib-audit[dicom]', or convert the file.",
        ) from error
    # pydicom would inflate a deflated file completely before any size can be checked. The transfer syntax itself is
    # never compressed, so its UID can be found in the bytes.
    if _DEFLATED in data:
        raise _unsupported_syntax("Deflated Explicit VR Little Endian")
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=_TAGS)
        return Image.fromarray(_render(dataset, limits)).convert("RGB")
    except ImageError:
        raise
    except Exception as error:  # damaged or hostile bytes can make pydicom raise anything
        raise decoder_error(error, truncated="less than" in str(error) or "End of file" in str(error)) from error


def _render(dataset: "Dataset", limits: Limits) -> NDArray[np.uint8]:
    """Return the first frame as 8-bit values of shape (height, width) or (height, width, 3)."""
    if not any(keyword in dataset for keyword in _PIXELS):
        raise ImageError(Reason.NOT_AN_IMAGE, "The DICOM file has no pixel data (expected an image). Drop the row.")
    check_shape((int(dataset.Columns), int(dataset.Rows)), limits)
    if min(dataset.Columns, dataset.Rows) < 1 or dataset.SamplesPerPixel not in {1, 3}:
        raise ImageError(
            Reason.CORRUPT_IMAGE,
            f"The DICOM header announces {dataset.Columns} x {dataset.Rows} pixels of {dataset.SamplesPerPixel} "
            "samples each (expected at least 1 x 1 pixels of 1 or 3 samples). Restore the file from its source.",
        )
    values, photometric = _first_frame(dataset, limits)
    if photometric == "RGB" and values.ndim == 3:
        return to_bytes(values, 0, _max_value(dataset.BitsStored))
    if photometric == "PALETTE COLOR" and values.ndim == 2 and "RedPaletteColorLookupTableData" in dataset:
        tables = [_look_up(values, dataset, f"{color}PaletteColorLookupTable") for color in _COLORS]
        return np.stack([to_bytes(channel, 0, _max_value(depth)) for channel, depth in tables], axis=-1)
    if photometric in {"MONOCHROME1", "MONOCHROME2"} and values.ndim == 2:
        gray = _apply_window(values, dataset)
        return 255 - gray if photometric == "MONOCHROME1" else gray
    raise ImageError(
        Reason.UNSUPPORTED_PIXELS,
        f"The DICOM pixels are {photometric[:40]!a} (expected MONOCHROME1, MONOCHROME2, RGB, YBR_FULL, YBR_FULL_422 "
        "or PALETTE COLOR with plain, not segmented, lookup tables). Convert the file, for example to RGB.",
    )


def _first_frame(dataset: "Dataset", limits: Limits) -> tuple[NDArray[Any], str]:
    """Return the stored values of the first frame and its photometric interpretation, such as `MONOCHROME2` or `RGB`.

    The values have the shape (rows, columns) or (rows, columns, 3).
    """
    from pydicom.encaps import encapsulate, get_frame
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:  # pydicom has no decoder for the syntax
        raise _unsupported_syntax(syntax.name) from error
    wide_jpeg = syntax == _JPEG_12_BIT and dataset.BitsStored != 8
    if not decoder.is_available or wide_jpeg:
        raise _unsupported_syntax(syntax.name)
    if syntax not in _NATIVE:
        frames = max(int(dataset.get("NumberOfFrames") or 1), 1)
        offsets = tuple(dataset.get(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"))
        table = offsets if None not in offsets else None
        frame = get_frame(dataset.PixelData, 0, number_of_frames=frames, extended_offsets=table)
        _check_frame(frame, dataset, str(syntax), limits)
        # Decode exactly the frame that was checked, whatever the offset tables of the file say.
        dataset.PixelData, dataset.NumberOfFrames = encapsulate([frame], has_bot=False), 1
        dataset["PixelData"].is_undefined_length = True
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            dataset.pop(keyword, None)
    values, facts = decoder.as_array(dataset, index=0)
    return values, str(facts["photometric_interpretation"])


def _check_frame(frame: bytes, dataset: "Dataset", syntax: str, limits: Limits) -> None:
    """Check the size in the header of a compressed frame before it is decoded. Raises ImageError."""
    size = (int(dataset.Columns), int(dataset.Rows))
    if syntax == _RLE:
        _check_runs(frame, size[0] * size[1])
        return
    check_scans(frame)
    with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
        frame_size = image.size
    check_shape(frame_size, limits)
    if frame_size != size:
        raise ImageError(
            Reason.CORRUPT_IMAGE,
            f"The DICOM header announces {size[0]} x {size[1]} pixels, but the header of its compressed frame "
            f"announces {frame_size[0]} x {frame_size[1]} (expected the same size). Restore the file from its source.",
        )


def _check_runs(frame: bytes, pixels: int) -> None:
    """Check that no segment of a run-length encoded frame unpacks to more than `pixels` bytes, without unpacking it.

    A segment can unpack to 64 times its size (DICOM PS3.5, annex G). Raises ImageError.
    """
    words = np.frombuffer(frame[:64], "<u4").tolist()
    starts = [*words[1 : 1 + min(words[0], 15)], len(frame)]
    for start, end in pairwise(starts):
        at, unpacked = start, 0
        while at < min(end, len(frame)):
            code = frame[at]
            unpacked += code + 1 if code < 128 else 257 - code if code > 128 else 0
            at += code + 2 if code < 128 else 2 if code > 128 else 1
            if unpacked > pixels + 256:  # some writers pad
                raise ImageError(
                    Reason.CORRUPT_IMAGE,
                    f"A run-length encoded plane unpacks to more than the {pixels} bytes that the DICOM header "
                    "announces. Restore the file from its source.",
                )


def _apply_window(values: NDArray[Any], dataset: "Dataset") -> NDArray[np.uint8]:
    """Convert gray values to 8 bits by the modality and VOI transformations, but do not invert MONOCHROME1."""
    depth = int(dataset.BitsStored) if "BitsStored" in dataset and values.dtype.kind == "u" else 0
    if dataset.get("ModalityLUTSequence"):
        values, depth = _look_up(values, dataset.ModalityLUTSequence[0], "LUT")
    elif None not in (rescale := (dataset.get("RescaleSlope"), dataset.get("RescaleIntercept"))):
        slope, intercept = map(float, rescale)
        if (slope, intercept) != (1, 0):
            values, depth = values.astype(np.float64) * slope + intercept, 0
    if dataset.get("VOILUTSequence"):
        values, depth = _look_up(values, dataset.VOILUTSequence[0], "LUT")
        return to_bytes(values, 0, _max_value(depth))
    if window := _window(dataset):
        return _scale_by_window(values, *window)
    return to_bytes(values, 0, 255) if depth == 8 else stretch(values)


def _window(dataset: "Dataset") -> tuple[float, float, str] | None:
    """Return center, width and function of the first window, or None if it is missing or invalid (PS3.3 C.11.2.1)."""
    first = [
        np.atleast_1d(value)[0] for key in ("WindowCenter", "WindowWidth") if (value := dataset.get(key)) is not None
    ]
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if len(first) < 2 or function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        return None
    center, width = float(first[0]), float(first[1])
    least = 1 if function == "LINEAR" else math.ulp(0)
    return (center, width, function) if math.isfinite(center + width) and width >= least else None


def _scale_by_window(values: NDArray[Any], center: float, width: float, function: str) -> NDArray[np.uint8]:
    """Convert gray values to 8 bits by a window with a VOI LUT function (DICOM PS3.3 C.11.2.1)."""
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return to_bytes(1 / (1 + np.exp(-4 * (values.astype(np.float64) - center) / width)), 0, 1)
    if function == "LINEAR":  # between the centers of the values, not their edges
        center, width = center - 0.5, width - 1
    low = center - width / 2
    return to_bytes(values, low, low + width) if width else np.where(values > low, 255, 0).astype(np.uint8)


def _look_up(values: NDArray[Any], item: "Dataset", name: str) -> tuple[NDArray[Any], int]:
    """Map values through a lookup table (DICOM PS3.3 C.11.1.1). Return them and the number of bits of a table entry.

    Values below the first or above the last entry are clipped to it. The lookup of pydicom is not used, because its
    indices have the type of the entries, so that 12-bit values wrap around in 8-bit tables.

    Args:
        values: Stored values.
        item: Dataset that contains the table.
        name: Beginning of the names of the table's data elements, such as "LUT" for `LUTDescriptor` and `LUTData`.
    """
    entries, first, depth = map(int, item[f"{name}Descriptor"].value)
    entries, data = entries or 2**16, item[f"{name}Data"].value
    little_endian = item.original_encoding[1] is not False
    if isinstance(data, bytes):
        wide = len(data) >= 2 * entries
        table: NDArray[Any] = np.frombuffer(data, ("<u2" if little_endian else ">u2") if wide else np.uint8)[:entries]
    else:
        table = np.atleast_1d(np.asarray(data, np.uint16))[:entries]
    if len(table) < entries:
        raise ValueError(f"a lookup table has {len(table)} entries, but its descriptor announces {entries}")
    index = np.clip(values.astype(np.float64) - first, 0, entries - 1)
    return table[index.astype(np.intp)], depth


def _max_value(bits: int) -> int:
    """Return the largest unsigned integer of this many bits."""
    if not 1 <= bits <= 32:
        raise ValueError(f"values have {bits} bits, expected 1 to 32")
    return int(2**bits - 1)


def _unsupported_syntax(syntax: str) -> ImageError:
    return ImageError(
        Reason.UNSUPPORTED_FORMAT,
        f"The transfer syntax of the DICOM file is {syntax[:80]!a}, for which no decoder with size checks is "
        "installed. Decompress the file (for instance `gdcmconv --raw` or `dcmdjpeg`) and audit the result.",
    )
