import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import corpora.readers.metadata
from corpora import DEFAULT_LIMITS, CorpusError, Pair, Reason, Rejected, open_corpus

WriteCorpus = Callable[..., Path]


def read_folder(root, *columns, limits=DEFAULT_LIMITS):
    return open_corpus(root, "folder", *columns, limits=limits).pairs()


def count_rows(root):
    return open_corpus(root, "folder").count()


def read_results(root: Path) -> list[str]:
    """Return the caption of each pair and the reason of each rejected row."""
    rows = list(read_folder(root))
    assert [row.row for row in rows] == list(range(len(rows)))
    assert count_rows(root) == len(rows)
    return [row.caption if isinstance(row, Pair) else f"<{row.reason}>" for row in rows]


def read_details(root: Path) -> list[str]:
    return [row.detail for row in read_folder(root) if isinstance(row, Rejected)]


HEAD = b"file_name,text\n"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_byte_order_mark_is_skipped(write_corpus: WriteCorpus, name: str) -> None:
    kind = name.rsplit(".", maxsplit=1)[-1]
    text = HEAD + b"a.png,x\n" if kind == "csv" else b'{"file_name": "a.png", "text": "x"}\n'
    assert read_results(write_corpus(b"\xef\xbb\xbf" + text, kind=kind)) == ["x"]


def test_quoted_captions_keep_their_lines(write_corpus: WriteCorpus) -> None:
    root = write_corpus(HEAD + b'a.png,"one\ntwo, ""three""\n\nfour"\r\n\n\na.png,last\n')
    assert read_results(root) == ['one\ntwo, "three"\n\nfour', "last"]


def test_stray_quote_in_a_tsv_rejects_only_its_line(write_corpus: WriteCorpus) -> None:
    root = write_corpus(b'file_name\ttext\na.png\t"open\na.png\tone, two\na.png\t"two\tlines\n"\n', kind="tsv")
    assert read_results(root) == ["<malformed_row>", "one, two", "two\tlines"]
    with pytest.raises(CorpusError, match="expected tab-separated UTF-8"):
        read_folder(write_corpus(b'file_name\t"text" x\n', kind="tsv", folder="other"))


def test_csv_without_final_line_break_is_read(write_corpus: WriteCorpus) -> None:
    assert read_results(write_corpus(HEAD + b"a.png,x")) == ["x"]


def test_rows_with_too_many_or_too_few_fields_are_rejected(write_corpus: WriteCorpus) -> None:
    root = write_corpus(HEAD + b"a.png\na.png,x,y\na.png,z\n \n")
    assert read_results(root) == ["<malformed_row>", "<malformed_row>", "z", "<malformed_row>"]
    assert read_details(root)[1].startswith("line 3 has 3 fields where the header has 2: ['a.png', 'x', 'y']")


def test_stray_quote_rejects_only_its_line(write_corpus: WriteCorpus) -> None:
    root = write_corpus(HEAD + b'a.png,"open\na.png,one\na.png,"two\nlines"\na.png,"x" y\na.png,5" wide\n')
    assert read_results(root) == ["<malformed_row>", "one", "two\nlines", "<malformed_row>", '5" wide']
    assert read_details(root)[0].startswith("line 2 is not CSV")
    assert read_details(root)[1].startswith("line 6 is not CSV")


def test_open_quote_at_the_end_rejects_only_its_line(write_corpus: WriteCorpus) -> None:
    lines = b"".join(b"a.png,caption %d\n" % number for number in range(20_000))
    root = write_corpus(HEAD + b'a.png,"open\n' + lines)
    results = read_results(root)
    assert results[0] == "<malformed_row>"
    assert results[1:] == [f"caption {number}" for number in range(20_000)]


