"""What a corpus is, as a page to look at before an audit: figures, errors, look-alikes, and a sample of its pairs."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup
from PIL import Image

from corpora import Corpus, Pair, RowError
from corpora.description import Description
from corpora.perceptual_hash import MAX_DIFFERENT_BITS
from review.presentation import formatting, overlays
from review.report.html import ReportError, environment, stylesheet, write_output

SIDE: Final = 132
GROUPS: Final = 4
"""Of look-alikes that are shown, and of each so many pairs."""
_OF_GROUP: Final = 7

_MARK: Final = '<meta name="generator" content="m2ib-audit corpus">'
"""By it a page is known that may be overwritten."""

_SNIFFED_BYTES: Final = 4096
_PATTERN: Final = re.compile(r"[*?{\[]")
_UNFIT: Final = re.compile(r"[^\w.-]+")

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


def describe_corpus(told: Description) -> list[tuple[str, str]]:
    """A description in words, label by label: what page and command line say alike."""
    parts = [formatting.format_count(told.pairs, "pair")]
    if told.duplicates:
        parts.append(formatting.format_count(told.duplicates, "duplicate"))
    parts.append(f"{formatting.format_count(sum(told.errors.values()), 'row')} with an error")
    found = [
        ("Format", told.format),
        ("Rows", f"{formatting.format_count(told.rows)}: {', '.join(parts)}"),
        ("Images", f"{formatting.format_count(told.images)} different ones"),
        ("Captions", f"{formatting.format_count(told.captions)} different ones"),
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
    alike, groups = sum(map(len, told.near_duplicates)), len(told.near_duplicates)
    found.append(
        ("Look alike", f"{formatting.format_count(alike, 'image')} in {formatting.format_count(groups, 'group')}")
    )
    return [*found, ("Digest", told.digest)]


def default_output(uri: str) -> Path:
    """The file that a corpus's page goes to unless someone names another: called after the corpus."""
    last = [part for part in re.split(r"[/\\]", uri) if part and not _PATTERN.search(part)] or ["corpus"]
    name = Path(uri).resolve().name if last[-1] in (".", "..") else last[-1]
    return Path(f"corpus-{_UNFIT.sub('_', name).strip('_.') or 'corpus'}.html")


def check_output(out: Path) -> None:
    """See to it that a page can go to a file: nothing is there, or a page as `write_contact_sheet` makes them.

    Raises:
        ReportError: something else is there, or it cannot be read.
    """
    try:
        if not out.exists():
            return
        with out.open("rb") as file:
            if _MARK.encode() in file.read(_SNIFFED_BYTES):
                return
        found = "something else"
    except OSError as error:
        found = f"something that cannot be read ({error.strerror})"
    raise ReportError(
        f"--out: {out} is {found}, expected no such file, or a page of m2ib-audit corpus, which is written anew: name "
        "another file with --out"
    )


def write_contact_sheet(corpus: Corpus, told: Description, name: str, out: Path) -> Path:
    """Write the page, self-contained, and return its path.

    Raises:
        ReportError: the file cannot be written, or is no page of a corpus.
    """
    check_output(out)
    style = stylesheet() + _SHEET
    page = (
        environment()
        .get_template("corpus.html.j2")
        .render(
            name=name,
            told=told,
            facts=describe_corpus(told),
            mark=Markup(_MARK),  # noqa: S704  # the package's own text
            most=MAX_DIFFERENT_BITS,
            shown=_OF_GROUP,
            alike=[_cells(corpus, group[:_OF_GROUP]) for group in told.near_duplicates[:GROUPS]],
            sample=_cells(corpus, told.sample),
            style=Markup(style),  # noqa: S704  # the package's own text
            style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        )
    )
    return write_output(page, out, "corpus")


def _cells(corpus: Corpus, pairs: Sequence[Pair]) -> list[_Cell]:
    return [_cell(corpus, pair) for pair in pairs]


def _cell(corpus: Corpus, pair: Pair) -> _Cell:
    try:
        pixels: Any = corpus.read_image(pair.place).pixels
    except RowError as error:
        return _Cell(pair.file_name, pair.caption, None, str(error))
    pixels.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _Cell(pair.file_name, pair.caption, overlays.data_uri(pixels))
