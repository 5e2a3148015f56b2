"""Reader of WebDataset: uncompressed tars in which consecutive members with the same key form a sample.

The key of a member is its name up to the first dot after the last '/'. Its suffix is the text after this dot, in lower
case. Members without a key belong to no sample.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Final

from corpora import roots
from corpora.errors import CorpusError, ImageError, RowError
from corpora.images import SUFFIXES
from corpora.readers import metadata, patterns
from corpora.readers.imagefolder import check_name
from corpora.readers.protocol import Columns, ContainerReader, Row, require_rows
from corpora.readers.tar_headers import DamagedTarError, Member, member_at, members
from corpora.records import Limits, Place, Reason
from corpora.roots import Root

_IMAGES = frozenset(suffix.removeprefix(".") for suffix in SUFFIXES)
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_UNPACK: Final = (
    "expected uncompressed tars, in which members are read by byte offset. Unpack them (gunzip, unzstd); images are "
    "already compressed."
)
# Description of each member that a sample can have, and the reason to reject a larger file.
_ROLES: Final = {
    "image": ("an image", Reason.FILE_TOO_LARGE),
    "text": ("a .txt", Reason.CAPTION_TOO_LONG),
    "json": ("a .json", Reason.MALFORMED_SAMPLE),
}
_SHOWN_SUFFIXES = 8
# Bytes per request to a remote tar for a single image. Most images fit in one request.
_PICTURE_BYTES = 2**18


@dataclass(slots=True)
class _Sample:
    """A WebDataset sample: what consecutive tar members with the same key contain.

    Attributes:
        key: The key, or None for a single member without a key.
        position: Byte offset of the first member.
        name: Name of the image, or of the first member if the sample has no image.
        image: The member with the image.
        data: Contents of members by role: `image`, `text` or `json`. None for a member that cannot be used.
        suffixes: Suffixes of some members without a role, for messages.
        problem: Reason and message of the first failed check.
    """

    key: str | None
    position: int
    name: str
    image: Member | None = None
    data: dict[str, bytes | None] = field(default_factory=dict)
    suffixes: list[str] = field(default_factory=list)
    problem: tuple[Reason, str] | None = None

    def reject(self, reason: Reason, problem: str) -> None:
        """Set the problem of the sample, unless it already has one."""
        self.problem = self.problem or (reason, problem)


class WebDatasetReader(ContainerReader):
    """Reader of a tar, a folder of tars, or a pattern of tars. Consecutive members with the same key become one row.

    With the default columns, the image is the member with any image suffix. The caption is the .txt member, or else the
    value of `caption` or `text` in the .json member. A different image column is the suffix of the image, such as
    `left.jpg`. A different caption column is the key of the caption in the .json. The other values of the .json become
    attributes, with numbers, booleans and nested values converted as in `FolderReader`. Other members are ignored.
    """

    default_columns = Columns("image", "caption")
    description = "a .tar, a folder of them, or a pattern of .tar files in the last part of the path"

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        super().__init__(root, columns, limits)
        self._folder = root if roots.is_folder(root) else root.parent
        self._any_image = columns.image == self.default_columns.image
        self._any_caption = columns.caption == self.default_columns.caption

    @classmethod
    def fits(cls, root: Root) -> bool:
        """See `Reader.fits`. Compressed tars are accepted too, so that reading them raises a helpful error."""
        suffixes = (".tar", *_COMPRESSED)
        if roots.is_folder(root):
            return any(name.endswith(suffixes) for name in roots.list_names(root, "*.t*"))
        return root.name.endswith(suffixes) and (roots.is_file(root) or patterns.is_pattern(root))

    def rows(self) -> Iterator[Row]:
        """See `Reader.rows`."""
        names = self.containers()
        rows = (row for name in names for row in self.container_rows(name))
        return require_rows(
            rows,
            f"Corpus {str(self._root)!r} has zero samples in {len(names)} tars (expected members named KEY.jpg and "
            "KEY.txt or KEY.json). Write the tars again.",
        )

    def container_rows(self, name: str) -> Iterator[Row]:
        """See `ContainerReader.container_rows`."""
        return self._shard_rows(name, load=True)

    def container_count(self, name: str) -> int:
        """See `ContainerReader.container_count`. Only the headers of tar members are read."""
        return sum(1 for _ in self._shard_rows(name, load=False))

    def container_path(self, name: str) -> Root:
        """See `ContainerReader.container_path`."""
        return patterns.check_shard(self._folder, name, self._root)

    def image(self, place: Place) -> bytes:
        """See `Reader.image`. The member at the stored byte offset must have the stored name."""
        if place.container is None or place.position is None or place.position < 0:
            raise ImageError(
                Reason.MISSING_FILE, f"{place.name!a} states no position in a tar. Audit the corpus again."
            )
        try:
            with roots.open_binary(self.container_path(place.container), ahead=_PICTURE_BYTES) as file:
                member = member_at(file, place.position, file.seek(0, os.SEEK_END))
                if member is None or member.kind or f"{place.container}/{member.name}" != place.name:
                    raise _changed_error(place, "another member, or none, is there now")
                return _read(file, member, self._limits.max_file_bytes)
        except DamagedTarError as error:
            raise _changed_error(place, error.problem) from error
        except ImageError:
            raise
        except (OSError, RowError) as error:
            problem = roots.row_error(error)
            raise ImageError(problem.reason, f"{place.container!a} {problem.detail}") from error

    def containers(self) -> list[str]:
        """See `ContainerReader.containers`."""
        shards = roots.list_names(self._root, "*.t*") if roots.is_folder(self._root) else [self._root.name]
        packed = next((name for name in shards if name.endswith(_COMPRESSED)), None)
        if packed is not None:
            raise CorpusError(f"Corpus {str(self._root)!r} has the compressed tar {packed!r}, {_UNPACK}")
        return patterns.find(self._root, ".tar")

    def _shard_rows(self, name: str, load: bool) -> Iterator[Row]:
        """Yield the rows of a tar: those before the first damage, and one rejected row for the rest.

        Without `load`, the contents of members are not read, and only the number of rows is correct.
        """
        location = f"Shard {name!a}"
        try:
            with roots.open_binary(self.container_path(name)) as file:
                yield from (self._row(name, sample) for sample in self._samples(file, load))
        except (OSError, RowError) as error:
            cause = roots.row_error(error)
            yield Row(location, name, problem=cause.detail, reason=cause.reason)
        except DamagedTarError as error:
            reason = Reason.EMPTY_FILE if error.problem == "is empty" else Reason.DAMAGED_CONTAINER
            problem = (
                f"{error.problem} (expected an uncompressed tar). Samples before this byte are kept. "
                "Write the tar again."
            )
            yield Row(f"{location}, byte {error.position},", name, problem=problem, reason=reason)

    def _samples(self, file: IO[bytes], load: bool) -> Iterator[_Sample]:
        """Group the members of a tar into samples. Without `load`, samples lack the contents of their members."""
        sample: _Sample | None = None
        try:
            for member in members(file):
                key, suffix = _split(member.name)
                if member.kind == "a directory":
                    continue
                if key is None:
                    yield from filter(None, [_keyless_sample(member, suffix)])
                    continue
                if sample is None or key != sample.key:
                    yield from filter(None, [sample])
                    sample = _Sample(key, member.position, member.name)
                if load:
                    self._add(sample, member, suffix, file)
        except DamagedTarError:
            yield from filter(None, [sample])
            raise
        yield from filter(None, [sample])

    def _add(self, sample: _Sample, member: Member, suffix: str, file: IO[bytes]) -> None:
        """Add a tar member to a sample, and read its contents if it has a role (see `_role`)."""
        _check(sample, member)
        role = self._role(suffix)
        if not role:
            if len(sample.suffixes) < _SHOWN_SUFFIXES:
                sample.suffixes.append(suffix[:80])
            return
        kind, too_large = _ROLES[role]
        largest = self._limits.max_file_bytes if role == "image" else metadata.MAX_LINE_BYTES
        if role in sample.data:
            fix = f"name the suffix of the right image ({metadata.IMAGE_OPTION})" if role == "image" else "keep one"
            sample.reject(Reason.MALFORMED_SAMPLE, f"has {kind} more than once (expected one); {fix}.")
            return
        sample.data[role] = None
        if role == "image":
            sample.image, sample.name = member, member.name
        if member.size > largest:
            sample.reject(too_large, f"has the member {_too_large(member, largest)}")
        elif member.kind is None:
            sample.data[role] = _read(file, member, largest)

    def _role(self, suffix: str) -> str | None:
        """Return the role of a tar member by its suffix: `image`, `text`, `json`, or None if the member is ignored."""
        if suffix in _IMAGES if self._any_image else suffix == self._columns.image.lower():
            return "image"
        if suffix == "txt" and self._any_caption:
            return "text"
        return "json" if suffix == "json" else None

    def _row(self, shard: str, sample: _Sample) -> Row:
        caption, attributes = self._caption_and_attributes(sample)
        if sample.image is None:
            others = f" (other members: {', '.join(map(ascii, sample.suffixes))})" if sample.suffixes else ""
            suffixes = ", ".join(sorted(_IMAGES)) if self._any_image else self._columns.image
            sample.reject(
                Reason.MISSING_FILE,
                f"has no image{others}, expected a member next to its caption, with one of these suffixes after the "
                f"first dot of its name: {suffixes}. Add or rename it, sort the tar by name, or name its suffix "
                f"({metadata.IMAGE_OPTION}).",
            )
        if caption is None:
            keys = "'caption' or 'text'" if self._any_caption else repr(self._columns.caption)
            problem = (
                f"has no caption (expected a .txt or a .json with {keys} next to the image). Add it, sort the tar by "
                f"name, or name the key ({metadata.CAPTION_OPTION})."
            )
            sample.reject(Reason.EMPTY_CAPTION, problem)
        name = f"{shard}/{sample.name}"
        kind = "sample" if sample.key else "member"
        location = f"Shard {shard!a}, byte {sample.position}, {kind} {(sample.key or sample.name)[:200]!a}"
        if sample.problem or sample.image is None:
            reason, problem = sample.problem or (Reason.MALFORMED_ROW, "")
            return Row(location, name, caption, attributes, problem, reason)
        place = Place(name, shard, sample.image.position)
        return Row(location, name, caption, attributes, place=place, data=sample.data.get("image"))

    def _caption_and_attributes(self, sample: _Sample) -> tuple[object, dict[str, str]]:
        cells: dict[str, object] = {}
        if (data := sample.data.get("json")) is not None:
            loaded = metadata.parse_object(_decode(data))
            if isinstance(loaded, str):
                sample.reject(Reason.MALFORMED_ROW, f"has a .json that {loaded}")
            else:
                cells = loaded
        keys = ("caption", "text") if self._any_caption else (self._columns.caption,)
        text = sample.data.get("text")
        caption: object = None if text is None else _decode(text)
        for key in keys:
            if caption is None or cells.get(key) == caption:  # many writers store the caption in both
                caption = cells.pop(key, None)
        attributes, problem = metadata.attributes_of(cells)
        if problem:
            sample.reject(Reason.MALFORMED_ROW, f"{problem} of its .json")
        return caption, attributes


def _keyless_sample(member: Member, suffix: str) -> _Sample | None:
    """Return a rejected sample for a tar member without a key, or None if the member is valid and no image."""
    sample = _Sample(None, member.position, member.name)
    _check(sample, member)
    if suffix in _IMAGES and not member.name.rpartition("/")[2].startswith("._"):  # files of macOS metadata
        sample.reject(Reason.MALFORMED_SAMPLE, "is an image without a key (the name before its first dot); rename it")
    return sample if sample.problem else None


def _split(name: str) -> tuple[str | None, str]:
    """Split the name of a tar member into its key (None without a key) and its suffix in lower case; see the module."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    if not stem and suffix:
        return None, suffix.rpartition(".")[2].lower()
    return (f"{folder}{slash}{stem}", suffix.lower()) if dot else (None, "")


