import re
from pathlib import Path

import sql
from review.presentation.glossary import load_glossary, reader_terms, to_markdown

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_rendered_from_the_source():
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert page == to_markdown(), "run: python -m review.presentation.glossary > docs/glossary.md"


def test_terms_are_unique_and_some_are_for_readers():
    names = [term.name for terms in load_glossary().values() for term in terms]
    assert len(names) == len(set(names))
    assert {"attribution", "margin", "confirmed", "suspected"} <= {term.name for term in reader_terms()}


def test_stored_tables_and_columns_exist(tmp_path):
    with sql.connect(tmp_path) as connection:
        columns = {
            (row["table_name"], row["column_name"])
            for row in sql.read(connection, "SELECT table_name, column_name FROM information_schema.columns")
        }
    tables = {table for table, _ in columns}
    checked = 0
    for term in (term for terms in load_glossary().values() for term in terms if term.stored):
        for table, column in re.findall(r"\b([a-z_]+)\.([a-z_0-9]+)\b", term.stored):
            if table in tables:
                assert (table, column) in columns, term.name
                checked += 1
    assert checked > 20
