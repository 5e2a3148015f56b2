"""Verify the ledger of a lake: the records, their chain and HEAD, their signatures, and the texts that people wrote."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import stores
from review.evidence.record_checks import check_records
from review.evidence.signatures import verify_signatures
from review.evidence.verify_result import VerifyError, VerifyResult, record_file
from review.presentation.numbers import format_count
from stores import Root, ledger
from stores.keys import PublicKey
from stores.ledger import LedgerError, Record
from stores.run_records import list_recorded

TEMPORARY: Final = re.compile(r"(.*/)?\.[^/]+\.tmp")
"""Names of incomplete files of killed processes; nothing reads them."""
_TEXT: Final = re.compile(rf"{ledger.TEXTS}/[0-9a-f]{{64}}\.json")
ERASURE: Final = "erasure.json"
"""Plan of an erasure that is not complete."""
_SHA256: Final = re.compile("[0-9a-f]{64}")


def read_heads(given: str) -> list[str]:
    """Return the sha256 in `--head`: the text itself, or the last word of each line of the file that it names.

    Raises VerifyError for a text that is neither.
    """
    if _SHA256.fullmatch(given.lower()):
        return [given.lower()]
    try:
        lines = stores.read_bytes(Path(given)).decode().lower().splitlines()
        heads = [line.split()[-1] for line in lines if line.strip()]
    except (OSError, ValueError):
        heads = []
    if not heads or not all(map(_SHA256.fullmatch, heads)):
        raise VerifyError(
            f"--head: got {given!r}, expected the 64 hexadecimal digits that verify printed earlier, or a file that "
            "[ledger] head_file names"
        )
    return heads


def verify_ledger(
    lake: Root, sizes: Mapping[str, int], result: VerifyResult, public_keys: Sequence[PublicKey], head: str | None
) -> list[Record]:
    """Verify the ledger, and return its readable records; see `review.evidence.verify.verify` for the arguments."""
    heads = [] if head is None else read_heads(head)
    prefix = f"{ledger.FOLDER}/"
    names = [name.removeprefix(prefix) for name in sizes if name.startswith(prefix)]
    for name in names:
        if TEMPORARY.fullmatch(name):
            result.notes.append(f"{prefix}{name}: incomplete file of a killed process; it can be removed")
        elif name != ledger.HEAD and not _TEXT.fullmatch(name) and ledger.record_number(name) is None:
            result.add(prefix + name, "is not a record of the ledger")
    numbers = sorted(number for name in names if (number := ledger.record_number(name)) is not None)
    last = max(numbers, default=0)
    read = stores.read_all((ledger.record_path(lake, number) for number in numbers), {})  # no bytes are no record
    data = {ledger.record_number(path.name): content for path, content in read}
    digests = {number: ledger.sha256(data[number]) for number in numbers if number in data}
    parsed: dict[int, Record] = {}
    for number in range(1, last + 1):
        if number not in digests:
            result.add_record(number, "is missing")
            continue
        try:
            parsed[number] = ledger.parse_record(number, data[number])
        except LedgerError as error:
            result.add_record(number, _shorten(error))
    _verify_chain(result, parsed, digests, _verify_head(lake, result, last, digests))
    records = list(parsed.values())
    for number, problem in check_records(records, list_recorded(records), is_whole=len(records) == last):
        result.add_record(number, problem)
    verify_signatures(records, public_keys, result)
    _verify_texts(lake, {name for name in names if _TEXT.fullmatch(name)}, result, records)
    result.records, result.head = len(digests), digests.get(last)
    result.files, result.bytes = len(names), sum(sizes[prefix + name] for name in names)
    for each in sorted({*heads} - {*digests.values()}):
        result.add(prefix + ledger.HEAD, f"no record has the sha256 {each} given by --head")
    if not names:
        result.notes.append(f"{prefix}: the lake has no ledger")
    return records


def _verify_texts(lake: Root, names: set[str], result: VerifyResult, records: Sequence[Record]) -> None:
    """Compare the texts that people wrote with their sha256 in the records, and note what was erased."""
    erased = ledger.erased_files(records)
    owners = {f"{ledger.TEXTS}/{digest}.json": record for record in records if (digest := ledger.text_digest(record))}
    for name in sorted(names | set(owners)):
        path = f"{ledger.FOLDER}/{name}"
        if name not in owners and path not in erased:
            result.notes.append(f"{path}: a text without a record; its writer was killed, and it can be removed")
        elif path in erased and name in names:
            report_erased(lake, path, erased[path], result)
        elif path in erased:
            result.notes.append(f"record {owners[name].number}: its text was erased (record {erased[path].number})")
        elif name not in names:
            result.add(path, f"the text of record {owners[name].number} is missing")
        else:
            try:
                ledger.parse_text(stores.read_bytes(lake / path), name[len(ledger.TEXTS) + 1 : -len(".json")])
            except (LedgerError, OSError) as error:
                result.add(path, _shorten(error))
    for record in records:
        if record.kind == "rewrite" and record.body.get("what") == "erased":
            result.notes.append(_describe_erasure(record))


def report_erased(lake: Root, path: str, record: Record, result: VerifyResult) -> None:
    """Report a file that exists although this record says that it was erased."""
    if stores.is_file(lake / ERASURE):
        result.notes.append(f"{path}: left over from an erasure that is not complete: repeat it")
    else:
        result.add(
            path,
            f"was erased on {record.at[:10]} (record {record.number}), but exists: it was restored from a backup; "
            "delete it",
        )


def _describe_erasure(record: Record) -> str:
    body, files = record.body, record.body["files"]
    replaced = sum(entry["new_path"] is not None for entry in files)
    what = [
        *([format_count(body["pairs"], "pair")] if body.get("pairs") else []),
        *([f"{format_count(replaced, 'file')} replaced"] if replaced else []),
        *([f"{format_count(len(files) - replaced, 'file')} deleted"] if replaced < len(files) else []),
    ]
    place = f"run {body['run_id']}" if body["run_id"] else "lake"
    return (
        f"record {record.number}: erased from the {place} on {record.at[:10]} by {body['by']}: {', '.join(what)} "
        f"(reason: {body['reason']})"
    )


def _shorten(error: Exception) -> str:
    return str(error).removeprefix("ledger: ").partition("; ")[0]


def _verify_head(lake: Root, result: VerifyResult, last: int, digests: Mapping[int, str]) -> tuple[int, str] | None:
    """Verify the file HEAD; return the record number and sha256 in it, None if they cannot be compared with records."""
    file = f"{ledger.FOLDER}/{ledger.HEAD}"
    try:
        head = ledger.read_head(lake)
    except (LedgerError, OSError) as error:
        result.add(file, _shorten(error))
        return None
    if head is None:
        if last:
            result.add(file, "is missing")
        return None
    number, digest = head
    if digests.get(number) != digest and digest in digests.values():
        result.add(file, f"names record {number}, but has the sha256 of another record", "number")
        return None
    if number > last:
        others = ", and later records" if number > last + 1 else ""
        result.add_record(last + 1, f"is missing{others}: {file} names record {number}")
        return None
    if number < last and digests.get(number) == digest:
        result.notes.append(
            f"{file} names record {number} of {last}: its writer was killed; the next record corrects it"
        )
    return head


def _verify_chain(
    result: VerifyResult, parsed: Mapping[int, Record], digests: Mapping[int, str], head: tuple[int, str] | None
) -> None:
    """Report each record whose sha256 differs from the one in the next record, or for the last record in HEAD."""
    actual = {0: ledger.BEGINNING, **digests}
    # Each file that refers to a record: its name, its own number (None for HEAD), and number and sha256 of the record.
    references: list[tuple[str, int | None, int, str]] = [
        *((record_file(number), number, number - 1, record.prev) for number, record in parsed.items()),
        *([] if head is None else [(f"{ledger.FOLDER}/{ledger.HEAD}", None, *head)]),
    ]
    references = sorted((each for each in references if each[2] in actual), key=lambda each: each[2])
    confirmed = {number for _, _, number, digest in references if digest == actual[number]}
    contradicted = {number for _, _, number, digest in references if digest != actual[number]}
    reported: set[int | None] = set()
    for file, referrer, number, digest in references:
        if digest == actual[number]:
            continue
        # Which of the two files was changed? The one that others contradict as well.
        # The digests of two contents differ in about 60 of 64 digits: one that differs in fewer was edited.
        is_near = sum(one != other for one, other in zip(digest, actual[number], strict=False)) <= 32
        is_referrer = number == 0 or number in confirmed or referrer in contradicted or is_near
        changed = referrer if is_referrer else number
        description = f"has sha256 {actual[number][:16]}, but {file} refers to {digest[:16]}"
        if is_referrer:
            description = f"refers to sha256 {digest[:16]}, expected {actual[number][:16]}"
        if changed is not None and changed not in reported:
            result.add_record(changed, description)
        elif changed not in reported:
            result.add(file, description)
        reported.add(changed)
