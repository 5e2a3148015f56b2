"""Sampling of corpora: the rows with the smallest hashes.

Most rows of a sample therefore stay in it when the corpus grows.
"""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from corpora.errors import CorpusError
from corpora.readers.protocol import Row


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of a sample.

    Attributes:
        size: Number of rows to sample.
        seed: Random seed, which is part of each row's hash.
        stratify: Column to stratify by, or None. Each value of the column is a stratum; rows without a value are one
            more. All strata contribute the same number of rows; a stratum with fewer rows contributes all. If the size
            is not divisible, the rows with the smallest hashes fill the rest, at most one more row per stratum.
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


@dataclass(slots=True)
class _Stratum:
    """Number of rows with one value of the column, and a heap of the rows with the smallest hashes."""

    size: int = 0
    heap: list[tuple[int, int]] = field(default_factory=list)
    """Negated hash and negated row number of each row, so that the row with the largest hash is on top."""

    def add(self, ranked: tuple[int, int], keep: int) -> int:
        """Add a row, and keep only the rows with the smallest hashes.

        Args:
            ranked: Hash and number of the row.
            keep: Number of rows to keep.

        Returns:
            Number of entries by which the heap has grown, 0 or 1.
        """
        self.size += 1
        entry = (-ranked[0], -ranked[1])
        if len(self.heap) < keep:
            heapq.heappush(self.heap, entry)
            return 1
        heapq.heappushpop(self.heap, entry)
        return 0

    def trim(self, keep: int) -> int:
        """Keep only the `keep` rows with the smallest hashes, and return the number of remaining rows."""
        while len(self.heap) > keep:
            heapq.heappop(self.heap)
        return len(self.heap)

    def smallest(self) -> list[tuple[int, int]]:
        """Return hash and number of each kept row, sorted by hash."""
        return sorted((-rank, -number) for rank, number in self.heap)


def draw_sample(rows: Iterable[Row], sampling: Sampling) -> Sample:
    """Sample the rows of a corpus without opening any image.

    The hash of a row covers the seed, the file name and the caption. The hash of an unreadable row covers the seed and
    its location instead, so broken rows are as frequent in the sample as in the corpus (or stratum). Memory holds at
    most three times `sampling.size` entries.

    Args:
        rows: All rows of the corpus, in order.
        sampling: Settings of the sample.

    Raises:
        CorpusError: The corpus cannot be read, no row has a value in the column to stratify by, or the number of
            distinct values of that column exceeds `sampling.size`.
    """
    strata: dict[str | None, _Stratum] = {}
    columns: set[str] = set()
    total, entries, quota = 0, 0, sampling.size
    for number, row in enumerate(rows):
        total += 1
        value = None
        if sampling.stratify is not None:
            columns.update(row.attributes)
            value = row.attributes.get(sampling.stratify)
        stratum = strata.setdefault(value, _Stratum())
        if len(strata) > sampling.size:
            raise CorpusError(
                f"[corpus] stratify: column {sampling.stratify!r} has more than {sampling.size} values, the size of "
                "the sample. Name a column with fewer values, or raise [corpus] sample."
            )
        entries += stratum.add((_hash(row, sampling.seed), number), quota + 1)
        if entries > 2 * sampling.size + len(strata):
            # More rows never increase the quota, so entries beyond it cannot be in the sample.
            quota = _quota((stratum.size for stratum in strata.values()), sampling.size)
            entries = sum(stratum.trim(quota + 1) for stratum in strata.values())
    if sampling.stratify is not None and sampling.stratify not in columns:
        raise CorpusError(
            f"[corpus] stratify: no row of the corpus has a value in {sampling.stratify!r}. Name one of the columns "
            f"with values: {sorted(columns)[:20]}."
        )
    chosen = _choose(list(strata.values()), sampling.size)
    return Sample(sampling, total, {number: rank for rank, number in chosen})


def _choose(strata: list[_Stratum], size: int) -> Iterator[tuple[int, int]]:
    """Yield hash and number of each sampled row: an equal quota per stratum, then the smallest remaining hashes."""
    quota = _quota((stratum.size for stratum in strata), size)
    ranked = [stratum.smallest() for stratum in strata]
    count = sum(min(len(rows), quota) for rows in ranked)
    for rows in ranked:
        yield from rows[:quota]
    yield from heapq.nsmallest(size - count, (rows[quota] for rows in ranked if len(rows) > quota))


def _quota(sizes: Iterable[int], total: int) -> int:
    """Return the largest number of rows to take from each stratum without exceeding `total` rows.

    Args:
        sizes: Number of rows per stratum. A stratum with fewer rows than the quota contributes all its rows.
        total: Size of the sample.
    """
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
