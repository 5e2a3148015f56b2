"""Phrases of captions that could be artefacts, from the captions alone: no labels, no list of words, no language.

A *fixed run* around a word is the longest run of words in which it nearly always stands. Boilerplate is the longest
part of a fixed run, two words at least and its own among them, that captions can do without: in at least half of the
distinct captions that have it, the two words (or ends) on its left and on its right also meet somewhere in the
corpus. What a caption is about fails this: its words come in other wordings too, so their run is short, and without
it a gap is left. One word alone never counts, for that is how adjectives behave.
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
"""Share of a word's occurrences from which its run is fixed; of the pairs, from which a phrase has no counterpart."""

_WORD = re.compile(rf"{LETTERS}(?:(?:[-_/:'’]|\.(?=\d))+{LETTERS})*")
_MARKS = re.compile(r"[^\w\s]+")
_TRIMMED = 16  # words of a run up to which its parts are tried: their number grows with the square
_END = 0  # stands twice before and behind each caption

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Candidate:
    """A phrase, and where it stands: by caption, spans that do not overlap."""

    region: str
    kind: Kind
    spans: Mapping[str, tuple[Span, ...]]


def phrase_words(text: str) -> list[str]:
    """The words of a phrase or caption; hyphens and the like hold a word together."""
    return _WORD.findall(normalize_text(text))


def quote(phrase: str) -> str:
    """The name of a candidate."""
    return f'"{phrase}"'


def shape(word: str) -> str:
    """A word with every digit a 9."""
    return re.sub(r"\d", "9", word)


def find_candidates(captions: Mapping[str, int], listed: Sequence[str], min_pairs: int) -> list[Candidate]:
    """All candidates of a corpus, each name once, by name.

    captions: distinct captions, and how many pairs have each. min_pairs: fewer pairs make no candidate, unless it is
    listed.
    """
    text = _Text(captions, min_pairs)
    found: dict[str, Candidate] = {}
    for candidate in (*_listed(captions, listed), *text.identifiers(), *text.boilerplate(), *text.punctuation()):
        found.setdefault(candidate.region, candidate)
    return [found[region] for region in sorted(found)]


def _listed(captions: Iterable[str], phrases: Sequence[str]) -> Iterable[Candidate]:
    for phrase in phrases:
        words = normalize_text(phrase).split()
        whole = _whole(words)
        spans = {
            caption: tuple(original_span(*match.span(), character_offsets(caption)) for match in matches)
            for caption in captions
            if (matches := list(whole.finditer(normalize_text(caption))))
        }
        if spans:
            yield Candidate(quote(" ".join(words)), "listed", spans)


def _whole(words: Sequence[str]) -> re.Pattern[str]:
    """A phrase whose words at its ends are whole; a mark at an end may stand anywhere."""
    before = rf"(?<![^\W_])(?<![{COMBINING}])" if re.match(LETTERS, words[0]) else ""
    behind = rf"(?![^\W_]|[{COMBINING}])" if re.search(rf"{LETTERS}\Z", words[-1]) else ""
    return re.compile(before + r"\s+".join(map(re.escape, words)) + behind)


def _parts(length: int, place: int) -> Iterable[tuple[int, int]]:
    """First word and size of the parts of a run that have the word at `place` and another one, longest first."""
    yield 0, length
    for size in range(length - 1, 1, -1) if length <= _TRIMMED else ():
        for first in range(max(0, place - size + 1), min(place, length - size) + 1):
            yield first, size


