"""Files of a lake in a folder and in object storage: atomic writes, copies, and the messages of errors."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

import stores
from stores import LakeError, UrlError


def read_files(root):
    """Return the contents of all files below a root, by name."""
    if isinstance(root, Path):
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    paths = root.fs.find(root.path) if root.fs.exists(root.path) else []
    return {path.removeprefix(root.path).lstrip("/"): root.fs.cat_file(path) for path in paths}


@pytest.fixture(params=["local", "remote"])
def root(request, tmp_path):
    return tmp_path if request.param == "local" else request.getfixturevalue("remote_folder")


def raise_on_call(error):
    def fail(*_, **__):
        raise error

    return fail


def list_temporary():
    return [path for path in stores.scratch_folder().iterdir() if ".tmp" in path.name]


def test_a_file_appears_when_it_is_complete(root):
    with stores.write_atomically(root / "new" / "file") as temporary:
        temporary.write_text("half")
        assert not stores.is_file(root / "new" / "file")
        assert not temporary.match("*.parquet")
    assert read_files(root) == {"new/file": b"half"}
    assert list_temporary() == []


def test_a_local_file_is_written_to_the_same_folder_first(tmp_path):
    with stores.write_atomically(tmp_path / "new" / "file") as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path / "new"  # so that the rename stays on one file system


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failed_write_leaves_no_file(root, error):
    with pytest.raises(error), stores.write_atomically(root / "file") as temporary:
        temporary.write_text("half")
        raise error
    assert read_files(root) == {}
    assert list_temporary() == []


def test_failed_write_keeps_the_old_file(root):
    stores.write_bytes(root / "file", b"old")
    with pytest.raises(ValueError, match="no"), stores.write_atomically(root / "file") as temporary:
        temporary.write_text("new")
        raise ValueError("no")
    assert read_files(root) == {"file": b"old"}


def test_a_file_is_replaced(root):
    for data in (b"old", b"new"):
        stores.write_bytes(root / "file", data)
        with stores.write_atomically(root / "other") as temporary:
            temporary.write_bytes(data)
        assert stores.fetch(root / "other").read_bytes() == stores.read_bytes(root / "file") == data
    assert read_files(root) == {"file": b"new", "other": b"new"}


def test_a_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append((tmp_path / "file").exists()))
    with stores.write_atomically(tmp_path / "file") as temporary:
        temporary.write_text("x")
    stores.write_bytes(tmp_path / "file", b"y")
    assert synced == [False, True, True, True]  # the file, then its folder


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError("no such bucket"), r"cannot be written \(.*no such bucket.*create the bucket"),
        (PermissionError("denied"), r"cannot be written \(.*denied\); check the credentials"),
        (TimeoutError("slow"), r"cannot be written \(.*slow\); check the network"),
        (ValueError("odd"), r"cannot be written \(ValueError: odd\); check the network and the store"),
    ],
)
def test_a_failed_upload_gives_the_reason_and_keeps_the_old_file(remote_folder, monkeypatch, error, message):
    stores.write_bytes(remote_folder / "file", b"old")
    for method in ("put_file", "pipe_file"):
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFileSystem, method, raise_on_call(error))
            with pytest.raises(LakeError, match=message):
                if method == "pipe_file":
                    stores.write_bytes(remote_folder / "file", b"new")
                else:
                    with stores.write_atomically(remote_folder / "file") as temporary:
                        temporary.write_bytes(b"new")
    assert read_files(remote_folder) == {"file": b"old"}
    assert list_temporary() == []


def test_an_interrupted_upload_leaves_no_local_file(remote_folder, monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "put_file", raise_on_call(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt), stores.write_atomically(remote_folder / "file") as temporary:
        temporary.write_bytes(b"new")
    assert list_temporary() == []


@pytest.mark.parametrize("ask", [stores.is_file, stores.read_bytes, stores.fetch, stores.list_folders])
def test_an_error_of_a_store_is_not_a_missing_file(remote_folder, monkeypatch, ask):
    stores.write_bytes(remote_folder / "file", b"x")
    for error, message in ((PermissionError("no"), "credentials"), (ConnectionError("cut"), "network")):
        for method in ("info", "cat_file", "ls"):
            monkeypatch.setattr(MemoryFileSystem, method, raise_on_call(error))
        with pytest.raises(LakeError, match=message):
            ask(remote_folder / "file")


def test_missing_files_and_folders(root):
    assert not stores.is_file(root / "file")
    assert stores.list_folders(root / "none") == []
    assert list(stores.read_all([root / "file"])) == []
    with pytest.raises(FileNotFoundError):
        stores.read_bytes(root / "file")


def test_folders_and_missing_files_are_listed(root):
    for name in ("b/one", "a/one", "a/two", "file"):
        stores.write_bytes(root / name, name.encode())
    assert stores.list_folders(root) == ["a", "b"]
    assert stores.missing_files(root, ["a/one", "a/three", "b/one", "c/one", "a"]) == ["a/three", "c/one", "a"]
    assert list(stores.read_all([root / "b" / "one", root / "b" / "none", root / "a" / "two"])) == [
        (root / "b" / "one", b"b/one"),
        (root / "a" / "two", b"a/two"),
    ]
    assert stores.relative_path(root / "a" / "two", root) == "a/two"


def test_files_that_others_write_later_are_listed(remote_folder):
    stores.write_bytes(remote_folder / "a" / "one", b"1")
    assert stores.missing_files(remote_folder, ["a/two"]) == ["a/two"]
    remote_folder.fs.pipe_file((remote_folder / "a" / "two").path, b"2")
    assert stores.missing_files(remote_folder, ["a/two"]) == []


def test_a_file_that_this_process_wrote_is_not_fetched(remote_folder, downloads):
    with stores.write_atomically(remote_folder / "file.bin") as temporary:
        temporary.write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    assert stores.fetch(remote_folder / "file.bin").read_bytes() == b"x"
    assert stores.fetch(remote_folder / "file.bin", digest) == stores.copy_path(digest)
    assert downloads == []


def test_a_file_that_others_replaced_is_fetched_again(remote_folder, downloads):
    path = remote_folder / "file"
    for data in (b"one", b"two", b"six"):  # of one length
        remote_folder.fs.pipe_file(path.path, data)
        for _ in range(2):
            assert stores.fetch(path).read_bytes() == data
    assert len(downloads) == 3


def test_many_files_are_fetched_in_order(remote_folder, root, tmp_path):
    names = [f"a/{number}" for number in range(40)]
    for name in names:
        stores.write_bytes(root / name, name.encode())
    assert [path.read_text() for path in stores.fetch_all(root, dict.fromkeys(names))] == names


def test_a_copy_must_match_its_sha256(remote_folder):
    path = remote_folder / "file"
    stores.write_bytes(path, b"damaged")
    expected = hashlib.sha256(b"whole").hexdigest()
    with pytest.raises(LakeError, match=f"is damaged: got sha256 [0-9a-f]*, expected {expected}.*restore it"):
        stores.fetch(path, expected)
    assert not stores.copy_path(expected).exists()
    stores.write_bytes(path, b"whole")
    assert stores.fetch(path, expected).read_bytes() == b"whole"


def test_a_missing_file_is_named(remote_folder):
    with pytest.raises(LakeError, match=r"memory://.*/none is missing .*restore it"):
        stores.fetch(remote_folder / "none")


@pytest.mark.parametrize("digest", ["", "../x", "a" * 63, "A" * 64, "a" * 64 + "\n", "/etc/passwd"])
def test_a_digest_that_is_a_path_is_an_error(digest):
    with pytest.raises(LakeError, match="expected 64 hexadecimal digits"):
        stores.copy_path(digest)


def test_copies_are_private_to_their_user():
    assert stat.S_IMODE(stores.scratch_folder().stat().st_mode) == 0o700
    assert stores.scratch_folder() == stores.scratch_folder()


def test_copies_are_removed_when_the_process_ends_but_not_its_children():
    code = """
