"""DICOM is rendered as viewers do (windows, inversion, colors), and hostile or unsupported files are rejected."""

import io
import random
import struct
import sys
import time
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from corpora import ImageError, Limits, Reason, decode

RAMP = np.arange(20 * 16, dtype=np.uint16).reshape(16, 20) * 12  # 0 to 3828
COLOR = np.arange(16 * 20 * 3, dtype=np.uint8).reshape(16, 20, 3)


def make_dicom(pixels=RAMP, syntax=ExplicitVRLittleEndian, encoded=None, **elements):
    """Make a DICOM file with one image; encoded: its compressed frame; elements: replaced values, None to leave out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.PatientName, dataset.SOPInstanceUID, dataset.SOPClassUID = "Doe^Jane", "1.2.3", CTImageStorage
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = 12 if pixels.dtype.itemsize == 2 else 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    dataset.PixelData = encapsulate([encoded]) if encoded else pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    file = io.BytesIO()
    dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def decode_gray(data):
    image = decode(data)
    assert image.mode == "RGB"
    channels = np.asarray(image)
    assert (channels == channels[..., :1]).all()
    return channels[..., 0]


def read_error(data, limits=None):
    with pytest.raises(ImageError) as caught:
        decode(data, limits or Limits())
    assert "Doe" not in caught.value.detail
    return caught.value


def make_lookup_table(entries, first, bits, data):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, first, bits])
    item.add_new("LUTData", "OW", data)
    return [item]


def test_without_a_window_wide_values_span_the_gray_scale_and_eight_bits_stay():
    assert np.array_equal(decode_gray(make_dicom()), np.floor(RAMP * (255 / 3828) + 0.5))
    eight = (RAMP // 24).astype(np.uint8)
    assert np.array_equal(decode_gray(make_dicom(eight)), eight)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_uncompressed_syntax_gives_the_same_pixels(syntax):
    assert np.array_equal(decode_gray(make_dicom(syntax=syntax)), decode_gray(make_dicom()))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": "2", "RescaleIntercept": "-1024"}])
def test_windows_are_those_of_pydicom(function, rescale):
    data = make_dicom(WindowCenter="500", WindowWidth="700", VOILUTFunction=function, **rescale)
    dataset = pydicom.dcmread(io.BytesIO(data))
    low, high = (0, 4095) if not rescale else (-1024, 2 * 4095 - 1024)
    expected = (apply_windowing(apply_modality_lut(RAMP, dataset), dataset) - low) / (high - low) * 255
    assert np.abs(decode_gray(data) - expected).max() <= 0.5 + 1e-6


def test_the_first_of_several_windows_counts():
    assert np.array_equal(
        decode_gray(make_dicom(WindowCenter=["100", "2000"], WindowWidth=["50", "4000"])),
        decode_gray(make_dicom(WindowCenter="100", WindowWidth="50")),
    )


@pytest.mark.parametrize("elements", [{"WindowWidth": "0"}, {"WindowWidth": "-3"}, {"VOILUTFunction": "CUBIC"}])
def test_a_window_that_the_standard_does_not_define_is_ignored(elements):
    assert np.array_equal(
        decode_gray(make_dicom(**{"WindowCenter": "100", "WindowWidth": "50"} | elements)), decode_gray(make_dicom())
    )


def test_a_window_of_one_value_is_a_threshold():
    assert set(np.unique(decode_gray(make_dicom(WindowCenter="1000", WindowWidth="1")))) == {0, 255}


def test_monochrome1_is_inverted_after_the_window():
    window = {"WindowCenter": "500", "WindowWidth": "700"}
    inverted = decode_gray(make_dicom(PhotometricInterpretation="MONOCHROME1", **window))
    assert np.array_equal(inverted, 255 - decode_gray(make_dicom(**window)))


def test_signed_values_keep_their_sign():
    signed = (RAMP.astype(np.int16) - 1000).astype(np.int16)
    assert np.array_equal(decode_gray(make_dicom(signed, BitsStored=16, HighBit=15)), decode_gray(make_dicom()))


def test_voi_table_takes_precedence_over_the_window():
    entries = np.linspace(255, 0, 4096).astype("<u2")
    data = make_dicom(
        VOILUTSequence=make_lookup_table(4096, 0, 8, entries.tobytes()), WindowCenter="1", WindowWidth="2"
    )
    assert np.array_equal(decode_gray(data), entries[RAMP])


def test_a_modality_table_is_applied_and_values_beyond_it_take_its_ends():
    entries = np.array([10, 20, 30, 250], "<u2")
    data = make_dicom(ModalityLUTSequence=make_lookup_table(4, 24, 8, entries.tobytes()))
    assert np.array_equal(decode_gray(data), entries[np.clip(RAMP.astype(int) - 24, 0, 3)])


def test_colors_are_read_as_rgb():
    assert np.array_equal(np.asarray(decode(make_dicom(COLOR))), COLOR)
    gray_ybr = np.full((16, 20, 3), 128, np.uint8)
    gray_ybr[..., 0] = 77
    assert set(decode_gray(make_dicom(gray_ybr, PhotometricInterpretation="YBR_FULL")).flat) == {77}


def test_palette_colors_are_applied():
    indices = (RAMP // 12 % 4).astype(np.uint8)
    tables = np.array([[0, 65535, 0, 257 * 9], [0, 0, 65535, 257 * 8], [65535, 0, 0, 257 * 7]], "<u2")
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color, entries in zip(("Red", "Green", "Blue"), tables, strict=True):
        elements[f"{color}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        elements[f"{color}PaletteColorLookupTableData"] = entries.tobytes()
    assert np.array_equal(np.asarray(decode(make_dicom(indices, **elements))), (tables // 257).T[indices])


def test_first_frame_is_rendered():
    two = np.concatenate([RAMP, RAMP[::-1]])
    data = make_dicom(two, Rows=16, NumberOfFrames=2)
    assert np.array_equal(decode_gray(data), decode_gray(make_dicom()))


def encode_frame(image, fmt, **options):
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def encode_run_lengths(*planes):
    """Make an RLE frame (PS3.5 G) of planes, each one byte repeated: (value, count)."""
    parts = [b"".join(bytes([129, value]) for _ in range(times // 128)) for value, times in planes]
    starts = [64 + sum(map(len, parts[:number])) for number in range(len(parts))]
    return struct.pack("<16L", len(parts), *starts, *[0] * (15 - len(parts))) + b"".join(parts)


def test_compressed_frames_are_decoded():
    eight = (RAMP // 24).astype(np.uint8)
    assert np.array_equal(
        decode_gray(make_dicom(eight, JPEG2000Lossless, encode_frame(Image.fromarray(eight), "JPEG2000", no_jp2=True))),
        eight,
    )
    jpeg = encode_frame(Image.fromarray(eight), "JPEG", quality=95)
    assert np.array_equal(
        decode_gray(make_dicom(eight, JPEGBaseline8Bit, jpeg)), np.asarray(Image.open(io.BytesIO(jpeg)))
    )
    colors = encode_frame(Image.fromarray(COLOR), "JPEG", quality=95)
    shown = decode(make_dicom(COLOR, JPEGBaseline8Bit, colors, PhotometricInterpretation="YBR_FULL_422"))
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(Image.open(io.BytesIO(colors)))).max() <= 2
    plane = np.zeros((16, 16), np.uint8)
    assert set(decode_gray(make_dicom(plane, RLELossless, encode_run_lengths((9, 256)))).flat) == {9}


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEGExtended12Bit, DeflatedExplicitVRLittleEndian])
def test_error_names_the_syntax_without_a_decoder(syntax):
    encoded = None if syntax == DeflatedExplicitVRLittleEndian else b"\xff\xd8\xff\xd9"
    error = read_error(make_dicom(RAMP, syntax, encoded))
    assert error.reason is Reason.UNSUPPORTED_FORMAT
    assert syntax.name[:30] in error.detail
    assert "gdcmconv" in error.detail


def test_error_without_pydicom_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    error = read_error(make_dicom())
    assert error.reason is Reason.UNSUPPORTED_FORMAT
    assert "m2ib-audit[dicom]" in error.detail


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Rows": 60000, "Columns": 60000}, Reason.TOO_MANY_PIXELS),
        ({"Rows": 1, "Columns": 320}, Reason.EXTREME_ASPECT),
        ({"Rows": 0}, Reason.EXTREME_ASPECT),
        ({"Rows": 0, "Columns": 0}, Reason.CORRUPT_IMAGE),
        ({"Rows": None}, Reason.CORRUPT_IMAGE),
        ({"Rows": 17}, Reason.TRUNCATED_IMAGE),
        ({"SamplesPerPixel": 4}, Reason.CORRUPT_IMAGE),
        ({"PhotometricInterpretation": "HSV"}, Reason.UNSUPPORTED_PIXELS),
    ],
)
def test_header_sizes_are_checked(elements, reason):
    assert read_error(make_dicom(**elements)).reason is reason


def test_file_without_pixels_is_not_an_image():
    data = make_dicom()
    at = data.index(b"\xe0\x7f\x10\x00")
    assert read_error(data[:at]).reason is Reason.NOT_AN_IMAGE
    assert read_error(bytes(128) + b"DICM").reason in {Reason.NOT_AN_IMAGE, Reason.CORRUPT_IMAGE}
    assert read_error(data[128:]).reason is Reason.NOT_AN_IMAGE  # without a preamble it is not detected as DICOM


def test_a_frame_larger_than_its_header_is_refused_before_it_is_decoded():
    small = np.zeros((16, 20), np.uint8)
    for fmt, syntax in (("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)):
        assert (
            read_error(make_dicom(small, syntax, encode_frame(Image.new("L", (900, 900)), fmt))).reason
            is Reason.CORRUPT_IMAGE
        )
    scans = encode_frame(Image.fromarray(small), "JPEG", progressive=True) + b"\xff\xda\x00\x08" * 600
    assert read_error(make_dicom(small, JPEGBaseline8Bit, scans)).reason is Reason.TOO_MANY_SCANS


def test_decompression_bombs_are_rejected_before_decoding():
    plane = np.zeros((16, 16), np.uint8)
    start = time.process_time()
    error = read_error(make_dicom(plane, RLELossless, encode_run_lengths((0, 2**26))))
    assert (error.reason, "unpacks" in error.detail) == (Reason.CORRUPT_IMAGE, True)
    whole = make_dicom()
    head = whole.index(b"\x08\x00\x16\x00")
    packer = zlib.compressobj(9, wbits=-15)
    bomb = make_dicom(syntax=DeflatedExplicitVRLittleEndian)[:head] + packer.compress(bytes(2**26)) + packer.flush()
    assert read_error(bomb).reason is Reason.UNSUPPORTED_FORMAT
    assert time.process_time() - start < 5


def test_format_is_detected_by_the_first_bytes():
    image = Image.frombytes("L", (16, 16), bytes(range(256)))
    tiff = bytearray(encode_frame(image, "TIFF"))
    tiff[128:132] = b"DICM"
    assert decode(bytes(tiff)).size == (16, 16)


SEEDS = {
    "native": make_dicom(WindowCenter="500", WindowWidth="700", RescaleSlope="2", RescaleIntercept="-1"),
    "implicit": make_dicom(syntax=ImplicitVRLittleEndian, VOILUTSequence=make_lookup_table(8, 0, 8, bytes(16))),
    "runs": make_dicom(np.zeros((16, 16), np.uint8), RLELossless, encode_run_lengths((9, 256))),
    "jpeg": make_dicom(
        COLOR, JPEGBaseline8Bit, encode_frame(Image.fromarray(COLOR), "JPEG"), PhotometricInterpretation="YBR_FULL"
    ),
}


@pytest.mark.parametrize("name", SEEDS)
def test_mutations_raise_nothing_but_image_errors(name):
    draw = random.Random(name)
    ends = set()
    for _ in range(150):
        data = bytearray(SEEDS[name])
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(132, len(data))
            data[at : at + draw.choice((0, 1, 1, 1, 4))] = draw.randbytes(draw.choice((0, 1, 1, 1, 4)))
        try:
            ends.add(decode(bytes(data)).mode)
        except ImageError as error:
            ends.add(error.reason if error.detail.isprintable() else error.detail)
    assert {"RGB", Reason.CORRUPT_IMAGE} <= ends <= {"RGB", *Reason}
