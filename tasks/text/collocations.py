"""Collocations: word pairs used instead of noun phrases, in any language, without tagger or word list.

A collocation is two words with nothing but white space between them that belong together and occur in other pairs than
either word alone. The association of two words is the share of the rarer word's pairs that have both. Where one of the
words is mostly more strongly associated with its other neighbor, the two are no collocation ("consolidation in", where
"in the" belongs together): phrases end where association is weakest (Magerman and Marcus, "Parsing a natural language
using mutual information statistics", AAAI 1990).
"""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

from tasks.text.captions import Captions
from tasks.text.spans import LETTERS, normalize_text

MIN_SHARE, MAX_SHARE = 0.1, 0.8
"""For both words of a collocation: limits on the share of the pairs with the word that also have the collocation.

Below the minimum for one of them, that word occurs next to all sorts of words, as articles and prepositions do. Above
the maximum, the collocation is the same slice as the word.
"""

_WORD = re.compile(LETTERS)

_Bigram = tuple[str, str]


def _split(caption: str) -> tuple[list[str], list[_Bigram | None]]:
    """Return the words of a caption, and its bigrams: None where more than white space is between two words."""
    text = normalize_text(caption)
    matches = list(_WORD.finditer(text))
    bigrams = [
        (left.group(), right.group()) if text[left.end() : right.start()].isspace() else None
        for left, right in pairwise(matches)
    ]
    return [match.group() for match in matches], bigrams


def adjacent_words(caption: str) -> frozenset[str]:
    """Return the bigrams of a caption, written as in names of slices: two words with a space between them."""
    return frozenset(" ".join(bigram) for bigram in _split(caption)[1] if bigram is not None)


def find_collocations(captions: Captions, min_pairs: int) -> frozenset[str]:
    """Return the collocations of a corpus, each in at least `min_pairs` pairs. Captions have those that are adjacent.

    Captions are split anew in each pass, because the words of all of them would take much memory.
    """
    words: Counter[str] = Counter()
    counts: Counter[_Bigram] = Counter()
    for caption, pairs in captions.with_pairs():
        own, bigrams = _split(caption)
        words.update(dict.fromkeys(own, pairs))
        counts.update(dict.fromkeys((bigram for bigram in bigrams if bigram is not None), pairs))
    half = captions.pairs.sum() / 2
    shares = {
        bigram: sorted(pairs / words[word] for word in bigram) for bigram, pairs in counts.items() if pairs >= min_pairs
    }
    cohesive = _select_cohesive(captions, {bigram: high for bigram, (_, high) in shares.items()})
    return frozenset(
        " ".join(bigram)
        for bigram in cohesive
        if shares[bigram][0] >= MIN_SHARE
        and shares[bigram][1] <= MAX_SHARE
        and all(words[word] <= half for word in bigram)
    )


def _select_cohesive(captions: Captions, association: Mapping[_Bigram | None, float]) -> set[_Bigram]:
    """Return the bigrams that, in most places, have a stronger association than either neighboring bigram."""
    surplus: Counter[_Bigram] = Counter()
    for caption, pairs in captions.with_pairs():
        padded = [None, *_split(caption)[1], None]
        for before, bigram, after in zip(padded, padded[1:], padded[2:], strict=False):
            if bigram is not None and bigram in association:
                # Of two equally associated bigrams the latter counts: they have nearly the same pairs.
                own = association[bigram]
                is_weaker = association.get(before, 0) > own or association.get(after, 0) >= own
                surplus[bigram] += -pairs if is_weaker else pairs
    return {bigram for bigram, count in surplus.items() if count > 0}
