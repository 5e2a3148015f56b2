"""Runs whose lake is in object storage: the same bytes, several processes, and failures of the store."""

import json

import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import sql
import stores
from tasks import attribute as stage
from tasks.errors import StoreError
from tasks.lake.journal import record_run_end
from tasks.lake.run import Run

RUN = "20260101T000000-aaaaaa"


@pytest.fixture
def make_quick_config(settings, phantoms):
    """make_quick_config(lake, ...): a configuration with few steps."""

    def build(root, **sections):
        bottleneck = {"steps": 1, "calibration_pairs": 8} | sections.pop("bottleneck", {})
        return settings(phantoms, str(root), bottleneck=bottleneck, **sections)

    return build


@pytest.fixture
def begin_audit(begin_pipeline, make_quick_config):
    """begin_audit(lake, ...): begin a run with a fixed id, so that two lakes can be compared."""

    def start(lake, run_id=RUN, **sections):
        pipeline = begin_pipeline(make_quick_config(lake, **sections))
        record = pipeline.run.read_manifest() | {"run_id": run_id}
        run = Run(pipeline.run.lake, run_id)
        run.create(record)
        return type(pipeline)(run, pipeline.config)

    return start


def list_files(run):
    return {entry["path"]: (entry["table"], entry["rows"], entry["sha256"]) for entry in run.read_manifest()["files"]}


@pytest.mark.slow
def test_files_equal_those_of_a_local_lake(begin_audit, s3, tmp_path, remove_copies):
    from tasks.alert import alert
    from tasks.flag import flag
    from tasks.phrases import phrases

    files_by_lake = []
    for lake in (tmp_path / "lake", f"s3://{s3.bucket}/lake of bytes"):
        audit = begin_audit(lake, bottleneck={"steps": 10})
        audit.to_lake()
        audit.discover()
        audit.cluster()
        phrases.fn(audit.run, audit.config.phrases, audit.config.alerts.min_pairs)
        flag.fn(audit.run, audit.config.alerts, {})
        files_by_lake.append(list_files(audit.run))
        remove_copies()  # the next stages read from the store
        audit.confirm()
        alerts = alert.fn(audit.run, audit.config.alerts)
        files_by_lake[-1] |= {"alerts": [alert["alert_id"] for alert in alerts]}
        files_by_lake[-1] |= {"confirmations": list_files(audit.run)[f"runs/{RUN}/confirmations/part-00000.parquet"]}
    assert files_by_lake[0] == files_by_lake[1]
    assert len(files_by_lake[0]) > 12
    assert files_by_lake[0]["alerts"]


def test_shards_of_several_processes_are_stored_by_one(begin_audit, remote_folder, remove_copies):
    audit = begin_audit(remote_folder)
    shards = audit.ingest()
    audit.calibrate()
    results = []
    for shard in shards:
        remove_copies()
        results.append(audit.attribute(shard))
    remove_copies()
    assert audit.store(results) == 40
    with audit.run.connect() as connection:
        assert sql.read(connection, "SELECT count(DISTINCT pair_id) AS n FROM attributions") == [{"n": 40}]


def test_only_the_shard_whose_upload_failed_is_attributed_again(begin_audit, remote_folder, monkeypatch, remove_copies):
    audit = begin_audit(remote_folder)
    shards = audit.ingest()
    audit.calibrate()
    first = audit.attribute(shards[0])

    def disconnect(*_, **__):
        raise ConnectionError("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", disconnect)
        with pytest.raises(
            sql.LakeError, match=r"attributions/part-00001-.*the connection was lost\); check the network"
        ):
            audit.attribute(shards[1])
    before = remote_folder.fs.find(remote_folder.path)
    assert len([path for path in before if "/attributions/" in path]) == 1
    remove_copies()
    attributed, original = [], stage._attribute_new
    monkeypatch.setattr(stage, "_attribute_new", lambda *args: attributed.append(len(args[-1])) or original(*args))
    results = [audit.attribute(shard) for shard in shards]
    assert [result.reused for result in results] == [True, False, False]
    assert results[0].name == first.name
    assert attributed == [16, 8]
    assert audit.store(results) == 40


def test_incremental_run_builds_upon_a_run_of_another_process(
    begin_audit, make_quick_config, begin_pipeline, remote_folder, remove_copies, monkeypatch
):
    first = begin_audit(remote_folder)
    first.to_lake()
    first.run.finish("completed")
    record_run_end(first.run)
    remove_copies()
    monkeypatch.setattr(stage, "load_model", lambda _: pytest.fail("the model was loaded"))
    second = begin_pipeline(make_quick_config(remote_folder, lake={"shard_size": 7, "incremental": True}))
    assert second.run.read_manifest()["base_run"] == RUN
    second.to_lake()
    record = second.run.read_manifest()
    assert (record["counts"]["reused"], record["since_calibration"]) == (40, 0)
    rows = [
        {row["pair_id"]: (row["image_map"], row["text_map"]) for row in audit.run.iter_rows("attributions")}
        for audit in (first, second)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("harm", ["statistics", "gone"])
def test_a_base_that_is_damaged_later_stops_the_run(
    begin_audit, make_quick_config, begin_pipeline, remote_folder, remove_copies, harm
):
    first = begin_audit(remote_folder)
    first.to_lake()
    first.run.finish("completed")
    record_run_end(first.run)
    second = begin_pipeline(make_quick_config(remote_folder, lake={"shard_size": 16, "incremental": True}))
    path = remote_folder / next(entry["path"] for entry in first.run.read_manifest()["files"] if entry["table"] is None)
    if harm == "gone":
        remote_folder.fs.rm(path.path)
    else:
        data = bytearray(stores.read_bytes(path))
        data[len(data) // 3] ^= 255
        stores.write_bytes(path, bytes(data))
    remove_copies()
    second.ingest()
    with pytest.raises(StoreError, match="start a run that is not incremental"):
        second.calibrate()
    assert not second.run.fetch_files("attributions")


def test_run_with_missing_files_is_not_a_base(begin_audit, make_quick_config, begin_pipeline, remote_folder):
    first = begin_audit(remote_folder)
    first.run.write_table("attributions", [])
    first.run.finish("completed")
    record_run_end(first.run)
    remote_folder.fs.rm(first.run.path("attributions").path)
    second = begin_pipeline(make_quick_config(remote_folder, lake={"incremental": True}))
    assert "files (some are missing)" in second.run.read_manifest()["incremental"]


def test_manifest_does_not_contain_the_url_of_the_lake(begin_audit, remote_folder):
    audit = begin_audit(remote_folder)
    audit.ingest()
    assert str(remote_folder) not in json.dumps(audit.run.read_manifest())  # a lake may be moved
    assert pq.ParquetFile(audit.run.fetch_files("pairs")[0]).metadata.num_rows == 40
