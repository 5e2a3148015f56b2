import io
import os
import resource
import socket
import struct
import threading
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL.ImageFile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from corpora import ImageError, Limits, Reason, decode, read_image
from corpora.pixels import _count_scans


def encode(image: Image.Image, fmt: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def make_noise() -> Image.Image:
    return Image.frombytes("RGB", (17, 13), bytes(number * number % 251 for number in range(17 * 13 * 3)))


SAMPLES = {
    "jpeg": encode(make_noise(), "JPEG"),
    "progressive jpeg": encode(make_noise(), "JPEG", progressive=True),
    "png": encode(make_noise(), "PNG"),
    "palette png": encode(make_noise().convert("P"), "PNG", transparency=bytes(range(200))),
    "webp": encode(make_noise(), "WEBP"),
    "lossless webp": encode(make_noise(), "WEBP", lossless=True),
    "bmp": encode(make_noise(), "BMP"),
    "tiff": encode(make_noise(), "TIFF"),
    "lzw tiff": encode(make_noise(), "TIFF", compression="tiff_lzw"),
    "gif": encode(make_noise(), "GIF"),
    "animated gif": encode(make_noise(), "GIF", save_all=True, append_images=[make_noise().rotate(90)]),
}


def make_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def make_flat_png(width: int, height: int) -> bytes:
    """Make a 1-bit black PNG of any size without storing its pixels."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", header) + make_chunk(b"IDAT", data) + make_chunk(b"IEND", b"")


def decode_error(data: bytes, limits: Limits | None = None) -> Reason:
    with pytest.raises(ImageError) as caught:
        decode(data, limits or Limits())
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("name", SAMPLES)
def test_pixels_equal_those_of_a_conversion_to_rgb(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = Image.open(io.BytesIO(SAMPLES[name])).convert("RGB")
    image = decode(SAMPLES[name])
    assert (image.mode, image.size) == ("RGB", (17, 13))
    assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_modes_of_eight_bits_convert_as_pillow_does(mode: str) -> None:
    source = make_noise().convert("RGBA" if mode == "PA" else "RGB").convert(mode)
    data = encode(source, "TIFF")
    assert decode(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


WIDE = np.arange(300, 300 + 17 * 13 * 40, 40).reshape(13, 17)


@pytest.mark.parametrize(
    ("dtype", "fmt"),
    [("<u2", "PNG"), ("<u2", "TIFF"), (">u2", "TIFF"), ("<i4", "TIFF"), ("<f4", "TIFF")],
)
def test_one_wide_channel_is_rendered_from_its_least_to_its_greatest_value(dtype: str, fmt: str) -> None:
    image = decode(encode(Image.fromarray(WIDE.astype(dtype)), fmt))
    expected = np.floor((WIDE - 300) * (255 / (WIDE.max() - 300)) + 0.5)
    assert image.mode == "RGB"
    assert all(np.array_equal(np.asarray(channel), expected) for channel in image.split())


@pytest.mark.parametrize(("fmt", "expected"), [("JPEG", (160, 120)), ("PNG", (640, 480))])
def test_draft_decodes_only_as_many_pixels_as_needed(fmt: str, expected: tuple[int, int]) -> None:
    data = encode(Image.new("RGB", (640, 480), (200, 100, 50)), fmt)
    draft = decode(data, draft=(100, 100))
    assert (decode(data).size, draft.size) == ((640, 480), expected)
    assert np.abs(np.subtract(draft.getpixel((50, 50)), (200, 100, 50))).max() < 4


def test_wide_values_keep_no_absolute_level_and_one_value_is_black() -> None:
    def wide(values: np.ndarray) -> bytes:
        return decode(encode(Image.fromarray(values.astype(np.uint16)), "PNG")).tobytes()

    assert wide(WIDE) == wide(WIDE * 3 + 1000)
    assert set(wide(np.full((4, 4), 40_000))) == {0}


def test_wide_tiff_whose_zero_is_white_is_inverted() -> None:
    data = encode(Image.fromarray(WIDE.astype(np.uint16)), "TIFF")
    at = data.index(struct.pack("<HHL", 262, 3, 1)) + 8
    white = decode(data[:at] + b"\0" + data[at + 1 :])
    assert white.tobytes() == bytes(255 - value for value in decode(data).tobytes())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_have_no_rendering(value: float) -> None:
    values = WIDE.astype(np.float32)
    values[3, 4] = value
    assert decode_error(encode(Image.fromarray(values), "TIFF")) is Reason.UNSUPPORTED_PIXELS


def test_transparency_is_dropped_and_cmyk_is_converted() -> None:
    def pixel(image: Image.Image, fmt: str, **options: object) -> tuple[int, ...]:
        return decode(encode(image, fmt, **options)).getpixel((0, 0))

    assert pixel(Image.new("RGBA", (4, 4), (200, 10, 30, 0)), "PNG") == (200, 10, 30)  # alpha is dropped, not blended
    assert pixel(Image.new("LA", (4, 4), (90, 0)), "PNG") == (90, 90, 90)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 5, 6, 7])
    assert pixel(palette, "PNG", transparency=1) == (5, 6, 7)
    assert pixel(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF") == (255, 0, 0)


@pytest.mark.parametrize(("fmt", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_first_frame_of_an_animation_is_read(fmt: str, options: dict[str, object]) -> None:
    frames = [Image.new("RGB", (17, 13), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = encode(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert set(decode(data).get_flattened_data()) == {(255, 0, 0)}


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert decode(encode(make_noise(), "JPEG", exif=exif)).size == (17, 13)


def test_exif_orientation_is_ignored_in_every_format() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for fmt, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        assert decode(encode(make_noise(), fmt, exif=exif, **options)).tobytes() == make_noise().tobytes()


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_bomb_in_the_metadata_of_a_png_is_not_unpacked(kind: bytes) -> None:
    bomb = make_chunk(kind, b"name\0\0" + zlib.compress(bytes(2**28), 9))
    data = SAMPLES["png"][:33] + bomb + SAMPLES["png"][33:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        end: object = decode(data).tobytes()
    except ImageError as error:
        end = error.reason
    assert end in (make_noise().tobytes(), Reason.CORRUPT_IMAGE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB: a quarter of the bomb


def test_a_tiff_of_huge_tiles_allocates_none_of_them() -> None:
    side, strip = 16, bytes(16 * 16)
    tags = [
        (256, 3, side), (257, 3, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (277, 3, 1), (322, 4, 2**30),
        (323, 4, 2**30), (324, 4, 8), (325, 4, len(strip)),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHLL", tag, kind, 1, value) for tag, kind, value in tags)
    data = b"II*\0" + struct.pack("<L", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + entries + bytes(4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode_error(data) in {Reason.CORRUPT_IMAGE, Reason.TRUNCATED_IMAGE, Reason.TOO_MANY_PIXELS}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_only_the_first_frame_of_a_gif_is_decoded() -> None:
    flat = Image.new("L", (64, 64))
    frame = encode(flat, "GIF")
    at = frame.index(b"\x2c", 13 + 3)
    data = frame[:at] + frame[at:-1] * 20_000 + b";"
    start = time.process_time()
    assert decode(data).tobytes() == decode(frame).tobytes()
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "gif", "bmp", "tiff"])
def test_only_the_image_of_a_polyglot_file_is_read(name: str) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../evil.png", SAMPLES["bmp"])
    page = b"<html><script>alert(1)</script><img src=http://localhost/x.png></html>"
    polyglot = SAMPLES[name] + page + archive.getvalue()
    assert zipfile.is_zipfile(io.BytesIO(polyglot))
    assert decode(polyglot).tobytes() == decode(SAMPLES[name]).tobytes()
    assert decode_error(page + SAMPLES[name]) is Reason.NOT_AN_IMAGE
    assert decode_error(archive.getvalue()) is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 10_000)])
def test_bomb_is_rejected_by_its_header(size: tuple[int, int]) -> None:
    bomb = make_flat_png(*size)
    assert len(bomb) < 100_000
    ceiling = Image.MAX_IMAGE_PIXELS
    tracemalloc.start()
    start = time.process_time()
    assert decode_error(bomb) is Reason.TOO_MANY_PIXELS  # without a warning, which would be an error in the tests
    took = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 0.5
    assert peak < 2**20
    assert ceiling == Image.MAX_IMAGE_PIXELS


def test_a_bomb_allocates_no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    # tracemalloc does not see memory of Pillow, so its allocation is patched to fail.
    def forbidden(*_: object) -> None:
        raise AssertionError("pixels were allocated")

    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load_prepare", forbidden)
    assert decode_error(make_flat_png(10_000, 10_000)) is Reason.TOO_MANY_PIXELS
    assert decode_error(SAMPLES["png"]) is Reason.CORRUPT_IMAGE  # the patch is effective


@pytest.mark.parametrize(
    "data", [b"<html>", b"\xef\xbb\xbf\n<!DOCTYPE HTML PUBLIC", b"<!-- 404 -->\n<Head><title>", b"<body class='x'>"]
)
def test_error_states_that_a_file_is_a_web_page(data: bytes) -> None:
    with pytest.raises(ImageError, match="is HTML, a web page") as caught:
        decode(data)
    assert caught.value.reason is Reason.NOT_AN_IMAGE


def test_the_pixel_limit_is_inclusive() -> None:
    assert decode(SAMPLES["png"], Limits(max_pixels=17 * 13)).size == (17, 13)
    assert decode_error(SAMPLES["png"], Limits(max_pixels=17 * 13 - 1)) is Reason.TOO_MANY_PIXELS


def test_large_images_within_the_limit_raise_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 17 * 13 - 1)
    assert decode(SAMPLES["png"]).size == (17, 13)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode_error(SAMPLES["png"]) is Reason.TOO_MANY_PIXELS


def test_extreme_aspect_ratios_are_rejected() -> None:
    limits = Limits(max_aspect_ratio=5)
    assert decode(encode(Image.new("L", (10, 2)), "PNG"), limits).size == (10, 2)
    assert decode_error(encode(Image.new("L", (2, 11)), "PNG"), limits) is Reason.EXTREME_ASPECT


@given(st.lists(st.sampled_from([b"\xff", b"\xda", b"\xff\xda", b"\x00"]), max_size=12).map(b"".join))
def test_all_scans_of_a_jpeg_are_counted(rest: bytes) -> None:
    assert _count_scans(b"\xff\xd8" + rest) == rest.count(b"\xff\xda")


def test_jpeg_with_too_many_scans_is_rejected() -> None:
    data = SAMPLES["progressive jpeg"]
    assert decode_error(data[:-2] + b"\xff\xda\x00\x08" * 600 + data[-2:]) is Reason.TOO_MANY_SCANS


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"file_name,text\n", Reason.NOT_AN_IMAGE),
        (SAMPLES["png"][:20], Reason.TRUNCATED_IMAGE),
        (SAMPLES["jpeg"][:20], Reason.CORRUPT_IMAGE),
        (b"\x00\x00\x00\x20ftypheic", Reason.UNSUPPORTED_FORMAT),
        (encode(Image.new("L", (2, 2)), "PPM"), Reason.UNSUPPORTED_FORMAT),
        (encode(Image.new("L", (16, 16)), "ICO"), Reason.UNSUPPORTED_FORMAT),
        (encode(Image.new("L", (16, 16)), "JPEG2000"), Reason.UNSUPPORTED_FORMAT),
        (SAMPLES["jpeg"][:-40], Reason.TRUNCATED_IMAGE),
        (SAMPLES["png"][:-40], Reason.TRUNCATED_IMAGE),
        (SAMPLES["webp"][:-40], Reason.TRUNCATED_IMAGE),
        (SAMPLES["bmp"][:-40], Reason.TRUNCATED_IMAGE),
        (SAMPLES["gif"][:-40], Reason.TRUNCATED_IMAGE),
        (SAMPLES["tiff"][:-40], Reason.TRUNCATED_IMAGE),
        (SAMPLES["png"].replace(b"IDAT", b"IDAT\xff", 1), Reason.CORRUPT_IMAGE),
    ],
)
def test_each_kind_of_damage_has_its_reason(data: bytes, reason: Reason) -> None:
    assert decode_error(data) is reason


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_file_never_gives_other_pixels(name: str) -> None:
    expected = decode(SAMPLES[name]).tobytes()
    refused = 0
    for end in range(len(SAMPLES[name])):
        try:
            pixels = decode(SAMPLES[name][:end]).tobytes()
        except ImageError:
            refused += 1
        else:
            assert pixels == expected, f"{name} cut to {end} bytes"
    assert refused > 0.3 * len(SAMPLES[name])


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(sorted(SAMPLES)),
    edits=st.lists(
        st.tuples(st.integers(0, 2000), st.integers(0, 255), st.sampled_from(["set", "drop", "insert"])),
        min_size=1,
        max_size=8,
    ),
)
def test_mutated_images_raise_nothing_but_image_errors(name: str, edits: list[tuple[int, int, str]]) -> None:
    data = bytearray(SAMPLES[name])
    for position, value, edit in edits:
        at = position % max(len(data), 1)
        data[at : at + (edit != "insert")] = b"" if edit == "drop" else bytes([value])
    try:
        mode = decode(bytes(data)).mode
    except ImageError as error:
        mode = "RGB" if error.reason in Reason and error.detail.isprintable() else error.detail
    assert mode == "RGB"


@settings(max_examples=80, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"GIF89a", b"BM"]),
)
def test_random_bytes_raise_nothing_but_image_errors(tail: bytes, magic: bytes) -> None:
    with pytest.raises(ImageError):
        decode(magic + tail)


def test_global_setting_for_truncated_images_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES is on"):
        decode(SAMPLES["png"])


def test_warnings_are_suppressed_only_while_decoding() -> None:
    failures: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(20):
                decode(SAMPLES["palette png"])  # Pillow warns about its transparency
        except Exception as error:  # noqa: BLE001  # reported by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with pytest.raises(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_read_image_hashes_the_bytes_that_it_decodes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(SAMPLES["png"])
    image = read_image(tmp_path / "a.png")
    assert image.sha256 == sha256(SAMPLES["png"]).hexdigest()
    assert (image.width, image.height) == image.pixels.size == (17, 13)
    assert image.pixels.tobytes() == make_noise().tobytes()


def read_reason(path: Path, limits: Limits | None = None) -> Reason:
    with pytest.raises(ImageError) as caught:
        read_image(path, limits or Limits())
    return caught.value.reason


def test_file_size_is_checked_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(SAMPLES["png"])
    size = len(SAMPLES["png"])
    assert read_image(path, Limits(max_file_bytes=size)).width == 17
    assert read_reason(path, Limits(max_file_bytes=size - 1)) is Reason.FILE_TOO_LARGE
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse: reading it would exhaust the memory
    assert read_reason(path) is Reason.FILE_TOO_LARGE


def test_missing_and_empty_files_have_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert read_reason(tmp_path / "empty.png") is Reason.EMPTY_FILE
    assert read_reason(tmp_path / "no.png") is Reason.MISSING_FILE
    assert read_reason(tmp_path / "empty.png" / "below.png") is Reason.MISSING_FILE
    assert read_reason(tmp_path / ("x" * 5000)) is Reason.UNREADABLE_FILE


@pytest.fixture
def make_fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo.png")
    return tmp_path / "fifo.png"


@pytest.fixture
def make_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
    return tmp_path / "s.png"


def test_irregular_files_are_not_opened(
    tmp_path: Path, make_fifo: Path, make_unix_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    real_open: Callable[..., int] = os.open

    def spy(path: object, *rest: int) -> int:
        opened.append(path)
        return real_open(path, *rest)

    monkeypatch.setattr(os, "open", spy)
    for path in (tmp_path, make_fifo, make_unix_socket, Path("/dev/null"), Path("/dev/zero")):
        assert read_reason(path) is Reason.NOT_A_REGULAR_FILE, path
    assert opened == []
