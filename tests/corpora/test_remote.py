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


def read_rows(where: Path | str, **settings: Any) -> list[Pair | Rejected]:
    corpus = open_corpus(parse_root(str(where)), **settings)
    rows = list(corpus.pairs())
    assert corpus.count() == len(rows)
    return rows


def read_outcomes(rows: list[Pair | Rejected]) -> list[str]:
    return [row.reason.value if isinstance(row, Rejected) else "pair" for row in rows]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_bucket_gives_the_same_rows_as_a_folder(
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
    local, remote = read_rows(root, limits=limits), read_rows(s3.put(root), limits=limits)
    assert read_outcomes(local) == [
        "pair", "pair", "pair", "pair", "missing_file", "not_a_regular_file", "not_a_regular_file", "empty_file",
        "truncated_image", "file_too_large", *["path_outside_corpus"] * 3, "malformed_row", "missing_file",
        "missing_file", "pair", "duplicate_pair",
    ]  # fmt: skip
    # The messages of stores differ.
    assert [replace(row, detail="") if isinstance(row, Rejected) else row for row in local] == [
        replace(row, detail="") if isinstance(row, Rejected) else row for row in remote
    ]
    assert digest(local) == digest(remote)


def test_each_image_is_downloaded_once(s3: Store, write_corpus: WriteCorpus, picture: Picture) -> None:
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


def test_too_large_files_are_not_downloaded(s3: Store, write_corpus: WriteCorpus) -> None:
    table = [{"file_name": "big.png", "text": "x"}]
    url = s3.put(write_corpus(table, {"big.png": bytes(300_000)}, folder="large"))
    assert read_outcomes(read_rows(url, limits=Limits(max_file_bytes=200_000))) == ["file_too_large"]
    assert f"/{BUCKET}/large/big.png" in s3.list_requests("HEAD")
    assert not [path for path in s3.list_requests("GET") if path.endswith("big.png")]


def test_long_table_is_read_in_blocks_and_a_too_long_line_is_an_error_row(
    s3: Store, write_corpus: WriteCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpora.roots.BLOCK_BYTES", 2**19)
    lines = [f"a.png,caption {number} {'x' * 2000}" for number in range(1000)]
    lines[500] = "a.png," + "y" * (5 * 2**20)
    root = write_corpus("\n".join(["file_name,text", *lines, ""]).encode(), folder="long")
    assert read_rows(root) == read_rows(s3.put(root))
    assert len([path for path in s3.list_requests("GET") if path.endswith("metadata.csv")]) > 4


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket/corpus", "is not there"),
        (f"s3://{BUCKET}/no-such-folder", "is not there"),
        (f"s3://{BUCKET}/bare", "has no metadata file"),
    ],
)
def test_missing_corpus_raises(s3: Store, tmp_path: Path, url: str, message: str) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "a.png").write_bytes(b"x")
    s3.put(tmp_path / "bare")
    for format_name in (None, "folder"):
        with pytest.raises(CorpusError, match=f"{message}.*expected a folder with exactly one of"):
            read_rows(url, format_name=format_name)


def test_two_metadata_files_raise(s3: Store, write_corpus: WriteCorpus) -> None:
    root = write_corpus([{"file_name": "a.png", "text": "x"}], folder="two")
    (root / "metadata.jsonl").write_bytes(b"{}")
    with pytest.raises(CorpusError, match=r"has several files that list its rows: metadata\.csv, metadata\.jsonl"):
        read_rows(s3.put(root))


def test_files_that_are_deleted_or_grow_later_raise(s3: Store, write_corpus: WriteCorpus, picture: Picture) -> None:
    root = write_corpus([{"file_name": "a.png", "text": "x"}], {"a.png": picture(), "b.png": picture()}, folder="later")
    corpus = open_corpus(parse_root(s3.put(root)), limits=Limits(max_file_bytes=5000))
    (pair,) = corpus.pairs()
    assert isinstance(pair, Pair)
    (root / "a.png").write_bytes(bytes(6000))
    s3.put(root)
    with pytest.raises(RowError) as raised:  # sizes are not cached
        corpus.read_image(pair.place)
    assert raised.value.reason is Reason.FILE_TOO_LARGE
    with pytest.raises(RowError) as raised:
        corpus.read_image(Place("gone.png"))
    assert raised.value.reason is Reason.MISSING_FILE


