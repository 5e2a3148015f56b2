"""The report as evidence: scope, decisions and signatures, and the same text in HTML and PDF."""

import dataclasses
import html
import io
import re
import shutil
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
import pytest
from pypdf import PdfReader

import sql
from review.evidence.decisions import Reviewer, countersign, decide, sign_off
from review.presentation.pairs import Picture
from review.report import blocks, facts
from review.report.chapters import build_document
from review.report.facts import RunFacts
from review.report.html import ReportError, load_document, render_report, write_report
from review.report.method import load_requirements
from review.report.pdf import render_pdf
from stores import ledger
from tasks.lake.run import Run

RUN = "20260101T000000-aaaaaa"
ADA = Reviewer("Ada Okafor", "radiologist", "declared")
JO = Reviewer("José Müller", "head of quality", "password")


INVISIBLE_FIELDS = ("key", "kind", "cell", "target", "as_of", "alt", "view_alt", "overlay_alt")


def list_visible_strings(value):
    """Yield every string of a document that a reader sees, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from list_visible_strings(entry)
    elif dataclasses.is_dataclass(value) and not isinstance(value, Picture):
        for field in dataclasses.fields(value):
            if field.name not in INVISIBLE_FIELDS:
                yield from list_visible_strings(getattr(value, field.name))


def remove_white_space(text):
    """Return a text without white space and without characters that only break lines or change directions."""
    characters = (
        character
        for character in unicodedata.normalize("NFC", text)
        if unicodedata.category(character) not in ("Cf", "Zs", "Cc")
    )
    return "".join(characters)


def read_html(document):
    page = render_report(document, "html").decode()
    return remove_white_space(html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", "", page, flags=re.DOTALL)))


def read_pdf(document):
    return PdfReader(io.BytesIO(render_report(document, "pdf")))


@pytest.fixture(scope="module")
def shared_lake_of_evidence(make_lake, tmp_path_factory):
    """A lake with one run: three alerts (confirmed, explained by it, on a phrase), a failed check and an error row."""
    lake = make_lake(tmp_path_factory.mktemp("evidence"))
    captions = ("dense shadow", "clear", "dense shadow on the left")
    pairs = [lake.make_pair(number, caption) for number, caption in enumerate(captions)]
    run = lake.write(lake.begin(RUN), pairs, finish=False)
    phrase = {"side": "text", "rule": "phrase_mass", "region": '"on the left"', "pair_ids": ["pair0002"]}
    lake.alert(
        run,
        [
            {"slice": "dense", "state": "confirmed", "severity": "high", "pair_ids": ["pair0000", "pair0002"]},
            {"slice": "shadow", "explained_by": "dense", "pair_ids": ["pair0000"]},
            {"slice": "dense", **phrase},
        ],
    )
    finding = {"rule": "region_mass", "region": "corner top-left", "slice_kind": "word", "slice": "dense"}
    figures = {
        "n": 64, "margin": 0.5, "drop": 0.31, "control_drop": 0.01, "low": 0.2, "high": 0.4, "p": 1e-9, "q": 1e-8,
        "tests": 12, "floor": 0.05, "passed": True, "confirmed": True, "effect": 0.3,
    }  # fmt: skip
    run.write_table("confirmations", [{**finding, **figures, "fill": fill} for fill in ("mean", "blur", "swap")])
    check = {"suite": "corpus", "suite_digest": "e5" * 32, "severity": "warning", "expectation": "ExpectSense"}
    run.write_table("validations", [check | {"success": True}, check | {"success": False, "detail": '{"min": 1}'}])
    error = {"row_number": 7, "stage": "ingest", "file_name": "lost.png", "reason": "missing_image"}
    run.write_table("ingest_errors", [error | {"detail": "no such file"}])
    run.update(stage_seconds={"attribute": 90.0, "confirm_alerts": 30.0})
    run.finish("completed")
    return lake


@pytest.fixture
def run(shared_lake_of_evidence, lake):
    """The run of `shared_lake_of_evidence` in a copy of its lake."""
    shutil.copytree(shared_lake_of_evidence.path, lake.path, dirs_exist_ok=True)
    lake.corpus = shared_lake_of_evidence.corpus
    return Run(lake.path, RUN)


@pytest.fixture(scope="module")
def signed_report(shared_lake_of_evidence, tmp_path_factory):
    """The document and the PDF of a run with decisions, a second signature and a sign-off, and their records."""
    lake = shutil.copytree(shared_lake_of_evidence.path, tmp_path_factory.mktemp("signed") / "lake")
    first, phrase = list_alert_ids(Run(lake, RUN))
    decide(lake, ADA, RUN, first, "benign", "Examined.", "review")
    record = decide(lake, ADA, RUN, first, "confirmed", "The tag is burnt in.", "review", four_eyes=True)
    countersign(lake, JO, record.number, "approval", "Agreed.")
    decide(lake, ADA, RUN, phrase, "needs_data", "More pairs.", "review")
    sign_off_record = sign_off(lake, JO, RUN, "approval", "Not for use.", four_eyes=True)
    document = load_document(lake, RUN)
    return document, render_pdf(document), record, sign_off_record


@pytest.fixture(scope="module")
def report_texts(signed_report):
    """The text of the HTML and of the PDF, without the footer of pages."""
    pages = [page.extract_text() for page in PdfReader(io.BytesIO(signed_report[1])).pages]
    footer = r"run \S+ · manifest sha256 \S+\s*Page \d+ of \d+"
    return {
        "HTML": read_html(signed_report[0]),
        "PDF": remove_white_space("".join(re.sub(footer, "", page) for page in pages)),
    }


def list_alert_ids(run):
    with run.connect() as connection:
        rows = sql.read(connection, "SELECT alert_id FROM alerts WHERE explained_by IS NULL ORDER BY side")
    return [row["alert_id"] for row in rows]


def test_html_and_pdf_have_the_same_text(signed_report, report_texts):
    document = signed_report[0]
    strings = [text for text in list_visible_strings(document) if text.strip() and text != document.footer]
    assert len(strings) > 300
    for kind, text in report_texts.items():
        assert [each for each in strings if remove_white_space(each) not in text] == [], kind


def test_decisions_and_sign_offs_have_name_time_and_meaning(signed_report, report_texts):
    _, _, record, sign_off_record = signed_report
    for text in report_texts.values():
        for signed_record, reviewer in ((record, ADA), (sign_off_record, JO)):
            time = f"{signed_record.time:%Y-%m-%d %H:%M:%S} UTC"
            assert remove_white_space(f"Printed name {reviewer.name} Role {reviewer.role} Date and time {time}") in text
        assert remove_white_space("Reason The tag is burnt in.") in text
        assert remove_white_space("Meaning review: examined the evidence Identity declared, not verified") in text
        assert remove_white_space("Meaning approval: approves the decision Identity signed in with a password") in text
        assert remove_white_space(f"record {sign_off_record.number} of the ledger") in text
        assert remove_white_space(f"sha256 {sign_off_record.sha256}") in text
        assert remove_white_space("Alerts when signed 1 open") in text


def test_time_per_stage_is_shown(report_texts):
    for text in report_texts.values():
        assert remove_white_space("2 min 0 s in its stages") in text
        assert remove_white_space("attribute 1 min 30 s 75.0% confirm alerts 30 s 25.0%") in text


def test_undecided_alerts_are_listed_with_reasons(lake, run):
    first, phrase = list_alert_ids(run)
    assert "Nobody has signed this run off" in render_report(load_document(lake.path, RUN), "html").decode()
    decide(lake.path, ADA, RUN, first, "benign", "Fine.", "review", four_eyes=True)
    decide(lake.path, ADA, RUN, phrase, "needs_data", "More.", "review")
    text = read_html(load_document(lake.path, RUN))
    assert (
        remove_white_space("in pairs whose caption contains “dense”: a second person has to countersign record 1.")
        in text
    )
    assert remove_white_space(": Ada Okafor requested more data.") in text
    assert remove_white_space("Decisions 0 of 2 independent alerts decided") in text
    assert remove_white_space("Waivers are evaluated") not in text
    countersign(lake.path, JO, 1, "approval")
    decide(
        lake.path, JO, RUN, phrase, "waived", "Boilerplate.", "review", until=datetime(2999, 1, 1, tzinfo=UTC).date()
    )
    text = read_html(load_document(lake.path, RUN))
    assert remove_white_space("None: every independent alert is decided.") in text
    assert remove_white_space("1 earlier decision, no longer in force") in text
    assert remove_white_space("waived until 2999-01-01: known and accepted, that day included") in text
    assert remove_white_space(f"Waivers are evaluated for {datetime.now(UTC).date()} (UTC); they may expire") in text


def read_history(run):
    with run.connect() as connection:
        return sql.read(connection, "SELECT * EXCLUDE (run_id) FROM lives ORDER BY side, explained_by IS NOT NULL")


def test_a_decision_of_an_earlier_run_is_in_force_until_the_evidence_changes(lake, run, make_pair):
    first, _ = list_alert_ids(run)
    decide(lake.path, ADA, RUN, first, "confirmed", "The tag.", "review")
    history = {**read_history(run)[0], "life": "still_firing", "alert_id": "alert0000000", "runs": 2}
    alert = {"slice": "dense", "state": "confirmed", "severity": "high"}
    for run_id, effect in (("20260102T000000-bbbbbb", 0.31), ("20260103T000000-cccccc", 3.0)):
        later = lake.write(lake.begin(run_id), [make_pair(0, "dense shadow")], finish=False, **alert)
        low, high = effect - 0.1, effect + 0.1
        rows = {"score_effect": effect, "score_low": low, "score_high": high, "recent": None}
        later.write_table("lives", [history | rows])
        later.finish("completed")
    text = read_html(load_document(lake.path, "20260102T000000-bbbbbb"))
    assert remove_white_space("shortcut, carried over") in text
    assert remove_white_space(f"Reviewed run {RUN}; carried over to this run") in text
    assert remove_white_space("Still firing: first seen") in text
    text = read_html(load_document(lake.path, "20260103T000000-cccccc"))
    change = "its score loss is 3.000, was 0.300, which is more than chance explains"
    assert remove_white_space(f"open again, because the evidence has changed: {change}") in text
    assert remove_white_space("Recorded decision shortcut: the model relies on this and should not") in text
    (lake.path / run.relative_path("alerts/part-00000.parquet")).unlink()
    text = read_html(load_document(lake.path, "20260102T000000-bbbbbb"))
    assert remove_white_space("Other runs of this audit could not be read") in text


def test_decisions_made_while_a_report_is_written_are_in_it_with_their_record(lake, run, monkeypatch):
    first, phrase = list_alert_ids(run)
    query, todo = facts.query_decisions, [first, phrase]

    def query_slowly(*given):
        found = query(*given)
        if todo:
            decide(lake.path, ADA, RUN, todo.pop(), "benign", "Fine.", "review")
        return found

    monkeypatch.setattr(facts, "query_decisions", query_slowly)
    read = RunFacts(lake.path, run.read_manifest())
    assert set(read.decisions) == {first, phrase}
    assert read.last_record == ledger.read_records(lake.path)[-1]


def test_scope_lists_sampling_errors_and_digests(lake, run):
    run.update(counts={"corpus_rows": 10, "not_sampled": 6, "errors": 1})
    text = read_html(load_document(lake.path, RUN))
    assert remove_white_space("Not sampled 6 rows; this report says nothing about them") in text
    assert remove_white_space("Error rows 1: missing_image 1") in text
    for digest in ("a1" * 32, "b2" * 32, "c3" * 32, "d4" * 32, "e5" * 32):
        assert f"sha256{digest}" in text


def test_a_reflagged_run_does_not_claim_that_its_thresholds_came_first(lake, run):
    assert "which were known" not in str(load_document(lake.path, RUN))
    run.update(reflags="20251231T000000-999999")
    assert "which were known when its settings were chosen" in str(load_document(lake.path, RUN))


def test_missing_alerts_are_listed(lake, run, make_pair):
    row = {
        "life_id": "gone", "life": "resolved", "why": "its rule no longer raises it", "announced": True,
        "rule": "region_mass", "side": "image", "region": "frame", "slice_kind": "word", "slice": "film",
        "state": "confirmed", "first_run": "a", "last_run": "a", "last_seen": datetime(2025, 12, 31, tzinfo=UTC),
    }  # fmt: skip
    run.write_table("lives", [row])
    text = read_html(load_document(lake.path, RUN))
    assert (
        remove_white_space("resolved frame word “film” confirmed 2025-12-31 00:00:00 UTC its rule no longer raises it")
        in text
    )


def test_every_requirement_refers_to_existing_chapters(lake, run):
    document = build_document(RunFacts(lake.path, run.read_manifest()))
    titles = {chapter.title for chapter in document.chapters} | {"Alert 1 and following", "the status of each alert"}
    (chapter_of_requirements,) = [chapter for chapter in document.chapters if chapter.key == "requirements"]
    rows = [row for part in chapter_of_requirements.blocks if isinstance(part, blocks.Table) for row in part.rows]
    assert len(rows) == sum(map(len, load_requirements().values())) > 15
    for row in rows:
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
    document = load_document(lake.path, RUN)
    reader = read_pdf(document)
    text = remove_white_space("".join(page.extract_text() for page in reader.pages))
    for caption in HOSTILE[:3]:
        assert remove_white_space(caption) in text
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
    text = "".join(page.extract_text() for page in read_pdf(load_document(lake.path, RUN)).pages)
    assert "‹U+" not in text
    normalized = remove_white_space(unicodedata.normalize("NFKC", text))
    assert all(mark in normalized for mark in remove_white_space(HOSTILE[3] + HOSTILE[4]))


def test_additional_fonts_show_missing_characters(lake, make_pair):
    lake.write(lake.begin(RUN), [make_pair(0, "a smile 😀")])
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    pages = PdfReader(io.BytesIO(render_pdf(load_document(lake.path, RUN), [fonts]))).pages
    text = "".join(page.extract_text() for page in pages)
    assert "😀" in text
    assert "‹U+" not in text


def test_the_pdf_is_archival_tagged_and_reproducible(signed_report):
    document, data, *_ = signed_report
    assert data == render_pdf(document)
    reader = PdfReader(io.BytesIO(data))
    assert b"<pdfaid:part>2</pdfaid:part><pdfaid:conformance>B</pdfaid:conformance>" in data
    assert b"<pdfuaid:part>1" in data
    root = reader.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en"
    assert reader.metadata.title == document.title
    assert reader.metadata.creation_date.timestamp() == int(datetime.fromisoformat(document.as_of).timestamp())
    chapters = [entry.title for entry in reader.outline[0:] if not isinstance(entry, list)]
    nested = [entry.title for entries in reader.outline if isinstance(entries, list) for entry in entries]
    assert {chapter.title for chapter in document.chapters} <= {*chapters, *nested}
    for number, page in enumerate(reader.pages, start=1):
        text = page.extract_text()
        assert f"Page {number} of {len(reader.pages)}" in text
        assert f"run {RUN} · manifest sha256 " in text
    assert "Signature" in reader.pages[-1].extract_text()


@pytest.mark.parametrize("status", ["failed", "running"])
def test_an_incomplete_run_has_a_pdf(lake, status):
    run = lake.begin(RUN)
    if status != "running":
        run.finish(status, "OSError: disk full")
    assert len(read_pdf(load_document(lake.path, RUN)).pages) > 3


def test_a_report_is_recorded_in_the_ledger_once(lake, run, tmp_path):
    page = write_report(lake.path, RUN, by="a test")
    copy = write_report(lake.path, RUN, tmp_path / "copy.html", by="again")
    assert page.read_bytes() == copy.read_bytes()
    pdf = write_report(lake.path, RUN, kind="pdf", by="a test")
    assert pdf == run.folder / "report.pdf"
    records = ledger.select_kinds(ledger.read_records(lake.path), "report")
    assert [(each.body["format"], each.body["by"]) for each in records] == [("html", "a test"), ("pdf", "a test")]
    assert records[1].body["sha256"] == ledger.sha256(pdf.read_bytes())
    assert records[1].body["path"] == f"runs/{RUN}/report.pdf"
    sign_off(lake.path, JO, RUN, "review", "Seen.")
    assert write_report(lake.path, RUN).read_bytes() != copy.read_bytes()


def test_a_pdf_that_cannot_be_written_is_an_error(lake, run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot write"):
        write_report(lake.path, RUN, tmp_path / "file" / "report.pdf", "pdf")
