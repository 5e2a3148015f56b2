"""Begin a run: check the configuration, then create the run's manifest or prepare an unfinished run to be resumed."""

import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from prefect import runtime

import sql
from flows.config import AuditConfig, config_digest
from flows.engines import check_engine
from flows.provenance import code_version, environment
from review.presentation.formatting import format_audit
from review.presentation.numbers import format_count
from stores import Root
from stores.run_records import describe_unrecorded, read_recorded
from tasks.custom_rules import check_rules
from tasks.errors import BadInputError, ResumeError
from tasks.inputs import load_corpus, load_model
from tasks.lake.finished import drop_damaged_files
from tasks.lake.incremental import NO_BASE, find_base
from tasks.lake.journal import record_run_begin
from tasks.lake.lock import lock_run, remove_temporary_files
from tasks.lake.run import Run
from tasks.regions import load_detectors
from tasks.settings import ModelConfig

_DECISIVE = ("model_digest", "corpus", "config_digest", "code_version", "environment")
"""Keys of the manifest whose values must be the same when a run is resumed."""

_listeners: list[Callable[[Run], None]] = []
_starts: list[float] = []


@contextlib.contextmanager
def on_begin(listener: Callable[[Run], None], start: float) -> Iterator[None]:
    """Call `listener` with each run that begins or resumes in this process while the block runs.

    `start` is the time (`time.monotonic`) at which the command was started that runs the audit.
    """
    _listeners.append(listener)
    _starts.append(start)
    try:
        yield
    finally:
        _listeners.remove(listener)
        _starts.remove(start)


def seconds_since_start() -> float | None:
    """Return the seconds since the command was started that runs the audit; None for a run of a deployment."""
    return monotonic() - _starts[-1] if _starts else None


def begin(config: AuditConfig, models: Sequence[ModelConfig], resume: str | None) -> Run:
    """Create a new run, or prepare an unfinished one to be resumed; `resume` is the id of the unfinished one.

    Raises:
        InputError: The corpus, the model, a rule, a detector or the lake cannot be used. No run is created.
        ResumeError: The run to resume is unknown or complete, or began with different settings.
    """
    facts = _check_and_describe(config, models)
    if resume is None:
        run = _create(config, facts)
        record_run_begin(run, config.ledger.signer())
    else:
        run = _reopen(config.lake.root, resume, facts)
    for listener in _listeners:
        listener(run)
    return run


def _check_and_describe(config: AuditConfig, models: Sequence[ModelConfig]) -> dict[str, Any]:
    """Check the audit before its run is created, and return what the manifest stores about it."""
    check_engine(config.run)
    config.check()
    corpus = load_corpus(config.corpus)
    corpus.count()
    model = load_model(models[0])
    try:
        config.bottleneck_config().check_layers(model.image.num_blocks, model.text.num_blocks)
    except ValueError as error:
        raise BadInputError(f"bottleneck.{error}") from error
    check_rules(config.custom_rules)
    load_detectors(config.regions.detectors)
    return {
        "audit": config.audit.name,
        "audit_continues": config.audit.continues,
        "model": config.model.name,
        "model_digest": model.digest,
        "corpus": config.corpus.place,
        "corpus_format": corpus.format,
        "corpus_digest": None,
        "config": config.resolve_settings(),
        "config_digest": config_digest(config.resolve_settings()),
        "seed": config.bottleneck.seed,
        "rules": rule_digests(config.custom_rules),
        "four_eyes": config.review.four_eyes,
        "raises": config.raises,
        **code_facts(),
    }


def rule_digests(custom_rules: Mapping[str, str]) -> dict[str, str]:
    """Return the sha256 of each rule's SQL text, by name: all built-in rules, and the custom rules (name -> text)."""
    built_in = {name: sql.text_digest(sql.query_text(f"rules/{name}")) for name in sql.query_names("rules")}
    return built_in | {name: sql.text_digest(text) for name, text in custom_rules.items()}


def code_facts() -> dict[str, Any]:
    """Return what the manifest of a new run stores about this program, such as its version."""
    return {"code_version": code_version(), "environment": environment()}


def _create(config: AuditConfig, facts: dict[str, Any]) -> Run:
    lake = config.lake.root
    _check_audit(lake, facts)
    base = find_base(lake, facts) if config.lake.incremental else NO_BASE
    run = Run(lake, new_run_id())
    try:
        run.create(facts | base | {"flow_run": runtime.flow_run.id})
    except sql.LakeError as error:  # nothing is lost yet: most likely the lake's path is wrong
        raise BadInputError(str(error)) from error
    return run


