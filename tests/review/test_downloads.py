"""The report from the page: what is served, to whom, and what the ledger knows of it then."""

import io

import pytest
from pypdf import PdfReader
from starlette.testclient import TestClient

from review.app import create_app
from review.report import write_report
from review.settings import ReviewSettings
from stores import ledger

RUN = "20260101T000000-aaaaaa"


@pytest.fixture
def served(lake, make_pair):
    """served(settings...): a browser on the page over a run."""
    lake.write(lake.begin(RUN), [make_pair(0, "dense shadow")], slice="dense")

    def browser(**settings):
        return TestClient(
            create_app(lake.path, ReviewSettings(**settings)), "http://127.0.0.1:8765", client=("127.0.0.1", 50000)
        )

    return browser


@pytest.mark.parametrize("kind", ["html", "pdf"])
def test_the_report_is_the_one_that_the_command_writes_and_is_noted(served, lake, kind):
    answer = served().get(f"/runs/{RUN}/report.{kind}")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="audit-report-{RUN}.{kind}"'
    (record,) = ledger.records(lake.path)
    assert record.body["sha256"] == ledger.sha256(answer.content)
    assert record.body["by"] == "review page"
    assert write_report(lake.path, RUN, kind=kind).read_bytes() == answer.content
    if kind == "pdf":
        assert answer.headers["content-type"] == "application/pdf"
        assert RUN in PdfReader(io.BytesIO(answer.content)).pages[0].extract_text()


def test_who_may_only_read_leaves_no_record(served, lake):
    assert served(allow_anonymous_read=True).get(f"/runs/{RUN}/report.html").status_code == 200
    assert ledger.records(lake.path) == []


@pytest.mark.parametrize(("site", "records"), [("cross-site", 0), ("same-site", 0), ("none", 1), ("same-origin", 1)])
def test_a_link_on_a_foreign_page_leaves_no_record(served, lake, site, records):
    told = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert served().get(f"/runs/{RUN}/report.html", headers=told).status_code == 200
    assert len(ledger.records(lake.path)) == records


@pytest.mark.parametrize("path", [f"{RUN}/report.exe", "nonsense/report.pdf", "..%2f..%2fetc/report.pdf"])
def test_what_is_not_there_is_not_found(served, path):
    assert served().get(f"/runs/{path}").status_code == 404
