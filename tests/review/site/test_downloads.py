"""The report from the page: what is served, to whom, and what the ledger knows of it then."""

import io
import threading

import pytest
import typst
from pypdf import PdfReader
from starlette.testclient import TestClient

from review.report.html import ReportError, write_report
from review.site.app import create_app
from review.site.pages import downloads
from review.site.settings import ReviewSettings
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
    (record,) = ledger.read_records(lake.path)
    assert record.body["sha256"] == ledger.sha256(answer.content)
    assert record.body["by"] == "review page"
    assert write_report(lake.path, RUN, kind=kind).read_bytes() == answer.content
    if kind == "pdf":
        assert answer.headers["content-type"] == "application/pdf"
        assert RUN in PdfReader(io.BytesIO(answer.content)).pages[0].extract_text()


def test_who_may_only_read_leaves_no_record(served, lake):
    assert served(allow_anonymous_read=True).get(f"/runs/{RUN}/report.html").status_code == 200
    assert ledger.read_records(lake.path) == []


def test_a_link_on_another_site_leaves_no_record(served, lake, monkeypatch):
    monkeypatch.setattr(downloads, "render_report", lambda document, kind: kind.encode())
    client = served()
    # Two formats, as the same report is recorded once.
    for site, kind, records in (
        *(("cross-site", "html", 0), ("same-site", "html", 0)),
        *(("none", "html", 1), ("same-origin", "pdf", 2)),
    ):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
        assert client.get(f"/runs/{RUN}/report.{kind}", headers=headers).status_code == 200
        assert len(ledger.read_records(lake.path)) == records, site


def test_unknown_reports_are_not_found(served):
    client = served()
    for path in (f"{RUN}/report.exe", "nonsense/report.pdf", "..%2f..%2fetc/report.pdf"):
        assert client.get(f"/runs/{path}").status_code == 404, path


def test_a_report_is_made_once_until_something_is_written(served, lake, make_pair, monkeypatch):
    made = []
    monkeypatch.setattr(downloads, "render_report", lambda told, kind: made.append(kind) or b"report")
    client = served()
    for _ in range(3):
        assert client.get(f"/runs/{RUN}/report.html").content == b"report"
    assert made == ["html"]
    lake.write(lake.begin("20260102T000000-bbbbbb"), [make_pair(0)])
    client.get(f"/runs/{RUN}/report.html")
    assert made == ["html", "html"]


def test_two_reports_are_made_at_a_time(served, monkeypatch):
    monkeypatch.setattr(downloads, "_slots", threading.BoundedSemaphore(1))
    monkeypatch.setattr(downloads, "_MAX_WAIT_SECONDS", 0.01)
    with downloads._slots:
        answer = served().get(f"/runs/{RUN}/report.html")
    assert answer.status_code == 503
    assert "other reports are being written" in answer.text


def test_a_report_that_cannot_be_typeset_says_why(served, lake, monkeypatch):
    def broken(*_, **__):
        raise typst.TypstError("layout did not converge")

    monkeypatch.setattr(typst, "compile", broken)
    answer = served().get(f"/runs/{RUN}/report.pdf")
    assert answer.status_code == 503
    assert "layout did not converge" in answer.text
    with pytest.raises(ReportError, match="layout did not converge"):
        write_report(lake.path, RUN, kind="pdf")
