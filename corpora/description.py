"""What a corpus is, before one pays for an audit: counts, sizes, captions, errors, look-alikes, and a sample."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from corpora.corpus import Corpus
from corpora.likeness import groups, hashes
from corpora.records import Pair, Reason, Rejected, digest

EXAMPLES: Final = 3
"""Rejected rows that are shown for each reason."""

QUANTILES: Final = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Description:
    """A corpus in figures. Quantiles are those of `QUANTILES`, None without a pair.

    listed: rows that the corpus announces. duplicates: rows that repeat a pair, which is nothing to mend. errors: other
    rejected rows by reason. examples: some of each, duplicates too, in order of the rows. alike: groups of pairs that
    are near duplicates of one another (of different image files), the largest first.
    attributes: column -> pairs that have a value. sample: pairs drawn by hash, for a contact sheet.
    """

    format: str
    listed: int
    pairs: int
    images: int
    captions: int
    duplicates: int
    errors: Mapping[str, int]
    examples: Mapping[str, Sequence[Rejected]]
    widths: Sequence[float] | None
    heights: Sequence[float] | None
    caption_chars: Sequence[float] | None
    attributes: Mapping[str, int]
    alike: Sequence[Sequence[Pair]]
    sample: Sequence[Pair]
    digest: str


def describe(corpus: Corpus, sample: int = 48, seed: int = 0) -> Description:
    """Read a corpus once, as an audit does, and say what it is.

    Raises:
        CorpusError: the corpus as a whole cannot be read.
    """
    pairs: list[Pair] = []
    errors: Counter[str] = Counter()
    examples: dict[str, list[Rejected]] = defaultdict(list)
    attributes: Counter[str] = Counter()

    def rows() -> Iterable[Pair | Rejected]:
        for row in corpus.pairs():
            if isinstance(row, Pair):
                pairs.append(row)
                attributes.update(list(row.attributes))
            else:
                errors[str(row.reason)] += 1
                if len(examples[str(row.reason)]) < EXAMPLES:
                    examples[str(row.reason)].append(row)
            yield row

    found = digest(rows())
    duplicates = errors.pop(str(Reason.DUPLICATE_PAIR), 0)
    by_image = {pair.image_sha256: pair for pair in reversed(pairs)}
    firsts = sorted(by_image.values(), key=lambda pair: pair.row)
    alike = [[firsts[place] for place in places] for places in groups(hashes(pair.fingerprint for pair in firsts))]
    return Description(
        format=corpus.format,
        listed=corpus.count(),
        pairs=len(pairs),
        images=len(firsts),
        captions=len({pair.caption for pair in pairs}),
        duplicates=duplicates,
        errors=dict(errors.most_common()),
        examples=examples,
        widths=_quantiles([pair.width for pair in firsts]),
        heights=_quantiles([pair.height for pair in firsts]),
        caption_chars=_quantiles([len(pair.caption) for pair in pairs]),
        attributes=dict(sorted(attributes.items())),
        alike=alike,
        sample=sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}\x1f{pair.pair_id}".encode()).digest())[:sample],
        digest=found,
    )


def _quantiles(values: Sequence[int]) -> list[float] | None:
    return [float(value) for value in np.quantile(values, QUANTILES, method="nearest")] if values else None
