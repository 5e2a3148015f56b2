"""The ledger of a lake: what ended, what was judged and who signed, one record a file, each chained to the one before.

lake/ledger/00000001.json     canonical JSON: sorted keys, no spaces, UTF-8
lake/ledger/HEAD              number and sha256 of the last record

A record names the sha256 of the bytes of the one before (`prev`), so that nothing before it can be changed, dropped or
put in another order unseen. Nothing is ever changed here: a correction is a record of its own. HEAD tells a ledger
whose end was cut off from one that is whole, to someone who did not also remake HEAD: note its digest elsewhere.
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
"""What a record tells: a run ended; its files were compacted or pruned; its report was written; an alert was judged; a
second person stood by a review or sign-off; a run was signed off."""
BEGINNING = "0" * 64
"""`prev` of the first record."""
_ATTEMPTS = 1000
_PATIENCE = 50
_NAME = re.compile(r"(\d{8,})\.json")
_KEYS = ("number", "kind", "at", "body", "prev")
_SIGNED = ("key_id", "signature")


class LedgerError(LakeError):
    """The ledger is not what was written, or cannot take a record."""


class Signer(Protocol):
    """Who signs records; see `stores.keys`."""

    @property
    def key_id(self) -> str:
        """By which a reader finds the public key."""
        ...

    def sign(self, data: bytes) -> str:
        """A signature over bytes, as text."""
        ...


@dataclass(frozen=True)
class Record:
    """One record; sha256 is that of its bytes, which the next one names as `prev`."""

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
        """When it was written, as its writer's clock said."""
        return datetime.fromisoformat(self.at)

    def unsigned(self) -> bytes:
        """The bytes that were signed: the record without its signature."""
        fields = {key: getattr(self, key) for key in _KEYS} | ({} if self.key_id is None else {"key_id": self.key_id})
        return canonical_json(fields)


def canonical_json(value: Any) -> bytes:
    """A JSON value as bytes, always the same ones. Raises ValueError for what JSON or UTF-8 cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    """sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0") | {chr(code) for code in range(0xFE00, 0xFE10)}
"""Letters and marks that show nothing; with Unicode's format characters, all that a name can hide."""
_ALIKE = ("LATIN", "CYRILLIC", "GREEK")
"""Scripts with letters that look the same."""


def normalize_person(name: str) -> str:
    """A signer's name as names are compared, by letters, marks and digits: two spellings of one name are one person."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    seen = (sign for sign in plain if sign not in _UNSEEN and unicodedata.category(sign) != "Cf")
    return " ".join("".join(sign if unicodedata.category(sign)[0] in "LMN" else " " for sign in seen).split())


def describe_disguise(name: str) -> str | None:
    """What in a name could make it look like another's, in words; None if nothing does."""
    if any(sign in _UNSEEN or unicodedata.category(sign) == "Cf" for sign in name):
        return "characters that cannot be seen"
    scripts = {unicodedata.name(sign, "").split(" ")[0] for sign in name if sign.isalpha()}
    mixed = [script.capitalize() for script in _ALIKE if script in scripts]
    return f"letters of {' and '.join(mixed)}, which look alike" if len(mixed) > 1 else None


def record_path(lake: Root, number: int) -> Root:
    """Where a record is."""
    return lake / FOLDER / f"{number:08d}.json"


def record_number(name: str) -> int | None:
    """Number of the record that a file in the ledger's folder is; None if it is none."""
    found = _NAME.fullmatch(name)
    number = int(found[1]) if found else 0
    return number if number and name == f"{number:08d}.json" else None


