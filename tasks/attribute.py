"""Pairs -> maps and scores, one task per shard. The file of a finished shard is its cache: a resumed run skips it."""

import contextlib
import hashlib
import heapq
import textwrap
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prefect import task

import m2ib
import sql
import stores
from m2ib import Attribution, DualEncoder, FeatureStatistics, M2IBError, PatchProjection
from tasks.device import compute, submit
from tasks.errors import BadInputError
from tasks.execution import TASK_OPTIONS, running
from tasks.inputs import IMAGE_COLUMNS, VIEW_COLUMNS, Batch, load_model, read_batch, read_batches
from tasks.lake.finished import note_finished, read_finished
from tasks.lake.incremental import ADVICE, find_reusable_features, find_reusable_rows
from tasks.lake.run import CALIBRATION, PROJECTION, Run, copy_calibration
from tasks.progress import ATTRIBUTING, advance_bar
from tasks.records import AttributionPlan, Shard, ShardResult
from tasks.settings import Inputs

_MEASURED = (
    *("cosine", "image_cosine", "text_cosine", "image_steps", "text_steps"),
    *("image_special_nats", "text_padding_nats"),
)
"""Columns of `attributions` that are attributes of `Attribution`."""


_Result = TypeVar("_Result")
_TIMED_PAIRS_CPU: Final = 2
_TIMED_PAIRS_GPU: Final = 64


def calibrate_features(run: Run, inputs: Inputs, plan: AttributionPlan) -> FeatureStatistics | None:
    """Return the feature statistics, estimated on a sample of the run's pairs; None if the settings do not need them.

    They are estimated once and stored in the run's folder; an incremental run copies those of its base run. The stage
    `store` lists their file in the manifest, because tasks of single shards must not write the manifest.
    """
    if not plan.bottleneck.needs_statistics():
        return None
    return FeatureStatistics.load(_once(run, CALIBRATION, "calibration", lambda: _estimate(run, inputs, plan)))


def calibrate_projection(run: Run, inputs: Inputs, plan: AttributionPlan) -> PatchProjection | None:
    """Return the projection of patch features, computed on the same sample and stored beside the feature statistics.

    None if patches are not captured.
    """
    if (depth := plan.capture_depth) is None:
        return None

    def compute_projection() -> PatchProjection:
        network, batch = _read_sample(run, inputs, plan)
        size = inputs.model.batch_size or 64
        arguments = batch.images, plan.bottleneck.image, depth, size
        return _report_as_input(lambda: compute(inputs.model.device, m2ib.calibrate_patches, network, *arguments))

    return PatchProjection.load(_once(run, PROJECTION, "projection", compute_projection))


class _Saved(Protocol):
    def save(self, path: Path) -> None: ...


def _once(run: Run, name: str, key: str, estimate: Callable[[], _Saved]) -> Path:
    """Return a local path of a file of the run, which is computed once, or copied from the base run."""
    path = run.folder / name
    if read_finished(run, key) is None:
        record = run.read_manifest()
        if base := record.get("base_run"):
            copy_calibration(run, Run(run.lake, base), record[f"{key}_sha256"], ADVICE, name)
        else:
            with stores.write_atomically(path) as aside:
                estimate().save(aside)
        note_finished(run, key, [run.relative_path(name)])
    return stores.fetch(path)


def _estimate(run: Run, inputs: Inputs, plan: AttributionPlan) -> FeatureStatistics:
    network, batch = _read_sample(run, inputs, plan)  # unreadable images become error rows of their shards
    captions, size = [pair["caption"] for pair in batch.pairs], inputs.model.batch_size or 64
    arguments = batch.images, captions, plan.bottleneck, size
    return _report_as_input(lambda: compute(inputs.model.device, m2ib.calibrate, network, *arguments))


def _report_as_input(work: Callable[[], _Result]) -> _Result:
    try:
        return work()
    except M2IBError as error:
        raise BadInputError(f"calibration: {error}") from error


def _read_sample(run: Run, inputs: Inputs, plan: AttributionPlan) -> tuple[DualEncoder, Batch]:
    """Return the model and the images of the pairs that statistics are estimated on."""
    columns = [*IMAGE_COLUMNS, "caption"]
    file = pq.ParquetFile(stores.fetch(run.path("pairs")), page_checksum_verification=True)
    batches = file.iter_batches(columns=columns)
    pairs = heapq.nsmallest(
        plan.calibration_pairs,
        (pair for batch in batches for pair in batch.to_pylist()),
        key=lambda pair: hashlib.sha256(f"{plan.bottleneck.seed}{pair['pair_id']}".encode()).digest(),
    )
    network = load_model(inputs.model)
    return network, read_batch(run, inputs, pairs, network)


