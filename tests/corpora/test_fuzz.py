"""No damaged corpus crashes a reader, makes it hang or write files, or loses a row without an error.

Small valid files of each format are mutated by a seeded generator. Run as a script, this file repeats cases:
`python tests/corpora/test_fuzz.py parquet 17 18`.
"""

import faulthandler
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from benchmarks import corpus_writers
from benchmarks.corpus_writers import WRITERS, SourcePair
from corpora import CorpusError, ImageError, Limits, Pair, Reason, Rejected, decode, open_corpus
from corpora.readers.hub import SCRATCH
from corpora.records import is_storable

LIMITS = Limits(max_pixels=250_000, max_file_bytes=2**20, max_caption_chars=1000)
HANG_SECONDS = 20  # a case takes hundredths of a second, but machines can be busy
PEAK_GROWTH = 256 * 2**20
CASES = {"corpora": 1400, "images": 1000}  # for each format of the one, for each image of the other, in the slow tests

Files = dict[str, bytes]
Generator = np.random.Generator


def _encode_image(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _scan(gray: np.ndarray, compress: bool) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPInstanceUID, dataset.SOPClassUID = "1.2.3", CTImageStorage
    dataset.Rows, dataset.Columns = gray.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME1", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.WindowCenter, dataset.WindowWidth = [500, 40], [1000, 400]
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -100
    dataset.PixelData = gray.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    if compress:
        dataset.compress(RLELossless)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def _make_images() -> Files:
    noise = np.random.default_rng(5).integers(0, 256, (16, 16, 3), np.uint8)
    color, wide = Image.fromarray(noise), noise[..., 0].astype(np.uint16) * 16
    return {
        "a.png": _encode_image(color, "PNG"),
        "b.jpg": _encode_image(color.rotate(90), "JPEG"),
        "c.tif": _encode_image(color.rotate(180), "TIFF", compression="tiff_lzw"),
        "d.png": _encode_image(Image.fromarray(wide), "PNG"),
        "e.gif": _encode_image(color.rotate(270), "GIF"),
        "f.webp": _encode_image(color.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "WEBP"),
        "g.dcm": _scan(wide, compress=False),
        "h.jpg": _encode_image(color.convert("CMYK"), "JPEG", progressive=True),
        "i.dcm": _scan(wide[::-1], compress=True),
        "j.bmp": _encode_image(color.convert("P"), "BMP"),
    }


PICTURES = _make_images()
SECRET = _encode_image(Image.new("RGB", (16, 16), "red"), "PNG")


def _make_pairs() -> list[SourcePair]:
    names = ("a.png", "b.jpg", "c.tif", "d.png", "e.gif", "f.webp")
    pairs = [SourcePair(name, PICTURES[name], f"a caption of {name[0]}", {"site": f"s{name[0]}"}) for name in names]
    return [*pairs, SourcePair("g.png", PICTURES["g.dcm"], "a scan, and its name lies", {"site": "ward"})]


def _write_target(target: str) -> Files:
    pairs = _make_pairs()
    name, _, kind = target.partition(".")
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(corpus_writers, "PAIRS_PER_FILE", 4),
    ):  # two tars and two tables
        root = WRITERS[name](pairs, Path(folder) / "corpus")
        files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    if kind:
        del files["metadata.csv"]
        rows = [{"file_name": pair.name, "text": pair.caption, **pair.attributes} for pair in pairs]
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), file)
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        files[f"metadata.{kind}"] = {"jsonl": lines, "parquet": file.getvalue()}[kind]
    if name == "coco":
        listing = json.loads(files["captions.json"])
        listing["images"][0] |= {"width": 16, "height": 16}
        listing["annotations"].append({"id": 99, "image_id": 0, "bbox": [1, 2, 3.5, 4], "category_id": 7})
        listing["categories"] = [{"id": 7, "name": "tag"}]
        files["captions.json"] = json.dumps(listing).encode()
    return files


TARGETS = (*WRITERS, "folder.jsonl", "folder.parquet")


def _make_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../escaped.png", PICTURES["a.png"])
    return file.getvalue()


