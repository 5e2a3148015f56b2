"""Building blocks of a report: plain data that HTML and PDF render in their own way, with the same content.

Every string is text, never markup: a caption that looks like a tag or a command is shown as it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from review.presentation.pairs import Picture


@dataclass(frozen=True)
class Paragraph:
    """A paragraph.

    Attributes:
        text: The text.
        kind: 'plain', 'lead', 'note', 'source', 'heading' (within a chapter), 'code' (monospaced, keeps its line
            breaks), 'scale' (the upper end of the color scale), or 'state' (a badge, emphasized if `strong`).
        strong: Whether a badge is emphasized.
    """

    text: str
    kind: str = "plain"
    strong: bool = False


@dataclass(frozen=True)
class Item:
    """An entry of a list: a lead, its text, and the key of the chapter that the lead links to."""

    lead: str
    text: str
    target: str | None = None


@dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[Item]
    numbered: bool = False


@dataclass(frozen=True)
class Fact:
    """A labeled value; code: set in a monospaced font below it, or alone; main: emphasized, or on a line of its own."""

    label: str
    value: str
    code: str | None = None
    main: bool = False


@dataclass(frozen=True)
class Facts:
    """Labeled values; kind: 'rows' (one per line), 'figures' (large numbers in a row), or 'terms' (definitions)."""

    facts: Sequence[Fact]
    kind: str = "rows"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: The title.
        cell: Formats the cell of a row of the lake, or the key of its text.
        kind: 'text', 'number', 'name' (untrusted text), 'code' or 'digest'.
        width: Relative width.
    """

    title: str
    cell: str | Callable[[Mapping[str, Any]], str]
    kind: str = "text"
    width: int = 1

    def format(self, row: Mapping[str, Any]) -> str:
        """Return the cell of a row; empty if it has no text."""
        return self.cell(row) if callable(self.cell) else str(row[self.cell] or "")


@dataclass(frozen=True)
class Table:
    """Formatted rows under columns; bold_rows: indices of the rows that are set in bold."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    caption: str | None = None
    bold_rows: Sequence[int] = ()


def build_table(
    columns: Sequence[Column],
    rows: Iterable[Mapping[str, Any]],
    caption: str | None = None,
    bold_rows: Sequence[int] = (),
) -> Table:
    """Return a table with a row for each row of the lake."""
    return Table(columns, [[column.format(row) for column in columns] for row in rows], caption, bold_rows)


@dataclass(frozen=True)
class MeanMap:
    """A mean map with a caption and a description for readers who cannot see it."""

    picture: Picture
    lead: str
    text: str
    alt: str


@dataclass(frozen=True)
class MeanMaps:
    """Mean maps side by side, with a note and the upper end of their scale."""

    maps: Sequence[MeanMap]
    note: str
    top: str


@dataclass(frozen=True)
class TokenMark:
    """A token of a caption; `shade` from 0 to SHADES; outlined: part of the phrase of the alert."""

    text: str
    bits: str
    shade: int
    special: bool
    outlined: bool


@dataclass(frozen=True)
class PairCard:
    """One pair: pictures with their descriptions, caption, tokens and numbers."""

    pair_id: str
    view: Picture | None
    overlay: Picture | None
    view_alt: str
    overlay_alt: str
    problem: str | None
    caption: str
    tokens: Sequence[TokenMark]
    metrics: Sequence[Fact]
    source: str


@dataclass(frozen=True)
class Details:
    """Blocks that are collapsed in HTML and printed in full."""

    summary: str
    blocks: "Sequence[Block]"


@dataclass(frozen=True)
class SignatureLines:
    """Lines to write on by hand."""

    labels: Sequence[str]


Block = Paragraph | Items | Facts | Table | MeanMaps | PairCard | Details | SignatureLines


@dataclass(frozen=True)
class Chapter:
    """A chapter; key: its anchor."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report. as_of: ISO 8601 time of the newest fact in it, which does not depend on when it is rendered."""

    run_id: str
    as_of: str
    overline: str
    title: str
    summary: Sequence[Block]
    chapters: Sequence[Chapter]
    footer: str
    color_scale: Picture


_NOT_SHOWN = ("key", "kind", "cell", "target", "as_of", "alt", "view_alt", "overlay_alt")


def visible_strings(value: Any) -> Iterator[str]:
    """Yield every string that a reader sees, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Picture):
        return
    elif isinstance(value, Sequence):
        for entry in value:
            yield from visible_strings(entry)
    elif is_dataclass(value):
        for each in fields(value):
            if each.name not in _NOT_SHOWN:
                yield from visible_strings(getattr(value, each.name))