def _start_batch(
    network: DualEncoder,
    batch: Batch,
    plan: AttributionPlan,
    statistics: FeatureStatistics | None,
    size: int,
    projection: PatchProjection | None = None,
) -> list[Callable[[], Attribution]]:
    """Start the attributions of a batch in the thread of the device: a second one if the plan has a second seed."""
    captions, keys = [pair["caption"] for pair in batch.pairs], [pair["pair_id"] for pair in batch.pairs]
    seeds = [plan.bottleneck.seed, plan.bottleneck.seed + 1] if plan.second_seed else [plan.bottleneck.seed]
    configs = [replace(plan.bottleneck, seed=seed) for seed in seeds]
    given: dict[str, Any] = {"keys": keys, "batch_size": size, "projection": projection}
    return [m2ib.start_attribution(network, batch.images, captions, each, statistics, **given) for each in configs]


def _to_columns(result: Attribution, others: Sequence[Attribution]) -> dict[str, Any]:
    """Return columns of `attributions` as arrays and lists. The others have other seeds, for the stability."""
    image_map, text_map = result.image_map.flatten(1).numpy(), [text.numpy() for text in result.text_map]
    columns = {key: getattr(result, key).numpy() for key in _MEASURED} | {
        "caption_cut": result.truncated,
        "image_map": image_map,
        "image_nats": image_map.sum(axis=1, dtype=np.float64),
        "tokens": result.tokens,
        "special": result.special,
        "text_map": text_map,
        "text_nats": [float(text.sum(dtype=np.float64)) for text in text_map],
        "grid_h": np.full(len(image_map), result.image_map.shape[1]),
        "grid_w": np.full(len(image_map), result.image_map.shape[2]),
    }
    for other in others:
        columns["image_stability"], columns["text_stability"] = (part.numpy() for part in result.stability(other))
    return columns


def _to_table(run: Run, columns: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], model: DualEncoder) -> pa.Table:
    """Return the rows of `attributions` of a batch, given the columns of `_to_columns`."""
    views = np.array([model.field_of_view(pair["width"], pair["height"]) for pair in pairs])
    given = {key: [pair[key] for pair in pairs] for key in ("pair_id", "caption")}
    lists = {key: _to_lists(columns[key]) for key in ("image_map", "text_map")}
    # A stability is NaN where a map is constant; it is stored as NULL.
    stability = {
        key: pa.array(columns[key], from_pandas=True) for key in ("image_stability", "text_stability") if key in columns
    }
    columns = {**columns, **given, **lists, **stability, **dict(zip(VIEW_COLUMNS, views.T, strict=True))}
    return sql.conform_columns("attributions", columns | {"run_id": [run.run_id] * len(pairs)})


