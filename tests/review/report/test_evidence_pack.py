"""The report as evidence: scope, decisions and signatures, and the same text in HTML and PDF."""

import io
import re
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
import pytest
from pypdf import PdfReader

import sql
from review.evidence.decisions import Reviewer, countersign, decide, sign_off
from review.report import blocks
from review.report.chapters import build_document
from review.report.facts import load_facts
from review.report.html import ReportError, load_document, render_report, write_report
from review.report.pdf import render_pdf
from review.report.requirements import REQUIREMENTS
from stores import ledger

RUN = "20260101T000000-aaaaaa"
ADA = Reviewer("Ada Okafor", "radiologist", "declared")
JO = Reviewer("José Müller", "head of quality", "password")


def squeezed(text):
    """Text without white space and without what only breaks lines or turns directions."""
    kept = (mark for mark in unicodedata.normalize("NFC", text) if unicodedata.category(mark) not in ("Cf", "Zs", "Cc"))
    return "".join(kept)


def html_text(told):
    page = render_report(told, "html").decode()
    body = re.sub(r"<style>.*?</style>|<[^>]*>", "", page, flags=re.DOTALL)
    for code, mark in (("&lt;", "<"), ("&gt;", ">"), ("&#34;", '"'), ("&#39;", "'"), ("&amp;", "&")):
        body = body.replace(code, mark)
    return squeezed(body)


def pdf_of(told):
    return PdfReader(io.BytesIO(render_report(told, "pdf")))


def pdf_text(told):
    pages = [page.extract_text() for page in pdf_of(told).pages]
    return squeezed("".join(re.sub(r"run \S+ · manifest sha256 \S+\s*Page \d+ of \d+", "", page) for page in pages))


@pytest.fixture
def judged(lake, make_pair):
    """A run with a confirmed alert, one that follows from it, one of a phrase, gates that failed, and error rows."""
    pairs = [make_pair(0, "dense shadow"), make_pair(1, "clear"), make_pair(2, "dense shadow on the left")]
    run = lake.write(lake.begin(RUN), pairs, finish=False)
    lake.alert(
        run,
        [
            {"slice": "dense", "state": "confirmed", "severity": "high", "pair_ids": ["pair0000", "pair0002"]},
            {"slice": "shadow", "explained_by": "dense", "pair_ids": ["pair0000"]},
            {
                "slice": "dense",
                "side": "text",
                "rule": "phrase_mass",
                "region": '"on the left"',
                "pair_ids": ["pair0002"],
            },
        ],
    )
    about = {"rule": "region_mass", "region": "corner top-left", "slice_kind": "word", "slice": "dense"}
    figures = {
        "n": 64, "margin": 0.5, "drop": 0.31, "control_drop": 0.01, "low": 0.2, "high": 0.4, "p": 1e-9, "q": 1e-8,
        "tests": 12, "floor": 0.05, "passed": True, "confirmed": True, "effect": 0.3,
    }  # fmt: skip
    run.write_table("confirmations", [{**about, **figures, "fill": fill} for fill in ("mean", "blur", "swap")])
    check = {"suite": "corpus", "suite_digest": "e5" * 32, "severity": "warning", "expectation": "ExpectSense"}
    run.write_table("validations", [check | {"success": True}, check | {"success": False, "detail": '{"min": 1}'}])
    row = {
        "row_number": 7,
        "stage": "ingest",
        "file_name": "lost.png",
        "reason": "missing_image",
        "detail": "no such file",
    }
    run.write_table("ingest_errors", [row])
    run.finish("completed")
    return run


def alert_ids(run):
    with run.connect() as connection:
        found = sql.read(connection, "SELECT alert_id FROM alerts WHERE explained_by IS NULL ORDER BY side")
    return [row["alert_id"] for row in found]


