"""DICOM, with the extra `dicom` (pydicom): the first frame of a file as the 8-bit RGB that a viewer shows.

Modality LUT or rescale, then VOI LUT or window (the first, where there are several), then the photometric
interpretation, by PS3.3 C.7.6.3, C.11.1 and C.11.2. Grey values without a usable window are shown as they are where
they have 8 bits, else from least to greatest (`corpora.pixels.stretched`). Overlays, ICC profiles, padding values and
the lookup tables of enhanced multi-frame files are not applied. Only the elements below are read: nothing of the
patient's leaves the file, except what is burnt into its pixels.
"""

import io
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpora.errors import ImageError
from corpora.pixels import check_scans, check_shape, damage, stretched, to_bytes
from corpora.records import Limits, Reason

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_COLOURS = ("Red", "Green", "Blue")
_TAGS: list[Any] = [
    *_PIXELS, "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows",
    "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction",
    *(f"{colour}PaletteColorLookupTable{part}" for colour in _COLOURS for part in ("Descriptor", "Data")),
]  # fmt: skip
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_RLE = "1.2.840.10008.1.2.5"
_JPEG_12_BIT = "1.2.840.10008.1.2.4.51"
_DECOMPRESS = "decompress it (for instance `gdcmconv --raw` or `dcmdjpeg`) and audit the result."


