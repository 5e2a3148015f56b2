"""Foils: captions of the corpus that say something else than a pair's own, against which its score is held."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable

from tasks.text.collocations import adjacent_words
from tasks.text.spans import LETTERS, normalize_text

_WORD = re.compile(LETTERS)
_TRIES = 20_000  # captions looked at for one pair; in a corpus with more, a foil that is rarer than that is not found


def words(caption: str) -> frozenset[str]:
    """The words of a caption, as slices are made of them."""
    return frozenset(_WORD.findall(normalize_text(caption)))


def _numbered(word: str) -> bool:
    return any(unicodedata.category(char).startswith("N") for char in word)


class Captions:
    """The distinct captions of a corpus, in an order that only seed and captions decide.

    A content word is one that at most half of them have: no list of stop words, so that it works in any language.
    """

    def __init__(self, captions: Iterable[str], seed: int) -> None:
        self._seed = seed
        self._ordered = sorted(set(captions), key=self._digest)
        self._words = {caption: words(caption) for caption in self._ordered}
        having = Counter(word for found in self._words.values() for word in found)
        common = {word for word, count in having.items() if 2 * count > len(self._ordered)}
        self._common = common
        self._content = {caption: found - common for caption, found in self._words.items()}
        # Equally frequent words in an order that the captions decide, not their set.
        plain = (word for word in having if not _numbered(word))
        self._frequent = sorted(plain, key=lambda word: (-having[word], word))

    def _digest(self, text: str) -> bytes:
        return hashlib.sha256(f"{self._seed}\x1f{text}".encode()).digest()

    def commonest(self, count: int, phrase: str) -> list[str]:
        """The words that most distinct captions have, without digits and without those of a phrase: they say least."""
        own = words(phrase)
        return [word for word in self._frequent[: count + len(own)] if word not in own][:count]

    def differ(self, caption: str, other: str) -> bool:
        """Whether two captions of the corpus say something else: other content words."""
        return self._content[caption] != self._content[other]

    def foils(
        self,
        own: str,
        pair_id: str,
        slice_kind: str,
        name: str,
        count: int,
        admits: Callable[[str], bool] = lambda _: True,
    ) -> list[str]:
        """Up to `count` foils of a pair's caption, or of a part of it, as a finding's slice asks for them.

        None has the same content words. Those for a word's slice, or a collocation's, lack it; those for the whole
        corpus share no content word. For any other slice (an attribute's value, a cluster of maps), which the caption
        need not mention, that is all. Which of the possible ones are taken depends on seed and pair alone. admits:
        what else must hold for a caption to be taken.
        """
        content = words(own) - self._common
        found: list[str] = []
        start = int.from_bytes(self._digest(pair_id)[:8]) % len(self._ordered)
        for step in range(min(len(self._ordered), _TRIES)):
            caption = self._ordered[(start + step) % len(self._ordered)]
            if self._is_foil(caption, content, slice_kind, name) and admits(caption):
                found.append(caption)
                if len(found) == count:
                    break
        return found

    def _is_foil(self, caption: str, content: frozenset[str], slice_kind: str, name: str) -> bool:
        if self._content[caption] == content:
            return False
        if slice_kind == "word":
            return name not in self._words[caption]
        if slice_kind == "phrase":
            return name not in adjacent_words(caption)
        return slice_kind != "corpus" or not self._content[caption] & content
