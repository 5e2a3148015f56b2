"""The contact sheet of a corpus: figures, error rows, near-duplicates, and a sample of its pairs, as one HTML file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from markupsafe import Markup
from PIL import Image

from corpora import Corpus, Pair, RowError
from corpora.description import Description
from corpora.perceptual_hash import MAX_DIFFERENT_BITS
from review.presentation import drawing
from review.presentation.formatting import format_count
from review.report.html import ReportError, render_html, stylesheet, write_output

SIDE: Final = 132
GROUPS: Final = 4
"""Groups of near-duplicates that are shown."""
_GROUP_PAIRS: Final = 7
"""Pairs of a group that are shown."""

_MARK: Final = '<meta name="generator" content="m2ib-audit corpus">'
"""Identifies a contact sheet, which may be overwritten."""

_HEAD_BYTES: Final = 4096
_PATTERN: Final = re.compile(r"[*?{\[]")
_UNSAFE: Final = re.compile(r"[^\w.-]+")


def describe_corpus(description: Description) -> list[tuple[str, str]]:
    """Return the description of a corpus as labels and values, for the contact sheet and the command line."""
    parts = [format_count(description.pairs, "pair")]
    if description.duplicates:
        parts.append(format_count(description.duplicates, "duplicate"))
    parts.append(f"{format_count(sum(description.errors.values()), 'row')} with an error")
    labels = [
        ("Format", description.format),
        ("Rows", f"{format_count(description.rows)}: {', '.join(parts)}"),
        ("Images", f"{format_count(description.images)} distinct"),
        ("Captions", f"{format_count(description.captions)} distinct"),
    ]
    spans = (("Width", description.widths, "pixels"), ("Height", description.heights, "pixels"))
    for label, quantiles, unit in (*spans, ("Caption length", description.caption_chars, "characters")):
        if quantiles is not None:
            low, lower, median, upper, high = (round(value) for value in quantiles)
            labels.append((label, f"{median} {unit} (median; 5% to 95%: {lower} to {upper}; range {low} to {high})"))
    if description.attributes:
        names = [f"{name} ({count})" for name, count in description.attributes.items()]
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        labels.append(("Columns", ", ".join(names[:12]) + more))
    alike, groups = sum(map(len, description.near_duplicates)), len(description.near_duplicates)
    labels.append(("Near-duplicates", f"{format_count(alike, 'image')} in {format_count(groups, 'group')}"))
    return [*labels, ("Digest", description.digest)]


def default_output(uri: str) -> Path:
    """Return the default path of a contact sheet, whose name contains that of the corpus."""
    last = [part for part in re.split(r"[/\\]", uri) if part and not _PATTERN.search(part)] or ["corpus"]
    name = Path(uri).resolve().name if last[-1] in (".", "..") else last[-1]
    return Path(f"corpus-{_UNSAFE.sub('_', name).strip('_.') or 'corpus'}.html")


def check_output(out: Path) -> None:
    """Check that writing to a path overwrites nothing but an earlier contact sheet. Raises ReportError."""
    try:
        if not out.exists():
            return
        with out.open("rb") as file:
            if _MARK.encode() in file.read(_HEAD_BYTES):
                return
        found = "another file"
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror})"
    raise ReportError(
        f"--out: {out} is {found}, expected a new file or a contact sheet of m2ib-audit corpus, which is overwritten; "
        "choose another file with --out"
    )


def write_contact_sheet(corpus: Corpus, description: Description, name: str, out: Path) -> Path:
    """Write the contact sheet as one HTML file that loads nothing else, and return its path. Raises ReportError."""
    check_output(out)
    html = render_html(
        "corpus.html.j2",
        stylesheet(),
        name=name,
        description=description,
        facts=describe_corpus(description),
        mark=Markup(_MARK),  # noqa: S704  # part of the package
        most=MAX_DIFFERENT_BITS,
        shown=_GROUP_PAIRS,
        alike=[_list_cells(corpus, group[:_GROUP_PAIRS]) for group in description.near_duplicates[:GROUPS]],
        sample=_list_cells(corpus, description.sample),
    )
    write_output(html, out, "corpus")
    return out


def _list_cells(corpus: Corpus, pairs: Sequence[Pair]) -> list[dict[str, str | None]]:
    """Return name, caption and picture of each pair; a picture that cannot be read is replaced by the reason."""
    cells = []
    for pair in pairs:
        picture, problem = None, None
        try:
            pixels = corpus.read_image(pair.place).pixels
            pixels.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            picture = drawing.encode_data_uri(pixels)
        except RowError as error:
            problem = str(error)
        cells.append({"name": pair.file_name, "caption": pair.caption, "picture": picture, "problem": problem})
    return cells