WHOLE = (b"", b"\0" * 1024, b"<!DOCTYPE html><html><title>404</title></html>", _make_zip(), b"PAR1" * 3, b"\n" * 50)
HOSTILE = (
    *[b"../outside/secret.png", b"images/../../outside/secret.png", b"link.png"] * 4, b"/etc/passwd",
    b"C:\\x.png", b"//h/s", b".", b"..",
    b"a\0b", rb"a\u0000b", rb"\ud800", b"\xed\xa0\x80", b"\xff\xfe", "\u202e\u0301".encode() * 300, b"x" * 300,
    b"y/" * 3000, b"long " * 20_000, b"9" * 5000, b"[" * 100_000, b"NaN", b"-1", b"1e999", b"null", b"true", b"{}",
    b'"x"', b'"', b"'", b"\t", b"\r\n", b",", b"http://[", b"HTTP://h/..", b"file:///etc/passwd", b"a.png", b"b.jpg",
    b"",
)  # fmt: skip
EXTREMES = (0, 1, -1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, -(2**31))
_WORD = re.compile(rb"[\w./:-]{1,200}")


def _draw_position(rng: Generator, data: bytes) -> int:
    size = len(data)
    low, high = ((0, size), (0, min(size, 64)), (max(0, size - 256), size))[rng.integers(3)]
    return int(rng.integers(low, high + 1))


def _flip_bit(rng: Generator, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9) if data else 0):
        at = min(_draw_position(rng, data), len(data) - 1)
        changed[at] = changed[at] ^ 1 << int(rng.integers(8)) if rng.integers(2) else int(rng.integers(256))
    return bytes(changed)


def _truncate(rng: Generator, data: bytes) -> bytes:
    at = _draw_position(rng, data)
    return data[:at] if rng.integers(3) else data[at:]


def _remove_bytes(rng: Generator, data: bytes) -> bytes:
    at = _draw_position(rng, data)
    return data[:at] + data[at + int(rng.integers(1, 64)) :]


def _repeat_bytes(rng: Generator, data: bytes) -> bytes:
    at = _draw_position(rng, data)
    span = data[at : at + int(rng.integers(1, 600))]
    return data[:at] + span * int(rng.choice([2, 2, 3, 100])) + data[at + len(span) :]


def _insert_random_bytes(rng: Generator, data: bytes) -> bytes:
    at = _draw_position(rng, data)
    return data[:at] + rng.bytes(int(rng.integers(1, 200))) + data[at:]


def _insert_extreme_value(rng: Generator, data: bytes) -> bytes:
    at, width = _draw_position(rng, data), int(rng.choice([1, 2, 4, 8]))
    order = "little" if rng.integers(2) else "big"
    number = int(EXTREMES[rng.integers(len(EXTREMES))]) % 2 ** (8 * width)
    return data[:at] + number.to_bytes(width, order) + data[at + width :]


def _change_word(rng: Generator, data: bytes) -> bytes:
    words = list(_WORD.finditer(data, 0, 20_000))
    if not words:
        return data
    word = words[rng.integers(len(words))]
    return data[: word.start()] + HOSTILE[rng.integers(len(HOSTILE))] + data[word.end() :]


def _change_file_name(rng: Generator, data: bytes) -> bytes:
    """Change the file name of an image in a listing to an invalid or hostile one."""
    names = [name.encode() for name in PICTURES if name.encode() in data]
    if not names:
        return _change_word(rng, data)
    return data.replace(names[rng.integers(len(names))], HOSTILE[rng.integers(len(HOSTILE))])


def _enlarge(rng: Generator, data: bytes) -> bytes:
    at = _draw_position(rng, data)
    return data[:at] + b"gigantic " * 500_000 + data[at:] if rng.integers(25) == 0 else data[:at] + b"x" * 2000


def _replace_all(rng: Generator, data: bytes) -> bytes:
    return WHOLE[rng.integers(len(WHOLE))]


def _mutate_png_chunk(rng: Generator, data: bytes) -> bytes:
    """Mutate a chunk of a PNG and update its checksum; flip a bit of other files."""
    starts, at = [], 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        starts.append(at)
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    if not starts:
        return _flip_bit(rng, data)
    at = starts[rng.integers(len(starts))]
    end = at + 8 + int.from_bytes(data[at : at + 4], "big")
    body = (_flip_bit, _insert_extreme_value)[rng.integers(2)](rng, data[at + 4 : end])
    length = (len(body) - 4) % 2**32
    return data[:at] + length.to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + data[end + 4 :]


BYTES = (
    _mutate_png_chunk,
    _flip_bit,
    _flip_bit,
    _truncate,
    _remove_bytes,
    _repeat_bytes,
    _insert_random_bytes,
    _insert_extreme_value,
    _insert_extreme_value,
    _change_word,
    _change_word,
    _enlarge,
    _replace_all,
)


