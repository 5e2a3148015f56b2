"""As one would say it: ingest, attribute, store, validate; find out what to look at; flag, confirm, alert, tell."""

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from prefect import flow, get_run_logger, runtime, unmapped
from prefect.exceptions import PrefectException, TerminationSignal
from prefect.futures import PrefectFuture, as_completed, wait
from prefect.task_runners import ThreadPoolTaskRunner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import sql
from corpora import CorpusError
from flows.config import AuditConfig, config_digest
from flows.engines import Engine, check, started
from flows.metrics import INGEST_ERRORS, Pace, served
from flows.provenance import code_version, environment
from flows.slots import limits, slots
from review.report.html import ReportError, write_report
from stores import Root
from stores.ledger import Signer
from tasks.alert import alert
from tasks.attribute import attribute, calibrate, quarantine_shard
from tasks.cluster import cluster
from tasks.confirm import confirm
from tasks.custom_rules import check_rules
from tasks.detect import detect
from tasks.discover import discover
from tasks.errors import BadInputError, GateError, ResumeError, ShardsError, StoreError
from tasks.execution import is_storage_full
from tasks.flag import flag
from tasks.ingest import ingest
from tasks.inputs import load_corpus, load_model
from tasks.lake.incremental import NO_BASE, find_base
from tasks.lake.journal import record_report, record_run_end
from tasks.lake.lock import lock_run, remove_temporary_files
from tasks.lake.run import REPORT, Run
from tasks.messages.artifacts import Progress as ProgressArtifact
from tasks.messages.artifacts import publish_outcome
from tasks.notify import notify, notify_failed_start, notify_run_end
from tasks.phrases import phrases
from tasks.records import AttributionPlan, Shard, ShardResult
from tasks.regions.detectors import load_detectors
from tasks.screen import screen
from tasks.self_audit import self_audit
from tasks.settings import ModelConfig
from tasks.store import store
from tasks.validate import validate

_OF_ALL_SHARDS = (BadInputError, StoreError, sql.LakeError, PrefectException, httpx.HTTPError)
"""Errors that say nothing about the shard that met them: the last two come from a server that is gone."""

BATCH = 64
"""Shards whose tasks are submitted together."""


@dataclass(frozen=True)
class AuditResult:
    """What became of a run."""

    run_id: str
    status: str
    reason: str | None
    pairs: int
    attributions: int
    errors: int
    alerts: int
    confirmed: int
    report: "Root | None"


def begin(config: AuditConfig, models: Sequence[ModelConfig], resume: str | None) -> Run:
    """A new run, or an unfinished one to go on with. Raises ResumeError if that began with something else."""
    lake = config.lake.root
    check(config.run)
    try:
        corpus = load_corpus(config.corpus)
        corpus.count()
    except CorpusError as error:
        raise BadInputError(str(error)) from error
    model = load_model(models[0])
    try:
        config.bottleneck_config().check_layers(model.image.blocks, model.text.blocks)
    except ValueError as error:
        raise BadInputError(f"bottleneck.{error}") from error
    check_rules(config.custom_rules)
    load_detectors(config.regions.detectors)
    facts = {
        "model": config.model.name,
        "model_digest": model.digest,
        "corpus": config.corpus.place,
        "corpus_format": corpus.format,
        "corpus_digest": None,
        "config": config.resolved(),
        "config_digest": config_digest(config.resolved()),
        "seed": config.bottleneck.seed,
        "code_version": code_version(),
        "environment": environment(),
        "rules": {name: sql.query_digest(f"rules/{name}") for name in sql.query_names("rules")}
        | {name: sql.text_digest(text) for name, text in config.custom_rules.items()},
        "four_eyes": config.review.four_eyes,
        "chained": True,  # its end is in the lake's ledger, or something is amiss
    }
    if resume is None:
        facts |= find_base(lake, facts) if config.lake.incremental else NO_BASE
        facts |= {"flow_run": runtime.flow_run.id}
        run = Run(lake, new_run_id())
        try:
            run.create(facts)
        except sql.LakeError as error:  # nothing is lost yet: the lake cannot be what was meant
            raise BadInputError(str(error)) from error
        return run
    records = {record["run_id"]: record for record in sql.read_manifests(lake)}
    if resume not in records:
        known = ", ".join(records) or "none"
        raise ResumeError(f"resume: got {resume!r}, expected an unfinished run of {lake}, which has: {known}")
    run, before = Run(lake, resume), records[resume]
    _check_unfinished(before)
    decisive = ("model_digest", "corpus", "config_digest", "code_version", "environment")
    changed = [key for key in decisive if before[key] != facts[key]]
    if changed:
        raise ResumeError(f"resume: run {resume} began with another {', '.join(changed)}; start a new run instead")
    with lock_run(run):
        _check_unfinished(run.read_manifest())  # whoever held it until now may have brought it to its end
        remove_temporary_files(run)
        run.update(status="running", reason=None, finished_at=None)
    return run