def parse_record(number: int, data: bytes) -> Record:
    """A record from its bytes. Raises LedgerError unless they are those of such a record, in canonical form."""
    try:
        value = json.loads(data.decode())
        # Also what Python takes, but JSON does not, and keys that come twice: they would not come out the same.
        same = canonical_json(value) == data
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"ledger: record {number} is not JSON ({error}); restore it from a backup") from error
    if not same or not isinstance(value, dict):
        raise LedgerError(f"ledger: record {number} is not in canonical form; restore it from a backup")
    keys = set(value)
    if keys not in ({*_KEYS}, {*_KEYS, *_SIGNED}):
        raise LedgerError(f"ledger: record {number} has keys {sorted(keys)}, expected {sorted(_KEYS)}; restore it")
    texts = [value[key] for key in ("kind", "at", "prev", *_SIGNED) if key in value]
    if type(value["number"]) is not int or not isinstance(value["body"], dict) or not all(_is_text(t) for t in texts):
        raise LedgerError(f"ledger: record {number} has values of other types than a record's; restore it")
    if value["number"] != number:
        raise LedgerError(f"ledger: record {number} says that it is number {value['number']}; restore it")
    if value["kind"] not in KINDS:
        raise LedgerError(
            f"ledger: record {number} is of kind {value['kind']!r}, expected one of {', '.join(KINDS)}; read it with "
            "the release that wrote it, or a later one"
        )
    return Record(**value, sha256=sha256(data))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def check_chain(record: Record, before: Record | None) -> None:
    """Raise LedgerError unless a record is chained to the one before it."""
    expected = BEGINNING if before is None else before.sha256
    if record.prev != expected:
        what = "the beginning" if before is None else f"record {before.number}"
        raise LedgerError(
            f"ledger: record {record.number} is chained to {record.prev[:16]}, but {what} is {expected[:16]}: one of "
            "the two was changed; see m2ib-audit verify, and restore it from a backup"
        )


_known: dict[str, list[Record]] = {}
_reading = threading.Lock()


def read_records(lake: Root) -> list[Record]:
    """All records, oldest first; of those that this process has read before, the last one is looked at again.

    Raises LedgerError if one is missing, is no record, or is not chained to the one before, or if HEAD names one that
    is not there: an end that was cut off is read by nobody as whole. LakeError for a store that does not answer.
    """
    attempt = 0
    while True:
        known = read_head(lake)  # before the records: it names none that comes later
        found = _chained(lake)
        attempt += 1
        if known is not None or len(found) <= 1 or attempt > _PATIENCE:
            _check_head(lake, known, found)
            return found
        time.sleep(0.02)  # others may be about to write the first one


def _chained(lake: Root) -> list[Record]:
    """All records, each chained to the one before. Raises LedgerError, LakeError."""
    key = str(lake.resolve() if isinstance(lake, Path) else lake)
    with _reading:
        numbers = _numbers(lake)
        found = _known.get(key, [])[: len(numbers)]
        if found and _read(lake, [found[-1].number])[0].sha256 != found[-1].sha256:
            found = []
        found = [*found]
        for record in _read(lake, numbers[len(found) :]):
            check_chain(record, found[-1] if found else None)
            found.append(record)
        _known[key] = found
        return [*found]


def _numbers(lake: Root) -> list[int]:
    names = files.list_files(lake / FOLDER)
    numbers = sorted(number for name in names if (number := record_number(name)) is not None)
    if numbers != list(range(1, len(numbers) + 1)):
        gone = next(expected for expected, number in enumerate(numbers, start=1) if number != expected)
        raise LedgerError(f"ledger: record {gone} of {lake} is gone; restore it from a backup")
    return numbers


def _read(lake: Root, numbers: Sequence[int]) -> list[Record]:
    paths = {str(record_path(lake, number)): number for number in numbers}
    found = [
        parse_record(paths[str(path)], data)
        for path, data in files.read_all(record_path(lake, number) for number in numbers)
    ]
    if len(found) < len(numbers):
        raise LedgerError(f"ledger: records of {lake} vanish while they are read; see who deletes them")
    return found


