"""Find phrases that could be artifacts from the captions alone, without labels, word lists or language models.

The *fixed run* of a word is the longest run of words that nearly always surrounds it. *Boilerplate* is the longest part
of a fixed run, of two words at least with the word among them, that captions can do without: in at least half of the
distinct captions with the part, the two words (or ends) to its left and the two to its right are also neighbors
elsewhere in the corpus. The subject of a caption is no boilerplate: it is worded in several ways, so its runs are
short, and leaving it out leaves a gap. A single word is never boilerplate, because adjectives behave in the same way.
"""

import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.text.captions import Captions
from tasks.text.spans import COMBINING, LETTERS, Span, character_offsets, normalize_text, original_span

Kind = Literal["listed", "identifier", "punctuation", "boilerplate"]

NEARLY_ALL = 0.95
"""Share of a word's occurrences in which its fixed run is the same. Also the largest share of pairs with a phrase."""

_WORD = re.compile(rf"{LETTERS}(?:(?:[-_/:'’]|\.(?=\d))+{LETTERS})*")
_MARKS = re.compile(r"[^\w\s]+")
_MAX_RUN = 16  # longest run whose parts are tried: their number grows with the square of its length
_BLOCK = 2**20
_END = 0  # symbol of a caption's start and end; two on either side of each caption

Positions = NDArray[np.int64]
_NO_PLACES = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True)
class Candidate:
    """A candidate phrase: `region` is its text in double quotes."""

    region: str
    kind: Kind


@dataclass(frozen=True)
class _Run:
    """A candidate that is a run of words, with the positions of its first word in the sequence of all captions."""

    candidate: Candidate
    starts: Positions
    length: int


def phrase_words(text: str) -> list[str]:
    """Return the normalized words of a phrase or caption; words joined by hyphens and the like count as one."""
    return _WORD.findall(normalize_text(text))


class Candidates:
    """All candidate phrases of a corpus, sorted by name, and their places.

    Listed phrases are always candidates; others must occur in at least `min_pairs` pairs. Listed phrases and marks are
    searched again in each caption. Not all occurrences of a run of words count: their places take 12 bytes each.
    """

    def __init__(self, captions: Captions, listed: Sequence[str], min_pairs: int) -> None:
        self._captions = captions
        patterns, marks = _find_listed_and_marks(captions, listed, min_pairs)
        corpus = _Corpus(captions, min_pairs)
        runs: dict[str, _Run] = {}
        kinds: dict[str, Kind] = dict.fromkeys(patterns, "listed")
        for run in chain(corpus.identifiers(), corpus.boilerplate()):
            if kinds.setdefault(run.candidate.region, run.candidate.kind) != "listed":
                runs.setdefault(run.candidate.region, run)
        marks = [text for text in marks if kinds.setdefault(f'"{text}"', "punctuation") == "punctuation"]
        self._candidates = [Candidate(region, kinds[region]) for region in sorted(kinds)]
        ranks = {candidate.region: rank for rank, candidate in enumerate(self._candidates)}
        self._patterns = [(ranks[region], pattern) for region, pattern in patterns.items()]
        self._marks = {text: ranks[f'"{text}"'] for text in marks}
        self._lengths = {ranks[region]: run.length for region, run in runs.items()}
        places = [corpus.places(run.starts) for run in runs.values()]
        counts = [len(run.starts) for run in runs.values()]
        run_ranks = np.repeat(np.array([ranks[region] for region in runs], dtype=np.int32), counts)
        owners, words = (np.concatenate([_NO_PLACES, *(place[side] for place in places)]) for side in (0, 1))
        order = np.lexsort((words, run_ranks, owners))
        self._owners, self._ranks, self._words = owners[order], run_ranks[order], words[order]

    def locate(self, caption: str) -> list[tuple[Candidate, Span]]:
        """Return the candidates in a caption of the corpus, sorted by name, with the place of each occurrence."""
        text, offsets = normalize_text(caption), character_offsets(caption)
        found = [(rank, match.span()) for rank, pattern in self._patterns for match in pattern.finditer(text)]
        if self._marks:
            marks = ((self._marks.get(match.group()), match.span()) for match in _find_marks(text))
            found += [(rank, span) for rank, span in marks if rank is not None]
        number = bisect_left(self._captions, caption)
        # Numbers of another type would make NumPy convert the whole array.
        start, end = np.searchsorted(self._owners, np.array([number, number + 1], dtype=np.int32)).tolist()
        if start < end:
            words = [match.span() for match in _WORD.finditer(text)]
            ends = dict.fromkeys(self._lengths, 0)
            for rank, first in zip(self._ranks[start:end].tolist(), self._words[start:end].tolist(), strict=True):
                if first >= ends[rank]:  # occurrences do not overlap
                    ends[rank] = first + self._lengths[rank]
                    found.append((rank, (words[first][0], words[ends[rank] - 1][1])))
        return [(self._candidates[rank], original_span(*span, offsets)) for rank, span in sorted(found)]


