import csv
import io
import os
import re
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from flows import cli
from review.app import create_app

RUN = "20260101T000000-aaaaaa"


class Page(HTMLParser):
    """Tags with their attributes, and the text a reader sees."""

    def __init__(self, html):
        super().__init__()
        self.html, self.tags, self._text = html, [], []
        self.feed(html)
        self.text = " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self._text.append(data)

    def find(self, tag, **wanted):
        return [a for name, a in self.tags if name == tag and all(a.get(k) == v for k, v in wanted.items())]


@pytest.fixture
def client(lake):
    with TestClient(create_app(lake.path), "http://127.0.0.1:8765") as found:
        yield found


@pytest.fixture
def see(client):
    def get(url, status=200):
        answer = client.get(url)
        assert answer.status_code == status, answer.text
        return Page(answer.text)

    return get


@pytest.fixture
def audited(lake, make_pair):
    """A run with three pairs and an alert on the first one's word, another that follows from it."""
    run = lake.begin()
    pairs = [make_pair(0, "dense shadow"), make_pair(1, "clear"), make_pair(2, "dense and clear")]
    lake.write(run, pairs, finish=False)
    lake.alert(
        run,
        [
            {"slice": "dense", "n": 2, "pair_ids": ["pair0000", "pair0002"]},
            {"slice": "shadow", "explained_by": "dense", "effect": 4.0, "pair_ids": ["pair0000"]},
        ],
    )
    run.finish("completed")
    return run


def test_an_empty_lake_says_how_to_fill_it(see):
    assert "m2ib-audit demo" in see("/").text
    assert "No alert fits these filters." in see("/alerts").text


def test_the_overview_names_what_waits_and_how_much_was_covered(audited, see):
    page = see("/")
    assert "The model looks at the top-left corner when the caption says “dense”" in page.text
    assert "tiny/model" in page.text
    assert "Coverage 100% of 3 rows" in page.text
    assert page.find("a", href=f"/runs/{RUN}/alerts/alert0000000")
    assert not page.find("a", href=f"/runs/{RUN}/alerts/alert0000001")  # it follows from the first


def test_alerts_are_filtered_by_the_url(audited, see):
    assert "1 alert" in see("/alerts").text
    assert "2 alerts" in see("/alerts?follow=all").text
    assert "1 alert" in see("/alerts?follow=all&words=SHAD").text
    assert "0 alerts" in see("/alerts?state=confirmed").text
    assert "0 alerts" in see("/alerts?run=another").text
    (chosen,) = see("/alerts?state=suspected").find("option", value="suspected")
    assert "selected" in chosen


def test_alerts_are_sorted_by_their_headings_in_both_directions(audited, see):
    def order(url):
        return re.findall(r"alerts/alert000000(\d)", see(url).html)

    assert order("/alerts?follow=all&sort=effect") == ["0", "1"]
    assert order("/alerts?follow=all&sort=effect&order=up") == ["1", "0"]
    assert order("/alerts?follow=all&sort=slice&order=up") == ["0", "1"]


@pytest.mark.parametrize("url", ["/alerts?sort=pair_ids", "/alerts?page=0", "/alerts?page=²", "/alerts?state=%00"])
def test_a_filter_that_cannot_be_says_what_was_expected(audited, see, url):
    assert "expected" in see(url, 400).text


@pytest.mark.parametrize(
    "url", ["/nothing", "/runs/x/alerts/y", f"/runs/{RUN}/alerts/y", "/runs/..%2f..%2fetc/alerts/y"]
)
def test_what_is_not_there_is_not_found(audited, see, url):
    assert see(url, 404).find("a", href="/")


def test_a_run_that_cannot_be_read_is_named_and_takes_nothing_else_down(audited, lake, make_pair, see):
    run = lake.begin("20260102T000000-bbbbbb")
    lake.write(run, [make_pair(0)], slice="shadow")
    run.path("alerts").unlink()
    page = see("/")
    assert "Run 20260102T000000-bbbbbb cannot be read" in page.text
    assert page.find("a", href=f"/runs/{RUN}/alerts/alert0000000")
    see(f"/runs/{RUN}/alerts/alert0000000")
    assert "are gone" in see("/runs/20260102T000000-bbbbbb/alerts/alert0000000", 503).text
    (run.folder / "manifest.json").write_text("{")
    assert "not JSON" in see("/alerts").text


def test_what_is_written_meanwhile_is_seen(audited, lake, make_pair, see):
    assert "Runs 1" in see("/").text
    lake.write(lake.begin("20260102T000000-bbbbbb"), [make_pair(0)], slice="fresh")
    assert "“fresh”" in see("/").text


def test_a_table_is_taken_along_with_its_filters(audited, client):
    answer = client.get("/alerts?follow=all&sort=effect&format=csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="alerts.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert [row["slice"] for row in rows] == ["dense", "shadow"]
    table = pq.read_table(io.BytesIO(client.get("/alerts?format=parquet").content))
    assert table.column("slice").to_pylist() == ["dense"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_of_a_csv_is_a_formula(lake, make_pair, client, start):
    run = lake.begin()
    lake.write(run, [make_pair(0)], slice=f"{start}cmd|' /c calc'!A0", effect=-2.0)
    rows = list(csv.DictReader(io.StringIO(client.get("/alerts?format=csv").content.decode("utf-8-sig"), newline="")))
    assert rows[0]["slice"] == f"'{start}cmd|' /c calc'!A0"
    assert rows[0]["effect"] == "-2.0"  # a number is one


def test_foreign_text_stays_text(lake, make_pair, see):
    lake.write(lake.begin(), [make_pair(0)], slice='<script>alert("x")</script>', region='"><img src=x onerror=y>')
    for url in ("/", "/alerts", f"/runs/{RUN}/alerts/alert0000000"):
        page = see(url)
        assert [script["src"] for script in page.find("script")] == ["/static/theme.js", "/static/page.js"]
        assert not page.find("img", src="x")
        assert '<script>alert("x")</script>' in page.text


def test_the_command_says_where_the_page_is(audited, lake):
    command = [sys.executable, "-m", "flows.cli", "review", "--lake", str(lake.path), "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)  # noqa: S603  # this interpreter
    try:
        said = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", said)[0]
        with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310  # loopback
            assert "Overview" in answer.read().decode()
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_no_lake_is_said_before_anything_listens(tmp_path):
    done = CliRunner().invoke(cli.app, ["review", "--lake", str(tmp_path / "none"), "--no-browser"])
    assert done.exit_code == 2
    assert "no folder at" in done.stderr
