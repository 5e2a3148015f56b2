import hashlib
import http.server
import itertools
import pickle
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from s3fs.core import S3File

from benchmarks.corpus_writers import WRITERS, SourcePair, generate_source_pairs
from corpora import CorpusError, Limits, Pair, Place, Reason, Rejected, RowError, digest, open_corpus, parse_root
from corpora.readers.imagefolder import resolve_inside
from corpora.roots import open_binary

WriteCorpus = Callable[..., Path]
Picture = Callable[..., bytes]
Store = Any
BUCKET = "corpora"


def rows_of(where: Path | str, **settings: Any) -> list[Pair | Rejected]:
    corpus = open_corpus(parse_root(str(where)), **settings)
    rows = list(corpus.pairs())
    assert corpus.count() == len(rows)
    return rows


def outcomes(rows: list[Pair | Rejected]) -> list[str]:
    return [row.reason.value if isinstance(row, Rejected) else "pair" for row in rows]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_bucket_gives_the_rows_that_the_folder_gives(
    s3: Store, write_corpus: WriteCorpus, picture: Picture, kind: str
) -> None:
    odd = "we ird#?%25é.png"
    names = [
        "a.png", "sub/b.png", "./sub//b.png", odd, "no.png", "sub", ".", "empty.png", "cut.png", "big.png", "../a.png",
        "/a.png", "sub\\b.png", "", "s3://corpora/other/a.png", "*.png", "a.png",
    ]  # fmt: skip
    table = [{"file_name": name, "text": f"caption {number}", "age": number} for number, name in enumerate(names)]
    table.append(table[0])
    images = {"a.png": picture(), "sub/b.png": picture(color=5), odd: picture(color=6), "empty.png": b""}
    images |= {"cut.png": picture()[:-30], "big.png": picture() + bytes(20_000)}
    root = write_corpus(table, images, kind, folder=f"same-{kind}")
    limits = Limits(max_file_bytes=10_000)
    here, there = rows_of(root, limits=limits), rows_of(s3.put(root), limits=limits)
    assert outcomes(here) == [
        "pair", "pair", "pair", "pair", "missing_file", "not_a_regular_file", "not_a_regular_file", "empty_file",
        "truncated_image", "file_too_large", *["path_outside_corpus"] * 3, "malformed_row", "missing_file",
        "missing_file", "pair", "duplicate_pair",
    ]  # fmt: skip
    # What a folder is called is the store's own word.
    assert [replace(row, detail="") if isinstance(row, Rejected) else row for row in here] == [
        replace(row, detail="") if isinstance(row, Rejected) else row for row in there
    ]
    assert digest(here) == digest(there)


def test_one_download_an_image(s3: Store, write_corpus: WriteCorpus, picture: Picture) -> None:
    table = [{"file_name": name, "text": text} for name in ("a.png", "b.png") for text in "xyz"]
    url = s3.put(write_corpus(table, {"a.png": picture(), "b.png": picture(color=3)}, folder="one"))
    corpus = open_corpus(parse_root(url))
    (first, *_) = corpus.pairs()
    assert sorted(path for path in s3.list_requests("GET") if path.endswith(".png")) == [
        f"/{BUCKET}/one/a.png",
        f"/{BUCKET}/one/b.png",
    ]
    assert isinstance(first, Pair)
    assert corpus.read_image(first.place).sha256 == first.image_sha256


def test_what_is_too_large_is_never_downloaded(s3: Store, write_corpus: WriteCorpus) -> None:
    table = [{"file_name": "big.png", "text": "x"}]
    url = s3.put(write_corpus(table, {"big.png": bytes(300_000)}, folder="large"))
    assert outcomes(rows_of(url, limits=Limits(max_file_bytes=200_000))) == ["file_too_large"]
    assert f"/{BUCKET}/large/big.png" in s3.list_requests("HEAD")
    assert not [path for path in s3.list_requests("GET") if path.endswith("big.png")]