def make_failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def make_driver_error(name: str, *bases: type[Exception]) -> Exception:
    return type(name, (*bases, Exception), {})("of the driver")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("x"), Reason.MISSING_FILE),
        (PermissionError("x"), Reason.UNREADABLE_FILE),
        (TimeoutError("x"), Reason.UNREACHABLE_FILE),
        (ConnectionResetError("x"), Reason.UNREACHABLE_FILE),
        (make_driver_error("ReadTimeoutError", type("HTTPClientError", (Exception,), {})), Reason.UNREACHABLE_FILE),
        (make_driver_error("NoCredentialsError"), Reason.UNREADABLE_FILE),
        (make_driver_error("Odd"), Reason.UNREADABLE_FILE),
    ],
)
@pytest.mark.parametrize("call", ["info", "cat_file"])
def test_error_of_a_driver_is_the_reason_of_the_row(
    write_corpus: WriteCorpus, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: Reason, call: str
) -> None:
    corpus = open_corpus(copy_to_memory(write_corpus([{"file_name": "a.png", "text": "x"}])))
    rows = corpus.reader.rows()
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem." + call, make_failing(error))
    with pytest.raises(RowError) as raised:
        corpus.reader.image(corpus.reader.place(next(rows)))
    assert raised.value.reason is reason


