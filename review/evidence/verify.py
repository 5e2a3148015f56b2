"""Verify a lake: the hash chain of the ledger, each manifest against the ledger, each file against its manifest.

An intact lake does not prove that nobody with write access to the lake has replaced the end of its ledger. Two things
prove this: the head of the ledger, if it was stored outside of the lake, or signed records.
"""

import contextlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

import sql
import stores
from review.evidence.verify_ledger import ERASURE, TEMPORARY, report_erased, verify_ledger
from review.evidence.verify_result import VerifyError, VerifyResult
from review.presentation.numbers import format_count
from stores import Root, ledger
from stores.keys import PublicKey
from stores.ledger import Record
from stores.run_records import RecordedRuns, list_recorded

_SHARD: Final = re.compile(
    r"(attributions|patch_features|ingest_errors)/part-[^/]+\.parquet|parts/[^/]+\.json"
    r"|(calibration|patch_projection)\.safetensors"
    r"|[a-z_]+/erased-[^/]+\.parquet"
)
"""Names of the files of a shard or an erasure. Interrupted attempts leave such files, which no manifest lists."""
_REPORT: Final = re.compile(r"report[^/]*\.(html|pdf)")
_MANIFEST: Final = "manifest.json"


def verify(
    lake: Root, run_id: str | None, public_keys: Sequence[PublicKey] = (), head: str | None = None
) -> VerifyResult:
    """Verify the ledger, the manifests of runs against the ledger, and the files of runs against their manifests.

    Args:
        lake: Folder or URL of the lake.
        run_id: Id of a run, `latest`, or `all`, which also reports files that belong to no run; None verifies only the
            ledger.
        public_keys: Keys that must verify the signatures of the ledger, with those that it introduces; see
            `review.evidence.signatures`. None accepts unsigned records.
        head: sha256 of a record that must be in the ledger, or the path of a file with one at the end of each line.
    """
    result = VerifyResult()
    if run_id is None:  # listing a large lake takes long
        folder = lake / ledger.FOLDER
        sizes = {f"{ledger.FOLDER}/{name}": size for name, size in stores.list_sizes(folder).items()}
        verify_ledger(lake, sizes, result, public_keys, head)
        irregular = stores.list_irregular(folder)
        _report_irregular({f"{ledger.FOLDER}/{name}": is_link for name, is_link in irregular.items()}, result)
        return result
    sizes, irregular = stores.list_sizes(lake), stores.list_irregular(lake)
    links = [name for name, is_link in irregular.items() if is_link]
    if not sizes and not irregular:
        raise VerifyError(f"verify: {lake} has no file of a lake; run an audit first, or name the lake with --lake")
    records = verify_ledger(lake, sizes, result, public_keys, head)
    files, known = _group_by_run(sizes, links), list_recorded(records)
    result.runs = _select_runs(lake, run_id, files, known)
    prefixes = (f"{ledger.FOLDER}/", *(f"runs/{each}/" for each in result.runs))
    reported = (name for name in irregular if run_id == "all" or f"{name}/".startswith(prefixes))
    _report_irregular({name: irregular[name] for name in reported}, result)
    for each in result.runs:
        if f"runs/{each}" not in links:
            _RunVerifier(lake, each, files[each], records, known, result).verify()
    _note_unrecorded(lake, run_id, files, known, result)
    if run_id == "all":
        _verify_others(lake, sizes, files, result)
    return result


def _report_irregular(irregular: Mapping[str, bool], result: VerifyResult) -> None:
    for name, is_link in irregular.items():
        link = "is a symbolic link, expected a file or folder: its target can change unnoticed"
        special = "is not a regular file, but a pipe, device or socket, which no release writes: remove it"
        result.add(name, link if is_link else special)


