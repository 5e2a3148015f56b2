"""From a reader's rows to pairs: each row ends as a `Pair`, or as a `Rejected` row and why."""

import re
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from corpora.captions import clean_caption
from corpora.duplicates import FirstRows
from corpora.errors import CorpusError, RowError
from corpora.images import ImageFile, open_image
from corpora.perceptual_hash import perceptual_hash
from corpora.readers.protocol import Reader, Row
from corpora.records import Limits, Pair, Place, Reason, Rejected, escaped, pair_id
from corpora.sampling import Sample, Sampling, draw_sample

WORKERS: Final = 8
"""Images decoded at a time, by threads: decoding needs no interpreter lock, and a distant store several requests."""

_AHEAD = 2 * WORKERS  # rows whose image is on its way; each may hold a whole file
_CACHED_INSPECTIONS = 1024
_SHOWN_CHARS = 1000
_LINE = re.compile(r"line (\d+)")


@dataclass(frozen=True)
class Corpus:
    """A corpus that was found and can be read. format: its name in `corpora.formats.FORMATS`."""

    format: str
    reader: Reader
    limits: Limits

    def count(self) -> int:
        """The number of rows, without reading any image: for a progress bar, and to account for them.

        Raises:
            CorpusError: the corpus as a whole cannot be read.
        """
        return self.reader.count()

    def draw_sample(self, sampling: Sampling) -> Sample:
        """Draw a sample of the rows, without reading any image. Raises CorpusError; see `corpora.sampling.draw`."""
        return draw_sample(self.reader.rows(), sampling)

    def pairs(self, sample: Sample | None = None) -> Iterator[Pair | Rejected]:
        """Yield the rows of the corpus in their order, or those drawn: each as a `Pair`, or as a `Rejected` and why.

        Each image is decoded, so that later stages meet no broken file; the corpus must not change in the meantime.
        What is checked first names the reason: the form of the row, its file name, its caption, its image, the pairs
        before it.

        Raises:
            CorpusError: the corpus as a whole cannot be read; at the call, save for a damage further down.
        """
        numbered = enumerate(self.reader.rows())
        return self._judged((number, row) for number, row in numbered if sample is None or sample.contains(number, row))

    def _judged(self, numbered: Iterator[tuple[int, Row]]) -> Iterator[Pair | Rejected]:
        waiting: deque[_Draft] = deque()
        damage: CorpusError | None = None
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="decode")
        first_rows = FirstRows()
        try:
            judge = _Judge(self.reader, self.limits, pool, first_rows)
            try:
                for number, row in numbered:
                    waiting.append(judge.begin(number, row))
                    if len(waiting) > _AHEAD:
                        yield judge.finish(waiting.popleft())
            except CorpusError as error:
                damage = error  # what was read before it stands
            while waiting:
                yield judge.finish(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)  # whoever stops reading waits for no more images
            first_rows.close()
        if damage is not None:
            raise damage

    def read_image(self, place: Place) -> ImageFile:
        """The image at a place that a pair has. Raises RowError (ImageError) if it does not read."""
        return open_image(self.reader.image(place), self.limits)


@dataclass(frozen=True, slots=True)
class _Inspection:
    sha256: str
    width: int
    height: int
    fingerprint: str


_Inspected: TypeAlias = "Future[_Inspection | tuple[Reason, str]]"


@dataclass(frozen=True, slots=True)
class _Draft:
    """A row on its way: its image is being looked at, or it is already known what is wrong with it."""

    number: int
    row: Row
    found: tuple[Place, str, _Inspected] | RowError
    """Where the image lies, the caption as it is kept, and what comes out of the image."""


@dataclass(slots=True)
class _Judge:
    """What has to be remembered from row to row."""

    reader: Reader
    limits: Limits
    pool: ThreadPoolExecutor
    first_rows: FirstRows
    inspections: OrderedDict[Place, _Inspected] = field(default_factory=OrderedDict)

    def begin(self, number: int, row: Row) -> _Draft:
        kept = row if row.data is None else replace(row, data=None)
        try:
            return _Draft(number, kept, self._found(row))
        except RowError as error:
            return _Draft(number, kept, error)

    def _found(self, row: Row) -> tuple[Place, str, _Inspected]:
        if row.trouble:
            mend = "; expected one well-formed row of UTF-8: correct the metadata."
            raise RowError(row.reason, f"{row.where} {row.trouble}{mend if row.reason is Reason.MALFORMED_ROW else ''}")
        place = self.reader.place(row)
        caption = clean_caption(self._caption(row), self.limits)
        return place, caption, self._inspected(place, row.data)

    def finish(self, draft: _Draft) -> Pair | Rejected:
        row = draft.row
        try:
            return self._pair(draft)
        except RowError as error:
            where = escaped(row.where)
            return Rejected(
                draft.number,
                self._shown(row.file_name if row.place is None else row.place.name),
                self._shown(row.caption),
                error.reason,
                error.detail if error.detail.startswith(where) else f"{where}: {error.detail}",
                {self._escaped(name): self._escaped(text) for name, text in row.attributes.items()},
            )

    def _pair(self, draft: _Draft) -> Pair:
        if isinstance(draft.found, RowError):
            raise draft.found
        place, caption, inspected = draft.found
        image = inspected.result()
        if not isinstance(image, _Inspection):
            raise RowError(*image)
        identity = pair_id(image.sha256, caption)
        # In the terms of the file, as `where` is: its lines, or rows counted from 1.
        line = _LINE.fullmatch(draft.row.where)
        own = int(line[1]) if line else draft.number + 1
        if (first := self.first_rows.first(identity, own)) != own:
            raise RowError(
                Reason.DUPLICATE_PAIR,
                f"{draft.row.where} repeats the image and the caption of {'line' if line else 'row'} {first}, expected "
                "each pair once: drop one of them.",
            )
        return Pair(
            row=draft.number,
            pair_id=identity,
            place=place,
            caption=caption,
            image_sha256=image.sha256,
            width=image.width,
            height=image.height,
            fingerprint=image.fingerprint,
            attributes=draft.row.attributes,
        )

    def _caption(self, row: Row) -> str:
        if row.caption is None:
            return ""
        if isinstance(row.caption, str):
            return row.caption
        raise RowError(
            Reason.MALFORMED_ROW,
            f"{row.where} has {type(row.caption).__name__} as its caption, expected text: correct it.",
        )

    def _inspected(self, place: Place, data: bytes | None) -> _Inspected:
        # The captions of an image mostly stand together, or near.
        known = self.inspections.get(place)
        if known is None:
            known = self.inspections[place] = self.pool.submit(self._inspect, place, data)
            if len(self.inspections) > _CACHED_INSPECTIONS:
                self.inspections.popitem(last=False)
        return known

    def _inspect(self, place: Place, data: bytes | None) -> _Inspection | tuple[Reason, str]:
        try:
            image = open_image(self.reader.image(place) if data is None else data, self.limits)
        except RowError as error:
            return error.reason, error.detail  # as texts: the exception itself would keep the image's bytes alive
        return _Inspection(image.sha256, image.width, image.height, perceptual_hash(image.pixels))

    def _shown(self, value: object) -> str | None:
        return None if value is None else self._escaped(value if isinstance(value, str) else ascii(value))

    def _escaped(self, text: str) -> str:
        longest = max(self.limits.max_caption_chars, _SHOWN_CHARS)
        if len(text) > longest:
            text = f"{text[:longest]}... ({len(text)} characters)"
        return escaped(text)