def copy_to_memory(folder: Path) -> Any:
    root = parse_root(f"memory://{folder}")
    for path in folder.rglob("*"):
        if path.is_file():
            (root / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
    return root


def test_unreachable_store_or_denied_access_raises(write_corpus: WriteCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    root = copy_to_memory(write_corpus([{"file_name": "a.png", "text": "x"}]))
    for error, message in (
        (TimeoutError("slow"), "slow.*Check the network"),
        (PermissionError("no"), "check the credentials"),
    ):
        monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.info", make_failing(error))
        with pytest.raises(CorpusError, match=message):
            open_corpus(root)
    monkeypatch.undo()
    assert read_outcomes(list(open_corpus(root).pairs())) == ["pair"]
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", make_failing(make_driver_error("Odd")))
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
def test_url_with_credentials_is_rejected(url: str) -> None:
    with pytest.raises(CorpusError, match="expected a URL without them") as raised:
        parse_root(url)
    assert "hid" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nope://bucket/c", "protocol is unknown"),
        ("://c", "protocol is unknown"),
        ("zip://c::s3://bucket/c.zip", "expected one protocol"),
        ("gs://bucket/c", "fsspec driver is not installed: .*gcsfs"),
    ],
)
def test_unsupported_urls_are_rejected(monkeypatch: pytest.MonkeyPatch, url: str, message: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(CorpusError, match=message):
        parse_root(url)


def test_roots_can_be_compared_hashed_and_pickled(tmp_path: Path) -> None:
    assert parse_root(str(tmp_path)) == parse_root(f"file://{tmp_path}") == tmp_path
    assert type(parse_root(f"file://{tmp_path}")) is type(tmp_path)  # so that its links are resolved
    for url in ("s3://bucket/a", "http://host:80/a", "memory://a", "s3://bucket"):
        root = parse_root(url)
        assert parse_root(str(root)) == root == pickle.loads(pickle.dumps(root))
        assert hash(parse_root(url)) == hash(root)


def test_names_are_escaped_in_http_urls() -> None:
    root = parse_root("http://host/corpus")
    assert str(resolve_inside(root, "a b?c#d/%2e%2e/é.png")) == "http://host/corpus/a%20b%3Fc%23d/%252e%252e/%C3%A9.png"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Endless(Quiet):
    """Sends images without end, although it reports a small size."""

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


class NoListing(Quiet):
    """Does not list folders."""

    def list_directory(self, path: Any) -> None:
        self.send_error(403)


class RangeRequests(NoListing):
    """Supports range requests; `server.sent` lists the path and the number of bytes of each response."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not byte_range or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        start, end = int(byte_range[1]), min(int(byte_range[2]), path.stat().st_size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        self.send_header("Content-Length", str(end + 1 - start))
        self.end_headers()
        self.wfile.write(data[start : end + 1])
        self.server.sent.append((self.path, end + 1 - start))


class NoRanges(NoListing):
    """Does not support range requests."""

    def do_GET(self) -> None:
        self.server.sent.append((self.path, None))
        with suppress(OSError):  # the client closes the connection
            super().do_GET()


class NoSize(NoRanges):
    """Also sends no Content-Length."""

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


def test_web_server_gives_the_same_rows_as_a_folder(write_corpus: WriteCorpus, picture: Picture, serve: Any) -> None:
    odd = "we ird#?%25é.png"
    names = ["a.png", odd, "no.png", "empty.png", "big.png", "../a.png", "sub/b.png"]
    images = {"a.png": picture(), odd: picture(color=6), "empty.png": b"", "big.png": picture() + bytes(9000)}
    table = [{"file_name": name, "text": f"caption {number}"} for number, name in enumerate(names)]
    root = write_corpus(table, images | {"sub/b.png": picture(color=9)})
    limits = Limits(max_file_bytes=5000)
    url, server = serve(root.parent)
    local, remote = read_rows(root, limits=limits), read_rows(f"{url}/corpus", limits=limits)
    assert local == remote
    assert read_outcomes(remote) == [
        "pair", "pair", "missing_file", "empty_file", "file_too_large", "path_outside_corpus", "pair",
    ]  # fmt: skip
    with pytest.raises(CorpusError, match="is not there"):
        read_rows(f"{url}/other")
    server.shutdown()
    server.server_close()
    with pytest.raises(CorpusError, match="Check the network"):
        read_rows(f"{url}/corpus")


def test_endless_response_is_an_error_row(write_corpus: WriteCorpus, serve: Any) -> None:
    url, server = serve(write_corpus([{"file_name": "a.png", "text": "x"}]), Endless)
    (row,) = read_rows(url)
    assert isinstance(row, Rejected)
    assert server.hung_up.wait(20)


def test_a_remote_file_reads_like_a_local_one(s3: Store, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "lines"
    path.write_bytes(b"one\ntwo\n" + bytes(700_000) + b"\nlast")
    with open_binary(path) as local, open_binary(parse_root(s3.put(path.parent)) / "lines") as remote:
        for _ in range(3):
            assert local.readline(3) == remote.readline(3)
            assert local.tell() == remote.tell()
        assert local.seek(-4, 2) == remote.seek(-4, 2)
        assert local.read() == remote.read() == b"last"


ORIGINALS = [
    SourcePair(f"{number:02d}.jpg", pair.data, f"a caption {number}", {"site": f"s{number % 2}"})
    for number, pair in enumerate(generate_source_pairs(6, 48))
]


@pytest.mark.parametrize("kind", sorted(WRITERS))
@pytest.mark.parametrize("where", ["no-such-bucket/c", f"{BUCKET}/no-such-folder"])
def test_missing_corpus_of_any_format_raises(s3: Store, kind: str, where: str) -> None:
    with pytest.raises(CorpusError, match=f"s3://{where}.*(is not there|cannot be read).*expected"):
        read_rows(f"s3://{where}", format_name=kind)


@pytest.mark.parametrize("name", ["captions.json", "captions.tsv", "a.parquet", "{0..3}.tar", "*.tar", "a.tar"])
def test_missing_file_raises(s3: Store, name: str) -> None:
    for bucket in ("no-such-bucket", BUCKET):
        with pytest.raises(CorpusError, match=f"s3://{bucket}/none/.*is not there"):
            read_rows(f"s3://{bucket}/none/{name}")


def test_damaged_and_missing_shards_of_a_bucket_are_error_rows(s3: Store, tmp_path: Path) -> None:
    folder = WRITERS["webdataset"](ORIGINALS, tmp_path / "damaged")
    data = (folder / "shard-00000.tar").read_bytes()
    (folder / "shard-00001.tar").write_bytes(data[: len(data) // 2])
    (folder / "shard-00002.tar").write_bytes(b"")
    url = s3.put(folder)
    local, remote = read_rows(folder), read_rows(url)
    assert local == remote
    assert {"damaged_container", "empty_file"} < set(read_outcomes(remote))
    assert read_outcomes(read_rows(f"{url}/shard-{{00000,00007}}.tar")) == ["pair"] * len(ORIGINALS) + ["missing_file"]


def test_damaged_and_empty_tables_of_a_bucket_are_error_rows(s3: Store, tmp_path: Path) -> None:
    folder = WRITERS["parquet"](ORIGINALS, tmp_path / "damaged tables")
    data = (folder / "train-00000.parquet").read_bytes()
    (folder / "train-00001.parquet").write_bytes(data[:-20])
    (folder / "train-00002.parquet").write_bytes(b"")
    rows = read_rows(s3.put(folder))
    assert read_outcomes(rows) == ["pair"] * len(ORIGINALS) + ["unreadable_file", "empty_file"]


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_one_image_is_fetched_from_a_large_container(
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


CORPORA_OF_A_WEB_SERVER = [
    ("folder", "metadata.csv"), ("folder", ""), ("datasets", ""), ("webdataset", "shard-00000.tar"),
    ("webdataset", "shard-{00000..00000}.tar"), ("parquet", "train-00000.parquet"),
    ("parquet", "train-{00000..00000}.parquet"), ("coco", "captions.json"), ("captions-tsv", "captions.tsv"),
]  # fmt: skip


@pytest.mark.parametrize("handler", [RangeRequests, NoRanges])
@pytest.mark.parametrize(("kind", "name"), CORPORA_OF_A_WEB_SERVER)
def test_files_of_a_web_server_are_read(tmp_path: Path, serve: Any, handler: type[Quiet], kind: str, name: str) -> None:
    folder = WRITERS[kind](ORIGINALS, tmp_path / f"web {kind}")
    url, _ = serve(tmp_path, handler)
    corpus = open_corpus(parse_root(f"{url}/web%20{kind}/{name}".rstrip("/")))
    assert (corpus.format, corpus.count()) == (kind, len(ORIGINALS))
    rows = list(corpus.pairs())
    assert rows == read_rows(folder)
    for row in rows:
        assert isinstance(row, Pair)
        assert corpus.read_image(row.place).sha256 == row.image_sha256


def test_missing_shard_of_a_web_server_is_an_error_row(tmp_path: Path, serve: Any) -> None:
    for kind, name in (("webdataset", "shard-{00000..00001}.tar"), ("parquet", "train-{00000..00001}.parquet")):
        WRITERS[kind](ORIGINALS, tmp_path / kind)
        url, _ = serve(tmp_path, NoListing)
        assert read_outcomes(read_rows(f"{url}/{kind}/{name}")) == ["pair"] * len(ORIGINALS) + ["missing_file"]


@pytest.mark.parametrize("handler", [Quiet, NoListing])
def test_a_folder_of_a_web_server_is_rejected(tmp_path: Path, serve: Any, handler: type[Quiet]) -> None:
    url, _ = serve(tmp_path, handler)
    for kind in ("webdataset", "parquet", "coco", "captions-tsv", "files"):
        WRITERS[kind](ORIGINALS, tmp_path / kind)
        advice = r"a web server need not list the files of a folder, so name a file .*shard-\{0000\.\.0012\}"
        with pytest.raises(CorpusError, match=f"{url}/{kind}.*{advice}"):
            read_rows(f"{url}/{kind}")


@pytest.mark.parametrize("name", ["*.tar", "shard-0000[0-9].tar"])
def test_wildcards_need_a_web_server_that_lists_folders(tmp_path: Path, serve: Any, name: str) -> None:
    WRITERS["webdataset"](ORIGINALS, tmp_path / "tars")
    assert read_outcomes(read_rows(f"{serve(tmp_path, Quiet)[0]}/tars/{name}")) == ["pair"] * len(ORIGINALS)
    with pytest.raises(CorpusError, match=r"cannot be listed.*name a file .*or several as in shard-"):
        read_rows(f"{serve(tmp_path, NoListing)[0]}/tars/{name}")


NOISE = random.Random(0)
LARGE = [SourcePair(f"{number:02d}.jpg", NOISE.randbytes(100_000), str(number)) for number in range(20)]


@pytest.mark.parametrize("handler", [RangeRequests, NoRanges, NoSize])
@pytest.mark.parametrize(("kind", "name"), [("webdataset", "shard-00000.tar"), ("parquet", "train-00000.parquet")])
def test_large_file_is_fetched_in_ranges_or_once(
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
    reopened = open_corpus(parse_root(f"{url}/{name}"), kind)
    for number in (15, 3):
        place = rows[number].place
        assert place is not None
        assert reopened.reader.image(place) == LARGE[number].data
    if handler is RangeRequests:
        assert 200_000 < sum(size for _, size in server.sent) < 1_000_000  # of two million
    if handler is NoRanges:  # the file is cached since it was first read
        assert server.sent == []


def test_too_large_file_without_ranges_raises(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corpora.roots.BLOCK_BYTES", 2**16)
    monkeypatch.setattr("corpora.roots.MAX_FETCHED_BYTES", 2**18)
    WRITERS["parquet"](LARGE, tmp_path / "tables")
    url, _ = serve(tmp_path, NoRanges)
    with pytest.raises(
        CorpusError, match=r"larger than the limit of 262144 bytes for complete downloads; use a server that"
    ):
        read_rows(f"{url}/tables/train-00000.parquet")


def test_changed_file_of_a_web_server_is_fetched_again(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpora.roots.BLOCK_BYTES", 2**16)
    url, _ = serve(tmp_path, NoRanges)
    for part in (LARGE[:9], LARGE[9:12]):
        folder = WRITERS["webdataset"](part, tmp_path / str(len(part)))
        (folder / "shard-00000.tar").rename(tmp_path / "one.tar")
        rows = open_corpus(parse_root(f"{url}/one.tar")).reader.rows()
        assert [row.data for row in rows] == [pair.data for pair in part]


# Lines of a listing as of Conceptual Captions.
CAPTION_LINES = [
    "x\thttp://a.org/1.jpg", "x\thttp://a.org/p/2%20b.png?size=3", "x\thttp://a.org/3.jpg", "x\thttp://a.org/none.jpg",
    "x\thttp://a.org/p/same.jpg", "x\thttp://b.org/p/same.jpg", "x\thttp://a.org/6", "x\thttp://a.org/7",
    "x\thttp://a.org/8\tsub/8.png", "x\thttp://a.org/9\t../9.png", "http://a.org/10.jpg\tturned",
]  # fmt: skip


@pytest.mark.parametrize("store", ["s3", "web", "memory"])
def test_urls_of_captions_are_mapped_to_files_as_in_a_folder(
    s3: Store, serve: Any, tmp_path: Path, picture: Picture, store: str
) -> None:
    def hash_url(kind: str, line: int) -> str:
        url = next(field for field in CAPTION_LINES[line].split("\t") if field.startswith("http"))
        return hashlib.new(kind, url.encode(), usedforsecurity=False).hexdigest()

    root = tmp_path / f"listed {store}"
    names = [
        f"{hash_url('md5', 0)}.jpg", "images/2 b.png", f"training/{hash_url('sha256', 2)}.png", "same.jpg",
        "00000/000000006.jpg", "00000/000000007.jpg", "sub/8.png", "captions/10.jpg",
    ]  # fmt: skip
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(color=number))
    (root / "captions.tsv").write_text("".join(f"{line}\n" for line in CAPTION_LINES))
    (root / "00000/000000006.json").write_text('{"url": "http://a.org/6"}')
    (root / "00000/000000007.json").write_text('{"url": "http://a.org/other"}')
    root_of_store = (
        s3.put(root) if store == "s3" else copy_to_memory(root) if store == "memory" else serve(root, NoListing)[0]
    )
    rows = read_rows(f"{root_of_store}/captions.tsv")
    expected = [names[0], names[1], names[2], None, None, None, names[4], None, names[6], None, names[7]]
    if store == "web":  # a web server does not list folders
        expected[1] = expected[2] = expected[10] = None
    else:
        assert rows == read_rows(root / "captions.tsv")
    assert [None if isinstance(row, Rejected) else row.file_name for row in rows] == expected
    assert read_outcomes(rows)[3:6] == ["missing_file"] * 3
    assert read_outcomes(rows)[9] == "path_outside_corpus"
    assert [row.attributes.get("host") for row in rows] == ["a.org"] * 5 + ["b.org"] + ["a.org"] * 5
    if store != "web":
        assert read_rows(str(root_of_store)) == rows
