"""A run whose lake is in object storage: the same bytes, by several processes, and it survives what a store does."""

import json

import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import sql
import stores
from tasks import attribute as stage
from tasks.errors import StoreError
from tasks.lake.run import Run

RUN = "20260101T000000-aaaaaa"


@pytest.fixture
def quick(settings, phantoms):
    """quick(lake): settings of a hasty audit."""

    def build(place, **sections):
        bottleneck = {"steps": 1, "calibration_pairs": 8} | sections.pop("bottleneck", {})
        return settings(phantoms, str(place), bottleneck=bottleneck, **sections)

    return build


@pytest.fixture
def begin_audit(begin_pipeline, quick):
    """line(lake): the stages of a run of a known id, so that two lakes can be held against each other."""

    def start(lake, run_id=RUN, **sections):
        begun = begin_pipeline(quick(lake, **sections))
        record = begun.run.read_manifest() | {"run_id": run_id}
        run = Run(begun.run.lake, run_id)
        run.create(record)
        return type(begun)(run, begun.config)

    return start


def listed(run):
    return {entry["path"]: (entry["table"], entry["rows"], entry["sha256"]) for entry in run.read_manifest()["files"]}


@pytest.mark.slow
def test_the_same_bytes_as_in_a_folder(begin_audit, s3, tmp_path, remove_copies):
    from tasks.alert import alert
    from tasks.flag import flag
    from tasks.phrases import phrases

    found = []
    for lake in (tmp_path / "lake", f"s3://{s3.bucket}/lake of bytes"):
        audit = begin_audit(lake, bottleneck={"steps": 10})
        audit.to_lake()
        audit.discover()
        audit.cluster()
        phrases.fn(audit.run, audit.config.phrases, audit.config.alerts.min_pairs)
        flag.fn(audit.run, audit.config.alerts, {})
        found.append(listed(audit.run))
        remove_copies()  # what comes next reads what is in the store
        audit.confirm()
        raised = alert.fn(audit.run, audit.config.alerts)
        found[-1] |= {"alerts": [alert["alert_id"] for alert in raised]}
        found[-1] |= {"confirmations": listed(audit.run)[f"runs/{RUN}/confirmations/part-00000.parquet"]}
    assert found[0] == found[1]
    assert len(found[0]) > 12
    assert found[0]["alerts"]


def test_shards_of_other_processes_are_closed_by_one(begin_audit, remote_folder, remove_copies):
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


def test_a_shard_whose_upload_fails_is_made_again_and_no_other(begin_audit, remote_folder, monkeypatch, remove_copies):
    audit = begin_audit(remote_folder)
    shards = audit.ingest()
    audit.calibrate()
    first = audit.attribute(shards[0])

    def cut(*_, **__):
        raise ConnectionError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "put_file", cut)
        with pytest.raises(sql.LakeError, match=r"attributions/part-00001-.*the line is cut\); check the network"):
            audit.attribute(shards[1])
    before = remote_folder.fs.find(remote_folder.path)
    assert len([path for path in before if "/attributions/" in path]) == 1
    remove_copies()
    made, real = [], stage._attribute_new
    monkeypatch.setattr(stage, "_attribute_new", lambda *given: made.append(len(given[-1])) or real(*given))
    results = [audit.attribute(shard) for shard in shards]
    assert [result.reused for result in results] == [True, False, False]
    assert results[0].name == first.name
    assert made == [16, 8]
    assert audit.store(results) == 40


def test_a_night_builds_upon_a_run_of_another_process(
    begin_audit, quick, begin_pipeline, remote_folder, remove_copies, monkeypatch
):
    first = begin_audit(remote_folder)
    first.to_lake()
    first.run.finish("completed")
    remove_copies()
    monkeypatch.setattr(stage, "load_model", lambda _: pytest.fail("the model was loaded"))
    second = begin_pipeline(quick(remote_folder, lake={"shard_size": 7, "incremental": True}))
    assert second.run.read_manifest()["base_run"] == RUN
    second.to_lake()
    record = second.run.read_manifest()
    assert (record["counts"]["reused"], record["since_calibration"]) == (40, 0)
    rows = [
        {row["pair_id"]: (row["image_map"], row["text_map"]) for row in audit.run.iter_rows("attributions")}
        for audit in (first, second)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("harm", ["statistics", "rows", "gone"])
def test_a_base_that_is_damaged_later_stops_the_run(
    begin_audit, quick, begin_pipeline, remote_folder, remove_copies, harm
):
    first = begin_audit(remote_folder)
    first.to_lake()
    first.run.finish("completed")
    second = begin_pipeline(quick(remote_folder, lake={"shard_size": 16, "incremental": True}))
    table = "attributions" if harm == "rows" else None
    path = remote_folder / next(
        entry["path"] for entry in first.run.read_manifest()["files"] if entry["table"] == table
    )
    if harm == "gone":
        remote_folder.fs.rm(path.path)
    else:
        data = bytearray(stores.read_bytes(path))
        data[len(data) // 3] ^= 255
        stores.write_bytes(path, bytes(data))
    remove_copies()
    second.ingest()
    act = second.to_lake if harm == "rows" else second.calibrate  # which no pair of this corpus needs
    with pytest.raises(StoreError, match="start a run that is not incremental"):
        act()
    assert not second.run.fetch_files("attributions")


def test_a_base_whose_files_are_gone_is_none(begin_audit, quick, begin_pipeline, remote_folder):
    first = begin_audit(remote_folder)
    first.run.write_table("attributions", [])
    first.run.finish("completed")
    remote_folder.fs.rm(first.run.path("attributions").path)
    second = begin_pipeline(quick(remote_folder, lake={"incremental": True}))
    assert "files (some are missing)" in second.run.read_manifest()["incremental"]


def test_nothing_but_the_url_is_needed_or_kept(begin_audit, remote_folder):
    audit = begin_audit(remote_folder)
    audit.ingest()
    assert str(remote_folder) not in json.dumps(audit.run.read_manifest())  # a lake may be moved
    assert pq.ParquetFile(audit.run.fetch_files("pairs")[0]).metadata.num_rows == 40
