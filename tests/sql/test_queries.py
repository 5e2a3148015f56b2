"""The SQL files: each parses, states what it returns, and runs on an empty lake."""

import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import sql
from sql.lake import LEDGER_TABLES
from sql.tables import TABLES

FOLDERS = ("schema", "macros", "views", "derive", "gates", "rules", "review", "retention", "erasure")
DEFINITIONS = ("schema", "macros", "views")
# What a query is given when only its form matters.
PARAMETERS = {
    "run_id": "r", "factor": 2.0, "min_pairs": 1, "limit": 1, "examples": 1, "region": "g", "slice_kind": "word",
    "slice": "s", "pair_ids": ["p"], "seed": 0, "fresh": False, "regions": [], "slice_kinds": [], "slices": [],
    "sides": [], "places": [], "exclusives": [], "shares": [], "areas": [], "effects": [],
    "previous": "q", "names": [], "lasting": [], "rules": [], "digests": [], "since": "2026-01-01T00:00:00Z",
    "failed_rules": [], "failed_detectors": [], "same_settings": [], "alert_id": "a", "life_id": "l", "newest": [],
    "erased": [],
    "audit": "all", "status": "any", "offset": 0, "model": "m", "corpus": "c", "rule": "r", "severity": "high",
    "state": "confirmed", "life": "new", "decision": "open",
    "low_share": 0.0, "high_share": 1.0, "low_cosine": 0.0, "high_cosine": 1.0, "failed": False, "after": 0.0,
    "after_id": "p", "pair_id": "p", "left": "l", "right": "r", "stage": "ingest", "reason": "r",
    "recipient": "r", "alone": True, "words": "w", "sort": "effect", "upwards": False, "inside": True, "compared": True,
    "has_region": True,
    "number": 0, "units": ["u"], "fewest": 1, "concepts": [],
}  # fmt: skip


def read_header(text):
    """Return the comment lines at the top of a query as one text."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line.removeprefix("--").strip())
    return " ".join(lines)


def list_parameters(text):
    """Return the names of the parameters in the code of a query."""
    code = "\n".join(line.split("--")[0] for line in text.splitlines())
    return set(re.findall(r"\$([a-z_]+)", code))


def test_every_folder_has_queries():
    assert all(sql.query_names(folder) for folder in FOLDERS)
    assert {*TABLES, *LEDGER_TABLES, "runs", "run_order"} == set(sql.query_names("schema"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_one_definition_with_a_header(folder):
    with duckdb.connect() as connection:
        for name in sql.query_names(folder):
            text = sql.query_text(f"{folder}/{name}")
            kinds = [statement.type.name for statement in connection.extract_statements(text)]
            assert set(kinds) == {"CREATE" if folder in DEFINITIONS else "SELECT"}, name
            assert len(kinds) == 1 or folder == "macros", name  # a macro and those that it needs
            assert read_header(text), name
            if folder in DEFINITIONS:
                kind = {"schema": "TABLE", "views": "VIEW", "macros": "MACRO"}[folder]
                assert re.search(rf"^CREATE {kind} {name}\b", text, re.MULTILINE), name
                assert not list_parameters(text), name
            if folder in ("schema", "views"):
                assert read_header(text).startswith("One row per "), name


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder not in DEFINITIONS])
def test_a_query_states_its_grain_and_its_parameters(folder):
    for name in sql.query_names(folder):
        text = sql.query_text(f"{folder}/{name}")
        assert "Grain: " in read_header(text), name
        listed = re.search(r"Parameters: ([^.]*)\.", read_header(text))
        assert listed, name
        assert set(re.findall(r"\$([a-z_]+)", listed.group(1))) == list_parameters(text), name
        assert ("none" in listed.group(1)) == (not list_parameters(text)), name


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    with sql.connect(tmp_path_factory.mktemp("lake")) as connection:
        yield connection


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder not in DEFINITIONS])
def test_every_query_runs_on_an_empty_lake(connection, folder):
    for name in sql.query_names(folder):
        values = {key: PARAMETERS[key] for key in list_parameters(sql.query_text(f"{folder}/{name}"))}
        rows = sql.rows(connection, f"{folder}/{name}", **values)
        assert [row for row in rows if any(row.values())] == [], name  # sums without rows are 0


def test_a_digest_is_that_of_the_text():
    assert sql.text_digest(sql.query_text("rules/region_mass")) != sql.text_digest(sql.query_text("gates/corpus"))
    assert re.fullmatch("[0-9a-f]{64}", sql.text_digest(sql.query_text("rules/region_mass")))


def test_schemas_have_the_types_of_their_definition():
    assert sql.schema("attributions").field("image_map").type == pa.list_(pa.float32())
    assert sql.schema("alerts").field("raised_at").type == pa.timestamp("us", tz="UTC")
    assert sql.schema("pairs").field("attributes").type == pa.map_(pa.string(), pa.string())


def test_conform_columns_equals_conform():
    rows = [
        {"pair_id": "p", "width": 3, "attributes": [("site", "a")]},
        {"pair_id": None, "width": 4, "attributes": []},
    ]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    assert sql.conform_columns("pairs", columns).equals(sql.conform("pairs", rows), check_metadata=True)
    assert sql.conform_columns("pairs", {"width": []}).equals(sql.conform("pairs", []))
    with pytest.raises(pa.ArrowInvalid):
        sql.conform_columns("pairs", {"width": ["wide"]})


def test_conform_adds_missing_columns_and_rejects_other_types():
    table = sql.conform("pairs", [{"pair_id": "p", "width": 3, "attributes": [("site", "a")], "unknown": 1}])
    assert table.schema == sql.schema("pairs")
    assert table.to_pylist()[0]["caption"] is None
    assert table.to_pylist()[0]["attributes"] == [("site", "a")]
    with pytest.raises(pa.ArrowInvalid):
        sql.conform("pairs", [{"width": "wide"}])
    assert sql.conform("pairs", []).num_rows == 0


def test_the_documentation_describes_every_view_with_its_columns(connection):
    page = (Path(sql.__file__).parents[1] / "docs" / "sql.md").read_text(encoding="utf-8")
    reference, deprecated = page.split("## Deprecated names")
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", reference, re.MULTILINE | re.DOTALL))
    old_names = set(re.findall(r"^\| `(\w+)`", deprecated, re.MULTILINE))
    assert {*sections, *old_names} == set(sql.view_names())
    for view, section in sections.items():
        columns = sql.read_table(connection, f"SELECT * FROM {view} LIMIT 0").column_names
        assert re.findall(r"^- `(\w+)`", section, re.MULTILINE) == columns
        assert "```sql\n" in section, view  # tests/test_docs.py runs it