def test_a_long_table_comes_in_blocks_and_too_long_a_line_is_a_row(
    s3: Store, write_corpus: WriteCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpora.roots.BLOCK_BYTES", 2**19)
    lines = [f"a.png,caption {number} {'x' * 2000}" for number in range(1000)]
    lines[500] = "a.png," + "y" * (5 * 2**20)
    root = write_corpus("\n".join(["file_name,text", *lines, ""]).encode(), folder="long")
    assert rows_of(root) == rows_of(s3.put(root))
    assert len([path for path in s3.list_requests("GET") if path.endswith("metadata.csv")]) > 4


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket/corpus", "is not there"),
        (f"s3://{BUCKET}/no-such-folder", "is not there"),
        (f"s3://{BUCKET}/bare", "has no metadata file"),
    ],
)
def test_a_corpus_that_is_not_there(s3: Store, tmp_path: Path, url: str, message: str) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "a.png").write_bytes(b"x")
    s3.put(tmp_path / "bare")
    for named in (None, "folder"):
        with pytest.raises(CorpusError, match=f"{message}.*expected a folder with exactly one of"):
            rows_of(url, format_name=named)


def test_two_metadata_files(s3: Store, write_corpus: WriteCorpus) -> None:
    root = write_corpus([{"file_name": "a.png", "text": "x"}], folder="two")
    (root / "metadata.jsonl").write_bytes(b"{}")
    with pytest.raises(CorpusError, match=r"has several files that list its rows: metadata\.csv, metadata\.jsonl"):
        rows_of(s3.put(root))


def test_what_is_deleted_or_grows_later(s3: Store, write_corpus: WriteCorpus, picture: Picture) -> None:
    root = write_corpus([{"file_name": "a.png", "text": "x"}], {"a.png": picture(), "b.png": picture()}, folder="later")
    corpus = open_corpus(parse_root(s3.put(root)), limits=Limits(max_file_bytes=5000))
    (pair,) = corpus.pairs()
    assert isinstance(pair, Pair)
    (root / "a.png").write_bytes(bytes(6000))
    s3.put(root)
    with pytest.raises(RowError) as caught:  # nothing of before is remembered
        corpus.read_image(pair.place)
    assert caught.value.reason is Reason.FILE_TOO_LARGE
    with pytest.raises(RowError) as caught:
        corpus.read_image(Place("gone.png"))
    assert caught.value.reason is Reason.MISSING_FILE


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def driver_error(name: str, *bases: type[Exception]) -> Exception:
    return type(name, (*bases, Exception), {})("of the driver")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("x"), Reason.MISSING_FILE),
        (PermissionError("x"), Reason.UNREADABLE_FILE),
        (TimeoutError("x"), Reason.UNREACHABLE_FILE),
        (ConnectionResetError("x"), Reason.UNREACHABLE_FILE),
        (driver_error("ReadTimeoutError", type("HTTPClientError", (Exception,), {})), Reason.UNREACHABLE_FILE),
        (driver_error("NoCredentialsError"), Reason.UNREADABLE_FILE),
        (driver_error("Odd"), Reason.UNREADABLE_FILE),
    ],
)
@pytest.mark.parametrize("call", ["info", "cat_file"])
def test_what_a_driver_raises_is_the_row_s_reason(
    write_corpus: WriteCorpus, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: Reason, call: str
) -> None:
    corpus = open_corpus(in_memory(write_corpus([{"file_name": "a.png", "text": "x"}])))
    rows = corpus.reader.rows()
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem." + call, raising(error))
    with pytest.raises(RowError) as caught:
        corpus.reader.image(corpus.reader.place(next(rows)))
    assert caught.value.reason is reason


