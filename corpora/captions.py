"""The hygiene of captions: as little as possible, so that the audited model sees what its corpus says."""

import unicodedata

from corpora.errors import CaptionError
from corpora.records import DEFAULT_LIMITS, Limits, Reason, is_storable

# Control, format (zero-width and direction marks) and separators: nothing that a reader sees.
_INVISIBLE = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
_FOLDED = "\t\n\v\f\r"  # white space to every tokenizer
_MOST_GARBAGE = 0.2  # of random bytes read as Latin-1 nearly a quarter are control characters, of text next to none


def clean_caption(raw: str, limits: Limits = DEFAULT_LIMITS) -> str:
    """Bring a caption into NFC and strip outer white space; all else stays as it is.

    Inner line breaks, runs of blanks and control characters are kept on purpose: a tokenizer may or may not
    fold them, and that is the model's business, not the reader's. So are HTML tags and entities: a model that was fed
    them has to be audited with them. What a model's tokenizer cuts off is counted where pairs are attributed.

    Raises:
        CaptionError: nothing visible (empty_caption), lone surrogates or NUL (caption_encoding), a fifth or more
            control and replacement characters (caption_not_text), or more than `limits.max_caption_chars` characters
            (caption_too_long).
    """
    text = raw.strip()
    # Before NFC, whose cost grows with the square of a run of combining marks.
    if len(text) > limits.max_caption_chars:
        raise CaptionError(
            Reason.CAPTION_TOO_LONG,
            f"The caption has {len(text)} characters, expected at most {limits.max_caption_chars}: "
            "shorten it; no model reads that much.",
        )
    if not is_storable(text):
        raise CaptionError(
            Reason.CAPTION_ENCODING,
            "The caption holds NUL or bytes that are not UTF-8, expected Unicode text: "
            "remove the NUL, or export the metadata again as UTF-8.",
        )
    text = unicodedata.normalize("NFC", text)
    if all(unicodedata.category(character) in _INVISIBLE for character in text):
        raise CaptionError(
            Reason.EMPTY_CAPTION,
            "The caption is empty or holds only invisible characters, expected text: fill it in or drop the row.",
        )
    garbage = sum(_is_garbage(character) for character in text)
    if garbage >= _MOST_GARBAGE * len(text):
        raise CaptionError(
            Reason.CAPTION_NOT_TEXT,
            f"{garbage} of the caption's {len(text)} characters are control or replacement characters, expected text: "
            "correct the column or its encoding, or drop the row.",
        )
    return text


def _is_garbage(character: str) -> bool:
    if character in _FOLDED:
        return False
    return character == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(character) == "Cc"
