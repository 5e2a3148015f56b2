"""Manifests of runs: the schema that all readers of a lake share, and the runs whose manifest does not fit it.

A manifest may be damaged, or written by somebody whom the reader does not trust. A value of the wrong type must not
reach a reader, so a run whose manifest does not fit the schema is *damaged*: it is listed with its reason, and all
other runs stay usable.
"""

import hashlib
import json
import logging
import re
import reprlib
from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

import stores
from stores import LakeError, Root, ledger
from stores.run_records import RecordedRuns, read_recorded

MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)
_warned: set[tuple[str, str]] = set()
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MAX_DEPTH = 16
_MAX_REASONS = 3


def is_id(text: str) -> bool:
    """Return whether a text can be the id of a run, pair or alert: letters, digits, `-` and `_`."""
    return _ID.fullmatch(text) is not None


def check_time(text: str) -> str:
    """Return a time in ISO 8601. Raises ValueError if it has no time zone, or no year between 1970 and 9000."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None or not 1970 <= time.year <= 9000:
        raise ValueError("expected a time with its time zone, such as 2026-01-31T00:00:00+00:00")
    return text


def _check_depth(value: Any) -> Any:
    level, depth = [value], 0
    while level:
        depth += 1
        level = [
            each
            for one in level
            if isinstance(one, dict | list)
            for each in (one.values() if isinstance(one, dict) else one)
        ]
        if depth > _MAX_DEPTH:
            raise ValueError(f"expected at most {_MAX_DEPTH} nested levels")
    return value


_RunId: TypeAlias = Annotated[str, Field(pattern=rf"^{_ID.pattern}\z")]
Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
Time: TypeAlias = Annotated[str, AfterValidator(check_time)]
_Integer: TypeAlias = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
_Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
_Seconds: TypeAlias = Annotated[float, Field(ge=0, le=1e9)]


class _Open(BaseModel):
    """A JSON object whose known keys have these types; later releases may add others."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class _File(_Open):
    path: str
    table: str | None
    rows: _Count | None
    sha256: Sha256


class _EarlierManifest(_Open):
    at: Time
    what: str
    why: str
    manifest: Annotated[str, Field(pattern=r"^manifest-[0-9a-f]+\.json\z")]
    sha256: Sha256
    erased_sha256: Sha256 = ""


class _Counts(_Open):
    corpus_rows: _Integer
    pairs: _Integer
    attributions: _Integer
    errors: _Integer
    alerts: _Integer
    confirmed: _Integer
    not_sampled: _Integer = 0
    reused: _Integer = 0


class _Alerts(_Open):
    factor: _Number = 0
    min_pairs: _Count = 0


class _Corpus(_Open):
    image_column: str | None = None
    caption_column: str | None = None
    stratify: str | None = None


class _Phrases(_Open):
    listed: list[str] = []


class _Config(_Open):
    """Settings that readers use; others are only shown."""

    alerts: _Alerts = _Alerts()
    corpus: _Corpus = _Corpus()
    phrases: _Phrases = _Phrases()
    model: dict[str, Any] = {}
    regions: dict[str, Any] = {}
    bottleneck: dict[str, Any] = {}
    discover: dict[str, Any] = {}
    clusters: dict[str, Any] = {}
    concepts: dict[str, Any] = {}
    confirm: dict[str, Any] = {}


class _Manifest(_Open):
    """Keys that readers of a lake use, with their types. A key with a default may be missing."""

    run_id: _RunId
    status: Literal["running", "completed", "completed_with_errors", "stopped", "failed", "interrupted", "pruned"]
    reason: str | None
    started_at: Time
    finished_at: Time | None
    config: Annotated[_Config, BeforeValidator(_check_depth)]
    config_digest: str | None
    counts: _Counts
    files: list[_File]
    model: str
    model_digest: str | None
    corpus: str
    corpus_digest: str | None
    corpus_format: str | None = None
    seed: _Integer
    code_version: str
    environment: dict[str, str | None]
    rules: dict[str, str | None]
    schema_version: _Integer = 1
    audit: str | None = None
    audit_continues: str | None = None
    four_eyes: bool | None = None
    raises: Literal["confirmed", "suspected"] | None = None
    flow_run: str | None = None
    incremental: str | None = None
    base_run: _RunId | None = None
    calibration_run: _RunId | None = None
    calibration_sha256: Sha256 | None = None
    projection_sha256: Sha256 | None = None
    since_calibration: _Number | None = None
    reflags: _RunId | None = None
    reflags_manifest_sha256: Sha256 | None = None
    reflags_code_version: str | None = None
    failed_rules: list[str] | None = None
    failed_detectors: list[str] | None = None
    detector_failures: list[str] = []
    stage_seconds: dict[str, _Seconds] | None = None
    images_read_again: _Count = 0
    earlier_manifests: list[_EarlierManifest] = []


def _refuse_number(text: str) -> None:
    raise ValueError(f"it has the number {text}, which JSON does not allow")