def test_html_and_pdf_have_the_same_text(lake, judged):
    first, phrase = alert_ids(judged)
    decide(lake.path, ADA, RUN, first, "benign", "Looked at it.", "review")
    record = decide(lake.path, ADA, RUN, first, "confirmed", "The tag is burnt in.", "review", four_eyes=True)
    countersign(lake.path, JO, record.number, "approval", "So it is.")
    decide(lake.path, ADA, RUN, phrase, "needs_data", "More of them.", "review")
    sign_off(lake.path, JO, RUN, "approval", "Not for use.", four_eyes=True)
    told = load_document(lake.path, RUN)
    shown = {"HTML": html_text(told), "PDF": pdf_text(told)}
    said = [
        text for text in blocks.visible_strings(told) if text.strip() and text != told.footer
    ]  # which stands on each page
    assert len(said) > 300
    for where, text in shown.items():
        missing = [each for each in said if squeezed(each) not in text]
        assert missing == [], where


def test_decisions_and_sign_offs_have_name_time_and_meaning(lake, judged):
    first, _ = alert_ids(judged)
    record = decide(lake.path, ADA, RUN, first, "confirmed", "The tag is burnt in.", "review")
    signed = sign_off(lake.path, JO, RUN, "approval", "Not for use before it was trained anew.")
    told = load_document(lake.path, RUN)
    for text in (html_text(told), pdf_text(told)):
        for record_, who in ((record, ADA), (signed, JO)):
            assert (
                squeezed(f"Printed name {who.name} Role {who.role} Date and time {record_.time:%Y-%m-%d %H:%M:%S} UTC")
                in text
            )
        assert squeezed("Reason The tag is burnt in.") in text
        assert squeezed("Meaning review: examined the evidence") in text
        assert (
            squeezed("Meaning approval: approves the decision Identity signed in with a password Statement Not for use")
            in text
        )
        assert squeezed("Identity declared, not verified") in text
        assert squeezed(f"record {signed.number} of the ledger") in text
        assert squeezed(f"sha256 {signed.sha256}") in text
        assert squeezed("Alerts when signed 1 open") in text


def test_undecided_alerts_are_listed_with_reasons(lake, judged):
    first, phrase = alert_ids(judged)
    assert "Nobody has signed this run off" in render_report(load_document(lake.path, RUN), "html").decode()
    decide(lake.path, ADA, RUN, first, "benign", "Fine.", "review", four_eyes=True)
    decide(lake.path, ADA, RUN, phrase, "needs_data", "More.", "review")
    text = html_text(load_document(lake.path, RUN))
    assert squeezed("in pairs whose caption contains “dense”: a second person has to countersign record 1.") in text
    assert squeezed(": Ada Okafor requested more data.") in text
    assert squeezed("Decisions 0 of 2 independent alerts decided") in text
    assert squeezed("Waivers are evaluated") not in text
    countersign(lake.path, JO, 1, "approval")
    decide(
        lake.path, JO, RUN, phrase, "waived", "Boilerplate.", "review", until=datetime(2999, 1, 1, tzinfo=UTC).date()
    )
    text = html_text(load_document(lake.path, RUN))
    assert squeezed("None: every independent alert is decided.") in text
    assert squeezed("1 earlier decision, no longer in force") in text
    assert squeezed("Waived until 2999-01-01, inclusive") in text
    assert squeezed(f"Waivers are evaluated for {datetime.now(UTC).date()} (UTC); they may expire") in text


def lives_of(run):
    with run.connect() as connection:
        return sql.read(connection, "SELECT * EXCLUDE (run_id) FROM lives ORDER BY side, explained_by IS NOT NULL")


def test_a_decision_of_an_earlier_run_is_in_force_until_the_evidence_changes(lake, judged, make_pair):
    first, _ = alert_ids(judged)
    decide(lake.path, ADA, RUN, first, "confirmed", "The tag.", "review")
    life = {**lives_of(judged)[0], "life": "still_firing", "alert_id": "alert0000000", "runs": 2}
    raised = {"slice": "dense", "state": "confirmed", "severity": "high"}
    for run_id, effect in (("20260102T000000-bbbbbb", 0.31), ("20260103T000000-cccccc", 3.0)):
        run = lake.write(lake.begin(run_id), [make_pair(0, "dense shadow")], finish=False, **raised)
        run.write_table("lives", [{**life, "score_effect": effect}])
        run.finish("completed")
    text = html_text(load_document(lake.path, "20260102T000000-bbbbbb"))
    assert squeezed("confirmed, carried over") in text
    assert squeezed(f"Reviewed run {RUN}; carried over to this run") in text
    assert squeezed("Still firing: first seen") in text
    text = html_text(load_document(lake.path, "20260103T000000-cccccc"))
    assert (
        squeezed("open again, because the evidence has changed: its effect is 3.000, was judged at 0.200 to 0.400")
        in text
    )
    assert squeezed("Recorded decision confirmed: the model relies on this and should not") in text
    (lake.path / judged.relative_path("alerts")).unlink()  # what befell another run
    text = html_text(load_document(lake.path, "20260102T000000-bbbbbb"))
    assert squeezed("Other runs of this audit could not be read") in text