def decode_dicom(data: bytes, limits: Limits) -> Image.Image:
    """Render the first frame of a DICOM file (PS3.10: preamble, then `DICM`) to RGB.

    Sizes are checked in the header, and those of a compressed frame in its own, before a pixel is decoded.

    Raises:
        ImageError: with the reason; nothing that the bytes can do raises anything else.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImageError(
            Reason.UNSUPPORTED_FORMAT,
            "The file is DICOM, which needs the extra `dicom`: `pip install 'm2ib-audit[dicom]'`, or convert it.",
        ) from error
    # pydicom inflates the whole of a deflated file before anything can be checked. Its syntax stands in the clear.
    if _DEFLATED in data:
        raise _unsupported("Deflated Explicit VR Little Endian")
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=_TAGS)
        return Image.fromarray(_shown(dataset, limits)).convert("RGB")
    except ImageError:
        raise
    except Exception as error:  # pydicom raises whatever hostile bytes lead it to
        raise damage(error, cut="less than" in str(error) or "End of file" in str(error)) from error


def _shown(dataset: "Dataset", limits: Limits) -> NDArray[np.uint8]:
    """The 8-bit image, (height, width) or (height, width, 3)."""
    if not any(keyword in dataset for keyword in _PIXELS):
        raise ImageError(Reason.NOT_AN_IMAGE, "The DICOM file holds no pixel data, expected an image: drop the row.")
    check_shape((int(dataset.Columns), int(dataset.Rows)), limits)
    if min(dataset.Columns, dataset.Rows) < 1 or dataset.SamplesPerPixel not in {1, 3}:
        raise ImageError(
            Reason.CORRUPT_IMAGE,
            f"The DICOM header announces {dataset.Columns} x {dataset.Rows} pixels of {dataset.SamplesPerPixel} "
            "samples, expected 1 or more of 1 or 3: restore the file from its source.",
        )
    values, meaning = _first_frame(dataset, limits)
    if meaning == "RGB" and values.ndim == 3:
        return to_bytes(values, 0, _greatest(dataset.BitsStored))
    if meaning == "PALETTE COLOR" and values.ndim == 2 and "RedPaletteColorLookupTableData" in dataset:
        return np.stack([_coloured(values, dataset, colour) for colour in _COLOURS], axis=-1)
    if meaning in {"MONOCHROME1", "MONOCHROME2"} and values.ndim == 2:
        grey = _windowed(values, dataset)
        return 255 - grey if meaning == "MONOCHROME1" else grey
    raise ImageError(
        Reason.UNSUPPORTED_PIXELS,
        f"The DICOM pixels are {meaning[:40]!a}, expected MONOCHROME1, MONOCHROME2, RGB, YBR_FULL, YBR_FULL_422 "
        "or PALETTE COLOR with plain tables: convert it.",
    )


def _first_frame(dataset: "Dataset", limits: Limits) -> tuple[NDArray[Any], str]:
    """The values of the first frame, (rows, columns) or (rows, columns, 3), and what they mean."""
    from pydicom.encaps import encapsulate, get_frame
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:  # pydicom says so of a syntax that it has no decoder for
        raise _unsupported(syntax.name) from error
    wide_jpeg = syntax == _JPEG_12_BIT and dataset.BitsStored != 8
    if not decoder.is_available or wide_jpeg:
        raise _unsupported(syntax.name)
    if syntax not in _NATIVE:
        frames = max(int(dataset.get("NumberOfFrames") or 1), 1)
        offsets = tuple(dataset.get(keyword) for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"))
        known = offsets if None not in offsets else None
        frame = get_frame(dataset.PixelData, 0, number_of_frames=frames, extended_offsets=known)
        _check_frame(frame, dataset, str(syntax), limits)
        # What was checked is what is decoded, whatever the tables of the file say.
        dataset.PixelData, dataset.NumberOfFrames = encapsulate([frame], has_bot=False), 1
        dataset["PixelData"].is_undefined_length = True
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            dataset.pop(keyword, None)
    values, facts = decoder.as_array(dataset, index=0)
    return values, str(facts["photometric_interpretation"])


def _check_frame(frame: bytes, dataset: "Dataset", syntax: str, limits: Limits) -> None:
    size = (int(dataset.Columns), int(dataset.Rows))
    if syntax == _RLE:
        _check_runs(frame, size[0] * size[1])
        return
    check_scans(frame)
    with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
        own = image.size
    check_shape(own, limits)
    if own != size:
        raise ImageError(
            Reason.CORRUPT_IMAGE,
            f"The DICOM header announces {size[0]} x {size[1]} pixels, its compressed frame {own[0]} x {own[1]}, "
            "expected the same: restore the file from its source.",
        )


def _check_runs(frame: bytes, pixels: int) -> None:
    """Count, without unpacking, what each segment of an RLE frame (PS3.5 G) unpacks to: up to 64 times its size."""
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
                    "announces: restore the file from its source.",
                )


def _windowed(values: NDArray[Any], dataset: "Dataset") -> NDArray[np.uint8]:
    """Grey values as 8 bits through modality and VOI transformation, not yet inverted."""
    depth = int(dataset.BitsStored) if "BitsStored" in dataset and values.dtype.kind == "u" else 0
    if dataset.get("ModalityLUTSequence"):
        values, depth = _looked_up(values, *_table(dataset.ModalityLUTSequence[0]))
    elif None not in (rescale := (dataset.get("RescaleSlope"), dataset.get("RescaleIntercept"))):
        slope, intercept = map(float, rescale)
        if (slope, intercept) != (1, 0):
            values, depth = values.astype(np.float64) * slope + intercept, 0
    if dataset.get("VOILUTSequence"):
        values, depth = _looked_up(values, *_table(dataset.VOILUTSequence[0]))
        return to_bytes(values, 0, _greatest(depth))
    if window := _window(dataset):
        return _through(values, *window)
    return to_bytes(values, 0, 255) if depth == 8 else stretched(values)


def _window(dataset: "Dataset") -> tuple[float, float, str] | None:
    """Centre, width and function of the first window; None for none, or one that PS3.3 C.11.2.1 does not define."""
    first = [
        np.atleast_1d(value)[0] for key in ("WindowCenter", "WindowWidth") if (value := dataset.get(key)) is not None
    ]
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if len(first) < 2 or function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        return None
    centre, width = float(first[0]), float(first[1])
    least = 1 if function == "LINEAR" else math.ulp(0)
    return (centre, width, function) if math.isfinite(centre + width) and width >= least else None


def _through(values: NDArray[Any], centre: float, width: float, function: str) -> NDArray[np.uint8]:
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return to_bytes(1 / (1 + np.exp(-4 * (values.astype(np.float64) - centre) / width)), 0, 1)
    if function == "LINEAR":  # over the centres of the values, not over their edges
        centre, width = centre - 0.5, width - 1
    low = centre - width / 2
    return to_bytes(values, low, low + width) if width else np.where(values > low, 255, 0).astype(np.uint8)


def _coloured(values: NDArray[Any], dataset: "Dataset", colour: str) -> NDArray[np.uint8]:
    prefix = f"{colour}PaletteColorLookupTable"
    table = (dataset[f"{prefix}Descriptor"].value, dataset[f"{prefix}Data"].value, _is_little(dataset))
    looked_up, depth = _looked_up(values, *table)
    return to_bytes(looked_up, 0, _greatest(depth))


def _table(item: "Dataset") -> tuple[Any, Any, bool]:
    return item.LUTDescriptor, item.LUTData, _is_little(item)


def _is_little(dataset: "Dataset") -> bool:
    return dataset.original_encoding[1] is not False


def _looked_up(values: NDArray[Any], descriptor: Any, data: Any, little: bool) -> tuple[NDArray[Any], int]:
    """Values through a lookup table (PS3.3 C.11.1.1), and the bits of its entries.

    descriptor: entries (0: 65536), the value of the first, bits an entry. Values beyond either end take the entry
    there. pydicom's own look-up keeps indices in the type of the entries, which wraps 12 bits shown as 8.
    """
    entries, first, depth = int(descriptor[0]) or 2**16, int(descriptor[1]), int(descriptor[2])
    if isinstance(data, bytes):
        wide = len(data) >= 2 * entries
        table: NDArray[Any] = np.frombuffer(data, ("<u2" if little else ">u2") if wide else np.uint8)[:entries]
    else:
        table = np.atleast_1d(np.asarray(data, np.uint16))[:entries]
    if len(table) < entries:
        raise ValueError(f"a lookup table has {len(table)} entries, less than the {entries} of its descriptor")
    index = np.clip(values.astype(np.float64) - first, 0, entries - 1)
    return table[index.astype(np.intp)], depth


def _greatest(bits: int) -> int:
    if not 1 <= bits <= 32:
        raise ValueError(f"values have {bits} bits, expected 1 to 32")
    return int(2**bits - 1)


def _unsupported(syntax: str) -> ImageError:
    return ImageError(
        Reason.UNSUPPORTED_FORMAT,
        f"The DICOM's transfer syntax is {syntax[:80]!a}, which pydicom cannot decode here within bounds: "
        + _DECOMPRESS,
    )
