"""Results of reading a corpus (`Pair`, `Rejected`), limits on its rows, and identifiers of pairs and corpora."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum

import numpy as np

_SURROGATE = re.compile("[\ud800-\udfff]")


class Reason(StrEnum):
    """Reason why a row is rejected. The values are stored in lakes: add new ones, but never rename one."""

    MALFORMED_ROW = "malformed_row"
    PATH_OUTSIDE_CORPUS = "path_outside_corpus"
    EMPTY_CAPTION = "empty_caption"
    CAPTION_ENCODING = "caption_encoding"
    CAPTION_NOT_TEXT = "caption_not_text"
    CAPTION_TOO_LONG = "caption_too_long"
    MISSING_FILE = "missing_file"
    NOT_A_REGULAR_FILE = "not_a_regular_file"
    UNREADABLE_FILE = "unreadable_file"
    UNREACHABLE_FILE = "unreachable_file"  # the remote store does not answer; the row may be valid
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
    MALFORMED_BOX = "malformed_box"  # a box or mask in a column listed in `[regions.columns]`
    MALFORMED_SAMPLE = "malformed_sample"  # a WebDataset sample that is not one image and one caption
    DAMAGED_CONTAINER = "damaged_container"  # a tar shard that is unreadable from some byte on
    CHANGED_SINCE_INGEST = "changed_since_ingest"


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper limits for a row. Each is checked before the image is decoded or the caption is processed.

    Attributes:
        max_pixels: Number of pixels per image. Values above twice `PIL.Image.MAX_IMAGE_PIXELS` have no effect.
        max_file_bytes: Size of an image file in bytes.
        max_caption_chars: Number of characters per caption.
        max_aspect_ratio: Longer side of an image divided by its shorter side. Without this limit, preprocessing that
            scales the shorter side to a fixed length would turn a narrow strip into gigabytes of pixels.

    Raises:
        ValueError: A limit is below 1.
    """

    max_pixels: int = 50_000_000
    max_file_bytes: int = 256 * 2**20
    max_caption_chars: int = 10_000
    max_aspect_ratio: int = 200

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) < 1:
                raise ValueError(f"Limits: {each.name} is {getattr(self, each.name)}, expected 1 or more.")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Place:
    """Location of an image in its corpus. It is stored with the pair, so that the image is found without a search.

    Attributes:
        name: Readable path with '/' as separator: the path of the image file, or the path of the container followed by
            the name of the image in it.
        container: Path of the tar or table that contains the image, relative to the corpus. None if the image is a
            separate file.
        position: Position in the container: a byte offset in a tar, or a row number in a table. None if the image is a
            separate file.
    """

    name: str
    container: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and a caption that can be audited.

    Attributes:
        row: Row number in the corpus, counted from 0.
        pair_id: Identifier of the pair; see `corpora.pair_id`.
        place: Location of the image.
        caption: The caption in Unicode NFC, without leading and trailing white space.
        image_sha256: sha256 (hex) of the image file.
        width: Width of the decoded image in pixels.
        height: Height of the decoded image in pixels.
        fingerprint: Perceptual hash of the image; see `corpora.perceptual_hash`.
        attributes: Values of all columns except image and caption, as text.
        inspection: Result of the function `inspect` that `Corpus.pairs` was given, or None.
        regions: Regions of the image that the format describes, as text by name. Unlike attributes they are not stored.
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
    inspection: object = None
    regions: dict[str, str] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """Readable path of the image in the corpus; see `Place.name`."""
        return self.place.name


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be audited.

    NUL and invalid Unicode in its texts are replaced by backslash escapes, and long texts are truncated.

    Attributes:
        row: Row number in the corpus, counted from 0.
        file_name: Name of the image, or None if the row has none.
        caption: The caption, or None if the row has none.
        reason: Category of the error, by which rejected rows are counted.
        detail: Message with the location of the row, the problem and its fix.
        attributes: Values of all columns except image and caption, as text.
    """

    row: int
    file_name: str | None
    caption: str | None
    reason: Reason
    detail: str
    attributes: dict[str, str]


def is_storable(text: str) -> bool:
    """Return whether Parquet, DuckDB and JSON can store a text: it contains neither NUL nor lone surrogates."""
    return "\x00" not in text and (text.isascii() or _SURROGATE.search(text) is None)


def escape(text: str) -> str:
    """Replace NUL and lone surrogates by backslash escapes, so that the text can be stored and logged."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def pair_id(image_sha256: str, caption: str) -> str:
    """Return the identifier of a pair.

    It consists of 16 hex digits of the image file's sha256, a dash, and 8 hex digits of the caption's sha256.
    """
    return f"{image_sha256[:16]}-{hashlib.sha256(caption.encode()).hexdigest()[:8]}"


def digest(rows: Iterable[Pair | Rejected]) -> str:
    """Return the sha256 (hex) that identifies a corpus. It does not depend on the order of the rows.

    The digest covers the identifier and attributes of each pair, and the reason, file name and caption of each rejected
    row. Memory grows by 32 bytes per row.

    Args:
        rows: All rows of the corpus, as `Corpus.pairs` yields them.
    """
    hashes = bytearray()  # one buffer, because separate objects would need three times the memory
    for row in rows:
        hashes += hashlib.sha256(_spell(row).encode()).digest()
    np.frombuffer(hashes, "S32").sort()  # in place
    return hashlib.sha256(hashes).hexdigest()


def _spell(row: Pair | Rejected) -> str:
    """Return the text that represents a row in the digest of a corpus; see `digest`."""
    # JSON separates the fields unambiguously, whatever characters they contain.
    if isinstance(row, Pair):
        return json.dumps(["pair", row.pair_id, sorted(row.attributes.items())])
    # The order of the rows decides which of two identical files is rejected, so the digest leaves its name out.
    file_name = None if row.reason is Reason.DUPLICATE_PAIR else row.file_name
    return json.dumps(["rejected", row.reason, file_name, row.caption])