def _check_unfinished(record: Mapping[str, Any]) -> None:
    """Raise ResumeError for the manifest of a run that is complete, or was pruned."""
    run_id = record["run_id"]
    if record["status"] == "completed":
        raise ResumeError(f"resume: run {run_id} is complete; start a new one by leaving --resume out")
    if record["status"] == sql.PRUNED:
        raise ResumeError(f"resume: run {run_id} was pruned ({record['reason']}); start a new one")
    if sql.is_complete(record):
        raise ResumeError(
            f"resume: run {run_id} is complete but for shards that were set aside ({record['reason']}), and is not "
            "changed any more; start a new run with --incremental: only pairs without a map go to the model"
        )


def new_run_id() -> str:
    """Runs sort by it as they began, to the microsecond: two may begin within a second."""
    began = datetime.now(UTC)
    return f"{began:%Y%m%dT%H%M%S}-{began.microsecond:05x}{secrets.token_hex(2)}"


def fan_out(
    run: Run, shards: Sequence[Shard], config: AuditConfig, engine: Engine, plan: AttributionPlan
) -> list[ShardResult]:
    """Attribute all shards, one task each, spread over the devices; a shard that fails for good is set aside.

    Two batches of shards are submitted at a time, so that tasks that wait do not pile up in Prefect.

    Raises, once those under way have ended, what every shard would meet alike: bad input, a damaged base, a full disk.
    """

    def submitted(batch: Sequence[Shard]) -> list[tuple[Shard, PrefectFuture[ShardResult]]]:
        futures = engine.map(
            attribute,
            run=unmapped(run),
            shard=list(batch),
            corpus=unmapped(config.corpus.absolute()),
            model=[engine.models[shard.index % len(engine.models)] for shard in batch],
            plan=unmapped(plan),
        )
        return list(zip(batch, futures, strict=True))

    def ended(under_way: Sequence[tuple[Shard, PrefectFuture[ShardResult]]]) -> Iterator[ShardResult]:
        shard_of = {future.task_run_id: shard for shard, future in under_way}
        for future in as_completed([future for _, future in under_way]):
            shard = shard_of[future.task_run_id]
            progress.advance(bar, shard.pairs)
            shown.finish_shard(shard.index, shard.pairs)
        for shard, future in under_way:
            result = _outcome(run, shard, engine, future)
            pace.finish_shard(result)
            yield result

    pace = Pace()
    shown = ProgressArtifact(run, len(shards), sum(shard.pairs for shard in shards))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    results: list[ShardResult] = []
    under_way: list[tuple[Shard, PrefectFuture[ShardResult]]] = []
    following: list[tuple[Shard, PrefectFuture[ShardResult]]] = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("attributing pairs", total=sum(shard.pairs for shard in shards))
        try:
            for start in range(0, len(shards), BATCH):
                following = submitted(shards[start : start + BATCH])
                results += ended(under_way)  # while the next ones are at work: no device waits for a batch's last shard
                under_way, following = following, []
            results += ended(under_way)
        except Exception:  # raised again once all have ended
            wait([future for _, future in following])  # nothing writes into a run that has ended
            raise
    return results


def _outcome(run: Run, shard: Shard, engine: Engine, future: PrefectFuture[ShardResult]) -> ShardResult:
    outcome: ShardResult | BaseException = engine.outcome(future)
    if isinstance(outcome, ShardResult):
        get_run_logger().info("shard %d: %d attributions by %s", shard.index, outcome.attributions, outcome.by)
        return outcome
    error = outcome if isinstance(outcome, BaseException) else RuntimeError(str(outcome))
    if not isinstance(error, Exception) or isinstance(error, _OF_ALL_SHARDS) or is_storage_full(error):
        raise error
    get_run_logger().error("shard %d failed and is set aside", shard.index, exc_info=error)
    return quarantine_shard(run, shard, error)


@flow(
    name="audit",
    flow_run_name="audit {config.corpus.name} with {config.model.architecture}",
    # A device works on one shard at a time, whatever the number of threads.
    task_runner=ThreadPoolTaskRunner(max_workers=8),  # type: ignore[arg-type]  # Prefect's generic is too narrow
    persist_result=False,
)
def audit(config: AuditConfig, resume: str | None = None) -> AuditResult:
    """Audit a model on an unlabeled corpus.

    resume: id of a run to go on with, finished shards and all. A flow run that Prefect starts again goes on with its
    own run by itself.

    A critical failure of a gate stops the line before any alert: the run's status is then stopped, and GateError is
    raised so that a schedule sees it. Shards that failed cost their own pairs: status completed_with_errors, and
    ShardsError at the end. An interrupt or a termination leaves the run interrupted, any other error failed; both are
    raised, and the run can be resumed.
    """
    try:
        models = config.models()
        signer = config.ledger.signer()
        run = begin(config, models, resume or begun_by(config.lake.root, runtime.flow_run.id))
    except Exception as error:  # told, and raised again
        notify_failed_start({"corpus": config.corpus.place, "model": config.model.name}, str(error))
        raise
    if said := run.read_manifest()["incremental"]:
        get_run_logger().info("run %s %s", run.run_id, said)
    with served(config.run.metrics, [model.device for model in models]), working_on(run, signer):
        _line(run, config, models)
    return concluded(run, signer)


