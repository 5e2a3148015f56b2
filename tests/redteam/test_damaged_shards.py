"""What a resumed or incremental run, a stage or the report reads back is checked; damaged files are computed again."""

import logging

import pyarrow.parquet as pq
import pytest

import sql
from flows.begin import begin
from review.report.facts import RunFacts
from tasks.lake.finished import remove_notes
from tasks.lake.run import CALIBRATION, Run
from tasks.parts import make_parts


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def set_statistic(path):
    """Change a byte of a number, which no reader of the format can notice."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


@pytest.fixture
def config(settings, phantoms, tmp_path):
    return settings(phantoms, tmp_path / "lake", bottleneck={"steps": 1}, model={"batch_size": 1})


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.WARNING)
    return caplog


def read_rows(run, name):
    return pq.read_table(run.path("attributions", name)).to_pylist()


@pytest.mark.parametrize("damage", [flip_bit, cut])
def test_finished_shard_that_is_damaged_is_computed_again(begin_pipeline, config, log, damage):
    pipeline = begin_pipeline(config)
    shards = pipeline.ingest()
    first = pipeline.attribute(shards[0])
    path = pipeline.run.path("attributions", first.name)
    rows = read_rows(pipeline.run, first.name)
    assert pipeline.attribute(shards[0]).reused
    damage(path)
    again = pipeline.attribute(shards[0])
    assert not again.reused
    assert str(path) in log.text
    assert read_rows(pipeline.run, first.name) == rows
    assert (again.attributions, again.errors) == (16, 0)
    pipeline.store([again, *map(pipeline.attribute, shards[1:])])
    assert pipeline.run.read_manifest()["counts"]["errors"] == 0


def test_shard_that_is_damaged_before_it_is_stored_is_named_and_computed_again(begin_pipeline, config):
    pipeline = begin_pipeline(config)
    results = [pipeline.attribute(shard) for shard in pipeline.ingest()]
    path = pipeline.run.path("attributions", results[1].name)
    flip_bit(path)
    with pytest.raises(Exception, match=f"{path.name} is damaged: .* resume the run"):
        pipeline.store(results)
    results = [pipeline.attribute(result.shard) for result in results]
    assert [result.reused for result in results] == [True, False, True]
    assert pipeline.store(results) == 40


def test_damaged_statistics_are_computed_again(begin_pipeline, config, log):
    pipeline = begin_pipeline(config)
    pipeline.ingest()
    pipeline.calibrate()
    path = pipeline.run.folder / CALIBRATION
    before = path.read_bytes()
    set_statistic(path)
    pipeline.calibrate()
    assert path.read_bytes() == before
    assert str(path) in log.text


@pytest.mark.parametrize("table", ["pairs", "attributions", "regions"])
def test_resumed_run_computes_damaged_files_again(begin_pipeline, config, log, table):
    pipeline = begin_pipeline(config)
    pipeline.to_lake()
    run = pipeline.run
    rows = {name: list(run.iter_rows(name)) for name in ("pairs", "attributions", "regions")}
    run.finish("failed", "a later stage")
    path = run.fetch_files(table)[0]
    flip_bit(path)
    for read in (run.connect, lambda: list(run.iter_rows(table))):
        with pytest.raises(sql.LakeError, match=f"{path.name} is damaged"):
            read()
    assert begin(config, config.models(), run.run_id).run_id == run.run_id
    assert str(path) in log.text
    pipeline.to_lake()
    assert {name: list(run.iter_rows(name)) for name in rows} == rows


def test_changed_number_in_a_part_is_computed_again(hand_written_run, log):
    (part,) = make_parts(hand_written_run, "stage", ["a"])
    part.rows(hand_written_run, lambda: [{"x": 1.5}])
    path = hand_written_run.folder / part.name
    path.write_bytes(path.read_bytes().replace(b"1.5", b"1.4"))
    assert part.rows(hand_written_run, lambda: [{"x": 1.5}]) == [{"x": 1.5}]
    assert str(path) in log.text


def test_pairs_of_a_damaged_base_run_are_computed_again(begin_pipeline, config, log):
    first = begin_pipeline(config)
    first.to_lake()
    first.run.finish("completed")
    incremental = config.model_copy(update={"lake": config.lake.model_copy(update={"incremental": True})})
    second = begin_pipeline(incremental)
    path = first.run.fetch_files("attributions")[1]
    flip_bit(path)
    second.to_lake()
    assert second.run.read_manifest()["counts"]["reused"] == 24
    assert str(path) in log.text


def test_report_of_a_damaged_run_is_not_written(phantom_audit):
    run = phantom_audit.run
    run.finish("completed")
    path = run.fetch_files("attributions")[0]
    flip_bit(path)
    with pytest.raises(sql.LakeError, match=f"{path.name} is damaged"):
        RunFacts(run.lake, run.read_manifest())


def test_digests_are_removed_at_the_end(begin_pipeline, config):
    pipeline = begin_pipeline(config)
    pipeline.to_lake()
    assert list(pipeline.run.folder.glob("parts/*"))
    remove_notes(Run(pipeline.run.lake, pipeline.run.run_id))
    assert not list(pipeline.run.folder.glob("parts/*"))
