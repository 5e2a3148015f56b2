import io
import json
import os
from collections.abc import Callable, Generator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import corpora.corpus
import corpora.readers.imagefolder
from corpora import CorpusError, Limits, Pair, Place, Reason, Rejected, RowError, decode, digest, open_corpus
from corpora.perceptual_hash import perceptual_hash
from corpora.readers.imagefolder import resolve_inside

WriteCorpus = Callable[..., Path]
Picture = Callable[..., bytes]
KINDS = ("csv", "tsv", "jsonl", "parquet")


def read_folder(root, **options):
    return open_corpus(root, "folder", **options).pairs()


def count_rows(root):
    return open_corpus(root, "folder").count()


def read_rows(root: Path, **options: object) -> list[Pair | Rejected]:
    rows = list(read_folder(root, **options))
    assert [row.row for row in rows] == list(range(len(rows)))
    assert count_rows(root) == len(rows)
    return rows


def read_outcomes(root: Path, **options: object) -> list[str]:
    return [row.reason.value if isinstance(row, Rejected) else "pair" for row in read_rows(root, **options)]


def test_pair_has_all_its_fields(write_corpus: WriteCorpus, picture: Picture) -> None:
    data = picture("JPEG")
    root = write_corpus(
        [{"file_name": "sub/a.jpg", "text": " Cafe\u0301 ", "view": "ap", "none": ""}], {"sub/a.jpg": data}
    )
    sha = sha256(data).hexdigest()
    assert read_rows(root) == [
        Pair(
            row=0,
            pair_id=f"{sha[:16]}-{sha256('Café'.encode()).hexdigest()[:8]}",
            place=Place("sub/a.jpg"),
            caption="Café",
            image_sha256=sha,
            width=8,
            height=6,
            fingerprint=perceptual_hash(decode(data)),
            attributes={"view": "ap"},
        )
    ]


def test_all_formats_give_the_same_rows(write_corpus: WriteCorpus, picture: Picture) -> None:
    images = {"a.png": picture(), "b.gif": picture("GIF"), "cut.png": picture()[:-30], "none.png": b""}
    deep = make_16_bit_image()
    images["deep.png"] = deep
    table: list[dict[str, object]] = [
        {"file_name": "a.png", "text": 'one, "two"\n\nthree', "age": "12", "note": "é"},
        {"file_name": "b.gif", "text": "a\tgif, tabbed", "age": "", "note": " "},
        {"file_name": "a.png", "text": "another caption", "age": "0.50", "note": ""},
        {"file_name": "a.png", "text": "another caption", "age": "", "note": "again"},
        {"file_name": "../a.png", "text": "x", "age": "", "note": ""},
        {"file_name": "", "text": "x", "age": "", "note": ""},
        {"file_name": "a.png", "text": " ", "age": "", "note": ""},
        {"file_name": "a.png", "text": "x" * 10_001, "age": "", "note": ""},
        {"file_name": "a.png", "text": "nul \x00", "age": "", "note": ""},
        {"file_name": "cut.png", "text": "x", "age": "", "note": ""},
        {"file_name": "none.png", "text": "x", "age": "", "note": ""},
        {"file_name": "no.png", "text": "x", "age": "", "note": ""},
        {"file_name": "deep.png", "text": "x", "age": "", "note": ""},
    ]
    rows_by_format = {}
    for kind in KINDS:
        root = write_corpus(table, images, kind, folder=kind)
        rows = read_rows(root)
        rows_by_format[kind] = rows
        assert digest(rows) == digest(read_rows(root)[::-1])
    assert [rows_by_format[kind][3].detail.partition(" repeats")[0] for kind in KINDS] == [
        "line 7" if kind in ("csv", "tsv") else f"{'line' if kind == 'jsonl' else 'row'} 4" for kind in KINDS
    ]
    # Row positions differ by format; the rest of the message is the same.
    for rows in rows_by_format.values():
        rows[:] = [row if isinstance(row, Pair) else replace(row, detail=row.detail.partition(": ")[2]) for row in rows]
    assert rows_by_format["csv"] == rows_by_format["tsv"] == rows_by_format["jsonl"] == rows_by_format["parquet"]
    assert [row.reason.value if isinstance(row, Rejected) else "pair" for row in rows_by_format["csv"]] == [
        "pair", "pair", "pair", "duplicate_pair", "path_outside_corpus", "malformed_row", "empty_caption",
        "caption_too_long", "caption_encoding", "truncated_image", "empty_file", "missing_file",
        "pair",
    ]  # fmt: skip


