"""A description accounts for every row and shows peculiarities of a corpus."""

import re

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
    assert description.attributes == {"view": {"ap": 4}}
    assert len(description.sample) == 3
    assert all(isinstance(row, Pair) for row in description.sample)
    assert describe(corpus, sample=3) == description


def test_contact_sheet_shows_counts_and_images_and_escapes_text(corpus_and_description, tmp_path):
    corpus, description = corpus_and_description
    page = write_contact_sheet(corpus, description, "<b>corpus</b>", tmp_path / "new" / "page.html", 20).read_text()
    assert dict(describe_corpus(description, 20))["Rows"] == "9: 4 pairs, 5 error rows"
    assert page.count("data:image/png") >= 3
    assert "<script" not in page
    assert "&lt;b&gt;corpus&lt;/b&gt;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_unwritable_contact_sheet_is_an_error_with_its_path(corpus_and_description, tmp_path):
    corpus, description = corpus_and_description
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="--out"):
        write_contact_sheet(corpus, description, "corpus", tmp_path / "file" / "page.html", 20)


def test_columns_say_which_of_their_values_become_slices(write_corpus, picture):
    rows = [
        {"file_name": f"{n}.png", "text": f"c{n}", "site": "AB"[n % 4 == 0], "id": f"{n}x", "day": str(n // 2)}
        for n in range(8)
    ]
    images = {f"{n}.png": picture(color=30 * n) for n in range(8)}
    labels = describe_corpus(describe(open_corpus(write_corpus(rows, images))), 3)
    columns = [value for label, value in labels[labels.index(next(one for one in labels if one[0] == "Columns")) :]][:3]
    assert columns == [
        "day: 4 values in 8 pairs; no slice, because no value has 3 pairs",
        "id: 8 values in 8 pairs; nearly one value a pair, such as an identifier, a measurement or a box: no slice. "
        "The lake stores it; leave out identifiers of persons, and group measurements",
        "site: 2 values in 8 pairs; 1 slice of 3 pairs or more: A (6)",
    ]


def test_contact_sheet_outlines_boxes(corpus_and_description, tmp_path):
    corpus, description = corpus_and_description

    def find(pixels, caption):
        return {"<marks>": [(0, 0, 0.5, 0.5)]} if caption == "caption 1" else {}

    def pictures(*options):
        page = write_contact_sheet(corpus, description, "c", tmp_path / "page.html", 20, *options).read_text()
        return re.findall('src="(data:image[^"]*)"', page), page

    plain, boxed = pictures(lambda *_: {})[0], pictures(find)[0]
    captions = [pair.caption for pair in description.sample]
    assert [old != new for old, new in zip(plain[-3:], boxed[-3:], strict=True)] == [c == "caption 1" for c in captions]
    assert pictures(find)[1].count("&lt;marks&gt;") == captions.count("caption 1")