import os, stores, pathlib
folder = stores.scratch_folder()
(folder / "x").write_text("x")
if (child := os.fork()) == 0:
    assert stores.scratch_folder() != folder
    raise SystemExit
os.waitpid(child, 0)
assert (folder / "x").is_file()
print(folder)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(stores.__file__).parent.parent, capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    folder = Path(done.stdout.strip())
    assert folder.is_absolute()
    assert not folder.exists()


def test_a_lake_is_a_folder_or_a_store_with_atomic_uploads(tmp_path):
    assert stores.lake_root(str(tmp_path)) == stores.lake_root(f"file://{tmp_path}") == tmp_path
    assert stores.lake_root("lake") == Path("lake")
    for url in ("s3://bucket/audits", "s3a://bucket/a", "s3://bucket", "memory://audits"):
        assert not isinstance(stores.lake_root(url), Path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://host/lake", "or object storage with atomic uploads"),
        ("sftp://host/lake", "expected a folder, or a store|driver is not installed"),
        ("s3://KEY:hidden@bucket/lake", "The lake's URL holds a user, password or key"),
        ("s3://bucket/lake?x=hidden", "The lake's URL holds"),
        ("zip://x::s3://bucket/x.zip", "expected one protocol"),
        ("simplecache::s3://KEY:hidden@bucket/lake", "expected one protocol"),
        ("://x::s3://KEY:hidden@bucket/lake", "expected one protocol"),
        ("nope://x", "protocol is unknown"),
        ("gs://bucket/lake", r"driver is not installed: .*pip install 'm2ib-audit\[gcs\]'"),
    ],
)
def test_urls_that_cannot_be_a_lake(monkeypatch, url, message):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UrlError, match=message) as caught:
        stores.lake_root(url)
    assert "hidden" not in str(caught.value)


def test_a_file_cannot_be_a_lake(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UrlError, match="expected a folder, which need not exist"):
        stores.lake_root(str(tmp_path / "notes.txt"))
    assert stores.lake_root(str(tmp_path / "new")) == tmp_path / "new"
