"""Character spans of a caption's tokens, for any tokenizer, from the text of the stored tokens.

Format characters (Unicode category Cf: joiners, soft hyphens, byte order marks) are invisible, and some tokenizers drop
them. Text is compared without them, here and in the SQL views; spans refer to the caption as it is.
"""

import re
import unicodedata
from collections.abc import Sequence

# The other planes of Unicode have ideographs only, or nothing. To try them all takes a second of every start.
_CODES = (*range(0x20000), *range(0xE0000, 0xE1000))
_CHARACTERS = [(chr(code), unicodedata.category(chr(code))) for code in _CODES]
COMBINING = "".join(re.escape(char) for char, category in _CHARACTERS if category.startswith("M"))
"""All combining marks, for use within the brackets of a regular expression."""
LETTERS = rf"[^\W_]+(?:[{COMBINING}]+[^\W_]*)*"
"""Regular expression of letters and digits with their marks, such as vowel signs. The SQL views have the same."""
_FORMAT = re.compile("[" + "".join(re.escape(char) for char, category in _CHARACTERS if category == "Cf") + "]")
del _CHARACTERS, _CODES
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # decodes from a part of a character's bytes

Span = tuple[int, int]
"""A range of characters: the index of the first one, and the index after the last one."""


def normalize_text(text: str) -> str:
    """Return text in lower case and without format characters.

    Each character is lowered by itself, as in DuckDB: `str.lower` can change the number of characters.
    """
    if text.isascii():  # a fraction of the time
        return text.lower()
    return _FORMAT.sub("", "".join(char.lower()[0] for char in text))


def character_offsets(text: str) -> Sequence[int]:
    """Return the index in `text` of each character of its normalized form."""
    hidden = set() if text.isascii() else {match.start() for match in _FORMAT.finditer(text)}
    return [index for index in range(len(text)) if index not in hidden] if hidden else range(len(text))


def original_span(start: int, end: int, offsets: Sequence[int]) -> Span:
    """Convert a non-empty span of normalized text into a span of the original text with these `character_offsets`."""
    return offsets[start], offsets[end - 1] + 1


def token_spans(caption: str, tokens: Sequence[str], special: Sequence[bool]) -> list[Span | None]:
    """Return the span of each token of a caption; None for special tokens and those that were not located.

    Tokens are matched in order to the normalized caption. White space and marks may be skipped, since tokenizers drop
    them. Letters and digits may not be skipped, except non-ASCII ones after a token that is only a part of a character.
    After the first token that does not match, no token is located.
    """
    text, offsets, position, is_partial = normalize_text(caption), character_offsets(caption), 0, False
    spans: list[Span | None] = [None] * len(tokens)
    for index, token in enumerate(tokens):
        part = normalize_text(token).strip()
        if special[index] or not part:
            continue
        if _BROKEN in part:
            is_partial = True
            continue
        while not text.startswith(part, position):
            skipped = text[position : position + 1]
            if not skipped or (skipped.isalnum() and not (is_partial and not skipped.isascii())):
                return spans
            position += 1
        spans[index] = original_span(position, position + len(part), offsets)
        position, is_partial = position + len(part), False
    return spans


def token_range(span: Span, spans: Sequence[Span | None], tokens: Sequence[str]) -> tuple[int, int] | None:
    """Return the numbers, counted from 1, of the first and last token of the phrase at a span of the caption.

    Return None unless tokens (with these `token_spans`) start and end exactly where the phrase does, and all of them
    are located. A truncated phrase therefore has no range.
    """
    inside = [index for index, own in enumerate(spans) if own is not None and own[0] < span[1] and own[1] > span[0]]
    if not inside or phrase_span(first := inside[0] + 1, last := inside[-1] + 1, spans) != span:
        return None
    parts = zip(spans[first - 1 : last], tokens[first - 1 : last], strict=True)
    is_located = all(own is not None or not normalize_text(token).strip() for own, token in parts)
    return (first, last) if is_located else None


def phrase_span(first: int, last: int, spans: Sequence[Span | None]) -> Span:
    """Return the span of a phrase, given the numbers (from 1) of its first and last token, and the `token_spans`."""
    start, end = spans[first - 1], spans[last - 1]
    if start is None or end is None:
        raise ValueError(f"tokens: got {first} to {last} of {spans}, expected tokens that are located")
    return start[0], end[1]
