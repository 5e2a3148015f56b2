"""A failed shard is quarantined and reported; an error that every shard would meet ends the run."""

import errno
from time import monotonic
from types import SimpleNamespace

import httpx
import pyarrow.parquet as pq
import pytest
from prefect import Task
from prefect.exceptions import CrashedRun

import sql
from flows import audit as flow
from flows import begin, fan_out, reflag
from tasks.attribute import quarantine_shard
from tasks.errors import BadInputError, GateError, ResumeError, ShardsError, StoreError
from tasks.execution import is_retryable, is_storage_full
from tasks.lake.incremental import find_base
from tasks.notify import update_history
from tasks.validate import validate


@pytest.fixture
def config(settings, phantoms, tmp_path):
    return settings(phantoms, tmp_path / "lake", bottleneck={"steps": 1}, confirm={"enabled": False},
                    discover={"enabled": False})  # fmt: skip


@pytest.fixture
def run_audit(no_prefect, monkeypatch):
    """run_audit(config, poison=..., resume=...): run the flow without Prefect; poison: errors by shard."""

    def run_sequentially(run, shards, engine, plan):
        outcomes = []
        for shard in shards:
            try:
                outcomes.append(fan_out.attribute(run, shard, engine.inputs[0], plan))
            except BaseException as error:  # noqa: BLE001  # stored, as a future does
                outcomes.append(error)
        futures = [SimpleNamespace(result=lambda raise_on_failure, outcome=outcome: outcome) for outcome in outcomes]
        return [fan_out.shard_result(run, shard, engine, future) for shard, future in zip(shards, futures, strict=True)]

    monkeypatch.setattr(flow, "fan_out", run_sequentially)
    original = fan_out.attribute

    def start(config, poison=None, resume=None):
        def attribute_or_fail(run, shard, *others):
            if error := (poison or {}).get(shard.index):
                raise error
            return original(run, shard, *others)

        with monkeypatch.context() as patch:
            patch.setattr(fan_out, "attribute", attribute_or_fail)
            return flow.audit.fn(config, resume)

    return start


def test_stages_are_retried_except_the_alert_history():
    stages = [value for module in (flow, fan_out, reflag) for value in vars(module).values() if isinstance(value, Task)]
    assert len(stages) > 10
    # The alert history logs a failure instead of failing the run.
    assert {stage.name for stage in stages if stage.retries != 3} == {update_history.name}


def read_errors(run):
    rows = [row for path in run.fetch_files("ingest_errors") for row in pq.read_table(path).to_pylist()]
    return [row for row in rows if row["stage"] == "attribute"]


def test_a_quarantined_shard_loses_no_pair(begin_pipeline, config):
    pipeline = begin_pipeline(config)
    shards = pipeline.ingest()
    results = [
        pipeline.attribute(shards[0]),
        quarantine_shard(pipeline.run, shards[1], RuntimeError("x" * 900)),
        pipeline.attribute(shards[2]),
    ]
    assert results[1].failure.startswith("shard 1 (16 pairs): RuntimeError: ")
    assert len(results[1].failure) < 600
    pipeline.store(results)
    assert (
        pipeline.run.read_manifest()["counts"] | {"attributions": 24, "errors": 16}
        == pipeline.run.read_manifest()["counts"]
    )
    rows = read_errors(pipeline.run)
    assert {row["pair_id"] for row in rows} == {pair["pair_id"] for pair in pipeline.run.read_row_group("pairs", 1)}
    assert {row["reason"] for row in rows} == {"shard_failed"}
    assert "audit with --incremental" in rows[0]["detail"]
    assert validate.fn(pipeline.run).critical == ()
    # A later attempt that succeeds removes the error rows.
    pipeline.store([results[0], pipeline.attribute(shards[1]), results[2]])
    assert read_errors(pipeline.run) == []
    assert pipeline.run.read_manifest()["counts"]["attributions"] == 40


def test_a_run_with_a_failed_shard_completes_with_errors(run_audit, config):
    with pytest.raises(ShardsError, match="completed with errors: 1 of 3 shards failed: shard 1") as raised:
        run_audit(config, {1: RuntimeError("CUDA error: an illegal memory access")})
    result = raised.value.outcome
    assert (result.status, result.pairs, result.attributions, result.errors) == ("completed_with_errors", 40, 24, 16)
    assert "illegal memory access" in result.reason
    assert "completed with errors" in result.report.read_text()
    with sql.connect(config.lake.path) as connection:
        (run,) = sql.read(connection, "SELECT status, finished_at IS NOT NULL AS ended FROM runs")
        assert run == {"status": "completed_with_errors", "ended": True}
        assert sql.read(connection, "SELECT count(*) AS n FROM ingest_errors") == [{"n": 16}]
    with pytest.raises(ResumeError, match="is completed_with_errors and cannot be resumed"):
        run_audit(config, resume=result.run_id)
    (record,) = sql.read_manifests(config.lake.path)
    assert find_base(config.lake.path, record)["base_run"] == result.run_id


