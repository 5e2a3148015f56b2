"""The distinct captions of a corpus in a compact form."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_CHUNK = 8192


class Captions(Sequence[str]):
    """Distinct captions in alphabetical order, with the number of pairs of each.

    They stay in an Arrow table: as Python objects, captions and counts would take several times the memory.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._texts = rows["caption"]
        self.pairs: NDArray[np.int64] = rows["pairs"].to_numpy()

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> Any:
        found = self._texts[place]
        return found.to_pylist() if isinstance(place, slice) else found.as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            yield from self[start : start + _CHUNK]

    def with_pairs(self) -> Iterator[tuple[str, int]]:
        """Iterate over the captions with the number of pairs of each."""
        for start in range(0, len(self), _CHUNK):
            yield from zip(self[start : start + _CHUNK], self.pairs[start : start + _CHUNK].tolist(), strict=True)
