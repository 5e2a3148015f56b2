"""What a report is made of: plain data, which the page and the PDF draw each in its own way and say alike.

Every string is text, never markup: a caption that looks like a tag or a command stays what it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from review.presentation.pairs import Picture


@dataclass(frozen=True)
class Say:
    """A paragraph; kind: 'plain', 'lead', 'note', 'source', or 'state' (a badge; `strong` if it weighs)."""

    text: str
    kind: str = "plain"
    strong: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading within a chapter."""

    text: str


@dataclass(frozen=True)
class Point:
    """An entry of a list: what it is about, what it says, and the chapter that it leads to."""

    lead: str
    text: str
    to: str | None = None


@dataclass(frozen=True)
class Points:
    """A list."""

    points: Sequence[Point]
    numbered: bool = False


@dataclass(frozen=True)
class Fact:
    """A labelled value; `code` is set in a fixed pitch below it, or alone."""

    label: str
    value: str
    code: str | None = None


@dataclass(frozen=True)
class Facts:
    """Labelled values, one a line."""

    facts: Sequence[Fact]


@dataclass(frozen=True)
class Figure:
    """One number, to be seen at a glance."""

    label: str
    value: str
    main: bool = False


@dataclass(frozen=True)
class Figures:
    """Numbers in a row."""

    figures: Sequence[Figure]


@dataclass(frozen=True)
class Column:
    """A column of a table; kind: 'text', 'number', 'name' (foreign text), 'code', 'digest'; wide: its part of it."""

    title: str
    kind: str = "text"
    wide: int = 1


@dataclass(frozen=True)
class Table:
    """Rows under columns; raised: numbers of the rows that are set bold."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    caption: str | None = None
    raised: Sequence[int] = ()


@dataclass(frozen=True)
class Terms:
    """Words and what they mean."""

    terms: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Mean:
    """A mean map with what it says, in words too."""

    picture: Picture
    lead: str
    text: str
    described: str


@dataclass(frozen=True)
class Means:
    """Mean maps side by side, with a note and their scale's upper end."""

    means: Sequence[Mean]
    note: str
    top: str


@dataclass(frozen=True)
class Scale:
    """The colour scale from 0 to `top`."""

    top: str


@dataclass(frozen=True)
class Metric:
    """A labelled number of a pair; wide: a line of its own."""

    label: str
    value: str
    wide: bool = False


@dataclass(frozen=True)
class Mark:
    """A token as it is shown; `shade` from 0 to SHADES; inside: of the phrase that is looked at."""

    text: str
    bits: str
    shade: int
    special: bool
    inside: bool


@dataclass(frozen=True)
class Card:
    """One pair: pictures with what they show in words, caption, tokens and numbers."""

    pair_id: str
    view: Picture | None
    overlay: Picture | None
    shown: str
    mapped: str
    fault: str | None
    caption: str
    marks: Sequence[Mark]
    held: Sequence[Metric]
    source: str


@dataclass(frozen=True)
class Folded:
    """What only some readers want; printed all the same."""

    summary: str
    parts: "Sequence[Part]"


@dataclass(frozen=True)
class Code:
    """Text of a fixed pitch, lines and all."""

    text: str


@dataclass(frozen=True)
class Lines:
    """Lines to write on by hand."""

    labels: Sequence[str]


Part = Say | Heading | Points | Facts | Figures | Table | Terms | Means | Scale | Card | Folded | Code | Lines


@dataclass(frozen=True)
class Chapter:
    """A chapter; key: by which it is found."""

    key: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Document:
    """A whole report. dated: when what it says was so, never when it was printed."""

    run_id: str
    dated: str
    over: str
    title: str
    head: Sequence[Part]
    chapters: Sequence[Chapter]
    foot: str
    scale: Picture
    text_top: str = field(default="")


def strings(value: Any) -> Iterator[str]:
    """Every string that a reader is shown, in order; keys, kinds and pictures are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Picture):
        return
    elif isinstance(value, Sequence):
        for entry in value:
            yield from strings(entry)
    elif is_dataclass(value):
        for each in fields(value):
            if each.name not in ("key", "kind", "to", "dated", "described", "shown", "mapped"):
                yield from strings(getattr(value, each.name))