def _has_digit(word: str) -> bool:
    return any(char.isdigit() for char in word)


def _find_marks(text: str) -> Iterator[re.Match[str]]:
    """Find sequences of punctuation marks outside words in normalized text."""
    return _MARKS.finditer(_WORD.sub(lambda match: " " * len(match.group()), text))


def _find_listed_and_marks(
    captions: Captions, listed: Sequence[str], min_pairs: int
) -> tuple[dict[str, re.Pattern[str]], list[str]]:
    """Return the expression of each listed phrase that occurs, by region, and the marks in enough pairs."""
    words_of = [normalize_text(phrase).split() for phrase in listed]
    phrases = {f'"{" ".join(words)}"': _compile_phrase(words) for words in words_of}
    found: set[str] = set()
    pairs_of: Counter[str] = Counter()
    for caption, pairs in captions.with_pairs():
        text = normalize_text(caption)
        found.update(region for region, pattern in phrases.items() if region not in found and pattern.search(text))
        pairs_of.update(dict.fromkeys((match.group() for match in _find_marks(text)), pairs))
    most = NEARLY_ALL * captions.pairs.sum()
    marks = [text for text, pairs in sorted(pairs_of.items()) if min_pairs <= pairs <= most]
    return {region: pattern for region, pattern in phrases.items() if region in found}, marks


def _compile_phrase(words: Sequence[str]) -> re.Pattern[str]:
    """Return a regular expression for a phrase that does not match parts of words."""
    before = rf"(?<![^\W_])(?<![{COMBINING}])" if re.match(LETTERS, words[0]) else ""
    after = rf"(?![^\W_]|[{COMBINING}])" if re.search(rf"{LETTERS}\Z", words[-1]) else ""
    return re.compile(before + r"\s+".join(map(re.escape, words)) + after)


