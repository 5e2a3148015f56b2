"""Collocations: what noun phrases are to captions of which nobody says the language, with neither tagger nor word list.

A collocation is two words with nothing but white space between them that belong together, while the pairs that have it
are others than those of either word. The two hold as close as the share that the collocation's pairs have of the rarer
word's. Where one of them mostly holds closer to its neighbour on the other side, the two are cut through what belongs
together ("consolidation in", where it is "in the" that does): phrases end where association is weakest (Magerman and
Marcus, "Parsing a natural language using mutual information statistics", AAAI 1990).
"""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

from tasks.text.spans import LETTERS, normalize_text

LEAST, MOST = 0.1, 0.8
"""Share of either word's pairs that a collocation has. Above, it is but another name of the word's slice. Below for one
of them, that word stands beside all sorts of others, as articles and prepositions do."""

_WORD = re.compile(LETTERS)

_Two = tuple[str, str]


def _read(caption: str) -> tuple[list[str], list[_Two | None]]:
    """The words of a caption, and each two successive ones: None where more than white space is between them."""
    text = normalize_text(caption)
    found = list(_WORD.finditer(text))
    twos = [
        (left.group(), right.group()) if text[left.end() : right.start()].isspace() else None
        for left, right in pairwise(found)
    ]
    return [match.group() for match in found], twos


def adjacent_words(caption: str) -> frozenset[str]:
    """Each two adjacent words of a caption, named as a slice is."""
    return frozenset(" ".join(two) for two in _read(caption)[1] if two is not None)


def find_collocations(captions: Mapping[str, int], min_pairs: int) -> dict[str, list[str]]:
    """The collocations of each caption, for captions that have any.

    captions: distinct captions, and how many pairs have each. min_pairs: fewer pairs make no collocation.
    """
    words: Counter[str] = Counter()
    having: Counter[_Two] = Counter()
    twos_of: dict[str, list[_Two | None]] = {}
    for caption, pairs in captions.items():
        own, twos_of[caption] = _read(caption)
        words.update(dict.fromkeys(own, pairs))
        having.update(dict.fromkeys((two for two in twos_of[caption] if two is not None), pairs))
    half = sum(captions.values()) / 2
    shares = {two: sorted(pairs / words[word] for word in two) for two, pairs in having.items() if pairs >= min_pairs}
    whole = _whole(captions, twos_of, {two: closest for two, (_, closest) in shares.items()})
    chosen = {
        two
        for two in whole
        if shares[two][0] >= LEAST and shares[two][1] <= MOST and all(words[word] <= half for word in two)
    }
    found = {
        caption: sorted(" ".join(two) for two in set(twos) if two is not None and two in chosen)
        for caption, twos in twos_of.items()
    }
    return {caption: names for caption, names in found.items() if names}


def _whole(
    captions: Mapping[str, int], twos_of: Mapping[str, list[_Two | None]], closeness: Mapping[_Two | None, float]
) -> set[_Two]:
    """Those of known closeness that in most places hold closer than either word does to what is beside it."""
    surplus: Counter[_Two] = Counter()
    for caption, pairs in captions.items():
        twos = [None, *twos_of[caption], None]
        for before, two, behind in zip(twos, twos[1:], twos[2:], strict=False):
            if two is not None and two in closeness:
                # Of two that are equally close the latter counts: they have the same pairs, or nearly so.
                cut = closeness.get(before, 0) > closeness[two] or closeness.get(behind, 0) >= closeness[two]
                surplus[two] += -pairs if cut else pairs
    return {two for two, more in surplus.items() if more > 0}
