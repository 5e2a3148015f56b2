"""Shards are submitted to Prefect in batches, and each one has its result."""

import logging
import uuid
from dataclasses import dataclass, field

import pytest

from flows import fan_out as flow
from flows.engines import Engine
from tasks.errors import BadInputError
from tasks.records import Shard, ShardResult


@dataclass
class Future:
    """A future of a task that ends when it is waited for."""

    shard: Shard
    error: Exception | None = None
    ended: bool = False
    task_run_id: uuid.UUID = field(default_factory=uuid.uuid4)

    def result(self, raise_on_failure):
        assert self.ended
        return self.error or ShardResult(self.shard, f"part-{self.shard.index}", self.shard.pairs, 0, reused=False)


@pytest.fixture
def run_fan_out(monkeypatch, hand_written_run, settings, phantoms, tmp_path):
    """run_fan_out(count, errors): return the results; `futures` lists all futures, `running` how many ran at a time."""
    monkeypatch.setattr(flow, "BATCH", 4)
    monkeypatch.setattr(flow, "get_run_logger", lambda: logging.getLogger("audit"))
    monkeypatch.setattr(flow, "Progress", lambda *_: type("Shown", (), {"finish_shard": lambda *_: None})())
    futures, running = [], []

    def end_futures(waiting):
        for future in reversed(waiting):
            future.ended = True
            yield future

    def run(count, errors=()):
        def submit(shard, **_):
            futures.extend(submitted := [Future(one, dict(errors).get(one.index)) for one in shard])
            running.append(sum(not future.ended for future in futures))
            return submitted

        monkeypatch.setattr(flow.attribute, "map", submit)
        monkeypatch.setattr(flow, "as_completed", end_futures)
        monkeypatch.setattr(flow, "wait", lambda waiting: list(end_futures(waiting)))
        config = settings(phantoms, tmp_path / "lake")
        shards = [Shard(index, 2) for index in range(count)]
        return flow.fan_out(hand_written_run, shards, Engine(config.inputs()), None)

    run.futures, run.running = futures, running
    return run


@pytest.mark.parametrize("count", [0, 1, 4, 5, 30])
def test_results_are_in_order_and_at_most_two_batches_run(run_fan_out, count):
    results = run_fan_out(count)
    assert [result.shard.index for result in results] == list(range(count))
    assert len(run_fan_out.futures) == count
    assert max(run_fan_out.running, default=0) <= 8
    assert count < 8 or max(run_fan_out.running) > 4  # the next batch runs while one ends


def test_error_of_all_shards_is_raised_after_running_shards_have_ended(run_fan_out):
    with pytest.raises(BadInputError, match="no such model"):
        run_fan_out(30, {2: BadInputError("no such model")})
    assert len(run_fan_out.futures) == 8
    assert all(future.ended for future in run_fan_out.futures)
