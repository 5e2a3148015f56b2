"""Attribute all shards in parallel: one Prefect task per shard, distributed over the devices."""

from collections.abc import Iterator, Sequence

import httpx
from prefect import get_run_logger, unmapped
from prefect.exceptions import PrefectException
from prefect.futures import PrefectFuture, as_completed, wait

import sql
from flows.engines import BATCH, Engine
from flows.metrics import Pace
from tasks.attribute import attribute, quarantine_shard
from tasks.errors import BadInputError, StoreError
from tasks.execution import is_storage_full
from tasks.lake.run import Run
from tasks.messages import Progress
from tasks.progress import ATTRIBUTING, bar
from tasks.records import AttributionPlan, Shard, ShardResult

_AFFECTS_ALL_SHARDS = (BadInputError, StoreError, sql.LakeError, PrefectException, httpx.HTTPError)
"""Errors that would fail every shard. The last two mean that Prefect's server does not answer."""

_Futures = list[tuple[Shard, PrefectFuture[ShardResult]]]


def fan_out(run: Run, shards: Sequence[Shard], engine: Engine, plan: AttributionPlan) -> list[ShardResult]:
    """Attribute all shards; quarantine a shard whose task fails after all retries.

    At most two batches of shards are submitted at a time, so that waiting tasks do not pile up in Prefect. While the
    last shards of one batch run, the next batch is already submitted, so no device is idle.

    Returns one result per shard, in the order of the shards. An error that affects every shard (bad input, a damaged
    base run, a full disk) is raised after all submitted tasks have ended: no task writes into a run that has ended.
    """

    def submit(batch: Sequence[Shard]) -> _Futures:
        futures = engine.map(
            attribute,
            run=unmapped(run),
            shard=list(batch),
            inputs=[engine.inputs[shard.index % len(engine.inputs)] for shard in batch],
            plan=unmapped(plan),
        )
        return list(zip(batch, futures, strict=True))

    def collect(submitted: _Futures) -> Iterator[ShardResult]:
        shard_of = {future.task_run_id: shard for shard, future in submitted}
        for future in as_completed([future for _, future in submitted]):
            shard = shard_of[future.task_run_id]
            if engine.runner is not None:  # else its batches have advanced the bar
                advance(shard.pairs)
            artifact.finish_shard(shard.index, shard.pairs)
        for shard, future in submitted:
            result = shard_result(run, shard, engine, future)
            pace.finish_shard(result)
            yield result

    pairs = sum(shard.pairs for shard in shards)
    pace, artifact = Pace(), Progress(run, len(shards), pairs)
    results: list[ShardResult] = []
    current: _Futures = []
    following: _Futures = []
    with bar(ATTRIBUTING, pairs) as advance:
        try:
            for start in range(0, len(shards), BATCH):
                following = submit(shards[start : start + BATCH])
                results += collect(current)
                current, following = following, []
            results += collect(current)
        except Exception:
            wait([future for _, future in following])
            raise
    return results


def shard_result(run: Run, shard: Shard, engine: Engine, future: PrefectFuture[ShardResult]) -> ShardResult:
    """Return the result of a shard's task. If only this task failed, the shard's pairs become error rows."""
    outcome: ShardResult | BaseException = engine.outcome(future)
    if isinstance(outcome, ShardResult):
        get_run_logger().info("shard %d: %d attributions by %s", shard.index, outcome.attributions, outcome.by)
        return outcome
    error = outcome if isinstance(outcome, BaseException) else RuntimeError(f"the task returned {outcome!r}")
    if not isinstance(error, Exception) or isinstance(error, _AFFECTS_ALL_SHARDS) or is_storage_full(error):
        raise error
    get_run_logger().error("shard %d failed and is quarantined", shard.index, exc_info=error)
    return quarantine_shard(run, shard, error)