def _note_unrecorded(
    lake: Root, run_id: str, files: Collection[str], known: RecordedRuns, result: VerifyResult
) -> None:
    """Report a ledger that knows no run, and note the runs that `latest` cannot be because the ledger lacks them."""
    if not known.runs and files:
        adopt = stores.format_command(lake, "adopt", "all")
        result.add(
            f"{ledger.FOLDER}/",
            f"knows no run: an earlier release wrote the lake, or its records were removed; run once: {adopt}",
        )
    elif run_id == "latest":
        for name in sorted({*files} - {*known.runs}):
            result.notes.append(f"runs/{name}/: the ledger has no record of this run; verify it by its id")


def _verify_others(lake: Root, sizes: Mapping[str, int], runs: Iterable[str], result: VerifyResult) -> None:
    """Report files that belong neither to the ledger nor to a run."""
    expected = (f"{ledger.FOLDER}/", *(f"runs/{each}/" for each in runs))
    resume = stores.format_command(lake, "erase", "--resume")
    for name in sizes:
        if name == ERASURE:
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


def _select_runs(lake: Root, run_id: str, stored: Collection[str], known: RecordedRuns) -> list[str]:
    """Return the runs to verify, oldest first, including runs that have a record in the ledger but no folder."""
    runs = known.sort({*stored, *known.runs})
    if run_id == "all":
        return runs
    if run_id == "latest" and runs:  # manifests are read later: the newest run, whether or not it can be read
        return [name for name in runs if name in known.runs][-1:] or [runs[-1]]
    if not runs:
        raise VerifyError(f"verify: got {run_id!r}, but the lake {lake} has no run; run an audit first")
    if run_id not in runs:
        choices = ", ".join(["latest", "all", *runs[:-6:-1]])
        raise VerifyError(f"verify: got {run_id!r}, expected a run of the lake {lake}: {choices}; choose one")
    return [run_id]


# A run


