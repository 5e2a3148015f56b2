"""An engine runs a task for each part of a stage, and waits for all of them also when one fails."""

import time
import uuid
from dataclasses import dataclass, field

import pytest
from prefect import Task, flow, task
from prefect.task_runners import ThreadPoolTaskRunner

from flows import engines
from flows.engines import Engine
from tasks.parts import SkippedError, make_parts


@dataclass(frozen=True)
class Plan:
    inputs: object


@dataclass
class Future:
    """A future of a task that ends when it is waited for."""

    outcome: object
    task_run_id: uuid.UUID = field(default_factory=uuid.uuid4)
    ended: bool = False

    def result(self, raise_on_failure):
        assert self.ended
        return self.outcome


@pytest.fixture
def run_parts(hand_written_run, monkeypatch):
    """run_parts(count, outcomes, inputs): run parts; `futures` has all futures, and `plans` the plan of each."""
    futures, plans = [], []

    def end(waiting):
        for future in waiting:
            future.ended = True
            yield future

    def run(count, outcomes=None, inputs=("cpu",)):
        def submit(_task, parameters):
            plans.extend(parameters["plan"])
            new = [Future((outcomes or {}).get(part.index)) for part in parameters["part"]]
            futures.extend(new)
            return new

        monkeypatch.setattr(engines, "as_completed", end)
        monkeypatch.setattr(engines, "wait", lambda waiting: list(end(waiting)))
        runner = type("Runner", (), {"map": staticmethod(submit)})
        parts = make_parts(hand_written_run, "stage", range(count))
        Engine(list(inputs), runner).run_parts(Task(fn=lambda: None, name="work"), hand_written_run, Plan("any"), parts)

    run.futures, run.plans = futures, plans
    return run


@pytest.mark.parametrize("count", [0, 1, 64, 130])
def test_every_part_runs_on_one_of_the_devices(run_parts, count):
    run_parts(count, inputs=("cuda:0", "cuda:1"))
    assert [plan.inputs for plan in run_parts.plans] == [f"cuda:{index % 2}" for index in range(count)]
    assert all(future.ended for future in run_parts.futures)


def test_the_error_of_a_part_is_raised_after_all_submitted_parts_have_ended(run_parts):
    with pytest.raises(ValueError, match="no such region"):
        run_parts(130, {2: SkippedError("skipped"), 3: ValueError("no such region")})
    assert len(run_parts.futures) == 64
    assert all(future.ended for future in run_parts.futures)


@pytest.mark.slow
def test_parts_that_have_not_begun_are_skipped_after_an_error(hand_written_run, prefect_harness):
    began = []

    @task
    def work(run, plan, part):
        def compute():
            began.append(part.index)
            if part.index == 0:
                raise ValueError("no such region")
            time.sleep(0.2)
            return []

        part.rows(run, compute)

    @flow(persist_result=False, task_runner=ThreadPoolTaskRunner(max_workers=2))
    def stage():
        Engine([None]).run_parts(work, hand_written_run, Plan(None), make_parts(hand_written_run, "stage", range(40)))

    with pytest.raises(ValueError, match="no such region"):
        stage()
    assert len(began) < 40
    assert (
        make_parts(hand_written_run, "stage", range(40))[39].rows(hand_written_run, list) == []
    )  # not skipped any more