def test_invalid_utf8_rejects_only_its_row(write_corpus: WriteCorpus) -> None:
    root = write_corpus(
        b"file_name,text,note\na.png,one,\na.png,caf\xe9,\na\xe9.png,x,\na.png,x,\xe9\na.png,caf\xc3\xa9,\n"
    )
    assert read_results(root) == ["one", "<caption_encoding>", "<malformed_row>", "<malformed_row>", "café"]
    root = write_corpus(
        b'{"file_name":"a.png","text":"caf\xe9"}\n{"file_name":"a.png","text":"\\ud800"}\n'
        b'{"file_name":"a.png","text":"\\ud83d\\ude00"}\n{"file_name":"a.png","text":"x","note":["\xe9"]}\n',
        kind="jsonl",
        folder="jsonl",
    )
    assert read_results(root) == ["<caption_encoding>", "<caption_encoding>", "\U0001f600", "<malformed_row>"]


def test_invalid_utf8_in_parquet_rejects_only_its_row(write_corpus: WriteCorpus) -> None:
    def text(*cells: bytes) -> pa.Array:
        offsets = pa.array([sum(map(len, cells[:end])) for end in range(len(cells) + 1)], pa.int32())
        return pa.Array.from_buffers(
            pa.string(), len(cells), [None, offsets.buffers()[1], pa.py_buffer(b"".join(cells))]
        )

    table = pa.table(
        {
            "file_name": text(b"a.png", b"a.png", b"a\xff", b"a.png", b"a.png"),
            "text": text(b"one", b"caf\xe9", b"x", b"y", b"z"),
            "note": pa.StructArray.from_arrays([text(b"", b"", b"", b"\xe9", b"fine")], ["inner"]),
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    root = write_corpus(file.getvalue(), kind="parquet")
    assert read_results(root) == ["one", "<caption_encoding>", "<malformed_row>", "<malformed_row>", "z"]
    assert read_details(root)[2].startswith("row 4 has a value in column 'note'")


def test_nul_bytes_reject_their_row(write_corpus: WriteCorpus) -> None:
    root = write_corpus(b"file_name,text,note\na.png,x\0,\na.png\0,x,\na.png,x,\0\na.png,y,\n")
    assert read_results(root) == ["<caption_encoding>", "<malformed_row>", "<malformed_row>", "y"]


def test_huge_fields_and_lines_reject_their_row(write_corpus: WriteCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = b"x" * 200_000  # above the field limit of the csv module
    csv_root = write_corpus(HEAD + b"a.png," + huge + b"\na.png,x\n")
    json_root = write_corpus(
        b'{"file_name":"a.png","text":"' + huge + b'"}\n{"file_name":"a.png","text":"x"}\n',
        kind="jsonl",
        folder="jsonl",
    )
    assert read_results(csv_root) == ["<malformed_row>", "x"]
    assert read_results(json_root) == ["<caption_too_long>", "x"]
    monkeypatch.setattr(corpora.readers.metadata, "MAX_LINE_BYTES", 1000)
    assert read_results(csv_root) == read_results(json_root) == ["<malformed_row>", "x"]
    assert all("longer than" in detail for detail in read_details(csv_root) + read_details(json_root))


def test_memory_is_limited_even_if_the_csv_limit_was_raised(
    write_corpus: WriteCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_corpus(HEAD + b'a.png,"open\n' + b"".join(b"a.png,%d\n" % number for number in range(300)))
    monkeypatch.setattr(corpora.readers.metadata, "MAX_LINE_BYTES", 1000)
    before = csv.field_size_limit(10**9)
    try:
        results = read_results(root)
        assert "longer than" in read_details(root)[0]
        assert csv.field_size_limit() == 10**9  # the global limit is unchanged
    finally:
        csv.field_size_limit(before)
    assert results == ["<malformed_row>", *map(str, range(300))]


def test_json_lines_that_are_not_objects_are_rejected(write_corpus: WriteCorpus) -> None:
    good = b'{"file_name": "a.png", "text": "x"}'
    bad = [
        b"[1]", b"{", b"null", b'{"file_name": "a.png"} {}', b"[" * 100_000, b"9" * 5000,
        b'{"file_name": "a.png", "text": "x", "text": "y"}',
        b'{"file_name": "a.png", "text": 3}', b'{"file_name": ["a.png"], "text": "y"}', b'{"text": "y"}',
    ]  # fmt: skip
    root = write_corpus(b"\n\n".join([good, *bad]) + b"\n  \n", kind="jsonl")
    assert read_results(root) == ["x"] + ["<malformed_row>"] * len(bad)
    assert read_details(root)[0].startswith("line 3 is JSON but not an object: '[1]")
    assert read_details(root)[1].startswith("line 5 is not JSON")


def test_missing_caption_is_empty(write_corpus: WriteCorpus) -> None:
    lines = b'{"file_name": "a.png"}\n{"file_name": "a.png", "text": null}\n{"file_name": "a.png", "text": "x"}\n'
    assert read_results(write_corpus(lines, kind="jsonl")) == ["<empty_caption>", "<empty_caption>", "x"]


def test_parquet_types_are_converted_to_text(write_corpus: WriteCorpus) -> None:
    table = pa.table(
        {
            "file_name": pa.array(["a.png"]).dictionary_encode(),
            "text": pa.array(["x"], pa.large_string()),
            "half": pa.array([0.1], pa.float32()),
            "day": pa.array([19_000], pa.date32()),
            "price": pa.array(["1.50"]).cast(pa.decimal128(5, 2)),
            "empty": pa.nulls(1),
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    (row,) = read_folder(write_corpus(file.getvalue(), kind="parquet"))
    assert isinstance(row, Pair)
    assert row.attributes == {"half": "0.1", "day": "2022-01-08", "price": "1.50"}


def make_parquet(**columns: pa.Array) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


GOOD_PARQUET = make_parquet(file_name=pa.array(["a.png"] * 50), text=pa.array([f"caption {i}" for i in range(50)]))


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("csv", b"", "no column 'file_name' .columns found: none"),
        ("csv", HEAD, r"has zero rows \(expected at least one\)"),
        ("csv", HEAD + b"\n\n", "has zero rows"),
        (
            "csv",
            b"file_name,txt\na.png,x\n",
            "no column 'text' .columns found: 'file_name', 'txt'; the nearest is 'txt'",
        ),
        ("csv", b"image;caption\na.png;x\n", "no column 'file_name' .columns found: 'image;caption'"),
        ("csv", b"file_name,text,text\na.png,x,y\n", "columns 'text' more than once"),
        ("csv", b'file_name,"text" x\na.png,x\n', "header of .* is not CSV"),
        ("csv", b"file_name,text,n\xe9\na.png,x,\n", "header of .* not UTF-8"),
        ("csv", "file_name,text\na.png,x\n".encode("utf-16"), r"is UTF-16 \(expected UTF-8\)"),
        ("jsonl", b"", "no column 'file_name'"),
        ("jsonl", b'[\n{"file_name": "a.png"}\n]\n', "no column 'text' .columns found: 'file_name'"),
        ("jsonl", b'{"image": "a.png", "text": "x"}\n', "no column 'file_name'"),
        ("parquet", b"", "cannot be read .ArrowInvalid"),
        ("parquet", b"PAR1" + bytes(40) + b"PAR1", "cannot be read"),
        ("parquet", GOOD_PARQUET[: len(GOOD_PARQUET) // 2], "cannot be read"),
        ("parquet", make_parquet(file_name=pa.array(["a.png"]), label=pa.array(["x"])), "no column 'text'"),
        (
            "parquet",
            make_parquet(file_name=pa.array(["a.png"]), text=pa.array([3])),
            r"'text' of .* is int64 \(expected text\)",
        ),
        (
            "parquet",
            make_parquet(file_name=pa.array(["a"]), text=pa.array(["x"]), raw=pa.array([b"x"])),
            "'raw' .* binary .expected text or numbers",
        ),
        (
            "parquet",
            make_parquet(file_name=pa.array([], pa.string()), text=pa.array([], pa.string())),
            "has zero rows",
        ),
    ],
)
def test_unreadable_corpus_raises_at_the_call(write_corpus: WriteCorpus, kind: str, data: bytes, message: str) -> None:
    root = write_corpus(data, kind=kind)
    with pytest.raises(CorpusError, match=message):
        read_folder(root)


def test_damage_inside_a_parquet_file_is_a_corpus_error(write_corpus: WriteCorpus) -> None:
    data = bytearray(GOOD_PARQUET)
    data[4:200] = bytes(196)
    root = write_corpus(bytes(data), kind="parquet")
    with pytest.raises(CorpusError, match="cannot be read"):
        list(read_folder(root))


def test_exactly_one_metadata_file_is_required(write_corpus: WriteCorpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is not a folder"):
        read_folder(tmp_path / "no")
    root = tmp_path / "empty"
    root.mkdir()
    (root / "captions.csv").write_bytes(HEAD)
    with pytest.raises(CorpusError, match=r"no metadata file \(similar files: \['captions.csv'\]\)"):
        read_folder(root)
    root = write_corpus(HEAD)
    (root / "metadata.jsonl").touch()
    with pytest.raises(
        CorpusError,
        match=r"has several files that list its rows: metadata.csv, metadata.jsonl; expected .* exactly one",
    ):
        count_rows(root)


def test_metadata_must_be_a_regular_file_inside_the_corpus(write_corpus: WriteCorpus, tmp_path: Path) -> None:
    outside = write_corpus(HEAD + b"a.png,x\n", folder="outside")
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "metadata.csv").symlink_to(outside / "metadata.csv")
    with pytest.raises(CorpusError, match="leads out of the corpus"):
        read_folder(root)
    (root / "metadata.csv").unlink()
    os.mkfifo(root / "metadata.csv")
    with pytest.raises(CorpusError, match="is not a regular file"):
        read_folder(root)
    (root / "metadata.csv").unlink()
    (root / "metadata.csv").symlink_to("gone")
    with pytest.raises(CorpusError, match="does not exist"):
        read_folder(root)
    (root / "real.txt").write_bytes(HEAD + b"a.png,x\n")
    (root / "metadata.csv").unlink()
    (root / "metadata.csv").symlink_to("real.txt")
    assert read_results(root) == ["<missing_file>"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.lists(
        st.sampled_from([b"a.png,x", b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"{", b"}", b"1"]),
        max_size=40,
    ),
    kind=st.sampled_from(["csv", "jsonl"]),
)
def test_any_bytes_end_as_rows_or_as_a_corpus_error(
    tmp_path_factory: pytest.TempPathFactory, body: list[bytes], kind: str
) -> None:
    root = tmp_path_factory.mktemp("corpus")
    head = HEAD if kind == "csv" else b'{"file_name": "a.png", "text": "x"}\n'
    (root / f"metadata.{kind}").write_bytes(head + b"".join(body))
    try:
        rows: Iterator[Pair | Rejected] = read_folder(root)
    except CorpusError:
        assert kind == "csv"  # zero rows
        assert not b"".join(body).strip(b"\r\n")
        return
    found = list(rows)
    assert len(found) == count_rows(root)
    assert all(row.reason in Reason for row in found if isinstance(row, Rejected))
    # No line is lost: each line that is not blank begins a row or belongs to a quoted field before it.
    if b'"' not in b"".join(body):
        lines = [line for line in (head + b"".join(body)).split(b"\n") if line.strip()]
        assert len(found) == len(lines) - (kind == "csv")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, len(GOOD_PARQUET) - 1), st.integers(0, 255)), max_size=6))
def test_damaged_parquet_ends_as_rows_or_as_a_corpus_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]]
) -> None:
    root = tmp_path_factory.mktemp("corpus")
    data = bytearray(GOOD_PARQUET)
    for position, value in edits:
        data[position] = value
    (root / "metadata.parquet").write_bytes(data)
    try:
        rows = list(read_folder(root))
    except CorpusError:
        return
    assert all(isinstance(row, Pair | Rejected) for row in rows)


def test_huge_column_name_is_truncated_in_the_reason(write_corpus):
    root = write_corpus([{"file_name": "a.png", "text": "x", "k" * 100_000: "\0"}], kind="jsonl")
    (row,) = open_corpus(root).pairs()
    assert "contains NUL" in row.detail
    assert len(row.detail) < 1000
