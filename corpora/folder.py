"""A corpus as a folder of images with one metadata file, the `ImageFolder` convention."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from corpora import metadata
from corpora.captions import clean_caption
from corpora.errors import RowError
from corpora.images import read_image
from corpora.metadata import Columns, MetadataRow
from corpora.records import DEFAULT_LIMITS, Limits, Pair, Reason, Rejected, is_storable, pair_id

_CACHED_INSPECTIONS = 1024
_SHOWN_CHARS = 1000


def read_folder(
    root: Path,
    *,
    image_column: str = "file_name",
    caption_column: str = "text",
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Pair | Rejected]:
    """Yield the rows of a corpus in the order of its metadata: each as a `Pair`, or as a `Rejected` and why.

    `root` holds exactly one of `metadata.csv` (UTF-8, comma-separated), `metadata.jsonl`, `metadata.parquet`.
    Further columns become attributes: numbers as plain text, booleans as true and false, nested values as
    compact JSON; missing and empty values are left out. Each image is decoded, so that later stages meet no
    broken file; the corpus must not change in the meantime. What is checked first names the reason: the form
    of the row, its file name, its caption, its image, the pairs before it.

    Raises:
        CorpusError: the corpus as a whole cannot be read; at the call, save for a damage further down.
        ValueError: both columns have the same name.
    """
    if image_column == caption_column:
        raise ValueError(f"image_column and caption_column are both {image_column!r}, expected two columns.")
    columns = Columns(image_column, caption_column)
    rows = metadata.read_rows(metadata.find(Path(root)), columns)
    judge = _Judge(Path(os.path.realpath(root)), columns, limits)
    return (judge.judge(number, row) for number, row in enumerate(rows))


def count_rows(root: Path) -> int:
    """Count the rows that `read_folder` yields, from the metadata alone: for a progress bar.

    Raises:
        CorpusError: the metadata cannot be read.
    """
    return metadata.count_rows(metadata.find(Path(root)))


@dataclass(frozen=True, slots=True)
class _Inspection:
    sha256: str
    width: int
    height: int


@dataclass(slots=True)
class _Judge:
    """What has to be remembered from row to row."""

    root: Path
    columns: Columns
    limits: Limits
    first_rows: dict[str, int] = field(default_factory=dict)
    inspections: OrderedDict[Path, _Inspection | tuple[Reason, str]] = field(default_factory=OrderedDict)

    def judge(self, number: int, row: MetadataRow) -> Pair | Rejected:
        try:
            return self._pair(number, row)
        except RowError as error:
            return Rejected(
                number,
                self._shown(row.file_name),
                self._shown(row.caption),
                error.reason,
                error.detail,
                {self._escaped(name): self._escaped(text) for name, text in row.attributes.items()},
            )

    def _pair(self, number: int, row: MetadataRow) -> Pair:
        if row.trouble:
            raise RowError(
                Reason.MALFORMED_ROW,
                f"{row.where} {row.trouble}; expected one well-formed row of UTF-8: correct the metadata.",
            )
        file_name = self._text(row, self.columns.image, row.file_name)
        path = contained(self.root, file_name)
        caption = clean_caption(self._text(row, self.columns.caption, row.caption), self.limits)
        image = self._inspect(path)
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
            file_name=file_name,
            path=path,
            caption=caption,
            image_sha256=image.sha256,
            width=image.width,
            height=image.height,
            attributes=row.attributes,
        )

    def _text(self, row: MetadataRow, column: str, value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        raise RowError(
            Reason.MALFORMED_ROW,
            f"{row.where} has {type(value).__name__} in column {column!r}, expected text: correct it.",
        )

    def _inspect(self, path: Path) -> _Inspection:
        # The captions of an image mostly stand together, or near. Errors are kept as their two texts: the
        # exception itself would keep the image's bytes alive.
        known = self.inspections.get(path)
        if known is None:
            try:
                image = read_image(path, self.limits)
                known = _Inspection(image.sha256, image.width, image.height)
            except RowError as error:
                known = (error.reason, error.detail)
            self.inspections[path] = known
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
        return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def contained(root: Path, file_name: str) -> Path:
    """Return the real path of a file of the corpus, links followed. Nothing is opened.

    `root` is a real path. The rules are those of every platform, so that a corpus is read alike on all.

    Raises:
        RowError: empty, NUL or not Unicode (malformed_row); absolute, with a drive, a backslash or '..', or a
            link that leads outside (path_outside_corpus).
    """
    if not file_name.strip() or not is_storable(file_name):
        raise RowError(
            Reason.MALFORMED_ROW,
            f"The file name is {file_name[:200]!a}, expected a relative path in Unicode without NUL: correct it.",
        )
    expected = "expected a path inside the corpus, relative to its root, with '/' between folders: correct it."
    pure = PurePosixPath(file_name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in file_name or PureWindowsPath(file_name).drive:
        raise RowError(Reason.PATH_OUTSIDE_CORPUS, f"The file name is {file_name[:200]!a}, {expected}")
    real = Path(os.path.realpath(root / pure))
    if not real.is_relative_to(root):
        raise RowError(Reason.PATH_OUTSIDE_CORPUS, f"{file_name[:200]!a} is a link out of the corpus, {expected}")
    return real
