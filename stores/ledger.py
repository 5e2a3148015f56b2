"""The ledger of a lake: an append-only hash chain of records about runs, reports, decisions and signatures.

lake/ledger/00000001.json     one record as canonical JSON: sorted keys, no spaces, UTF-8
lake/ledger/HEAD              number and sha256 of the last record
lake/ledger/texts/            texts that people wrote, named by the sha256 that their record contains

Each record contains the sha256 of the previous record (`prev`), so that a changed, deleted or reordered record is
detected. Records are never changed. A correction is a new record. HEAD detects whether the last records were deleted,
unless HEAD was rewritten as well. To detect that too, keep a copy of HEAD outside of the lake.

A text that a person wrote is a file of its own, so that it can be erased while the chain stays whole. It contains a
random salt: without it, a short text could be guessed from its sha256. Records of earlier releases contain their text.
"""

import hashlib
import json
import logging
import os
import re
import secrets
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from stores import files
from stores.commands import format_command
from stores.files import LakeError
from stores.keys import SigningKey
from stores.urls import Root

FOLDER = "ledger"
HEAD = "HEAD"
KINDS = (
    "begun",
    "run",
    "rewrite",
    "report",
    "notification",
    "review",
    "countersign",
    "sign_off",
    "name",
    "key",
    "key_revoked",
)
"""Kinds of records.

- `begun`: a run began
- `run`: a run ended
- `rewrite`: the files of a run were compacted or pruned, or pairs were erased
- `report`: a report of a run was written
- `notification`: messages were sent, or could not be delivered
- `review`: a person reviewed an alert
- `countersign`: a second person signed a review or a sign-off
- `sign_off`: a person signed off a run
- `name`: a person named a recurring overlay
- `key`: a key that signs records was introduced
- `key_revoked`: a key was revoked from a time on
"""
TEXTS = "texts"
TEXT_FIELDS = {"review": "reason", "countersign": "statement", "sign_off": "statement", "name": "name"}
"""Field of the body that contains a person's text, by kind of record. `<field>_sha256` is the digest of its file."""
ERASED = "[erased]"
"""Replacement of an erased text."""
BEGINNING = "0" * 64
"""Value of `Record.prev` in the first record of a ledger."""
log = logging.getLogger("m2ib_audit.ledger")
_APPEND_ATTEMPTS = 1000
_HEAD_ATTEMPTS = 50
_NAME = re.compile(r"(\d{8,})\.json")
_SHA256 = re.compile("[0-9a-f]{64}")
_TYPES: dict[str, type] = {"number": int, "kind": str, "at": str, "body": dict, "prev": str}
_SIGNATURE_TYPES: dict[str, type] = {"key_id": str, "signature": str}


class LedgerError(LakeError):
    """The ledger is damaged or was tampered with, or a record cannot be appended to it."""


@dataclass(frozen=True)
class Record:
    """A record of the ledger.

    Attributes:
        number: Position in the ledger, counted from 1.
        kind: One of `KINDS`.
        at: Time of writing, in ISO 8601, from the clock of the writer.
        body: Content of the record, a JSON object.
        prev: sha256 of the previous record. The first record has `BEGINNING` (64 zeros) instead.
        sha256: sha256 of this record's bytes. The next record contains it as `prev`.
        key_id: Identifier of the signer's public key, or None for an unsigned record.
        signature: Signature of `signed_bytes`, or None for an unsigned record.
    """

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
        """Time at which the record was written, from the clock of the writer."""
        return datetime.fromisoformat(self.at)

    def signed_bytes(self) -> bytes:
        """Return the bytes that are signed: the record without its signature, as canonical JSON."""
        keys = [*_TYPES] if self.key_id is None else [*_TYPES, "key_id"]
        return canonical_json({key: getattr(self, key) for key in keys})


def canonical_json(value: Any) -> bytes:
    """Serialize a value to canonical JSON: equal values yield equal bytes.

    Raises:
        ValueError: The value contains NaN, infinity or invalid Unicode.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    """Return the sha256 (hex) of data."""
    return hashlib.sha256(data).hexdigest()


_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0") | {chr(code) for code in range(0xFE00, 0xFE10)}
"""Invisible characters that do not belong to Unicode's category "format" (Cf)."""
_CONFUSABLE_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK")


def _is_invisible(character: str) -> bool:
    return character in _INVISIBLE or unicodedata.category(character) == "Cf"