def make_16_bit_image() -> bytes:
    file = io.BytesIO()
    Image.new("I;16", (4, 4), 40_000).save(file, "PNG")
    return file.getvalue()


def test_typed_values_become_plain_text(write_corpus: WriteCorpus) -> None:
    record = {
        "file_name": "a.png",
        "text": "x",
        "i": 3,
        "f": 0.1,
        "whole": 2.0,
        "yes": True,
        "no": False,
        "nothing": None,
        "nan": float("nan"),
        "list": [1, "é"],
        "object": {"a": None, "b": [True]},
    }
    expected = {
        "i": "3",
        "f": "0.1",
        "whole": "2.0",
        "yes": "true",
        "no": "false",
        "list": '[1,"é"]',
        "object": '{"a":null,"b":[true]}',
    }
    (row,) = read_rows(write_corpus([record], kind="jsonl", folder="jsonl"))
    assert row.attributes == expected
    record["list"] = ["1", "é"]  # a Parquet list has one type
    expected["list"] = '["1","é"]'
    (row,) = read_rows(write_corpus([record], kind="parquet", folder="parquet"))
    assert row.attributes == expected


def test_column_names_can_be_chosen(write_corpus: WriteCorpus) -> None:
    root = write_corpus([{"image": "a.png", "caption": "x", "text": "y"}])
    (row,) = read_rows(root, image_column="image", caption_column="caption")
    assert isinstance(row, Pair)
    assert (row.caption, row.attributes) == ("x", {"text": "y"})
    with pytest.raises(ValueError, match="expected two columns"):
        read_folder(root, image_column="text", caption_column="text")