def _mutate_tar_header(rng: Generator, data: bytes) -> bytes:
    """Mutate a header of a tar and update its checksum."""
    starts = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    at = starts[rng.integers(len(starts))]
    block = bytearray(data[at : at + 512])
    field, width = ((0, 100), (124, 12), (156, 1), (157, 100), (345, 155))[rng.integers(5)]
    value = HOSTILE[rng.integers(len(HOSTILE))]
    if width == 12:
        sizes = (b"77777777777", b"00000000000", b"\x80" + b"\0" * 7 + b"\x7f" * 4, b"\xff" * 12, b"-1", b"00000000600")
        value = sizes[rng.integers(len(sizes))]
    elif width == 1:
        value = b"01234567LKxXgSVDN\0"[(kind := int(rng.integers(18))) : kind + 1]
    block[field : field + width] = value[:width].ljust(width, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:at] + bytes(block) + data[at + 512 :]


def _mutate_table(rng: Generator, name: str, data: bytes) -> bytes:
    """Write an invalid value into a well-formed table."""
    parquet = name.endswith(".parquet")
    table = pq.read_table(pa.BufferReader(data)) if parquet else pa.ipc.open_stream(data).read_all()
    hostile = HOSTILE[rng.integers(len(HOSTILE))]
    place, row = int(rng.integers(table.num_columns)), int(rng.integers(table.num_rows))
    cells = table.column(place).to_pylist()
    if isinstance(cells[row], dict):
        cells[row] = [None, {"bytes": None, "path": "../outside/secret.png"}, {"bytes": hostile, "path": None},
                      {"bytes": _mutate(rng, cells[row]["bytes"]), "path": ""}][rng.integers(4)]  # fmt: skip
        column = pa.array(cells, table.schema.field(place).type)
    else:
        texts = [cell.encode() for cell in cells]
        texts[row] = None if rng.integers(5) == 0 else hostile
        columns = (
            lambda: pa.array(texts, pa.binary()).view(pa.string()),
            lambda: pa.array(texts, pa.binary()),
            lambda: pa.array(cells).dictionary_encode(),
            lambda: pa.array([EXTREMES[row] % 2**62] * len(cells), pa.timestamp("ns")),
            lambda: pa.array([[cell, None] for cell in cells]),
        )
        column = columns[max(0, int(rng.integers(-6, len(columns))))]()
    label = table.column_names[place]
    label = hostile.decode("latin-1") if rng.integers(8) == 0 else label
    table = table.set_column(place, label, column)
    if rng.integers(10) == 0:
        table = table.append_column(table.column_names[0], table.column(0)) if rng.integers(2) else table[:0]
    file = io.BytesIO()
    if parquet:
        pq.write_table(table, file, row_group_size=3)
    else:
        with pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=3)
    return file.getvalue()


def _mutate(rng: Generator, data: bytes) -> bytes:
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        data = BYTES[rng.integers(len(BYTES))](rng, data)
    return data


def _replace_on_disk(rng: Generator, root: Path, name: str) -> None:
    """Replace a file by something that is not a regular file, or by another file."""
    path, other = root / name, min(root.iterdir())
    path.unlink()
    kinds: tuple[Callable[[], object], ...] = (
        lambda: None,
        lambda: path.symlink_to(root.parent / "outside" / "secret.png"),
        lambda: path.symlink_to(root.parent / "outside"),
        lambda: path.symlink_to(path.name),
        lambda: path.symlink_to(other),
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.with_name(f"{path.stem}\n\u202e{path.suffix}").write_bytes(b"x"),
        lambda: Path(os.fsdecode(os.fsencode(path.with_suffix("")) + b"\xff" + path.suffix.encode())).write_bytes(b"x"),
    )
    kinds[rng.integers(len(kinds))]()


def _write_corpus(rng: Generator | None, root: Path, files: Files) -> None:
    """Write the files, of which one or two are mutated."""
    shutil.rmtree(root, ignore_errors=True)
    files = dict(files)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    if rng is None:
        return
    if "a.txt" not in files:  # otherwise it would be a row
        (root / "link.png").symlink_to(root.parent / "outside" / "secret.png")
    listings = [name for name in files if Path(name).suffix not in {".png", ".jpg", ".tif", ".gif", ".webp"}]
    some = listings if listings and rng.integers(2) else sorted(files)
    name = some[rng.integers(len(some))]
    what = int(rng.integers(12))
    if what == 0:
        _replace_on_disk(rng, root, name)
        return
    if what == 1:
        other = sorted(files)[rng.integers(len(files))]
        (root / name).write_bytes(files[other])
        (root / other).write_bytes(files[name])
        return
    if what < 6 and name.endswith((".parquet", ".arrow")):
        (root / name).write_bytes(_mutate_table(rng, name, files[name]))
    elif what < 4 and name.endswith((".csv", ".json", ".jsonl", ".tsv")):
        (root / name).write_bytes(_change_file_name(rng, files[name]))
    elif what < 6 and name.endswith(".tar"):
        (root / name).write_bytes(_mutate_tar_header(rng, files[name]))
    else:
        (root / name).write_bytes(_mutate(rng, files[name]))


