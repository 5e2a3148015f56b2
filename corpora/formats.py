"""The formats that can be read, and which one a corpus has."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corpora import metadata, roots
from corpora.corpus import Corpus
from corpora.errors import CorpusError
from corpora.folder import FolderReader
from corpora.records import DEFAULT_LIMITS, Limits
from corpora.roots import Root
from corpora.rows import Columns, Reader


@dataclass(frozen=True)
class Format:
    """How a format is told by its content, and what reads it.

    fits: whether a root looks like one; it opens as little as it can. columns: what it calls image and caption where
    nobody says so. expected: for the message when nothing fits.
    """

    fits: Callable[[Root], bool]
    reader: Callable[[Root, Columns, Limits], Reader]
    columns: Columns
    expected: str


FORMATS: Final[dict[str, Format]] = {
    "folder": Format(
        fits=lambda root: any(roots.is_file(root / name) for name in metadata.NAMES),
        reader=FolderReader,
        columns=Columns("file_name", "text"),
        expected=f"a folder of images with exactly one of {', '.join(metadata.NAMES)}",
    ),
}
"""By name, in the order in which they are tried."""


def open_corpus(
    root: Root,
    format_name: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Corpus:
    """Find out what a corpus is, or take it for what is said, and make it ready to be read.

    Raises:
        CorpusError: no format fits.
        ValueError: an unknown format, or both columns have the same name.
    """
    if format_name is not None and format_name not in FORMATS:
        raise ValueError(f"format: got {format_name!r}, expected one of {', '.join(FORMATS)}, or none to detect it")
    name = detect(root) if format_name is None else format_name
    chosen = FORMATS[name]
    columns = Columns(image_column or chosen.columns.image, caption_column or chosen.columns.caption)
    if columns.image == columns.caption:
        raise ValueError(f"image_column and caption_column are both {columns.image!r}, expected two columns.")
    return Corpus(name, chosen.reader(root, columns, limits), limits)


def detect(root: Root) -> str:
    """The name of the first format that fits.

    Raises:
        CorpusError: none does.
    """
    for name, known in FORMATS.items():
        if known.fits(root):
            return name
    if not isinstance(root, Path) or root.is_dir():
        metadata.find(root)  # tells best what is missing from a folder
    raise CorpusError(
        f"Corpus {str(root)!r} is nothing that can be read, expected "
        f"{'; or '.join(known.expected for known in FORMATS.values())}: correct the path, or name its format."
    )
