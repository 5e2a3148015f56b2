"""Where things lie: a folder of this machine, or a store behind a URL, and how a lake's files are kept in either.

`urls` says which URLs are taken and what a driver's exceptions mean, for corpora and lakes alike. `files` is the
seam of the lake: files that appear whole or not at all, and local copies of them for those who read paths only.
`ledger` is what the lake says of itself, record chained to record, and `keys` signs it.
"""

from stores.files import (
    LakeError,
    absent,
    contents,
    contents_of_all,
    create,
    fetch,
    fetch_all,
    file_sha256,
    folders,
    is_file,
    kept,
    lake_root,
    links,
    names,
    put,
    relative,
    remove,
    scratch,
    share_scratch,
    sizes,
    written_aside,
)
from stores.urls import Root, UrlError, is_url, root_of, translated

__all__ = [
    "LakeError",
    "Root",
    "UrlError",
    "absent",
    "contents",
    "contents_of_all",
    "create",
    "fetch",
    "fetch_all",
    "file_sha256",
    "folders",
    "is_file",
    "is_url",
    "kept",
    "lake_root",
    "links",
    "names",
    "put",
    "relative",
    "remove",
    "root_of",
    "scratch",
    "share_scratch",
    "sizes",
    "translated",
    "written_aside",
]
