"""A corpus as WebDataset writes it: uncompressed tars, in which neighbours of the same key make one sample.

The key of a member is its name up to the first dot after the last '/', its suffix is what follows, in lower case.
Members without a key are no samples.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Final

from corpora import roots
from corpora.errors import CorpusError, ImageError, RowError
from corpora.readers import metadata
from corpora.readers import patterns as shards
from corpora.readers.imagefolder import check_name
from corpora.readers.protocol import Columns, Row
from corpora.readers.tar_headers import DamagedTarError, Member, member_at, members
from corpora.records import Limits, Place, Reason
from corpora.roots import Root

COLUMNS: Final = Columns("image", "caption")
_IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "dcm"})
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_SHOWN_SUFFIXES = 8
# Fetched of a remote tar for one image, beyond what is asked for: most images come in one request.
_PICTURE_BYTES = 2**18


def fits(root: Root) -> bool:
    """Whether a root is a tar, holds some, or is a pattern of some; compressed ones too, to be told what to do."""
    suffixes = (".tar", *_COMPRESSED)
    if roots.is_folder(root):
        return any(name.endswith(suffixes) for name in roots.names(root, "*.t*"))
    return root.name.endswith(suffixes) and (roots.is_file(root) or shards.is_pattern(root))


@dataclass(slots=True)
class _Sample:
    """What is kept of neighbours with one key, however many they are. key: None for one that cannot have any."""

    key: str | None
    position: int
    name: str
    image: Member | None = None
    data: bytes | None = None
    text: bytes | None = None
    json: bytes | None = None
    seen: set[str] = field(default_factory=set)
    suffixes: list[str] = field(default_factory=list)
    trouble: tuple[Reason, str] | None = None

    def blame(self, reason: Reason, what: str) -> None:
        self.trouble = self.trouble or (reason, what)


class TarReader:
    """One tar, a folder of them or a pattern. The caption is a .txt, or a key of a .json; other keys are attributes.

    columns: `COLUMNS` stand for any image, and for .txt, then `caption` and `text` of the .json. Any other image
    column is the one suffix to take (`left.jpg`), any other caption column the one key of the .json. Numbers, booleans
    and nested values become attributes as in `FolderReader`; members of other suffixes are left alone.
    """

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        self._root, self._columns, self._limits = root, columns, limits
        self._folder = root if roots.is_folder(root) else root.parent

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        names = self._names()
        rows = (row for name in names for row in self._shard(name, load=True))
        first = next(rows, None)
        if first is None:
            raise CorpusError(
                f"Corpus {str(self._root)!r} has zero samples in {len(names)} tars, expected members named "
                "KEY.jpg and KEY.txt or KEY.json: write it again."
            )
        return itertools.chain([first], rows)

    def count(self) -> int:
        """See `Reader.count`. Reads the headers only."""
        return sum(1 for name in self._names() for _ in self._shard(name, load=False))

    def place(self, row: Row) -> Place:
        """See `Reader.place`."""
        if row.place is None:
            raise RowError(Reason.MISSING_FILE, f"{row.where} has no image, expected one: add it.")
        return row.place

    def image(self, place: Place) -> bytes:
        """See `Reader.image`. Goes to the byte where the member stood, and takes nothing else for it."""
        if place.container is None or place.position is None or place.position < 0:
            raise ImageError(Reason.MISSING_FILE, f"{place.name!a} names no byte of a tar: audit the corpus again.")
        try:
            path = shards.check(self._folder, place.container, self._root)
            with roots.open_binary(path, ahead=_PICTURE_BYTES) as file:
                member = member_at(file, place.position, file.seek(0, os.SEEK_END))
                if member is None or member.kind or f"{place.container}/{member.name}" != place.name:
                    raise _changed(place, "another member, or none, stands there now")
                if member.size > self._limits.max_file_bytes:
                    raise ImageError(Reason.FILE_TOO_LARGE, _too_large(member, self._limits.max_file_bytes))
                return _read(file, member)
        except DamagedTarError as error:
            raise _changed(place, error.what) from error
        except OSError as error:
            raise ImageError(roots.reason_of(error), f"{place.container} {_unreadable(error)}") from error
        except RowError as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(error.reason, f"{place.container!a} {error.detail}") from error

    def _names(self) -> list[str]:
        if self._root.name.endswith(_COMPRESSED):
            raise CorpusError(f"Corpus {str(self._root)!r} is a compressed tar, {_UNPACK}")
        if roots.is_folder(self._root):
            packed = [name for name in roots.names(self._root, "*.t*") if name.endswith(_COMPRESSED)]
            if packed:
                raise CorpusError(f"Corpus {str(self._root)!r} has the compressed tar {packed[0]!r}, {_UNPACK}")
        return shards.find(self._root, ".tar")[1]

    def _shard(self, name: str, load: bool) -> Iterator[Row]:
        """The rows of a shard. Its damage is one row, where it begins; then the shard is left."""
        try:
            path = shards.check(self._folder, name, self._root)
        except RowError as error:
            yield Row(f"Shard {name!a}", file_name=name, trouble=error.detail, reason=error.reason)
            return
        try:
            with roots.open_binary(path) as file:
                yield from (self._row(name, sample) for sample in self._samples(file, load))
        except DamagedTarError as error:
            reason = Reason.EMPTY_FILE if error.what == "is empty" else Reason.DAMAGED_CONTAINER
            trouble = f"{error.what}, expected an uncompressed tar: samples before this byte stand, write it again."
            yield Row(f"Shard {name!a}, byte {error.position},", file_name=name, trouble=trouble, reason=reason)
        except OSError as error:
            yield Row(f"Shard {name!a}", file_name=name, trouble=_unreadable(error), reason=roots.reason_of(error))

    def _samples(self, file: IO[bytes], load: bool) -> Iterator[_Sample]:
        sample: _Sample | None = None
        try:
            for member in members(file):
                key, suffix = _split(member.name)
                if member.kind == "a directory":
                    continue
                if key is None:
                    yield from filter(None, [self._keyless(member, suffix)])
                    continue
                if sample is None or key != sample.key:
                    yield from filter(None, [sample])
                    sample = _Sample(key, member.position, member.name)
                if load:
                    self._take(sample, member, suffix, file)
        except DamagedTarError:
            yield from filter(None, [sample])
            raise
        yield from filter(None, [sample])

    def _keyless(self, member: Member, suffix: str) -> _Sample | None:
        sample = _Sample(None, member.position, member.name)
        _check(sample, member)
        if suffix in _IMAGES and not member.name.rpartition("/")[2].startswith("._"):  # macOS: no image, but about one
            sample.blame(Reason.MALFORMED_SAMPLE, "is an image without a key, expected a name before its first dot")
        return sample if sample.trouble else None

    def _take(self, sample: _Sample, member: Member, suffix: str, file: IO[bytes]) -> None:
        _check(sample, member)
        role = self._role(suffix)
        if not role:
            if len(sample.suffixes) < _SHOWN_SUFFIXES:
                sample.suffixes.append(suffix[:80])
            return
        if role in sample.seen:
            named = {"image": "an image", "text": "a .txt", "json": "a .json"}[role]
            remedy = f"name the suffix of the one to take: {metadata.IMAGE_OPTION}" if role == "image" else "keep one"
            sample.blame(Reason.MALFORMED_SAMPLE, f"has {named} more than once, expected one: {remedy}.")
            return
        sample.seen.add(role)
        if role == "image":
            sample.image, sample.name = member, member.name
        largest = self._limits.max_file_bytes if role == "image" else metadata.MAX_LINE_BYTES
        if member.size > largest:
            reasons = {"image": Reason.FILE_TOO_LARGE, "text": Reason.CAPTION_TOO_LONG, "json": Reason.MALFORMED_SAMPLE}
            sample.blame(reasons[role], f"holds {_too_large(member, largest)}")
        elif member.kind is None:
            data = _read(file, member)
            sample.data = data if role == "image" else sample.data
            sample.text = data if role == "text" else sample.text
            sample.json = data if role == "json" else sample.json

    def _role(self, suffix: str) -> str | None:
        any_image = self._columns.image == COLUMNS.image
        if suffix in _IMAGES if any_image else suffix == self._columns.image.lower():
            return "image"
        if suffix == "txt" and self._columns.caption == COLUMNS.caption:
            return "text"
        return "json" if suffix == "json" else None

    def _row(self, shard: str, sample: _Sample) -> Row:
        caption, attributes = self._described(sample)
        if sample.image is None:
            further = f" (further members: {', '.join(map(ascii, sample.suffixes))})" if sample.suffixes else ""
            wanted = ", ".join(sorted(_IMAGES)) if self._columns.image == COLUMNS.image else self._columns.image
            sample.blame(
                Reason.MISSING_FILE,
                f"has no image{further}, expected a member whose name goes on with one of {wanted} after its first "
                "dot, next to its caption: add or rename it, sort the tar by name, or name its suffix "
                f"({metadata.IMAGE_OPTION}).",
            )
        if caption is None:
            keys = "'caption' or 'text'" if self._columns.caption == COLUMNS.caption else repr(self._columns.caption)
            what = (
                f"has no caption, expected a .txt or a .json with {keys} next to the image: add it, sort the tar by "
                f"name, or name the key ({metadata.CAPTION_OPTION})."
            )
            sample.blame(Reason.EMPTY_CAPTION, what)
        name = f"{shard}/{sample.name}"
        whole = sample.trouble is None and sample.image is not None
        return Row(
            where=f"Shard {shard!a}, byte {sample.position}, {'sample' if sample.key else 'member'} "
            f"{(sample.key or sample.name)[:200]!a}",
            file_name=name,
            caption=caption,
            attributes=attributes,
            trouble=sample.trouble[1] if sample.trouble else None,
            reason=sample.trouble[0] if sample.trouble else Reason.MALFORMED_ROW,
            place=Place(name, shard, sample.image.position) if whole and sample.image else None,
            data=sample.data if whole else None,
        )

    def _described(self, sample: _Sample) -> tuple[object, dict[str, str]]:
        cells: dict[str, object] = {}
        if sample.json is not None:
            loaded = metadata.json_object(_decoded(sample.json))
            if isinstance(loaded, str):
                sample.blame(Reason.MALFORMED_ROW, f"has a .json that {loaded}")
            else:
                cells = loaded
        keys = ("caption", "text") if self._columns.caption == COLUMNS.caption else (self._columns.caption,)
        caption: object = None if sample.text is None else _decoded(sample.text)
        for key in keys:
            if caption is None or cells.get(key) == caption:  # many writers store it twice
                caption = cells.pop(key, None)
        attributes, trouble = metadata.attributes_of(cells)
        if trouble:
            sample.blame(Reason.MALFORMED_ROW, f"{trouble} of its .json")
        return caption, attributes


_UNPACK = (
    "expected uncompressed ones, in which a member can be found by its byte: unpack them (gunzip, unzstd); images "
    "are compressed already."
)


def _split(name: str) -> tuple[str | None, str]:
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    if not stem and suffix:
        return None, suffix.rpartition(".")[2].lower()
    return (f"{folder}{slash}{stem}", suffix.lower()) if dot else (None, "")


def _check(sample: _Sample, member: Member) -> None:
    shown = ascii(member.name[:200])
    try:
        check_name(member.name)
    except RowError as error:
        sample.blame(error.reason, f"holds a member named {shown}, expected a relative name in Unicode, without '..'")
    if member.kind:
        what = f"holds {shown}, which is {member.kind}, expected regular files: pack it again without links."
        sample.blame(Reason.NOT_A_REGULAR_FILE, what)


def _read(file: IO[bytes], member: Member) -> bytes:
    file.seek(member.start)
    data = file.read(member.size)
    if len(data) < member.size:
        raise DamagedTarError(member.position, f"was cut short in {member.name[:200]!a} while it was read")
    return data


def _decoded(data: bytes) -> str:
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _too_large(member: Member, largest: int) -> str:
    return f"{member.name[:200]!a} of {member.size} bytes, expected at most {largest}: make it smaller."


def _changed(place: Place, what: str) -> ImageError:
    return ImageError(
        Reason.CHANGED_SINCE_INGEST,
        f"{place.name!a} was at byte {place.position} of {place.container!a}: {what}; audit the corpus again.",
    )


def _unreadable(error: OSError) -> str:
    remedy = "check the network" if isinstance(error, ConnectionError) else "check its permissions and the disk"
    return f"cannot be read ({type(error).__name__}: {error.strerror or error}): {remedy}."
