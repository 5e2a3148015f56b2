"""Find phrases that could be artifacts from the captions alone, without labels, word lists or language models.

The *fixed run* of a word is the longest run of words that nearly always surrounds it. *Boilerplate* is the longest part
of a fixed run, of two words at least with the word among them, that captions can do without: in at least half of the
distinct captions with the part, the two words (or ends) to its left and the two to its right are also neighbors
elsewhere in the corpus. The subject of a caption is no boilerplate: it is worded in several ways, so its runs are
short, and leaving it out leaves a gap. A single word is never boilerplate, because adjectives behave in the same way.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.text.spans import COMBINING, LETTERS, Span, character_offsets, normalize_text, original_span

Kind = Literal["listed", "identifier", "punctuation", "boilerplate"]

NEARLY_ALL = 0.95
"""Share of a word's occurrences in which its fixed run is the same. Also the largest share of pairs with a phrase."""

_WORD = re.compile(rf"{LETTERS}(?:(?:[-_/:'’]|\.(?=\d))+{LETTERS})*")
_MARKS = re.compile(r"[^\w\s]+")
_MAX_RUN = 16  # longest run whose parts are tried: their number grows with the square of its length
_END = 0  # symbol of a caption's start and end; two on either side of each caption

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Candidate:
    """A candidate phrase: `region` is its text in double quotes, `spans` are its places by caption, without overlap."""

    region: str
    kind: Kind
    spans: Mapping[str, tuple[Span, ...]]


def phrase_words(text: str) -> list[str]:
    """Return the normalized words of a phrase or caption; words joined by hyphens and the like count as one."""
    return _WORD.findall(normalize_text(text))


def find_candidates(captions: Mapping[str, int], listed: Sequence[str], min_pairs: int) -> list[Candidate]:
    """Find all candidate phrases, given the number of pairs of each caption; sorted by name, without duplicates.

    Listed phrases are always candidates; others must occur in at least `min_pairs` pairs.
    """
    corpus = _Corpus(captions, min_pairs)
    candidates: dict[str, Candidate] = {}
    for candidate in (*_find_listed(captions, listed), *corpus.identifiers(), *corpus.boilerplate(), *corpus.marks()):
        candidates.setdefault(candidate.region, candidate)
    return [candidates[region] for region in sorted(candidates)]


def _has_digit(word: str) -> bool:
    return any(char.isdigit() for char in word)


def _find_listed(captions: Iterable[str], phrases: Sequence[str]) -> Iterable[Candidate]:
    for phrase in phrases:
        words = normalize_text(phrase).split()
        pattern = _compile_phrase(words)
        spans = {
            caption: tuple(original_span(*match.span(), character_offsets(caption)) for match in matches)
            for caption in captions
            if (matches := list(pattern.finditer(normalize_text(caption))))
        }
        if spans:
            yield Candidate(f'"{" ".join(words)}"', "listed", spans)


def _compile_phrase(words: Sequence[str]) -> re.Pattern[str]:
    """Return a regular expression for a phrase that does not match parts of words."""
    before = rf"(?<![^\W_])(?<![{COMBINING}])" if re.match(LETTERS, words[0]) else ""
    after = rf"(?![^\W_]|[{COMBINING}])" if re.search(rf"{LETTERS}\Z", words[-1]) else ""
    return re.compile(before + r"\s+".join(map(re.escape, words)) + after)