def _check_audit(lake: Root, facts: Mapping[str, Any]) -> None:
    """Raise BadInputError if `[audit] continues` is not the id of an audit without a name in the lake."""
    if (former := facts["audit_continues"]) is None:
        return
    records = sql.read_manifests(lake)
    if former not in (sql.audit_id(record) for record in records if not record.get("audit")):
        related = _list_related(records, facts)
        known = "; ".join(f"{key} ({name})" for key, name in related.items()) or "none"
        raise BadInputError(
            f"[audit] continues: got {former!r}, expected the id of an audit without a name in {lake}, "
            f"which has of the same corpus or model: {known}"
        )


def _list_related(records: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the audits without a name that have the corpus or model of a run: the name in text, by id."""
    return {
        sql.audit_id(record): format_audit(record)
        for record in records
        if not record.get("audit") and (record["corpus"] == facts["corpus"] or record["model"] == facts["model"])
    }


def describe_history(lake: Root, record: Mapping[str, Any]) -> str | None:
    """Describe which earlier runs a run with a named audit belongs to; None without a name, or if its history is long.

    `record` is the manifest of the run. The sentence is for the first runs of a name: it says how the history of runs
    without a name can be continued.
    """
    records = sql.read_manifests(lake)
    audits = sql.audit_ids(records)
    others = [each for each in records if each["run_id"] != record["run_id"]]
    if not (name := record.get("audit")) or any(each.get("audit") == name for each in others):
        return None
    joined = sum(audits[each["run_id"]] == audits[record["run_id"]] for each in others)
    if joined:
        return f"audit {name}: it continues {format_count(joined, 'earlier run')} without a name"
    if not (related := _list_related(others, record)):
        return None
    choices = "; ".join(f"{key} ({audit})" for key, audit in list(related.items())[-5:])
    return (
        f"audit {name}: its history begins with this run; to continue that of runs without a name, set [audit] "
        f"continues to one of: {choices}"
    )


def _reopen(lake: Root, run_id: str, facts: Mapping[str, Any]) -> Run:
    damage: dict[str, str] = {}
    records = {record["run_id"]: record for record in sql.read_manifests(lake, damage=damage)}
    if run_id in damage:
        raise ResumeError(f"resume: run {run_id} is damaged: {damage[run_id]}")
    if run_id not in records:
        known = ", ".join(records) or "none"
        raise ResumeError(f"resume: got {run_id!r}, expected an unfinished run of {lake}, which has: {known}")
    run, before = Run(lake, run_id), records[run_id]
    _check_unfinished(before)
    if not _may_resume(lake, before):
        raise ResumeError(f"resume: run {run_id} {describe_unrecorded(lake, run_id)}")
    if changed := [key for key in _DECISIVE if before[key] != facts[key]]:
        raise ResumeError(f"resume: run {run_id} began with a different {', '.join(changed)}; start a new run instead")
    with lock_run(run):
        _check_unfinished(run.read_manifest())  # the process that held the lock may have completed the run meanwhile
        remove_temporary_files(run)
        drop_damaged_files(run)
        run.update(status="running", reason=None, finished_at=None)
    return run


def _may_resume(lake: Root, record: Mapping[str, Any]) -> bool:
    """Return whether the ledger vouches for an unfinished run: a full disk may have prevented the record of its end."""
    own = read_recorded(lake).runs.get(record["run_id"])
    return sql.is_trusted(record) or (own is not None and not own.ends)


def _is_final(record: Mapping[str, Any]) -> bool:
    """Return whether a run is complete, was pruned or had pairs erased, so that it cannot be resumed."""
    return sql.is_complete(record) or record["status"] == sql.PRUNED or _had_pairs_erased(record)


def _had_pairs_erased(record: Mapping[str, Any]) -> bool:
    return any(entry["what"] == "erased" for entry in record.get("earlier_manifests", []))


def _check_unfinished(record: Mapping[str, Any]) -> None:
    if _is_final(record):
        status = "had pairs erased" if _had_pairs_erased(record) else f"is {record['status']}"
        raise ResumeError(
            f"resume: run {record['run_id']} {status} and cannot be resumed; leave out --resume to "
            "start a new run, with --incremental if it is to attribute only pairs that have no map yet"
        )


def new_run_id() -> str:
    """Return a new run id that starts with the current time, so that sorting ids sorts runs by their start."""
    began = datetime.now(UTC)
    return f"{began:%Y%m%dT%H%M%S}-{began.microsecond:05x}{secrets.token_hex(2)}"


def find_run_of_flow(lake: Root, flow_run: str | None) -> str | None:
    """Return the id of the unfinished run that an earlier attempt of this Prefect flow run began; None without one.

    Prefect restarts a flow run under the same id, for example when its worker was restarted.
    """
    records = sql.read_manifests(lake) if flow_run else []
    begun = [record for record in records if record.get("flow_run") == flow_run and _may_resume(lake, record)]
    return begun[-1]["run_id"] if begun and not _is_final(begun[-1]) else None
