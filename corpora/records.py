"""The two ends of a corpus row (`Pair`, `Rejected`), the limits it is held to, and the names of both."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np

_SURROGATE = re.compile("[\ud800-\udfff]")


class Reason(StrEnum):
    """Why a row is not a pair. The values are stored and counted: add to them, never rename them."""

    MALFORMED_ROW = "malformed_row"
    PATH_OUTSIDE_CORPUS = "path_outside_corpus"
    EMPTY_CAPTION = "empty_caption"
    CAPTION_ENCODING = "caption_encoding"
    CAPTION_NOT_TEXT = "caption_not_text"
    CAPTION_TOO_LONG = "caption_too_long"
    MISSING_FILE = "missing_file"
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    UNREADABLE_FILE = "unreadable_file"
    UNREACHABLE_FILE = "unreachable_file"  # its store does not answer; the row may be in order
    EMPTY_FILE = "empty_file"
    FILE_TOO_LARGE = "file_too_large"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    TOO_MANY_PIXELS = "too_many_pixels"
    EXTREME_ASPECT = "extreme_aspect"
    TOO_MANY_SCANS = "too_many_scans"
    TRUNCATED_IMAGE = "truncated_image"
    CORRUPT_IMAGE = "corrupt_image"
    DUPLICATE_PAIR = "duplicate_pair"
    MALFORMED_BOX = "malformed_box"  # of a region that the audit was told to read from a column
    MALFORMED_SAMPLE = "malformed_sample"  # of a shard: members that do not make one image and one caption
    DAMAGED_CONTAINER = "damaged_container"  # a shard that cannot be read from some byte on
    CHANGED_SINCE_INGEST = "changed_since_ingest"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a row may cost. A row beyond a limit is rejected before the cost is paid.

    `max_pixels` above twice Pillow's own `MAX_IMAGE_PIXELS` has no effect: that ceiling is left in place.
    `max_aspect_ratio` (longer side over shorter side) is here because a preprocessing that scales the shorter
    side to a fixed length turns a sliver of few pixels into gigabytes.

    Raises:
        ValueError: a limit is below 1.
    """

    max_pixels: int = 50_000_000
    max_file_bytes: int = 256 * 2**20
    max_caption_chars: int = 10_000
    max_aspect_ratio: int = 200

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"Limits: {field.name} is {getattr(self, field.name)}, expected 1 or more.")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image lies in its corpus. Stored with the pair, so that the image is found again without a search.

    name: what people read, '/' between its parts: a file, or a file with many images and the image in it. container,
    position: of an image that is no file of its own, that file (relative to the corpus) and a place in it, which is
    for the reader of the format to interpret: a byte of a tar, a row of a table.
    """

    name: str
    container: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and a caption that can be audited.

    `row` counts the corpus's rows from 0. `place` is that of the image. `caption` is NFC without outer white space.
    `width` and `height` are of the decoded image, `fingerprint` is its perceptual hash (see `corpora.perceptual_hash`).
    """

    row: int
    pair_id: str
    place: Place
    caption: str
    image_sha256: str
    width: int
    height: int
    fingerprint: str
    attributes: dict[str, str]

    @property
    def file_name(self) -> str:
        """The image's name in the corpus."""
        return self.place.name


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be audited, and why: `reason` to count by, `detail` to act on; it begins with the place.

    The texts are storable: NUL and what is not Unicode are written as backslash escapes, over-long texts are
    cut. `file_name` or `caption` is None where the row did not have one.
    """

    row: int
    file_name: str | None
    caption: str | None
    reason: Reason
    detail: str
    attributes: dict[str, str]


def is_storable(text: str) -> bool:
    """Tell whether a text holds neither NUL nor lone surrogates, so that every store takes it."""
    return "\x00" not in text and _SURROGATE.search(text) is None


def escaped(text: str) -> str:
    """The text as every store and log takes it: NUL and lone surrogates as backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def pair_id(image_sha256: str, caption: str) -> str:
    """Return a pair's identity: 16 hex digits of the image file's sha256, a dash, 8 of the caption's."""
    return f"{image_sha256[:16]}-{hashlib.sha256(caption.encode()).hexdigest()[:8]}"


def digest(rows: Iterable[Pair | Rejected]) -> str:
    """Return the sha256 (hex) that identifies a corpus whatever the order of its rows.

    A pair counts by its identity and attributes, a rejected row by its reason, file name and caption. Memory grows by
    32 bytes a row.
    """
    lines = bytearray()  # end to end, as objects of their own they would be thrice as large
    for row in rows:
        lines += hashlib.sha256(_digest_line(row).encode()).digest()
    np.frombuffer(lines, "S32").sort()  # in place
    return hashlib.sha256(lines).hexdigest()


def _digest_line(row: Pair | Rejected) -> str:
    # JSON keeps the fields apart whatever they contain, and holds no line break.
    if isinstance(row, Pair):
        return json.dumps(["pair", row.pair_id, sorted(row.attributes.items())])
    # Which of two identical files comes first, and so which name is rejected, depends on the rows' order.
    file_name = None if row.reason is Reason.DUPLICATE_PAIR else row.file_name
    return json.dumps(["rejected", row.reason, file_name, row.caption])
