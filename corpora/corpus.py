"""From a reader's rows to pairs: each row ends as a `Pair`, or as a `Rejected` row and why."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from corpora.captions import clean_caption
from corpora.errors import RowError
from corpora.images import ImageFile, open_image
from corpora.likeness import fingerprint
from corpora.records import Limits, Pair, Place, Reason, Rejected, escaped, pair_id
from corpora.rows import Reader, Row
from corpora.sampling import Drawn, Sampling, draw

_CACHED_INSPECTIONS = 1024
_SHOWN_CHARS = 1000


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

    def draw(self, sampling: Sampling) -> Drawn:
        """Draw a sample of the rows, without reading any image. Raises CorpusError; see `corpora.sampling.draw`."""
        return draw(self.reader.rows(), sampling)

    def pairs(self, drawn: Drawn | None = None) -> Iterator[Pair | Rejected]:
        """Yield the rows of the corpus in their order, or those drawn: each as a `Pair`, or as a `Rejected` and why.

        Each image is decoded, so that later stages meet no broken file; the corpus must not change in the meantime.
        What is checked first names the reason: the form of the row, its file name, its caption, its image, the pairs
        before it.

        Raises:
            CorpusError: the corpus as a whole cannot be read; at the call, save for a damage further down.
        """
        rows = self.reader.rows()
        judge = _Judge(self.reader, self.limits)
        numbered = enumerate(rows)
        return (judge.judge(number, row) for number, row in numbered if drawn is None or drawn.takes(number, row))

    def picture(self, place: Place) -> ImageFile:
        """The image at a place that a pair has. Raises RowError (ImageError) if it does not read."""
        return open_image(self.reader.image(place), self.limits)


@dataclass(frozen=True, slots=True)
class _Inspection:
    sha256: str
    width: int
    height: int
    fingerprint: str


@dataclass(slots=True)
class _Judge:
    """What has to be remembered from row to row."""

    reader: Reader
    limits: Limits
    first_rows: dict[str, int] = field(default_factory=dict)
    inspections: OrderedDict[Place, _Inspection | tuple[Reason, str]] = field(default_factory=OrderedDict)

    def judge(self, number: int, row: Row) -> Pair | Rejected:
        try:
            return self._pair(number, row)
        except RowError as error:
            return Rejected(
                number,
                self._shown(row.file_name if row.place is None else row.place.name),
                self._shown(row.caption),
                error.reason,
                error.detail,
                {self._escaped(name): self._escaped(text) for name, text in row.attributes.items()},
            )

    def _pair(self, number: int, row: Row) -> Pair:
        if row.trouble:
            mend = "; expected one well-formed row of UTF-8: correct the metadata."
            raise RowError(row.reason, f"{row.where} {row.trouble}{mend if row.reason is Reason.MALFORMED_ROW else ''}")
        place = self.reader.place(row)
        caption = clean_caption(self._caption(row), self.limits)
        image = self._inspect(place, row.data)
        identity = pair_id(image.sha256, caption)
        if (first := self.first_rows.setdefault(identity, number)) != number:
            raise RowError(
                Reason.DUPLICATE_PAIR,
                f"{row.where} repeats the image and the caption of row {first}, expected each pair once: "
                "drop one of them.",
            )
        return Pair(
            row=number,
            pair_id=identity,
            place=place,
            caption=caption,
            image_sha256=image.sha256,
            width=image.width,
            height=image.height,
            fingerprint=image.fingerprint,
            attributes=row.attributes,
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

    def _inspect(self, place: Place, data: bytes | None) -> _Inspection:
        # The captions of an image mostly stand together, or near. Errors are kept as their two texts: the
        # exception itself would keep the image's bytes alive.
        known = self.inspections.get(place)
        if known is None:
            try:
                image = open_image(self.reader.image(place) if data is None else data, self.limits)
                known = _Inspection(image.sha256, image.width, image.height, fingerprint(image.pixels))
            except RowError as error:
                known = (error.reason, error.detail)
            self.inspections[place] = known
            if len(self.inspections) > _CACHED_INSPECTIONS:
                self.inspections.popitem(last=False)
        if isinstance(known, _Inspection):
            return known
        raise RowError(*known)

    def _shown(self, value: object) -> str | None:
        return None if value is None else self._escaped(value if isinstance(value, str) else ascii(value))

    def _escaped(self, text: str) -> str:
        longest = max(self.limits.max_caption_chars, _SHOWN_CHARS)
        if len(text) > longest:
            text = f"{text[:longest]}... ({len(text)} characters)"
        return escaped(text)
