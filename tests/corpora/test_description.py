"""A description accounts for every row and shows peculiarities of a corpus."""

import pytest

from corpora import Pair, open_corpus
from corpora.description import EXAMPLES, describe
from review.report.contact_sheet import describe_corpus, write_contact_sheet
from review.report.html import ReportError


@pytest.fixture
def corpus_and_description(write_corpus, picture):
    rows = [{"file_name": f"{number}.png", "text": f"caption {number % 2}", "view": "ap"} for number in range(4)]
    rows += [{"file_name": "none.png", "text": "<script>alert(1)</script>", "view": ""}] * (EXAMPLES + 2)
    images = {f"{number}.png": picture(size=(8 + number, 6), color=40 * number) for number in range(4)}
    corpus = open_corpus(write_corpus(rows, images))
    return corpus, describe(corpus, sample=3)


def test_every_row_is_accounted_for(corpus_and_description):
    corpus, description = corpus_and_description
    assert (description.format, description.rows, description.pairs, description.images, description.captions) == (
        "folder",
        9,
        4,
        4,
        2,
    )
    assert description.errors == {"missing_file": 5}
    assert [row.row for row in description.examples["missing_file"]] == [4, 5, 6]
    assert (description.widths, description.caption_chars) == ([8, 8, 10, 11, 11], [9] * 5)
    assert description.attributes == {"view": 4}
    assert len(description.sample) == 3
    assert all(isinstance(row, Pair) for row in description.sample)
    assert describe(corpus, sample=3) == description


def test_contact_sheet_shows_counts_and_images_and_escapes_text(corpus_and_description, tmp_path):
    corpus, description = corpus_and_description
    page = write_contact_sheet(corpus, description, "<b>corpus</b>", tmp_path / "new" / "page.html").read_text()
    assert dict(describe_corpus(description))["Rows"] == "9: 4 pairs, 5 rows with an error"
    assert page.count("data:image/png") >= 3
    assert "<script" not in page
    assert "&lt;b&gt;corpus&lt;/b&gt;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_unwritable_contact_sheet_is_an_error_with_its_path(corpus_and_description, tmp_path):
    corpus, description = corpus_and_description
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="--out"):
        write_contact_sheet(corpus, description, "corpus", tmp_path / "file" / "page.html")
