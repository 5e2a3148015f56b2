"""A lake in object storage: same views as a local one, files fetched when a query needs them, nothing else readable."""

import json
import threading

import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import sql
import stores

TABLES = ("pairs", "attributions", "regions", "region_shares", "findings", "ingest_errors")
RUN = "20260101T000000-aaaaaa"


@pytest.fixture
def complete_run(remote_folder, fill_lake, remove_copies):
    """A run in object storage, of which this process has no copies."""
    run = fill_lake(remote_folder)
    remove_copies()
    return run


@pytest.fixture
def fill_lake(hand_written_run):
    def write(lake, run_id=RUN):
        run = type(hand_written_run)(lake, run_id).begin()
        run.add_pairs(["one caption", "another caption"])
        run.add_attributions([[1, 2], [3, 4]], (1, 2))
        run.add_regions(("left", (0, 0, 0.5, 1)))
        run.add_shares("left", [0.3, 0.4])
        run.write_table("ingest_errors", [{"row_number": 2, "stage": "ingest", "reason": "empty_caption"}])
        run.write_table("findings", [{"rule": "region_mass", "region": "left", "n": 2}])
        run.finish("completed")
        return run

    return write


def list_views():
    return [name for name in sql.view_names() if name != "runs"]


def read_views(lake, run_id=None):
    """Return all rows of all views."""
    with sql.connect(lake, run_id) as connection:
        return {view: sql.read(connection, f"FROM {view} ORDER BY ALL") for view in list_views()}


def test_every_view_has_the_rows_of_a_local_lake(fill_lake, complete_run, lake):
    folder = lake.parent / "other lake"
    fill_lake(folder)
    rows_by_view = read_views(complete_run.lake)
    assert sum(map(len, rows_by_view.values())) > 10
    assert rows_by_view == read_views(folder) == read_views(complete_run.lake, RUN)


def test_types_are_those_of_a_local_lake_before_a_row_is_fetched(complete_run, lake):
    with sql.connect(complete_run.lake) as remote, sql.connect(lake) as local:
        for view in sql.view_names():
            described = [sql.read(connection, f"DESCRIBE {view}") for connection in (remote, local)]
            assert described[0] == described[1]
        assert sql.read(remote, "SHOW TABLES") == sql.read(local, "SHOW TABLES")


def test_only_what_a_query_needs_is_fetched_and_only_once(complete_run, downloads):
    with sql.connect(complete_run.lake) as connection:
        assert sql.read(connection, "SELECT run_id, pairs FROM runs") == [{"run_id": RUN, "pairs": 2}]
        assert downloads == []
        for _ in range(2):
            assert len(sql.read(connection, "FROM findings")) == 1
        assert downloads == [f"{RUN}/findings/part-00000.parquet"]
        assert len(sql.rows(connection, "gates/corpus", run_id=RUN)) == 2
        assert downloads[1:] == [f"{RUN}/pairs/part-00000.parquet"]
    with sql.connect(complete_run.lake) as connection:  # the copies are still there
        assert len(sql.read(connection, "FROM pairs, findings")) == 2
    assert len(downloads) == 2


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("SELECT count(*) AS n FROM pairs", [{"n": 2}]),
        ("SELECT EXISTS (FROM pairs) AS n", [{"n": True}]),
        ("SELECT (SELECT max(width) FROM pairs) AS n", [{"n": 80}]),
        ("SELECT count(*) AS n FROM (VALUES (1)) LEFT JOIN pairs ON width = 80", [{"n": 2}]),
        ("SELECT count(*) AS n FROM stored.pairs WHERE caption LIKE 'one%'", [{"n": 1}]),
        ("SELECT count(*) AS n FROM query_table('pairs')", [{"n": 2}]),
        ("SELECT count(*) AS n FROM query('FROM pairs')", [{"n": 2}]),
        ("WITH pairs AS (SELECT 1 AS x) SELECT count(*) AS n FROM pairs", [{"n": 1}]),
        ("SELECT count(*) AS n FROM pairs WHERE false", [{"n": 0}]),
        ("SELECT count(*) AS n FROM tokens", [{"n": 6}]),
    ],
)
def test_every_kind_of_query_fetches_its_table(complete_run, text, rows):
    with sql.connect(complete_run.lake) as connection:
        assert sql.read(connection, text) == rows
    with sql.connect(complete_run.lake) as connection:
        assert sql.read(connection, "SUMMARIZE pairs")[0]["count"] == 2


def test_two_runs_are_read_together_and_missing_columns_are_null(fill_lake, complete_run, tmp_path, remove_copies):
    fill_lake(complete_run.lake, "20260102T000000-bbbbbb")
    (path,) = complete_run.fetch_files("pairs")
    older = pq.read_table(path).drop_columns(["width"])
    with stores.write_atomically(complete_run.path("pairs")) as aside:
        pq.write_table(older, aside)
    with complete_run.changes() as changes:
        changes.files[complete_run.relative_path("pairs/part-00000.parquet")] = "pairs", 2
    remove_copies()
    with sql.connect(complete_run.lake) as connection:
        counts = sql.read(connection, "SELECT count(DISTINCT run_id) AS r, count(*) AS n, count(width) AS w FROM pairs")
    assert counts == [{"r": 2, "n": 4, "w": 2}]