def _to_features(run: Run, result: Attribution, pairs: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the rows of `patch_features` of a batch, whose patches were captured."""
    patches = result.patches.numpy() if result.patches is not None else np.empty((0, 0, 0, 0), np.int8)
    rows, columns = patches.shape[1:3]
    given = {
        "run_id": [run.run_id] * len(pairs),
        "pair_id": [pair["pair_id"] for pair in pairs],
        "grid_h": np.full(len(pairs), rows),
        "grid_w": np.full(len(pairs), columns),
        "vectors": [vectors.tobytes() for vectors in patches],
        "hot": m2ib.find_hot_cells(result.image_map.numpy(), (rows, columns)),
    }
    return sql.conform_columns("patch_features", given)


def _to_lists(arrays: Sequence[Any]) -> pa.ListArray:
    """Convert arrays of one dimension to a column of lists."""
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)))


def _shard_name(shard: Shard, plan: AttributionPlan, pairs: list[dict[str, Any]]) -> str:
    """Return the file name of a shard; it has a digest of model, settings, code and pairs."""
    key = hashlib.sha256("\n".join([plan.key, *(pair["pair_id"] for pair in pairs)]).encode()).hexdigest()[:16]
    return f"part-{shard.index:05d}-{key}"


@running()
def attribute_pairs(run: Run, shard: Shard, inputs: Inputs, plan: AttributionPlan) -> ShardResult:
    """Attribute the pairs of a shard into one file. Pairs whose image can no longer be read become error rows.

    In an incremental run, attributions are copied from its base run, an earlier run of the same audit. If the shard's
    files are finished and intact, they are reused.
    """
    pairs = run.read_row_group("pairs", shard.index)
    name = _shard_name(shard, plan, pairs)
    if files := read_finished(run, name):
        done = pq.read_metadata(stores.fetch(run.path("attributions", name))).num_rows
        advance_bar(ATTRIBUTING, len(pairs))
        return ShardResult(shard, name, done, len(pairs) - done, reused=True, files=files)
    reused = {"attributions": find_reusable_rows(run, pairs)}
    if plan.capture_depth is not None:
        ids = reused["attributions"]["pair_id"].to_pylist()
        reused["patch_features"] = features = find_reusable_features(run, ids)
        complete = pc.is_in(reused["attributions"]["pair_id"], features["pair_id"].combine_chunks())
        reused["attributions"] = reused["attributions"].filter(complete)
    have = {*reused["attributions"]["pair_id"].to_pylist()}
    advance_bar(ATTRIBUTING, len(have))
    new = [pair for pair in pairs if pair["pair_id"] not in have]
    attributed, errors = _attribute_new(run, inputs, plan, new) if new else ([], [])
    for table, earlier in reused.items():
        rows = pa.concat_tables([earlier, *(each[table] for each in attributed)])
        order = pc.index_in(pa.array([pair["pair_id"] for pair in pairs]), rows["pair_id"].combine_chunks())
        with run.open_writer(table, name) as writer:
            writer.write(rows.take(order.drop_null()))
    if errors:
        with run.open_writer("ingest_errors", name) as error_writer:
            error_writer.write(errors)
    tables = [*reused, *(["ingest_errors"] if errors else [])]
    files = note_finished(run, name, [run.relative_path(f"{table}/{name}.parquet") for table in tables])
    return ShardResult(shard, name, len(pairs) - len(errors), len(errors), reused=False, files=files)


def _attribute_new(
    run: Run, inputs: Inputs, plan: AttributionPlan, pairs: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, pa.Table]], list[dict[str, Any]]]:
    """Attribute pairs; return rows of the tables of shards for the readable ones, and error rows for the others.

    While the device attributes a batch, the rows of the batch before it are made and the next batch is read.
    """
    network, device = load_model(inputs.model), inputs.model.device
    statistics, projection = calibrate_features(run, inputs, plan), calibrate_projection(run, inputs, plan)
    size = inputs.model.batch_size or compute(device, m2ib.estimate_batch_size, network, plan.bottleneck)
    errors: list[dict[str, Any]] = []
    tables: list[dict[str, pa.Table]] = []
    waiting: deque[tuple[Batch, Future[list[Callable[[], Attribution]]]]] = deque()

    def finish() -> None:
        batch, started = waiting.popleft()
        result, *others = [read() for read in started.result()]
        features = {} if projection is None else {"patch_features": _to_features(run, result, batch.pairs)}
        tables.append({"attributions": _to_table(run, _to_columns(result, others), batch.pairs, network), **features})
        advance_bar(ATTRIBUTING, len(batch.pairs))

    for batch in read_batches(run, inputs, pairs, network, size):
        errors += (
            {**pair, "stage": "attribute", "reason": str(error.reason), "detail": error.detail}
            for pair, error in batch.failed
        )
        advance_bar(ATTRIBUTING, len(batch.failed))
        if batch.pairs:
            waiting.append((batch, submit(device, _start_batch, network, batch, plan, statistics, size, projection)))
            if len(waiting) > 1:
                finish()
    while waiting:
        finish()
    return tables, errors


def quarantine_shard(run: Run, shard: Shard, error: BaseException) -> ShardResult:
    """Write an error row for each pair of a shard whose task failed after all retries, so that no pair is lost."""
    pairs = run.read_row_group("pairs", shard.index)
    name = f"failed-{shard.index:05d}"
    message = textwrap.shorten(f"{type(error).__name__}: {error}", 500, placeholder=" ...")
    failure = f"shard {shard.index} ({shard.pairs} pairs): {message}"
    detail = f"{failure}; fix the cause, then audit with --incremental: only pairs without a map are attributed"
    with run.open_writer("ingest_errors", name) as writer:
        writer.write({**pair, "stage": "attribute", "reason": "shard_failed", "detail": detail} for pair in pairs)
    return ShardResult(shard, name, 0, len(pairs), reused=False, failure=failure)


def _time_attribution(
    run: Run, inputs: Inputs, plan: AttributionPlan, statistics: FeatureStatistics | None
) -> float | None:
    """Return the seconds that the device needs for a pair, measured on some pairs; None if this says little.

    A compiled model is not timed, because its first batches are compiled. An incremental run has few new pairs.
    """
    if inputs.model.compile or run.read_manifest().get("base_run"):
        return None
    network, device = load_model(inputs.model), inputs.model.device
    on_cpu = device == "cpu"
    pairs = run.read_row_group("pairs", 0)[: _TIMED_PAIRS_CPU if on_cpu else _TIMED_PAIRS_GPU]
    batch = read_batch(run, inputs, pairs, network)
    if not batch.pairs:
        return None

    def attribute_once() -> float:
        began = monotonic()
        for read in compute(device, _start_batch, network, batch, plan, statistics, len(batch.pairs)):
            read()
        return (monotonic() - began) / len(batch.pairs)

    with contextlib.suppress(M2IBError, RuntimeError):  # the tasks of the shards report it
        return attribute_once() if on_cpu else min(attribute_once(), attribute_once())
    return None


@task(name="calibrate", **TASK_OPTIONS)
def calibrate(run: Run, inputs: Inputs, plan: AttributionPlan) -> float | None:
    """Estimate the feature statistics before any shard is attributed; see `calibrate_features`.

    Returns the seconds that the device needs to attribute a pair, or None if this cannot be measured.
    """
    calibrate_projection(run, inputs, plan)
    return _time_attribution(run, inputs, plan, calibrate_features(run, inputs, plan))


attribute = task(name="attribute", task_run_name="attribute-{shard.index}", **TASK_OPTIONS)(attribute_pairs)