def test_scope_lists_sampling_errors_and_digests(lake, judged):
    judged.update(counts={"corpus_rows": 10, "not_sampled": 6, "errors": 1})
    text = html_text(load_document(lake.path, RUN))
    assert squeezed("Not sampled 6 rows; this report says nothing about them") in text
    assert squeezed("Error rows 1: missing_image 1") in text
    for digest in ("a1" * 32, "b2" * 32, "c3" * 32, "d4" * 32, "e5" * 32):
        assert f"sha256{digest}" in text


def test_a_reflagged_run_does_not_claim_that_its_thresholds_came_first(lake, judged):
    assert "which were known" not in str(load_document(lake.path, RUN))
    judged.update(reflags="20251231T000000-999999")
    assert "which were known when its settings were chosen" in str(load_document(lake.path, RUN))


def test_missing_alerts_are_listed(lake, judged, make_pair):
    row = {
        "life_id": "gone", "life": "resolved", "why": "its rule no longer raises it", "announced": True,
        "rule": "region_mass", "side": "image", "region": "frame", "slice_kind": "word", "slice": "film",
        "state": "confirmed", "first_run": "a", "last_run": "a", "last_seen": datetime(2025, 12, 31, tzinfo=UTC),
    }  # fmt: skip
    judged.write_table("lives", [row])
    text = html_text(load_document(lake.path, RUN))
    assert squeezed("resolved frame word “film” confirmed 2025-12-31 00:00:00 UTC its rule no longer raises it") in text


def test_every_requirement_refers_to_existing_chapters(lake, judged):
    told = build_document(load_facts(lake.path, judged.read_manifest()))
    titles = {chapter.title for chapter in told.chapters} | {"Alert 1 and following", "the status of each alert"}
    (mapping,) = [chapter for chapter in told.chapters if chapter.key == "requirements"]
    rows = [row for part in mapping.blocks if isinstance(part, blocks.Table) for row in part.rows]
    assert len(rows) == sum(map(len, REQUIREMENTS.values())) > 15
    for row in rows:
        # A title may hold a semicolon only if it is one that is looked for.
        assert set(row[2].split("; ")) <= titles
        assert row[1].endswith(".")
        assert row[3].endswith(".")


HOSTILE = (
    '#panic("x") $ x^2 $ *bold* _it_ `raw` = Heading\n@label <label> // comment /* c */ \\u{41} #include "/etc/passwd"',
    "<script>alert(1)</script> \"'><img src=x onerror=alert(2)>",
    "https://example.org/x.png mailto:a@example.org",
    "ظل في الرئة اليسرى",
    "צל בריאה",
    "тень в лёгком ≤ 3 µm → сердце",
    "左肺の陰影 그림자 हृदय 😀",
    "a\u202eb\u2066c\u2069d\ufeff\x00\x1b[31m",
    "x" * 4000,
    "word " * 1200,
)


def test_untrusted_text_never_becomes_pdf_markup(lake, make_pair):
    pairs = [make_pair(number, caption) for number, caption in enumerate(HOSTILE)]
    lake.facts = {"model": HOSTILE[0].replace("\n", " ")}
    run = lake.write(lake.begin(RUN), pairs, finish=False)
    lake.alert(run, [{"region": HOSTILE[0], "slice": HOSTILE[3], "pair_ids": [pair["pair_id"] for pair in pairs]}])
    run.finish("completed", HOSTILE[1])
    told = load_document(lake.path, RUN)
    reader = pdf_of(told)
    text = squeezed("".join(page.extract_text() for page in reader.pages))
    for caption in HOSTILE[:3]:
        assert squeezed(caption) in text
    for word in ("тень", "≤3µm→"):
        assert word in text
    for mark in "左그😀\x00\x1b\u202e":
        assert f"‹U+{ord(mark):04X}›" in text
    assert "replacedbytheircodepoints" in text
    actions = [annotation.get_object() for page in reader.pages for annotation in page.get("/Annots", [])]
    assert all("/URI" not in str(action) and "/JavaScript" not in str(action) for action in actions)
    assert "/OpenAction" not in reader.trailer["/Root"]


