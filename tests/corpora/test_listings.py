import json
import os
from collections.abc import Callable
from hashlib import md5, sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from corpora import CorpusError, Pair, Rejected, open_corpus
from corpora.formats import detect_format

WriteCorpus = Callable[..., Path]
Picture = Callable[..., bytes]
Write = Callable[..., Path]
URL = "http://host.org/pics/a%20b.png?size=3"


@pytest.fixture
def write(tmp_path: Path, picture: Picture) -> Write:
    """Write a folder of files by name; None writes an image."""

    def write(files: dict[str, bytes | None], folder: str = "corpus") -> Path:
        root = tmp_path / folder
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(picture() if data is None else data)
        return root

    return write


def read_rows(root: Path, name: str | None = None, **options: Any) -> list[Pair | Rejected]:
    corpus = open_corpus(root, name, **options)
    rows = list(corpus.pairs())
    assert [row.row for row in rows] == list(range(len(rows)))
    assert corpus.count() == len(rows)
    for row in rows:
        assert isinstance(row, Rejected) or corpus.read_image(row.place).sha256 == row.image_sha256
    return rows


def read_outcomes(root: Path, name: str | None = None, **options: Any) -> list[tuple[str | None, str]]:
    rows = read_rows(root, name, **options)
    return [(row.file_name, row.reason.value if isinstance(row, Rejected) else row.caption) for row in rows]


def test_files_are_the_pairs_of_a_folder(write: Write, write_corpus: WriteCorpus, picture: Picture) -> None:
    root = write(
        {
            "00000/000000001.jpg": picture("JPEG"),
            "00000/000000001.txt": b"\xef\xbb\xbfCaf\xc3\xa9\n",
            "00000/000000001.json": json.dumps({"caption": "Café\n", "url": URL, "width": 8, "exif": None}).encode(),
            "00000.parquet": b"PAR1",
            "00000_stats.json": b"{}",
            "z.v2.PNG": None,
            "z.v2.txt": b"last",
            "z.v2.json": b'{"caption": "first"}',
        }
    )  # fmt: skip
    rows = read_rows(root)
    table = [{"file_name": "z.png", "text": "last"}, {"file_name": "b.jpg", "text": "Café"}]
    folder = write_corpus(table, {"z.png": picture(), "b.jpg": picture("JPEG")}, folder="folder")
    assert [row.pair_id for row in rows] == [row.pair_id for row in open_corpus(folder).pairs()]
    assert [row.file_name for row in rows] == ["z.v2.PNG", "00000/000000001.jpg"]
    assert [row.attributes for row in rows] == [{"caption": "first"}, {"url": URL, "width": "8"}]


def test_unpaired_files_are_error_rows(write: Write) -> None:
    root = write(
        {
            "a.png": None, "a.txt": b"x", "alone.png": None, "b/caption.txt": b"y", "c.jpg": None, "c.png": None,
            "c.txt": b"both", "d.jpg": None, "d.txt": b"", "e.gif": None, "e.txt": b"caf\xe9", "f.png": None,
            "f.txt": b"z", "f.json": b"[1]", "g.png": b"<!DOCTYPE html><p>gone", "g.txt": b"w", "readme.md": b"",
        }
    )  # fmt: skip
    assert read_outcomes(root) == [
        ("a.png", "x"),
        ("alone.png", "empty_caption"),
        ("c.jpg", "both"),
        ("c.png", "duplicate_pair"),
        ("d.jpg", "empty_caption"),
        ("e.gif", "caption_encoding"),
        ("f.png", "malformed_row"),
        ("g.png", "not_an_image"),
        ("b/caption.txt", "missing_file"),
    ]
    assert "is HTML" in read_rows(root)[7].detail


def test_links_outside_the_corpus_are_not_followed(write: Write, tmp_path: Path) -> None:
    outside = write({"secret.png": None, "secret.txt": b"secret"}, "outside")
    root = write({"a.png": None, "a.txt": b"x", "b.png": None, "c.txt": b"y", "sub/d.png": None, "sub/d.txt": b"d"})
    (root / "b.txt").symlink_to(outside / "secret.txt")
    (root / "c.png").symlink_to(outside / "secret.png")
    (root / "out").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "e\\f.png").write_bytes(b"")
    (root / "e\\f.txt").write_bytes(b"x")
    os.mkfifo(root / "g.txt")
    (root / "g.png").mkdir()
    assert read_outcomes(root) == [
        ("a.png", "x"),
        ("b.png", "path_outside_corpus"),
        ("c.png", "path_outside_corpus"),
        ("e\\f.png", "path_outside_corpus"),
        ("g.png", "not_a_regular_file"),
        ("out", "path_outside_corpus"),
        ("sub/d.png", "d"),
    ]
    with pytest.raises(CorpusError, match="neither images"):
        open_corpus(write({"x.md": b""}, "empty"), "files").pairs()
    with pytest.raises(CorpusError, match="is not a folder"):
        open_corpus(tmp_path / "no", "files").count()


