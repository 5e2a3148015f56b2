"""The documentation cannot rot: its queries run, its AUDIT.toml is accepted, its links lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest

import sql
from flows.config import parse

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])


def blocks(language):
    for page in PAGES:
        for number, text in enumerate(
            re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        ):
            yield pytest.param(text, id=f"{page.relative_to(ROOT)}:{number}")


def queries():
    for block in blocks("sql"):
        for number, query in enumerate(filter(str.strip, block.values[0].split(";"))):
            yield pytest.param(query, id=f"{block.id}:{number}")
    for block in blocks("sh"):
        for number, query in enumerate(re.findall(r'm2ib-audit sql "(.*?)"', block.values[0], re.DOTALL)):
            yield pytest.param(query, id=f"{block.id}:{number}")


@pytest.mark.parametrize("query", list(queries()))
def test_a_documented_query_runs(query, tmp_path):
    with sql.connect(tmp_path) as connection:
        assert sql.read(connection, query) == []


@pytest.mark.parametrize("text", list(blocks("toml")))
def test_a_documented_audit_is_accepted(text):
    parse(tomllib.loads(text), "documentation")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
