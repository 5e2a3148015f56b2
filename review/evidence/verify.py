"""Verify a lake: the hash chain of the ledger, each manifest against the ledger, each file against its manifest.

An intact lake does not prove that nobody with write access to the lake has replaced the end of its ledger. Two things
prove this: the head of the ledger, if it was stored outside of the lake, or signed records.
"""

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sql
import stores
from review.presentation.formatting import format_count
from stores import InputError, Root, ledger
from stores.keys import PublicKey
from stores.ledger import LedgerError, Record

_TEMPORARY: Final = re.compile(r"(.*/)?\.[^/]+\.tmp")
"""Names of incomplete files of killed processes; nothing reads them."""
_SHARD: Final = re.compile(
    r"(attributions|ingest_errors)/part-[^/]+\.parquet|parts/[^/]+\.json|calibration\.safetensors"
    r"|[a-z_]+/erased-[^/]+\.parquet"
)
"""Names of the files of a shard or an erasure. Interrupted attempts leave such files, which no manifest lists."""
_TEXT: Final = re.compile(rf"{ledger.TEXTS}/[0-9a-f]{{64}}\.json")
_ERASURE: Final = "erasure.json"
"""Plan of an erasure that is not complete."""
_REPORT: Final = re.compile(r"report[^/]*\.(html|pdf)")
_MANIFEST: Final = "manifest.json"
_NOT_CHAINED: Final = "has no record in the ledger: it was written before the lake had a ledger"
_RUN_KINDS: Final = ("run", "rewrite")


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
        return f"{self.file}: {self.description}" + (f" ({self.location})" if self.location else "")


@dataclass
class VerifyResult:
    """Result of a verification; `notes` are observations that are not differences.

    Differences of the ledger come first, then those of the runs, oldest first. `head` is the sha256 of the last
    record of the ledger; `files` and `bytes` are the number and total size of the verified files.
    """

    runs: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    head: str | None = None
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
        self.add(_record_file(number), description, f"record {number}")


def verify(lake: Root, run_id: str | None, public: PublicKey | None = None, head: str | None = None) -> VerifyResult:
    """Verify the ledger, the manifests of runs against the ledger, and the files of runs against their manifests.

    Args:
        lake: Folder or URL of the lake.
        run_id: Id of a run, `latest`, or `all`, which also reports files that belong to no run; None verifies only the
            ledger.
        public: Public key that must verify the signature of every record of the ledger; None accepts unsigned records.
        head: sha256 of a record that must be in the ledger.
    """
    result = VerifyResult()
    if run_id is None:  # listing a large lake takes long
        sizes = {f"{ledger.FOLDER}/{name}": size for name, size in stores.list_sizes(lake / ledger.FOLDER).items()}
        _verify_ledger(lake, sizes, result, public, head)
        return result
    sizes, links = stores.list_sizes(lake), stores.list_links(lake)
    if not sizes and not links:
        raise VerifyError(f"verify: {lake} has no file of a lake; run an audit first, or name the lake with --lake")
    records = _verify_ledger(lake, sizes, result, public, head)
    files = _group_by_run(sizes, links)
    result.runs = _select_runs(lake, run_id, sorted(files), records)
    prefixes = tuple(f"runs/{each}/" for each in result.runs)
    for name in links:
        if f"{name}/".startswith(prefixes) or (run_id == "all" and not name.startswith("runs/")):
            result.add(name, "is a symbolic link, expected a file or folder: its target can change unnoticed")
    for each in result.runs:
        if f"runs/{each}" not in links:
            _RunVerifier(lake, each, files[each], records, result).verify()
    if run_id == "all":
        _verify_others(lake, sizes, files, result)
    return result


def _verify_others(lake: Root, sizes: Mapping[str, int], runs: Iterable[str], result: VerifyResult) -> None:
    """Report files that belong neither to the ledger nor to a run."""
    expected = (f"{ledger.FOLDER}/", *(f"runs/{each}/" for each in runs))
    resume = stores.format_command(lake, "erase", "--resume")
    for name in sizes:
        if name == _ERASURE:
            result.notes.append(f"{name}: an erasure is not complete; complete it with: {resume}")
        elif not name.startswith(expected):
            result.add(name, "is not listed in any manifest")


