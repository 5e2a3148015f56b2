"""Storage backends: local folders and object storage, and the ledger of a lake.

- `urls`: checks of the URLs of corpora and lakes, and translation of the exceptions of storage drivers
- `files`: atomic writes of a lake's files, and local copies of remote files for libraries that need a path
- `ledger`: the hash chain of records about runs, reports and decisions
- `keys`: signing keys for the records of the ledger
- `commands`: command lines for messages that name the next step
"""

from stores.commands import DEFAULT_LAKE, escape, format_command
from stores.files import (
    DamagedFileError,
    LakeError,
    copy_path,
    create_file,
    fetch,
    fetch_all,
    file_sha256,
    is_file,
    is_writable,
    known_sha256,
    lake_root,
    list_files,
    list_folders,
    list_irregular,
    list_sizes,
    missing_files,
    open_regular,
    read_all,
    read_bytes,
    read_versions,
    relative_path,
    remove,
    scratch_folder,
    use_scratch_folder,
    write_atomically,
    write_bytes,
)
from stores.urls import InputError, Root, UrlError, is_url, parse_root, translate_errors

__all__ = [
    "DEFAULT_LAKE",
    "DamagedFileError",
    "InputError",
    "LakeError",
    "Root",
    "UrlError",
    "copy_path",
    "create_file",
    "escape",
    "fetch",
    "fetch_all",
    "file_sha256",
    "format_command",
    "is_file",
    "is_url",
    "is_writable",
    "known_sha256",
    "lake_root",
    "list_files",
    "list_folders",
    "list_irregular",
    "list_sizes",
    "missing_files",
    "open_regular",
    "parse_root",
    "read_all",
    "read_bytes",
    "read_versions",
    "relative_path",
    "remove",
    "scratch_folder",
    "translate_errors",
    "use_scratch_folder",
    "write_atomically",
    "write_bytes",
]
