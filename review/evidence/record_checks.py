"""Check the records of a ledger: the schema of each kind, references, times and second signatures.

A record that fits its schema is checked against the earlier ones: what it speaks of must have been introduced before.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from review.evidence.decisions import is_valid_countersign
from review.presentation.formatting import DECISION_DESCRIPTIONS, IDENTITY_LABELS, MEANING_LABELS
from sql.manifest import Sha256, Time, check_time
from stores.ledger import TEXT_FIELDS, Record
from stores.run_records import RecordedRuns, RunRecords

CLOCK_TOLERANCE: Final = timedelta(hours=1)
"""The time of a record may be this much before that of an earlier record, or after that of this machine's clock."""


def _one_of(*choices: str) -> Any:
    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return value

    return AfterValidator(check)


def _check_day(value: str) -> str:
    date.fromisoformat(value)
    return value


_Name = Annotated[str, Field(min_length=1)]
_KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}\z")]
_Day = Annotated[str, AfterValidator(_check_day)]
_Meaning = Annotated[str, _one_of(*MEANING_LABELS)]
_Count = Annotated[int, Field(ge=0)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Text(_Body):
    """A record with a text that a person wrote, or with the sha256 of its file."""

    @model_validator(mode="after")
    def _check_text(self) -> "_Text":
        field = next(name for name in TEXT_FIELDS.values() if f"{name}_sha256" in type(self).model_fields)
        if (getattr(self, field) is None) == (getattr(self, f"{field}_sha256") is None):
            raise ValueError(f"expected a {field}")
        return self


class _Begun(_Body):
    run_id: _Name
    late: Literal[True] | None = None


class _Run(_Begun):
    status: Literal["completed", "completed_with_errors", "stopped", "failed", "interrupted", "pruned"]
    manifest_sha256: Sha256


class _ErasedFile(_Body):
    path: _Name
    sha256: Sha256
    new_path: _Name | None
    new_sha256: Sha256 | None


class _Rewrite(_Body):
    run_id: _Name | None
    what: Literal["compacted", "pruned", "erased"]
    before_sha256: Sha256 | None = None
    manifest_sha256: Sha256 | None = None
    erasure: str | None = None
    by: str | None = None
    reason: str | None = None
    files: list[_ErasedFile] | None = None
    pairs: _Count | None = None
    rows: dict[str, int] | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> "_Rewrite":
        if self.run_id is not None and not (self.before_sha256 and self.manifest_sha256):
            raise ValueError("expected the sha256 of the manifest before and after")
        if (self.what == "erased") == (self.files is None) or (self.run_id is None and self.what != "erased"):
            raise ValueError("expected the files of an erasure, and only of one")
        return self


class _Report(_Body):
    run_id: _Name
    format: Literal["html", "pdf"]
    sha256: Sha256
    path: _Name | None = None
    by: str | None = None


class _Message(_Body):
    run_id: _Name
    event_id: _Name
    event: _Name
    life_ids: list[_Name]
    recipient: str | None
    outcome: Literal["delivered", "failed", "dropped", "nobody"]
    reason: str | None


class _Notification(_Body):
    messages: Annotated[list[_Message], Field(min_length=1)]


class _Reviewer(_Body):
    name: _Name
    role: _Name
    identity: Annotated[str, _one_of(*IDENTITY_LABELS)]


class _Estimate(_Body):
    name: _Name
    value: float
    se: float | None
    units: int


class _Evidence(_Body):
    state: str | None
    severity: str | None
    n: int | None
    share: float | None
    area: float | None
    effect: float | None
    score_effect: float | None
    score_low: float | None
    score_high: float | None
    margin: float | None
    severity_high: str | None = None
    recent: list[_Estimate] | None = None
    rule_digest: str | None
    config_digest: str | None
    model_digest: str | None
    corpus_digest: str | None
    manifest_sha256: Sha256


class _Review(_Text):
    run_id: _Name
    alert_id: _Name
    life_id: _Name
    decision: Annotated[str, _one_of(*DECISION_DESCRIPTIONS)]
    reason: _Name | None = None
    reason_sha256: Sha256 | None = None
    until: _Day | None
    meaning: _Meaning
    four_eyes: bool
    reviewer: _Reviewer
    evidence: _Evidence

    @model_validator(mode="after")
    def _check_parts(self) -> "_Review":
        if (self.until is None) == (self.decision == "waived"):
            raise ValueError("expected the last day of a waiver, and only of a waiver")
        return self


class _Countersign(_Body):
    record: Annotated[int, Field(ge=1)]
    record_sha256: Sha256
    meaning: _Meaning
    statement: str | None = None
    statement_sha256: Sha256 | None = None
    reviewer: _Reviewer


class _Counts(_Body):
    open: _Count
    pending: _Count
    decided: _Count


class _SignOff(_Text):
    run_id: _Name
    meaning: _Meaning
    statement: _Name | None = None
    statement_sha256: Sha256 | None = None
    four_eyes: bool
    reviewer: _Reviewer
    manifest_sha256: Sha256
    alerts: _Counts
    gap: str | None = None


class _OverlayName(_Text):
    run_id: _Name
    region: _Name
    name: _Name | None = None
    name_sha256: Sha256 | None = None
    reviewer: _Reviewer


class _Key(_Body):
    key_id: _KeyId
    public_key: _Name


class _KeyRevoked(_Body):
    key_id: _KeyId
    since: Time


_SCHEMAS: Final[dict[str, type[_Body]]] = {
    "begun": _Begun,
    "run": _Run,
    "rewrite": _Rewrite,
    "report": _Report,
    "notification": _Notification,
    "review": _Review,
    "countersign": _Countersign,
    "sign_off": _SignOff,
    "name": _OverlayName,
    "key": _Key,
    "key_revoked": _KeyRevoked,
}


@cache
def _schema(kind: str) -> TypeAdapter[_Body]:
    return TypeAdapter(_SCHEMAS[kind])


def check_body(record: Record) -> str | None:
    """Return why the body of a record does not fit the schema of its kind; None if it fits."""
    try:
        _schema(record.kind).validate_python(record.body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        first = found[0]
        place = ".".join(map(str, first["loc"])) or "body"
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return f"is not a record of kind {record.kind}: {place}: {first['msg']}{more}"
    return None


def check_records(records: Sequence[Record], known: RecordedRuns, is_whole: bool) -> Iterator[tuple[int, str]]:
    """Yield the number and the problem of each record that does not fit its schema, or what came before it.

    Args:
        records: The readable records of a ledger, oldest first.
        known: The runs that these records are about.
        is_whole: Whether all records can be read. Otherwise it is unknown what was introduced.
    """
    latest = datetime(1971, 1, 1, tzinfo=UTC)
    limit = datetime.now(UTC) + CLOCK_TOLERANCE
    earlier: dict[int, Record] = {}
    for record in records:
        if (problem := _check_time_of(record, latest, limit)) is not None:
            yield record.number, problem
        else:
            latest = max(latest, record.time)
        if (problem := check_body(record)) is not None:
            yield record.number, problem
            continue  # it introduces nothing
        if is_whole and (problem := _check_references(record, earlier, known)) is not None:
            yield record.number, problem
        earlier[record.number] = record


def _check_time_of(record: Record, latest: datetime, limit: datetime) -> str | None:
    try:
        time = datetime.fromisoformat(check_time(record.at))
    except ValueError:
        return f"is dated {record.at[:40]!r}, expected a time with its time zone"
    hours = CLOCK_TOLERANCE.total_seconds() / 3600
    if time < latest - CLOCK_TOLERANCE:
        return f"is dated {record.at}, more than {hours:g} h before an earlier record ({latest.isoformat()})"
    return f"is dated {record.at}, more than {hours:g} h in the future" if time > limit else None


def _check_references(record: Record, earlier: Mapping[int, Record], known: RecordedRuns) -> str | None:
    """Return what a record speaks of that nothing introduced before; None if there is nothing."""
    body = record.body
    if record.kind == "countersign":
        return _check_countersign(record, earlier.get(body["record"]))
    run_ids = [message["run_id"] for message in body["messages"]] if record.kind == "notification" else []
    run_ids += [body["run_id"]] if body.get("run_id") is not None else []
    for run_id in run_ids:
        if run_id not in known.runs or not _is_introduced(known.runs[run_id], record):
            return f"speaks of run {run_id}, which no earlier record introduced"
    if record.kind == "begun" and known.runs[body["run_id"]].first is not record:
        return f"is not the first record of run {body['run_id']}"
    if record.kind == "rewrite" and body["run_id"] is not None:
        before = [each for each in known.runs[body["run_id"]].ends if each.number < record.number]
        if before and not _may_replace(before[-1], body["before_sha256"]):
            return f"replaces a manifest that run {body['run_id']} did not have"
    return None


def _check_countersign(record: Record, subject: Record | None) -> str | None:
    number = record.body["record"]
    if subject is None or subject.kind not in ("review", "sign_off"):
        return f"countersigns record {number}, which is no earlier decision or sign-off"
    if subject.sha256 != record.body["record_sha256"]:
        return f"countersigns record {number} with another sha256 than it has"
    if not is_valid_countersign(record, subject):
        return f"countersigns record {number}, but not by another person who is identified as well"
    return None


def _may_replace(last: Record, sha256: str) -> bool:
    """Return whether a run with this last record can have had a manifest with this sha256."""
    if last.kind == "rewrite":  # which may not have been completed
        return sha256 in (last.body.get("before_sha256"), last.body.get("manifest_sha256"))
    is_complete = str(last.body.get("status")).startswith("completed")  # otherwise it may have been resumed
    return sha256 == last.body.get("manifest_sha256") or not is_complete


def _is_introduced(run: RunRecords, record: Record) -> bool:
    """Return whether a run was introduced before a record, or was adopted later.

    Releases that did not record the begin of a run recorded its messages before its end.
    """
    first = run.first
    is_late = bool(first.body.get("late")) or (record.kind == "notification" and first.kind == "run")
    return first.number <= record.number or is_late
