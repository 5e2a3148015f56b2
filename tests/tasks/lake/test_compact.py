"""A compaction merges many small files into few, and every query returns the same rows."""

import pyarrow.parquet as pq
import pytest

import sql
import stores
from tasks.errors import ResumeError, StoreError
from tasks.lake import compact as stage
from tasks.lake.compact import compact_run
from tasks.lake.incremental import _index_pairs, find_reusable_rows
from tasks.lake.journal import record_run_end
from tasks.lake.lock import lock_run

RUN = "20260101T000000-aaaaaa"
SHARDS = 6


@pytest.fixture(params=["lake", "remote_folder"])
def root(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def no_lock_wait(monkeypatch):
    """Do not wait for other processes that lock a run in remote storage."""
    monkeypatch.setattr("tasks.lake.lock._SETTLE_SECONDS", 0)


@pytest.fixture
def add_sharded_run(run_class):
    """add_sharded_run(lake): add a complete run with two pairs per shard; one shard has an error row."""

    def build(lake, name=RUN, **facts):
        run = run_class(lake, name).begin(**facts)
        pairs = run.add_pairs([f"caption {number}" for number in range(2 * SHARDS)])
        run.add_attributions([[1.0, float(number)] for number in range(2 * SHARDS)], (1, 2), caption="")
        (whole,) = run.fetch_files("attributions")
        rows = pq.read_table(whole)
        run.update(files=[entry for entry in run.read_manifest()["files"] if entry["table"] != "attributions"])
        stores.remove(run.folder, ["attributions/part-00000.parquet"])
        with run.changes() as changes:
            for shard in range(SHARDS):
                part_rows = enumerate(rows.slice(2 * shard, 2).to_pylist(), 2 * shard)
                captioned = [{**row, "caption": pairs[number]["caption"]} for number, row in part_rows]
                # Content-addressed: names do not sort in the order of creation.
                changes.write_table("attributions", captioned, f"part-{shard:05d}-{'9a7c3e'[shard]}")
            changes.write_table("ingest_errors", [])
            error = {"stage": "attribute", "reason": "undecodable", "detail": "x", "row_number": 3}
            changes.write_table("ingest_errors", [error], "part-00003-x")
        run.add_regions(("corner", (0, 0, 0.5, 0.5)))
        run.add_shares("corner", [0.1 * number for number in range(8)])
        share = {"pair_id": pairs[0]["pair_id"], "side": "image", "region": "tag", "share": 0.3, "area": 0.1}
        run.write_table("region_shares", [share], "found")  # a second file, of a table over which views add up
        run.finish("completed")
        record_run_end(run)
        return run

    return build


def read_views(lake, run_id=None):
    """Return the rows of every view, in stored order except for views that aggregate."""
    with sql.connect(lake, run_id) as connection:
        rows_by_view = {view: sql.read(connection, f"FROM {view}") for view in sql.view_names()}
    for row in rows_by_view["runs"]:
        del row["recorded"]  # unknown if only one run is opened
    grouped = [view for view in sql.query_names("views") if "GROUP BY" in sql.query_text(f"views/{view}")]  # unordered
    return rows_by_view | {view: sorted(rows_by_view[view], key=repr) for view in grouped}


def list_parts(run, table="attributions"):
    return [entry["path"].rpartition("/")[2] for entry in run.read_manifest()["files"] if entry["table"] == table]


def test_few_files_are_left_and_every_view_has_the_same_rows(root, add_sharded_run):
    run = add_sharded_run(root)
    before = read_views(root)
    assert len(before["attributions"]) == len(before["pairs"]) == 2 * SHARDS
    assert {row["table"]: (row["files_before"], row["files_after"]) for row in compact_run(run)} == {
        "attributions": (SHARDS, 1),
        "ingest_errors": (2, 1),
    }
    assert read_views(root) == before
    assert read_views(root, run.run_id) == before
    listed = {entry["path"].removeprefix(f"runs/{run.run_id}/") for entry in run.read_manifest()["files"]}
    (entry,) = run.read_manifest()["earlier_manifests"]
    assert set(stores.list_sizes(run.folder)) == listed | {"manifest.json", entry["manifest"]}


def test_row_groups_types_and_checksums_are_preserved(lake, add_sharded_run):
    run = add_sharded_run(lake)
    old = [pq.read_table(path) for path in run.fetch_files("attributions")]
    schema = pq.ParquetFile(run.fetch_files("attributions")[0]).schema_arrow
    compact_run(run)
    (path,) = run.fetch_files("attributions")
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        assert [file.read_row_group(number) for number in range(file.num_row_groups)] == old
        assert file.schema_arrow.equals(schema, check_metadata=True)
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="CRC"), pq.ParquetFile(path, page_checksum_verification=True) as file:
        file.read()