def make_tsv(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


HASHED = [
    md5(URL.encode(), usedforsecurity=False).hexdigest() + ".jpg",
    "images/" + sha256(URL.encode()).hexdigest() + ".png",
    f"training/0_{crc32(URL.encode())}",
    f"cc/{crc32(URL.encode())}",
    "a b.png",
    "images/a%20b.png",
    "00000/000000000.jpg",
    "00000/00000000.webp",
    "images/000000000.png",
]


@pytest.mark.parametrize("name", HASHED)
def test_an_image_is_found_by_its_url(write: Write, name: str) -> None:
    root = write({"cc.tsv": make_tsv(f'"a" caption\t{URL}', "gone\thttp://host.org/other.png"), name: None})
    for path in (root, root / "cc.tsv"):
        assert detect_format(path) == "captions-tsv"
        pair, missing = read_rows(path)
        assert (pair.file_name, pair.caption) == (name, '"a" caption')
        assert pair.attributes == {"url": URL, "host": "host.org"}
        assert isinstance(missing, Rejected)
        assert (missing.reason, missing.file_name) == ("missing_file", "http://host.org/other.png")


def test_valid_and_invalid_lines_of_a_listing(write: Write) -> None:
    lines = [
        f"with a path\t{URL}\tsub/p.png",
        f"{URL}\tturned round",
        "a path\tsub/p.png",
        f"\t{URL}",
        "",
        "one field",
        "a\tb\tc\td",
        f"out\t{URL}\t../p.png",
        "nul\thttp://x.org/\0.png",
        "bytes\thttp://x.org/\udcff.png",
        "hostile\thttp://[/..",
        "long\thttp://x.org/" + "x" * 300,
        f'"quoted"\t{URL}',
    ]
    root = write({"cc.tsv": make_tsv(*lines), "sub/p.png": None, "a b.png": None})
    assert [outcome for _, outcome in read_outcomes(root)] == [
        "with a path", "turned round", "a path", "empty_caption", "malformed_row", "malformed_row",
        "path_outside_corpus", "malformed_row", "malformed_row", "missing_file", "missing_file", '"quoted"',
    ]  # fmt: skip


def test_header_is_not_a_row_and_other_columns_are_attributes(write: Write) -> None:
    root = write({"cc.tsv": make_tsv("url\tcaption\tscore", f"{URL}\tx\t3", f"{URL}\ty"), "00000/000000000.jpg": None})
    pair, short = read_rows(root)
    assert pair.attributes == {"score": "3", "url": URL, "host": "host.org"}
    assert isinstance(short, Rejected)
    root_with_names = write({"cc.tsv": make_tsv("file\ttitle", '"p.png"\t"a\ttab"'), "p.png": None}, "named")
    assert read_outcomes(root_with_names, image_column="file", caption_column="title") == [("p.png", "a\ttab")]
    with pytest.raises(CorpusError, match="no column 'image'"):
        open_corpus(root_with_names, image_column="image", caption_column="title").pairs()


def test_file_name_of_several_urls_is_ambiguous(write: Write) -> None:
    lines = [
        "one\thttp://a.org/x.png",
        "two\thttp://b.org/x.png",
        "own\thttp://b.org/y.png",
        "more\thttp://b.org/y.png",
    ]
    root = write({"cc.tsv": make_tsv(*lines), "x.png": None, "y.png": None})
    assert [outcome for _, outcome in read_outcomes(root)] == ["missing_file", "missing_file", "own", "more"]
    assert "one of several URLs" in read_rows(root)[0].detail


def test_file_is_matched_by_number_unless_its_json_has_another_url(write: Write) -> None:
    files = {
        "cc.tsv": make_tsv("one\thttp://a.org/1", "two\thttp://a.org/2", "three\thttp://a.org/3"),
        "00000/000000000.jpg": None,
        "00000/000000000.json": b'{"url": "http://a.org/1"}',
        "00000/000000001.jpg": None,
        "00000/000000001.json": b'{"url": "http://a.org/9"}',
        "00000/000000002.jpg": None,
        "00000/000000002.json": b"\xff",
    }
    assert [outcome for _, outcome in read_outcomes(write(files))] == ["one", "missing_file", "missing_file"]


def test_downloads_outside_the_corpus_or_web_pages_are_rejected(write: Write, tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    root = write({"cc.tsv": make_tsv("x\thttp://a.org/a.jpg", "y\thttp://a.org/b.jpg"), "b.jpg": b"\n<html><body>404"})
    (root / "a.jpg").symlink_to(tmp_path / "secret.png")
    assert read_outcomes(root) == [("a.jpg", "path_outside_corpus"), ("b.jpg", "not_an_image")]


def test_one_listing_with_rows_is_required(write: Write) -> None:
    root = write({"a.tsv": make_tsv("x\ty"), "b.tsv": make_tsv("x\ty")})
    with pytest.raises(CorpusError, match=r"has several files that list its rows: a.tsv, b.tsv; expected"):
        open_corpus(root).pairs()
    (root / "b.tsv").write_bytes(make_tsv("url\tcaption"))
    with pytest.raises(CorpusError, match="zero rows"):
        open_corpus(root / "b.tsv").pairs()
    assert open_corpus(root / "b.tsv").count() == 0


def test_folder_with_metadata_has_the_format_folder(write: Write) -> None:
    files = {"metadata.tsv": make_tsv("file_name\ttext", "a.png\tx"), "a.png": None, "a.txt": b"y"}
    listings = {"captions.json": b'{"images": [], "annotations": []}', "cc.tsv": make_tsv(f"x\t{URL}")}
    assert detect_format(write(files | listings)) == "folder"
    assert detect_format(write({"a.png": None, "a.txt": b"y"}, "files")) == "files"
    with pytest.raises(CorpusError, match="has no metadata file"):
        detect_format(write({"a.png": None}, "none"))
