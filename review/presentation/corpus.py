"""The corpus that a run audited, opened anew for its pictures.

Who writes files of a lake need not be who looks at them: a manifest says where the corpus is, and never what may be
spent on it.
"""

from collections.abc import Mapping
from typing import Any

import stores
from corpora import Corpus, CorpusError, Limits, open_corpus, root_of

GONE = "The corpus is not there any more, or cannot be opened."
REMOTE = (
    "The corpus lies behind a URL, which is not fetched for whoever looks: start the page with --remote-corpora if "
    "whoever writes this lake may choose what this machine fetches."
)


def is_remote(manifest: Mapping[str, Any]) -> bool:
    """Whether a run's corpus lies behind a URL."""
    return stores.is_url(str(manifest["corpus"]))


def corpus_of(manifest: Mapping[str, Any], remote: bool) -> Corpus | None:
    """The corpus that a run audited, within the limits of then and those of this release.

    None if it is not there any more, or it is remote and these are not to be opened.
    """
    if is_remote(manifest) and not remote:
        return None
    given = manifest["config"].get("corpus", {})
    columns = (given.get("image_column"), given.get("caption_column"))
    try:
        return open_corpus(root_of(manifest["corpus"]), manifest.get("corpus_format"), *columns, limits_of(manifest))
    except (CorpusError, OSError):
        return None


def limits_of(manifest: Mapping[str, Any]) -> Limits:
    """What a row of the corpus may cost: as the run's settings say, and never more than by default."""
    given, most = manifest["config"].get("corpus", {}), Limits()
    told = {name: given.get(name) for name in ("max_pixels", "max_file_bytes")}
    return Limits(
        **{
            name: min(value, getattr(most, name))
            for name, value in told.items()
            if isinstance(value, int) and value >= 1
        }
    )
