"""The ledger of a lake: an append-only hash chain of records about runs, reports, decisions and signatures.

lake/ledger/00000001.json     one record as canonical JSON: sorted keys, no spaces, UTF-8
lake/ledger/HEAD              number and sha256 of the last record

Each record contains the sha256 of the record before it (`prev`), so that no earlier record can be changed, deleted or
reordered without notice. Records are never changed: a correction is a new record. HEAD shows whether the last records
were deleted, unless HEAD was rewritten as well: keep a copy of its sha256 in another place.
"""

import hashlib
import json
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from stores import files
from stores.files import LakeError
from stores.urls import Root

FOLDER = "ledger"
HEAD = "HEAD"
KINDS = ("run", "rewrite", "report", "review", "countersign", "sign_off")
"""Kinds of records: a run ended; its files were compacted or pruned; its report was written; an alert was reviewed; a
second person signed a review or sign-off; a run was signed off."""
BEGINNING = "0" * 64
"""`prev` of the first record."""
_APPEND_ATTEMPTS = 1000
_HEAD_ATTEMPTS = 50
_NAME = re.compile(r"(\d{8,})\.json")
_KEYS = ("number", "kind", "at", "body", "prev")
_SIGNATURE_KEYS = ("key_id", "signature")


class LedgerError(LakeError):
    """The ledger was changed, or a record cannot be appended to it."""


class Signer(Protocol):
    """Signs records; see `stores.keys`."""

    @property
    def key_id(self) -> str:
        """Identifies the public key."""
        ...

    def sign(self, data: bytes) -> str:
        """Return the signature of data as text."""
        ...


@dataclass(frozen=True)
class Record:
    """One record; `sha256` is that of its bytes, which the next record contains as `prev`."""

    number: int
    kind: str
    at: str
    body: dict[str, Any]
    prev: str
    sha256: str
    key_id: str | None = None
    signature: str | None = None

    @property
    def time(self) -> datetime:
        """Time of writing, by the writer's clock."""
        return datetime.fromisoformat(self.at)

    def signed_bytes(self) -> bytes:
        """Return the bytes that the signature covers: the record without the signature."""
        fields = {key: getattr(self, key) for key in _KEYS} | ({} if self.key_id is None else {"key_id": self.key_id})
        return canonical_json(fields)


def canonical_json(value: Any) -> bytes:
    """Return a JSON value as bytes, the same for equal values. Raises ValueError if JSON or UTF-8 cannot hold it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    """Return the sha256 of data."""
    return hashlib.sha256(data).hexdigest()


_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0") | {chr(code) for code in range(0xFE00, 0xFE10)}
"""Invisible letters and marks, in addition to Unicode's format characters."""
_CONFUSABLE_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK")


def _is_invisible(character: str) -> bool:
    return character in _INVISIBLE or unicodedata.category(character) == "Cf"


def normalize_person(name: str) -> str:
    """Return a signer's name for comparison: only letters, marks and digits, without case, separated by spaces."""
    visible = (letter for letter in unicodedata.normalize("NFKC", name).casefold() if not _is_invisible(letter))
    return " ".join("".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in visible).split())


def describe_disguise(name: str) -> str | None:
    """Return what could make a name look like another one, in words, or None."""
    if any(map(_is_invisible, name)):
        return "invisible characters"
    scripts = {unicodedata.name(letter, "").split(" ")[0] for letter in name if letter.isalpha()}
    mixed = [script.capitalize() for script in _CONFUSABLE_SCRIPTS if script in scripts]
    return f"letters of {' and '.join(mixed)}, which look alike" if len(mixed) > 1 else None


def record_path(lake: Root, number: int) -> Root:
    """Return the path of a record."""
    return lake / FOLDER / f"{number:08d}.json"


def record_number(name: str) -> int | None:
    """Return the number of a record from its file name; None for any other file."""
    match = _NAME.fullmatch(name)
    number = int(match[1]) if match else 0
    return number if number and name == f"{number:08d}.json" else None