def read_head(lake: Root) -> tuple[int, str] | None:
    """Number and sha256 of the last record as HEAD has them; None if there is no HEAD. Raises LedgerError."""
    try:
        data = files.read_bytes(lake / FOLDER / HEAD)
    except FileNotFoundError:
        return None
    try:
        value = json.loads(data.decode())
        number, digest = value["number"], value["sha256"]
        form = type(number) is int and number > 0 and re.fullmatch("[0-9a-f]{64}", digest) is not None
        fits = form and canonical_json(value) == data
    except (ValueError, KeyError, TypeError, RecursionError):
        fits = False
    if not fits:
        raise LedgerError(f"ledger: {lake / FOLDER / HEAD} is not as it was written; restore it from a backup")
    return number, digest


def append(
    lake: Root,
    kind: str,
    body: Mapping[str, Any],
    signer: Signer | None = None,
    check: Callable[[Sequence[Record]], None] | None = None,
) -> Record:
    """Append a record; of several writers at once each gets a number of its own.

    body: what JSON can hold. check: is given all records before this one, and raises what speaks against appending it:
    again if another writer was faster.

    Raises LedgerError if the ledger is not whole: nothing is chained to what cannot be trusted; LakeError for a lake
    that does not take it.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
    for _ in range(_ATTEMPTS):
        before = read_records(lake)
        if check is not None:
            check(before)
        record, data = _made(before, kind, body, signer)
        if files.create_file(record_path(lake, record.number), data):
            _move_head(lake, record)
            return record
    raise LedgerError(f"ledger: no record could be appended to {lake} in {_ATTEMPTS} attempts; see who else writes")


class _NotedError(Exception):
    """What was to be noted has been noted."""


def record_report(
    lake: Root, run_id: str, kind: str, data: bytes, signer: Signer | None = None, **more: str
) -> Record | None:
    """Append a report's sha256, once, so that a copy can be told from one that was changed; None if it is there.

    kind: its format. more: its `path` below the lake, if it has to stay there; `by`: what wrote it, which makes no
    other report of it.

    Raises LedgerError, LakeError.
    """
    body = {"run_id": run_id, "format": kind, "sha256": sha256(data), **more}
    same = {key: value for key, value in body.items() if key != "by"}

    def check(before: Sequence[Record]) -> None:
        if any(same.items() <= record.body.items() for record in select_kinds(before, "report")):
            raise _NotedError

    try:
        return append(lake, "report", body, signer, check)
    except _NotedError:
        return None


def _made(before: Sequence[Record], kind: str, body: Mapping[str, Any], signer: Signer | None) -> tuple[Record, bytes]:
    last = before[-1] if before else None
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


def _check_head(lake: Root, known: tuple[int, str] | None, before: Sequence[Record]) -> None:
    """Raise LedgerError if HEAD names what is not there. It may lag behind: others write, or were killed."""
    if known is None:
        if len(before) > 1:  # the first writer may have been killed between record and HEAD
            raise LedgerError(f"ledger: {lake / FOLDER / HEAD} is gone; restore it from a backup")
        return
    number, digest = known
    if number > len(before) or before[number - 1].sha256 != digest:
        raise LedgerError(
            f"ledger: HEAD of {lake} names record {number} with sha256 {digest[:16]}, which is not there: the end was "
            "cut off or changed; see m2ib-audit verify, and restore it from a backup"
        )


def _move_head(lake: Root, record: Record) -> None:
    # Where another writer has appended by now, HEAD is that one's to move: it must not go back.
    if not files.is_file(record_path(lake, record.number + 1)):
        files.write_bytes(lake / FOLDER / HEAD, canonical_json({"number": record.number, "sha256": record.sha256}))


def select_kinds(found: Iterable[Record], *kinds: str) -> list[Record]:
    """Those records that are of some kinds."""
    return [record for record in found if record.kind in kinds]


def expects_record(manifest: Mapping[str, Any], found: Sequence[Record]) -> bool:
    """Whether a run that has ended should have a record: it says so, or that it began when there was a ledger."""
    if manifest.get("chained"):
        return True
    try:
        return bool(found) and datetime.fromisoformat(manifest["started_at"]) > found[0].time
    except (KeyError, TypeError, ValueError):  # nobody can tell when
        return bool(found)