class _Text:
    """The captions as one row of symbols: words, and the shapes of words with digits that hardly any pair shares."""

    def __init__(self, captions: Mapping[str, int], min_pairs: int) -> None:
        self._pairs, self._least, self._total = captions, min_pairs, sum(captions.values())
        self._captions = sorted(captions)
        seen = {caption: normalize_text(caption) for caption in self._captions}
        matches = {caption: list(_WORD.finditer(seen[caption])) for caption in self._captions}
        having: Counter[str] = Counter()
        for caption, found in matches.items():
            for word in {match.group() for match in found}:
                having[word] += captions[caption]
        alike = {word for word in having if not self._varies(word, having)}
        ids: dict[str, int] = {"": _END}
        self._varied: set[int] = set()
        flat, owner, spans = [_END] * 2, [0] * 2, [(0, 0)] * 2
        for number, caption in enumerate(self._captions):
            places = character_offsets(caption)
            for match in matches[caption]:
                word = match.group()
                if varies := word not in alike:
                    # Its shape may be a word of its own, from which it must differ in name too.
                    word = shape(word) if shape(word) not in alike else shape(word).replace("9", "#")
                flat.append(ids.setdefault(word, len(ids)))
                if varies:
                    self._varied.add(flat[-1])
                owner.append(number)
                spans.append(original_span(*match.span(), places))
            flat += [_END] * 2
            owner += [number] * 2
            spans += [(0, 0)] * 2
        self._symbols, self._spans = list(ids), spans
        self._flat, self._owner = np.array(flat, dtype=np.int64), np.array(owner, dtype=np.int64)
        self._weights = np.array([captions[caption] for caption in self._captions], dtype=np.int64)
        order = np.argsort(self._flat, kind="stable")
        self._occurrences = np.split(order, np.cumsum(np.bincount(self._flat, minlength=len(ids)))[:-1])
        self._seen = seen

    def _varies(self, word: str, having: Mapping[str, int]) -> bool:
        return having[word] < self._least and any(char.isdigit() for char in word)

    def _enough(self, places: Places, most: float = NEARLY_ALL) -> bool:
        pairs = int(self._weights[np.unique(self._owner[places])].sum())
        return self._least <= pairs <= most * self._total

    def _fixed_run(self, symbol: int) -> tuple[Places, int, int]:
        """Where the longest run begins in which a word nearly always stands, its length, and the word's place in it."""
        starts, length, place = self._occurrences[symbol], 1, 0
        least, grown = NEARLY_ALL * len(starts), True
        while grown:
            grown = False
            for offset, shift in ((-1, -1), (length, 0)):
                beside = self._flat[starts + offset]
                values, counts = np.unique(beside, return_counts=True)
                top = int(counts.argmax())
                if values[top] != _END and counts[top] >= least:
                    starts, length, grown = starts[beside == values[top]] + shift, length + 1, True
                    place -= shift
                    break
        return starts, length, place

    def _alone(self, starts: Places, length: int) -> NDArray[np.bool_]:
        """Where the run is all that the caption says."""
        alone: NDArray[np.bool_] = (self._flat[starts - 1] == _END) & (self._flat[starts + length] == _END)
        return alone

    def _candidate(self, kind: Kind, starts: Places, length: int) -> Candidate:
        spans: dict[str, list[Span]] = defaultdict(list)
        for start in np.sort(starts).tolist():
            span = (self._spans[start][0], self._spans[start + length - 1][1])
            of_caption = spans[self._captions[self._owner[start]]]
            if not of_caption or of_caption[-1][1] <= span[0]:
                of_caption.append(span)
        first = int(starts[0])
        words = (self._symbols[symbol] for symbol in self._flat[first : first + length])
        return Candidate(quote(" ".join(words)), kind, {caption: tuple(own) for caption, own in spans.items()})

    def identifiers(self) -> Iterable[Candidate]:
        """Words with a digit, each in its fixed run; those that differ from pair to pair together, by their shape."""
        for symbol, word in enumerate(self._symbols):
            # What differs from pair to pair has a counterpart even where every pair has one.
            varied = symbol in self._varied
            most = 1.0 if varied else NEARLY_ALL
            if (varied or any(char.isdigit() for char in word)) and self._enough(self._occurrences[symbol], most):
                starts, length, _ = self._fixed_run(symbol)
                if 2 * self._alone(starts, length).sum() > len(starts):
                    starts, length = self._occurrences[symbol], 1
                yield self._candidate("identifier", starts, length)

    def boilerplate(self) -> Iterable[Candidate]:
        """Fixed runs that captions can do without; see the module."""
        for symbol in range(1, len(self._symbols)):
            if not self._enough(self._occurrences[symbol], 1.0):
                continue
            starts, length, place = self._fixed_run(symbol)
            if length < 2 or not self._enough(starts):
                continue
            for first, size in _parts(length, place):
                if self._dispensable(starts + first, size):
                    yield self._candidate("boilerplate", starts + first, size)
                    break

    @cached_property
    def _neighbours(self) -> tuple[Places, int, Places]:
        """A number for each pair of neighbouring symbols, how many there are, and all pairs of pairs that meet."""
        pairs = np.unique(self._flat[:-1] * len(self._symbols) + self._flat[1:], return_inverse=True)[1]
        count = int(pairs.max(initial=0)) + 1
        return pairs, count, np.unique(pairs[:-2] * count + pairs[2:])

    def _dispensable(self, starts: Places, length: int) -> bool:
        """Whether what is left and right of a run meets elsewhere too, in half of the captions that have the run."""
        pairs, count, known = self._neighbours
        wanted = pairs[starts - 2] * count + pairs[starts + length]
        nearest = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        meets = (known[nearest] == wanted) & ~self._alone(starts, length)
        owners = self._owner[starts]
        return 2 * len(np.unique(owners[meets])) >= len(np.unique(owners))

    def punctuation(self) -> Iterable[Candidate]:
        """Marks that stand outside words."""
        spans: dict[str, dict[str, list[Span]]] = defaultdict(lambda: defaultdict(list))
        for caption in self._captions:
            between = _WORD.sub(lambda match: " " * len(match.group()), self._seen[caption])
            places = character_offsets(caption)
            for match in _MARKS.finditer(between):
                spans[match.group()][caption].append(original_span(*match.span(), places))
        for marks, having in sorted(spans.items()):
            if self._least <= sum(self._pairs[caption] for caption in having) <= NEARLY_ALL * self._total:
                yield Candidate(quote(marks), "punctuation", {caption: tuple(own) for caption, own in having.items()})
