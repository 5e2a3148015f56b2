"""Connecting to a lake: required files, and the rows of the views."""

import json
import threading
from pathlib import Path

import pytest

import sql
import stores

VIEWS = (
    "runs", "pairs", "ingest_errors", "attributions", "tokens", "regions", "region_shares", "findings", "alerts",
    "confirmations", "verdicts", "self_audits", "validations",
)  # fmt: skip


def count_rows(connection, view):
    return sql.read(connection, f"SELECT count(*) AS n FROM {view}")[0]["n"]


@pytest.fixture
def complete_run(hand_written_run):
    run = hand_written_run
    run.add_pairs(["one caption", "another caption"])
    run.add_attributions([[1, 2], [3, 4]], (1, 2))
    run.add_regions(("left", (0, 0, 0.5, 1)))
    run.add_shares("left", [0.3, 0.4])
    run.write_table("ingest_errors", [{"row_number": 2, "stage": "ingest", "reason": "empty_caption"}])
    run.write_table("findings", [{"rule": "region_mass", "region": "left", "n": 2}])
    run.write_table("alerts", [{"alert_id": "x", "region": "left", "pair_ids": ["pair-0000"]}])
    run.write_table(
        "confirmations",
        [{"rule": "region_mass", "region": "left", "fill": fill} for fill in ("mean", "swap")],
    )
    run.write_table("self_audits", [{"kind": "random"}])
    run.write_table("validations", [{"suite": "corpus", "success": True}])
    return run


def test_an_empty_lake_has_every_view_typed_and_without_rows(lake):
    with sql.connect(lake) as connection:
        for view in VIEWS:
            assert count_rows(connection, view) == 0
        for table in sql.query_names("schema"):
            assert sql.rows(connection, "review/alerts", run_id="all") == []
            described = {
                row["column_name"]: row["column_type"] for row in sql.read(connection, f"DESCRIBE stored.{table}")
            }  # fmt: skip
            assert list(described) == sql.schema(table).names
        assert {row["column_name"]: row["column_type"] for row in sql.read(connection, "DESCRIBE pairs")}[
            "attributes"
        ] == "MAP(VARCHAR, VARCHAR)"


def test_a_lake_with_a_run_has_rows_in_every_view(complete_run):
    with complete_run.connect() as connection:
        counts = {view: count_rows(connection, view) for view in VIEWS}
    assert counts == {
        "runs": 1, "pairs": 2, "ingest_errors": 1, "attributions": 2, "tokens": 6, "regions": 1, "region_shares": 2,
        "findings": 1, "alerts": 1, "confirmations": 2, "verdicts": 1, "self_audits": 1, "validations": 1,
    }  # fmt: skip


def test_types_are_the_same_with_and_without_rows(complete_run, tmp_path):
    """A query written against an empty lake works on a full one."""
    (tmp_path / "empty").mkdir()
    with complete_run.connect() as full, sql.connect(tmp_path / "empty") as empty:
        for view in (*VIEWS, "pair_slices", "slice_shares"):
            columns = [
                [(row["column_name"], row["column_type"]) for row in sql.read(connection, f"DESCRIBE {view}")]
                for connection in (full, empty)
            ]
            assert columns[0] == columns[1], view


def test_a_run_shows_its_manifest(complete_run):
    complete_run.finish("stopped", "because")
    with complete_run.connect() as connection:
        (row,) = sql.read(connection, "SELECT * FROM runs")
    assert (row["run_id"], row["status"], row["reason"], row["seed"]) == (complete_run.run_id, "stopped", "because", 0)
    assert (row["corpus_rows"], row["pairs"], row["attributions"]) == (2, 2, 2)
    assert json.loads(row["config"]) == {"a": 2, "b": 1}
    assert row["started_at"].utcoffset().total_seconds() == 0
    assert row["finished_at"] >= row["started_at"]


def test_two_runs_are_read_together_and_missing_columns_are_null(complete_run):
    second = type(complete_run)(complete_run.lake, "20260102T000000-bbbbbb").begin()
    second.add_pairs(["a third"])
    # A file of an earlier release lacks a column of later releases.
    import pyarrow.parquet as pq

    path = second.path("pairs")
    table = pq.read_table(path).drop_columns(["width"])
    pq.write_table(table, path)
    with sql.connect(complete_run.lake) as connection:
        rows = sql.read(connection, "SELECT run_id, width FROM pairs ORDER BY run_id, pair_id")
    assert [row["width"] for row in rows] == [80, 80, None]


