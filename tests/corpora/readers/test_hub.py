"""Datasets that the library `datasets` loads: a local folder replaces the Hub, to which no test connects."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.corpus_writers import WRITERS, SourcePair, generate_source_pairs
from corpora import CorpusError, Pair, Rejected, open_corpus, parse_root
from corpora.readers.hub import HubReader
from corpora.readers.table_files import ParquetTable

ORIGINALS = [
    SourcePair(f"{number:02d}.jpg", pair.data, f"a caption {number}", {"site": f"s{number % 2}"})
    for number, pair in enumerate(generate_source_pairs(8, 48))
]
Load = Callable[..., Path]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def write_dataset(tmp_path: Path) -> Load:
    """Write a folder with a dataset card and tables in `parts`: three rows of train, five of test."""

    def write(kind: str = "parquet", folder: str = "loaded", card: str | None = None) -> Path:
        root = tmp_path / folder
        for split, pairs in (("train", ORIGINALS[:3]), ("test", ORIGINALS[3:])):
            folder_of_split = WRITERS["parquet" if kind == "parquet" else "datasets"](pairs, root / "parts" / split)
            for path in folder_of_split.glob("*.json"):
                path.unlink()
        lines = [f"  - split: {split}\n    path: parts/{split}/*.{kind}" for split in ("train", "test")]
        text = "configs:\n- config_name: default\n  data_files:\n" + "\n".join(lines) if card is None else card
        (root / "README.md").write_text(f"---\n{text}\n---\n# A dataset\n")
        return root

    return write


def read_rows(root: Any, **options: Any) -> list[Pair | Rejected]:
    corpus = open_corpus(root, "datasets", **options)
    rows = list(corpus.pairs())
    assert corpus.count() == len(rows)
    for row in rows:
        assert isinstance(row, Rejected) or corpus.read_image(row.place).sha256 == row.image_sha256
    return rows


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_splits_of_a_card_give_the_same_pairs_as_other_formats(write_dataset: Load, tmp_path: Path, kind: str) -> None:
    rows = read_rows(write_dataset(kind))
    expected = list(open_corpus(WRITERS["folder"](ORIGINALS, tmp_path / "folder")).pairs())
    assert [row.pair_id for row in rows if isinstance(row, Pair)] == [row.pair_id for row in expected]
    assert [row.attributes["split"] for row in rows] == ["train"] * 3 + ["test"] * 5
    assert [row.attributes["site"] for row in rows] == [row.attributes["site"] for row in expected]
    assert rows[4].file_name is not None
    assert rows[4].file_name.startswith("parts/test/")


def test_place_can_be_read_by_another_process(write_dataset: Load) -> None:
    root = write_dataset()
    last = read_rows(root)[-1]
    reopened = open_corpus(root, "datasets")
    assert isinstance(last, Pair)
    assert reopened.reader.image(last.place) == ORIGINALS[-1].data


def test_reading_writes_no_files(write_dataset: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    root = write_dataset()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    read_rows(root)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert list(scratch.iterdir()) == []


def test_a_table_is_read_group_by_group(write_dataset: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_dataset()
    (path,) = (root / "parts/test").iterdir()
    pq.write_table(pq.read_table(path), path, row_group_size=2)
    sizes: list[int] = []
    original = ParquetTable._group

    def spy(table: Any, number: int, start: int, names: list[str]) -> Any:
        sizes.append(table._sizes[number])
        return original(table, number, start, names)

    monkeypatch.setattr(ParquetTable, "_group", spy)
    assert len(read_rows(root)) == 8
    assert set(sizes) == {3, 2, 1}


def test_damaged_tables_are_error_rows(write_dataset: Load) -> None:
    root = write_dataset("arrow")
    (root / "parts/test/data-00001.arrow").write_bytes(b"ARROW1\0\0 of the file format")
    (root / "parts/train/data-00001.arrow").write_bytes(b"")
    rows = read_rows(root)
    assert [row.reason.value if isinstance(row, Rejected) else "pair" for row in rows] == [
        *["pair"] * 3, "empty_file", *["pair"] * 5, "unreadable_file",
    ]  # fmt: skip


def test_files_outside_the_folder_are_rejected(write_dataset: Load, tmp_path: Path) -> None:
    root = write_dataset()
    outside = WRITERS["parquet"](ORIGINALS[:2], tmp_path / "outside")
    (root / "parts/train/link.parquet").symlink_to(outside / "train-00000.parquet")
    rows = read_rows(root)
    assert [row.reason.value for row in rows if isinstance(row, Rejected)] == ["path_outside_corpus"]
    assert len(rows) == 9


def test_no_code_of_a_dataset_runs(tmp_path: Path) -> None:
    root = tmp_path / "script"
    root.mkdir()
    (root / "script.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\n")
    with pytest.raises(CorpusError, match=r"cannot be loaded by datasets .*scripts are no longer supported"):
        read_rows(root)
    assert not (tmp_path / "executed").exists()


def test_other_kinds_of_datasets_are_rejected_with_advice(tmp_path: Path) -> None:
    root = WRITERS["folder"](ORIGINALS, tmp_path / "folder")
    with pytest.raises(CorpusError, match=r"is loaded as 'imagefolder', expected .*use the format folder"):
        read_rows(root)
    tars = WRITERS["webdataset"](ORIGINALS, tmp_path / "tars")
    with pytest.raises(CorpusError, match=r"is loaded as 'webdataset'.*use the format webdataset"):
        read_rows(tars)


def test_several_configurations_need_a_choice(write_dataset: Load) -> None:
    card = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files: parts/{name}/*.parquet\n" for name in ("train", "test")
    )
    with pytest.raises(CorpusError, match=r"(?s)cannot be loaded by datasets .*train.*configuration"):
        read_rows(write_dataset(card=card))


def test_message_without_the_library_names_the_package_to_install(
    write_dataset: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_dataset()
    monkeypatch.setitem(sys.modules, "datasets", None)
    for place in (root, parse_root("hf://datasets/organisation/name")):
        with pytest.raises(CorpusError, match=r"not installed. Run pip install 'm2ib-audit\[datasets\]'"):
            read_rows(place)
    saved = WRITERS["datasets"](ORIGINALS, root.parent / "saved")  # does not need the library
    assert len(read_rows(saved)) == 8


def test_unreachable_dataset_raises(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"hf://datasets/organisation/name' cannot be loaded by datasets"):
        read_rows(parse_root("hf://datasets/organisation/name"))
    with pytest.raises(CorpusError, match="is not a folder"):
        HubReader(tmp_path / "none", open_corpus, None)._find_tables()
    with pytest.raises(CorpusError, match=r"is not a dataset of the Hub \(expected hf://datasets/ORGANIZATION/NAME"):
        read_rows(parse_root("hf://datasets/only"))


def test_url_of_the_hub_has_name_revision_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls: list[Any] = []
    base = "hf://datasets/organisation/name@0123abc"

    def builder(*args: Any, **kwargs: Any) -> Any:
        calls.append((*args, kwargs["revision"]))
        dataset_builder: Any = type("Parquet", (), {"__module__": "datasets.packaged_modules.parquet.parquet"})()
        files = {"train": [f"{base}/data/a b.parquet"], "test": [f"{base}/b.parquet", "https://host/x.parquet"]}
        dataset_builder.config = SimpleNamespace(data_files=files)
        return dataset_builder

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    root = parse_root("hf://datasets/organisation/name@v1/small")
    assert open_corpus(root).format == "datasets"
    reader = open_corpus(root).reader
    assert isinstance(reader, HubReader)
    tables = reader._find_tables()
    assert tables.splits == {"data/a b.parquet": "train", "b.parquet": "test", "https://host/x.parquet": "test"}
    assert calls == [("organisation/name", "small", "v1")]
    assert str(tables.base) == base
