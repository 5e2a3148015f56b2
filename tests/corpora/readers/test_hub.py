"""Datasets that the library `datasets` loads: a folder of this machine stands for the Hub, which no test asks."""

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
    SourcePair(f"{number:02d}.jpg", made.data, f"a caption {number}", {"site": f"s{number % 2}"})
    for number, made in enumerate(generate_source_pairs(8, 48))
]
Load = Callable[..., Path]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """A folder whose card says that its tables lie in `parts`: three rows of train, five of test."""

    def write(kind: str = "parquet", folder: str = "loaded", card: str | None = None) -> Path:
        root = tmp_path / folder
        for split, some in (("train", ORIGINALS[:3]), ("test", ORIGINALS[3:])):
            written = WRITERS["parquet" if kind == "parquet" else "datasets"](some, root / "parts" / split)
            for path in written.glob("*.json"):
                path.unlink()
        lines = [f"  - split: {split}\n    path: parts/{split}/*.{kind}" for split in ("train", "test")]
        text = "configs:\n- config_name: default\n  data_files:\n" + "\n".join(lines) if card is None else card
        (root / "README.md").write_text(f"---\n{text}\n---\n# A dataset\n")
        return root

    return write


def rows_of(root: Any, **options: Any) -> list[Pair | Rejected]:
    corpus = open_corpus(root, "datasets", **options)
    rows = list(corpus.pairs())
    assert corpus.count() == len(rows)
    for row in rows:
        assert isinstance(row, Rejected) or corpus.read_image(row.place).sha256 == row.image_sha256
    return rows


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_the_splits_of_a_card_are_the_same_pairs_as_in_any_format(load: Load, tmp_path: Path, kind: str) -> None:
    rows = rows_of(load(kind))
    expected = list(open_corpus(WRITERS["folder"](ORIGINALS, tmp_path / "folder")).pairs())
    assert [row.pair_id for row in rows if isinstance(row, Pair)] == [row.pair_id for row in expected]
    assert [row.attributes["split"] for row in rows] == ["train"] * 3 + ["test"] * 5
    assert [row.attributes["site"] for row in rows] == [row.attributes["site"] for row in expected]
    assert rows[4].file_name is not None
    assert rows[4].file_name.startswith("parts/test/")


def test_a_place_is_found_again_by_another_process(load: Load) -> None:
    root = load()
    last = rows_of(root)[-1]
    again = open_corpus(root, "datasets")
    assert isinstance(last, Pair)
    assert again.reader.image(last.place) == ORIGINALS[-1].data


def test_nothing_is_written_and_no_copy_is_kept(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    root = load()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    rows_of(root)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert list(scratch.iterdir()) == []


def test_a_table_is_read_group_by_group(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    root = load()
    (path,) = (root / "parts/test").iterdir()
    pq.write_table(pq.read_table(path), path, row_group_size=2)
    sizes: list[int] = []
    real = ParquetTable._group

    def spy(table: Any, number: int, start: int, names: list[str]) -> Any:
        sizes.append(table._sizes[number])
        return real(table, number, start, names)

    monkeypatch.setattr(ParquetTable, "_group", spy)
    assert len(rows_of(root)) == 8
    assert set(sizes) == {3, 2, 1}


def test_damaged_and_odd_tables_are_rows(load: Load) -> None:
    root = load("arrow")
    (root / "parts/test/data-00001.arrow").write_bytes(b"ARROW1\0\0 of the file format")
    (root / "parts/train/data-00001.arrow").write_bytes(b"")
    rows = rows_of(root)
    assert [row.reason.value if isinstance(row, Rejected) else "pair" for row in rows] == [
        *["pair"] * 3, "empty_file", *["pair"] * 5, "unreadable_file",
    ]  # fmt: skip


def test_files_outside_of_the_folder_are_refused(load: Load, tmp_path: Path) -> None:
    root = load()
    outside = WRITERS["parquet"](ORIGINALS[:2], tmp_path / "outside")
    (root / "parts/train/link.parquet").symlink_to(outside / "train-00000.parquet")
    rows = rows_of(root)
    assert [row.reason.value for row in rows if isinstance(row, Rejected)] == ["path_outside_corpus"]
    assert len(rows) == 9


def test_no_code_of_a_dataset_runs(tmp_path: Path) -> None:
    root = tmp_path / "script"
    root.mkdir()
    (root / "script.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\n")
    with pytest.raises(CorpusError, match=r"cannot be loaded by datasets .*scripts are no longer supported"):
        rows_of(root)
    assert not (tmp_path / "it ran").exists()


def test_other_kinds_of_datasets_are_rejected_with_advice(tmp_path: Path) -> None:
    root = WRITERS["folder"](ORIGINALS, tmp_path / "folder")
    with pytest.raises(CorpusError, match=r"is loaded as 'imagefolder', expected .*use the format folder"):
        rows_of(root)
    tars = WRITERS["webdataset"](ORIGINALS, tmp_path / "tars")
    with pytest.raises(CorpusError, match=r"is loaded as 'webdataset'.*use the format webdataset"):
        rows_of(tars)


def test_several_configurations_need_a_choice(load: Load) -> None:
    card = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files: parts/{name}/*.parquet\n" for name in ("train", "test")
    )
    with pytest.raises(CorpusError, match=r"(?s)cannot be loaded by datasets .*train.*configuration"):
        rows_of(load(card=card))


def test_without_the_library_the_message_says_what_to_install(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    root = load()
    monkeypatch.setitem(sys.modules, "datasets", None)
    for where in (root, parse_root("hf://datasets/organisation/name")):
        with pytest.raises(CorpusError, match=r"not installed. Run pip install 'm2ib-audit\[datasets\]'"):
            rows_of(where)
    saved = WRITERS["datasets"](ORIGINALS, root.parent / "saved")  # needs no library
    assert len(rows_of(saved)) == 8


def test_a_dataset_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"hf://datasets/organisation/name' cannot be loaded by datasets"):
        rows_of(parse_root("hf://datasets/organisation/name"))
    with pytest.raises(CorpusError, match="is not a folder"):
        HubReader(tmp_path / "none", open_corpus, None)._find_tables()
    with pytest.raises(CorpusError, match=r"is not a dataset of the Hub \(expected hf://datasets/ORGANIZATION/NAME"):
        rows_of(parse_root("hf://datasets/only"))


def test_an_address_of_the_hub_is_name_revision_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []
    base = "hf://datasets/organisation/name@0123abc"

    def builder(*given: Any, **named: Any) -> Any:
        asked.append((*given, named["revision"]))
        made: Any = type("Parquet", (), {"__module__": "datasets.packaged_modules.parquet.parquet"})()
        files = {"train": [f"{base}/data/a b.parquet"], "test": [f"{base}/b.parquet", "https://host/x.parquet"]}
        made.config = SimpleNamespace(data_files=files)
        return made

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    root = parse_root("hf://datasets/organisation/name@v1/small")
    assert open_corpus(root).format == "datasets"
    reader = open_corpus(root).reader
    assert isinstance(reader, HubReader)
    tables = reader._find_tables()
    assert tables.splits == {"data/a b.parquet": "train", "b.parquet": "test", "https://host/x.parquet": "test"}
    assert asked == [("organisation/name", "small", "v1")]
    assert str(tables.base) == base
