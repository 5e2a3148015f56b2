"""Whether all is as it was written: the ledger's chain, each run's manifest against it, each file against that.

What it proves: nothing has changed since the ledger's head was noted elsewhere. What it cannot: that the chain's end
was not cut off and made anew by someone who could write everything, unless its head or the signing key lie elsewhere.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import sql
import stores
from review.evidence.damage import in_manifest, in_parquet
from review.evidence.decisions import find_decision
from stores import Root, ledger
from stores.keys import PublicKey
from stores.ledger import LedgerError, Record

_ASIDE: Final = re.compile(r"(.*/)?\.[^/]+\.tmp")
"""What a process that was killed left half written; nothing reads it."""
_SHARD: Final = re.compile(r"(attributions|ingest_errors)/part-[^/]+\.parquet")
"""What an attempt that was cut off left of a shard; readers see what the manifest lists."""
_LOCK: Final = "lock.json"
_REPORT: Final = re.compile(r"report[^/]*\.(html|pdf)")
_MANIFEST: Final = "manifest.json"
_LINK: Final = "is a link to somewhere else, expected what it names to lie here: that may change unseen"
_HEX: Final = re.compile("[0-9a-f]{64}")


class VerifyError(Exception):
    """What is to be verified is not there; the message says what, got, expected, next step."""


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it was written: the file below the lake, where in it if that can be told, and what."""

    file: str
    what: str
    where: str | None = None

    def __str__(self) -> str:
        """As a line."""
        return f"{self.file}: {self.what}" + (f" ({self.where})" if self.where else "")