@dataclass
class _RunVerifier:
    """Verifies the manifest of a run, and every file in its folder; `files` maps paths in the folder to sizes."""

    lake: Root
    run_id: str
    files: Mapping[str, int]
    records: Sequence[Record]
    known: RecordedRuns
    result: VerifyResult

    def __post_init__(self) -> None:
        self.prefix = f"runs/{self.run_id}/"
        self.own_records = [record for record in self.records if record.body.get("run_id") == self.run_id]
        self.own = self.known.runs.get(self.run_id)
        self.values: dict[tuple[str, str], set[Any]] = {}
        self.erased = ledger.erased_files(self.records)
        self.erased_sha256 = ledger.erased_sha256(self.records, self.prefix)

    def verify(self) -> None:
        """Add the differences and notes of the run to the result."""
        self.result.files += len(self.files)
        self.result.bytes += sum(self.files.values())
        if _MANIFEST not in self.files:
            is_known = f", but record {self.own.first.number} introduced the run" if self.own else None
            self._add(_MANIFEST, f"is missing{is_known or ': this is not the folder of a run'}")
            return
        try:
            data = stores.read_bytes(self.lake / self.prefix / _MANIFEST)
            manifest = sql.parse_manifest(data, self.run_id)
        except (OSError, ValueError) as error:
            self._add(_MANIFEST, f"is not a manifest of this run: {error}")
            return
        digest = ledger.sha256(data)
        self._verify_manifest(manifest, digest)
        listed = {entry["path"].removeprefix(self.prefix): entry["sha256"] for entry in manifest["files"]}
        entries = manifest.get("earlier_manifests", [])
        earlier = {entry["manifest"]: entry.get("erased_sha256", entry["sha256"]) for entry in entries}
        self._verify_files(listed | earlier)
        if manifest["status"] == "running" or self.own is None or self.own.explain(manifest["status"], digest) is None:
            self._verify_rows(manifest)
        self._verify_reviews({digest, *(entry["sha256"] for entry in entries)}, manifest)
        self._verify_reports(manifest)
        self._verify_unlisted({_MANIFEST, *listed, *earlier}, earlier, digest, manifest["status"] == "running")

    def _add(self, name: str, description: str) -> None:
        self.result.add(self.prefix + name, description)

    def _note(self, name: str, text: str) -> None:
        self.result.notes.append(f"{self.prefix}{name}: {text}")

    def _verify_manifest(self, manifest: Mapping[str, Any], digest: str) -> None:
        """Compare a manifest with the records of its run."""
        adopt = stores.format_command(self.lake, "adopt", self.run_id)
        if self.own is None:
            self._add(
                _MANIFEST,
                "the ledger has no record of this run: it was added by somebody else, or an earlier release wrote it; "
                f"if it can be trusted: {adopt}",
            )
            return
        first, ends = self.own.first, self.own.ends
        if first.body.get("late"):
            self._note(
                "",
                f"was adopted as stored on {first.at[:10]} (record {first.number}); earlier changes cannot be detected",
            )
        if (reason := self.own.explain(manifest["status"], digest)) is None and not ends:
            self._add(
                _MANIFEST,
                f"the ledger has the begin of this run (record {first.number}), but not its end: the record was "
                "removed, the process was killed before it wrote one, or the ledger was unavailable; if the run can be "
                f"trusted: {adopt}",
            )
        elif reason is None:
            last = ends[-1]
            recorded = last.body.get("manifest_sha256")
            self._add(_MANIFEST, f"has sha256 {digest}, expected {recorded} (record {last.number} of the ledger)")
        elif not ends or digest != ends[-1].body.get("manifest_sha256"):
            self._note("", reason)

    def _verify_files(self, expected: Mapping[str, str]) -> None:
        """Compare files with their sha256 in the manifest."""
        for name, digest in expected.items():
            if name not in self.files:
                self._add(name, "is missing")
            elif (found := self._sha256(name)) != digest:
                self._add(name, f"has sha256 {found} ({format_count(self.files[name], 'byte')}), expected {digest}")

    def _verify_rows(self, manifest: Mapping[str, Any]) -> None:
        """Check that a run whose manifest no record of an end has brings no rows of another run."""
        for entry in manifest["files"]:
            with contextlib.suppress(OSError, stores.LakeError):  # a damaged file is reported
                if entry["table"] in sql.TABLES:
                    path = stores.fetch(self.lake / entry["path"])
                    if sql.has_foreign_rows(path, self.run_id):
                        self.result.add(entry["path"], sql.FOREIGN_ROWS)

    def _sha256(self, name: str) -> str:
        path = self.lake / self.prefix / name
        copy = stores.fetch(path)
        try:
            return stores.file_sha256(copy)
        finally:
            if not isinstance(path, Path):
                copy.unlink(missing_ok=True)  # a lake can be larger than the temporary folder

    def _verify_reviews(self, manifests: set[str], manifest: Mapping[str, Any]) -> None:
        """Check that decisions, sign-offs and names refer to a manifest, an alert or an overlay that the run has."""
        is_whole = sql.is_complete(manifest) and not any(
            entry.get("what") == "erased" for entry in manifest.get("earlier_manifests", [])
        )
        for record in self.own_records:
            reviewed = record.body.get("evidence", record.body)
            digest = reviewed.get("manifest_sha256") if isinstance(reviewed, dict) else None
            if record.kind in ("review", "sign_off") and digest not in manifests:
                self.result.add_record(
                    record.number,
                    f"refers to a manifest of run {self.run_id} with sha256 {str(digest)[:16]}, which it never had",
                )
            for kind, table, column in (("review", "alerts", "alert_id"), ("name", "stamps", "region")):
                if (
                    record.kind == kind
                    and is_whole
                    and record.body.get(column) not in self._read(manifest, table, column)
                ):
                    name = record.body.get(column)
                    self.result.add_record(record.number, f"speaks of {name!r}, which table {table} of the run lacks")

    def _read(self, manifest: Mapping[str, Any], table: str, column: str) -> set[Any]:
        """Return the values of a column; none if a file is damaged, which is reported with the file."""
        if (table, column) not in self.values:
            paths = [entry["path"] for entry in manifest["files"] if entry["table"] == table]
            values: set[Any] = set()
            with contextlib.suppress(OSError, stores.LakeError, pa.ArrowException):
                for path in paths:
                    values.update(pq.read_table(stores.fetch(self.lake / path), columns=[column])[column].to_pylist())
            self.values[table, column] = values
        return self.values[table, column]

    def _verify_reports(self, manifest: Mapping[str, Any]) -> None:
        """Compare reports in the folder of the run with the sha256 that the ledger has of them."""
        reports = [record for record in self.own_records if record.kind == "report"]
        recorded = [record.body for record in reports]
        for name in self.files:
            if not _REPORT.fullmatch(name):
                continue
            digests = [body.get("sha256") for body in recorded if name.endswith(f".{body.get('format')}")]
            found = self._sha256(name)
            if erasure := self.erased_sha256.get(found):
                report_erased(self.lake, self.prefix + name, erasure, self.result)
            elif found in digests:
                if found != digests[-1]:
                    self._note(name, "is not the last report that was recorded")
            elif self.own is not None:  # otherwise the run is reported
                self._add(name, f"has sha256 {found}, which is not in the ledger")
        last = {each.body["path"]: each.number for each in reports if isinstance(each.body.get("path"), str)}
        for path, number in last.items():
            name = path.removeprefix(self.prefix)
            command = stores.format_command(
                self.lake, "report", self.run_id, *(["--pdf"] if name.endswith(".pdf") else [])
            )
            is_erased = path in self.erased and self.erased[path].number > number
            is_explained = manifest["status"] == sql.PRUNED or is_erased
            if path.startswith(self.prefix) and name not in self.files and not is_explained:
                self._add(name, f"is missing; to write it again: {command}")

    def _verify_unlisted(self, known: set[str], earlier: Mapping[str, str], digest: str, is_running: bool) -> None:
        """Report files in the folder of the run that its manifest, which has this sha256, does not list."""
        replaced: set[str] = set()
        for _, data in stores.read_all((self.lake / self.prefix / name for name in earlier if name in self.files), {}):
            if ledger.sha256(data) in earlier.values():
                with contextlib.suppress(ValueError):  # then its files are reported
                    entries = sql.parse_manifest(data, self.run_id)["files"]
                    replaced |= {entry["path"].removeprefix(self.prefix) for entry in entries}
        unfinished = 0
        for name in sorted(set(self.files) - known):
            if name == "lock.json" or _REPORT.fullmatch(name):
                continue
            if erasure := self._find_erasure(name, replaced):
                report_erased(self.lake, self.prefix + name, erasure, self.result)
            elif is_running and _SHARD.fullmatch(name) and name not in replaced:
                unfinished += 1
            elif origin := self._explain_unlisted(name, replaced, digest):
                self._note(name, f"{origin}; no result depends on it")
            else:
                self._add(name, "is not listed in the manifest of the run")
        if unfinished:
            self._note("", f"{format_count(unfinished, 'file')} of stages that have not ended")

    def _find_erasure(self, name: str, replaced: set[str]) -> Record | None:
        """Return the record that a file was erased that no manifest lists, None if it was not."""
        path = self.prefix + name
        if name in replaced and path in self.erased:
            return self.erased[path]
        return self.erased_sha256.get(self._sha256(name)) if self.erased_sha256 else None

    def _explain_unlisted(self, name: str, replaced: set[str], digest: str) -> str | None:
        """Return where a file comes from that the manifest, which has this sha256, does not list; None if unknown."""
        if TEMPORARY.fullmatch(name):
            return "incomplete file of a killed process"
        if name == f"manifest-{digest[:16]}.json" and self._sha256(name) == digest:
            return "copy of the manifest, of an interrupted compaction, pruning or erasure"
        if name in replaced:
            return "left over from before the run was compacted or pruned"
        return "of an interrupted attempt, for --resume" if _SHARD.fullmatch(name) else None
