"""Conversion of a reader's rows to pairs: each row becomes a `Pair`, or a `Rejected` row with a reason."""

import os
import re
import threading
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from PIL import Image

from corpora.captions import clean_caption
from corpora.duplicates import FirstRows
from corpora.errors import CorpusError, RowError
from corpora.images import ImageFile, open_image
from corpora.perceptual_hash import hash_thumbnails, make_thumbnail
from corpora.readers.protocol import ContainerReader, Reader, Row
from corpora.records import Limits, Pair, Place, Reason, Rejected, escape, pair_id
from corpora.roots import file_version
from corpora.sampling import Sample, Sampling, draw_sample

_REMOTE_READERS: Final = 16
# A batch of rows is the work of one task in the thread pool. In memory are the batches of two tasks per thread, with
# the bytes of images that were read with their rows. In a remote store each image is a batch of its own, so that
# several requests are made at the same time.
_BATCH_ROWS: Final = 16
_BATCH_BYTES: Final = 2 * 2**20
_SHARED_ROWS: Final = 256  # rows beyond the size of a batch that it may have if they share one image
_CACHED_IMAGES = 1024
_SHOWN_CHARS = 1000
_LINE = re.compile(r"line (\d+)")

Batches: TypeAlias = Iterator[list["CheckedRow"]]

Inspect: TypeAlias = Callable[[Image.Image, str], object]
"""Function of the decoded image (RGB) and the caption of a pair. Threads call it at the same time."""


def count_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Listing:
    """Consecutive rows of a corpus, to be read by one process: listed rows, or the rows of some containers.

    Attributes:
        rows: The rows with their numbers, if the images of the corpus are separate files.
        containers: Name of each container, the number of its first row, and the version of its file.
        sample: Hashes of those rows of the containers that are in the sample. None if the corpus is not sampled.
    """

    rows: Sequence[tuple[int, Row]] = ()
    containers: Sequence[tuple[str, int, object]] = ()
    sample: Sample | None = None


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """The result of a row, with what is needed to reject a pair that repeats an earlier one."""

    result: Pair | Rejected
    location: str
    caption: object


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

    @property
    def default_readers(self) -> int:
        """Number of threads that should read images: one per usable core, or more for a remote corpus."""
        return max(count_cores(), _REMOTE_READERS) if self.reader.is_remote else count_cores()

    def count(self) -> int:
        """Count the rows without reading any image.

        The count does not use the code of `pairs`, so that comparing the two detects lost rows.

        Raises:
            CorpusError: The corpus as a whole cannot be read.
        """
        return self.reader.count()

    def check(self) -> None:
        """Read the header and the first row, without decoding an image.

        Raises:
            CorpusError: The corpus as a whole cannot be read, for example because a column is missing.
        """
        self.reader.rows()

    def draw_sample(self, sampling: Sampling) -> Sample:
        """Sample the rows without reading any image.

        Args:
            sampling: Sample size, seed and the column to stratify by.

        Raises:
            CorpusError: See `corpora.sampling.draw_sample`.
        """
        return draw_sample(self.reader.rows(), sampling)

    def count_containers(self) -> dict[str, int]:
        """Count the rows of each container, in the order of the corpus; empty if its images are separate files.

        Raises:
            CorpusError: The corpus as a whole cannot be read.
        """
        reader = self.reader
        if not isinstance(reader, ContainerReader):
            return {}
        return {name: reader.container_count(name) for name in reader.containers()}

    def split(self, size: int, containers: Mapping[str, int], sample: Sample | None = None) -> Iterator[Listing]:
        """Split the corpus without reading any image, so that several processes can read it with `read`.

        Args:
            size: Number of rows of a listing. Rows with the same image that follow each other, and the rows of a
                container, stay together, so that a listing may be larger.
            containers: Result of `count_containers`.
            sample: Split only the rows of this sample. Default: all rows.

        Raises:
            CorpusError: The corpus as a whole cannot be read.
        """
        rows = self._rows(sample)  # also checks that the corpus can be read
        if isinstance(self.reader, ContainerReader):
            return self._split_containers(self.reader, size, containers, sample)
        return (Listing(batch) for batch in _split(rows, size) if batch)

    def _split_containers(
        self, reader: ContainerReader, size: int, containers: Mapping[str, int], sample: Sample | None
    ) -> Iterator[Listing]:
        ranks = sorted(sample.hashes.items()) if sample else []
        first, end, total = 0, 0, sum(containers.values())
        names: list[tuple[str, int, object]] = []
        for name, count in containers.items():
            names.append((name, end, _container_version(reader, name)))
            end += count
            if end - first < size and end < total:
                continue
            if sample is None:
                yield Listing(containers=names)
            elif chosen := dict(ranks[bisect_left(ranks, (first,)) : bisect_left(ranks, (end,))]):
                yield Listing(containers=names, sample=replace(sample, hashes=chosen))
            first, names = end, []

    def read(self, listing: Listing, pool: Executor, ahead: int, inspect: Inspect | None = None) -> Batches:
        """Read the rows of a listing as `pairs` does, except for whether they repeat earlier ones.

        Args:
            listing: One of those that `split` yields.
            pool: Threads that read and decode images.
            ahead: Number of batches that wait in the pool.
            inspect: See `pairs`.

        Raises:
            CorpusError: The corpus has changed since it was split.
        """
        return self._check(self._iter_listing(listing), pool, ahead, inspect)

    def _iter_listing(self, listing: Listing) -> Iterator[tuple[int, Row]]:
        yield from listing.rows
        if isinstance(self.reader, ContainerReader):
            for name, first, _ in listing.containers:
                yield from _select_rows(enumerate(self.reader.container_rows(name), first), listing.sample)

    def reject_repeated(self, batches: Batches) -> Iterator[Pair | Rejected]:
        """Yield the results of rows in the order of the corpus. A pair that repeats an earlier one is rejected."""
        first_rows = FirstRows()
        try:
            for batch in batches:
                yield from _reject_repeated(batch, first_rows, self.limits)
        finally:
            first_rows.close()

    def pairs(
        self, sample: Sample | None = None, readers: int | None = None, inspect: Inspect | None = None
    ) -> Iterator[Pair | Rejected]:
        """Yield the rows in the order of the corpus, each as a `Pair` or a `Rejected` row.

        Each image is decoded, so that later stages find no broken file. The corpus must not change during iteration.
        Checks run in this order, and the first that fails is the reason of a rejected row: the row is well-formed, its
        file name is valid, its caption is valid, its image is valid, and the pair occurs for the first time. Rows with
        the same image that follow each other share one decoded image.

        Args:
            sample: Yield only the rows of this sample. Default: all rows.
            readers: Number of threads that read and decode images. Default: the number of usable cores, or more if
                the corpus is remote, since its readers mostly wait.
            inspect: Function whose result for each pair becomes `Pair.inspection`. Its exceptions are not caught.

        Raises:
            CorpusError: The corpus as a whole cannot be read. Raised by the call itself for a damaged header or first
                row, and during iteration for later damage.
        """
        return self.reject_repeated(self._read_all(self._rows(sample), readers or self.default_readers, inspect))

    def _rows(self, sample: Sample | None) -> Iterator[tuple[int, Row]]:
        return _select_rows(enumerate(self.reader.rows()), sample)

    def _read_all(self, rows: Iterator[tuple[int, Row]], readers: int, inspect: Inspect | None) -> Batches:
        with ThreadPoolExecutor(readers, thread_name_prefix="decode") as pool:
            yield from self._check(rows, pool, 2 * readers, inspect)

    def _check(self, rows: Iterator[tuple[int, Row]], pool: Executor, ahead: int, inspect: Inspect | None) -> Batches:
        """Check rows, each given with its number, in the threads of the pool. See `read`."""
        waiting: deque[Future[list[CheckedRow]]] = deque()
        damage: CorpusError | None = None
        checker = _RowChecker(self.reader, self.limits, inspect)
        try:
            try:
                for batch in _split(rows, 1 if self.reader.is_remote else _BATCH_ROWS):
                    waiting.append(pool.submit(checker.check, batch))
                    if len(waiting) > ahead:
                        yield waiting.popleft().result()
            except CorpusError as error:
                damage = error  # raised after the rows before it
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
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