def _group_by_run(sizes: Mapping[str, int], links: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the sizes of files by run and path in its folder; a folder that is a symbolic link has no files."""
    runs: dict[str, dict[str, int]] = defaultdict(dict)
    for name in sorted({*sizes, *links}):
        folder, *below = name.split("/", 2)
        if folder == "runs" and below and name in links:
            runs.setdefault(below[0], {})
        elif folder == "runs" and len(below) == 2:
            runs[below[0]][below[1]] = sizes[name]
    return runs


def _select_runs(lake: Root, run_id: str, stored: Sequence[str], records: Sequence[Record]) -> list[str]:
    """Return the runs to verify, oldest first, including runs that have a record in the ledger but no folder."""
    recorded = (record.body.get("run_id") for record in records if record.kind in _RUN_KINDS)
    runs = sorted({*stored, *(name for name in recorded if isinstance(name, str))})
    if run_id == "all":
        return runs
    if run_id == "latest" and runs:  # manifests are read later: the newest run, whether or not it can be read
        return [runs[-1]]
    if not runs:
        raise VerifyError(f"verify: got {run_id!r}, but the lake {lake} has no run; run an audit first")
    if run_id not in runs:
        choices = ", ".join(["latest", "all", *stored[:-6:-1]])
        raise VerifyError(f"verify: got {run_id!r}, expected a run of the lake {lake}: {choices}; choose one")
    return [run_id]


# The ledger


def _record_file(number: int) -> str:
    return f"{ledger.FOLDER}/{number:08d}.json"


def _verify_ledger(
    lake: Root, sizes: Mapping[str, int], result: VerifyResult, public: PublicKey | None, noted_head: str | None
) -> list[Record]:
    """Verify the ledger, and return its readable records; one record must have the sha256 `noted_head` if given."""
    if noted_head is not None and not re.fullmatch("[0-9a-f]{64}", noted_head):
        raise VerifyError(f"--head: got {noted_head!r}, expected the 64 hexadecimal digits that verify printed earlier")
    prefix = f"{ledger.FOLDER}/"
    names = [name.removeprefix(prefix) for name in sizes if name.startswith(prefix)]
    for name in names:
        if _TEMPORARY.fullmatch(name):
            result.notes.append(f"{prefix}{name}: incomplete file of a killed process; it can be removed")
        elif name != ledger.HEAD and not _TEXT.fullmatch(name) and ledger.record_number(name) is None:
            result.add(prefix + name, "is not a record of the ledger")
    numbers = sorted(number for name in names if (number := ledger.record_number(name)) is not None)
    last = max(numbers, default=0)
    read = stores.read_all(ledger.record_path(lake, number) for number in numbers)
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
    head = _verify_head(lake, result, last, digests)
    _verify_chain(result, parsed, digests, head)
    records = list(parsed.values())
    _verify_signatures(result, records, public)
    _verify_texts(lake, {name for name in names if _TEXT.fullmatch(name)}, result, records)
    result.records, result.head = len(digests), digests.get(last)
    result.files, result.bytes = len(names), sum(sizes[prefix + name] for name in names)
    if noted_head is not None and noted_head not in digests.values():
        result.add(prefix + ledger.HEAD, f"no record has the sha256 {noted_head} given by --head")
    if not names:
        result.notes.append(f"{prefix}: the lake has no ledger")
    return records


def _verify_texts(lake: Root, names: set[str], result: VerifyResult, records: Sequence[Record]) -> None:
    """Compare the texts that people wrote with their sha256 in the records, and note what was erased."""
    erased = ledger.erased_files(records)
    owners = {f"{ledger.TEXTS}/{digest}.json": record for record in records if (digest := ledger.text_digest(record))}
    for name in sorted(names | set(owners)):
        path = f"{ledger.FOLDER}/{name}"
        if name not in owners:
            result.notes.append(f"{path}: a text without a record; its writer was killed, and it can be removed")
        elif name not in names and path in erased:
            result.notes.append(f"record {owners[name].number}: its text was erased (record {erased[path].number})")
        elif name not in names:
            result.add(path, f"the text of record {owners[name].number} is missing")
        else:
            try:
                ledger.parse_text(stores.read_bytes(lake / path), name[len(ledger.TEXTS) + 1 : -len(".json")])
            except LedgerError as error:
                result.add(path, _shorten(error))
    for record in records:
        if record.kind == "rewrite" and record.body.get("what") == "erased":
            result.notes.append(_describe_erasure(record))


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


def _shorten(error: LedgerError) -> str:
    return str(error).removeprefix("ledger: ").partition("; ")[0]


def _verify_head(lake: Root, result: VerifyResult, last: int, digests: Mapping[int, str]) -> tuple[int, str] | None:
    """Verify the file HEAD; return the record number and sha256 in it, None if they cannot be compared with records."""
    file = f"{ledger.FOLDER}/{ledger.HEAD}"
    try:
        head = ledger.read_head(lake)
    except LedgerError as error:
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
        *((_record_file(number), number, number - 1, record.prev) for number, record in parsed.items()),
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


def _verify_signatures(result: VerifyResult, records: Sequence[Record], public: PublicKey | None) -> None:
    if public is None:
        if keys := [record.key_id for record in records if record.key_id is not None]:
            result.notes.append(
                f"{len(keys)} of {format_count(len(records), 'record')} are signed (key {', '.join(sorted(set(keys)))}"
                "); --public-key checks the signatures"
            )
        return
    for record in records:
        if record.signature is None:
            problem = f"is not signed, expected a signature with key {public.key_id}"
        elif record.key_id != public.key_id:
            problem = f"is signed with key {record.key_id}, expected {public.key_id}"
        elif not public.verify(record.signed_bytes(), record.signature):
            problem = "has an invalid signature"
        else:
            continue
        result.add_record(record.number, problem)


# A run


@dataclass
class _RunVerifier:
    """Verifies the manifest of a run, and every file in its folder; `files` maps paths in the folder to sizes."""

    lake: Root
    run_id: str
    files: Mapping[str, int]
    records: Sequence[Record]
    result: VerifyResult

    def __post_init__(self) -> None:
        self.prefix = f"runs/{self.run_id}/"
        self.own_records = [record for record in self.records if record.body.get("run_id") == self.run_id]
        self.ends = [record for record in self.own_records if record.kind in _RUN_KINDS]
        self.erased = ledger.erased_files(self.records)

    def verify(self) -> None:
        """Add the differences and notes of the run to the result."""
        self.result.files += len(self.files)
        self.result.bytes += sum(self.files.values())
        if _MANIFEST not in self.files:
            self._add(_MANIFEST, "is missing" if self.ends else "is missing: this is not the folder of a run")
            return
        data = stores.read_bytes(self.lake / self.prefix / _MANIFEST)
        try:
            manifest = sql.parse_manifest(data, self.run_id)
        except ValueError as error:
            self._add(_MANIFEST, f"is not a manifest of this run: {error}")
            return
        digest = ledger.sha256(data)
        self._verify_manifest(manifest, digest)
        listed = {entry["path"].removeprefix(self.prefix): entry["sha256"] for entry in manifest["files"]}
        entries = manifest.get("earlier_manifests", [])
        earlier = {entry["manifest"]: entry.get("erased_sha256", entry["sha256"]) for entry in entries}
        self._verify_files(listed | earlier)
        self._verify_reviews({digest, *(entry["sha256"] for entry in entries)})
        self._verify_reports(manifest)
        self._verify_unlisted({_MANIFEST, *listed, *earlier}, earlier, digest, manifest["status"] == "running")

    def _add(self, name: str, description: str) -> None:
        self.result.add(self.prefix + name, description)

    def _note(self, name: str, text: str) -> None:
        self.result.notes.append(f"{self.prefix}{name}: {text}")

    def _verify_manifest(self, manifest: Mapping[str, Any], digest: str) -> None:
        """Compare a manifest with the last record of its run."""
        status = manifest["status"]
        if not self.ends:
            if status == "running":
                self._note("", "is running, or its process was killed; it has no record yet")
            elif manifest.get("chained"):
                self._add(
                    _MANIFEST,
                    "the ledger has no record of the end of this run: the record was removed, the process was killed "
                    "before it wrote one, or the ledger was unavailable",
                )
            elif ledger.expects_record(manifest, self.records):
                self._add(
                    _MANIFEST,
                    "the ledger has no record of this run, although the ledger is older than the run: the run was "
                    "added later, or written by a release without a ledger",
                )
            else:
                self._note("", _NOT_CHAINED)
            return
        first, last = self.ends[0], self.ends[-1]
        recorded, end = last.body.get("manifest_sha256"), last.body.get("status")
        if first.body.get("late"):
            day = first.at[:10]
            self._note(
                "", f"was adopted as stored on {day} (record {first.number}); earlier changes cannot be detected"
            )
        if digest == recorded:
            return
        if last.kind == "rewrite" and digest == last.body.get("before_sha256"):
            what = last.body.get("what")
            self._note(
                "", f"record {last.number} says that the run was {what}, which was not completed: repeat the command"
            )
        elif status == "running" and last.kind == "run" and end not in sql.COMPLETE:
            self._note("", f"ended as {end} (record {last.number}) and is being resumed")
        else:
            self._add(_MANIFEST, f"has sha256 {digest}, expected {recorded} (record {last.number} of the ledger)")

    def _verify_files(self, expected: Mapping[str, str]) -> None:
        """Compare files with their sha256 in the manifest."""
        for name, digest in expected.items():
            if name not in self.files:
                self._add(name, "is missing")
            elif (found := self._sha256(name)) != digest:
                self._add(name, f"has sha256 {found} ({format_count(self.files[name], 'byte')}), expected {digest}")

    def _sha256(self, name: str) -> str:
        path = self.lake / self.prefix / name
        copy = stores.fetch(path)
        try:
            return stores.file_sha256(copy)
        finally:
            if not isinstance(path, Path):
                copy.unlink(missing_ok=True)  # a lake can be larger than the temporary folder

    def _verify_reviews(self, manifests: set[str]) -> None:
        """Check that decisions and sign-offs refer to the current manifest of the run, or to an earlier one."""
        for record in self.own_records:
            reviewed = record.body.get("evidence", record.body)
            digest = reviewed.get("manifest_sha256") if isinstance(reviewed, dict) else None
            if record.kind in ("review", "sign_off") and digest not in manifests:
                self.result.add_record(
                    record.number,
                    f"refers to a manifest of run {self.run_id} with sha256 {str(digest)[:16]}, which it never had",
                )

    def _verify_reports(self, manifest: Mapping[str, Any]) -> None:
        """Compare reports in the folder of the run with the sha256 that the ledger has of them."""
        recorded = [record.body for record in self.own_records if record.kind == "report"]
        for name in self.files:
            if not _REPORT.fullmatch(name):
                continue
            digests = [body.get("sha256") for body in recorded if name.endswith(f".{body.get('format')}")]
            found = self._sha256(name)
            if found in digests:
                if found != digests[-1]:
                    self._note(name, "is not the last report that was recorded")
            elif digests or manifest.get("chained"):
                self._add(name, f"has sha256 {found}, which is not in the ledger")
            else:
                self._note(name, _NOT_CHAINED)
        for path in {body["path"] for body in recorded if isinstance(body.get("path"), str)}:
            name = path.removeprefix(self.prefix)
            command = stores.format_command(
                self.lake, "report", self.run_id, *(["--pdf"] if name.endswith(".pdf") else [])
            )
            is_explained = manifest["status"] == sql.PRUNED or path in self.erased
            if path.startswith(self.prefix) and name not in self.files and not is_explained:
                self._add(name, f"is missing; to write it again: {command}")

    def _verify_unlisted(self, known: set[str], earlier: Mapping[str, str], digest: str, is_running: bool) -> None:
        """Report files in the folder of the run that its manifest, which has this sha256, does not list."""
        replaced: set[str] = set()
        for _, data in stores.read_all(self.lake / self.prefix / name for name in earlier):
            if ledger.sha256(data) in earlier.values():
                with contextlib.suppress(ValueError):  # then its files are reported
                    entries = sql.parse_manifest(data, self.run_id)["files"]
                    replaced |= {entry["path"].removeprefix(self.prefix) for entry in entries}
        unfinished = 0
        for name in sorted(set(self.files) - known):
            if name == "lock.json" or _REPORT.fullmatch(name):
                continue
            if is_running and _SHARD.fullmatch(name) and name not in replaced:
                unfinished += 1
            elif origin := self._explain_unlisted(name, replaced, digest):
                self._note(name, f"{origin}; no result depends on it")
            else:
                self._add(name, "is not listed in the manifest of the run")
        if unfinished:
            self._note("", f"{format_count(unfinished, 'file')} of stages that have not ended")

    def _explain_unlisted(self, name: str, replaced: set[str], digest: str) -> str | None:
        """Return where a file comes from that the manifest, which has this sha256, does not list; None if unknown."""
        if _TEMPORARY.fullmatch(name):
            return "incomplete file of a killed process"
        if name == f"manifest-{digest[:16]}.json" and self._sha256(name) == digest:
            return "copy of the manifest, of an interrupted compaction, pruning or erasure"
        if name in replaced and self.prefix + name in self.erased:
            return "left over from an erasure that is not complete: repeat it"
        if name in replaced:
            return "left over from before the run was compacted or pruned"
        return "of an interrupted attempt, for --resume" if _SHARD.fullmatch(name) else None


# Output


def to_json(result: VerifyResult) -> dict[str, Any]:
    """Convert the result to JSON values."""
    return {
        "whole": result.is_intact,
        "runs": result.runs,
        "files": result.files,
        "bytes": result.bytes,
        "records": result.records,
        "head": result.head,
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
        yield f"note: {note}"
    yield f"ledger: {format_count(result.records, 'record')}, head {result.head or 'none'}"
    outcome = "intact"
    if not result.is_intact:
        outcome = f"{format_count(len(result.differences), 'difference')}, the first in {result.differences[0].file}"
    counts = ((len(result.runs), "run"), (result.files, "file"), (result.bytes, "byte"))
    yield f"verified: {', '.join(format_count(number, noun) for number, noun in counts)}: {outcome}"
