"""The formats that can be read, and which one a corpus has."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corpora import roots
from corpora.corpus import Corpus
from corpora.errors import CorpusError
from corpora.readers import captions_tsv, coco, hub, metadata
from corpora.readers import patterns as shards
from corpora.readers import sidecar as files
from corpora.readers import webdataset as tars
from corpora.readers.captions_tsv import CaptionsTsvReader
from corpora.readers.coco import CocoReader
from corpora.readers.imagefolder import FolderReader
from corpora.readers.protocol import Columns, Reader
from corpora.readers.sidecar import FilesReader
from corpora.readers.tables import SAVED, DatasetsReader, ParquetReader
from corpora.records import DEFAULT_LIMITS, Limits
from corpora.roots import Root


@dataclass(frozen=True)
class Format:
    """How a format is told by its content, and what reads it.

    fits: whether a root looks like one; it opens as little as it can. columns: what it calls image and caption where
    nobody says so. expected: for the message when nothing fits.
    """

    fits: Callable[[Any], bool]
    reader: Callable[[Any, Columns, Limits], Reader]
    columns: Columns
    expected: str


def _is_listing(root: Root) -> bool:
    # Any other .tsv may list URLs, and a .parquet hold the images.
    return (root.suffix in (".csv", ".jsonl") or root.name in metadata.NAMES) and roots.is_file(root)


def _datasets(root: Root, columns: Columns, limits: Limits) -> Reader:
    """What was saved to disk is read without the library; what it would load, with its help."""
    if isinstance(root, Path):
        loaded = root.is_dir() and not any(os.path.lexists(root / name) for name in SAVED)
    else:
        loaded = hub.is_hub(root)
    return (hub.HubReader if loaded else DatasetsReader)(root, columns, limits)


FORMATS: Final[dict[str, Format]] = {
    "folder": Format(
        fits=lambda root: _is_listing(root) or any(roots.is_file(root / name) for name in metadata.NAMES),
        reader=FolderReader,
        columns=Columns("file_name", "text"),
        expected=f"a folder of images with exactly one of {', '.join(metadata.NAMES)}, or a .csv or .jsonl beside them",
    ),
    "webdataset": Format(
        fits=tars.fits,
        reader=tars.TarReader,
        columns=tars.COLUMNS,
        expected="a .tar, a folder of them, or a pattern of .tar files in the last part of the path",
    ),
    "coco": Format(
        fits=coco.fits,
        reader=CocoReader,
        columns=Columns("file_name", "caption"),
        expected="COCO captions: a .json, or a folder that holds one as captions*.json, also in annotations/",
    ),
    "captions-tsv": Format(
        fits=captions_tsv.fits,
        reader=CaptionsTsvReader,
        columns=captions_tsv.COLUMNS,
        expected="a .tsv of caption and URL beside downloaded images, or a folder that holds one",
    ),
    "files": Format(
        fits=files.fits,
        reader=FilesReader,
        columns=Columns("image", "caption"),
        expected="a folder of images with a .txt of the same stem beside each",
    ),
    "datasets": Format(
        fits=DatasetsReader.fits,
        reader=_datasets,
        columns=Columns("image", "text"),
        expected="a folder that Hugging Face datasets saved to disk (state.json or dataset_dict.json), or "
        "hf://datasets/ORGANISATION/NAME",
    ),
    "parquet": Format(
        fits=ParquetReader.fits,
        reader=ParquetReader,
        columns=Columns("image", "text"),
        expected="a .parquet file with image bytes in a column, or a folder of such files, or with them in data/",
    ),
}
"""By name, in the order in which they are tried: tables last, as downloaders write some beside the images."""


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
    if hub.is_hub(root):
        return "datasets"  # whatever else it holds: a card says what it is made of
    for name, known in FORMATS.items():
        if known.fits(root):
            return name
    if isinstance(root, Path) and not root.exists():
        kind = "matches no file" if shards.is_pattern(root) else "is not there"
        raise CorpusError(f"Corpus {str(root)!r} {kind}, expected a folder, file, pattern or URL: correct the path.")
    if not isinstance(root, Path) or root.is_dir():
        metadata.find(root)  # tells best what is missing from a folder
    raise CorpusError(
        f"Corpus {str(root)!r} is nothing that can be read, expected "
        f"{'; or '.join(known.expected for known in FORMATS.values())}: correct the path, or name its format."
    )