@dataclass
class Verdict:
    """What was found; faults: the ledger's first, then those of the runs, oldest first."""

    runs: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    head: str | None = None
    files: int = 0
    bytes: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing differs."""
        return not self.faults


def verify(lake: Root, run_id: str, public: PublicKey | None = None, head: str | None = None) -> Verdict:
    """Hold a run, the `latest` or `all` of them, against what was recorded; with `all`, also what else is in the lake.

    public: the key by which every record of the ledger has to be signed. head: sha256 of a record that was noted
    earlier, and has to be in the chain.

    Raises:
        VerifyError: the run is not in the lake, or head is no sha256.
        sql.LakeError: the lake cannot be read.
    """
    _check_noted(head)
    there, links = stores.list_sizes(lake), stores.list_links(lake)
    verdict = Verdict()
    records = _ledger(lake, there, verdict, public, head)
    known = sorted(
        {name.split("/")[1] for name in there if name.startswith("runs/") and name.count("/") > 1}
        | {name.split("/")[1] for name in links if name.startswith("runs/")}
    )
    recorded = {record.body.get("run_id") for record in records if record.kind in ("run", "rewrite")}
    wanted = _wanted(lake, run_id, known, recorded)
    if run_id == "all":
        verdict.faults += [Fault(name, _LINK) for name in links if not name.startswith("runs/")]
    for one in wanted:
        linked = [name for name in links if f"{name}/".startswith(f"runs/{one}/")]
        verdict.faults += [Fault(name, _LINK) for name in linked]
        if f"runs/{one}" not in linked:
            _run(lake, one, {name: size for name, size in there.items() if name not in linked}, records, verdict)
        verdict.runs.append(one)
    if run_id == "all":
        own = ("ledger/", *(f"runs/{one}/" for one in known))
        verdict.faults += [Fault(name, "no manifest lists it") for name in there if not name.startswith(own)]
    return verdict


def verify_ledger(lake: Root, public: PublicKey | None = None, head: str | None = None) -> Verdict:
    """Hold the ledger alone against itself; public and head: see `verify`. Raises VerifyError, sql.LakeError."""
    _check_noted(head)
    verdict = Verdict()
    there = {f"{ledger.FOLDER}/{name}": size for name, size in stores.list_sizes(lake / ledger.FOLDER).items()}
    _ledger(lake, there, verdict, public, head)
    return verdict


def _check_noted(head: str | None) -> None:
    if head is not None and not _HEX.fullmatch(head):
        raise VerifyError(f"--head: got {head!r}, expected the 64 digits that an earlier verification printed")


def _wanted(lake: Root, run_id: str, known: Sequence[str], recorded: set[Any]) -> list[str]:
    everything = sorted({*known, *(name for name in recorded if isinstance(name, str))})
    if run_id == "all":
        return everything
    if run_id == "latest" and everything:
        return [everything[-1]]
    if run_id not in everything:
        newest = ", ".join(known[:-6:-1]) or "none"
        raise VerifyError(f"verify: got {run_id!r}, expected latest, all, or a run of the lake {lake}: {newest}")
    return [run_id]


def _ledger(
    lake: Root, there: Mapping[str, int], verdict: Verdict, public: PublicKey | None, noted: str | None
) -> list[Record]:
    """Check the chain; returns the records that can be read."""
    prefix = f"{ledger.FOLDER}/"
    names = [name.removeprefix(prefix) for name in there if name.startswith(prefix)]
    numbers = sorted(number for name in names if (number := ledger.record_number(name)) is not None)
    for name in names:
        if _ASIDE.fullmatch(name):
            verdict.notes.append(f"{prefix}{name}: left half written by a process that was killed; it may be removed")
        elif name != ledger.HEAD and ledger.record_number(name) is None:
            verdict.faults.append(Fault(prefix + name, "is no record of the ledger"))
    found: dict[int, Record] = {}
    data = {path.name: text for path, text in stores.read_all(ledger.record_path(lake, number) for number in numbers)}
    digests = {number: ledger.sha256(data[f"{number:08d}.json"]) for number in numbers if f"{number:08d}.json" in data}
    for number in range(1, max(numbers, default=0) + 1):
        name = f"{number:08d}.json"
        if number not in digests:
            verdict.faults.append(Fault(prefix + name, "is gone", f"record {number}"))
            continue
        try:
            found[number] = ledger.parse_record(number, data[name])
        except LedgerError as error:
            verdict.faults.append(Fault(prefix + name, _short(error), f"record {number}"))
    named = _head(lake, verdict, numbers, digests)
    _chain(verdict, found, digests, named)
    records = [found[number] for number in sorted(found)]
    _signatures(verdict, records, public)
    verdict.records = len(digests)
    verdict.head = digests.get(max(numbers, default=0))
    verdict.files, verdict.bytes = len(names), sum(there[prefix + name] for name in names)
    if noted is not None and noted not in digests.values():
        verdict.faults.append(
            Fault(prefix + ledger.HEAD, f"no record has the sha256 {noted} that was noted as the head")
        )
    if not names:
        verdict.notes.append("the lake has no ledger: nothing was recorded in it")
    return records


def _short(error: LedgerError) -> str:
    return str(error).removeprefix("ledger: ").partition("; ")[0]


def _head(lake: Root, verdict: Verdict, numbers: Sequence[int], digests: Mapping[int, str]) -> tuple[int, str] | None:
    """What HEAD names, if that is a record; faults are noted."""
    file, last = f"{ledger.FOLDER}/{ledger.HEAD}", max(numbers, default=0)
    try:
        named = ledger.read_head(lake)
    except LedgerError as error:
        verdict.faults.append(Fault(file, _short(error)))
        return None
    if named is None:
        if numbers:
            verdict.faults.append(Fault(file, "is gone"))
        return None
    number, digest = named
    if number > last:
        gone = f"{ledger.FOLDER}/{last + 1:08d}.json"
        what = "is gone, and what came after it" if number > last + 1 else "is gone"
        if digest in digests.values():
            verdict.faults.append(Fault(file, f"names record {number}, but has the sha256 of another one", "number"))
            return None
        verdict.faults.append(Fault(gone, f"{what}: {file} names record {number}", f"record {last + 1}"))
        return None
    if digests.get(number) != digest and digest in digests.values():
        verdict.faults.append(Fault(file, f"names record {number}, but has the sha256 of another one", "number"))
        return None
    if number < last and digests.get(number) == digest:
        verdict.notes.append(f"{file} names record {number} of {last}: its writer was killed; the next one mends it")
    return named


def _chain(
    verdict: Verdict, found: Mapping[int, Record], digests: Mapping[int, str], named: tuple[int, str] | None
) -> None:
    """Name the records that are not what the next one, or HEAD, is chained to."""
    # What is said of each record's sha256, by the next one and by HEAD.
    said: dict[int, dict[str, str]] = {number: {} for number in (0, *digests)}
    for number, record in found.items():
        said.setdefault(number - 1, {})[f"{ledger.FOLDER}/{number:08d}.json"] = record.prev
    if named is not None:
        said.setdefault(named[0], {})[f"{ledger.FOLDER}/{ledger.HEAD}"] = named[1]
    truth = {0: ledger.BEGINNING, **digests}

    def wrong(number: int) -> bool:
        return number in found and any(digest != truth[number] for digest in said.get(number, {}).values())

    blamed: set[str] = set()
    for number in sorted(set(said) & set(truth)):
        for file, digest in said[number].items():
            if digest == truth[number]:
                continue
            # Which of the two was changed? The one that others disagree with, too.
            speaker = ledger.record_number(file.rpartition("/")[2])
            others = [other for name, other in said[number].items() if name != file]
            near = sum(one != other for one, other in zip(digest, truth[number], strict=False)) <= 2
            theirs = number == 0 or truth[number] in others or near or (speaker is not None and wrong(speaker))
            own = f"{ledger.FOLDER}/{number:08d}.json"
            culprit, at = (file, speaker) if theirs else (own, number)
            if culprit not in blamed:
                blamed.add(culprit)
                verdict.faults.append(
                    Fault(
                        culprit,
                        f"chained to sha256 {digest[:16]}, expected {truth[number][:16]}"
                        if theirs
                        else f"its sha256 is {truth[number][:16]}, but {file} is chained to {digest[:16]}",
                        None if at is None else f"record {at}",
                    )
                )


def _signatures(verdict: Verdict, records: Sequence[Record], public: PublicKey | None) -> None:
    if public is None:
        signed = sum(record.key_id is not None for record in records)
        if signed:
            keys = ", ".join(sorted({record.key_id for record in records if record.key_id is not None}))
            verdict.notes.append(
                f"{signed} of {len(records)} records are signed (key {keys}): --public-key checks that"
            )
        return
    for record in records:
        file, where = f"{ledger.FOLDER}/{record.number:08d}.json", f"record {record.number}"
        if record.signature is None:
            verdict.faults.append(Fault(file, f"is not signed, expected key {public.key_id}", where))
        elif record.key_id != public.key_id:
            verdict.faults.append(Fault(file, f"is signed by key {record.key_id}, expected {public.key_id}", where))
        elif not public.verify(record.unsigned(), record.signature):
            verdict.faults.append(Fault(file, "its signature is not the key's", where))


def _run(lake: Root, run_id: str, there: Mapping[str, int], records: Sequence[Record], verdict: Verdict) -> None:
    """Check one run's manifest, and every file below its folder."""
    prefix = f"runs/{run_id}/"
    names = {name.removeprefix(prefix): size for name, size in there.items() if name.startswith(prefix)}
    verdict.files, verdict.bytes = verdict.files + len(names), verdict.bytes + sum(names.values())
    own = [record for record in records if record.body.get("run_id") == run_id]
    of_run = [record for record in own if record.kind in ("run", "rewrite")]
    if _MANIFEST not in names:
        what = "is gone" if of_run else "is not there, expected a run's folder"
        verdict.faults.append(Fault(prefix + _MANIFEST, what))
        return
    data = stores.read_bytes(lake / "runs" / run_id / _MANIFEST)
    record = _parsed(data, run_id)
    if record is None:
        verdict.faults.append(Fault(prefix + _MANIFEST, "is no manifest of this run", in_manifest(data, {})))
        return
    differing = _listed(lake, prefix, record, names)
    digest = hashlib.sha256(data).hexdigest()
    manifest = _manifest_fault(prefix, record, digest, records, verdict)
    if manifest is not None:
        verdict.faults.append(
            Fault(prefix + _MANIFEST, manifest, in_manifest(data, {f.file: f.what for f in differing}))
        )
    verdict.faults += differing
    earlier = {noted["manifest"]: noted["sha256"] for noted in record.get("earlier_manifests", [])}
    _earlier(lake, prefix, earlier, names, verdict)
    _judged(prefix, own, {digest, *earlier.values()}, verdict)
    listed = {entry["path"].removeprefix(prefix) for entry in record["files"]}
    _reports(lake, prefix, record, names, own, verdict)
    _unlisted(lake, prefix, names, {_MANIFEST, *listed, *earlier}, earlier, verdict)


