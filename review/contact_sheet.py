"""What a corpus is, as a page to look at before an audit: figures, errors, look-alikes, and a sample of its pairs."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup
from PIL import Image

from corpora import Corpus, Pair, RowError
from corpora.description import Description
from corpora.likeness import MOST
from review import overlays, wording
from review.report import environment, stylesheet, write_page

SIDE: Final = 132
GROUPS: Final = 4
"""Of look-alikes that are shown, and of each so many pairs."""
_OF_GROUP: Final = 7

_SHEET: Final = """
.sheet { display: flex; flex-wrap: wrap; gap: 16px; list-style: none; margin: 0 0 18px; padding: 0; }
.sheet li { width: 132px; }
.sheet figcaption { font-size: 12px; line-height: 1.35; overflow-wrap: anywhere; margin-top: 4px; }
"""


@dataclass(frozen=True)
class _Cell:
    name: str
    caption: str
    picture: str | None
    fault: str | None = None


def facts(told: Description) -> list[tuple[str, str]]:
    """A description in words, label by label: what page and command line say alike."""
    rejected = sum(told.errors.values())
    listed = wording.count(told.listed)
    found = [
        ("Format", told.format),
        ("Rows", f"{listed}: {wording.count(told.pairs, 'pair')}, {wording.count(rejected, 'row')} with an error"),
        ("Images", f"{wording.count(told.images)} different ones"),
        ("Captions", f"{wording.count(told.captions)} different ones"),
    ]
    spans = (("Width", told.widths, "pixels"), ("Height", told.heights, "pixels"))
    for label, quantiles, unit in (*spans, ("Caption length", told.caption_chars, "characters")):
        if quantiles is not None:
            low, fifth, half, most, high = (round(value) for value in quantiles)
            found.append((label, f"{half} {unit} (median; 5 to 95 %: {fifth} to {most}; {low} to {high} in all)"))
    if told.attributes:
        named = [f"{name} ({count})" for name, count in told.attributes.items()]
        more = f" and {len(named) - 12} more" if len(named) > 12 else ""
        found.append(("Columns", ", ".join(named[:12]) + more))
    alike = sum(map(len, told.alike))
    found.append(("Look alike", f"{wording.count(alike, 'image')} in {wording.count(len(told.alike), 'group')}"))
    return [*found, ("Digest", told.digest)]


def write_contact_sheet(corpus: Corpus, told: Description, name: str, out: Path) -> Path:
    """Write the page, self-contained, and return its path.

    Raises:
        ReportError: the file cannot be written.
    """
    style = stylesheet() + _SHEET
    page = (
        environment()
        .get_template("corpus.html.j2")
        .render(
            name=name,
            told=told,
            facts=facts(told),
            most=MOST,
            shown=_OF_GROUP,
            alike=[_cells(corpus, group[:_OF_GROUP]) for group in told.alike[:GROUPS]],
            sample=_cells(corpus, told.sample),
            style=Markup(style),  # noqa: S704  # the package's own text
            style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        )
    )
    return write_page(page, out, "corpus")


def _cells(corpus: Corpus, pairs: Sequence[Pair]) -> list[_Cell]:
    return [_cell(corpus, pair) for pair in pairs]


def _cell(corpus: Corpus, pair: Pair) -> _Cell:
    try:
        pixels: Any = corpus.picture(pair.place).pixels
    except RowError as error:
        return _Cell(pair.file_name, pair.caption, None, str(error))
    pixels.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _Cell(pair.file_name, pair.caption, overlays.data_uri(pixels))