def _check(sample: _Sample, member: Member) -> None:
    """Reject a sample if the name of a member is invalid or the member is not a regular file."""
    name = ascii(member.name[:200])
    try:
        check_name(member.name)
    except RowError as error:
        sample.reject(error.reason, f"has a member named {name}, expected a relative name in Unicode, without '..'")
    if member.kind:
        problem = f"has the member {name}, which is {member.kind}, expected regular files; pack it again without links."
        sample.reject(Reason.NOT_A_REGULAR_FILE, problem)


def _read(file: IO[bytes], member: Member, largest: int) -> bytes:
    if member.size > largest:
        raise ImageError(Reason.FILE_TOO_LARGE, _too_large(member, largest))
    file.seek(member.start)
    data = file.read(member.size)
    if len(data) < member.size:
        raise DamagedTarError(member.position, f"was cut short in {member.name[:200]!a} while it was read")
    return data


def _decode(data: bytes) -> str:
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _too_large(member: Member, largest: int) -> str:
    return f"{member.name[:200]!a} of {member.size} bytes (expected at most {largest}). Make it smaller."


def _changed_error(place: Place, problem: str) -> ImageError:
    return ImageError(
        Reason.CHANGED_SINCE_INGEST,
        f"{place.name!a} was at byte {place.position} of {place.container!a}: {problem}; audit the corpus again.",
    )
