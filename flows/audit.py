"""The flow of an audit: it runs all stages in order, from reading the corpus to sending notifications.

The stages: ingest, attribute, store, validate; propose regions and slices; flag, confirm, alert, notify.
"""

from collections.abc import Sequence
from dataclasses import replace

from prefect import flow, get_run_logger, runtime

import sql
from flows.begin import begin, find_run_of_flow, seconds_since_start
from flows.config import AuditConfig
from flows.engines import Engine, acquire_slots, find_limits, start_engine
from flows.fan_out import fan_out
from flows.lifecycle import AuditResult, conclude, run_lifecycle
from flows.metrics import INGEST_ERRORS, serve_metrics
from flows.self_audit import self_audit
from review.presentation.numbers import format_count, format_duration
from tasks.alert import alert
from tasks.attribute import calibrate
from tasks.cluster import cluster
from tasks.concepts import concepts
from tasks.confirm import confirm, plan_tests, run_tests
from tasks.corpus_parts import ReadingPlan, plan_reading, read_part
from tasks.discover import DiscoveryPlan, discover
from tasks.flag import flag
from tasks.ingest import ingest
from tasks.inputs import clear_images, count_reads
from tasks.interventions.samples import InterventionPlan, clear_samples
from tasks.lake.finished import remove_notes
from tasks.lake.run import Run
from tasks.measure_images import measure_images
from tasks.notify import notify_failed_start, update_history
from tasks.phrases import phrases
from tasks.progress import Stages, print_line
from tasks.records import ShardResult
from tasks.screen import cover_regions, plan_screening, screen
from tasks.settings import ModelConfig
from tasks.store import store
from tasks.validate import validate


@flow(
    name="audit",
    flow_run_name="audit {config.corpus.name} with {config.model.architecture}",
    persist_result=False,
)
def audit(config: AuditConfig, resume: str | None = None) -> AuditResult:
    """Audit a model on an unlabeled corpus.

    Args:
        config: Configuration of the audit, as read from an AUDIT.toml.
        resume: Id of an unfinished run to resume; its finished shards are reused. If Prefect restarts a flow run, the
            run is found and resumed without this argument.

    Raises:
        GateError: A critical check failed. The run ends before any alert, with status `stopped`.
        ShardsError: The run completed, but some shards failed: status `completed_with_errors`.
        Exception: Any other error leaves the run `failed`, an interrupt `interrupted`. Such a run can be resumed.
    """
    try:
        models = config.models()
        signer = config.ledger.signer()
        run = begin(config, models, resume or find_run_of_flow(config.lake.root, runtime.flow_run.id))
    except Exception as error:
        about = {"audit": config.audit.name, "corpus": config.corpus.place, "model": config.model.name}
        notify_failed_start(about, str(error), config.notify)
        raise
    if base := run.read_manifest()["incremental"]:
        get_run_logger().info("run %s %s", run.run_id, base)
    metrics = serve_metrics(config.run.metrics, [model.device for model in models])
    with metrics, run_lifecycle(run, config.notify, signer, config.ledger.head_file) as stage:
        if seconds := seconds_since_start():
            stage.add("start", seconds)
        try:
            _run_pipeline(run, config, models, stage)
        finally:
            clear_images(run)
            clear_samples(run)
    return conclude(run, signer, config.ledger.head_file)


def _run_pipeline(run: Run, config: AuditConfig, models: Sequence[ModelConfig], stage: Stages) -> None:
    """Run all stages and write the final status of the run."""
    every_device, gpu_limits = config.inputs(), find_limits(config.run.gpu_limit, models)
    with start_engine(config.run, run, every_device) as engine:
        results = _attribute(run, config, engine, gpu_limits, stage)
        failures = [result.failure for result in results if result.failure]
        shards = format_count(len(results), "shard")
        warnings = [f"{len(failures)} of {shards} failed: {'; '.join(failures[:3])}"] if failures else []
        with stage("validate"):
            gates = validate(run)
        if gates.critical:
            run.finish("stopped", "; ".join([*gates.critical, *warnings]), stage_seconds=stage)
            return
        record = run.read_manifest()
        warnings += [*gates.warnings, *record.get("detector_failures", []), *record.get("region_gaps", [])]
        attribution_reads = count_reads(run)
        warnings += _find_alerts(run, config, engine, gpu_limits, stage)
    with stage("notify"):
        update_history(run, config.alerts.min_pairs)
    read_again = count_reads(run) - attribution_reads
    # In an incremental run the tests are the first to read the images of reused maps: no cache could have had them.
    if read_again and not run.read_manifest()["counts"]["reused"]:
        get_run_logger().info(
            "%d images were read again for the tests; see [run] cache_bytes = %d", read_again, config.run.cache_bytes
        )
    status = "completed_with_errors" if failures else "completed"
    remove_notes(run)
    run.finish(status, "; ".join(warnings) or None, stage_seconds=stage, images_read_again=read_again)


