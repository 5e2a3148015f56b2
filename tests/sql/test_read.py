"""Queries of users can read the lake and nothing else."""

import uuid

import duckdb
import pytest
from upath import UPath

import sql

REFUSED = (
    "COPY (SELECT 1) TO '{lake}/out.csv'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/out.csv'",
    "EXPLAIN ANALYZE INSERT INTO stored.runs BY NAME SELECT 'x' AS run_id",
    "WITH gone AS (DELETE FROM stored.runs RETURNING *) SELECT * FROM gone",
    "WITH new AS (INSERT INTO stored.runs BY NAME SELECT 'x' AS run_id RETURNING *) SELECT * FROM new",
    "WITH new AS (UPDATE stored.runs SET status = 'completed' RETURNING *) SELECT * FROM new",
    "INSERT INTO stored.runs BY NAME SELECT 'x' AS run_id",
    "DELETE FROM stored.runs",
    "UPDATE stored.runs SET status = 'completed'",
    "CREATE TABLE mine (a INTEGER)",
    "CREATE OR REPLACE VIEW alerts AS SELECT 1",
    "DROP VIEW alerts",
    "ATTACH '{lake}/x.duckdb' AS x",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "RESET lock_configuration",
    "PRAGMA enable_profiling",
    "CALL duckdb_tables()",
    "EXPORT DATABASE '{lake}/x'",
    "IMPORT DATABASE '{lake}/x'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "BEGIN TRANSACTION",
    "PREPARE x AS SELECT 1",
    "VACUUM",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW alerts",
    "",
    "   -- nothing",
    "SELEC 1",
    "SELECT * FROM no_such_view",
    "SELECT no_such_column FROM runs",
)
OUTSIDE = (
    "SELECT * FROM read_csv('{outside}/secret.csv')",
    "SELECT * FROM '{outside}/secret.csv'",
    "SELECT * FROM '{lake}/../secret.csv'",
    "SELECT * FROM '{lake} 2/secret.csv'",
    "SELECT * FROM read_text('{outside}/secret.csv')",
    "SELECT * FROM read_blob('{outside}/secret.csv')",
    "SELECT * FROM glob('{outside}/*')",
    "SELECT * FROM sniff_csv('{outside}/secret.csv')",
    "SELECT * FROM read_parquet('{outside}/*.parquet')",
    "SELECT * FROM 'https://example.invalid/x.parquet'",
    "SELECT getenv('HOME')",
    "SELECT * FROM python_secret",
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A lake with a file next to it, and one in a folder whose name starts with that of the lake."""
    folder = tmp_path_factory.mktemp("read") / "the reader's lake"
    for place in (folder, folder.with_name(f"{folder.name} 2")):
        place.mkdir()
    for place in (folder.parent, folder.with_name(f"{folder.name} 2")):
        (place / "secret.csv").write_text("a,b\n1,2\n")
    return folder


@pytest.fixture(scope="module", params=["local", "remote"])
def connection(request, lake, run_class):
    """A connection to a run in the local lake, or to one in object storage."""
    root = lake if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}")
    run = run_class(root, "20260101T000000-aaaaaa").begin()
    run.add_pairs(["a caption", "it's another"])
    with run.connect() as opened:
        yield opened


def fill_in(text, lake):
    quoted = str(lake).replace("'", "''")
    return text.replace("{lake}", quoted).replace("{outside}", str(lake.parent).replace("'", "''"))


def read_files(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "FROM pairs",
        "WITH x AS (SELECT 1 AS a) SELECT a FROM x;",
        "-- a comment\nSELECT count(*) FROM tokens",
        "VALUES (1), (2)",
        "SHOW TABLES",
        "DESCRIBE pairs",
        "SUMMARIZE runs",
        "SELECT 1 UNION ALL SELECT 2",
    ],
)
def test_read_only_queries_return_rows(connection, text):
    assert sql.read(connection, text)


def test_rows_are_dictionaries_of_plain_values(connection):
    assert sql.read(connection, "SELECT pair_id, width FROM pairs ORDER BY pair_id LIMIT 1") == [
        {"pair_id": "pair-0000", "width": 80}
    ]


def test_repeated_column_names_are_numbered(connection):
    (row,) = sql.read(connection, "SELECT 1 AS a, 2 AS a, 3 AS a")
    assert row == {"a": 1, "a_2": 2, "a_3": 3}


def test_parameters_are_values_and_never_text(connection):
    query = "SELECT pair_id FROM pairs WHERE caption = $caption"
    assert sql.read(connection, query, {"caption": "it's another"}) == [{"pair_id": "pair-0001"}]
    assert sql.read(connection, query, {"caption": "' OR 1 = 1 --"}) == []
    with pytest.raises(sql.QueryError):
        sql.read(connection, query)


def test_intervals_are_hours_minutes_and_seconds(connection):
    query = """
        SELECT TIMESTAMP '2026-01-03 01:02:03.6' - TIMESTAMP '2026-01-01' AS a, INTERVAL '-5 seconds' AS b,
            INTERVAL '14 months 1 hour' AS c, NULL::INTERVAL AS d, INTERVAL '0 s' AS a
    """
    expected = {"a": "49:02:04", "b": "-0:00:05", "c": "14 months 1:00:00", "d": None, "a_2": "0:00:00"}
    assert sql.read(connection, query) == [expected]
    assert sql.read_table(connection, query).column("b").to_pylist() == ["-0:00:05"]


@pytest.mark.parametrize("text", REFUSED)
def test_statements_that_are_not_read_only_are_rejected(connection, lake, text):
    before = read_files(lake)
    with pytest.raises(sql.QueryError, match="query: "):
        sql.read(connection, fill_in(text, lake))
    assert read_files(lake) == before
    # The views and files are unchanged.
    assert [row["run_id"] for row in sql.read(connection, "SELECT run_id FROM runs WHERE status = 'running'")]
    assert sql.read(connection, "SELECT count(*) AS n FROM alerts") == [{"n": 0}]


@pytest.mark.parametrize("text", OUTSIDE)
def test_nothing_outside_the_lake_is_read(connection, lake, text):
    python_secret = sql.conform("pairs", [{"caption": "a variable of Python"}])
    assert python_secret.num_rows == 1
    with pytest.raises(sql.QueryError):
        sql.read(connection, fill_in(text, lake))


def test_views_can_be_read_after_a_rejected_query(connection):
    for text in ("SELECT * FROM '/etc/hostname'", "DROP VIEW pairs", "SELECT 1 / 'a'"):
        with pytest.raises(sql.QueryError):
            sql.read(connection, text)
        assert len(sql.read(connection, "FROM pairs")) == 2


def test_configuration_of_the_connection_is_locked(connection):
    """A second protection, in case a statement is classified as read-only by mistake."""
    for setting in ("threads = 1", "enable_external_access = true", "allowed_directories = ['/']"):
        with pytest.raises(duckdb.Error, match=r"locked|external access"):
            connection.cursor().execute(f"SET {setting}")
