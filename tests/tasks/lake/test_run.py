"""Files are written completely or not at all, and the manifest matches them."""

import hashlib
import json

import pyarrow.parquet as pq
import pytest

import sql
from stores import file_sha256
from tasks.lake.finished import remove_notes
from tasks.lake.run import Run


def read_all_files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_records_are_written_in_row_groups_of_limited_size(hand_written_run, monkeypatch):
    monkeypatch.setattr("tasks.lake.run._ROW_GROUP", 2)
    assert hand_written_run.write_table("pairs", ({"pair_id": str(number)} for number in range(5))) == 5
    assert hand_written_run.row_group_sizes("pairs") == [2, 2, 1]


def test_a_table_whose_rows_fail_leaves_no_file(hand_written_run):
    def rows():
        yield {"pair_id": "p"}
        raise RuntimeError("broken")

    before = hand_written_run.read_manifest()
    with pytest.raises(RuntimeError, match="broken"):
        hand_written_run.write_table("pairs", rows())
    with pytest.raises(TypeError), hand_written_run.open_writer("pairs") as writer:
        writer.write([{"pair_id": "p"}])
        writer.write([{"attributes": 3}])
    assert read_all_files(hand_written_run.folder) == ["manifest.json"]
    assert hand_written_run.read_manifest() == before


def test_an_interrupted_write_leaves_no_torn_file(hand_written_run, monkeypatch):
    """The disk is full at the footer: the file of an earlier attempt stays as it was."""
    hand_written_run.write_table("pairs", [{"pair_id": "old"}])

    close = pq.ParquetWriter.close

    def full(self):
        close(self)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "close", full)
        with pytest.raises(OSError, match="No space"):
            hand_written_run.write_table("pairs", [{"pair_id": "new"}])
    assert pq.read_table(hand_written_run.path("pairs"))["pair_id"].to_pylist() == ["old"]
    assert read_all_files(hand_written_run.folder) == ["manifest.json", "pairs/part-00000.parquet"]


def test_the_manifest_lists_each_file_with_its_digest_and_rows(phantom_audit):
    run = phantom_audit.run
    phantom_audit.to_alerts()
    entries = run.read_manifest()["files"]
    remove_notes(run)  # as at the end of a run
    on_disk = {path for path in read_all_files(run.lake / "runs") if not path.endswith("manifest.json")}
    on_disk = {f"runs/{path}" for path in on_disk}
    assert {entry["path"] for entry in entries} == on_disk
    assert len(entries) == len(on_disk)
    for entry in entries:
        path = run.lake / entry["path"]
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() == file_sha256(path)
        if entry["table"] is not None:
            assert entry["rows"] == pq.ParquetFile(path).metadata.num_rows
            assert pq.read_schema(path).equals(sql.schema(entry["table"]))


def test_a_file_listed_again_replaces_its_entry(hand_written_run):
    hand_written_run.write_table("pairs", [{"pair_id": "a"}])
    first = hand_written_run.read_manifest()["files"]
    hand_written_run.write_table("pairs", [{"pair_id": "a"}, {"pair_id": "b"}])
    (entry,) = hand_written_run.read_manifest()["files"]
    assert (entry["path"], entry["rows"]) == (first[0]["path"], 2)
    assert entry["sha256"] != first[0]["sha256"]


def test_facts_and_counts_of_a_run_change_one_by_one(lake, run_class):
    run = run_class(lake, "r").begin(seed=3)
    run.update(counts={"pairs": 5}, reason="x")
    run.finish("completed")
    record = run.read_manifest()
    assert (record["status"], record["reason"], record["seed"]) == ("completed", None, 3)
    assert record["counts"] == {
        "corpus_rows": 0,
        "pairs": 5,
        "attributions": 0,
        "errors": 0,
        "alerts": 0,
        "confirmed": 0,
        "not_sampled": 0,
        "reused": 0,
    }
    assert record["schema_version"] == 1
    assert record["started_at"] <= record["finished_at"]
    assert record["finished_at"].endswith("+00:00")


def test_the_changes_of_a_block_are_written_at_once_or_not_at_all(hand_written_run, monkeypatch):
    before = hand_written_run.read_manifest()

    def fail():
        with hand_written_run.changes() as changes:
            changes.write_table("pairs", [{"pair_id": "a"}])
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert hand_written_run.read_manifest() == before

    writes, put = [], Run._write_manifest
    monkeypatch.setattr(Run, "_write_manifest", lambda run, text: writes.append(text) or put(run, text))
    with hand_written_run.changes() as changes:
        changes.write_table("pairs", [{"pair_id": "a"}])
        changes.write_table("findings", [])
        changes.update(counts={"pairs": 1}, reason="because")
    assert len(writes) == 1
    record = hand_written_run.read_manifest()
    assert [(entry["table"], entry["rows"]) for entry in record["files"]] == [("pairs", 1), ("findings", 0)]
    assert (record["counts"]["pairs"], record["reason"]) == (1, "because")


def test_manifest_is_json_without_nan(hand_written_run):
    before = (hand_written_run.folder / "manifest.json").read_text()
    assert json.loads(before)
    with pytest.raises(ValueError, match="JSON"):
        hand_written_run.update(factor=float("nan"))
    assert (hand_written_run.folder / "manifest.json").read_text() == before
    assert read_all_files(hand_written_run.folder) == ["manifest.json"]


def test_row_groups_are_what_was_written_at_once(hand_written_run):
    with hand_written_run.open_writer("pairs") as writer:
        for size in (3, 0, 2):
            writer.write({"pair_id": f"{size}-{number}"} for number in range(size))
    assert writer.rows == 5
    assert hand_written_run.row_group_sizes("pairs") == [3, 2]
    assert [row["pair_id"] for row in hand_written_run.read_row_group("pairs", 1)] == ["2-0", "2-1"]
    assert {row["run_id"] for row in hand_written_run.read_row_group("pairs", 0)} == {hand_written_run.run_id}


def test_an_empty_table_is_a_readable_file(hand_written_run):
    assert hand_written_run.write_table("findings", []) == 0
    with hand_written_run.connect() as connection:
        assert sql.read(connection, "FROM findings") == []
