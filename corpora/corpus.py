"""Conversion of a reader's rows to pairs: each row becomes a `Pair`, or a `Rejected` row with a reason."""

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeAlias

from corpora.captions import clean_caption
from corpora.duplicates import FirstRows
from corpora.errors import CorpusError, RowError
from corpora.images import ImageFile, open_image
from corpora.perceptual_hash import perceptual_hash
from corpora.readers.protocol import Reader, Row
from corpora.records import Limits, Pair, Place, Reason, Rejected, escape, pair_id
from corpora.sampling import Sample, Sampling, draw_sample

WORKERS: Final = 8
"""Number of threads that decode images. Decoding releases the GIL, and remote stores serve requests in parallel."""

_AHEAD = 2 * WORKERS  # number of rows decoded ahead; each may hold the bytes of its image file in memory
_CACHED_INSPECTIONS = 1024
_SHOWN_CHARS = 1000
_LINE = re.compile(r"line (\d+)")


@dataclass(frozen=True)
class Corpus:
    """A corpus that can be read.

    Attributes:
        format: Name of the format in `corpora.FORMATS`.
        reader: Reader of the format.
        limits: Upper limits for the images and captions of its rows.
    """

    format: str
    reader: Reader
    limits: Limits

    def count(self) -> int:
        """Count the rows without reading any image.

        The count does not use the code of `pairs`, so that comparing the two detects lost rows.

        Raises:
            CorpusError: The corpus as a whole cannot be read.
        """
        return self.reader.count()

    def draw_sample(self, sampling: Sampling) -> Sample:
        """Sample the rows without reading any image.

        Args:
            sampling: Sample size, seed and the column to stratify by.

        Raises:
            CorpusError: See `corpora.sampling.draw_sample`.
        """
        return draw_sample(self.reader.rows(), sampling)

    def pairs(self, sample: Sample | None = None) -> Iterator[Pair | Rejected]:
        """Yield the rows in the order of the corpus, each as a `Pair` or a `Rejected` row.

        Each image is decoded, so that later stages find no broken file. The corpus must not change during iteration.
        Checks run in this order, and the first that fails is the reason of a rejected row: the row is well-formed, its
        file name is valid, its caption is valid, its image is valid, and the pair occurs for the first time.

        Args:
            sample: Yield only the rows of this sample. Default: all rows.

        Raises:
            CorpusError: The corpus as a whole cannot be read. Raised by the call itself for a damaged header or first
                row, and during iteration for later damage.
        """
        numbered = enumerate(self.reader.rows())
        return self._check((number, row) for number, row in numbered if sample is None or sample.contains(number, row))

    def _check(self, numbered: Iterator[tuple[int, Row]]) -> Iterator[Pair | Rejected]:
        """Check rows, each given with its number. The images of `_AHEAD` rows are decoded in parallel. See `pairs`."""
        waiting: deque[Callable[[], Pair | Rejected]] = deque()
        damage: CorpusError | None = None
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="decode")
        first_rows = FirstRows()
        try:
            checker = _RowChecker(self.reader, self.limits, pool, first_rows)
            try:
                for number, row in numbered:
                    waiting.append(checker.begin(number, row))
                    if len(waiting) > _AHEAD:
                        yield waiting.popleft()()
            except CorpusError as error:
                damage = error  # raised after the rows before it
            while waiting:
                yield waiting.popleft()()
        finally:
            pool.shutdown(cancel_futures=True)
            first_rows.close()
        if damage is not None:
            raise damage

    def read_image(self, place: Place) -> ImageFile:
        """Read the image of a pair.

        Args:
            place: Location of the image in the corpus, from `Pair.place`.

        Raises:
            RowError: The image is outside of the corpus.
            ImageError: The image cannot be read or decoded, or exceeds the limits.
        """
        return open_image(self.reader.image(place), self.limits)


_Inspection: TypeAlias = "Future[dict[str, Any] | RowError]"
"""Future of the check of an image. Its result is the fields of `Pair` about the image, or an error."""


