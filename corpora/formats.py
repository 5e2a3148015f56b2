"""The supported corpus formats, and detection of the format of a corpus."""

from pathlib import Path
from typing import Final

from corpora.corpus import Corpus
from corpora.errors import CorpusError
from corpora.readers import hub, metadata, patterns
from corpora.readers.captions_tsv import CaptionsTsvReader
from corpora.readers.coco import CocoReader
from corpora.readers.hub import HubReader
from corpora.readers.imagefolder import FolderReader
from corpora.readers.protocol import Columns, Reader
from corpora.readers.sidecar import SidecarReader
from corpora.readers.tables import ParquetReader, SavedDatasetReader
from corpora.readers.webdataset import WebDatasetReader
from corpora.records import DEFAULT_LIMITS, Limits
from corpora.roots import Root

FORMATS: Final[dict[str, type[Reader]]] = {
    "folder": FolderReader,
    "webdataset": WebDatasetReader,
    "coco": CocoReader,
    "captions-tsv": CaptionsTsvReader,
    "files": SidecarReader,
    "datasets": SavedDatasetReader,
    "parquet": ParquetReader,
}
"""Reader class of each format, in the order in which `detect_format` tries them.

Table formats are last, because programs that download images also write tables next to the image files.
"""


def open_corpus(
    root: Root,
    format_name: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Corpus:
    """Open a corpus.

    Args:
        root: Local path or remote URL of the corpus, as `corpora.parse_root` returns it.
        format_name: One of `FORMATS`, or None to detect the format.
        image_column: Column with the images, or None for the default of the format.
        caption_column: Column with the captions, or None for the default of the format.
        limits: Upper limits for images and captions.

    Returns:
        The corpus. Its rows are read by its methods, not by this function.

    Raises:
        CorpusError: The corpus has none of the supported formats.
        ValueError: The format name is unknown, or both columns have the same name.
    """
    if format_name is not None and format_name not in FORMATS:
        raise ValueError(f"format: got {format_name!r}, expected one of {', '.join(FORMATS)}, or none to detect it")
    name = detect_format(root) if format_name is None else format_name
    reader = HubReader if name == "datasets" and HubReader.fits(root) else FORMATS[name]
    default = reader.default_columns
    columns = Columns(image_column or default.image, caption_column or default.caption)
    if columns.image == columns.caption:
        raise ValueError(f"image_column and caption_column are both {columns.image!r}, expected two columns.")
    return Corpus(name, reader(root, columns, limits), limits)


def detect_format(root: Root) -> str:
    """Return the first format in `FORMATS` whose reader accepts a path or URL. Raises CorpusError if there is none."""
    if hub.is_hub(root):
        return "datasets"  # the dataset card, not the file names, defines which files are the dataset
    for name, reader in FORMATS.items():
        if reader.fits(root):
            return name
    if isinstance(root, Path) and not root.exists():
        problem = "matches no file" if patterns.is_pattern(root) else "does not exist"
        raise CorpusError(
            f"Corpus {str(root)!r} {problem} (expected a folder, file, pattern or URL). Correct the path."
        )
    if not isinstance(root, Path) or root.is_dir():
        metadata.find(root)  # raises the error that says what a folder lacks
    raise CorpusError(
        f"Corpus {str(root)!r} has no known format, expected "
        f"{'; or '.join(reader.description for reader in FORMATS.values())}; correct the path, or name its format."
    )