def _select_rows(rows: Iterator[tuple[int, Row]], sample: Sample | None) -> Iterator[tuple[int, Row]]:
    return rows if sample is None else ((number, row) for number, row in rows if sample.contains(number, row))


def _split(rows: Iterator[tuple[int, Row]], size: int) -> Iterator[list[tuple[int, Row]]]:
    """Split rows into batches, and keep rows with the same image together. Rows before a CorpusError are yielded."""
    batch: list[tuple[int, Row]] = []
    in_memory = 0
    try:
        for number, row in rows:
            is_full = len(batch) >= size or in_memory >= _BATCH_BYTES
            if is_full and (len(batch) >= size + _SHARED_ROWS or not _have_same_image(batch[-1][1], row)):
                yield batch
                batch, in_memory = [], 0
            batch.append((number, row))
            in_memory += len(row.data or b"")
    except CorpusError:
        yield batch
        raise
    yield batch


def _container_version(reader: ContainerReader, name: str) -> object:
    try:
        return file_version(reader.container_path(name))
    except (OSError, RowError):
        return None  # its only row states why it cannot be read


def _have_same_image(one: Row, other: Row) -> bool:
    return one.place is None and one.file_name is not None and one.file_name == other.file_name


@dataclass(slots=True)
class _Image:
    """What is known about an image, with the results of `inspect` by caption."""

    sha256: str
    width: int
    height: int
    thumbnail: bytes
    inspections: dict[str, object]
    fingerprint: str = ""


