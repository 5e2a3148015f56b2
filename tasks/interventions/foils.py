"""Foils: captions of the corpus with another meaning, with which the score of a pair's own caption is compared."""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from tasks.text.collocations import adjacent_words
from tasks.text.spans import LETTERS, normalize_text

Accept = Callable[[str], bool]

_WORD = re.compile(LETTERS)


def words_of(caption: str) -> frozenset[str]:
    """Return the normalized words of a caption, split in the same way as the words that name slices."""
    return frozenset(_split(caption))


def _split(caption: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(normalize_text(caption)))


def _leave_out_each(words: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield each place of a caption, and the caption's words without the one there."""
    for place in range(len(words)):
        yield place, words[:place] + words[place + 1 :]


class FoilFinder:
    """Finds foils among the distinct captions of a corpus, in an order that depends on the seed and the captions alone.

    A content word is a word that at most half of the captions contain. This needs no list of stop words.
    """

    def __init__(self, captions: Iterable[str], seed: int) -> None:
        self._seed = seed
        self._ordered = sorted(set(captions), key=self._digest)
        self._words = {caption: words_of(caption) for caption in self._ordered}
        frequency = Counter(word for words in self._words.values() for word in words)
        self._common = {word for word, count in frequency.items() if 2 * count > len(self._ordered)}
        self._content = {caption: words - self._common for caption, words in self._words.items()}
        # Equally frequent words in alphabetical order: the order of sets varies.
        words = (word for word in frequency if not any(unicodedata.category(char).startswith("N") for char in word))
        self._by_frequency = sorted(words, key=lambda word: (-frequency[word], word))

    def _digest(self, text: str) -> bytes:
        return hashlib.sha256(f"{self._seed}\x1f{text}".encode()).digest()

    def most_common_words(self, count: int, exclude: str) -> list[str]:
        """Return the `count` most frequent words of captions, except words with digits and the words of `exclude`."""
        excluded = words_of(exclude)
        return [word for word in self._by_frequency[: count + len(excluded)] if word not in excluded][:count]

    def differ(self, caption: str, other: str) -> bool:
        """Return whether two captions of the corpus have different sets of content words."""
        return self._content[caption] != self._content[other]

    def share_words(self, caption: str, other: str) -> bool:
        """Return whether two captions have a content word in common."""
        return bool((words_of(caption) - self._common) & words_of(other))

    def find(
        self, caption: str, pair_id: str, slice_kind: str, slice_name: str, count: int, accept: Accept | None = None
    ) -> list[str]:
        """Find up to `count` foils of a pair's caption, chosen by a hash of seed and pair.

        A foil differs from the caption in its content words. For a slice of a word or collocation, it does not contain
        that word or collocation; for the whole corpus, it shares no content word with the caption. The slice kind `any`
        depends on the caption alone: foils share no content word with it if there are such, else any will do. Foils
        that say nearly the same as the caption would hide a cue for what both say. `caption` may be a part of the
        pair's caption. `accept` returns whether a foil is valid.
        """
        if slice_kind == "any" and (apart := self.find(caption, pair_id, "corpus", slice_name, count, accept)):
            return apart
        content = words_of(caption) - self._common
        found: list[str] = []
        start = int.from_bytes(self._digest(pair_id)[:8]) % len(self._ordered)
        for step in range(len(self._ordered)):
            other = self._ordered[(start + step) % len(self._ordered)]
            if self._is_foil(other, content, slice_kind, slice_name) and (accept is None or accept(other)):
                found.append(other)
                if len(found) == count:
                    break
        return found

    @cached_property
    def _by_rest(self) -> dict[tuple[int, tuple[str, ...]], list[str]]:
        found: dict[tuple[int, tuple[str, ...]], list[str]] = defaultdict(list)
        for caption in self._ordered:
            for key in _leave_out_each(_split(caption)):
                found[key].append(caption)
        return found

    def find_minimal(self, caption: str, slice_kind: str, slice_name: str, count: int) -> list[str]:
        """Find up to `count` foils that differ from a caption in one word: exchanged, added or left out.

        They say what a region does for that word alone, such as "left" instead of "right". A foil of a word or
        collocation lacks it, so that the slice's own word is exchanged. Any other foil has different content words.
        """
        words, content, by_key = _split(caption), words_of(caption) - self._common, self._by_rest
        near = [other for key in _leave_out_each(words) for other in by_key.get(key, ())]  # exchanged
        near += [other for place in range(len(words) + 1) for other in by_key.get((place, words), ())]  # added
        near += [other for _, rest in _leave_out_each(words) for other in self._by_words.get(rest, ())]  # left out
        kind = "any" if slice_kind == "corpus" else slice_kind
        foils = (other for other in dict.fromkeys(near) if self._is_foil(other, content, kind, slice_name))
        return sorted(foils, key=self._digest)[:count]

    @cached_property
    def _by_words(self) -> dict[tuple[str, ...], list[str]]:
        found: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for caption in self._ordered:
            found[_split(caption)].append(caption)
        return found

    def _is_foil(self, caption: str, content: frozenset[str], slice_kind: str, slice_name: str) -> bool:
        if self._content[caption] == content:
            return False
        if slice_kind == "word":
            return slice_name not in self._words[caption]
        if slice_kind == "phrase":
            return slice_name not in adjacent_words(caption)
        return slice_kind != "corpus" or not self._content[caption] & content
