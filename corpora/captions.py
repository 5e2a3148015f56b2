"""Validation and minimal cleaning of captions.

A caption is changed as little as possible, so that the audited model reads the text of its corpus.
"""

import unicodedata

from corpora.errors import CaptionError
from corpora.records import DEFAULT_LIMITS, Limits, Reason, is_storable

# Control, format (zero-width and direction marks) and separator characters.
_INVISIBLE = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
_WHITE_SPACE = "\t\n\v\f\r"  # control characters that every tokenizer treats as white space
# Share of control characters other than white space, and of replacement characters. Random bytes decoded as Latin-1
# have nearly a quarter; text has hardly any.
_MAX_GARBAGE = 0.2


def clean_caption(raw: str, limits: Limits = DEFAULT_LIMITS) -> str:
    """Normalize a caption to NFC and strip outer white space.

    Inner line breaks, repeated spaces, control characters, HTML tags and HTML entities stay unchanged, because the
    model's tokenizer handles them. Tokens that the tokenizer truncates are counted when pairs are attributed.

    Args:
        raw: The caption as stored in the corpus.
        limits: Upper limits; only `max_caption_chars` is used.

    Returns:
        The caption to audit.

    Raises:
        CaptionError: The caption has no visible character (reason `empty_caption`), contains lone surrogates or NUL
            (`caption_encoding`), consists to a fifth or more of control and replacement characters
            (`caption_not_text`), or is too long (`caption_too_long`).
    """
    text = raw.strip()
    # Checked before NFC, whose cost grows with the square of a run of combining marks.
    if len(text) > limits.max_caption_chars:
        raise CaptionError(
            Reason.CAPTION_TOO_LONG,
            f"The caption has {len(text)} characters (expected at most {limits.max_caption_chars}). Shorten it.",
        )
    if not is_storable(text):
        raise CaptionError(
            Reason.CAPTION_ENCODING,
            "The caption contains NUL or bytes that are not UTF-8 (expected Unicode text). "
            "Remove the NUL, or export the metadata again as UTF-8.",
        )
    text = unicodedata.normalize("NFC", text)
    if text.isprintable() and text and "\N{REPLACEMENT CHARACTER}" not in text:
        return text  # every character is visible or an inner space
    if all(unicodedata.category(character) in _INVISIBLE for character in text):
        raise CaptionError(
            Reason.EMPTY_CAPTION,
            "The caption is empty or has only invisible characters (expected text). Add a caption or drop the row.",
        )
    garbage = sum(
        letter == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(letter) == "Cc"
        for letter in text
        if letter not in _WHITE_SPACE
    )
    if garbage >= _MAX_GARBAGE * len(text):
        raise CaptionError(
            Reason.CAPTION_NOT_TEXT,
            f"{garbage} of the {len(text)} characters of the caption are control or replacement characters (expected "
            "text). Correct the column or its encoding, or drop the row.",
        )
    return text
