"""Readers of image-caption corpora, and checks of their images and captions.

A corpus is untrusted input. No file of a corpus is executed or unpickled, no file outside of its root is read, and
sizes are checked before images are decoded. Every row of a corpus becomes either a `Pair`, or a `Rejected` row with a
reason. `corpora.formats` lists the supported formats.

>>> for row in open_corpus(Path("corpus")).pairs():      # doctest: +SKIP
...     print(row.pair_id if isinstance(row, Pair) else row.reason)
"""

from corpora.captions import clean_caption
from corpora.corpus import Corpus, Listing
from corpora.errors import CaptionError, CorpusError, ImageError, RowError
from corpora.formats import FORMATS, open_corpus
from corpora.images import ImageFile, decode, open_image, read_image
from corpora.readers.imagefolder import resolve_inside
from corpora.records import DEFAULT_LIMITS, Limits, Pair, Place, Reason, Rejected, digest, pair_id
from corpora.roots import Root, parse_root
from corpora.sampling import Sample, Sampling
from stores import is_url

__all__ = [
    "DEFAULT_LIMITS",
    "FORMATS",
    "CaptionError",
    "Corpus",
    "CorpusError",
    "ImageError",
    "ImageFile",
    "Limits",
    "Listing",
    "Pair",
    "Place",
    "Reason",
    "Rejected",
    "Root",
    "RowError",
    "Sample",
    "Sampling",
    "clean_caption",
    "decode",
    "digest",
    "is_url",
    "open_corpus",
    "open_image",
    "pair_id",
    "parse_root",
    "read_image",
    "resolve_inside",
]