def test_the_earlier_manifest_is_kept_with_its_digest(lake, add_sharded_run):
    run = add_sharded_run(lake)
    before = run.read_manifest()
    compact_run(run)
    (earlier,) = run.read_earlier_manifests()
    assert earlier == before
    (entry,) = run.read_manifest()["earlier_manifests"]
    assert entry["what"] == "compacted"
    assert {key: run.read_manifest()[key] for key in before if key != "files"} == {
        key: before[key] for key in before if key != "files"
    }


def test_row_groups_per_file_are_limited(lake, add_sharded_run, monkeypatch):
    run = add_sharded_run(lake)
    before = read_views(lake)
    monkeypatch.setattr(stage, "MAX_ROW_GROUPS", 4)
    compact_run(run)
    assert [pq.ParquetFile(path).num_row_groups for path in run.fetch_files("attributions")] == [4, 2]
    assert read_views(lake) == before
    assert compact_run(run) == []  # nothing is left to merge


def test_files_with_different_columns_are_not_merged(lake, add_sharded_run):
    run = add_sharded_run(lake)
    first = run.path("attributions", list_parts(run)[0].removesuffix(".parquet"))
    rows = pq.read_table(first).drop_columns(["attributed_by"])
    pq.write_table(rows, first)
    with run.changes() as changes:
        changes.files[run.relative_path(f"attributions/{first.name}")] = "attributions", rows.num_rows
    listed = run.read_manifest()["files"]
    moved = [entry for entry in listed if entry["path"].endswith(first.name)]
    run.update(files=moved + [entry for entry in listed if entry not in moved])
    record_run_end(run)
    before = read_views(lake)
    compact_run(run)
    assert len(list_parts(run)) == 2
    assert read_views(lake) == before


@pytest.mark.parametrize("status", ["running", "failed", "stopped", "interrupted", "pruned"])
def test_only_complete_runs_are_compacted(lake, add_sharded_run, status):
    run = add_sharded_run(lake)
    run.update(status=status)
    with pytest.raises(StoreError, match=f"is {status}, expected a complete one"):
        compact_run(run)
    assert len(list_parts(run)) == SHARDS


def test_run_that_a_running_one_reads_is_not_compacted(lake, add_sharded_run, run_class):
    run = add_sharded_run(lake)
    user = run_class(lake, "20260102T000000-bbbbbb").begin(base_run=RUN)
    with pytest.raises(StoreError, match=f"run {user.run_id} is running"):
        compact_run(run)
    user.finish("failed")
    with lock_run(run), pytest.raises(ResumeError, match="is locked by"):
        compact_run(run)
    assert len(compact_run(run)) == 2


@pytest.mark.parametrize(
    ("place", "moment"),
    [("lake", "first file"), ("lake", "manifest"), ("lake", "removal"), ("remote_folder", "manifest")],
)
def test_an_interrupted_compaction_leaves_the_same_rows_and_is_finished_by_the_next(
    request, add_sharded_run, monkeypatch, place, moment
):
    root = request.getfixturevalue(place)
    run = add_sharded_run(root)
    before = read_views(root)

    def killed(*_, **__):
        raise KeyboardInterrupt

    where = {"first file": (stage, "_verify"), "manifest": (stage.Run, "rewrite"), "removal": (stage.stores, "remove")}
    with monkeypatch.context() as patch:
        patch.setattr(*where[moment], killed)
        with pytest.raises(KeyboardInterrupt):
            compact_run(run)
    assert read_views(root) == before
    compact_run(run)
    assert read_views(root) == before
    listed = {entry["path"].removeprefix(f"runs/{run.run_id}/") for entry in run.read_manifest()["files"]}
    (entry,) = run.read_manifest()["earlier_manifests"]
    assert set(stores.list_sizes(run.folder)) == listed | {"manifest.json", entry["manifest"]}


def test_a_damaged_file_is_not_merged(lake, add_sharded_run):
    run = add_sharded_run(lake)
    path = run.fetch_files("attributions")[2]
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(StoreError, match="got sha256"):
        compact_run(run)
    assert len(list_parts(run)) == SHARDS


def test_attributions_of_a_compacted_base_are_reused_and_only_their_row_groups_are_read(
    lake, add_sharded_run, monkeypatch
):
    base = add_sharded_run(lake)
    compact_run(base)
    _index_pairs.cache_clear()
    run = add_sharded_run(lake, "20260102T000000-bbbbbb", base_run=RUN)
    pairs = list(run.iter_rows("pairs"))
    numbers_read = []
    read = pq.ParquetFile.read_row_group

    def spy(self, number, columns=None, **others):
        if columns is None:
            numbers_read.append(number)
        return read(self, number, columns=columns, **others)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    found = find_reusable_rows(run, pairs[2:5]).to_pylist()
    assert {row["pair_id"]: row["image_map"] for row in found} == {
        pair["pair_id"]: [1.0, float(pair["row_number"])] for pair in pairs[2:5]
    }
    assert {(row["run_id"], row["attributed_by"]) for row in found} == {(run.run_id, RUN)}
    assert numbers_read == [1, 2]