def _parsed(data: bytes, run_id: str) -> dict[str, Any] | None:
    """A manifest, or None for what is none of this run."""
    try:
        record = json.loads(data.decode())
        entries = [(entry["path"], entry["sha256"]) for entry in record["files"]]
        noted = [(entry["manifest"], entry["sha256"]) for entry in record.get("earlier_manifests", [])]
        inside = all(path.startswith(f"runs/{run_id}/") and ".." not in path for path, _ in entries)
        plain = all(isinstance(name, str) and "/" not in name for name, _ in noted)
        fits = record["run_id"] == run_id and isinstance(record["status"], str) and inside and plain
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return record if fits else None


def _manifest_fault(
    prefix: str, record: Mapping[str, Any], digest: str, records: Sequence[Record], verdict: Verdict
) -> str | None:
    """What speaks against a manifest, by the ledger; notes go to the verdict."""
    status = record["status"]
    of_run = [one for one in records if one.body.get("run_id") == record["run_id"] and one.kind in ("run", "rewrite")]
    if not of_run:
        return _unrecorded(prefix, record, records, verdict)
    if of_run[0].body.get("late"):
        verdict.notes.append(
            f"{prefix}: was adopted, as it lay there on {of_run[0].at[:10]} (record {of_run[0].number}); nothing "
            "speaks for the time before"
        )
    last = of_run[-1]
    said = last.body.get("manifest_sha256")
    if digest == said:
        return None
    if last.kind == "rewrite" and digest == last.body.get("before_sha256"):
        verdict.notes.append(
            f"{prefix}: record {last.number} says {last.body.get('what')}, which was not done: do it again"
        )
        return None
    if status == "running" and last.kind == "run" and last.body.get("status") not in sql.COMPLETE:
        verdict.notes.append(
            f"{prefix}: was {last.body.get('status')} (record {last.number}), and is being gone on with"
        )
        return None
    return f"its sha256 is {digest[:16]}, expected {str(said)[:16]} as record {last.number} of the ledger says"


