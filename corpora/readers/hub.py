"""Datasets as the library `datasets` loads them: of the Hugging Face Hub, or a folder that `load_dataset` takes.

The library says which files a dataset is made of, and nothing else: a stream of its rows could not go back to one of
them, so the files themselves are read, as tables, row group by row group, and by ranges where they lie on the Hub. It
runs no code of a dataset (scripts are refused since its version 4), and nothing of it is copied to this machine.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from corpora import roots
from corpora.errors import CorpusError
from corpora.readers.protocol import Columns
from corpora.readers.table_files import ArrowTable, ParquetTable, TableFile, open_source, said
from corpora.readers.tables import TableReader
from corpora.records import Limits
from corpora.roots import Root, open_binary, root_of

SCHEME: Final = "hf://datasets/"
_STREAM_MARK: Final = b"\xff\xff\xff\xff"
_TABLES: Final = ("parquet", "arrow")
_DIRECT: Final = {"imagefolder": "folder", "webdataset": "webdataset"}
_INSTALL: Final = "pip install 'm2ib-audit[datasets]'"

SCRATCH = "m2ib-audit-hub-"
"""What the temporary folders begin with in which the library locks a file."""


def is_hub(root: Root) -> bool:
    """Tell whether a root lies on the Hugging Face Hub."""
    return not isinstance(root, Path) and str(root).startswith(SCHEME)


class _Found(NamedTuple):
    """The folder (of the Hub: at a commit) and, relative to it, the files with their splits."""

    base: Root
    splits: dict[str, str]


class HubReader(TableReader):
    """The Parquet or Arrow files of a dataset, split by split, in the order in which the library lists them.

    `hf://datasets/org/name`, with `@revision` if you like and `/configuration` where there are several; or a folder.
    The attribute `split` says which split a row is from, if there are several. The revision is looked up once a
    listing, and all files are read as they are in that commit.
    """

    def __init__(self, root: Root, columns: Columns, limits: Limits) -> None:
        super().__init__(root, columns, limits)
        self._found: _Found | None = None

    def _names(self) -> list[str]:
        self._found = _resolved(self._root)
        return list(self._found.splits)

    def _base(self) -> Root:
        return self._root if self._found is None else self._found.base

    def _added(self, name: str) -> dict[str, object]:
        splits = {} if self._found is None else self._found.splits
        return {"split": splits[name]} if len(set(splits.values())) > 1 else {}

    def _table(self, path: Root, once: bool) -> TableFile:
        if path.suffix == ".parquet":
            return ParquetTable(open_source(path, mapped=False))
        with open_binary(path, ahead=len(_STREAM_MARK)) as file:
            if file.read(len(_STREAM_MARK)) != _STREAM_MARK:
                raise ValueError("it is not Arrow's stream format, which save_to_disk writes")
        return ArrowTable(open_source(path, mapped=not once))


def _resolved(root: Root) -> _Found:
    name, revision, configuration = _address(root)
    builder = _builder(root, name, revision, configuration)
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in _TABLES:
        direct = f"name the format, {_DIRECT[kind]}, and the folder that holds it" if kind in _DIRECT else "convert it"
        raise CorpusError(
            f"Corpus {str(root)!r} is loaded as {kind!a}, expected Parquet or Arrow files with image bytes: {direct}."
        )
    files = [(str(split), str(file)) for split, some in (builder.config.data_files or {}).items() for file in some]
    if is_hub(root):
        # hf://datasets/org/name@commit/path: all files of a listing are those of one commit.
        base = files[0][1].partition("@")[0] + "@" + files[0][1].partition("@")[2].partition("/")[0] if files else ""
        return _Found(root_of(base) if base else root, {_below(file, base): split for split, file in files})
    real = os.path.realpath(str(root))
    return _Found(root, {_below(os.path.realpath(file), real): split for split, file in files})


def _below(file: str, base: str) -> str:
    # What lies elsewhere keeps its whole address, and is refused as a row: no path leads out of a corpus.
    return file.removeprefix(f"{base}/").replace(os.sep, "/")


def _address(root: Root) -> tuple[str, str | None, str | None]:
    """What the library calls a dataset, its revision and its configuration."""
    if not is_hub(root):
        return str(root), None, None
    parts = str(root).removeprefix(SCHEME).strip("/").split("/")
    expected = "expected hf://datasets/ORGANISATION/NAME, perhaps with @REVISION, perhaps with /CONFIGURATION behind it"
    if len(parts) not in (2, 3) or not all(parts):
        raise CorpusError(f"Corpus {str(root)!r} names no dataset of the Hub, {expected}: correct it.")
    name, _, revision = parts[1].partition("@")
    return f"{parts[0]}/{name}", revision or None, parts[2] if len(parts) == 3 else None


def _builder(root: Root, name: str, revision: str | None, configuration: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(
            f"Corpus {str(root)!r} is loaded by the library datasets, which is not installed: {_INSTALL}; or name the "
            "format of its files, such as parquet, and the folder that holds them."
        ) from error
    if not is_hub(root) and not roots.is_folder(root):
        raise CorpusError(f"Corpus {str(root)!r} is not a folder, expected one that load_dataset takes: correct it.")
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as scratch:  # it locks a file there, and leaves nothing else
        try:
            return datasets.load_dataset_builder(name, configuration, revision=revision, cache_dir=scratch)
        except Exception as error:  # whatever comes out of the library and of what it reads
            raise CorpusError(
                f"Corpus {str(root)!r} cannot be loaded by datasets ({said(error)}), expected a dataset of Parquet or "
                "Arrow files: correct its name or configuration, or log in with the Hub's own tools (hf auth login)."
            ) from error
