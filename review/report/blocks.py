"""Building blocks of a report: plain data that the HTML and PDF writers render, each in its own way.

Every string is text, never markup: a caption that looks like a tag or a command is shown as it is.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from review.presentation.pairs import Picture

TEXTS: Final[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("texts.toml").read_text(encoding="utf-8"))
"""Sentences of the report, by chapter; most have placeholders, such as {region}."""
TITLES: Final = {chapter: texts["title"] for chapter, texts in TEXTS.items() if "title" in texts}
"""Titles of the chapters, by key; chapters on alerts have titles of their own."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text. `kind` selects its style; `strong` emphasizes the kind `state`, which is a badge."""

    text: str
    # plain, lead, note, source, heading (within a chapter), code, state, or scale (top of the color scale)
    kind: str = "plain"
    strong: bool = False


@dataclass(frozen=True)
class Item:
    """An entry of a list: `lead` begins its text, and links to the chapter with the key `target`."""

    lead: str
    text: str
    target: str | None = None


@dataclass(frozen=True)
class Items:
    """A list of items, optionally numbered."""

    items: Sequence[Item]
    numbered: bool = False


@dataclass(frozen=True)
class Fact:
    """A labeled value. `code` is monospaced text below it; `main` emphasizes it or gives it a line of its own."""

    label: str
    value: str
    code: str | None = None
    main: bool = False


@dataclass(frozen=True)
class Facts:
    """Labeled values. `kind` is 'rows' (one per line), 'figures' (large numbers in a row) or 'terms' (definitions)."""

    facts: Sequence[Fact]
    kind: str = "rows"


@dataclass(frozen=True)
class Column:
    """A column of a table. `cell` formats a row of the lake as text, or is the key of this text in the row."""

    title: str
    cell: str | Callable[[Mapping[str, Any]], str]
    kind: str = "text"  # or number, name (untrusted text), code, digest
    width: int = 1  # relative to other columns

    def format(self, row: Mapping[str, Any]) -> str:
        """Return the text of this column in a row; an empty string if the row has none."""
        return self.cell(row) if callable(self.cell) else str(row[self.cell] or "")


@dataclass(frozen=True)
class Table:
    """A table of formatted rows. `bold_rows` are the indices of rows in bold."""

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
    """Return a table of rows that come from the lake; the columns format their cells."""
    return Table(columns, [[column.format(row) for column in columns] for row in rows], caption, bold_rows)


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture with a caption (`lead` and `text`) and a description for readers who cannot see it."""

    picture: Picture
    lead: str
    text: str
    alt: str


@dataclass(frozen=True)
class MeanMaps:
    """Mean maps side by side, with a note and the upper end of their common color scale."""

    maps: Sequence[CaptionedPicture]
    note: str
    top: str


@dataclass(frozen=True)
class TokenMark:
    """A token of a caption. `shade` is from 0 to SHADES; `outlined` if it is part of the alert's phrase."""

    text: str
    nats: str
    shade: int
    special: bool
    outlined: bool


@dataclass(frozen=True)
class PairCard:
    """One pair, with pictures and their descriptions, caption, tokens and numbers."""

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
    """Empty lines for a handwritten signature."""

    labels: Sequence[str]


@dataclass(frozen=True)
class Sheet:
    """Small pictures of pairs, only in HTML; each cell has a `name`, a `caption`, and a `picture` or a `problem`."""

    cells: Sequence[Mapping[str, str | None]]


Block = Paragraph | Items | Facts | Table | MeanMaps | PairCard | Details | SignatureLines | Sheet


@dataclass(frozen=True)
class Chapter:
    """A chapter of the report. `key` is its anchor in links."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report. `as_of` is the ISO 8601 time of its newest fact, which does not depend on when it is rendered."""

    run_id: str
    as_of: str
    overline: str
    title: str
    summary: Sequence[Block]
    chapters: Sequence[Chapter]
    footer: str
    color_scale: Picture