def parse_manifest(data: bytes, run_id: str) -> dict[str, Any]:
    """Parse the manifest of a run.

    Args:
        data: Bytes of the manifest.
        run_id: Name of the run's folder.

    Raises:
        ValueError: The name is no run id, or the manifest does not fit the schema, belongs to another run, or lists
            files outside the run's folder. The message says what was found.
    """
    if not is_id(run_id):
        raise ValueError("the name of its folder is no run id, expected letters, digits, - and _")
    try:
        manifest: dict[str, Any] = json.loads(data.decode(), parse_constant=_refuse_number)
        if b"\\ud" in data.lower():
            json.dumps(manifest, ensure_ascii=False).encode()  # half of a surrogate pair cannot be written anywhere
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        raise ValueError(_describe(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if manifest["run_id"] != run_id:
        raise ValueError(f"its run_id is {manifest['run_id']!r}, expected {run_id!r}, the name of its folder")
    prefix = f"runs/{run_id}/"
    outside = [
        repr(entry["path"])
        for entry in manifest["files"]
        if not entry["path"].startswith(prefix)
        or not entry["path"].isprintable()
        or any(part in ("", ".", "..") for part in entry["path"].split("/"))
    ]
    if outside:
        raise ValueError(f"it lists files outside the folder of its run: {', '.join(outside[:_MAX_REASONS])}")
    return manifest


def _describe(error: ValidationError) -> str:
    problems = [
        f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg'].partition(' or instance of')[0]}"
        + ("" if each["type"] == "missing" else f", got {reprlib.repr(each['input'])}")
        for each in error.errors(include_url=False, include_context=False)
    ]
    more = [f"{len(problems) - _MAX_REASONS} more"] if len(problems) > _MAX_REASONS else []
    return "; ".join([*problems[:_MAX_REASONS], *more])


def manifest_path(lake: Root, run_id: str) -> Root:
    """Return the path of a run's manifest."""
    return lake / "runs" / run_id / MANIFEST


def manifest_sha256(lake: Root, run_id: str) -> str:
    """Return the sha256 (hex) of the bytes of a run's manifest.

    Raises:
        FileNotFoundError: The run has no manifest.
        LakeError: The store does not answer.
    """
    return hashlib.sha256(stores.read_bytes(manifest_path(lake, run_id))).hexdigest()


def read_manifests(
    lake: Root,
    run_id: str | None = None,
    also: Collection[str] = (),
    damage: dict[str, str] | None = None,
    known: RecordedRuns | None = None,
) -> list[dict[str, Any]]:
    """Return the manifests of a lake's runs, from oldest to newest: in the order of the ledger.

    The key `recorded` states whether the ledger has the manifest (see `stores.run_records`); None if that is unknown,
    because the ledger was not read or knows no run.

    Args:
        lake: Folder or URL of the lake.
        run_id: Read only the manifest of this run, and of the runs in `also`. Default: all runs.
        also: Further runs to read. Ignored without `run_id`.
        damage: Damaged runs, which are left out, with the reason by run id. Those that are found are added. Default:
            they are left out with a warning in the log if all runs are read.
        known: The runs that the ledger knows. Default: read them, unless runs are named, which are sorted by id then.

    Raises:
        LakeError: The lake cannot be read, or the manifest of a run that was named is damaged.
    """
    run_ids = stores.list_folders(lake / "runs") if run_id is None else sorted({run_id, *also})
    run_ids = [name for name in run_ids if name not in (damage or ())]
    if run_id is not None and (bad := [name for name in run_ids if not is_id(name)]):
        raise LakeError(f"run: got {bad[0]!r}, expected the id of a run; list them with m2ib-audit runs")
    if known is None:
        known = read_recorded(lake) if run_id is None else RecordedRuns({})
    faults: dict[Root, OSError] = {}
    found = {}
    for path, data in stores.read_all((manifest_path(lake, name) for name in run_ids), faults):
        try:
            if path in faults:
                raise faults[path]
            record = parse_manifest(data, path.parent.name)
            digest = ledger.sha256(data) if known.runs else ""
            found[record["run_id"]] = record | {
                "recorded": known.is_recorded(record["run_id"], record["status"], digest)
            }
        except (OSError, ValueError) as error:
            message = f"manifest {path}: it is invalid ({error}); restore it from a backup, or remove the run's folder"
            if damage is not None:
                damage[path.parent.name] = message
            elif run_id is None:
                warn_damaged(path.parent.name, message)
            else:
                raise LakeError(message) from error
    return [found[name] for name in known.sort(found)]


def warn_damaged(run_id: str, reason: str) -> None:
    """Log that a damaged run is left out, once per process."""
    if (run_id, reason) not in _warned:
        _warned.add((run_id, reason))
        # The name of a folder may have control characters.
        _log.warning("%s", stores.escape(f"run {run_id} is damaged and left out: {reason}"))