def normalize_person(name: str) -> str:
    """Normalize a person's name for comparison: only lower-case letters, combining marks and digits."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(
        letter for letter in folded if unicodedata.category(letter)[0] in "LMN" and not _is_invisible(letter)
    )


def describe_disguise(name: str) -> str | None:
    """Return why a person's name could look like another one, such as "invisible characters", or None if it cannot."""
    if any(map(_is_invisible, name)):
        return "invisible characters"
    scripts = {unicodedata.name(letter, "").split(" ")[0] for letter in name if letter.isalpha()}
    mixed = [script.capitalize() for script in _CONFUSABLE_SCRIPTS if script in scripts]
    return f"letters of the {' and '.join(mixed)} alphabets, which look alike" if len(mixed) > 1 else None


def record_path(lake: Root, number: int) -> Root:
    """Return the path of the record of a lake's ledger with this number."""
    return lake / FOLDER / f"{number:08d}.json"


def record_number(name: str) -> int | None:
    """Return the number of a record from its file name, or None if it is not the file name of a record."""
    match = _NAME.fullmatch(name)
    number = int(match[1]) if match else 0
    return number if number and name == f"{number:08d}.json" else None


def parse_record(number: int, data: bytes) -> Record:
    """Parse a record. Raises LedgerError unless `data` is canonical JSON of a record with this number."""
    value = _parse_canonical(f"record {number}", data)
    types = {key: type(item) for key, item in value.items()}
    if types not in (_TYPES, _TYPES | _SIGNATURE_TYPES) or value["number"] != number:
        raise LedgerError(
            f"ledger: record {number} holds another number, or its fields or their types are not those of a record; "
            "restore it from a backup"
        )
    if value["kind"] not in KINDS:
        raise LedgerError(
            f"ledger: record {number} is of kind {value['kind']!r}, expected one of {', '.join(KINDS)}; read it with "
            "the release of m2ib-audit that wrote it, or a later one"
        )
    return Record(**value, sha256=sha256(data))