class _Corpus:
    """All captions as one sequence of symbols.

    A word is a symbol. Words with digits that are in fewer than `min_pairs` pairs share a symbol, their digit pattern.
    """

    def __init__(self, captions: Mapping[str, int], min_pairs: int) -> None:
        self._pairs, self._min_pairs, self._total = captions, min_pairs, sum(captions.values())
        self._captions = sorted(captions)
        self._texts = {caption: normalize_text(caption) for caption in self._captions}
        matches = {caption: list(_WORD.finditer(self._texts[caption])) for caption in self._captions}
        pairs_of: Counter[str] = Counter()
        for caption, found in matches.items():
            pairs_of.update(dict.fromkeys((match.group() for match in found), captions[caption]))
        fixed = {word for word, pairs in pairs_of.items() if pairs >= min_pairs or not _has_digit(word)}
        ids: dict[str, int] = {"": _END}
        self._patterns: set[int] = set()  # symbols that are digit patterns
        sequence, owners, spans = [_END] * 2, [0] * 2, [(0, 0)] * 2
        for number, caption in enumerate(self._captions):
            offsets = character_offsets(caption)
            for match in matches[caption]:
                word = match.group()
                if is_pattern := word not in fixed:
                    word = re.sub(r"\d", "9", word)
                    # The pattern itself may be a word of the corpus: the two need different names.
                    word = word.replace("9", "#") if word in fixed else word
                sequence.append(ids.setdefault(word, len(ids)))
                if is_pattern:
                    self._patterns.add(sequence[-1])
                owners.append(number)
                spans.append(original_span(*match.span(), offsets))
            sequence += [_END] * 2
            owners += [number] * 2
            spans += [(0, 0)] * 2
        self._symbols, self._spans = list(ids), spans
        self._sequence, self._owners = np.array(sequence, dtype=np.int64), np.array(owners, dtype=np.int64)
        self._weights = np.array([captions[caption] for caption in self._captions], dtype=np.int64)
        order = np.argsort(self._sequence, kind="stable")
        self._occurrences = np.split(order, np.cumsum(np.bincount(self._sequence, minlength=len(ids)))[:-1])

    def _is_frequent(self, positions: Positions, max_share: float = NEARLY_ALL) -> bool:
        """Return whether the positions are in at least `min_pairs` pairs, and in at most a share of all pairs."""
        pairs = int(self._weights[np.unique(self._owners[positions])].sum())
        return self._min_pairs <= pairs <= max_share * self._total

    def _fixed_run(self, symbol: int) -> tuple[Positions, int, int]:
        """Return the positions at which a word's fixed run starts, its length, and the index of the word in it."""
        starts, length, place = self._occurrences[symbol], 1, 0
        min_count, has_grown = NEARLY_ALL * len(starts), True
        while has_grown:
            has_grown = False
            for offset, shift in ((-1, -1), (length, 0)):
                neighbors = self._sequence[starts + offset]
                values, counts = np.unique(neighbors, return_counts=True)
                top = int(counts.argmax())
                if values[top] != _END and counts[top] >= min_count:
                    starts, length, has_grown = starts[neighbors == values[top]] + shift, length + 1, True
                    place -= shift
                    break
        return starts, length, place

    def _is_whole_caption(self, starts: Positions, length: int) -> NDArray[np.bool_]:
        whole: NDArray[np.bool_] = (self._sequence[starts - 1] == _END) & (self._sequence[starts + length] == _END)
        return whole

    def _candidate(self, kind: Kind, starts: Positions, length: int) -> Candidate:
        spans: dict[str, list[Span]] = defaultdict(list)
        for start in np.sort(starts).tolist():
            span = (self._spans[start][0], self._spans[start + length - 1][1])
            of_caption = spans[self._captions[self._owners[start]]]
            if not of_caption or of_caption[-1][1] <= span[0]:
                of_caption.append(span)
        first = int(starts[0])
        words = (self._symbols[symbol] for symbol in self._sequence[first : first + length])
        return Candidate(f'"{" ".join(words)}"', kind, {caption: tuple(own) for caption, own in spans.items()})

    def identifiers(self) -> Iterable[Candidate]:
        """Yield words with a digit, each with its fixed run; a digit pattern stands for words that vary by pair."""
        for symbol, word in enumerate(self._symbols):
            # Words that differ from pair to pair can be compared with each other, even where every pair has one.
            is_pattern = symbol in self._patterns
            max_share = 1.0 if is_pattern else NEARLY_ALL
            if (is_pattern or _has_digit(word)) and self._is_frequent(self._occurrences[symbol], max_share):
                starts, length, _ = self._fixed_run(symbol)
                if 2 * self._is_whole_caption(starts, length).sum() > len(starts):
                    starts, length = self._occurrences[symbol], 1
                yield self._candidate("identifier", starts, length)

    def boilerplate(self) -> Iterable[Candidate]:
        """Yield the parts of fixed runs that captions can do without; see the docstring of the module."""
        for symbol in range(1, len(self._symbols)):
            if not self._is_frequent(self._occurrences[symbol], 1.0):
                continue
            starts, length, place = self._fixed_run(symbol)
            if length < 2 or not self._is_frequent(starts):
                continue
            parts = (  # with the word, longest first: the index of the first word, and the number of words
                (first, size)
                for size in range(length, 1 if length <= _MAX_RUN else length - 1, -1)
                for first in range(max(0, place - size + 1), min(place, length - size) + 1)
            )
            for first, size in parts:
                if self._is_dispensable(starts + first, size):
                    yield self._candidate("boilerplate", starts + first, size)
                    break

    @cached_property
    def _adjacent_bigrams(self) -> tuple[Positions, int, Positions]:
        """Return the number of the bigram at each position, the count of bigrams, and which bigrams are adjacent."""
        bigrams = np.unique(self._sequence[:-1] * len(self._symbols) + self._sequence[1:], return_inverse=True)[1]
        count = int(bigrams.max(initial=0)) + 1
        return bigrams, count, np.unique(bigrams[:-2] * count + bigrams[2:])

    def _is_dispensable(self, starts: Positions, length: int) -> bool:
        """Return whether, in half of the captions that have a run, the words around it are also neighbors elsewhere."""
        bigrams, count, adjacent = self._adjacent_bigrams
        keys = bigrams[starts - 2] * count + bigrams[starts + length]
        # Not np.isin, which would go through all adjacent bigrams of the corpus for each run.
        nearest = np.minimum(np.searchsorted(adjacent, keys), len(adjacent) - 1)
        is_adjacent = (adjacent[nearest] == keys) & ~self._is_whole_caption(starts, length)
        owners = self._owners[starts]
        return 2 * len(np.unique(owners[is_adjacent])) >= len(np.unique(owners))

    def marks(self) -> Iterable[Candidate]:
        """Yield candidates for sequences of punctuation marks outside words."""
        spans: dict[str, dict[str, list[Span]]] = defaultdict(lambda: defaultdict(list))
        for caption in self._captions:
            without_words = _WORD.sub(lambda match: " " * len(match.group()), self._texts[caption])
            offsets = character_offsets(caption)
            for match in _MARKS.finditer(without_words):
                spans[match.group()][caption].append(original_span(*match.span(), offsets))
        for marks, of_captions in sorted(spans.items()):
            pairs = sum(self._pairs[caption] for caption in of_captions)
            if self._min_pairs <= pairs <= NEARLY_ALL * self._total:
                own = {caption: tuple(places) for caption, places in of_captions.items()}
                yield Candidate(f'"{marks}"', "punctuation", own)
