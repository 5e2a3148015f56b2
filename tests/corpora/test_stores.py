"""Object stores, by local servers of their protocols. More tests of S3 are in test_remote.py."""

import base64
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus_writers import WRITERS, SourcePair, generate_source_pairs
from corpora import CorpusError, Limits, Pair, Rejected, open_corpus, parse_root

BUCKET = "corpora"
ORIGINALS = [
    SourcePair(f"{number:02d}.jpg", pair.data, f"a caption {number}", {"site": f"s{number % 2}"})
    for number, pair in enumerate(generate_source_pairs(6, 48))
]
Put = Callable[[Path], str]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def is_listening(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def make_put(files: Any, scheme: str) -> Put:
    """put(folder): upload a folder with the driver and return its URL."""

    def put(folder: Path) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                files.pipe_file(f"{BUCKET}/{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        files.invalidate_cache()
        return f"{scheme}://{BUCKET}/{folder.name}"

    return put


@pytest.fixture(scope="module")
def gs() -> Iterator[Put]:
    import gcsfs
    from gcp_storage_emulator.server import create_server

    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks Google for the kind of the bucket
        yield make_put(gcsfs.GCSFileSystem(), "gs")
    server.stop()


@pytest.fixture(scope="module")
def abfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Put]:
    import adlfs

    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not on the PATH, so abfs goes untested here: npm install --global azurite")
    port, key = free_port(), base64.b64encode(secrets.token_bytes(64)).decode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURITE_ACCOUNTS", f"ofatest:{key}")
        folder = tmp_path_factory.mktemp("azurite")
        options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--blobHost", "127.0.0.1"]
        command = [program, *options, "--blobPort", str(port), "--location", str(folder)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        patch.setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"DefaultEndpointsProtocol=http;AccountName=ofatest;AccountKey={key};"
            f"BlobEndpoint=http://127.0.0.1:{port}/ofatest;",
        )
        try:
            deadline = time.monotonic() + 120
            while not is_listening(port):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
            files = adlfs.AzureBlobFileSystem()
            files.mkdir(BUCKET)
            yield make_put(files, "abfs")
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(params=["s3", pytest.param("gs", marks=pytest.mark.slow), pytest.param("abfs", marks=pytest.mark.slow)])
def put(request: pytest.FixtureRequest) -> Put:
    found: Any = request.getfixturevalue(request.param)
    uploads: Put = found.put if request.param == "s3" else found
    return uploads


def read_rows(where: Path | str, **settings: Any) -> list[Pair | Rejected]:
    corpus = open_corpus(parse_root(str(where)), **settings)
    rows = list(corpus.pairs())
    assert corpus.count() == len(rows)
    return rows


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_every_format_is_read_from_a_store(put: Put, tmp_path: Path, kind: str) -> None:
    folder = WRITERS[kind](ORIGINALS, tmp_path / f"of {kind}")
    url = put(folder)
    assert open_corpus(parse_root(url)).format == kind
    rows = read_rows(url)
    assert rows == read_rows(folder)
    again = open_corpus(parse_root(url), kind)  # as another process would open it
    for original, row in zip(ORIGINALS, rows, strict=True):
        assert isinstance(row, Pair)
        assert again.reader.image(row.place) == original.data
        assert again.read_image(row.place).sha256 == row.image_sha256


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("webdataset", "shard-00000.tar"), ("webdataset", "*.tar"), ("webdataset", "shard-{00000..00000}.tar"),
        ("webdataset", "shard-0000[0-9].tar"), ("parquet", "train-00000.parquet"), ("coco", "captions.json"),
        ("captions-tsv", "captions.tsv"), ("folder", "metadata.csv"),
    ],
)  # fmt: skip
def test_files_and_patterns_of_a_store_are_read(put: Put, tmp_path: Path, kind: str, name: str) -> None:
    folder = WRITERS[kind](ORIGINALS, tmp_path / f"file of {kind}")
    rows = read_rows(f"{put(folder)}/{name}")
    assert rows == read_rows(folder)
    assert all(isinstance(row, Pair) for row in rows)


def test_unreadable_files_of_a_store_are_error_rows(put: Put, tmp_path: Path) -> None:
    folder = WRITERS["folder"](ORIGINALS[:2], tmp_path / "rows")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "large.jpg").write_bytes(ORIGINALS[0].data + bytes(40_000))
    names = ["none.jpg", "empty.jpg", "large.jpg", "../rows/00.jpg", "we ird#?%25é.jpg"]
    (folder / names[-1]).write_bytes(ORIGINALS[3].data)
    with (folder / "metadata.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"{name},x,s0\n" for name in names)
    limits = Limits(max_file_bytes=30_000)
    rows = read_rows(put(folder), limits=limits)
    assert rows == read_rows(folder, limits=limits)
    assert [row.reason.value if isinstance(row, Rejected) else "pair" for row in rows] == [
        "pair", "pair", "missing_file", "empty_file", "file_too_large", "path_outside_corpus", "pair",
    ]  # fmt: skip


def test_missing_corpus_in_a_store_raises(put: Put, tmp_path: Path) -> None:
    (tmp_path / "any").mkdir()
    scheme = put(tmp_path / "any").partition("://")[0]
    for where in (f"{BUCKET}/none", "no-such-bucket/none"):
        with pytest.raises(CorpusError, match="is not there"):
            read_rows(f"{scheme}://{where}")