@contextlib.contextmanager
def working_on(run: Run, signer: Signer | None = None) -> Iterator[None]:
    """Hold a run while its line is gone through; whatever ends that too early leaves its mark.

    Its end is told, and recorded in the lake's ledger.

    Raises ResumeError if another process holds it, or has brought it to its end meanwhile.
    """
    with lock_run(run):
        if (status := run.read_manifest()["status"]) != "running":
            raise ResumeError(f"resume: run {run.run_id} is {status} by now, expected a running one; see its report")
        try:
            yield
        except BaseException as error:
            give_up(run, error, signer)
            raise
        notify_run_end(run)  # which writes the manifest, so that the run must still be held
        record_run_end(run, signer)


def concluded(run: Run, signer: Signer | None = None) -> AuditResult:
    """What became of a run whose line has ended, with its report. Raises GateError, ShardsError."""
    record = run.read_manifest()
    counts = {key: record["counts"][key] for key in ("pairs", "attributions", "errors", "alerts", "confirmed")}
    result = AuditResult(run.run_id, record["status"], record["reason"], report=_report(run, signer), **counts)
    publish_outcome(run)
    if result.status == "stopped":
        raise GateError(f"run {run.run_id} was stopped by a gate: {result.reason}", result)
    if result.status == "completed_with_errors":
        raise ShardsError(f"run {run.run_id} completed with errors: {result.reason}", result)
    return result


def begun_by(lake: Root, flow_run: str | None) -> str | None:
    """The unfinished run that an earlier attempt of a flow run began, which Prefect starts again under the same id."""
    if flow_run is None:
        return None
    begun = [record for record in sql.read_manifests(lake) if record.get("flow_run") == flow_run]
    return begun[-1]["run_id"] if begun and begun[-1]["status"] not in (*sql.COMPLETE, sql.PRUNED) else None


def give_up(run: Run, error: BaseException, signer: Signer | None = None) -> None:
    """Seal a run that came to no end: failed, or interrupted from outside. A lake out of reach hides no error.

    A run that is sealed already stays as it is.
    """
    status = "failed" if isinstance(error, Exception) else "interrupted"
    said = "terminated from outside" if isinstance(error, TerminationSignal) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError, sql.LakeError):
        if run.read_manifest()["status"] == "running":
            run.finish(status, said.removesuffix(": "))
    notify_run_end(run)
    record_run_end(run, signer)


def plan_of(run: Run, config: AuditConfig) -> AttributionPlan:
    """The plan of a run whose corpus is read."""
    record = run.read_manifest()
    calibrated_on = record["calibration_sha256"] or record["corpus_digest"]
    return config.attribution_plan(record["model_digest"], calibrated_on, record["code_version"])


def _report(run: Run, signer: Signer | None) -> "Root | None":
    """The report, which can be written again at any time: a failure here does not undo the audit."""
    try:
        written = write_report(run.lake, run.run_id)
    except (ReportError, sql.LakeError):
        get_run_logger().exception("the report could not be written; try: m2ib-audit report %s", run.run_id)
        return None
    record_report(run, REPORT, signer)
    return written


def _line(run: Run, config: AuditConfig, models: Sequence[ModelConfig]) -> None:
    failures: list[str] = []
    names = limits(config.run.gpu_limit, models)
    corpus = config.corpus.absolute()
    with started(config.run, run, corpus, models) as engine:
        shards = ingest(run, corpus, config.regions.columns, config.lake.shard_size, config.seed)
        INGEST_ERRORS.set(run.read_manifest()["counts"]["errors"])
        if shards:
            plan = plan_of(run, config)
            with slots(names if config.run.engine == "local" else []):  # a cluster minds its GPUs itself
                engine.once(calibrate, run=run, corpus=corpus, model=engine.models[0], plan=plan)
                results = fan_out(run, shards, config, engine, plan)
    if shards:
        store(run, results, config.regions, config.mask_boxes)
        failures = [result.failure for result in results if result.failure]
    said = [f"{len(failures)} of {len(shards)} shards were set aside: {'; '.join(failures[:3])}"] if failures else []
    gates = validate(run)
    if gates.critical:
        run.finish("stopped", "; ".join([*gates.critical, *said]))
        return
    warnings = [*said, *gates.warnings]
    if config.regions.detectors:
        warnings += detect(run, corpus, config.regions.detectors)
    if config.discover.enabled:
        discover(run, corpus, models[0], config.discover, config.seed)
    if config.clusters.enabled:
        cluster(run, config.alerts.min_pairs, config.seed)
    phrases(run, config.phrases, config.alerts.min_pairs)
    with slots(names[:1]):
        screen(run, corpus, models[0], config.confirm, config.alerts.min_pairs, config.seed)
        warnings += flag(run, config.alerts, config.custom_rules)
        confirm(run, corpus, models[0], config.confirm, config.alerts.min_pairs, config.seed)
        self_audit(run, corpus, models[0], config.confirm, config.alerts.min_pairs, config.seed)
    alert(run, config.alerts)
    notify(run, config.notify, config.alerts.min_pairs)
    run.finish("completed_with_errors" if failures else "completed", "; ".join(warnings) or None)