def _unrecorded(prefix: str, manifest: Mapping[str, Any], records: Sequence[Record], verdict: Verdict) -> str | None:
    """What speaks against a run without a record; notes go to the verdict."""
    if manifest["status"] == "running":
        verdict.notes.append(f"{prefix}: has not ended, so that nothing was recorded yet")
        return None
    if manifest.get("chained"):
        return (
            "the ledger has no record of its end: that was removed, or the process was killed, or the ledger out "
            "of reach, before it was written"
        )
    if ledger.expects_record(manifest, records):
        return (
            "the ledger has no record of it, though the ledger is older than the run: it was put there, or made by "
            "a release without a ledger"
        )
    verdict.notes.append(f"{prefix}: not chained: it was made before the lake had a ledger")
    return None


def _listed(lake: Root, prefix: str, record: Mapping[str, Any], names: Mapping[str, int]) -> list[Fault]:
    """Each listed file against its sha256."""
    faults = []
    for entry in record["files"]:
        name = entry["path"].removeprefix(prefix)
        if name not in names:
            faults.append(Fault(entry["path"], "is gone"))
            continue
        found, where = _held(lake / entry["path"], entry["sha256"], in_parquet if name.endswith(".parquet") else None)
        if found is not None:
            faults.append(Fault(entry["path"], found, where))
    return faults


