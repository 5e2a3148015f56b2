"""Names that can be mistaken for each other, by Unicode's table of confusable characters (UTS 39)."""

import unicodedata

from stores import ledger


def is_alike(one: str, other: str) -> bool:
    """Return whether two names look alike in upper or lower case, whatever their punctuation and spaces."""
    return not _list_skeletons(one).isdisjoint(_list_skeletons(other))


def _list_skeletons(name: str) -> set[str]:
    texts = (_decompose(name), name.casefold(), name.upper())
    return {ledger.normalize_person("".join(map(_get_prototype, text))) for text in texts}


def _decompose(text: str) -> str:
    return unicodedata.normalize("NFKD", text)


def _get_prototype(character: str) -> str:
    """Return the character, or characters, that all characters of the same look stand for, such as `l` for 1 and I."""
    from confusable_homoglyphs.confusables import confusables_data  # slow to import, and seldom needed

    alike: list[str] = [entry["c"] for entry in confusables_data.get(character, ())]
    if len(alike) != 1:  # a prototype lists all that look like it, any other character only its prototype
        return character
    is_pair = len(confusables_data.get(alike[0], ())) == 1  # a prototype that only one character looks like
    return min(character, alike[0]) if is_pair else alike[0]