def in_memory(folder: Path) -> Any:
    root = parse_root(f"memory://{folder}")
    for path in folder.rglob("*"):
        if path.is_file():
            (root / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
    return root


def test_a_store_that_cannot_be_reached_or_denies(write_corpus: WriteCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    root = in_memory(write_corpus([{"file_name": "a.png", "text": "x"}]))
    for error, message in (
        (TimeoutError("slow"), "slow.*Check the network"),
        (PermissionError("no"), "check the credentials"),
    ):
        monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", raising(error))
        with pytest.raises(CorpusError, match=message):
            open_corpus(root)
    monkeypatch.undo()
    assert outcomes(list(open_corpus(root).pairs())) == ["pair"]
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", raising(driver_error("Odd")))
    with pytest.raises(CorpusError, match="Odd: of the driver"):
        open_corpus(root).count()


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:hidden@bucket/c", "s3://KEY:hid/den@bucket/c", "S3://hidden@bucket/c", "https://u:hidden@host/c",
        "https://host:443/c?X-Amz-Signature=hidden", "abfs://c@account.dfs.core.windows.net/d?sig=hidden",
        "sftp://u:hidden@host/c", "https://hidden@host/c",
    ],
)  # fmt: skip
def test_no_keys_in_a_url(url: str) -> None:
    with pytest.raises(CorpusError, match="expected a URL without them") as caught:
        parse_root(url)
    assert "hid" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nope://bucket/c", "protocol is unknown"),
        ("://c", "protocol is unknown"),
        ("zip://c::s3://bucket/c.zip", "expected one protocol"),
        ("gs://bucket/c", "fsspec driver is not installed: .*gcsfs"),
    ],
)
def test_urls_that_no_driver_reads(monkeypatch: pytest.MonkeyPatch, url: str, message: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(CorpusError, match=message):
        parse_root(url)


def test_a_root_is_a_value(tmp_path: Path) -> None:
    assert parse_root(str(tmp_path)) == parse_root(f"file://{tmp_path}") == tmp_path
    assert type(parse_root(f"file://{tmp_path}")) is type(tmp_path)  # so that its links are looked at
    for url in ("s3://bucket/a", "http://host:80/a", "memory://a", "s3://bucket"):
        root = parse_root(url)
        assert parse_root(str(root)) == root == pickle.loads(pickle.dumps(root))
        assert hash(parse_root(url)) == hash(root)


def test_over_http_a_name_stays_a_name() -> None:
    root = parse_root("http://host/corpus")
    assert str(resolve_inside(root, "a b?c#d/%2e%2e/é.png")) == "http://host/corpus/a%20b%3Fc%23d/%252e%252e/%C3%A9.png"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Endless(Quiet):
    """Says that a picture is small, and sends without end."""

    def do_GET(self) -> None:
        if not self.path.endswith(".png"):
            return super().do_GET()
        self.send_response(206)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(2**16))
        except OSError:
            self.server.hung_up.set()


class Hushed(Quiet):
    """Lists no folder."""

    def list_directory(self, path: Any) -> None:
        self.send_error(403)


class Ranged(Hushed):
    """Gives parts of a file; of each request the bytes that it sent stand in `server.sent`."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        start, end = int(asked[1]), min(int(asked[2]), path.stat().st_size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        self.send_header("Content-Length", str(end + 1 - start))
        self.end_headers()
        self.wfile.write(data[start : end + 1])
        self.server.sent.append((self.path, end + 1 - start))


class Whole(Hushed):
    """Gives no parts."""

    def do_GET(self) -> None:
        self.server.sent.append((self.path, None))
        with suppress(OSError):  # who reads it hangs up
            super().do_GET()


class Sizeless(Whole):
    """Nor does it say how large a file is."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Content-Length":
            super().send_header(keyword, value)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[str, Any]]]:
    running: list[http.server.ThreadingHTTPServer] = []

    def start(folder: Path, handler: type[Quiet] = Quiet) -> tuple[str, Any]:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder))
        server.hung_up = threading.Event()
        server.sent = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}", server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def test_a_web_server(write_corpus: WriteCorpus, picture: Picture, serve: Any) -> None:
    odd = "we ird#?%25é.png"
    names = ["a.png", odd, "no.png", "empty.png", "big.png", "../a.png", "sub/b.png"]
    images = {"a.png": picture(), odd: picture(color=6), "empty.png": b"", "big.png": picture() + bytes(9000)}
    table = [{"file_name": name, "text": f"caption {number}"} for number, name in enumerate(names)]
    root = write_corpus(table, images | {"sub/b.png": picture(color=9)})
    limits = Limits(max_file_bytes=5000)
    url, server = serve(root.parent)
    here, there = rows_of(root, limits=limits), rows_of(f"{url}/corpus", limits=limits)
    assert here == there
    assert outcomes(there) == [
        "pair", "pair", "missing_file", "empty_file", "file_too_large", "path_outside_corpus", "pair",
    ]  # fmt: skip
    with pytest.raises(CorpusError, match="is not there"):
        rows_of(f"{url}/other")
    server.shutdown()
    server.server_close()
    with pytest.raises(CorpusError, match="Check the network"):
        rows_of(f"{url}/corpus")


