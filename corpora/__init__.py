"""Whence the pairs come: readers of image-caption corpora, and the hygiene of their images and captions.

A corpus is untrusted input. Nothing in it is executed or unpickled, no path leads out of its root, sizes are
checked before anything is decoded. And nothing is lost: each row of a corpus's metadata ends either as a
`Pair` or as a `Rejected` row with its reason.

>>> for row in read_folder(Path("corpus")):              # doctest: +SKIP
...     print(row.pair_id if isinstance(row, Pair) else row.reason)
"""

from corpora.captions import clean_caption
from corpora.errors import CaptionError, CorpusError, ImageError, RowError
from corpora.folder import contained, count_rows, read_folder
from corpora.images import ImageFile, decode, read_image
from corpora.records import DEFAULT_LIMITS, Limits, Pair, Reason, Rejected, digest, pair_id

__all__ = [
    "DEFAULT_LIMITS",
    "CaptionError",
    "CorpusError",
    "ImageError",
    "ImageFile",
    "Limits",
    "Pair",
    "Reason",
    "Rejected",
    "RowError",
    "clean_caption",
    "contained",
    "count_rows",
    "decode",
    "digest",
    "pair_id",
    "read_folder",
    "read_image",
]