class HangError(BaseException):
    """Not an Exception, since decoders convert these to reasons."""


_FORBIDDEN = frozenset(
    {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime",
     "os.system", "os.exec", "subprocess.Popen", "socket.connect", "pickle.find_class"}
)  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_watchers: list[list[str]] = []  # recorded events; an audit hook cannot be removed


@cache
def _install_audit_hook() -> None:
    sys.addaudithook(_record_event)


def _record_event(event: str, args: tuple[object, ...]) -> None:
    if not _watchers:
        return
    writes = event == "open" and isinstance(args[2], int) and args[2] & _WRITING
    ours = any(part in str(args[0]) for part in ("__pycache__", SCRATCH, os.devnull))
    if (event in _FORBIDDEN or writes) and not ours:
        _watchers[-1].append(f"{event} {args[:2]!a}")


def _raise_hang(signum: int, frame: object) -> None:
    raise HangError(f"no end after {HANG_SECONDS} s")


@contextmanager
def _supervise():
    """Fail if the block hangs, or writes, unpickles, starts or connects to anything, according to audit events.

    Except for the temporary folder in which the library `datasets` locks a file.
    """
    _install_audit_hook()
    before = signal.signal(signal.SIGALRM, _raise_hang)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    events: list[str] = []
    _watchers.append(events)
    try:
        yield
    finally:
        _watchers.pop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not events, events


def _list_files(folder: Path) -> list[tuple[str, int, int]]:
    paths = [(path, path.lstat()) for path in [folder, *folder.rglob("*")]]
    return sorted((str(path), status.st_size, status.st_mtime_ns) for path, status in paths)


def _are_storable(*texts: str | None) -> bool:
    return all(text is None or is_storable(text) for text in texts)


def _read_and_check(root: Path, format_name: str | None) -> str:
    """Read a corpus and check that it raises only CorpusError or accounts for each row; returns the outcome."""
    try:
        corpus = open_corpus(root, format_name, limits=LIMITS)
        rows = list(corpus.pairs())
        count = corpus.count()
    except CorpusError as error:
        return "corpus error" if is_storable(str(error)) else f"corpus error that cannot be logged: {error!a}"
    assert [row.row for row in rows] == list(range(count))
    for row in rows:
        texts = [text for item in row.attributes.items() for text in item]
        if isinstance(row, Pair):
            picture = corpus.read_image(row.place)
            assert (picture.sha256, picture.width, picture.height) == (row.image_sha256, row.width, row.height)
            assert row.image_sha256 != sha256(SECRET).hexdigest(), row.place
            assert _are_storable(row.caption, row.place.name, *texts), row
        else:
            assert isinstance(row, Rejected)
            assert isinstance(row.reason, Reason)
            assert row.detail
            assert len(row.detail) < 10_000
            assert _are_storable(row.detail, row.file_name, row.caption, *texts), row
    pairs = sum(isinstance(row, Pair) for row in rows)
    return "pairs and rejects" if 0 < pairs < len(rows) else "pairs" if pairs else "rejects"


def read_case(target: str, seed: int | None, files: Files, folder: Path) -> str:
    """Read a mutated corpus and return the outcome."""
    rng = None if seed is None else np.random.default_rng([TARGETS.index(target), seed])
    root, outside = folder / "corpus", folder / "outside"
    if not outside.exists():
        outside.mkdir(parents=True)
        (outside / "secret.png").write_bytes(SECRET)
    _write_corpus(rng, root, files)
    before = _list_files(folder)
    with _supervise():
        outcome = _read_and_check(root, None if rng is not None and rng.integers(4) == 0 else target.partition(".")[0])
    assert _list_files(folder) == before
    return outcome


def decode_case(name: str, seed: int) -> str:
    """Decode mutated bytes of an image and return the outcome."""
    data = _mutate(np.random.default_rng([*name.encode(), seed]), PICTURES[name])
    with _supervise():
        try:
            image = decode(data, LIMITS)
        except ImageError as error:
            return f"refused: {error.reason}" if is_storable(error.detail) else f"not storable: {error.detail!a}"
    assert image.mode == "RGB"
    assert image.width * image.height <= LIMITS.max_pixels
    return "decoded"


