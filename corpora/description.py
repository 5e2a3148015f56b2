"""Summary of a corpus before an audit: counts, sizes, captions, errors, near-duplicates and a sample."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from corpora.corpus import Corpus
from corpora.perceptual_hash import group_near_duplicates, parse_hashes
from corpora.records import Pair, Reason, Rejected, digest

EXAMPLES: Final = 3
"""Number of rejected rows per reason that a `Description` contains as examples."""

QUANTILES: Final = (0.0, 0.05, 0.5, 0.95, 1.0)
"""Quantiles of widths, heights and caption lengths in a `Description`."""


@dataclass(frozen=True)
class Description:
    """Statistics of a corpus.

    Attributes:
        format: Name of the format in `corpora.FORMATS`.
        rows: Number of rows in the corpus.
        pairs: Number of rows that can be audited.
        images: Number of distinct image files.
        captions: Number of distinct captions.
        duplicates: Number of rows that repeat an earlier pair. They need no fix.
        errors: Number of rejected rows per reason, without duplicates.
        examples: The first `EXAMPLES` rejected rows per reason, including duplicates.
        widths: Quantiles (`QUANTILES`) of the width of distinct images in pixels. None without pairs.
        heights: Quantiles of the height, as in `widths`.
        caption_chars: Quantiles of the number of characters per caption. None without pairs.
        attributes: Number of pairs by value, per column of the corpus other than image and caption.
        near_duplicates: Groups of pairs whose image files differ but look alike, the largest group first.
        sample: Pairs sampled by hash, for a contact sheet.
        digest: sha256 that identifies the corpus; see `corpora.digest`.
    """

    format: str
    rows: int
    pairs: int
    images: int
    captions: int
    duplicates: int
    errors: Mapping[str, int]
    examples: Mapping[str, Sequence[Rejected]]
    widths: Sequence[float] | None
    heights: Sequence[float] | None
    caption_chars: Sequence[float] | None
    attributes: Mapping[str, Mapping[str, int]]
    near_duplicates: Sequence[Sequence[Pair]]
    sample: Sequence[Pair]
    digest: str


def describe(corpus: Corpus, sample: int = 48, seed: int = 0) -> Description:
    """Read all images and captions of a corpus as an audit does, and summarize them. All rows are kept in memory.

    Args:
        corpus: The corpus to read.
        sample: Number of pairs to sample.
        seed: Random seed of the sample.
    """
    rows = list(corpus.pairs())
    pairs = [row for row in rows if isinstance(row, Pair)]
    rejected: dict[str, list[Rejected]] = defaultdict(list)
    for row in rows:
        if isinstance(row, Rejected):
            rejected[str(row.reason)].append(row)
    errors = Counter({reason: len(found) for reason, found in rejected.items()})
    duplicates = errors.pop(str(Reason.DUPLICATE_PAIR), 0)
    by_image = {pair.image_sha256: pair for pair in reversed(pairs)}
    firsts = sorted(by_image.values(), key=lambda pair: pair.row)
    groups = group_near_duplicates(parse_hashes(pair.fingerprint for pair in firsts))
    return Description(
        format=corpus.format,
        rows=corpus.count(),
        pairs=len(pairs),
        images=len(firsts),
        captions=len({pair.caption for pair in pairs}),
        duplicates=duplicates,
        errors=dict(errors.most_common()),
        examples={reason: found[:EXAMPLES] for reason, found in rejected.items()},
        widths=_quantiles([pair.width for pair in firsts]),
        heights=_quantiles([pair.height for pair in firsts]),
        caption_chars=_quantiles([len(pair.caption) for pair in pairs]),
        attributes={
            name: Counter(pair.attributes[name] for pair in pairs if name in pair.attributes)
            for name in sorted({name for pair in pairs for name in pair.attributes})
        },
        near_duplicates=[[firsts[position] for position in group] for group in groups],
        sample=sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed}\x1f{pair.pair_id}".encode()).digest())[:sample],
        digest=digest(rows),
    )


def _quantiles(values: Sequence[int]) -> list[float] | None:
    return [float(value) for value in np.quantile(values, QUANTILES, method="nearest")] if values else None
