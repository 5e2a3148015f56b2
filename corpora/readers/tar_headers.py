"""The members of an uncompressed tar one by one: found by their headers, in bounded memory, each at its own byte.

`tarfile` reads the header block itself. The headers that extend it (long names, PAX records) are read here: what they
may cost is bounded, and a member is found again at its position without a look at those before it.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 2**16
_MAX_EXTENSION_BYTES = 2**20
_MAX_EXTENSIONS = 8
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSIONS = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a directory",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"(\xb5/\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
)


class DamagedTarError(ValueError):
    """From this byte on, a tar cannot be read."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(position, what)
        self.position = position
        self.what = what


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar, its data unread.

    name: without a leading './' or a last '/'; bytes that are not UTF-8 are lone surrogates. kind: what it is instead
    of a regular file, None for one. position: byte of its first header, extensions included. start, size: of its
    data, in bytes.
    """

    name: str
    kind: str | None
    position: int
    start: int
    size: int

    @property
    def following(self) -> int:
        """The byte at which the next header stands."""
        return self.start + _padded(self.size)


def members(file: IO[bytes]) -> Iterator[Member]:
    """Yield the members in their order. Between two, the file may be read and moved; of the data, none is read.

    Raises:
        DamagedTarError: the file is no tar, was cut short, or goes on behind its end.
    """
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        raise DamagedTarError(0, "is empty")
    position = 0
    while member := member_at(file, position, end):
        yield member
        position = member.following
    _check_rest(file)


def member_at(file: IO[bytes], position: int, end: int) -> Member | None:
    """Return the member whose first header stands at a byte; None where the archive says that it ends.

    Raises:
        DamagedTarError: there is no header, or the file, of `end` bytes, is shorter than the header says.
    """
    said = _Extended(position)
    at = position
    for _ in range(_MAX_EXTENSIONS + 1):
        header = _header(file, at, end)
        if header is None:
            if at > said.first:
                raise DamagedTarError(at, "ends between the headers of one member")
            return None
        if header.type not in _EXTENSIONS:
            return _member(file, header, at + _BLOCK, said, end)
        said.take(file, header, at + _BLOCK)
        at += _BLOCK + _padded(header.size)
    raise DamagedTarError(said.first, f"has more than {_MAX_EXTENSIONS} headers for one member")


@dataclass(slots=True)
class _Extended:
    """What the headers before that of a member say about it. first: the byte of the first of them."""

    first: int
    name: str | None = None
    size: int | None = None
    sparse: bool = False

    def take(self, file: IO[bytes], header: tarfile.TarInfo, start: int) -> None:
        if header.type == tarfile.XGLTYPE:
            # Its records would hold for all that follows; who comes to a later member by its position misses them.
            if self.first == start - _BLOCK:
                self.first = start + _padded(header.size)
            return
        data = _extension(file, start, header.size)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            self.name = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        elif header.type in _PAX:
            for key, value in _pax_records(data, start):
                if key == b"path":
                    self.name = value.decode("utf-8", "surrogateescape")
                elif key == b"size":
                    self.size = _number(value, start)
                self.sparse |= key.startswith(b"GNU.sparse.")


def _member(file: IO[bytes], header: tarfile.TarInfo, start: int, said: _Extended, end: int) -> Member:
    # As in tarfile: links, devices and folders have no data, whatever size they name.
    stored = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
    member = Member(
        name=(header.name if said.name is None else said.name).removeprefix("./").rstrip("/"),
        kind="a sparse file" if said.sparse else _kind(header),
        position=said.first,
        start=_behind_sparse_maps(file, start) if header.type == tarfile.GNUTYPE_SPARSE else start,
        size=(header.size if said.size is None else said.size) if stored else 0,
    )
    if member.start + member.size > end:
        there = f"{max(0, end - member.start)} are there"
        what = f"was cut short: member {member.name[:200]!a} has {member.size} bytes, {there}"
        raise DamagedTarError(said.first, what)
    return member


def _kind(header: tarfile.TarInfo) -> str | None:
    if header.isreg() and header.type != tarfile.GNUTYPE_SPARSE:
        return None
    return _KINDS.get(header.type, f"of the unknown type {header.type!r}")


def _header(file: IO[bytes], at: int, end: int) -> tarfile.TarInfo | None:
    block = b""
    if at < end:  # what a header says may lie beyond what a file can seek to
        file.seek(at)
        block = file.read(_BLOCK)
    if not block:
        raise DamagedTarError(at, "was cut short: it has no end mark (two blocks of zeros)")
    if len(block) == _BLOCK and not any(block):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise DamagedTarError(at, _no_header(block, at)) from error
    if header.size < 0:
        raise DamagedTarError(at, f"has a member of {header.size} bytes")
    return header


def _no_header(block: bytes, at: int) -> str:
    for signature, name in _COMPRESSED:
        if at == 0 and block.startswith(signature):
            return f"is compressed ({name})"
    return f"holds {block[:16]!a} where the header of a member should stand"


def _extension(file: IO[bytes], start: int, size: int) -> bytes:
    if size > _MAX_EXTENSION_BYTES:
        raise DamagedTarError(
            start, f"has an extended header of {size} bytes (at most {_MAX_EXTENSION_BYTES} are read)"
        )
    data = file.read(size)  # the file stands behind the header block
    if len(data) < size:
        raise DamagedTarError(start, "was cut short in an extended header")
    return data


def _pax_records(data: bytes, start: int) -> Iterator[tuple[bytes, bytes]]:
    """Records '<length> <key>=<value>' and a line feed; the length, in bytes, counts all of it (POSIX.1-2001, pax)."""
    at = 0
    while at < len(data) and data[at]:
        digits, blank, _ = data[at : at + 20].partition(b" ")
        length = _number(digits, start + at)
        key, equals, value = data[at + len(digits) + 1 : at + length - 1].partition(b"=")
        if not (blank and equals) or data[at + length - 1 : at + length] != b"\n":
            raise DamagedTarError(start + at, "holds a PAX record that cannot be read")
        yield key, value
        at += length


def _number(digits: bytes, at: int) -> int:
    if not (digits.isdigit() and len(digits) < 20):
        raise DamagedTarError(at, f"holds {digits[:20]!a} in a PAX record where a number should stand")
    return int(digits)


def _behind_sparse_maps(file: IO[bytes], start: int) -> int:
    # The old GNU format: a flag in the header says that a block of map follows, a flag in that one, and so on.
    file.seek(start - _BLOCK)
    flag = file.read(_BLOCK)[482:483]
    while flag > b"\0":
        flag = file.read(_BLOCK)[504:505]
        start += _BLOCK
    return start


def _check_rest(file: IO[bytes]) -> None:
    position = file.tell()
    while chunk := file.read(_CHUNK):
        if chunk.count(0) < len(chunk):
            at = position + len(chunk) - len(chunk.lstrip(b"\0"))
            raise DamagedTarError(at, "goes on behind its end mark; what stands there is not read")
        position += len(chunk)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
