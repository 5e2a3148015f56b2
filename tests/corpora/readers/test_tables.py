import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import corpora.readers.table_files
from corpora import CorpusError, ImageError, Limits, Pair, Place, Reason, Rejected, open_corpus

Cells = list[dict[str, object]]
Picture = Callable[..., bytes]
WriteCorpus = Callable[..., Path]
WriteTable = Callable[..., Path]
FORMATS = ("parquet", "datasets")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_parquet(path: Path, table: pa.Table, group: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group, compression="none", use_dictionary=False)


def write_arrow(path: Path, table: pa.Table, batch: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=batch)


def write_state(root: Path, names: Sequence[str]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (root / "dataset_info.json").write_text("{}")


def write_corpus_of(root: Path, fmt: str, tables: Sequence[pa.Table]) -> list[Path]:
    """Write a corpus with one file for each table; returns the files."""
    root.mkdir()
    if fmt == "parquet":
        paths = [root / "data" / f"train-{index:05}.parquet" for index in range(len(tables))]
    else:
        paths = [root / f"data-{index:05}.arrow" for index in range(len(tables))]
        write_state(root, [path.name for path in paths])
    for path, table in zip(paths, tables, strict=True):
        (write_parquet if fmt == "parquet" else write_arrow)(path, table)
    return paths


def make_table(images: Sequence[bytes | None], captions: Sequence[str | None], **others: object) -> pa.Table:
    cells = [{"bytes": data, "path": f"{index}.png"} for index, data in enumerate(images)]
    return pa.table({"image": pa.array(cells, IMAGE), "text": pa.array(captions, pa.string()), **others})


def read_rows(root: Path, **options: object) -> list[Pair | Rejected]:
    corpus = open_corpus(root, **options)
    rows = list(corpus.pairs())
    assert [row.row for row in rows] == list(range(len(rows)))
    assert corpus.count() == len(rows)
    return rows


def read_outcomes(root: Path, **options: object) -> list[str]:
    return [row.reason.value if isinstance(row, Rejected) else row.caption for row in read_rows(root, **options)]


@pytest.fixture
def pictures(picture: Picture) -> list[bytes]:
    return [picture(color=10 * index) for index in range(10)]


@pytest.fixture
def pair_tables(pictures: list[bytes]) -> list[pa.Table]:
    names = [f"caption {index}" for index in range(10)]
    return [make_table(pictures[:6], names[:6]), make_table(pictures[6:], names[6:])]


@pytest.mark.parametrize("fmt", FORMATS)
def test_pairs_equal_those_of_a_folder(
    write_corpus: WriteCorpus, pictures: list[bytes], pair_tables: list[pa.Table], tmp_path: Path, fmt: str
) -> None:
    listed = [{"file_name": f"{index}.png", "text": f"caption {index}"} for index in range(10)]
    folder = read_rows(write_corpus(listed, {f"{index}.png": data for index, data in enumerate(pictures)}))
    paths = write_corpus_of(tmp_path / "table", fmt, pair_tables)
    corpus = open_corpus(tmp_path / "table")
    assert corpus.format == fmt
    rows = read_rows(tmp_path / "table")
    assert rows == read_rows(tmp_path / "table")
    names = [str(path.relative_to(tmp_path / "table")) for path in paths]
    for row, same in zip(rows, folder, strict=True):
        assert isinstance(row, Pair)
        assert isinstance(same, Pair)
        assert (row.pair_id, row.caption, row.image_sha256) == (same.pair_id, same.caption, same.image_sha256)
        name, position = (names[0], row.row) if row.row < 6 else (names[1], row.row - 6)
        assert row.place == Place(f"{name}/{position}", name, position)
        assert row.attributes == {}


@pytest.mark.parametrize("fmt", FORMATS)
def test_images_can_be_read_in_any_order_from_any_thread(
    pictures: list[bytes], pair_tables: list[pa.Table], tmp_path: Path, fmt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora.readers.table_files, "_PIECE_ROWS", 1)
    write_corpus_of(tmp_path / "table", fmt, pair_tables)
    places = [row.place for row in read_rows(tmp_path / "table") if isinstance(row, Pair)]
    reader = open_corpus(tmp_path / "table").reader
    wrong: list[int] = []

    def look(order: Sequence[int]) -> None:
        wrong.extend(index for index in order if reader.image(places[index]) != pictures[index])

    orders = [range(10), range(9, -1, -1), [0, 5, 2, 9, 5, 6, 0], [3] * 5]
    threads = [threading.Thread(target=look, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    look(list(range(10)) * 2)
    assert wrong == []


def test_reading_forward_opens_a_file_once(
    pair_tables: list[pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus_of(tmp_path / "table", "parquet", pair_tables)
    places = [row.place for row in read_rows(tmp_path / "table")[:6] if isinstance(row, Pair)]
    corpus = open_corpus(tmp_path / "table")
    opened: list[Path] = []
    real = corpora.readers.tables.open_table
    monkeypatch.setattr(
        corpora.readers.tables, "open_table", lambda path, once: opened.append(path) or real(path, once)
    )
    for place in places:
        corpus.read_image(place)
    assert len(opened) == 1


@pytest.mark.parametrize("fmt", FORMATS)
def test_invalid_places_are_rejected(pair_tables: list[pa.Table], tmp_path: Path, fmt: str) -> None:
    (path, _) = write_corpus_of(tmp_path / "table", fmt, pair_tables)
    write_parquet(tmp_path / "out.parquet", pair_tables[0])
    reader = open_corpus(tmp_path / "table").reader
    name = str(path.relative_to(tmp_path / "table"))
    for container in ("../out.parquet", str(tmp_path / "out.parquet"), str(path), "none", None):
        with pytest.raises(ImageError, match="in none of the tables of the corpus"):
            reader.image(Place("x", container, 0))
    for position, reason in ((6, Reason.MISSING_FILE), (-1, Reason.PATH_OUTSIDE_CORPUS)):
        with pytest.raises(ImageError) as caught:
            reader.image(Place("x", name, position))
        assert caught.value.reason is reason
    assert reader.image(Place("x", name, 5)) == pair_tables[0]["image"][5]["bytes"].as_py()


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())])
@pytest.mark.parametrize(("image", "caption"), [("jpg", "caption"), ("image", "text"), ("webp", "text")])
def test_column_of_bytes_is_read(
    pictures: list[bytes], tmp_path: Path, kind: pa.DataType, image: str, caption: str
) -> None:
    table = pa.table({image: pa.array(pictures[:2], pa.binary()).cast(kind), caption: ["a", "b"], "key": [7, None]})
    write_parquet(tmp_path / "a.parquet", table)
    rows = read_rows(tmp_path / "a.parquet")
    assert [row.caption for row in rows] == ["a", "b"]
    assert [row.attributes for row in rows] == [{"key": "7"}, {}]
    assert isinstance(rows[1], Pair)
    assert rows[1].place == Place("a.parquet/1", "a.parquet", 1)
    assert open_corpus(tmp_path / "a.parquet").reader.image(rows[1].place) == pictures[1]


def test_columns_can_be_chosen_and_others_are_attributes(pictures: list[bytes], tmp_path: Path) -> None:
    table = pa.table(
        {
            "scan": pictures[:2],
            "mask": pictures[:2],
            "report": ["a", "b"],
            "text": ["x", None],
            "when": pa.array([0, 86_400], pa.timestamp("s")),
            "age": [1, None],
            "also": pa.array([{"bytes": b"1", "path": "p"}] * 2, IMAGE),
            "tags": [["a"], []],
        }
    )
    write_parquet(tmp_path / "t" / "a.parquet", table)
    rows = read_rows(tmp_path / "t", image_column="scan", caption_column="report")
    assert [row.caption for row in rows] == ["a", "b"]
    assert rows[0].attributes == {"text": "x", "when": "1970-01-01 00:00:00.000", "age": "1", "tags": '["a"]'}
    with pytest.raises(CorpusError, match="has no column 'image'"):  # two columns of bytes are ambiguous
        read_rows(tmp_path / "t", format_name="parquet")


@pytest.mark.parametrize("fmt", FORMATS)
def test_cells_without_images_are_rejected(pictures: list[bytes], tmp_path: Path, fmt: str) -> None:
    cells = [{"bytes": None, "path": "a.png"}, None, {"bytes": b"", "path": None}, {"bytes": b"text", "path": None},
             {"bytes": pictures[0] + bytes(2000), "path": None}, {"bytes": pictures[1], "path": None},
             {"bytes": pictures[2], "path": None}]  # fmt: skip
    captions = pa.array(["a", "b", "c", "d", "e", None, "g"])
    write_corpus_of(tmp_path / "t", fmt, [pa.table({"image": pa.array(cells, IMAGE), "text": captions})])
    rows = read_rows(tmp_path / "t", limits=Limits(max_file_bytes=2000))
    assert [row.reason if isinstance(row, Rejected) else row.caption for row in rows] == [
        Reason.MISSING_FILE, Reason.MISSING_FILE, Reason.EMPTY_FILE, Reason.NOT_AN_IMAGE, Reason.FILE_TOO_LARGE,
        Reason.EMPTY_CAPTION, "g",
    ]  # fmt: skip
    assert isinstance(rows[0], Rejected)
    assert "row 1 has only the path 'a.png' of its image" in rows[0].detail
    reader = open_corpus(tmp_path / "t", limits=Limits(max_file_bytes=2000)).reader
    container = "data/train-00000.parquet" if fmt == "parquet" else "data-00000.arrow"
    for position, reason in ((0, Reason.MISSING_FILE), (4, Reason.FILE_TOO_LARGE)):
        with pytest.raises(ImageError) as caught:
            reader.image(Place("x", container, position))
        assert caught.value.reason is reason


@pytest.mark.parametrize("fmt", FORMATS)
def test_text_in_the_image_column_is_rejected(pictures: list[bytes], tmp_path: Path, fmt: str) -> None:
    text = pa.table({"image": ["a.png", "b.png"], "text": ["a", "b"]})
    write_corpus_of(tmp_path / "first", fmt, [text, make_table(pictures[:1], ["x"])])
    with pytest.raises(CorpusError, match=r"contains string, expected the bytes of images.*metadata\.parquet"):
        open_corpus(tmp_path / "first", fmt).pairs()
    write_corpus_of(tmp_path / "later", fmt, [make_table(pictures[:1], ["x"]), text])
    assert read_outcomes(tmp_path / "later") == ["x", "unreadable_file", "unreadable_file"]


@pytest.mark.parametrize("fmt", FORMATS)
def test_damaged_files_lose_only_their_rows(pair_tables: list[pa.Table], tmp_path: Path, fmt: str) -> None:
    paths = write_corpus_of(tmp_path / "t", fmt, [pair_tables[0]] * 4 + [pair_tables[1]])
    paths[0].write_bytes(b"")
    paths[1].write_bytes(b"<html>not found</html>")
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    paths[3].unlink()
    os.mkfifo(paths[3])
    good = [f"caption {index}" for index in range(6, 10)]
    found = ["empty_file", "unreadable_file", "unreadable_file", "not_a_regular_file"]
    assert read_outcomes(tmp_path / "t") == found + good
    (row, *_) = read_rows(tmp_path / "t")
    assert isinstance(row, Rejected)
    assert row.file_name == str(paths[0].relative_to(tmp_path / "t"))
    assert row.detail.startswith(f"{row.file_name} has 0 bytes")
    paths[4].write_bytes(b"")
    with pytest.raises(CorpusError, match="None of the 5 files"):
        open_corpus(tmp_path / "t", fmt).pairs()


def test_damaged_row_group_loses_only_its_rows(pair_tables: list[pa.Table], tmp_path: Path) -> None:
    (path,) = write_corpus_of(tmp_path / "t", "parquet", pair_tables[:1])
    data = path.read_bytes()
    footer = pq.read_metadata(path)
    at = footer.row_group(0).column(0).data_page_offset
    path.write_bytes(data[:at] + b"\xff" * 30 + data[at + 30 :])
    assert read_outcomes(tmp_path / "t") == ["unreadable_file"] * 4 + ["caption 4", "caption 5"]
    reader = open_corpus(tmp_path / "t").reader
    with pytest.raises(ImageError, match="cannot be read"):
        reader.image(Place("x", "data/train-00000.parquet", 0))


def test_truncated_stream_keeps_its_readable_rows(pair_tables: list[pa.Table], tmp_path: Path) -> None:
    (path,) = write_corpus_of(tmp_path / "t", "datasets", pair_tables[:1])
    data = path.read_bytes()
    first = [f"caption {index}" for index in range(4)]
    path.write_bytes(data[:-20])
    assert read_outcomes(tmp_path / "t") == [*first, "unreadable_file"]
    path.write_bytes(data[:-8])  # complete for Arrow
    assert read_outcomes(tmp_path / "t") == [*first, "caption 4", "caption 5", "unreadable_file"]
    path.write_bytes(data + data)
    assert read_outcomes(tmp_path / "t")[-1] == "unreadable_file"


def test_offsets_of_a_stream_are_checked(pictures: list[bytes], tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"".join(value.to_bytes(4, "little") for value in (0, 2**30, 80)))
    bad = pa.Array.from_buffers(pa.binary(), 2, [None, offsets, pa.py_buffer(pictures[0])])
    write_corpus_of(
        tmp_path / "t", "datasets", [pa.table({"image": bad, "text": ["a", "b"]}), make_table(pictures, "0123456789")]
    )
    assert read_outcomes(tmp_path / "t") == ["unreadable_file"] * 2 + list("0123456789")


@pytest.mark.parametrize("fmt", FORMATS)
def test_invalid_utf8_rejects_only_its_row(pictures: list[bytes], tmp_path: Path, fmt: str) -> None:
    text = pa.array([b"one", b"caf\xe9", b"z"], pa.binary()).view(pa.string())
    table = make_table(pictures[:3], ["", "", ""]).set_column(1, "text", text)
    write_corpus_of(tmp_path / "t", fmt, [table])
    assert read_outcomes(tmp_path / "t") == ["one", "caption_encoding", "z"]


def test_number_of_rows_in_a_footer_is_limited(tmp_path: Path) -> None:
    table = pa.table({"image": pa.nulls(200_000, IMAGE), "text": pa.nulls(200_000, pa.string())})
    write_parquet(tmp_path / "a.parquet", table, 10**6)
    assert (tmp_path / "a.parquet").stat().st_size < 200_000
    assert open_corpus(tmp_path / "a.parquet").count() == 1


def test_file_name_that_is_not_unicode_is_escaped(pair_tables: list[pa.Table], tmp_path: Path) -> None:
    (_, other) = write_corpus_of(tmp_path / "t", "datasets", pair_tables)
    write_state(tmp_path / "t", ["\ud800.arrow", other.name])
    first, *_ = read_rows(tmp_path / "t")
    assert isinstance(first, Rejected)
    assert first.detail.startswith(r"\ud800.arrow ")
    write_state(tmp_path / "t", ["\ud800.arrow", "a\0b"])
    with pytest.raises(CorpusError, match=r"\\ud800.arrow ") as caught:
        read_rows(tmp_path / "t")
    str(caught.value).encode()


def test_huge_file_name_is_truncated_in_the_message(pair_tables: list[pa.Table], tmp_path: Path) -> None:
    (_, other) = write_corpus_of(tmp_path / "t", "datasets", pair_tables)
    write_state(tmp_path / "t", ["x" * 100_000, other.name])
    first, *_ = read_rows(tmp_path / "t")
    assert isinstance(first, Rejected)
    assert len(first.detail) < 1000
    write_state(tmp_path / "t", ["x" * 100_000])
    with pytest.raises(CorpusError) as caught:
        read_rows(tmp_path / "t")
    assert len(str(caught.value)) < 1000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this platform")
def test_pipe_instead_of_the_state_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "state.json")
    with pytest.raises(CorpusError, match="not a regular file"):
        read_rows(tmp_path, format_name="datasets")


@pytest.mark.parametrize("name", [b"text", b"path"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_column_name_with_invalid_utf8_rejects_its_file(
    pair_tables: list[pa.Table], tmp_path: Path, fmt: str, name: bytes
) -> None:
    (path, _) = write_corpus_of(tmp_path / "t", fmt, pair_tables)
    path.write_bytes(path.read_bytes().replace(name, name[:3] + b"\xff"))
    assert read_outcomes(tmp_path / "t", format_name=fmt)[:2] == ["unreadable_file", "caption 6"]


def test_splits_are_attributes(pair_tables: list[pa.Table], pictures: list[bytes], tmp_path: Path) -> None:
    root = tmp_path / "t"
    for split, table in (("train", pair_tables[0]), ("test", pair_tables[1])):
        write_state(root / split, ["data-00000-of-00001.arrow"])
        write_arrow(root / split / "data-00000-of-00001.arrow", table)
    (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    rows = read_rows(root)
    assert [row.attributes for row in rows] == [{"split": "train"}] * 6 + [{"split": "test"}] * 4
    assert isinstance(rows[6], Pair)
    assert rows[6].place == Place("test/data-00000-of-00001.arrow/0", "test/data-00000-of-00001.arrow", 0)
    assert open_corpus(root).reader.image(rows[6].place) == pictures[6]


@pytest.mark.parametrize("name", ["../out.arrow", "/etc/passwd", "link", "a\\b", "", "nul\0"])
def test_names_in_the_state_cannot_leave_the_corpus(pair_tables: list[pa.Table], tmp_path: Path, name: str) -> None:
    root = tmp_path / "t"
    write_state(root, [name, "good.arrow"])
    write_arrow(root / "good.arrow", pair_tables[1])
    write_arrow(tmp_path / "out.arrow", pair_tables[0])
    (root / "link").symlink_to(tmp_path / "out.arrow")
    (bad, *good) = read_rows(root)
    assert isinstance(bad, Rejected)
    assert bad.reason in {Reason.PATH_OUTSIDE_CORPUS, Reason.MALFORMED_ROW}
    assert [row.caption for row in good] == [f"caption {index}" for index in range(6, 10)]


def test_link_to_a_parquet_file_outside_is_rejected(pair_tables: list[pa.Table], tmp_path: Path) -> None:
    (path, _) = write_corpus_of(tmp_path / "t", "parquet", pair_tables)
    path.rename(tmp_path / "out.parquet")
    path.symlink_to(tmp_path / "out.parquet")
    assert read_outcomes(tmp_path / "t")[:2] == ["path_outside_corpus", "caption 6"]


@pytest.mark.parametrize(
    "state",
    ["", "[]", "{", "{}", '{"_data_files": 3}', '{"_data_files": ["a"]}', '{"_data_files": []}', "[" * 10**5],
)
def test_invalid_state_raises(tmp_path: Path, state: str) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(CorpusError, match="expected"):
        open_corpus(tmp_path).count()


def test_splits_cannot_leave_the_corpus(pair_tables: list[pa.Table], tmp_path: Path) -> None:
    write_corpus_of(tmp_path / "out", "datasets", pair_tables)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "dataset_dict.json").write_text('{"splits": ["../out"]}')
    with pytest.raises(CorpusError, match="path inside the corpus"):
        open_corpus(tmp_path / "t").count()


def test_format_is_detected(pictures: list[bytes], write_corpus: WriteCorpus, tmp_path: Path) -> None:
    assert open_corpus(write_corpus([{"file_name": "a.png", "text": "x"}], kind="parquet")).format == "folder"
    write_parquet(tmp_path / "urls" / "00000.parquet", pa.table({"url": ["u"], "text": ["x"]}))
    with pytest.raises(CorpusError, match=r"similar files: \['00000.parquet'\]"):
        open_corpus(tmp_path / "urls")
    write_parquet(tmp_path / "none" / "a.parquet", make_table([], []))
    with pytest.raises(CorpusError, match="zero rows"):
        open_corpus(tmp_path / "none").pairs()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_row_is_accounted_for_whatever_is_damaged(
    pair_tables: list[pa.Table], tmp_path_factory: pytest.TempPathFactory, fmt: str, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("fuzz") / "t"
    (path, _) = write_corpus_of(root, fmt, pair_tables)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        rows = read_rows(root, format_name=fmt)
    except CorpusError:
        return
    assert [row.caption for row in rows][-4:] == [f"caption {index}" for index in range(6, 10)]
    reader = open_corpus(root, fmt).reader
    for row in rows:
        if isinstance(row, Pair):
            assert reader.image(row.place)
