"""Reading of the members of an uncompressed tar in bounded memory, in sequence or by byte offset.

`tarfile` parses the header block of a member. This module parses extension headers (long names, PAX records), with a
limit on their size, so that a member can be read at its offset without reading the members before it.
"""

import os
import re
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
# A regular file as tarfile and GNU tar write it: name, size and checksum.
_REGULAR = re.compile(
    rb"([^\0]+)\0*(?<=^.{100})(?:[0-7]{7}\0){3}([0-7]{11})\0[0-7]{11}\0([0-7]{6})\0 0\0{100}ustar(?:\00000|  \0)"
    rb"[ -\x7f\0]{64}(?:[0-7]{7}\0|\0{8}){2}\0{167}",
    re.DOTALL,
)
_CHECKSUM = slice(148, 156)
_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"(\xb5/\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
)


class DamagedTarError(ValueError):
    """A tar is damaged, and cannot be read from some byte on.

    Attributes:
        position: Offset of this byte from the beginning of the tar.
        problem: Predicate of a sentence whose subject is the tar.
    """

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(position, problem)
        self.position = position
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Member:
    """Header information of a tar member.

    Attributes:
        name: Name without leading './' or trailing '/'. Invalid UTF-8 appears as lone surrogates.
        kind: Type of the member with an article, such as "a symbolic link". None for a regular file.
        position: Byte offset of the member's first header, which may be an extension header.
        start: Byte offset of the member's data.
        size: Size of the member's data in bytes.
    """

    name: str
    kind: str | None
    position: int
    start: int
    size: int


def members(file: IO[bytes]) -> Iterator[Member]:
    """Yield the members of a tar in order, without their data. Callers may read and seek in the file meanwhile.

    Raises DamagedTarError if the file is not a tar, is truncated, or continues after its end mark.
    """
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        raise DamagedTarError(0, "is empty")
    position = 0
    while member := member_at(file, position, end):
        yield member
        position = member.start + _pad_to_block(member.size)
    _check_rest(file)


def member_at(file: IO[bytes], position: int, end: int) -> Member | None:
    """Return the member whose first header is at a byte offset, or None if the end mark is there.

    Raises DamagedTarError if no valid header is there, or the tar, which has `end` bytes, is too short for the member.
    """
    records: dict[bytes, bytes] = {}  # from extension headers
    first = at = position
    for _ in range(_MAX_EXTENSIONS + 1):
        header = _read_header(file, at, end)
        if header is None:
            if at > first:
                raise DamagedTarError(at, "ends between the headers of one member")
            return None
        start = at + _BLOCK
        if header.type not in _EXTENSIONS:
            return _make_member(file, header, records, first, start, end)
        at = start + _pad_to_block(header.size)
        if header.type == tarfile.XGLTYPE:
            # Global records apply to all later members. They are ignored, because they are unknown when a member is
            # read by its offset.
            first = at if first == start - _BLOCK else first
            continue
        data = _read_extension(file, start, header.size)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            records[b"path"] = data.split(b"\0", 1)[0]
        elif header.type in _PAX:
            records.update(_pax_records(data, start))
    raise DamagedTarError(first, f"has more than {_MAX_EXTENSIONS} headers for one member")


def _make_member(
    file: IO[bytes], header: tarfile.TarInfo, records: dict[bytes, bytes], first: int, start: int, end: int
) -> Member:
    name = records[b"path"].decode("utf-8", "surrogateescape") if b"path" in records else header.name
    size = _parse_number(records[b"size"], first) if b"size" in records else header.size
    # As in tarfile, links, devices and folders have no data, even if their header states a size.
    stored = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
    is_sparse = any(key.startswith(b"GNU.sparse.") for key in records)
    member = Member(
        name=name.removeprefix("./").rstrip("/"),
        kind="a sparse file" if is_sparse else _kind(header),
        position=first,
        start=_skip_sparse_maps(file, start) if header.type == tarfile.GNUTYPE_SPARSE else start,
        size=size if stored else 0,
    )
    if member.start + member.size > end:
        rest = f"but only {max(0, end - member.start)} are left"
        problem = f"was cut short: member {member.name[:200]!a} has {member.size} bytes, {rest}"
        raise DamagedTarError(first, problem)
    return member