def test_right_to_left_scripts_are_shaped_by_the_bundled_fonts(lake, make_pair):
    lake.write(lake.begin(RUN), [make_pair(0, HOSTILE[3]), make_pair(1, HOSTILE[4])])
    text = "".join(page.extract_text() for page in pdf_of(load_document(lake.path, RUN)).pages)
    assert "‹U+" not in text
    plain = squeezed(unicodedata.normalize("NFKC", text))
    assert all(mark in plain for mark in squeezed(HOSTILE[3] + HOSTILE[4]))


def test_additional_fonts_show_missing_characters(lake, make_pair):
    lake.write(lake.begin(RUN), [make_pair(0, "a smile 😀")])
    told = load_document(lake.path, RUN)
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    texts = [
        "".join(page.extract_text() for page in PdfReader(io.BytesIO(render_pdf(told, chosen))).pages)
        for chosen in ([], [fonts])
    ]
    assert ["‹U+1F600›" in text for text in texts] == [True, False]
    assert "😀" in texts[1]


def test_the_pdf_is_archival_tagged_and_reproducible(lake, judged):
    told = load_document(lake.path, RUN)
    data = render_pdf(told)
    assert data == render_pdf(told)
    reader = PdfReader(io.BytesIO(data))
    assert b"<pdfaid:part>2</pdfaid:part><pdfaid:conformance>B</pdfaid:conformance>" in data
    assert b"<pdfuaid:part>1" in data
    root = reader.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en"
    assert reader.metadata.title == told.title
    assert reader.metadata.creation_date.timestamp() == int(datetime.fromisoformat(told.as_of).timestamp())
    chapters = [entry.title for entry in reader.outline[0:] if not isinstance(entry, list)]
    nested = [entry.title for entries in reader.outline if isinstance(entries, list) for entry in entries]
    assert {chapter.title for chapter in told.chapters} <= {*chapters, *nested}
    for number, page in enumerate(reader.pages, start=1):
        text = page.extract_text()
        assert f"Page {number} of {len(reader.pages)}" in text
        assert f"run {RUN} · manifest sha256 " in text
    assert "Signature" in reader.pages[-1].extract_text()


@pytest.mark.parametrize("status", ["stopped", "failed", "interrupted", "running"])
def test_an_incomplete_run_has_a_pdf(lake, status):
    run = lake.begin(RUN)
    if status != "running":
        run.finish(status, "OSError: disk full")
    assert len(pdf_of(load_document(lake.path, RUN)).pages) > 3


def test_a_report_is_recorded_in_the_ledger_once(lake, judged, tmp_path):
    page = write_report(lake.path, RUN, by="a test")
    copy = write_report(lake.path, RUN, tmp_path / "copy.html", by="again")
    assert page.read_bytes() == copy.read_bytes()
    write_report(lake.path, RUN, by="a test")
    pdf = write_report(lake.path, RUN, kind="pdf", by="a test")
    assert pdf == judged.folder / "report.pdf"
    noted = ledger.select_kinds(ledger.read_records(lake.path), "report")
    assert [(record.body["format"], record.body["by"]) for record in noted] == [("html", "a test"), ("pdf", "a test")]
    assert noted[1].body["sha256"] == ledger.sha256(pdf.read_bytes())
    assert noted[1].body["path"] == f"runs/{RUN}/report.pdf"
    assert write_report(lake.path, RUN).read_bytes() == page.read_bytes()  # records of reports are no news to it
    sign_off(lake.path, JO, RUN, "review", "Seen.")
    assert write_report(lake.path, RUN).read_bytes() != copy.read_bytes()


def test_a_pdf_that_cannot_be_written_is_an_error(lake, judged, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot write"):
        write_report(lake.path, RUN, tmp_path / "file" / "report.pdf", "pdf")
