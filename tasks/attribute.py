"""Pairs -> maps and scores, one task per shard. The file of a finished shard is its cache: a resumed run skips it."""

import hashlib
import heapq
import math
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeAlias

import pyarrow.parquet as pq
from prefect import task

import m2ib
import stores
from m2ib import Attribution, DualEncoder, FeatureStatistics, M2IBError
from tasks.errors import BadInputError
from tasks.execution import TASK_OPTIONS
from tasks.inputs import IMAGE_COLUMNS, VIEW_COLUMNS, device_lock, load_model, read_batch
from tasks.lake.incremental import ADVICE, find_reusable_rows
from tasks.lake.run import CALIBRATION, Run, copy_calibration
from tasks.records import AttributionPlan, Shard, ShardResult
from tasks.settings import CorpusConfig, ModelConfig

_MEASURED = (
    *("cosine", "image_cosine", "text_cosine", "image_steps", "text_steps"),
    *("image_special_nats", "text_padding_nats"),
)
"""Columns of `attributions` that are attributes of `m2ib.Attribution`."""

Batch: TypeAlias = tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]
"""Preprocessed images of the readable pairs, those pairs, and error rows for the others."""


def calibrate_features(
    run: Run, corpus: CorpusConfig, model: ModelConfig, plan: AttributionPlan
) -> FeatureStatistics | None:
    """Return the feature statistics, estimated on a sample of the run's pairs; None if the settings do not need them.

    They are estimated once and stored in the run's folder; an incremental run copies those of its base run. The stage
    `store` lists their file in the manifest, because tasks of single shards must not write the manifest.
    """
    if not plan.bottleneck.needs_statistics():
        return None
    path = run.folder / CALIBRATION
    if not stores.is_file(path):
        record = run.read_manifest()
        if base := record.get("base_run"):
            copy_calibration(run, Run(run.lake, base), record["calibration_sha256"], ADVICE)
        else:
            with stores.write_atomically(path) as aside:
                _estimate(run, corpus, model, plan).save(aside)
    return FeatureStatistics.load(stores.fetch(path))


def _estimate(run: Run, corpus: CorpusConfig, model: ModelConfig, plan: AttributionPlan) -> FeatureStatistics:
    columns = [*IMAGE_COLUMNS, "caption"]
    batches = pq.ParquetFile(stores.fetch(run.path("pairs"))).iter_batches(columns=columns)
    pairs = heapq.nsmallest(
        plan.calibration_pairs,
        (pair for batch in batches for pair in batch.to_pylist()),
        key=lambda pair: hashlib.sha256(f"{plan.bottleneck.seed}{pair['pair_id']}".encode()).digest(),
    )
    network = load_model(model)
    pixels, readable, _ = read_batch(corpus, pairs, network)  # the others become error rows of their shards
    images, texts = network.stack_images(pixels), [pair["caption"] for pair in readable]
    try:
        with device_lock(model.device):
            return m2ib.calibrate(network, images, texts, plan.bottleneck, model.batch_size or 64)
    except M2IBError as error:
        raise BadInputError(f"calibration: {error}") from error


def _rows(
    results: Sequence[Attribution], pairs: Sequence[dict[str, Any]], model: DualEncoder
) -> Iterator[dict[str, Any]]:
    """Yield rows of `attributions` from the first result; a second result, of another seed, adds the stability."""
    result = results[0]
    stability = [values.tolist() for values in result.stability(results[1])] if len(results) > 1 else None
    cut = model.count_truncated_characters([pair["caption"] for pair in pairs])
    for i, pair in enumerate(pairs):
        image_map, text_map = result.image_map[i].double(), result.text_map[i].double()
        view = dict(zip(VIEW_COLUMNS, model.field_of_view(pair["width"], pair["height"]), strict=True))
        yield (
            view
            | {key: getattr(result, key)[i].item() for key in _MEASURED}
            | {
                "pair_id": pair["pair_id"],
                "caption": pair["caption"],
                "caption_cut": cut[i],
                "grid_h": image_map.shape[0],
                "grid_w": image_map.shape[1],
                "image_map": image_map.flatten().tolist(),
                "image_nats": float(image_map.sum()),
                "tokens": list(result.tokens[i]),
                "special": list(result.special[i]),
                "text_map": text_map.tolist(),
                "text_nats": float(text_map.sum()),
                "image_stability": None if stability is None or math.isnan(stability[0][i]) else stability[0][i],
                "text_stability": None if stability is None or math.isnan(stability[1][i]) else stability[1][i],
            }
        )