def _attribute(
    run: Run, config: AuditConfig, engine: Engine, gpu_limits: Sequence[str], stage: Stages
) -> list[ShardResult]:
    """Read the corpus, attribute its pairs and store them; return the results of all shards."""
    with stage("ingest"):
        corpus, detectors = config.corpus.absolute(), config.regions.detectors
        if reading := plan_reading(run, corpus, config.seed):
            parts = engine.run_parts(read_part, run, ReadingPlan(engine.inputs[0], detectors), reading.parts)
            reading = replace(reading, parts=parts)
        settings = config.regions.columns, config.lake.shard_size, config.seed, detectors, config.run.readers
        shards = ingest(run, corpus, *settings, reading)
    INGEST_ERRORS.set(run.read_manifest()["counts"]["errors"])
    if not shards:
        return []
    plan = config.attribution_plan(run.read_manifest())
    slots = gpu_limits if config.run.engine == "local" else []  # Ray shares out GPUs
    with stage("attribute"), acquire_slots(slots):
        seconds = engine.once(calibrate, run=run, inputs=engine.inputs[0], plan=plan)
        if seconds is not None and config.run.engine == "local":
            _announce_duration(run, sum(shard.pairs for shard in shards), seconds, len(engine.inputs))
        results = fan_out(run, shards, engine, plan)
    with stage("store"):
        store(run, results, config.regions, config.mask_boxes)
    return results


def _announce_duration(run: Run, pairs: int, seconds: float, devices: int) -> None:
    """Log and print how long the audit is going to take, from the time of some pairs and of the run before."""
    text = (
        f"attributing {format_count(pairs, 'pair')} is going to take about {format_duration(pairs * seconds / devices)}"
    )
    records = sql.read_manifests(run.lake)
    audits = sql.audit_ids(records)
    earlier = [
        record
        for record in records
        if sql.is_complete(record) and sql.is_trusted(record) and audits[record["run_id"]] == audits[run.run_id]
    ]
    if earlier and (spent := earlier[-1].get("stage_seconds")):
        others = sum(spent.values()) - spent.get("attribute", 0)
        text += f"; the other stages took {format_duration(others)} in run {earlier[-1]['run_id']}"
    get_run_logger().info(text)
    print_line(f"m2ib-audit: {text}")


def _find_alerts(run: Run, config: AuditConfig, engine: Engine, gpu_limits: Sequence[str], stage: Stages) -> list[str]:
    """Propose findings, test them and raise alerts; return warnings."""
    inputs, min_pairs = config.inputs()[0], config.alerts.min_pairs
    bottleneck = config.bottleneck_config()
    tests = InterventionPlan(inputs, config.confirm, min_pairs, config.seed, bottleneck.steps * bottleneck.draws)
    # With Ray, this process uses its own GPU, for the search for overlays.
    with acquire_slots(gpu_limits if config.run.engine == "local" else gpu_limits[:1]):
        if config.discover.enabled:
            with stage("discover"):
                discover(run, DiscoveryPlan(inputs, config.discover, config.seed))
        if config.clusters.enabled:
            with stage("cluster"):
                cluster(run, min_pairs, config.seed)
        with stage("phrases"):
            phrases(run, config.phrases, min_pairs)
        warnings = []
        if config.concepts.enabled:
            with stage("concepts"):
                warnings += concepts(run, min_pairs, config.seed)
        with stage("screen"):
            engine.run_parts(cover_regions, run, tests, plan_screening(run, tests))
            screen(run, tests)
            measure_images(run, tests)
        with stage("flag"):
            warnings += flag(run, config.alerts, config.custom_rules)
        with stage("confirm"):
            engine.run_parts(run_tests, run, tests, plan_tests(run, tests))
            confirm(run, tests)
        with stage("self-audit"):
            self_audit(run, config, tests)
    with stage("alert"):
        alert(run, config.alerts)
    return warnings