def test_a_single_run_can_be_read_if_another_is_damaged(complete_run):
    second = type(complete_run)(complete_run.lake, "20260102T000000-bbbbbb").begin()
    second.add_pairs(["a third"])
    complete_run.path("pairs").unlink()
    with second.connect() as connection:
        assert sql.read(connection, "SELECT caption FROM pairs") == [{"caption": "a third"}]
    with sql.connect(complete_run.lake) as connection:
        assert sql.read(connection, "SELECT caption FROM pairs") == [{"caption": "a third"}]
        assert "is missing or damaged" in sql.list_damage(connection)[complete_run.run_id]


@pytest.mark.parametrize("path", ["../secret.parquet", "/etc/passwd", "runs/other/pairs/part-00000.parquet"])
def test_a_manifest_with_files_of_other_runs_is_an_error(complete_run, path):
    manifest = complete_run.folder / "manifest.json"
    record = json.loads(manifest.read_text())
    record["files"][0]["path"] = path
    manifest.write_text(json.dumps(record))
    with pytest.raises(sql.LakeError, match="outside the folder"):
        complete_run.connect()


def test_values_can_be_serialized_as_json(complete_run):
    with complete_run.connect() as connection:
        (row,) = sql.read(
            connection, "SELECT sum(1::HUGEINT) AS n, 0.5 AS half, 'nan'::DOUBLE AS no, MAP {'a': 1.5} AS m"
        )
    assert row == {"n": 1, "half": 0.5, "no": None, "m": {"a": 1.5}}
    assert isinstance(row["n"], int)


def test_a_missing_lake_is_an_error(tmp_path):
    with pytest.raises(sql.LakeError, match=r"no folder at .*nowhere.*run an audit first"):
        sql.connect(tmp_path / "nowhere")


def test_a_file_instead_of_a_lake_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(sql.LakeError, match="no folder"):
        sql.connect(tmp_path / "file")


def test_a_missing_file_is_named(complete_run):
    complete_run.path("pairs").unlink()
    with pytest.raises(sql.LakeError, match=r"a file of table pairs .*is missing .*part-00000.parquet"):
        sql.connect(complete_run.lake, complete_run.run_id)


@pytest.mark.parametrize("name", ["part-00000", "part-00001"])
@pytest.mark.parametrize("few", [16, 0])
def test_a_damaged_file_is_named(complete_run, monkeypatch, few, name):
    monkeypatch.setattr("sql.tables._FEW_FILES", few)
    complete_run.write_table("pairs", [{"pair_id": "another"}], "part-00001")
    path = complete_run.path("pairs", name)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(sql.LakeError, match=rf"a file of table pairs .*damaged .*{name}.parquet"):
        sql.connect(complete_run.lake, complete_run.run_id)


def test_many_files_of_a_run_are_read_as_few_are(complete_run, monkeypatch):
    complete_run.write_table("pairs", [{"pair_id": "another"}], "part-00001")
    read = []
    for few in (16, 0):
        monkeypatch.setattr("sql.tables._FEW_FILES", few)
        with sql.connect(complete_run.lake) as connection:
            read.append(sql.read(connection, "FROM pairs"))
    assert read[0] == read[1]