@dataclass(slots=True)
class _RowChecker:
    """Checker of single rows. It caches the results for recent images, and the first row of each pair."""

    reader: Reader
    limits: Limits
    pool: ThreadPoolExecutor
    first_rows: FirstRows
    inspections: OrderedDict[Place, _Inspection] = field(default_factory=OrderedDict)

    def begin(self, number: int, row: Row) -> Callable[[], Pair | Rejected]:
        """Check everything but the image of a row, and start to decode the image in the thread pool.

        Returns:
            Function that waits for the image, and returns the row as a `Pair` or a `Rejected` row.
        """
        kept = row if row.data is None else replace(row, data=None)
        try:
            _check_problem(row)
            place = self.reader.place(row)
            caption = clean_caption(_caption_of(row), self.limits)
        except RowError as error:
            return partial(self._reject, number, kept, error)
        return partial(self._finish, number, kept, place, caption, self._inspect(place, row.data))

    def _finish(self, number: int, row: Row, place: Place, caption: str, inspection: _Inspection) -> Pair | Rejected:
        image = inspection.result()
        if isinstance(image, RowError):
            return self._reject(number, row, image)
        identity = pair_id(image["image_sha256"], caption)
        # The message below numbers rows as `location` does: by line of the file, or by row, counted from 1.
        line = _LINE.fullmatch(row.location)
        place_number = int(line[1]) if line else number + 1
        if (first := self.first_rows.add(identity, place_number)) != place_number:
            problem = (
                f"{row.location} repeats the image and the caption of {'line' if line else 'row'} {first} (expected "
                "each pair once). Drop one of them."
            )
            return self._reject(number, row, RowError(Reason.DUPLICATE_PAIR, problem))
        return Pair(row=number, pair_id=identity, place=place, caption=caption, attributes=row.attributes, **image)

    def _reject(self, number: int, row: Row, error: RowError) -> Rejected:
        location = escape(row.location)
        return Rejected(
            number,
            self._show(row.file_name if row.place is None else row.place.name),
            self._show(row.caption),
            error.reason,
            error.detail if error.detail.startswith(location) else f"{location}: {error.detail}",
            {self._cut(name): self._cut(text) for name, text in row.attributes.items()},
        )

    def _inspect(self, place: Place, data: bytes | None) -> _Inspection:
        # Captions of the same image are mostly adjacent.
        inspection = self.inspections.get(place)
        if inspection is None:
            inspection = self.inspections[place] = self.pool.submit(self._inspect_image, place, data)
            if len(self.inspections) > _CACHED_INSPECTIONS:
                self.inspections.popitem(last=False)
        return inspection

    def _inspect_image(self, place: Place, data: bytes | None) -> dict[str, Any] | RowError:
        try:
            image = open_image(self.reader.image(place) if data is None else data, self.limits)
        except RowError as error:
            return RowError(error.reason, error.detail)  # the exception itself would keep the bytes of the image alive
        return {
            "image_sha256": image.sha256,
            "width": image.width,
            "height": image.height,
            "fingerprint": perceptual_hash(image.pixels),
        }

    def _show(self, value: object) -> str | None:
        return None if value is None else self._cut(value if isinstance(value, str) else ascii(value))

    def _cut(self, text: str) -> str:
        longest = max(self.limits.max_caption_chars, _SHOWN_CHARS)
        return escape(text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)")


def _check_problem(row: Row) -> None:
    if row.problem:
        fix = " (expected one well-formed row of UTF-8). Correct the metadata."
        end = fix if row.reason is Reason.MALFORMED_ROW else ""
        raise RowError(row.reason, f"{row.location} {row.problem}{end}")


def _caption_of(row: Row) -> str:
    if row.caption is None or isinstance(row.caption, str):
        return row.caption or ""
    raise RowError(
        Reason.MALFORMED_ROW,
        f"The caption of {row.location} is of type {type(row.caption).__name__} (expected text). Correct it.",
    )