@pytest.fixture
def read_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the image files that were read."""
    names: list[str] = []
    original = corpora.readers.imagefolder.read_bytes

    def spy(path: Path, limits: Limits) -> object:
        names.append(path.name)
        return original(path, limits)

    monkeypatch.setattr(corpora.readers.imagefolder, "read_bytes", spy)
    return names


def test_several_captions_decode_an_image_once(
    write_corpus: WriteCorpus, picture: Picture, read_names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = [{"file_name": name, "text": text} for text in "abc" for name in ("a.png", "cut.png")]
    root = write_corpus(table, {"a.png": picture(), "cut.png": picture()[:-30]})
    assert read_outcomes(root) == ["pair", "truncated_image"] * 3
    assert sorted(read_names) == ["a.png", "cut.png"]  # in any order, since threads read them
    read_names.clear()
    monkeypatch.setattr(corpora.corpus, "_BATCH_ROWS", 1)
    assert [isinstance(row, Pair) for row in open_corpus(root).pairs(readers=1)] == [True, False] * 3
    assert len(read_names) == 2  # other batches find them in the cache
    read_names.clear()
    monkeypatch.setattr(corpora.corpus, "_CACHED_IMAGES", 1)
    assert [isinstance(row, Pair) for row in open_corpus(root).pairs(readers=1)] == [True, False] * 3
    assert len(read_names) == 6  # the cache is limited


def test_pixels_are_inspected_with_each_caption_while_the_image_is_read_once(
    write_corpus: WriteCorpus, picture: Picture, read_names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora.corpus, "_BATCH_ROWS", 2)  # captions of one image stay in one batch
    names = ("a.png", "cut.png", "b.png", "no.png")
    table = [{"file_name": name, "text": text} for name in names for text in (" x ", "y", "z", "y")]
    images = {"a.png": picture(), "b.png": picture(size=(5, 4)), "cut.png": picture()[:-30]}
    corpus = open_corpus(write_corpus(table, images))
    rows = list(corpus.pairs(inspect=lambda pixels, caption: (pixels.mode, pixels.size, caption)))
    assert [row.inspection for row in rows if isinstance(row, Pair)] == [
        ("RGB", size, caption) for size in ((8, 6), (5, 4)) for caption in "xyz"
    ]
    assert sorted(read_names) == ["a.png", "b.png", "cut.png", "no.png"]
    assert [row if isinstance(row, Rejected) else replace(row, inspection=None) for row in rows] == [*corpus.pairs()]


def test_an_error_of_the_inspection_rejects_no_row(write_corpus: WriteCorpus) -> None:
    def fail(pixels: object, caption: str) -> object:
        raise RowError(Reason.CORRUPT_IMAGE, "not of the image")

    with pytest.raises(RowError, match="not of the image"):
        list(open_corpus(write_corpus([{"file_name": "a.png", "text": "x"}])).pairs(inspect=fail))


def test_error_of_a_duplicate_names_its_first_row(write_corpus: WriteCorpus, picture: Picture) -> None:
    root = write_corpus(
        [
            {"file_name": "a.png", "text": "x"},
            {"file_name": "b.png", "text": "y"},
            {"file_name": "b.png", "text": " x "},
        ],
        {"a.png": picture(), "b.png": picture()},
    )
    rows = read_rows(root)
    assert isinstance(rows[0], Pair)
    assert isinstance(rows[1], Pair)
    assert isinstance(rows[2], Rejected)
    assert rows[2].reason is Reason.DUPLICATE_PAIR
    assert rows[2].detail.startswith("line 4 repeats the image and the caption of line 2 (expected")


def test_limits_are_applied_in_every_check(write_corpus: WriteCorpus, picture: Picture) -> None:
    root = write_corpus(
        [{"file_name": "a.png", "text": "abc"}, {"file_name": "b.png", "text": "x"}],
        {"a.png": picture(), "b.png": picture(size=(40, 10))},
    )
    assert read_outcomes(root) == ["pair", "pair"]
    assert read_outcomes(root, limits=Limits(max_caption_chars=2)) == ["caption_too_long", "pair"]
    assert read_outcomes(root, limits=Limits(max_pixels=100)) == ["pair", "too_many_pixels"]
    assert read_outcomes(root, limits=Limits(max_aspect_ratio=3)) == ["pair", "extreme_aspect"]
    assert read_outcomes(root, limits=Limits(max_file_bytes=10)) == ["file_too_large", "file_too_large"]


OUTSIDE = [
    "../a.png", "..", "sub/../../a.png", "sub/../a.png", "/etc/passwd", "//host/share/a.png", "C:a.png",
    "C:/a.png", "C:\\a.png", "..\\a.png", "sub\\a.png", "\\\\host\\share\\a.png", "\\\\?\\C:\\a.png",
]  # fmt: skip


@pytest.fixture
def opened_paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    paths: list[str] = []
    original = os.open

    def spy(path: object, *rest: int) -> int:
        paths.append(str(path))
        return original(path, *rest)

    monkeypatch.setattr(os, "open", spy)
    return paths


@pytest.mark.parametrize("name", OUTSIDE)
def test_paths_outside_the_corpus_are_rejected(
    write_corpus: WriteCorpus, picture: Picture, tmp_path: Path, name: str, opened_paths: list[str]
) -> None:
    (tmp_path / "a.png").write_bytes(picture())  # a valid image in the parent folder
    root = write_corpus([{"file_name": name, "text": "x"}], {"sub/a.png": picture(), "a.png": picture()}, "jsonl")
    assert read_outcomes(root) == ["path_outside_corpus"]
    assert opened_paths == []


def test_absolute_path_is_rejected_even_inside_the_corpus(write_corpus: WriteCorpus, tmp_path: Path) -> None:
    inside = str((tmp_path / "corpus" / "a.png").resolve())
    assert read_outcomes(write_corpus([{"file_name": inside, "text": "x"}])) == ["path_outside_corpus"]


def test_links_inside_the_corpus_are_followed_others_rejected(
    write_corpus: WriteCorpus, picture: Picture, tmp_path: Path, opened_paths: list[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.png").write_bytes(picture())
    names = ["file", "folder/a.png", "dangling", "chain", "loop", "inside"]
    root = write_corpus([{"file_name": name, "text": "x"} for name in names])
    (root / "file").symlink_to(outside / "a.png")
    (root / "folder").symlink_to(outside)
    (root / "dangling").symlink_to("/no/such/file")
    (root / "chain").symlink_to("file")
    (root / "loop").symlink_to("loop")
    (root / "inside").symlink_to("a.png")
    found = read_outcomes(root)
    assert found[:4] == ["path_outside_corpus"] * 4
    assert found[4] in {"unreadable_file", "missing_file"}
    assert found[5] == "pair"
    assert opened_paths == [str(root.resolve() / "a.png")]


def test_linked_root_is_accepted_but_a_sibling_with_its_prefix_is_not(
    write_corpus: WriteCorpus, picture: Picture, tmp_path: Path
) -> None:
    root = write_corpus([{"file_name": "a.png", "text": "x"}, {"file_name": "link", "text": "x"}])
    sibling = tmp_path / "corpus-private"
    sibling.mkdir()
    (sibling / "b.png").write_bytes(picture())
    (root / "link").symlink_to(sibling / "b.png")
    (tmp_path / "root").symlink_to(root)
    assert read_outcomes(tmp_path / "root") == ["pair", "path_outside_corpus"]


@pytest.mark.parametrize(
    "name",
    [
        "a.png", "sub/a.png", "sub", "absent/a.png", "a.png/below", "./sub//a.png", "été.png", ".hidden", "sub/.hidden",
        "to-sub/a.png", "sub/to-a.png", "sub/to-top/sub/a.png", "sub/up-and-down", f"{'n' * 300}.png",
    ],
)  # fmt: skip
def test_path_is_resolved_through_all_links(tmp_path: Path, name: str) -> None:
    root = Path(os.path.realpath(tmp_path))
    (root / "sub").mkdir()
    (root / "a.png").touch()
    for link, target in (
        ("to-sub", "sub"), ("sub/to-a.png", "../a.png"), ("sub/to-top", ".."), ("sub/up-and-down", "../sub/../to-sub"),
    ):  # fmt: skip
        (root / link).symlink_to(target)
    assert resolve_inside(root, name) == Path(os.path.realpath(root / name))


def test_irregular_files_are_not_opened(write_corpus: WriteCorpus, opened_paths: list[str]) -> None:
    root = write_corpus([{"file_name": name, "text": "x"} for name in (".", "sub", "fifo", "nul\0", " ")])
    (root / "sub").mkdir()
    os.mkfifo(root / "fifo")
    assert read_outcomes(root) == ["not_a_regular_file"] * 3 + ["malformed_row"] * 2
    assert opened_paths == []


def test_rejected_texts_can_be_stored(write_corpus: WriteCorpus) -> None:
    lines = [
        {"file_name": "a\ud800\0.png", "text": "bad \udcff\0", "note": "\ud800"},
        {"file_name": "no" * 9000, "text": "long " * 9000},
        {"file_name": "no.png", "text": "x", "k\ud800": 1},
        {"file_name": 3, "text": ["x"]},
    ]
    root = write_corpus("".join(json.dumps(line) + "\n" for line in lines).encode(), kind="jsonl")
    rows = read_rows(root)
    for row in rows:
        assert isinstance(row, Rejected)
        for text in [row.file_name, row.caption, row.detail, *row.attributes, *row.attributes.values()]:
            assert text is not None
            assert "\0" not in text
            assert len(text.encode()) < 11_000
    assert rows[0].file_name == "a\\ud800\\x00.png"
    assert [row.reason for row in rows if isinstance(row, Rejected)] == [
        Reason.MALFORMED_ROW,
        Reason.CAPTION_TOO_LONG,
        Reason.MALFORMED_ROW,
        Reason.MALFORMED_ROW,
    ]


def test_parquet_is_streamed_over_batches(write_corpus: WriteCorpus) -> None:
    table = [{"file_name": "a.png", "text": f"caption {number}"} for number in range(2500)]
    root = write_corpus(table, kind="parquet")
    assert read_outcomes(root) == ["pair"] * 2500


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_row_is_accounted_for(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("corpus")
    for name in ("a", "b"):
        (root / name).write_bytes(data.draw(st.binary(max_size=30)))
    Image.new("RGB", (3, 3)).save(root / "c", "PNG")
    names = st.sampled_from(["a", "b", "c", "d", "../c", "/", ""]) | st.text(max_size=5)
    table = data.draw(st.lists(st.tuples(names, st.text(max_size=5)), min_size=1, max_size=12))
    file_names, captions = zip(*table, strict=True)
    pq.write_table(pa.table({"file_name": file_names, "text": captions}), root / "metadata.parquet")
    rows = read_rows(root)
    assert len(rows) == len(table)
    for row, (file_name, _) in zip(rows, table, strict=True):
        if isinstance(row, Pair):
            assert row.file_name == file_name
            assert open_corpus(root).read_image(row.place).sha256 == row.image_sha256
        else:
            assert row.reason in Reason
            assert row.detail
    identities = [row.pair_id for row in rows if isinstance(row, Pair)]
    assert len(set(identities)) == len(identities)


def test_closing_the_iterator_waits_for_no_more_images(
    write_corpus: WriteCorpus, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"file_name": f"{number}.png", "text": f"caption {number}"} for number in range(200)]
    root = write_corpus(rows, {row["file_name"]: picture(color=number) for number, row in enumerate(rows)})
    opened: list[object] = []
    original = corpora.corpus.open_image

    def spy(data: bytes, limits: Limits) -> object:
        opened.append(data)
        return original(data, limits)

    monkeypatch.setattr(corpora.corpus, "open_image", spy)
    pairs = open_corpus(root).pairs(readers=1)
    assert isinstance(pairs, Generator)
    assert [next(pairs).row for _ in range(3)] == [0, 1, 2]  # in order, whichever image is read first
    pairs.close()
    assert 3 <= len(opened) < 60


@pytest.mark.parametrize(("kind", "named"), [("csv", None), ("jsonl", None), ("tsv", "folder"), ("parquet", "folder")])
def test_path_of_a_table_selects_it(
    write_corpus: WriteCorpus, picture: Picture, tmp_path: Path, kind: str, named: str | None
) -> None:
    table = [{"file_name": name, "text": "x"} for name in ("a.png", "../secret.png")]
    root = write_corpus(table, {"a.png": picture(), "train.v2/a.txt": b""}, kind)
    (tmp_path / "secret.png").write_bytes(picture())
    (root / f"metadata.{kind}").rename(root / f"train.v2.{kind}")
    write_corpus(table, folder="other", kind=kind)
    (root / "metadata.csv").write_text("not read")
    corpus = open_corpus(root / f"train.v2.{kind}", named)
    rows = list(corpus.pairs())
    assert (corpus.format, corpus.count()) == ("folder", 2)
    assert [row.file_name for row in rows] == ["a.png", "../secret.png"]
    assert isinstance(rows[0], Pair)
    assert isinstance(rows[1], Rejected)
    (root / f"link.{kind}").symlink_to(tmp_path / "other" / f"metadata.{kind}")
    with pytest.raises(CorpusError, match="leads out of the corpus"):
        open_corpus(root / f"link.{kind}", "folder").pairs()