@pytest.mark.slow
def test_two_audits_of_a_corpus_store_the_same_rows(run_audit, config):
    """DuckDB's threads read the files of the shards in any order, and add in any order."""
    found = []
    for _ in range(2):
        result = run_audit(config)
        with sql.connect(config.lake.root, result.run_id) as connection:
            found.append(
                [
                    sql.read(connection, f"SELECT * EXCLUDE ({own}) FROM {table} ORDER BY ALL")
                    for table, own in (
                        ("region_shares", "run_id"), ("findings", "run_id"), ("alerts", "run_id, alert_id, raised_at"),
                    )
                ]
            )  # fmt: skip
    assert all(found[0])
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_start_of_the_command_is_a_stage(run_audit, config):
    with begin.on_begin(lambda _: None, monotonic() - 100):
        result = run_audit(config)
    seconds = sql.read_manifests(config.lake.root, result.run_id)[0]["stage_seconds"]
    assert 100 <= seconds["start"] < 200
    result = run_audit(config)
    assert "start" not in sql.read_manifests(config.lake.root, result.run_id)[0]["stage_seconds"]


def test_the_next_incremental_run_attributes_the_pairs_of_failed_shards(run_audit, config):
    with pytest.raises(ShardsError):
        run_audit(config, {1: RuntimeError("CUDA error")})
    incremental = config.model_copy(update={"lake": config.lake.model_copy(update={"incremental": True})})
    second = run_audit(incremental)
    assert (second.status, second.attributions, second.errors) == ("completed", 40, 0)
    with sql.connect(config.lake.path, second.run_id) as connection:
        assert sql.read(connection, "SELECT reused FROM runs") == [{"reused": 24}]


def test_a_run_whose_shards_all_failed_is_stopped_and_can_be_resumed(run_audit, config):
    errors = {index: RuntimeError("no driver") for index in range(3)}
    with pytest.raises(GateError, match=r"\(attributions\); 3 of 3 shards failed") as raised:
        run_audit(config, errors)
    run_id = raised.value.outcome.run_id
    result = run_audit(config, resume=run_id)
    assert (result.run_id, result.status, result.attributions, result.errors) == (run_id, "completed", 40, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "failed"),
        (StoreError("the base is damaged"), "failed"),
        (BadInputError("no such model"), "failed"),
        (CrashedRun("the server is gone"), "failed"),
        (httpx.ConnectError("All connection attempts failed"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_an_error_of_all_shards_ends_the_run_which_can_be_resumed(run_audit, config, error, status):
    with pytest.raises(type(error)):
        run_audit(config, {1: error})
    (record,) = sql.read_manifests(config.lake.path)
    assert record["status"] == status
    assert type(error).__name__ in record["reason"]
    assert not (config.lake.path / "runs" / record["run_id"] / "lock.json").exists()
    assert run_audit(config, resume=record["run_id"]).status == "completed"


@pytest.mark.slow
def test_the_first_error_is_raised_if_the_end_cannot_be_stored(run_audit, config, monkeypatch):
    def raise_disk_full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(flow, "find_limits", lambda *_: (_ for _ in ()).throw(ValueError("the first error")))
    monkeypatch.setattr(flow.Run, "finish", raise_disk_full)
    with pytest.raises(ValueError, match="the first error"):
        run_audit(config)


@pytest.mark.slow
def test_a_flow_run_that_is_started_again_resumes_its_run(run_audit, config, monkeypatch):
    runtime = SimpleNamespace(flow_run=SimpleNamespace(id="of-prefect"))
    for module in (flow, begin):
        monkeypatch.setattr(module, "runtime", runtime)
    with pytest.raises(StoreError):
        run_audit(config, {2: StoreError("damaged")})
    resumed = run_audit(config)
    (record,) = sql.read_manifests(config.lake.path)
    assert (record["run_id"], record["flow_run"], record["status"]) == (resumed.run_id, "of-prefect", "completed")
    assert run_audit(config).run_id != resumed.run_id  # a complete run is not resumed


@pytest.mark.parametrize(
    ("error", "again", "full"),
    [
        (OSError(errno.EIO, "Input/output error"), True, False),
        (ConnectionResetError(), True, False),
        (TimeoutError(), True, False),
        (OSError(errno.ENOSPC, "No space left on device"), False, True),
        (FileNotFoundError(), False, False),
        (PermissionError(), False, False),
        (RuntimeError("CUDA error"), False, False),
        (BadInputError("no such model"), False, False),
        (None, False, False),
    ],
)
def test_only_temporary_errors_are_retried(error, again, full):
    assert (is_retryable(error), is_storage_full(error)) == (again, full)