@dataclass(slots=True)
class _RowChecker:
    """Checker of rows, which remembers recent images, or why they cannot be used."""

    reader: Reader
    limits: Limits
    inspect: Inspect | None
    images: OrderedDict[Place, _Image | RowError] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, batch: list[tuple[int, Row]]) -> list[CheckedRow]:
        """Check a batch of rows, except for whether they repeat earlier ones. Each image is decoded once."""
        prepared = [self._prepare(row) for _, row in batch]
        captions: dict[Place, list[str]] = {}
        images: dict[Place, _Image | RowError] = {}
        for place, caption in (found for found in prepared if not isinstance(found, RowError)):
            captions.setdefault(place, []).append(caption)
        for (_, row), found in zip(batch, prepared, strict=True):
            if not isinstance(found, RowError) and found[0] not in images:
                images[found[0]] = self._examine(found[0], row.data, captions[found[0]])
        new = [image for image in images.values() if isinstance(image, _Image) and not image.fingerprint]
        for image, fingerprint in zip(new, hash_thumbnails([image.thumbnail for image in new]), strict=True):
            image.fingerprint = fingerprint
        with self.lock:
            self.images.update(images)
            while len(self.images) > _CACHED_IMAGES:
                self.images.popitem(last=False)
        return [
            CheckedRow(self._finish(number, row, found, images), row.location, row.caption)
            for (number, row), found in zip(batch, prepared, strict=True)
        ]

    def _prepare(self, row: Row) -> tuple[Place, str] | RowError:
        """Return the place of a row's image and the cleaned caption."""
        try:
            _check_problem(row)
            return self.reader.place(row), clean_caption(_caption_of(row), self.limits)
        except RowError as error:
            return error

    def _examine(self, place: Place, data: bytes | None, captions: list[str]) -> _Image | RowError:
        with self.lock:
            known = self.images.get(place)
        if isinstance(known, RowError) or (known and self.inspect is None):
            return known
        try:
            image = open_image(self.reader.image(place) if data is None else data, self.limits)
        except RowError as error:
            return RowError(error.reason, error.detail)  # the exception itself would keep the bytes of the image alive
        inspections = {caption: self.inspect(image.pixels, caption) for caption in captions} if self.inspect else {}
        return _Image(image.sha256, image.width, image.height, make_thumbnail(image.pixels), inspections)

    def _finish(
        self, number: int, row: Row, found: tuple[Place, str] | RowError, images: dict[Place, _Image | RowError]
    ) -> Pair | Rejected:
        if isinstance(found, RowError):
            return _reject_row(number, row, found, self.limits)
        place, caption = found
        image = images[place]
        if isinstance(image, RowError):
            return _reject_row(number, row, image, self.limits)
        return Pair(
            row=number,
            pair_id=pair_id(image.sha256, caption),
            place=place,
            caption=caption,
            image_sha256=image.sha256,
            width=image.width,
            height=image.height,
            fingerprint=image.fingerprint,
            attributes=row.attributes,
            inspection=image.inspections.get(caption),
            regions=row.regions,
        )


def _reject_repeated(batch: list[CheckedRow], first_rows: FirstRows, limits: Limits) -> Iterator[Pair | Rejected]:
    """Yield the results of a batch. A pair that occurs in `first_rows` becomes a rejected row."""
    # The message below numbers rows as `location` does: by line of the file, or by row, counted from 1.
    lines = [_LINE.fullmatch(row.location) for row in batch]
    numbers = [
        (row.result.pair_id, int(line[1]) if line else row.result.row + 1)
        for row, line in zip(batch, lines, strict=True)
        if isinstance(row.result, Pair)
    ]
    firsts = iter(zip(numbers, first_rows.add(numbers), strict=True))
    for row, line in zip(batch, lines, strict=True):
        pair = row.result
        if isinstance(pair, Rejected):
            yield pair
            continue
        (_, place), first = next(firsts)
        if first == place:
            yield pair
            continue
        problem = (
            f"{row.location} repeats the image and the caption of {'line' if line else 'row'} {first} (expected "
            "each pair once). Drop one of them."
        )
        error = RowError(Reason.DUPLICATE_PAIR, problem)
        yield _reject(pair.row, row.location, pair.file_name, row.caption, pair.attributes, error, limits)


def _reject_row(number: int, row: Row, error: RowError, limits: Limits) -> Rejected:
    name = row.file_name if row.place is None else row.place.name
    return _reject(number, row.location, name, row.caption, row.attributes, error, limits)


def _reject(
    number: int,
    location: str,
    name: object,
    caption: object,
    attributes: dict[str, str],
    error: RowError,
    limits: Limits,
) -> Rejected:
    location = escape(location)
    return Rejected(
        number,
        _show(name, limits),
        _show(caption, limits),
        error.reason,
        error.detail if error.detail.startswith(location) else f"{location}: {error.detail}",
        {_cut(name, limits): _cut(text, limits) for name, text in attributes.items()},
    )


def _show(value: object, limits: Limits) -> str | None:
    return None if value is None else _cut(value if isinstance(value, str) else ascii(value), limits)


def _cut(text: str, limits: Limits) -> str:
    longest = max(limits.max_caption_chars, _SHOWN_CHARS)
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