def test_memory_is_limited(complete_run):
    with sql.connect(complete_run.lake, threads=2) as connection:
        assert sql.read(connection, "SELECT current_setting('memory_limit') AS n") == [{"n": "384.0 MiB"}]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"run_id": ', "Expecting value"),
        ("", "Expecting value"),
        (b"\xff\xfe", "'utf-8' codec"),
        ("{}", "run_id: Field required; status: Field required; .* more"),
        ("[]", "it: Input should be a valid dictionary"),
        ("null", "it: Input should be a valid dictionary"),
        ('{"seed": NaN}', "it has the number NaN"),
    ],
)
def test_a_damaged_manifest_is_named(complete_run, text, fault):
    path = complete_run.folder / "manifest.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(sql.LakeError, match=rf"manifest .*manifest.json: it is invalid \({fault}"):
        complete_run.connect()


def test_files_that_no_manifest_lists_are_invisible(complete_run):
    """Readers do not see files of an interrupted shard, complete or not."""
    data = complete_run.path("pairs").read_bytes()
    complete_run.path("pairs", "part-00001").write_bytes(data)
    complete_run.path("pairs", "torn").write_bytes(data[: len(data) // 2])
    complete_run.path("pairs", "empty").touch()
    complete_run.path("attributions", "torn").write_bytes(b"PAR1")
    (complete_run.lake / "runs" / "no-manifest").mkdir()
    with complete_run.connect() as connection:
        assert count_rows(connection, "pairs") == 2
        assert count_rows(connection, "attributions") == 2


def test_a_lake_can_have_any_path(tmp_path, run_class):
    folder = tmp_path / 'it\'s "odd" [*] ?; DROP TABLE lake -- $x {0} ünï'
    run = run_class(folder, "r").begin()
    run.write_table("pairs", [{"pair_id": "p"}])
    with sql.connect(folder) as connection:
        assert sql.read(connection, "SELECT pair_id FROM pairs") == [{"pair_id": "p"}]


def test_a_lake_can_have_a_relative_path(complete_run, monkeypatch):
    monkeypatch.chdir(complete_run.lake.parent)
    with sql.connect(complete_run.lake.relative_to(complete_run.lake.parent)) as connection:
        monkeypatch.chdir("/")
        assert count_rows(connection, "pairs") == 2


def test_two_threads_read_one_connection(complete_run):
    """Each query has its own cursor: DuckDB 2 blocks a connection that has an open result."""
    faults = []

    def read(connection):
        try:
            for _ in range(20):
                assert count_rows(connection, "tokens") == 6
                assert len(sql.rows(connection, "gates/corpus", run_id=complete_run.run_id)) == 2
        except Exception as error:  # noqa: BLE001  # reported by the main thread
            faults.append(error)

    with complete_run.connect() as connection:
        threads = [threading.Thread(target=read, args=(connection,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []


def test_a_query_that_exceeds_its_memory_is_completed_on_disk(lake):
    distinct = "SELECT count(*) AS n FROM (SELECT DISTINCT sha256(i::VARCHAR) FROM range(600000) AS numbers(i))"
    with sql.connect(lake, memory="40MB", threads=1) as connection:
        folder = Path(sql.read(connection, "SELECT current_setting('temp_directory') AS folder")[0]["folder"])
        assert folder.parent == stores.scratch_folder()
        assert sql.read(connection, distinct) == [{"n": 600000}]
    assert not folder.exists()


def test_a_view_is_replaced_by_the_rows_of_a_query(complete_run):
    limits = {"run_id": complete_run.run_id, "min_pairs": 10**6}
    with complete_run.connect() as connection:
        before = sorted(sql.rows(connection, "derive/proposing_shares", **limits), key=str)
        sql.materialize(connection, "slice_shares", "derive/proposing_shares", **limits)
        assert sorted(sql.read(connection, "FROM slice_shares"), key=str) == before != []
        assert sql.read(connection, "SELECT count(*) AS n FROM duckdb_views() WHERE view_name = 'slice_shares'") == [
            {"n": 0}
        ]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT count(*) FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal",
        "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'main' AND table_type = 'VIEW'",
    ],
)
def test_all_views_are_listed_although_each_is_defined_when_it_is_used(hand_written_run, text):
    with sql.connect(hand_written_run.lake) as connection:
        assert sql.read(connection, 'SELECT count(*) AS "number" FROM ALERTS') == [{"number": 0}]
        ((number,),) = connection.sql("SELECT count(*) FROM duckdb_views() WHERE schema_name = 'main'").fetchall()
        assert 1 <= number < len(sql.view_names())
        assert [*sql.read(connection, text)[0].values()] == [len(sql.view_names())]


def test_a_view_whose_name_a_query_composes_can_be_read(hand_written_run):
    with sql.connect(hand_written_run.lake) as connection:
        assert sql.read(connection, "SELECT count(*) AS n FROM query_table('ale' || 'rts')") == [{"n": 0}]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT lasting_name('stamp 1', 'r') AS found",  # a macro
        "SELECT count(*)::VARCHAR AS found FROM stored.detections",  # a table without files
        "SELECT max(function_name) AS found FROM duckdb_functions() WHERE function_name = 'moved'",
    ],
)
def test_a_first_query_can_use_what_is_defined_when_it_is_used(complete_run, text):
    with complete_run.connect() as connection:
        (row,) = sql.read(connection, text)
    assert row["found"] in ("stamp 1 of r", "0", "moved")


def test_connecting_defines_no_tables_that_have_no_rows(hand_written_run):
    with hand_written_run.connect() as connection:
        names = connection.sql("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'stored'").fetchall()
    assert {name for (name,) in names} == {"runs", "run_order"}