def _kind(header: tarfile.TarInfo) -> str | None:
    if header.isreg() and header.type != tarfile.GNUTYPE_SPARSE:
        return None
    return _KINDS.get(header.type, f"of the unknown type {header.type!r}")


def _read_header(file: IO[bytes], at: int, end: int) -> tarfile.TarInfo | None:
    block = b""
    if at < end:  # a header may announce an offset that is too large to seek to
        file.seek(at)
        block = file.read(_BLOCK)
    if not block:
        raise DamagedTarError(at, "was cut short: it has no end mark (two blocks of zeros)")
    if len(block) == _BLOCK and not any(block):
        return None
    if header := _parse_regular(block):
        return header
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise DamagedTarError(at, _describe_block(block, at)) from error
    if header.size < 0:
        raise DamagedTarError(at, f"has a member of {header.size} bytes")
    return header


def _parse_regular(block: bytes) -> tarfile.TarInfo | None:
    """Parse the header of a regular file if it is written as usual. For any other block, the result is None.

    For such a header, `tarfile` finds the same name, size and type in three times the time.
    """
    found = _REGULAR.fullmatch(block)
    if found is None or sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ") != int(found[3], 8):
        return None
    header = tarfile.TarInfo(found[1].decode("utf-8", "surrogateescape"))
    header.size = int(found[2], 8)
    return header


def _describe_block(block: bytes, at: int) -> str:
    for signature, name in _COMPRESSED:
        if at == 0 and block.startswith(signature):
            return f"is compressed ({name})"
    return f"has {block[:16]!a} where the header of a member should be"


def _read_extension(file: IO[bytes], start: int, size: int) -> bytes:
    if size > _MAX_EXTENSION_BYTES:
        problem = f"has an extended header of {size} bytes (at most {_MAX_EXTENSION_BYTES} are read)"
        raise DamagedTarError(start, problem)
    data = file.read(size)  # the file is at the end of the header block
    if len(data) < size:
        raise DamagedTarError(start, "was cut short in an extended header")
    return data


def _pax_records(data: bytes, start: int) -> Iterator[tuple[bytes, bytes]]:
    r"""Parse the records of a PAX header (POSIX.1-2001), which starts at byte `start`, to keys and values.

    A record is `<length> <key>=<value>\n`, whose length is that of the whole record in bytes.
    """
    at = 0
    while at < len(data) and data[at]:
        digits, blank, _ = data[at : at + 20].partition(b" ")
        length = _parse_number(digits, start + at)
        key, equals, value = data[at + len(digits) + 1 : at + length - 1].partition(b"=")
        if not (blank and equals) or data[at + length - 1 : at + length] != b"\n":
            raise DamagedTarError(start + at, "has a PAX record that cannot be read")
        yield key, value
        at += length


def _parse_number(digits: bytes, at: int) -> int:
    if not (digits.isdigit() and len(digits) < 20):
        raise DamagedTarError(at, f"has {digits[:20]!a} in a PAX record where a number should be")
    return int(digits)


def _skip_sparse_maps(file: IO[bytes], start: int) -> int:
    # In the old GNU format, a flag in the header states whether a block of the sparse map follows. A flag in each block
    # states whether another block follows.
    file.seek(start - _BLOCK)
    flag = file.read(_BLOCK)[482:483]
    while flag > b"\0":
        flag = file.read(_BLOCK)[504:505]
        start += _BLOCK
    return start


def _check_rest(file: IO[bytes]) -> None:
    """Raise DamagedTarError unless only zeros follow the end mark of a tar, after which `file` is positioned."""
    position = file.tell()
    while chunk := file.read(_CHUNK):
        if chunk.count(0) < len(chunk):
            at = position + len(chunk) - len(chunk.lstrip(b"\0"))
            raise DamagedTarError(at, "continues after its end mark; the data after the mark are not read")
        position += len(chunk)


def _pad_to_block(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