def parse_record(number: int, data: bytes) -> Record:
    """Return a record from its bytes. Raises LedgerError if they are not such a record in canonical form."""
    try:
        value = json.loads(data.decode())
        # Rejects repeated keys as well, and what Python accepts although it is not JSON.
        is_canonical = canonical_json(value) == data
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"ledger: record {number} is not JSON ({error}); restore it from a backup") from error
    if not is_canonical or not isinstance(value, dict):
        raise LedgerError(f"ledger: record {number} is not in canonical form; restore it from a backup")
    keys = set(value)
    if keys not in ({*_KEYS}, {*_KEYS, *_SIGNATURE_KEYS}):
        raise LedgerError(f"ledger: record {number} has keys {sorted(keys)}, expected {sorted(_KEYS)}; restore it")
    texts = [value[key] for key in ("kind", "at", "prev", *_SIGNATURE_KEYS) if key in value]
    if (
        type(value["number"]) is not int
        or not isinstance(value["body"], dict)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise LedgerError(f"ledger: record {number} has values of other types than a record's; restore it")
    if value["number"] != number:
        raise LedgerError(f"ledger: record {number} has the number {value['number']} in it; restore it")
    if value["kind"] not in KINDS:
        raise LedgerError(
            f"ledger: record {number} is of kind {value['kind']!r}, expected one of {', '.join(KINDS)}; read it with "
            "the release that wrote it, or a later one"
        )
    return Record(**value, sha256=sha256(data))


def check_chain(record: Record, before: Record | None) -> None:
    """Raise LedgerError unless `prev` of a record is the sha256 of the one before it."""
    expected = BEGINNING if before is None else before.sha256
    if record.prev != expected:
        what = "the beginning" if before is None else f"record {before.number}"
        raise LedgerError(
            f"ledger: record {record.number} is chained to {record.prev[:16]}, but {what} is {expected[:16]}: one of "
            "the two was changed; see m2ib-audit verify, and restore it from a backup"
        )


_cache: dict[str, list[Record]] = {}
_cache_lock = threading.Lock()


def read_records(lake: Root) -> list[Record]:
    """Return all records, oldest first. Of those that this process has read before, only the last is read again.

    Raises:
        LedgerError: A record is missing, invalid or not chained to the one before it, or HEAD does not match.
        LakeError: The store does not answer.
    """
    attempt = 0
    while True:
        head = read_head(lake)  # before the records, so that all records up to it exist
        records = _read_chain(lake)
        attempt += 1
        if head is not None or len(records) <= 1 or attempt > _HEAD_ATTEMPTS:
            _check_head(lake, head, records)
            return records
        time.sleep(0.02)  # the writer of the first record may be about to write HEAD


def _read_chain(lake: Root) -> list[Record]:
    key = str(lake.resolve() if isinstance(lake, Path) else lake)
    with _cache_lock:
        numbers = _list_numbers(lake)
        records = _cache.get(key, [])[: len(numbers)]
        if records and _read(lake, [records[-1].number])[0].sha256 != records[-1].sha256:
            records = []
        for record in _read(lake, numbers[len(records) :]):
            check_chain(record, records[-1] if records else None)
            records.append(record)
        _cache[key] = records
        return [*records]


def _list_numbers(lake: Root) -> list[int]:
    names = files.list_files(lake / FOLDER)
    numbers = sorted(number for name in names if (number := record_number(name)) is not None)
    if numbers != list(range(1, len(numbers) + 1)):
        missing = next(expected for expected, number in enumerate(numbers, start=1) if number != expected)
        raise LedgerError(f"ledger: record {missing} of {lake} is missing; restore it from a backup")
    return numbers


def _read(lake: Root, numbers: Sequence[int]) -> list[Record]:
    paths = {str(record_path(lake, number)): number for number in numbers}
    records = [
        parse_record(paths[str(path)], data)
        for path, data in files.read_all(record_path(lake, number) for number in numbers)
    ]
    if len(records) < len(numbers):
        raise LedgerError(f"ledger: records of {lake} were deleted while they were read; find out by whom")
    return records


def read_head(lake: Root) -> tuple[int, str] | None:
    """Return number and sha256 of the last record from HEAD; None if there is no HEAD. Raises LedgerError."""
    try:
        data = files.read_bytes(lake / FOLDER / HEAD)
    except FileNotFoundError:
        return None
    try:
        value = json.loads(data.decode())
        number, digest = value["number"], value["sha256"]
        is_valid = type(number) is int and number > 0 and re.fullmatch("[0-9a-f]{64}", digest) is not None
        is_canonical = is_valid and canonical_json(value) == data
    except (ValueError, KeyError, TypeError, RecursionError):
        is_canonical = False
    if not is_canonical:
        raise LedgerError(f"ledger: {lake / FOLDER / HEAD} is not in canonical form; restore it from a backup")
    return number, digest


def append(
    lake: Root,
    kind: str,
    body: Mapping[str, Any],
    signer: Signer | None = None,
    check: Callable[[Sequence[Record]], None] | None = None,
) -> Record:
    """Append a record. Concurrent writers get different numbers.

    Args:
        lake: Folder or URL of the lake.
        kind: One of `KINDS`.
        body: JSON object.
        signer: Key to sign the record with.
        check: Called with all earlier records before each attempt; raises what forbids the record.

    Raises:
        LedgerError: The existing ledger is damaged.
        LakeError: The lake cannot be written.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
    for _ in range(_APPEND_ATTEMPTS):
        earlier = read_records(lake)
        if check is not None:
            check(earlier)
        record, data = _build_record(earlier[-1] if earlier else None, kind, body, signer)
        if files.create_file(record_path(lake, record.number), data):
            # If another writer has appended meanwhile, HEAD must not go back.
            if not files.is_file(record_path(lake, record.number + 1)):
                head = {"number": record.number, "sha256": record.sha256}
                files.write_bytes(lake / FOLDER / HEAD, canonical_json(head))
            return record
    raise LedgerError(
        f"ledger: no record could be appended to {lake} in {_APPEND_ATTEMPTS} attempts; see who else writes"
    )


class _DuplicateError(Exception):
    """The same record exists."""


def record_report(
    lake: Root, run_id: str, kind: str, data: bytes, signer: Signer | None = None, **more: str
) -> Record | None:
    """Append the sha256 of a report, and return the record; None if the ledger has the same one.

    Args:
        lake: Folder or URL of the lake.
        run_id: The run.
        kind: Format of the report.
        data: The report.
        signer: Key to sign the record with.
        more: `path` below the lake if the report must stay there; `by`: what wrote it, which is not compared.

    Raises:
        LedgerError, LakeError: See `append`.
    """
    body = {"run_id": run_id, "format": kind, "sha256": sha256(data), **more}
    compared = {key: value for key, value in body.items() if key != "by"}

    def check(earlier: Sequence[Record]) -> None:
        if any(compared.items() <= record.body.items() for record in select_kinds(earlier, "report")):
            raise _DuplicateError

    try:
        return append(lake, "report", body, signer, check)
    except _DuplicateError:
        return None


def _build_record(
    last: Record | None, kind: str, body: Mapping[str, Any], signer: Signer | None
) -> tuple[Record, bytes]:
    fields = {
        "number": last.number + 1 if last else 1,
        "kind": kind,
        "at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "body": json.loads(canonical_json(body)),  # as a reader gets it
        "prev": last.sha256 if last else BEGINNING,
    }
    if signer is not None:
        fields["key_id"] = signer.key_id
        fields["signature"] = signer.sign(canonical_json(fields))
    data = canonical_json(fields)
    return Record(**fields, sha256=sha256(data)), data


def _check_head(lake: Root, head: tuple[int, str] | None, records: Sequence[Record]) -> None:
    """Raise LedgerError if HEAD does not match. It may lag behind: a writer is at work, or was killed."""
    if head is None:
        if len(records) > 1:  # the first writer may have been killed between record and HEAD
            raise LedgerError(f"ledger: {lake / FOLDER / HEAD} is missing; restore it from a backup")
        return
    number, digest = head
    if number > len(records) or records[number - 1].sha256 != digest:
        raise LedgerError(
            f"ledger: HEAD of {lake} names record {number} with sha256 {digest[:16]}, which does not exist: the last "
            "records were deleted or changed; see m2ib-audit verify, and restore them from a backup"
        )


def select_kinds(records: Iterable[Record], *kinds: str) -> list[Record]:
    """Return the records of some kinds."""
    return [record for record in records if record.kind in kinds]


def expects_record(manifest: Mapping[str, Any], records: Sequence[Record]) -> bool:
    """Return whether a run that has ended should have a record: its manifest says so, or it began after the first."""
    if manifest.get("chained"):
        return True
    try:
        return bool(records) and datetime.fromisoformat(manifest["started_at"]) > records[0].time
    except (KeyError, TypeError, ValueError):  # unknown start
        return bool(records)
