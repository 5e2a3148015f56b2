"""Open the corpus of a run again, to show its images.

The writer of a lake may not be trusted by its reader. So the manifest only names the corpus: the size limits for
reading it are not above the defaults, and a remote corpus is only fetched if the reader allows it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import stores
from corpora import Corpus, Limits, open_corpus, parse_root
from stores import InputError

CORPUS_MISSING = "The corpus is missing or cannot be opened."
CORPUS_REMOTE = (
    "The corpus is remote and is not fetched. Start the site with --remote-corpora if you trust whoever writes this "
    "lake to choose which URLs this machine fetches."
)


def is_remote(manifest: Mapping[str, Any]) -> bool:
    """Return whether the corpus of a run is remote."""
    return stores.is_url(str(manifest["corpus"]))


def open_audited_corpus(manifest: Mapping[str, Any], remote: bool) -> Corpus | None:
    """Open the corpus of a run; return None if it is missing, or if it is remote and `remote` is false."""
    if is_remote(manifest) and not remote:
        return None
    settings = manifest["config"].get("corpus", {})
    columns = (settings.get("image_column"), settings.get("caption_column"))
    try:
        return open_corpus(
            parse_root(manifest["corpus"]), manifest.get("corpus_format"), *columns, read_limits(manifest)
        )
    except (InputError, ValueError, OSError):  # a damaged corpus, or a URL or format that no release has stored
        return None


def read_limits(manifest: Mapping[str, Any]) -> Limits:
    """Return the size limits for one row of the corpus: the limits of the run, but never above the defaults."""
    settings = manifest["config"].get("corpus", {})
    return Limits(
        **{
            name: min(value, default) if isinstance(value := settings.get(name), int) and value >= 1 else default
            for name, default in asdict(Limits()).items()
        }
    )
