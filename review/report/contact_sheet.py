"""The contact sheet of a corpus: figures, error rows, near-duplicates, and a sample of its pairs, as one HTML file."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps

from corpora import Corpus, Pair, RowError
from corpora.description import Description
from corpora.perceptual_hash import MAX_DIFFERENT_BITS
from review.presentation import drawing
from review.presentation.formatting import isolate_text
from review.presentation.numbers import format_count
from review.report.blocks import Chapter, Column, Fact, Facts, Paragraph, Sheet, build_table
from review.report.html import ReportError, render_html, write_output

SIDE: Final = 132
GROUPS: Final = 4
"""Maximum number of groups of near-duplicates that are shown."""
_BOXED_SIDE: Final = 2 * SIDE
"""Side of a picture with outlined boxes, which the page shows at `SIDE`: the lines stay thin."""
_GROUP_PAIRS: Final = 7
"""Maximum number of pairs that are shown of each group of near-duplicates."""

_GENERATOR: Final = "m2ib-audit corpus"
"""Text in every contact sheet; a file that contains it may be overwritten."""

_HEAD_BYTES: Final = 4096
_PATTERN: Final = re.compile(r"[*?{\[]")
_UNSAFE: Final = re.compile(r"[^\w.-]+")

FindBoxes = Callable[[Image.Image, str], Mapping[str, Sequence[drawing.Box]]]
"""Function of an image and its caption that returns boxes by region, such as those of a detector."""


def describe_corpus(description: Description, min_pairs: int) -> list[tuple[str, str]]:
    """Return the description of a corpus as labels and values, for the contact sheet and the command line.

    Values of a column that at least `min_pairs` pairs have become slices of an audit.
    """
    errors = sum(description.errors.values()) + description.duplicates  # as a run counts them
    parts = [format_count(description.pairs, "pair"), format_count(errors, "error row")]
    if number := description.duplicates:
        parts.append(f"{number:,} of them {'a duplicate' if number == 1 else 'duplicates'}")
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
    for number, (name, pairs_of) in enumerate(description.attributes.items()):
        labels.append(("" if number else "Columns", f"{name}: {_describe_column(pairs_of, min_pairs)}"))
    alike, groups = sum(map(len, description.near_duplicates)), len(description.near_duplicates)
    labels.append(("Near-duplicates", f"{format_count(alike, 'image')} in {format_count(groups, 'group')}"))
    return [*labels, ("Digest", description.digest)]


def _describe_column(pairs_of: Mapping[str, int], min_pairs: int) -> str:
    pairs, values = sum(pairs_of.values()), len(pairs_of)
    slices = sorted(
        (value for value, n in pairs_of.items() if n >= min_pairs), key=lambda value: (-pairs_of[value], value)
    )
    text = f"{format_count(values, 'value')} in {format_count(pairs, 'pair')}; "
    if slices:
        shown = ", ".join(f"{isolate_text(value)} ({pairs_of[value]})" for value in slices[:4])
        more = f", and {len(slices) - 4} more" if len(slices) > 4 else ""
        return f"{text}{format_count(len(slices), 'slice')} of {min_pairs} pairs or more: {shown}{more}"
    if values > pairs / 2 and pairs > min_pairs:
        return (
            f"{text}nearly one value a pair, such as an identifier, a measurement or a box: no slice. The lake stores "
            "it; leave out identifiers of persons, and group measurements"
        )
    return f"{text}no slice, because no value has {min_pairs} pairs"


def default_output(uri: str) -> Path:
    """Return the default path of a contact sheet, whose file name contains the name of the corpus."""
    last = [part for part in re.split(r"[/\\]", uri) if part and not _PATTERN.search(part)] or ["corpus"]
    name = Path(uri).resolve().name if last[-1] in (".", "..") else last[-1]
    return Path(f"corpus-{_UNSAFE.sub('_', name).strip('_.') or 'corpus'}.html")


def check_output(out: Path) -> None:
    """Check that writing to a path overwrites nothing but an earlier contact sheet. Raises ReportError."""
    try:
        if not out.exists():
            return
        with out.open("rb") as file:
            if f'content="{_GENERATOR}"'.encode() in file.read(_HEAD_BYTES):
                return
        found = "another file"
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror})"
    raise ReportError(
        f"--out: {out} is {found}, expected a new file or a contact sheet of m2ib-audit corpus, which is overwritten; "
        "choose another file with --out"
    )


def write_contact_sheet(
    corpus: Corpus,
    description: Description,
    name: str,
    out: Path,
    min_pairs: int,
    find_boxes: FindBoxes | None = None,
) -> Path:
    """Write the contact sheet as one HTML file that loads nothing else, and return its path. Raises ReportError.

    The boxes that `find_boxes` returns are outlined in the pictures of the sample.
    """
    check_output(out)
    document = {
        "overline": f"Corpus · {description.format}",
        "title": name,
        "summary": [Facts([Fact(label, value) for label, value in describe_corpus(description, min_pairs)])],
        "chapters": list(_build_chapters(corpus, description, find_boxes)),
        "footer": f"sha256 {description.digest}",
    }
    write_output(render_html(document, f"Corpus {name}", _GENERATOR), out, "corpus")
    return out


def _build_chapters(corpus: Corpus, description: Description, find_boxes: FindBoxes | None) -> Iterator[Chapter]:
    if description.errors:
        rows = [
            {"reason": reason, "n": number, "examples": _list_examples(description, reason)}
            for reason, number in description.errors.items()
        ]
        count = Column("Rows", lambda row: format_count(row["n"]), "number")
        table = build_table([Column("Reason", "reason", "name"), count, Column("Examples", "examples")], rows)
        yield Chapter("errors", "Rows that cannot be audited", [table])
    if number := description.duplicates:
        title = f"{format_count(number, 'row')} that repeat{'s' if number == 1 else ''} another pair"
        examples = _list_examples(description, "duplicate_pair")
        text = f"Same image file and same caption; audited once. Examples: {examples}"
        yield Chapter("duplicates", title, [Paragraph(text, "note")])
    if groups := description.near_duplicates:
        text = (
            f"Different files whose perceptual hashes differ in at most {MAX_DIFFERENT_BITS} of 64 bits. Shown: "
            f"{len(groups[:GROUPS])} of {format_count(len(groups), 'group')}, largest first; up to "
            f"{_GROUP_PAIRS} of each."
        )
        sheets = [_build_sheet(corpus, group[:_GROUP_PAIRS]) for group in groups[:GROUPS]]
        yield Chapter("near-duplicates", "Near-duplicate images", [Paragraph(text, "note"), *sheets])
    title = f"{format_count(len(description.sample), 'pair')} sampled by hash"
    yield Chapter("sample", title, [_build_sheet(corpus, description.sample, find_boxes)])


def _list_examples(description: Description, reason: str) -> str:
    rows = description.examples[reason]
    return "; ".join(f"{row.file_name}: {row.detail}" if row.file_name else row.detail for row in rows)


def _build_sheet(corpus: Corpus, pairs: Sequence[Pair], find_boxes: FindBoxes | None = None) -> Sheet:
    """Return name, caption and picture of each pair; a picture that cannot be read is replaced by the reason."""
    cells = []
    for pair in pairs:
        picture, problem = None, None
        found: Mapping[str, Sequence[drawing.Box]] = {}
        try:
            pixels = corpus.read_image(pair.place).pixels
            if find_boxes:
                found = find_boxes(pixels, pair.caption)
                pixels = ImageOps.contain(pixels, (_BOXED_SIDE, _BOXED_SIDE), Image.Resampling.LANCZOS)
                for boxes in found.values():
                    pixels = drawing.draw_outline(pixels, boxes, width=2)
            else:
                pixels.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            picture = drawing.encode_data_uri(pixels)
        except RowError as error:
            problem = str(error)
        cell = {"name": pair.file_name, "caption": pair.caption, "picture": picture, "problem": problem}
        cells.append(cell | {"regions": ", ".join(found)})
    return Sheet(cells)