def _held(path: Root, sha256: Any, look: Callable[[Path], str] | None = None) -> tuple[str | None, str | None]:
    """What speaks against a file's sha256, and where it lies."""
    copy = stores.fetch(path)
    try:
        found = stores.file_sha256(copy)
        if found == sha256:
            return None, None
        size = copy.stat().st_size
        where = look(copy) if look is not None else None
        return f"its {size} bytes have sha256 {found[:16]}, expected {str(sha256)[:16]}", where
    finally:
        if not isinstance(path, Path):
            copy.unlink(missing_ok=True)  # a lake is larger than this machine's temporary folder


def _earlier(lake: Root, prefix: str, earlier: Mapping[str, str], names: Mapping[str, int], verdict: Verdict) -> None:
    """The manifests that were replaced, each against its sha256."""
    for name, digest in earlier.items():
        if name not in names:
            verdict.faults.append(Fault(prefix + name, "is gone"))
        elif (found := hashlib.sha256(data := stores.read_bytes(lake / f"{prefix}{name}")).hexdigest()) != digest:
            what = f"its sha256 is {found[:16]}, expected {digest[:16]} as {_MANIFEST} says"
            verdict.faults.append(Fault(prefix + name, what, in_manifest(data, {})))


def _judged(prefix: str, own: Sequence[Record], manifests: set[str], verdict: Verdict) -> None:
    """What people judged and signed was this run as it lies here."""
    for record in own:
        seen = record.body.get("evidence", record.body)
        digest = seen.get("manifest_sha256") if isinstance(seen, dict) else None
        if record.kind in ("review", "sign_off") and digest not in manifests:
            what = f"is about a manifest with sha256 {str(digest)[:16]}, which {prefix}{_MANIFEST} neither is nor was"
            verdict.faults.append(Fault(f"{ledger.FOLDER}/{record.number:08d}.json", what, f"record {record.number}"))


@dataclass(frozen=True)
class WrittenReport:
    """A report that the ledger knows, and what it does not say any more."""

    record: Record
    since: list[Record]
    """What was decided, signed or rewritten since, and counts for the run."""
    over: list[Record]
    """Waivers that were in force and have run out."""


def find_written_report(lake: Root, data: bytes) -> WrittenReport:
    """The record of the ledger that knows a report's bytes, and what has changed what it says since.

    Raises:
        VerifyError: no record knows them.
        sql.LakeError: the ledger cannot be read, or is not whole.
    """
    records = ledger.read_records(lake)
    digest = ledger.sha256(data)
    known = [one for one in ledger.select_kinds(records, "report") if one.body.get("sha256") == digest]
    if not known:
        raise VerifyError(
            f"report: got a file with sha256 {digest}, expected that of one which the ledger of {lake} knows: it was "
            "changed after it was written, or comes from another lake; write it anew with m2ib-audit report"
        )
    record = known[0]
    run_id, after = record.body["run_id"], records[record.number :]
    lives = _lives(lake, run_id, records)
    about = {one.number for one in records if _counts(one, run_id, lives)}
    since = [
        one
        for one in after
        if (one.kind in ("review", "sign_off") and one.number in about)
        or (one.kind == "countersign" and one.body.get("record") in about)
        or (one.kind == "rewrite" and one.body.get("run_id") == run_id)
    ]
    before = records[: record.number]
    held = [one for life in sorted(lives) if (one := find_decision(before, life, run_id)) is not None]
    return WrittenReport(record, since, [one for one in held if _is_over(one.body.get("until"), record.time.date())])


def _is_over(until: str | None, then: date) -> bool:
    """Whether a waiver held on a day, and holds no more."""
    return until is not None and then <= date.fromisoformat(until) < datetime.now(UTC).date()


