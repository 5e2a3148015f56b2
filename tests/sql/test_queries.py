"""The SQL text itself: every file parses, says what it returns, and runs on an empty lake."""

import re

import duckdb
import pyarrow as pa
import pytest

import sql

FOLDERS = ("schema", "macros", "views", "derive", "gates", "rules", "review", "kept")
QUERIES = [f"{folder}/{name}" for folder in FOLDERS for name in sql.query_names(folder)]
DEFINITIONS = ("schema/", "macros/", "views/")
# What a query is given when only its form matters.
PARAMETERS = {
    "run_id": "r", "factor": 2.0, "min_pairs": 1, "limit": 1, "examples": 1, "region": "g", "slice_kind": "word",
    "slice": "s", "pair_ids": ["p"], "seed": 0, "regions": [], "slice_kinds": [], "slices": [],
    "previous": "q", "names": [], "lasting": [], "rules": [], "digests": [], "since": "2026-01-01T00:00:00Z",
    "failed_rules": [], "failed_detectors": [], "alert_id": "a", "life_id": "l", "newest": [],
    "audit": "all", "status": "any", "offset": 0, "model": "m", "corpus": "c", "rule": "r", "severity": "high",
    "state": "confirmed", "life": "new", "decision": "open",
    "low_share": 0.0, "high_share": 1.0, "low_cosine": 0.0, "high_cosine": 1.0, "failed": False, "after": 0.0,
    "after_id": "p", "pair_id": "p", "left": "l", "right": "r", "stage": "ingest", "reason": "r",
    "alone": True, "words": "w", "sort": "effect", "upwards": False,
}  # fmt: skip


def header(text):
    """The comment lines at the top of a query, as one text."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    return " ".join(lines)


def parameters(text):
    """Names of the parameters in a query's code."""
    code = "\n".join(line.split("--")[0] for line in text.splitlines())
    return set(re.findall(r"\$([a-z_]+)", code))


def test_every_folder_has_queries():
    assert set(FOLDERS) == {query.split("/")[0] for query in QUERIES}
    assert {*sql.TABLES, *sql.LEDGER_TABLES, "runs"} == set(sql.query_names("schema"))


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_is_one_statement(name):
    with duckdb.connect() as connection:
        statements = connection.extract_statements(sql.query_text(name))
    assert len(statements) == 1
    kind = "CREATE" if name.startswith(DEFINITIONS) else "SELECT"
    assert statements[0].type.name == kind


@pytest.mark.parametrize("name", [query for query in QUERIES if not query.startswith(DEFINITIONS)])
def test_a_query_states_its_grain_and_its_parameters(name):
    text = sql.query_text(name)
    said = header(text)
    assert "Grain: " in said
    listed = re.search(r"Parameters: ([^.]*)\.", said)
    assert listed
    assert set(re.findall(r"\$([a-z_]+)", listed.group(1))) == parameters(text)
    assert ("none" in listed.group(1)) == (not parameters(text))


@pytest.mark.parametrize("name", [query for query in QUERIES if not query.startswith(DEFINITIONS)])
def test_a_query_runs_on_an_empty_lake(name, lake):
    wanted = {key: PARAMETERS[key] for key in parameters(sql.query_text(name))}
    with sql.connect(lake) as connection:
        assert [row for row in sql.rows(connection, name, **wanted) if any(row.values())] == []  # sums of nothing are 0


@pytest.mark.parametrize("name", [query for query in QUERIES if query.startswith("schema/")])
def test_a_schema_says_what_a_row_is(name):
    assert "One row " in header(sql.query_text(name))


@pytest.mark.parametrize("name", [query for query in QUERIES if query.startswith("views/")])
def test_a_view_bears_the_name_of_its_file_and_says_what_it_adds(name):
    text, view = sql.query_text(name), name.split("/")[1]
    plain = f"CREATE VIEW {view} AS SELECT * FROM stored.{view};"  # noqa: S608  # compared, not run
    assert text.strip() == plain or (header(text) and f"CREATE VIEW {view} AS" in text)
    assert not parameters(text)


@pytest.mark.parametrize("name", [query for query in QUERIES if query.startswith("macros/")])
def test_a_macro_bears_the_name_of_its_file_and_says_what_it_does(name):
    assert header(sql.query_text(name))
    assert f"CREATE MACRO {name.split('/')[1]}(" in sql.query_text(name)


def test_a_digest_is_that_of_the_text():
    assert sql.query_digest("rules/region_mass") != sql.query_digest("gates/corpus")
    assert re.fullmatch("[0-9a-f]{64}", sql.query_digest("rules/region_mass"))


def test_schemas_have_the_types_of_their_definition():
    assert sql.schema("attributions").field("image_map").type == pa.list_(pa.float32())
    assert sql.schema("alerts").field("raised_at").type == pa.timestamp("us", tz="UTC")
    assert sql.schema("pairs").field("attributes").type == pa.map_(pa.string(), pa.string())


def test_conform_fills_what_is_left_out_and_refuses_other_types():
    table = sql.conform("pairs", [{"pair_id": "p", "width": 3, "attributes": [("site", "a")], "unknown": 1}])
    assert table.schema == sql.schema("pairs")
    assert table.to_pylist()[0]["caption"] is None
    assert table.to_pylist()[0]["attributes"] == [("site", "a")]
    with pytest.raises(pa.ArrowInvalid):
        sql.conform("pairs", [{"width": "wide"}])
    assert sql.conform("pairs", []).num_rows == 0
