"""Samples of a corpus: the rows with the smallest hashes, so that most of a sample stays when the corpus grows."""

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
        seed: Seed of the hashes.
        stratify: Column to stratify by, or None. Each of its values, and the rows without one, gives equally many
            rows as far as it has them. The remainder goes to the smallest hashes, at most one more per value.
    """

    size: int
    seed: int
    stratify: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample of the rows of a corpus.

    Attributes:
        total_rows: Number of rows of the corpus.
        hashes: Hash of each sampled row, by row number.
    """

    sampling: Sampling
    total_rows: int
    hashes: Mapping[int, int]

    @property
    def skipped_rows(self) -> int:
        """The number of rows that are not in the sample."""
        return self.total_rows - len(self.hashes)

    def contains(self, number: int, row: Row) -> bool:
        """Return whether a row is in the sample. Raises CorpusError if the row has changed since."""
        if (expected := self.hashes.get(number)) is None:
            return False
        if expected != _hash(row, self.sampling.seed):
            raise CorpusError(
                f"{row.location} is not the row that was there when the sample was drawn. The corpus must not change "
                "while it is read: start again."
            )
        return True


@dataclass(slots=True)
class _Stratum:
    """The number of rows with one value, and those with the smallest hashes, the largest of these on top."""

    size: int = 0
    heap: list[tuple[int, int]] = field(default_factory=list)  # hash and row number, both negated

    def add(self, ranked: tuple[int, int], keep: int) -> int:
        """Add a row, keep the `keep` smallest, and return by how many entries the heap has grown."""
        self.size += 1
        entry = (-ranked[0], -ranked[1])
        if len(self.heap) < keep:
            heapq.heappush(self.heap, entry)
            return 1
        heapq.heappushpop(self.heap, entry)
        return 0

    def trim(self, keep: int) -> int:
        while len(self.heap) > keep:
            heapq.heappop(self.heap)
        return len(self.heap)

    def smallest(self) -> list[tuple[int, int]]:
        return sorted((-rank, -number) for rank, number in self.heap)


def draw_sample(rows: Iterable[Row], sampling: Sampling) -> Sample:
    """Sample rows without opening any image.

    A row is hashed by seed, file name and caption; a row that cannot be read by its position. Broken rows are therefore
    as frequent in the sample as in the corpus (or stratum). At most three times `sampling.size` entries are in memory.

    Raises:
        CorpusError: The corpus cannot be read, no row has a value in the column to stratify by, or that column has
            more values than `sampling.size`.
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
            # Further rows never raise the quota, so entries above it cannot be in the sample.
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
    quota = _quota((stratum.size for stratum in strata), size)
    ranked = [stratum.smallest() for stratum in strata]
    count = sum(min(len(rows), quota) for rows in ranked)
    for rows in ranked:
        yield from rows[:quota]
    yield from heapq.nsmallest(size - count, (rows[quota] for rows in ranked if len(rows) > quota))


def _quota(sizes: Iterable[int], total: int) -> int:
    """Return the most rows that each stratum gives if all give equally many, as far as they can, and `total` in all."""
    ordered = sorted(sizes)
    for index, size in enumerate(ordered):
        if (quota := total // (len(ordered) - index)) < size:
            return quota
        total -= size
    return ordered[-1] if ordered else 0


def _hash(row: Row, seed: int) -> int:
    name = row.file_name if row.place is None else row.place.name
    # ascii() spells any value, lone surrogates included, in one way.
    identity = ascii((row.location,) if row.problem else (name, row.caption))
    return int.from_bytes(hashlib.sha256(f"sample\x1f{seed}\x1f{identity}".encode()).digest()[:16], "big")
