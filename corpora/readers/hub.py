"""Reader of datasets on the Hugging Face Hub, and of local folders that `datasets.load_dataset` accepts.

The library `datasets` is only used to list the files of a dataset. Its streams do not support random access to rows, so
this module reads the files itself: as tables, one row group at a time, and by byte ranges on the Hub. No code of a
dataset runs (the library refuses dataset scripts since version 4), and no files stay on this machine.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Any, Final

from corpora import roots
from corpora.errors import CorpusError
from corpora.readers.metadata import summarize
from corpora.readers.tables import SAVED, TableList, TableReader
from corpora.roots import Root, parse_root

SCHEME: Final = "hf://datasets/"
_ADDRESS: Final = re.compile(rf"{SCHEME}([^/@]+/[^/@]+)(?:@([^/]+))?(?:/([^/]+))?/?")
_DIRECT: Final = {"imagefolder": "folder", "webdataset": "webdataset"}

SCRATCH = "m2ib-audit-hub-"
"""Prefix of the temporary folders in which the library `datasets` creates a lock file."""


def is_hub(root: Root) -> bool:
    """Return whether a root is on the Hugging Face Hub."""
    return not isinstance(root, Path) and str(root).startswith(SCHEME)


class HubReader(TableReader):
    """Reader of a Hugging Face dataset of Parquet or Arrow files, in the order in which `datasets` lists the files.

    The root is a folder or `hf://datasets/ORGANIZATION/NAME`, optionally with `@REVISION` and `/CONFIGURATION`. If the
    dataset has several splits, each row has the attribute `split`. The revision is resolved to a commit whenever the
    files are listed, and all files are read at that commit.
    """

    description = "a dataset that the Hugging Face library datasets can load"

    @classmethod
    def fits(cls, root: Root) -> bool:
        """Return whether `root` is a dataset on the Hub, or a local folder that `save_to_disk` did not write."""
        if not isinstance(root, Path):
            return is_hub(root)
        return root.is_dir() and not any(os.path.lexists(root / name) for name in SAVED)

    def _find_tables(self) -> TableList:
        builder = _load_builder(self._root)
        kind = type(builder).__module__.rpartition(".")[2]
        if kind not in ("parquet", "arrow"):
            fix = f"use the format {_DIRECT[kind]} and the folder of its files" if kind in _DIRECT else "convert it"
            raise CorpusError(
                f"Corpus {str(self._root)!r} is loaded as {kind!a}, expected Parquet or Arrow files with image bytes; "
                f"{fix}."
            )
        splits = builder.config.data_files or {}
        files = {
            str(file): str(split) if len(splits) > 1 else None for split, listed in splits.items() for file in listed
        }
        if not is_hub(self._root):
            real = os.path.realpath(str(self._root))
            return TableList(self._root, {_relative(os.path.realpath(file), real): files[file] for file in files})
        # The files are hf://datasets/org/name@commit/path, all at the same commit.
        name, at, rest = next(iter(files), "").partition("@")
        base = f"{name}{at}{rest.partition('/')[0]}"
        return TableList(parse_root(base or str(self._root)), {_relative(file, base): files[file] for file in files})


def _relative(file: str, base: str) -> str:
    # A file outside of the base keeps its complete path, which is later rejected because it leads out of the corpus.
    return file.removeprefix(f"{base}/").replace(os.sep, "/")


def _load_builder(root: Root) -> Any:
    """Return the `datasets.DatasetBuilder` of a dataset. Raises CorpusError if the dataset cannot be loaded."""
    name, revision, configuration = str(root), None, None
    if is_hub(root):
        match = _ADDRESS.fullmatch(name)
        if match is None:
            raise CorpusError(
                f"Corpus {name!r} is not a dataset of the Hub (expected hf://datasets/ORGANIZATION/NAME, optionally "
                "with @REVISION and /CONFIGURATION). Correct the URL."
            )
        name, revision, configuration = match.groups()
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(
            f"Corpus {str(root)!r} needs the library datasets, which is not installed. Run pip install "
            "'m2ib-audit[datasets]', or use the format of its files, such as parquet, and their folder."
        ) from error
    if not is_hub(root) and not roots.is_folder(root):
        raise CorpusError(
            f"Corpus {str(root)!r} is not a folder (expected a folder that load_dataset reads). Correct it."
        )
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as scratch:  # for a lock file of the library
        try:
            return datasets.load_dataset_builder(name, configuration, revision=revision, cache_dir=scratch)
        except Exception as error:  # the library raises exceptions of many types
            raise CorpusError(
                f"Corpus {str(root)!r} cannot be loaded by datasets ({summarize(error)}), expected a dataset of "
                "Parquet or Arrow files; correct its name or configuration, or log in with the tools of the Hub "
                "(hf auth login)."
            ) from error
