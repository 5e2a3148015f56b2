"""The results of reading (`Pair`, `Rejected`), the limits of rows, and the identity of pairs and corpora."""

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
    UNREACHABLE_FILE = "unreachable_file"  # its store does not answer; the row may be fine
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
    MALFORMED_BOX = "malformed_box"  # in a column that `[regions.columns]` names
    MALFORMED_SAMPLE = "malformed_sample"  # members of a shard that are not one image and one caption
    DAMAGED_CONTAINER = "damaged_container"  # a shard that cannot be read from some byte on
    CHANGED_SINCE_INGEST = "changed_since_ingest"


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper limits for a row. They are checked before the cost that they limit is paid.

    Attributes:
        max_pixels: Pixels of an image. Values above twice `PIL.Image.MAX_IMAGE_PIXELS` have no effect.
        max_file_bytes: Bytes of an image file.
        max_caption_chars: Characters of a caption.
        max_aspect_ratio: Longer side over shorter side. A preprocessing that scales the shorter side to a fixed
            length would turn a narrow strip of few pixels into gigabytes.

    Raises:
        ValueError: A limit is below 1.
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
    """The place of an image in its corpus. It is stored with the pair, so that the image is found without a search.

    Attributes:
        name: Readable name with '/' between its parts: a file, or a container and the image in it.
        container: The file that holds the image, relative to the corpus; None if the image is a file of its own.
        position: Position in the container, which only the reader of the format interprets: a byte of a tar, a row of
            a table.
    """

    name: str
    container: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and a caption that can be audited.

    Attributes:
        row: Row number in the corpus, counted from 0.
        pair_id: See `corpora.pair_id`.
        place: Place of the image.
        caption: The caption in NFC without outer white space.
        image_sha256: sha256 of the image file.
        width: Width of the decoded image in pixels.
        height: Height of the decoded image in pixels.
        fingerprint: Perceptual hash of the image; see `corpora.perceptual_hash`.
        attributes: Values of all other columns, as text.
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
        """The name of the image in the corpus."""
        return self.place.name


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be audited.

    All texts can be stored: NUL and invalid Unicode become backslash escapes, and long texts are cut.

    Attributes:
        row: Row number in the corpus, counted from 0.
        file_name: Name of the image, or None if the row has none.
        caption: The caption, or None if the row has none.
        reason: The code to count by.
        detail: Where the row is, what is wrong with it and how to fix it.
        attributes: Values of all other columns, as text.
    """

    row: int
    file_name: str | None
    caption: str | None
    reason: Reason
    detail: str
    attributes: dict[str, str]


def is_storable(text: str) -> bool:
    """Return whether every store takes a text: it has neither NUL nor lone surrogates."""
    return "\x00" not in text and _SURROGATE.search(text) is None


def escape(text: str) -> str:
    """Replace NUL and lone surrogates by backslash escapes, so that every store and log takes the text."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def pair_id(image_sha256: str, caption: str) -> str:
    """Return the identity of a pair: 16 hex digits of the sha256 of the image file, a dash, 8 of the caption's."""
    return f"{image_sha256[:16]}-{hashlib.sha256(caption.encode()).hexdigest()[:8]}"


def digest(rows: Iterable[Pair | Rejected]) -> str:
    """Return the sha256 (hex) that identifies a corpus, whatever the order of its rows.

    A pair contributes its identity and attributes; a rejected row its reason, file name and caption. Memory grows by
    32 bytes per row.

    Args:
        rows: All rows of the corpus, as `Corpus.pairs` yields them.
    """
    hashes = bytearray()  # concatenated: separate objects would take three times the memory
    for row in rows:
        hashes += hashlib.sha256(_spell(row).encode()).digest()
    np.frombuffer(hashes, "S32").sort()  # in place
    return hashlib.sha256(hashes).hexdigest()


def _spell(row: Pair | Rejected) -> str:
    # JSON keeps the fields apart whatever they contain.
    if isinstance(row, Pair):
        return json.dumps(["pair", row.pair_id, sorted(row.attributes.items())])
    # Which of two identical files comes first, and so which name is rejected, depends on the order of the rows.
    file_name = None if row.reason is Reason.DUPLICATE_PAIR else row.file_name
    return json.dumps(["rejected", row.reason, file_name, row.caption])