def _lives(lake: Root, run_id: str, records: Sequence[Record]) -> set[str]:
    """Alerts of a run over the runs of its audit; of a run that cannot be read, those that were judged upon it."""
    judged = {one.body["life_id"] for one in ledger.select_kinds(records, "review") if one.body.get("run_id") == run_id}
    try:
        with sql.connect(lake, run_id) as connection:
            return judged | {row["life_id"] for row in sql.rows(connection, "review/lives_of_run", run_id=run_id)}
    except sql.LakeError:
        return judged


def _counts(record: Record, run_id: str, lives: set[str]) -> bool:
    """Whether a review, also one upon an earlier run, or a sign-off is about a run."""
    body = record.body
    if record.kind == "review":
        return body["life_id"] in lives and body["run_id"] <= run_id
    return record.kind == "sign_off" and body.get("run_id") == run_id


def _reports(
    lake: Root,
    prefix: str,
    record: Mapping[str, Any],
    names: Mapping[str, int],
    own: Sequence[Record],
    verdict: Verdict,
) -> None:
    """Reports in the run's folder, each against the records of reports."""
    known = [one.body for one in own if one.kind == "report"]
    for name in names:
        if not _REPORT.fullmatch(name):
            continue
        digests = [body.get("sha256") for body in known if name.endswith(f".{body.get('format')}")]
        found = hashlib.sha256(stores.read_bytes(lake / f"{prefix}{name}")).hexdigest()
        if found in digests:
            if found != digests[-1]:
                verdict.notes.append(f"{prefix}{name}: is not the last report that was recorded")
        elif digests or record.get("chained"):
            verdict.faults.append(Fault(prefix + name, f"no record of the ledger has its sha256 {found[:16]}"))
        else:
            verdict.notes.append(f"{prefix}{name}: not chained: it was written before the lake had a ledger")
    for path in {body["path"] for body in known if isinstance(body.get("path"), str)}:
        if path.startswith(prefix) and path.removeprefix(prefix) not in names and record["status"] != sql.PRUNED:
            verdict.faults.append(Fault(path, "is gone; m2ib-audit report writes it anew"))


def _unlisted(
    lake: Root, prefix: str, names: Mapping[str, int], known: set[str], earlier: Mapping[str, str], verdict: Verdict
) -> None:
    """Files of a run's folder that its manifest does not list."""
    before = _listed_before(lake, prefix, earlier)
    for name in sorted(set(names) - known):
        if name == _LOCK or _REPORT.fullmatch(name):
            continue
        if _ASIDE.fullmatch(name):
            verdict.notes.append(f"{prefix}{name}: left half written by a process that was killed; nothing reads it")
        elif name in before:
            verdict.notes.append(
                f"{prefix}{name}: left over from before the run was compacted or pruned; nothing reads it"
            )
        elif _SHARD.fullmatch(name):
            verdict.notes.append(f"{prefix}{name}: left by an attempt that was cut off; nothing reads it")
        else:
            verdict.faults.append(Fault(prefix + name, "the run's manifest does not list it"))


def _listed_before(lake: Root, prefix: str, earlier: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    for _, data in stores.read_all(lake / f"{prefix}{name}" for name in earlier):
        if hashlib.sha256(data).hexdigest() in earlier.values():
            found |= {entry["path"].removeprefix(prefix) for entry in json.loads(data)["files"]}
    return found


def as_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON can hold it."""
    return {
        "whole": verdict.whole,
        "runs": verdict.runs,
        "files": verdict.files,
        "bytes": verdict.bytes,
        "records": verdict.records,
        "head": verdict.head,
        "faults": [vars(fault) for fault in verdict.faults],
        "notes": verdict.notes,
    }


def lines(verdict: Verdict) -> Iterator[str]:
    """A verdict in words, what differs first."""
    for fault in verdict.faults:
        yield f"DIFFERS {fault}"
    for note in verdict.notes:
        yield f"note: {note}"
    count = len(verdict.runs)
    yield f"ledger: {verdict.records} records, head {verdict.head or 'none'}"
    said = "whole" if verdict.whole else f"NOT WHOLE, first {verdict.faults[0].file}"
    yield f"verified: {count} run{'' if count == 1 else 's'}, {verdict.files} files, {verdict.bytes} bytes: {said}"