def test_a_single_run_is_read_alone(fill_lake, complete_run, remove_copies):
    fill_lake(complete_run.lake, "20260102T000000-bbbbbb")
    remove_copies()
    complete_run.lake.fs.rm(complete_run.path("pairs").path)
    with sql.connect(complete_run.lake, "20260102T000000-bbbbbb") as connection:
        assert sql.read(connection, "SELECT DISTINCT run_id FROM pairs") == [{"run_id": "20260102T000000-bbbbbb"}]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "part-00000.parquet is missing"),
        ("truncated", "is damaged: got sha256"),
        ("swapped", "is damaged: got sha256"),
    ],
)
def test_a_missing_or_damaged_file_is_named_when_it_is_needed(complete_run, damage, message):
    path = complete_run.path("pairs")
    data = path.fs.cat_file(path.path)
    if damage == "missing":
        path.fs.rm(path.path)
    else:
        path.fs.pipe_file(path.path, data[:-20] if damage == "truncated" else bytes(reversed(data)))
    with sql.connect(complete_run.lake, RUN) as connection:
        assert len(sql.read(connection, "FROM findings")) == 1
        for _ in range(2):
            with pytest.raises(sql.LakeError, match=message):
                sql.read(connection, "FROM pairs")
        with pytest.raises(sql.LakeError, match=message):
            sql.rows(connection, "gates/corpus", run_id=RUN)
    with sql.connect(complete_run.lake) as connection:
        assert len(sql.read(connection, "FROM findings")) == 1
        assert sql.read(connection, "FROM pairs") == sql.read(connection, "FROM findings") == []
        assert message in sql.list_damage(connection)[RUN]


def test_an_error_of_a_store_is_not_an_empty_lake(complete_run, monkeypatch):
    def cut(*_, **__):
        raise ConnectionError("cut")

    with sql.connect(complete_run.lake) as connection:
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, "get_file", cut)
            with pytest.raises(sql.LakeError, match=r"cut.*check the network"):
                sql.read(connection, "FROM pairs")
        assert len(sql.read(connection, "FROM pairs")) == 2  # the store responds again
    for method in ("ls", "cat_file"):
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, method, cut)
            with pytest.raises(sql.LakeError, match=r"cut.*check the network"):
                sql.connect(complete_run.lake)


def test_a_missing_lake_is_an_error(remote_folder):
    with pytest.raises(sql.LakeError, match=r"no folder at memory://.*run an audit first"):
        sql.connect(remote_folder)
    assert sql.read_manifests(remote_folder) == []


@pytest.mark.parametrize("text", ["{", "", "[]", '{"run_id": "r", "config": {}}'])
def test_a_damaged_manifest_is_named(complete_run, text):
    stores.write_bytes(complete_run.folder / "manifest.json", text.encode())
    with pytest.raises(sql.LakeError, match=r"manifest memory://.*manifest.json: it is invalid"):
        sql.connect(complete_run.lake, RUN)


@pytest.mark.parametrize("change", [{"path": "../secret"}, {"sha256": "../../../../etc/passwd"}])
def test_a_manifest_with_files_of_other_runs_is_an_error(complete_run, change):
    record = complete_run.read_manifest()
    record["files"][0] |= change
    stores.write_bytes(complete_run.folder / "manifest.json", json.dumps(record).encode())
    with pytest.raises(sql.LakeError, match=r"outside the folder|should match pattern"):
        sql.connect(complete_run.lake, RUN)


def test_neither_other_copies_nor_the_store_can_be_read(fill_lake, complete_run, tmp_path):
    """Copies of files of other runs and lakes are in the same folder as those that a query may read."""
    other = fill_lake(complete_run.lake, "20260102T000000-bbbbbb")
    (copy,) = other.fetch_files("findings")
    (stores.scratch_folder() / "secret.csv").write_text("a,b\n1,2\n")
    folder = stores.scratch_folder()
    (own,) = complete_run.fetch_files("pairs")
    with sql.connect(complete_run.lake, RUN) as connection:
        assert len(sql.read(connection, "FROM pairs")) == 2
        for name in (
            copy, folder / "secret.csv", folder / "*.copy", folder / "*", folder / ".." / "*", f"{own}/../{copy.name}",
            complete_run.path("pairs"), f"{complete_run.lake}/*/*/*/*.parquet", "s3://bucket/x.parquet",
            "/etc/hostname",
        ):  # fmt: skip
            for read in ("read_parquet", "read_csv", "read_text", "read_blob", "glob"):
                with pytest.raises(sql.QueryError):
                    assert sql.read(connection, f"SELECT * FROM {read}('{name}')") == []
        with pytest.raises(sql.QueryError):
            sql.read(connection, f"COPY (SELECT 1) TO '{own}'")
        assert len(sql.read(connection, "FROM pairs")) == 2


def test_threads_wait_for_one_download(complete_run, downloads):
    faults = []

    def read(connection):
        try:
            for _ in range(5):
                assert sql.read(connection, "SELECT count(*) AS n FROM tokens") == [{"n": 6}]
                assert len(sql.rows(connection, "gates/corpus", run_id=RUN)) == 2
        except Exception as error:  # noqa: BLE001  # reported by the main thread
            faults.append(error)

    with sql.connect(complete_run.lake) as connection:
        threads = [threading.Thread(target=read, args=(connection,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []
    assert sorted(downloads) == [f"{RUN}/{table}/part-00000.parquet" for table in ("attributions", "pairs")]
