"""Where the tokens of a caption stand in it, whatever the tokenizer: read off the strings of the stored tokens.

Format characters (Unicode's Cf: joiners, soft hyphens, byte order marks) are seen by nobody, and some tokenizers drop
them. Words are compared without them, here as in the views; spans are of the caption as it is.
"""

import re
import sys
import unicodedata
from collections.abc import Sequence

COMBINING = "".join(
    re.escape(char) for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char).startswith("M")
)
"""All combining marks, to stand in brackets of a regular expression."""
LETTERS = rf"[^\W_]+(?:[{COMBINING}]+[^\W_]*)*"
"""Letters and digits with their marks, such as vowel signs, as a regular expression; the views have the same in SQL."""

Span = tuple[int, int]
"""First character and the one behind the last."""

_FORMAT = re.compile(
    "["
    + "".join(re.escape(char) for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char) == "Cf")
    + "]"
)
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # how a part of a character's bytes decodes


def lower_per_character(text: str) -> str:
    """Lower case, character by character: as long as the text, which `str.lower` is not, and as DuckDB does it."""
    return "".join(char.lower()[0] for char in text)


def normalize_text(text: str) -> str:
    """Lower case, without format characters."""
    return _FORMAT.sub("", lower_per_character(text))


def character_offsets(text: str) -> Sequence[int]:
    """Where each character of the visible text stands in the text."""
    hidden = {match.start() for match in _FORMAT.finditer(text)}
    return [place for place in range(len(text)) if place not in hidden] if hidden else range(len(text))


def original_span(start: int, end: int, places: Sequence[int]) -> Span:
    """A span, not empty, of the visible text as one of the text."""
    return places[start], places[end - 1] + 1


def token_spans(caption: str, tokens: Sequence[str], special: Sequence[bool]) -> list[Span | None]:
    """The characters that each token stands for; None for special tokens and for what cannot be told.

    Tokens are matched one after the other to the visible text of the caption. White space and marks may be passed over,
    since tokenizers drop them; letters and digits may not, unless the token before is a part of a character that is
    not ASCII. From the first token that does not fit, none is told.
    """
    text, places, place, lost = normalize_text(caption), character_offsets(caption), 0, False
    spans: list[Span | None] = [None] * len(tokens)
    for index, token in enumerate(tokens):
        wanted = normalize_text(token).strip()
        if special[index] or not wanted:
            continue
        if _BROKEN in wanted:
            lost = True
            continue
        while not text.startswith(wanted, place):
            if place >= len(text) or (text[place].isalnum() and not (lost and not text[place].isascii())):
                return spans
            place += 1
        spans[index] = original_span(place, place + len(wanted), places)
        place, lost = place + len(wanted), False
    return spans


def token_range(span: Span, spans: Sequence[Span | None], tokens: Sequence[str]) -> tuple[int, int] | None:
    """First and last token (from 1) of a phrase; None unless tokens begin and end where it does, all of them told.

    A phrase that truncation cut off has no tokens at its end, hence none.
    """
    inside = [index for index, own in enumerate(spans) if own is not None and own[0] < span[1] and own[1] > span[0]]
    if not inside:
        return None
    first, last = inside[0], inside[-1]
    begins, ends = spans[first], spans[last]
    if begins is None or ends is None or (begins[0], ends[1]) != span:
        return None
    told = all(
        spans[index] is not None or not normalize_text(tokens[index]).strip() for index in range(first, last + 1)
    )
    return (first + 1, last + 1) if told else None


def phrase_span(first: int, last: int, spans: Sequence[Span | None]) -> Span:
    """The characters from one token to another (from 1), as `positions` found them. Raises ValueError if untold."""
    begins, ends = spans[first - 1], spans[last - 1]
    if begins is None or ends is None:
        raise ValueError(f"tokens: got {first} to {last} of {spans}, expected tokens whose place is known")
    return begins[0], ends[1]
