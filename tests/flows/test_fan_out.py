"""Many shards are submitted to Prefect a few at a time, and each gets its result."""

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
    """A future of a task that ends when somebody waits for it."""

    shard: Shard
    error: Exception | None = None
    ended: bool = False
    task_run_id: uuid.UUID = field(default_factory=uuid.uuid4)

    def result(self, raise_on_failure):
        assert self.ended
        return self.error or ShardResult(self.shard, f"part-{self.shard.index}", self.shard.pairs, 0, reused=False)


@pytest.fixture
def fanned_out(monkeypatch, hand_written, settings, phantoms, tmp_path):
    """fanned_out(shards, errors): results, all futures, and the largest number that ran at a time."""
    monkeypatch.setattr(flow, "BATCH", 4)
    monkeypatch.setattr(flow, "get_run_logger", lambda: logging.getLogger("audit"))
    monkeypatch.setattr(flow, "Progress", lambda *_: type("Shown", (), {"finish_shard": lambda *_: None})())
    futures, most = [], []

    def end(waiting):
        for future in reversed(waiting):
            future.ended = True
            yield future

    def run(count, errors=()):
        def submit(shard, **_):
            futures.extend(made := [Future(one, dict(errors).get(one.index)) for one in shard])
            most.append(sum(not future.ended for future in futures))
            return made

        monkeypatch.setattr(flow.attribute, "map", submit)
        monkeypatch.setattr(flow, "as_completed", end)
        monkeypatch.setattr(flow, "wait", lambda waiting: list(end(waiting)))
        config = settings(phantoms, tmp_path / "lake")
        shards = [Shard(index, 2) for index in range(count)]
        return flow.fan_out(hand_written, shards, config, Engine(config.models()), None)

    run.futures, run.most = futures, most
    return run


@pytest.mark.parametrize("count", [0, 1, 4, 5, 30])
def test_results_are_in_order_and_at_most_two_batches_run(fanned_out, count):
    results = fanned_out(count)
    assert [result.shard.index for result in results] == list(range(count))
    assert len(fanned_out.futures) == count
    assert max(fanned_out.most, default=0) <= 8
    assert count < 8 or max(fanned_out.most) > 4  # while one batch ends the next is at work


def test_what_all_shards_would_meet_ends_it_once_those_under_way_have_ended(fanned_out):
    with pytest.raises(BadInputError, match="no such model"):
        fanned_out(30, {2: BadInputError("no such model")})
    assert len(fanned_out.futures) == 8
    assert all(future.ended for future in fanned_out.futures)