class _Corpus:
    """All captions as one sequence of symbols.

    A word is a symbol. Words with digits that are in fewer than `min_pairs` pairs share a symbol, their digit pattern.
    """

    def __init__(self, captions: Captions, min_pairs: int) -> None:
        self._weights, self._min_pairs, self._total = captions.pairs, min_pairs, int(captions.pairs.sum())
        pairs_of: Counter[str] = Counter()
        for caption, pairs in captions.with_pairs():
            pairs_of.update(dict.fromkeys(phrase_words(caption), pairs))
        fixed = {word for word, pairs in pairs_of.items() if pairs >= min_pairs or not _has_digit(word)}
        del pairs_of
        ids: dict[str, int] = {"": _END}
        self._patterns: set[int] = set()  # symbols that are digit patterns
        sequence, first_words = array("i", [_END] * 2), array("q")
        for caption in captions:
            first_words.append(len(sequence))
            for word in phrase_words(caption):
                symbol = word
                if is_pattern := word not in fixed:
                    symbol = re.sub(r"\d", "9", word)
                    # The pattern itself may be a word of the corpus: the two need different names.
                    symbol = symbol.replace("9", "#") if symbol in fixed else symbol
                sequence.append(ids.setdefault(symbol, len(ids)))
                if is_pattern:
                    self._patterns.add(sequence[-1])
            sequence.extend([_END] * 2)
        self._symbols = list(ids)
        self._sequence = np.frombuffer(sequence, dtype=np.int32)
        self._first_words = np.frombuffer(first_words, dtype=np.int64)  # position of the first word of each caption
        self._order = np.argsort(self._sequence, kind="stable")
        self._bounds = np.cumsum([0, *np.bincount(self._sequence, minlength=len(ids))])

    def _occurrences(self, symbol: int) -> Positions:
        found: Positions = self._order[self._bounds[symbol] : self._bounds[symbol + 1]]
        return found

    def _owners(self, positions: Positions) -> Positions:
        """Return the number of the caption at each position."""
        return np.searchsorted(self._first_words, positions, side="right") - 1

    def places(self, positions: Positions) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the number of the caption at each position, and the number of the word in it."""
        owners = self._owners(positions)
        return owners.astype(np.int32), (positions - self._first_words[owners]).astype(np.int32)

    def _is_frequent(self, positions: Positions, max_share: float = NEARLY_ALL) -> bool:
        """Return whether the positions are in at least `min_pairs` pairs, and in at most a share of all pairs."""
        pairs = int(self._weights[np.unique(self._owners(positions))].sum())
        return self._min_pairs <= pairs <= max_share * self._total

    def _fixed_run(self, symbol: int) -> tuple[Positions, int, int]:
        """Return the positions at which a word's fixed run starts, its length, and the index of the word in it."""
        starts, length, place = self._occurrences(symbol), 1, 0
        min_count, has_grown = NEARLY_ALL * len(starts), True
        while has_grown:
            has_grown = False
            for offset, shift in ((-1, -1), (length, 0)):
                neighbors = self._sequence[starts + offset]
                if len(neighbors) > len(self._symbols):  # sorting them would cost more than counting
                    counts = np.bincount(neighbors)
                    values = np.arange(len(counts))
                else:
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

    def _run(self, kind: Kind, starts: Positions, length: int) -> _Run:
        words = (self._symbols[symbol] for symbol in self._sequence[starts[0] : starts[0] + length])
        return _Run(Candidate(f'"{" ".join(words)}"', kind), starts, length)

    def identifiers(self) -> Iterable[_Run]:
        """Yield words with a digit, each with its fixed run; a digit pattern stands for words that vary by pair."""
        for symbol, word in enumerate(self._symbols):
            # Words that differ from pair to pair can be compared with each other, even where every pair has one.
            is_pattern = symbol in self._patterns
            max_share = 1.0 if is_pattern else NEARLY_ALL
            if (is_pattern or _has_digit(word)) and self._is_frequent(self._occurrences(symbol), max_share):
                starts, length, _ = self._fixed_run(symbol)
                if 2 * self._is_whole_caption(starts, length).sum() > len(starts):
                    starts, length = self._occurrences(symbol), 1
                yield self._run("identifier", starts, length)

    def boilerplate(self) -> Iterable[_Run]:
        """Yield the parts of fixed runs that captions can do without; see the docstring of the module."""
        for symbol in range(1, len(self._symbols)):
            if not self._is_frequent(self._occurrences(symbol), 1.0):
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
                    yield self._run("boilerplate", starts + first, size)
                    break

    @cached_property
    def _bigrams(self) -> Positions:
        """The codes of the distinct bigrams, sorted."""
        return _distinct(self._bigram_codes(block) for block in _blocks(len(self._sequence) - 1))

    def _bigram_codes(self, positions: Positions) -> Positions:
        codes: Positions = self._sequence[positions] * np.int64(len(self._symbols)) + self._sequence[positions + 1]
        return codes

    def _pair_codes(self, first: Positions, second: Positions) -> Positions:
        """Return a code for the pairs of the bigrams at some positions and those at others."""
        numbers = (np.searchsorted(self._bigrams, self._bigram_codes(positions)) for positions in (first, second))
        return next(numbers) * len(self._bigrams) + next(numbers)

    @cached_property
    def _adjacent_bigrams(self) -> Positions:
        """The codes of the distinct pairs of adjacent bigrams, sorted."""
        return _distinct(self._pair_codes(block, block + 2) for block in _blocks(len(self._sequence) - 3))

    def _is_dispensable(self, starts: Positions, length: int) -> bool:
        """Return whether, in half of the captions that have a run, the words around it are also neighbors elsewhere."""
        adjacent, keys = self._adjacent_bigrams, self._pair_codes(starts - 2, starts + length)
        # Not np.isin, which would go through all adjacent bigrams of the corpus for each run.
        nearest = np.minimum(np.searchsorted(adjacent, keys), len(adjacent) - 1)
        is_adjacent = (adjacent[nearest] == keys) & ~self._is_whole_caption(starts, length)
        owners = self._owners(starts)
        return 2 * len(np.unique(owners[is_adjacent])) >= len(np.unique(owners))


def _blocks(end: int) -> Iterator[Positions]:
    """Divide the positions before `end` into blocks, so that arrays made of them are small."""
    return (np.arange(start, min(start + _BLOCK, end)) for start in range(0, end, _BLOCK))


def _distinct(blocks: Iterable[Positions]) -> Positions:
    """Return the distinct values of some arrays, sorted."""
    return np.unique(np.concatenate([np.unique(block) for block in blocks]))