def read_ahead(corpus: CorpusConfig, pairs: Sequence[dict[str, Any]], model: DualEncoder, size: int) -> Iterator[Batch]:
    """Yield batches of `size` pairs; while the caller works on one batch, a thread reads and preprocesses the next."""
    batches = (pairs[start : start + size] for start in range(0, len(pairs), size))
    with ThreadPoolExecutor(max_workers=1) as reader:
        following: Future[Batch] | None = None
        for batch in batches:
            ready, following = following, reader.submit(_read_batch, corpus, batch, model)
            if ready is not None:
                yield ready.result()
        if following is not None:
            yield following.result()


def _read_batch(corpus: CorpusConfig, pairs: Sequence[dict[str, Any]], model: DualEncoder) -> Batch:
    pixels, readable, failed = read_batch(corpus, pairs, model)
    errors = [
        {**pair, "stage": "attribute", "reason": str(error.reason), "detail": error.detail} for pair, error in failed
    ]
    return model.stack_images(pixels), readable, errors


def _shard_name(shard: Shard, plan: AttributionPlan, pairs: list[dict[str, Any]]) -> str:
    """Return the file name of a shard; it has a digest of model, settings, code and pairs."""
    key = hashlib.sha256("\n".join([plan.key, *(pair["pair_id"] for pair in pairs)]).encode()).hexdigest()[:16]
    return f"part-{shard.index:05d}-{key}"


def attribute_pairs(
    run: Run, shard: Shard, corpus: CorpusConfig, model: ModelConfig, plan: AttributionPlan
) -> ShardResult:
    """Attribute the pairs of a shard into one file. Pairs whose image can no longer be read become error rows.

    In an incremental run, attributions are copied from its base run, an earlier run of the same audit. If the shard's
    file exists, it is reused. Error rows are written before the attributions, so a shard whose file exists is complete.
    """
    pairs = run.read_row_group("pairs", shard.index)
    name = _shard_name(shard, plan, pairs)
    path = run.path("attributions", name)
    if stores.is_file(path):
        done = pq.ParquetFile(stores.fetch(path)).metadata.num_rows
        return ShardResult(shard, name, done, len(pairs) - done, reused=True)
    earlier = find_reusable_rows(run, pairs)
    new = [pair for pair in pairs if pair["pair_id"] not in earlier]
    attributed, errors = _attribute_new(run, corpus, model, plan, new) if new else ([], [])
    by_pair = earlier | {row["pair_id"]: row for row in attributed}
    rows = [by_pair[pair["pair_id"]] for pair in pairs if pair["pair_id"] in by_pair]
    with run.open_writer("attributions", name) as writer:
        writer.write(rows)
        if errors:
            with run.open_writer("ingest_errors", name) as error_writer:
                error_writer.write(errors)
    return ShardResult(shard, name, len(rows), len(errors), reused=False)


def _attribute_new(
    run: Run, corpus: CorpusConfig, model: ModelConfig, plan: AttributionPlan, pairs: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Attribute pairs; return rows of `attributions` for the readable ones, and error rows for the others."""
    network = load_model(model)
    statistics = calibrate_features(run, corpus, model, plan)
    errors: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    configs = [plan.bottleneck]
    if plan.second_seed:
        configs.append(replace(plan.bottleneck, seed=plan.bottleneck.seed + 1))
    with device_lock(model.device):
        size = model.batch_size or m2ib.estimate_batch_size(network, plan.bottleneck)
    for pixels, readable, failed in read_ahead(corpus, pairs, network, size):
        errors.extend(failed)
        if readable:
            captions, keys = [pair["caption"] for pair in readable], [pair["pair_id"] for pair in readable]
            with device_lock(model.device):
                results = [
                    m2ib.attribute(network, pixels, captions, config, statistics, keys=keys, batch_size=size)
                    for config in configs
                ]
            rows.extend(_rows(results, readable, network))
    return rows, errors


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


@task(name="calibrate", **TASK_OPTIONS)
def calibrate(run: Run, corpus: CorpusConfig, model: ModelConfig, plan: AttributionPlan) -> None:
    """Estimate the feature statistics before any shard is attributed; see `calibrate_features`."""
    calibrate_features(run, corpus, model, plan)


attribute = task(name="attribute", task_run_name="attribute-{shard.index}", **TASK_OPTIONS)(attribute_pairs)