def _parse_canonical(name: str, data: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises LedgerError, which calls the object `name`, unless it is in canonical form."""
    try:
        value = json.loads(data.decode())
        # This comparison also rejects repeated keys, and values that Python accepts although they are not JSON.
        if isinstance(value, dict) and canonical_json(value) == data:
            return value
    except (ValueError, RecursionError):
        pass
    raise LedgerError(f"ledger: {name} is not in canonical JSON, so it was damaged or edited; restore it from a backup")


def check_chain(record: Record, before: Record | None) -> None:
    """Raise LedgerError unless `record.prev` is the sha256 of the previous record `before` (if None: `BEGINNING`)."""
    expected = BEGINNING if before is None else before.sha256
    if record.prev != expected:
        raise LedgerError(
            f"ledger: record {record.number} states {record.prev[:16]} as the sha256 of the previous record, expected "
            f"{expected[:16]}: a record was changed; verify the lake, and restore that record from a backup"
        )


_cache: dict[str, tuple[list[Record], Mapping[str, tuple[int, ...]]]] = {}
"""Records of a ledger that were read, with the versions of their files in a local lake."""
_cache_lock = threading.Lock()


def read_records(lake: Root) -> list[Record]:
    """Return all records of a lake's ledger, oldest first.

    Records are cached per process: only the last cached record, changed and newer records are read from the lake, and
    in object storage not changed ones.

    Raises:
        LedgerError: A record is missing, is invalid or lacks the sha256 of the previous one, or the last record is not
            the one that the file HEAD names.
        LakeError: The store does not answer.
    """
    for _ in range(_HEAD_ATTEMPTS + 1):
        head = read_head(lake)  # HEAD is read before the records, so that all records up to it exist
        records = _read_chain(lake)
        if head is not None:
            # HEAD may point to a record before the last, because a writer may be running or may have been killed.
            number, digest = head
            if number > len(records) or records[number - 1].sha256 != digest:
                raise LedgerError(
                    f"ledger: HEAD of {lake} names record {number} with sha256 {digest[:16]}, which does not exist: "
                    f"the last records were deleted or changed; run {format_command(lake, 'verify', 'all')}, and "
                    "restore them from a backup"
                )
            return records
        if len(records) <= 1:  # the first writer may have been killed between record and HEAD
            return records
        time.sleep(0.02)  # the writer of the first records may not have written HEAD yet
    raise LedgerError(f"ledger: {lake / FOLDER / HEAD} is missing; restore it from a backup")


def _read_chain(lake: Root) -> list[Record]:
    """Return all records of a ledger. Raises LedgerError unless each contains the sha256 of the previous one."""
    key = str(lake.resolve() if isinstance(lake, Path) else lake)
    with _cache_lock:
        numbers = _list_numbers(lake)
        versions = files.read_versions(lake / FOLDER) if isinstance(lake, Path) else {}
        records, earlier = _cache.get(key, ([], {}))
        records = records[: len(numbers)]
        names = [f"{record.number:08d}.json" for record in records]
        if any(versions.get(name) != earlier.get(name) for name in names):
            records = []
        if records and _read(lake, [records[-1].number])[0].sha256 != records[-1].sha256:
            records = []
        for record in _read(lake, numbers[len(records) :]):
            check_chain(record, records[-1] if records else None)
            records.append(record)
        _cache[key] = records, versions
        return [*records]


def _list_numbers(lake: Root) -> list[int]:
    """Return the numbers of all records of a lake's ledger. Raises LedgerError if a number is missing."""
    names = files.list_files(lake / FOLDER)
    numbers = sorted(number for name in names if (number := record_number(name)) is not None)
    if numbers != list(range(1, len(numbers) + 1)):
        missing = next(expected for expected, number in enumerate(numbers, start=1) if number != expected)
        raise LedgerError(f"ledger: record {missing} of {lake} is missing; restore it from a backup")
    return numbers


def _read(lake: Root, numbers: Sequence[int]) -> list[Record]:
    found = list(files.read_all(record_path(lake, number) for number in numbers))
    if len(found) < len(numbers):
        raise LedgerError(
            f"ledger: records of {lake} were deleted while they were read; find out who deleted them, and restore them "
            "from a backup"
        )
    return [parse_record(number, data) for number, (_, data) in zip(numbers, found, strict=True)]


def read_head(lake: Root) -> tuple[int, str] | None:
    """Return the number and sha256 of the last record from the ledger's file HEAD, or None if the file does not exist.

    Raises LedgerError if HEAD is not valid.
    """
    path = lake / FOLDER / HEAD
    try:
        head = _parse_canonical(str(path), files.read_bytes(path))
    except FileNotFoundError:
        return None
    is_typed = {key: type(item) for key, item in head.items()} == {"number": int, "sha256": str}
    if not is_typed or head["number"] < 1 or not _SHA256.fullmatch(head["sha256"]):
        raise LedgerError(f"ledger: {path} does not have the number and sha256 of a record; restore it from a backup")
    return head["number"], head["sha256"]


def append(
    lake: Root,
    kind: str,
    body: Mapping[str, Any],
    signer: SigningKey | None = None,
    check: Callable[[Sequence[Record]], None] | None = None,
) -> Record:
    """Append a record to the ledger. Concurrent writers get different numbers.

    Once the file of the record exists, the record counts. What fails afterwards, such as HEAD on a full disk, is
    logged, and the next writer corrects it.

    Args:
        lake: Folder or URL of the lake.
        kind: One of `KINDS`.
        body: Content of the record, a JSON object.
        signer: Key that signs the record. Default: the record is not signed.
        check: Function that is called with all earlier records before each attempt. It raises an exception if
            the record must not be appended.

    Raises:
        LedgerError: The existing ledger is damaged, the signer may not sign in it (see `list_keys`), something that is
            no record takes the place of the new one, or other writers were faster in every attempt.
        LakeError: The lake cannot be written.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
    body, text = _separate_text(kind, body)
    for _ in range(_APPEND_ATTEMPTS):
        earlier = read_records(lake)
        if check is not None:
            check(earlier)
        _check_signer(lake, earlier, signer)
        record, data = _build_record(earlier[-1] if earlier else None, kind, body, signer)
        try:
            if earlier and not files.is_file(lake / FOLDER / HEAD):  # a ledger of several records needs HEAD
                _write_head(lake, earlier[-1])
            if text is not None and not files.create_file(place := text_path(lake, sha256(text)), text):
                _check_place(place)
            created = files.create_file(place := record_path(lake, record.number), data)
        except OSError as error:
            raise LakeError(
                f"ledger: nothing was recorded ({error.strerror or error}), expected a lake that can be written; "
                "check the lake's disk space and permissions"
            ) from error
        if created:
            _update_head(lake, record)
            return record
        _check_place(place)
    raise LedgerError(
        f"ledger: other writers were faster in all {_APPEND_ATTEMPTS} attempts to append a record to {lake}; stop the "
        "other writers, and try again"
    )


def list_keys(records: Iterable[Record]) -> tuple[list[str], list[str]]:
    """Return the ids of the keys that may sign the next record, and of all keys that a ledger has.

    Each key that signed or was introduced may sign, unless it was revoked. A record by a revoked key changes nothing.
    No key is returned if nothing is signed.
    """
    known, revoked = dict[str, None](), set[str]()
    for record in records:
        if record.key_id is None or record.key_id in revoked:
            continue
        known[record.key_id] = None
        key_id = str(record.body.get("key_id"))
        if record.kind == "key":
            known[key_id] = None
        elif record.kind == "key_revoked":
            revoked.add(key_id)
    return [key_id for key_id in known if key_id not in revoked], [*known]


def check_signer(lake: Root, signer: SigningKey | None) -> None:
    """Raise LedgerError if a key may not sign the next record of a lake's ledger, before any work is done."""
    if signer is not None:
        _check_signer(lake, read_records(lake), signer)


def _check_signer(lake: Root, earlier: Sequence[Record], signer: SigningKey | None) -> None:
    signing, known = list_keys(earlier)
    if not known or (signer is not None and signer.key_id in signing):
        return
    if signer is None:
        _warn_unsigned(str(lake), " or ".join(signing) or "none: all are revoked")
        return
    if not signing:
        raise LedgerError(describe_no_keys(known))
    raise LedgerError(
        f"ledger: got the key {signer.key_id}, which {'is revoked' if signer.key_id in known else 'was not introduced'}"
        f", expected one that may sign: {', '.join(signing)}; sign with that key, or introduce a new one: "
        + format_command(lake, "key", "add", "NEW.pub", "--key", "OLD")
    )


def describe_no_keys(known: Iterable[str]) -> str:
    """Return the message for a ledger with signed records whose keys are all revoked."""
    return (
        f"ledger: all keys of the lake are revoked ({', '.join(known)}), expected one that may sign; nothing more can "
        "be signed in this lake: restore its ledger from a backup, or keep it as it is and continue in a new lake"
    )


@cache  # once per process
def _warn_unsigned(lake: str, signing: str) -> None:
    log.warning(
        "ledger: an unsigned record is added to %s, which has signed ones (keys that may sign: %s), and verify "
        "--public-key reports it; give the private key with --key, or [ledger] key in the AUDIT.toml", lake, signing,
    )  # fmt: skip


def _check_place(path: Root) -> None:
    """Raise LedgerError if the place of a new file is taken, but not by the file of another writer."""
    if isinstance(path, Path) and not path.is_file():
        taken = path if os.path.lexists(path) else next(each for each in path.parents if os.path.lexists(each))
        raise LedgerError(
            f"ledger: nothing was recorded, because {taken} is in the way: it is not a regular file or, on the way to "
            "one, not a folder; move it away, and try again"
        )


def _separate_text(kind: str, body: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes | None]:
    """Return the body of a record without a person's text, and the content of the text's file, None without a text."""
    text = body.get(field := TEXT_FIELDS.get(kind, ""))
    if not (isinstance(text, str) and text):
        return body, None
    data = canonical_json({"salt": secrets.token_hex(16), "text": text})
    return {key: value for key, value in body.items() if key != field} | {f"{field}_sha256": sha256(data)}, data


def text_path(lake: Root, digest: str) -> Root:
    """Return the path of a person's text; `digest` is the sha256 of the file."""
    return lake / FOLDER / TEXTS / f"{digest}.json"


def text_digest(record: Record) -> str | None:
    """Return the sha256 of the file with a record's text; None if the record has no text, or contains it."""
    digest = record.body.get(f"{TEXT_FIELDS.get(record.kind)}_sha256")
    return digest if isinstance(digest, str) else None


def erased_files(records: Iterable[Record]) -> dict[str, Record]:
    """Return the files of a lake that were erased, by path, with the last record about each."""
    return {entry["path"]: record for entry, record in _list_erased(records)}


def erased_sha256(records: Iterable[Record], folder: str) -> dict[str, Record]:
    """Return the sha256 of the files below a folder of the lake that were erased, with the last record about each."""
    return {entry["sha256"]: record for entry, record in _list_erased(records) if entry["path"].startswith(folder)}


def _list_erased(records: Iterable[Record]) -> Iterator[tuple[dict[str, Any], Record]]:
    for record in records:
        if record.kind == "rewrite" and record.body.get("what") == "erased":
            yield from ((entry, record) for entry in record.body.get("files", []))


def parse_text(data: bytes, digest: str) -> str:
    """Return the text in a text's file. Raises LedgerError unless the file has this sha256."""
    if (found := sha256(data)) != digest:
        raise LedgerError(f"ledger: text {digest} has sha256 {found}: it was changed; restore it from a backup")
    return str(json.loads(data)["text"])


_texts: dict[str, str] = {}
"""Texts that were read from a lake, by the sha256 of their file."""


def read_texts(lake: Root, records: Sequence[Record]) -> list[Record]:
    """Return records with the texts that people wrote in their bodies. An erased text is `ERASED`.

    Raises:
        LedgerError: A text is missing, but not erased, or was changed.
        LakeError: The store does not answer.
    """
    erased = erased_files(records)
    digests = {record.number: digest for record in records if (digest := text_digest(record)) is not None}
    texts = {}
    for digest in digests.values():
        if f"{FOLDER}/{TEXTS}/{digest}.json" in erased:
            texts[digest] = ERASED
            _texts.pop(digest, None)
    missing = [digest for digest in digests.values() if digest not in texts and digest not in _texts]
    for path, data in files.read_all(text_path(lake, digest) for digest in missing):
        digest = path.name.removesuffix(".json")
        _texts[digest] = parse_text(data, digest)

    def fill(record: Record) -> Record:
        if record.number not in digests:
            return record
        text = texts.get(digests[record.number]) or _texts.get(digests[record.number])
        if text is None:
            raise LedgerError(f"ledger: the text of record {record.number} is missing; restore it from a backup")
        return replace(record, body={**record.body, TEXT_FIELDS[record.kind]: text})

    return [fill(record) for record in records]


class _DuplicateError(Exception):
    """The ledger already contains the same record."""


def _update_head(lake: Root, record: Record) -> None:
    """Let HEAD point to a new record, unless another writer has already appended a later one; log a failure."""
    try:
        if not files.is_file(record_path(lake, record.number + 1)):
            _write_head(lake, record)
    except (OSError, LakeError) as error:
        log.warning(
            "ledger: record %d was written, but HEAD was not (%s); free disk space or correct the permissions, but do "
            "not repeat the command: the next record corrects HEAD", record.number, error,
        )  # fmt: skip


def _write_head(lake: Root, record: Record) -> None:
    files.write_bytes(lake / FOLDER / HEAD, canonical_json({"number": record.number, "sha256": record.sha256}))


def record_report(
    lake: Root, run_id: str, kind: str, data: bytes, signer: SigningKey | None = None, **more: str
) -> Record | None:
    """Append a record with the sha256 of a report.

    Args:
        lake: Folder or URL of the lake.
        run_id: The run that the report describes.
        kind: Format of the report.
        data: Bytes of the report.
        signer: Key that signs the record. Default: the record is not signed.
        more: Further fields of the record. `path` is the report's path in the lake, where verification expects it.
            `by` names the program that wrote the report; it is ignored when records are compared.

    Returns:
        The new record, or None if the ledger already contains the same record.

    Raises:
        LedgerError: See `append`.
        LakeError: See `append`.
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
    last: Record | None, kind: str, body: Mapping[str, Any], signer: SigningKey | None
) -> tuple[Record, bytes]:
    fields = {
        "number": last.number + 1 if last else 1,
        "kind": kind,
        "at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "body": json.loads(canonical_json(body)),  # equal to the body that a reader parses
        "prev": last.sha256 if last else BEGINNING,
    }
    if signer is not None:
        fields["key_id"] = signer.key_id
        fields["signature"] = signer.sign(canonical_json(fields))
    data = canonical_json(fields)
    return Record(**fields, sha256=sha256(data)), data


def select_kinds(records: Iterable[Record], *kinds: str) -> list[Record]:
    """Return the records of the given kinds (of `KINDS`), in the order of `records`."""
    return [record for record in records if record.kind in kinds]