@pytest.mark.parametrize("target", TARGETS)
def test_a_few_mutated_corpora_are_accounted_for(target, tmp_path):
    files = _write_target(target)
    assert read_case(target, None, files, tmp_path) == "pairs"
    for seed in range(15):
        read_case(target, seed, files, tmp_path)


@pytest.mark.parametrize("name", PICTURES)
def test_few_mutated_images_are_decoded_or_rejected(name):
    for seed in range(40):
        decode_case(name, seed)


CHARACTERS = st.characters(codec=None, exclude_categories=())  # including surrogates
CELLS = st.recursive(
    st.sampled_from([None, True, "a.png", "0", 0]) | st.integers() | st.floats() | st.text(CHARACTERS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(CHARACTERS), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["file_name", "text", "caption", "id", "image_id", "bbox", "category_id", "name", "width"])
OBJECTS = st.dictionaries(KEYS | st.text(CHARACTERS, max_size=5), CELLS, max_size=6)
LISTINGS = {
    "metadata.jsonl": st.lists(OBJECTS, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    "captions.json": st.fixed_dictionaries(
        {"images": st.lists(OBJECTS, max_size=4), "annotations": st.lists(OBJECTS, max_size=4)},
        optional={"categories": st.lists(OBJECTS, max_size=3) | CELLS},
    ).map(lambda listing: json.dumps(listing).encode()),
    "metadata.csv": st.binary(max_size=80).map(lambda body: b"file_name,text\na.png,x\n" + body),
    "metadata.tsv": st.text('a.png"\t\n\r\0\ufeff', max_size=80).map("text\tfile_name\n{}".format).map(str.encode),
    "captions.tsv": st.text("a.pnghttp://?#%2[]\t\n\r\0", max_size=80).map(str.encode) | st.binary(max_size=80),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTINGS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_listing_is_accounted_for(name, data, tmp_path):
    files = {"a.png": PICTURES["a.png"], "0.png": PICTURES["d.png"], name: data.draw(LISTINGS[name])}
    _write_corpus(None, tmp_path / "corpus", files)
    formats = {"captions.json": "coco", "captions.tsv": "captions-tsv"}
    with _supervise():
        _read_and_check(tmp_path / "corpus", formats.get(name, "folder"))


def _run_cases(target: str, start: int, stop: int) -> None:
    """Print `seed outcome` for each case of a target; runs in a separate process, which could crash."""
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))
    with tempfile.TemporaryDirectory() as folder:
        files = {} if target in PICTURES else _write_target(target)
        if files:
            assert read_case(target, None, files, Path(folder)) == "pairs"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(start, stop):
            faulthandler.dump_traceback_later(3 * HANG_SECONDS, exit=True)  # in case the signal is not handled
            ended = read_case(target, seed, files, Path(folder)) if files else decode_case(target, seed)
            sys.stdout.write(f"{seed} {ended}\n")
            sys.stdout.flush()
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
            assert grown < PEAK_GROWTH, f"memory grew by {grown} bytes"
    faulthandler.cancel_dump_traceback_later()


def _count_outcomes(target: str, cases: int) -> Counter[str]:
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, __file__, target, "0", str(cases)],
        env=os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, errors="replace",
    )  # fmt: skip
    lines = done.stdout.splitlines()
    repeat = f"python {Path(__file__).relative_to(repository)} {target} {len(lines)} {len(lines) + 1}"
    assert done.returncode == 0, f"exit {done.returncode}; PYTHONPATH=. {repeat}\n{done.stderr[-4000:]}"
    return Counter(line.partition(" ")[2] for line in lines)


def test_slow_tests_have_at_least_20000_cases():
    assert len(TARGETS) * CASES["corpora"] + len(PICTURES) * CASES["images"] >= 20_000


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_mutated_corpora_are_accounted_for(target):
    cases = CASES["corpora"]
    outcomes = _count_outcomes(target, cases)
    assert outcomes.total() == cases, outcomes
    assert set(outcomes) <= {"pairs", "pairs and rejects", "rejects", "corpus error"}, outcomes
    assert outcomes["pairs"] + outcomes["pairs and rejects"] >= 0.25 * cases, outcomes
    assert outcomes["rejects"] + outcomes["pairs and rejects"] >= 0.1 * cases, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_mutated_images_are_decoded_or_rejected(name):
    cases = CASES["images"]
    outcomes = _count_outcomes(name, cases)
    assert outcomes.total() == cases, outcomes
    assert not any(outcome.startswith("not storable") for outcome in outcomes), outcomes
    assert outcomes["decoded"] >= 0.03 * cases, outcomes
    assert len(outcomes) >= 4, outcomes


if __name__ == "__main__":
    _run_cases(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
