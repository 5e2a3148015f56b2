"""Which rows are read when not all are wanted: those of the smallest hashes. Most stay when the corpus grows."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from corpora.errors import CorpusError
from corpora.readers.protocol import Row


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many rows are wanted, and the seed that draws them.

    stratify: a column. Each of its values, and the rows without one, gives equally many rows, as far as it has them;
    what is left goes to the smallest hashes, one more for a value.
    """

    size: int
    seed: int
    stratify: str | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample: the hashes of the drawn rows by row number, and how many rows there were to draw from."""

    sampling: Sampling
    listed: int
    hashes: Mapping[int, int]

    @property
    def left_out(self) -> int:
        """The number of rows that were not drawn."""
        return self.listed - len(self.hashes)

    def takes(self, number: int, row: Row) -> bool:
        """Tell whether a row was drawn. Raises CorpusError if it is another one now."""
        if (drawn := self.hashes.get(number)) is None:
            return False
        if drawn != _hash(row, self.sampling.seed):
            raise CorpusError(
                f"{row.where} is not the row that was there when the sample was drawn, expected a corpus that stays as "
                "it is while it is read: begin again."
            )
        return True


@dataclass(slots=True)
class _Stratum:
    """Rows of one value: how many were seen, and those of the smallest hashes, the largest of them on top."""

    size: int = 0
    heap: list[tuple[int, int]] = field(default_factory=list)  # hash and row number, both negative

    def add(self, ranked: tuple[int, int], keep: int) -> int:
        """Take a row note, of which the `keep` smallest stay. Returns by how many the heap has grown."""
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


def draw(rows: Iterable[Row], sampling: Sampling) -> Drawn:
    """Draw a sample from rows whose images nobody opens.

    A row's hash is that of seed, file name and caption; of a row that cannot be read, that of the place where it
    stands. So broken rows are as frequent in the sample as in the corpus (of a stratum). What is held in memory are at
    most three times as many notes as rows are wanted.

    Raises:
        CorpusError: the corpus cannot be read, no row has a value in the column, or it has more values than rows are
            wanted.
    """
    strata: dict[str | None, _Stratum] = {}
    columns: set[str] = set()
    listed, held, level = 0, 0, sampling.size
    for number, row in enumerate(rows):
        listed += 1
        value = None
        if sampling.stratify is not None:
            columns.update(row.attributes)
            value = row.attributes.get(sampling.stratify)
        stratum = strata.setdefault(value, _Stratum())
        if len(strata) > sampling.size:
            raise CorpusError(
                f"[corpus] stratify: column {sampling.stratify!r} has more values than the {sampling.size} rows of the "
                "sample, expected a column of few values: name another one, or draw more."
            )
        held += stratum.add((_hash(row, sampling.seed), number), level + 1)
        if held > 2 * sampling.size + len(strata):
            # More rows never raise what a value may give at most: what is beyond it now will not be drawn.
            level = _level((stratum.size for stratum in strata.values()), sampling.size)
            held = sum(stratum.trim(level + 1) for stratum in strata.values())
    if sampling.stratify is not None and sampling.stratify not in columns:
        raise CorpusError(
            f"[corpus] stratify: no row of the corpus has a value in {sampling.stratify!r}, columns with values are "
            f"{sorted(columns)[:20]}: name one of those."
        )
    chosen = _chosen(list(strata.values()), sampling.size)
    return Drawn(sampling, listed, {number: rank for rank, number in chosen})


def _chosen(strata: list[_Stratum], size: int) -> Iterator[tuple[int, int]]:
    level = _level((stratum.size for stratum in strata), size)
    ranked = [stratum.smallest() for stratum in strata]
    taken = sum(min(len(rows), level) for rows in ranked)
    for rows in ranked:
        yield from rows[:level]
    yield from heapq.nsmallest(size - taken, (rows[level] for rows in ranked if len(rows) > level))


def _level(sizes: Iterable[int], wanted: int) -> int:
    """The most that each may give if all are to give alike, as far as they have it, and `wanted` rows in total."""
    ordered = sorted(sizes)
    for index, size in enumerate(ordered):
        if (level := wanted // (len(ordered) - index)) < size:
            return level
        wanted -= size
    return ordered[-1] if ordered else 0


def _hash(row: Row, seed: int) -> int:
    name = row.file_name if row.place is None else row.place.name
    # ascii: any text, lone surrogates and what is no text, in one spelling.
    identity = ascii((row.where,) if row.trouble else (name, row.caption))
    return int.from_bytes(hashlib.sha256(f"sample\x1f{seed}\x1f{identity}".encode()).digest()[:16], "big")
