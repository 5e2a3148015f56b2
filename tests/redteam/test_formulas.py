"""Cells of downloads cannot become formulas, whichever separator a spreadsheet splits them at."""

import csv
import io

import pyarrow as pa
import pytest

from review.site.pages.rendering import _write_csv

FORMULA = "=HYPERLINK(1)"
CELLS = (
    FORMULA, f"  {FORMULA}", f"\t{FORMULA}", f"a;{FORMULA}", f"a; {FORMULA}", f"a\t{FORMULA}", f"a\n{FORMULA}",
    f"a;\u200b-1;+{FORMULA}", f"a;;{FORMULA}", 'a";\uff1dx',
)  # fmt: skip


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_no_cell_begins_like_a_formula(separator):
    """The lines are also split without regard to quotes: a quote inside of a cell does not quote it."""
    text = _write_csv(pa.table({"caption": ["x", *CELLS], "n": [-1.5] * (len(CELLS) + 1)})).decode("utf-8-sig")
    cells = [cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) for cell in row]
    cells += [cell for line in text.splitlines() for cell in line.split(separator)]
    for cell in cells:
        start = cell.lstrip('"').lstrip().lstrip("\u200b").lstrip()
        assert not start.startswith(("=", "+", "@", "\uff1d")), cell
        assert not start.startswith("-") or "-1.5" in cell


def test_ordinary_text_is_unchanged():
    table = pa.table({"caption": ["left lung; no finding - clear", "a=b", "x; y"]})
    assert _write_csv(table).decode("utf-8-sig").splitlines()[1:] == table["caption"].to_pylist()
