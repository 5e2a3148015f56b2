"""Where things lie: a folder of this machine, or a store behind a URL, and how a lake's files are kept in either.

`urls` says which URLs are taken and what a driver's exceptions mean, for corpora and lakes alike. `files` is the
seam of the lake: files that appear whole or not at all, and local copies of them for those who read paths only.
`ledger` is what the lake says of itself, record chained to record, and `keys` signs it.
"""

from stores.files import (
    LakeError,
    copy_path,
    create_file,
    fetch,
    fetch_all,
    file_sha256,
    is_file,
    lake_root,
    list_files,
    list_folders,
    list_links,
    list_sizes,
    missing_files,
    read_all,
    read_bytes,
    relative_path,
    remove,
    scratch_folder,
    use_scratch_folder,
    write_atomically,
    write_bytes,
)
from stores.urls import Root, UrlError, is_url, parse_root, translate_errors

__all__ = [
    "LakeError",
    "Root",
    "UrlError",
    "copy_path",
    "create_file",
    "fetch",
    "fetch_all",
    "file_sha256",
    "is_file",
    "is_url",
    "lake_root",
    "list_files",
    "list_folders",
    "list_links",
    "list_sizes",
    "missing_files",
    "parse_root",
    "read_all",
    "read_bytes",
    "relative_path",
    "remove",
    "scratch_folder",
    "translate_errors",
    "use_scratch_folder",
    "write_atomically",
    "write_bytes",
]
