"""The result of a verification: differences, notes and counts, and their output."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from review.presentation.numbers import format_count
from stores import InputError, escape, ledger


class VerifyError(InputError):
    """The run, report or record to verify does not exist; the message says what was expected and what to do next."""


@dataclass(frozen=True)
class Difference:
    """One difference between the lake and its records: the file, the kind of difference, and the place in the file."""

    file: str
    description: str
    location: str | None = None

    def __str__(self) -> str:
        """Format the difference as one line of text."""
        return escape(f"{self.file}: {self.description}" + (f" ({self.location})" if self.location else ""))


@dataclass
class KeyUse:
    """A key of the ledger: the numbers of the records that it signed, and how the ledger speaks of it.

    `introduced` is the number of the record that introduces the key, and `revoked` the time from which it is revoked.
    `given` is whether the verifier gave the public key.
    """

    key_id: str
    records: list[int] = field(default_factory=list)
    introduced: int | None = None
    revoked: str | None = None
    given: bool = False

    def __str__(self) -> str:
        """Format the use as one line of text."""
        facts = [
            *(["given"] if self.given else []),
            *([f"introduced by record {self.introduced}"] if self.introduced else []),
            *([f"revoked from {self.revoked} on"] if self.revoked else []),
        ]
        signed = f"signed records {format_numbers(self.records)}" if self.records else "signed no record"
        return f"key {self.key_id}: {signed}" + (f" ({'; '.join(facts)})" if facts else "")


def format_numbers(numbers: Sequence[int]) -> str:
    """Format numbers in ascending order as ranges, such as "1-12, 15"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ", ".join("-".join(map(str, each)) for each in ranges)


@dataclass
class VerifyResult:
    """Result of a verification; `notes` are observations that are not differences.

    Differences of the ledger come first, then those of the runs, oldest first. `head` is the sha256 of the last
    record of the ledger; `files` and `bytes` are the number and total size of the verified files; `keys` are the keys
    that signed records.
    """

    runs: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    head: str | None = None
    keys: list[KeyUse] = field(default_factory=list)
    files: int = 0
    bytes: int = 0

    @property
    def is_intact(self) -> bool:
        """Whether the verification found no difference."""
        return not self.differences

    def add(self, file: str, description: str, location: str | None = None) -> None:
        """Add a difference."""
        self.differences.append(Difference(file, description, location))

    def add_record(self, number: int, description: str) -> None:
        """Report that a record of the ledger differs from what was expected."""
        self.add(record_file(number), description, f"record {number}")


def record_file(number: int) -> str:
    """Return the path of a record in the lake."""
    return f"{ledger.FOLDER}/{number:08d}.json"


def to_json(result: VerifyResult) -> dict[str, Any]:
    """Convert the result to JSON values."""
    return {
        "whole": result.is_intact,
        "runs": result.runs,
        "files": result.files,
        "bytes": result.bytes,
        "records": result.records,
        "head": result.head,
        "keys": [{**asdict(key), "records": format_numbers(key.records)} for key in result.keys],
        "faults": [
            {"file": each.file, "what": each.description, "where": each.location} for each in result.differences
        ],
        "notes": result.notes,
    }


def format_result(result: VerifyResult) -> Iterator[str]:
    """Yield lines of text that describe the result, differences first."""
    for difference in result.differences:
        yield f"DIFFERS {difference}"
    for note in result.notes:
        yield escape(f"note: {note}")
    for key in result.keys:
        yield escape(str(key))
    yield f"ledger: {format_count(result.records, 'record')}, head {result.head or 'none'}"
    outcome = "intact"
    if not result.is_intact:
        first = escape(result.differences[0].file)
        outcome = f"{format_count(len(result.differences), 'difference')}, the first in {first}"
    counts = ((len(result.runs), "run"), (result.files, "file"), (result.bytes, "byte"))
    yield f"verified: {', '.join(format_count(number, noun) for number, noun in counts)}: {outcome}"