def test_a_web_server_that_does_not_stop(write_corpus: WriteCorpus, serve: Any) -> None:
    url, server = serve(write_corpus([{"file_name": "a.png", "text": "x"}]), Endless)
    (row,) = rows_of(url)
    assert isinstance(row, Rejected)
    assert server.hung_up.wait(20)


def test_a_remote_file_reads_like_a_local_one(s3: Store, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "lines"
    path.write_bytes(b"one\ntwo\n" + bytes(700_000) + b"\nlast")
    with open_binary(path) as here, open_binary(parse_root(s3.put(path.parent)) / "lines") as there:
        for _ in range(3):
            assert here.readline(3) == there.readline(3)
            assert here.tell() == there.tell()
        assert here.seek(-4, 2) == there.seek(-4, 2)
        assert here.read() == there.read() == b"last"


ORIGINALS = [
    SourcePair(f"{number:02d}.jpg", made.data, f"a caption {number}", {"site": f"s{number % 2}"})
    for number, made in enumerate(generate_source_pairs(6, 48))
]


@pytest.mark.parametrize("kind", sorted(WRITERS))
@pytest.mark.parametrize("where", ["no-such-bucket/c", f"{BUCKET}/no-such-folder"])
def test_a_format_that_is_not_there(s3: Store, kind: str, where: str) -> None:
    with pytest.raises(CorpusError, match=f"s3://{where}.*(is not there|cannot be read).*expected"):
        rows_of(f"s3://{where}", format_name=kind)


@pytest.mark.parametrize("name", ["captions.json", "captions.tsv", "a.parquet", "{0..3}.tar", "*.tar", "a.tar"])
def test_a_file_that_is_not_there(s3: Store, name: str) -> None:
    for bucket in ("no-such-bucket", BUCKET):
        with pytest.raises(CorpusError, match=f"s3://{bucket}/none/.*is not there"):
            rows_of(f"s3://{bucket}/none/{name}")


def test_damaged_and_missing_shards_of_a_bucket(s3: Store, tmp_path: Path) -> None:
    folder = WRITERS["webdataset"](ORIGINALS, tmp_path / "damaged")
    whole = (folder / "shard-00000.tar").read_bytes()
    (folder / "shard-00001.tar").write_bytes(whole[: len(whole) // 2])
    (folder / "shard-00002.tar").write_bytes(b"")
    url = s3.put(folder)
    here, there = rows_of(folder), rows_of(url)
    assert here == there
    assert {"damaged_container", "empty_file"} < set(outcomes(there))
    assert outcomes(rows_of(f"{url}/shard-{{00000,00007}}.tar")) == ["pair"] * len(ORIGINALS) + ["missing_file"]


def test_damaged_and_empty_tables_of_a_bucket(s3: Store, tmp_path: Path) -> None:
    folder = WRITERS["parquet"](ORIGINALS, tmp_path / "damaged tables")
    whole = (folder / "train-00000.parquet").read_bytes()
    (folder / "train-00001.parquet").write_bytes(whole[:-20])
    (folder / "train-00002.parquet").write_bytes(b"")
    rows = rows_of(s3.put(folder))
    assert outcomes(rows) == ["pair"] * len(ORIGINALS) + ["unreadable_file", "empty_file"]


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_of_a_large_container_one_image_is_fetched(
    s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("corpora.roots.BLOCK_BYTES", 2**18)
    noise = random.Random(0)
    pairs = [SourcePair(f"{number:02d}.jpg", noise.randbytes(100_000), str(number)) for number in range(40)]
    folder = WRITERS[kind](pairs, tmp_path / f"large {kind}")
    if kind == "parquet":
        (path,) = folder.iterdir()
        pq.write_table(pq.read_table(path), path, row_group_size=5)
    url = s3.put(folder)
    row = next(itertools.islice(open_corpus(parse_root(url), kind).reader.rows(), 25, None))
    fetched: list[int] = []
    fetch = S3File._fetch_range

    def spy(file: S3File, start: int, end: int) -> bytes:
        fetched.append(end - start)
        data: bytes = fetch(file, start, end)
        return data

    corpus = open_corpus(parse_root(url), kind)
    monkeypatch.setattr(S3File, "_fetch_range", spy)
    assert row.place is not None
    assert corpus.reader.image(row.place) == pairs[25].data
    assert 100_000 < sum(fetched) < 2_000_000  # of four million


OF_A_WEB_SERVER = [
    ("folder", "metadata.csv"), ("folder", ""), ("datasets", ""), ("webdataset", "shard-00000.tar"),
    ("webdataset", "shard-{00000..00000}.tar"), ("parquet", "train-00000.parquet"),
    ("parquet", "train-{00000..00000}.parquet"), ("coco", "captions.json"), ("captions-tsv", "captions.tsv"),
]  # fmt: skip


@pytest.mark.parametrize("handler", [Ranged, Whole])
@pytest.mark.parametrize(("kind", "name"), OF_A_WEB_SERVER)
def test_files_of_a_web_server(tmp_path: Path, serve: Any, handler: type[Quiet], kind: str, name: str) -> None:
    folder = WRITERS[kind](ORIGINALS, tmp_path / f"web {kind}")
    url, _ = serve(tmp_path, handler)
    corpus = open_corpus(parse_root(f"{url}/web%20{kind}/{name}".rstrip("/")))
    assert (corpus.format, corpus.count()) == (kind, len(ORIGINALS))
    rows = list(corpus.pairs())
    assert rows == rows_of(folder)
    for row in rows:
        assert isinstance(row, Pair)
        assert corpus.read_image(row.place).sha256 == row.image_sha256


def test_a_shard_that_a_web_server_lacks_is_a_row(tmp_path: Path, serve: Any) -> None:
    for kind, name in (("webdataset", "shard-{00000..00001}.tar"), ("parquet", "train-{00000..00001}.parquet")):
        WRITERS[kind](ORIGINALS, tmp_path / kind)
        url, _ = serve(tmp_path, Hushed)
        assert outcomes(rows_of(f"{url}/{kind}/{name}")) == ["pair"] * len(ORIGINALS) + ["missing_file"]


@pytest.mark.parametrize("handler", [Quiet, Hushed])
def test_a_folder_of_a_web_server_is_rejected(tmp_path: Path, serve: Any, handler: type[Quiet]) -> None:
    url, _ = serve(tmp_path, handler)
    for kind in ("webdataset", "parquet", "coco", "captions-tsv", "files"):
        WRITERS[kind](ORIGINALS, tmp_path / kind)
        advice = r"a web server need not list the files of a folder, so name a file .*shard-\{0000\.\.0012\}"
        with pytest.raises(CorpusError, match=f"{url}/{kind}.*{advice}"):
            rows_of(f"{url}/{kind}")


@pytest.mark.parametrize("name", ["*.tar", "shard-0000[0-9].tar"])
def test_a_pattern_of_stars_needs_a_web_server_that_lists(tmp_path: Path, serve: Any, name: str) -> None:
    WRITERS["webdataset"](ORIGINALS, tmp_path / "tars")
    assert outcomes(rows_of(f"{serve(tmp_path, Quiet)[0]}/tars/{name}")) == ["pair"] * len(ORIGINALS)
    with pytest.raises(CorpusError, match=r"cannot be listed.*name a file .*or several as in shard-"):
        rows_of(f"{serve(tmp_path, Hushed)[0]}/tars/{name}")


NOISE = random.Random(0)
LARGE = [SourcePair(f"{number:02d}.jpg", NOISE.randbytes(100_000), str(number)) for number in range(20)]


@pytest.mark.parametrize("handler", [Ranged, Whole, Sizeless])
@pytest.mark.parametrize(("kind", "name"), [("webdataset", "shard-00000.tar"), ("parquet", "train-00000.parquet")])
def test_a_large_file_comes_in_parts_or_else_once(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch, handler: type[Quiet], kind: str, name: str
) -> None:
    monkeypatch.setattr("corpora.roots.BLOCK_BYTES", 2**16)
    monkeypatch.setattr("corpora.readers.webdataset._PICTURE_BYTES", 2**16)
    folder = WRITERS[kind](LARGE, tmp_path / "large")
    if kind == "parquet":
        (path,) = folder.iterdir()
        pq.write_table(pq.read_table(path), path, row_group_size=2)
    url, server = serve(folder, handler)
    corpus = open_corpus(parse_root(f"{url}/{name}"))
    rows = list(corpus.reader.rows())
    assert [row.data for row in rows] == [pair.data for pair in LARGE]
    assert corpus.count() == len(LARGE)
    server.sent.clear()
    again = open_corpus(parse_root(f"{url}/{name}"), kind)
    for number in (15, 3):
        place = rows[number].place
        assert place is not None
        assert again.reader.image(place) == LARGE[number].data
    if handler is Ranged:
        assert 200_000 < sum(size for _, size in server.sent) < 1_000_000  # of two million
    if handler is Whole:  # it was fetched when it was read first
        assert server.sent == []


def test_what_is_not_fetched_whole(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corpora.roots.BLOCK_BYTES", 2**16)
    monkeypatch.setattr("corpora.roots.MAX_FETCHED_BYTES", 2**18)
    WRITERS["parquet"](LARGE, tmp_path / "tables")
    url, _ = serve(tmp_path, Whole)
    with pytest.raises(
        CorpusError, match=r"larger than the limit of 262144 bytes for complete downloads; use a server that"
    ):
        rows_of(f"{url}/tables/train-00000.parquet")


def test_what_a_web_server_changes_is_fetched_again(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpora.roots.BLOCK_BYTES", 2**16)
    url, _ = serve(tmp_path, Whole)
    for part in (LARGE[:9], LARGE[9:12]):
        folder = WRITERS["webdataset"](part, tmp_path / str(len(part)))
        (folder / "shard-00000.tar").rename(tmp_path / "one.tar")
        rows = open_corpus(parse_root(f"{url}/one.tar")).reader.rows()
        assert [row.data for row in rows] == [pair.data for pair in part]


# Of what a line of Conceptual Captions may say, by name and kind of store.
LISTED = [
    "x\thttp://a.org/1.jpg", "x\thttp://a.org/p/2%20b.png?size=3", "x\thttp://a.org/3.jpg", "x\thttp://a.org/none.jpg",
    "x\thttp://a.org/p/same.jpg", "x\thttp://b.org/p/same.jpg", "x\thttp://a.org/6", "x\thttp://a.org/7",
    "x\thttp://a.org/8\tsub/8.png", "x\thttp://a.org/9\t../9.png", "http://a.org/10.jpg\tturned",
]  # fmt: skip


@pytest.mark.parametrize("store", ["s3", "web", "memory"])
def test_the_urls_of_captions_are_mapped_to_files_as_here(
    s3: Store, serve: Any, tmp_path: Path, picture: Picture, store: str
) -> None:
    def named(kind: str, line: int) -> str:
        url = next(field for field in LISTED[line].split("\t") if field.startswith("http"))
        return hashlib.new(kind, url.encode(), usedforsecurity=False).hexdigest()

    root = tmp_path / f"listed {store}"
    names = [
        f"{named('md5', 0)}.jpg", "images/2 b.png", f"training/{named('sha256', 2)}.png", "same.jpg",
        "00000/000000006.jpg", "00000/000000007.jpg", "sub/8.png", "captions/10.jpg",
    ]  # fmt: skip
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(color=number))
    (root / "captions.tsv").write_text("".join(f"{line}\n" for line in LISTED))
    (root / "00000/000000006.json").write_text('{"url": "http://a.org/6"}')
    (root / "00000/000000007.json").write_text('{"url": "http://a.org/other"}')
    there = s3.put(root) if store == "s3" else in_memory(root) if store == "memory" else serve(root, Hushed)[0]
    rows = rows_of(f"{there}/captions.tsv")
    found = [names[0], names[1], names[2], None, None, None, names[4], None, names[6], None, names[7]]
    if store == "web":  # does not say which folders there are
        found[1] = found[2] = found[10] = None
    else:
        assert rows == rows_of(root / "captions.tsv")
    assert [None if isinstance(row, Rejected) else row.file_name for row in rows] == found
    assert outcomes(rows)[3:6] == ["missing_file"] * 3
    assert outcomes(rows)[9] == "path_outside_corpus"
    assert [row.attributes.get("host") for row in rows] == ["a.org"] * 5 + ["b.org"] + ["a.org"] * 5
    if store != "web":
        assert rows_of(str(there)) == rows
