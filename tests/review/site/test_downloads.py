"""Reports of the site: what is served, to whom, and what the ledger records."""

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


ORIGIN = "http://127.0.0.1:8765"


@pytest.fixture
def make_client(lake, make_pair):
    """make_client(settings...): a client of a site over a lake with one run."""
    lake.write(lake.begin(RUN), [make_pair(0, "dense shadow")], slice="dense")

    def browser(**settings):
        app = create_app(lake.path, ReviewSettings(**settings))
        return TestClient(app, ORIGIN, headers={"Referer": ORIGIN}, client=("127.0.0.1", 50000))

    return browser


@pytest.mark.parametrize("kind", ["html", "pdf"])
def test_report_equals_that_of_the_command_and_is_recorded(make_client, lake, kind):
    answer = make_client().get(f"/runs/{RUN}/report.{kind}")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="audit-report-{RUN}.{kind}"'
    (record,) = ledger.read_records(lake.path)
    assert record.body["sha256"] == ledger.sha256(answer.content)
    assert record.body["by"] == "review page"
    assert write_report(lake.path, RUN, kind=kind).read_bytes() == answer.content
    if kind == "pdf":
        assert answer.headers["content-type"] == "application/pdf"
        assert RUN in PdfReader(io.BytesIO(answer.content)).pages[0].extract_text()


def test_download_of_an_anonymous_reader_is_not_recorded(make_client, lake):
    assert make_client(allow_anonymous_read=True).get(f"/runs/{RUN}/report.html").status_code == 200
    assert ledger.read_records(lake.path) == []


def test_download_by_a_link_of_another_site_is_refused(make_client, lake, monkeypatch):
    monkeypatch.setattr(downloads, "render_report", lambda document, kind: kind.encode())
    client = make_client()
    # Two formats, as the same report is recorded once.
    for site, kind, records in (
        *(("cross-site", "html", 0), ("same-site", "html", 0)),
        *(("none", "html", 1), ("same-origin", "pdf", 2)),
    ):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
        status = client.get(f"/runs/{RUN}/report.{kind}", headers=headers).status_code
        assert status == (200 if site in ("none", "same-origin") else 403)
        assert len(ledger.read_records(lake.path)) == records, site


def test_unknown_reports_are_not_found(make_client):
    client = make_client()
    for path in (f"{RUN}/report.exe", "nonsense/report.pdf", "..%2f..%2fetc/report.pdf"):
        assert client.get(f"/runs/{path}").status_code == 404, path


def test_report_is_rendered_once_until_the_lake_changes(make_client, lake, make_pair, monkeypatch):
    rendered = []
    monkeypatch.setattr(downloads, "render_report", lambda document, kind: rendered.append(kind) or b"report")
    client = make_client()
    for _ in range(3):
        assert client.get(f"/runs/{RUN}/report.html").content == b"report"
    assert rendered == ["html"]
    lake.write(lake.begin("20260102T000000-bbbbbb"), [make_pair(0)])
    client.get(f"/runs/{RUN}/report.html")
    assert rendered == ["html", "html"]


def test_number_of_concurrent_reports_is_limited(make_client, monkeypatch):
    monkeypatch.setattr(downloads, "_slots", threading.BoundedSemaphore(1))
    monkeypatch.setattr(downloads, "_MAX_WAIT_SECONDS", 0.01)
    with downloads._slots:
        answer = make_client().get(f"/runs/{RUN}/report.html")
    assert answer.status_code == 503
    assert "other reports are being written" in answer.text


def test_report_that_cannot_be_typeset_is_an_error_with_its_reason(make_client, lake, monkeypatch):
    def raise_error(*_, **__):
        raise typst.TypstError("layout did not converge")

    monkeypatch.setattr(typst, "compile", raise_error)
    answer = make_client().get(f"/runs/{RUN}/report.pdf")
    assert answer.status_code == 503
    assert "layout did not converge" in answer.text
    with pytest.raises(ReportError, match="layout did not converge"):
        write_report(lake.path, RUN, kind="pdf")
