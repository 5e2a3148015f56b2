"""Sampling of corpora: the rows with the smallest hashes.

Most rows of a sample therefore stay in it when the corpus grows.
"""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from corpora.errors import CorpusError
from corpora.readers.protocol import Row

_Entries: TypeAlias = list[tuple[int, int]]
"""Hash and number of each row of a stratum that is a candidate for the sample."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of a sample.

    Attributes:
        size: Number of rows to sample.
        seed: Random seed, which is part of each row's hash.
        stratify: Column to stratify by, or None. Each value of the column is a stratum; rows without a value are one
            more. All strata contribute the same number of rows; a stratum with fewer rows contributes all. If `size`
            cannot be divided equally, the rows with the smallest hashes fill the rest, at most one more per stratum.
    """

    size: int
    seed: int
    stratify: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of the rows of a corpus.

    Attributes:
        sampling: Settings of the sample.
        total_rows: Number of rows in the corpus.
        hashes: Mapping from the number of each sampled row to its hash.
    """

    sampling: Sampling
    total_rows: int
    hashes: Mapping[int, int]

    @property
    def skipped_rows(self) -> int:
        """Number of rows that are not in the sample."""
        return self.total_rows - len(self.hashes)

    def contains(self, number: int, row: Row) -> bool:
        """Return whether a row is in the sample.

        Raises:
            CorpusError: The row has changed since the sample was drawn.
        """
        if (expected := self.hashes.get(number)) is None:
            return False
        if expected != _hash(row, self.sampling.seed):
            raise CorpusError(
                f"{row.location} is not the row that was there when the sample was drawn. The corpus must not change "
                "while it is read. Start again."
            )
        return True


def draw_sample(rows: Iterable[Row], sampling: Sampling) -> Sample:
    """Sample the rows of a corpus without opening any image.

    The hash of a row covers the seed, the file name and the caption. The hash of an unreadable row covers the seed and
    its location instead, so broken rows are as frequent in the sample as in the corpus (or stratum). Memory holds at
    most three times `sampling.size` entries.

    Raises:
        CorpusError: The corpus cannot be read, no row has a value in the column to stratify by, or the number of
            distinct values of that column exceeds `sampling.size`.
    """
    sizes: Counter[str | None] = Counter()
    strata: defaultdict[str | None, _Entries] = defaultdict(list)
    number_of_entries = 0
    columns: set[str] = set()
    for number, row in enumerate(rows):
        value = None
        if sampling.stratify is not None:
            columns.update(row.attributes)
            value = row.attributes.get(sampling.stratify)
        sizes[value] += 1
        strata[value].append((_hash(row, sampling.seed), number))
        if len(sizes) > sampling.size:
            raise CorpusError(
                f"[corpus] stratify: column {sampling.stratify!r} has more than {sampling.size} values, the size of "
                "the sample. Name a column with fewer values, or raise [corpus] sample."
            )
        number_of_entries += 1
        if number_of_entries >= 3 * sampling.size:
            _trim(strata, sizes, sampling.size)
            number_of_entries = sum(map(len, strata.values()))
    if sampling.stratify is not None and sampling.stratify not in columns:
        raise CorpusError(
            f"[corpus] stratify: no row of the corpus has a value in column {sampling.stratify!r}. Name one of the "
            f"columns with values: {sorted(columns)[:20]}."
        )
    quota = _trim(strata, sizes, sampling.size)
    chosen = [entry for entries in strata.values() for entry in entries[:quota]]
    rest = (entries[quota] for entries in strata.values() if len(entries) > quota)
    chosen += heapq.nsmallest(sampling.size - len(chosen), rest)
    return Sample(sampling, sizes.total(), {number: rank for rank, number in chosen})


def _trim(strata: Mapping[str | None, _Entries], sizes: Counter[str | None], size: int) -> int:
    """Sort the entries (hash, row number) of each stratum, and drop those that cannot be in a sample of `size` rows.

    Further rows never increase the quota. An entry beyond the quota can be in the sample only if it is the next one.

    Returns:
        The quota: the number of rows that each stratum contributes, as far as it has them.
    """
    quota = _quota(sizes.values(), size)
    for entries in strata.values():
        entries.sort()
        del entries[quota + 1 :]
    return quota


def _quota(sizes: Iterable[int], total: int) -> int:
    """Return the largest number of rows per stratum that gives at most `total` rows. Smaller strata give all rows."""
    ordered = sorted(sizes)
    for index, size in enumerate(ordered):
        if (quota := total // (len(ordered) - index)) < size:
            return quota
        total -= size
    return ordered[-1] if ordered else 0


def _hash(row: Row, seed: int) -> int:
    name = row.file_name if row.place is None else row.place.name
    # ascii() represents any value unambiguously, including lone surrogates.
    identity = ascii((row.location,) if row.problem else (name, row.caption))
    return int.from_bytes(hashlib.sha256(f"sample\x1f{seed}\x1f{identity}".encode()).digest()[:16], "big")
