"""The ledger: records in a chain, of which no writer loses one and nothing can be changed unseen."""

import json
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

import stores
from stores import LakeError, ledger
from stores.ledger import LedgerError, append, canonical_json, read_head, read_records, record_path


@pytest.fixture(params=["here", "elsewhere"])
def root(request, tmp_path, monkeypatch):
    if request.param == "here":
        return tmp_path
    one_at_a_time, pipe = threading.Lock(), MemoryFileSystem.pipe_file

    def locked(*arguments, **named):  # a store takes requests whole; a dictionary looked at twice does not
        with one_at_a_time:
            return pipe(*arguments, **named)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", locked)
    return request.getfixturevalue("away")


def filled(root, count=3):
    return [append(root, "run", {"run_id": f"r{number}"}) for number in range(count)]


def test_a_lake_without_a_ledger_has_no_records(root):
    assert read_records(root) == []
    assert read_head(root) is None


def test_records_are_numbered_and_chained(root):
    written = filled(root)
    assert [record.number for record in written] == [1, 2, 3]
    assert [record.prev for record in written] == [ledger.BEGINNING, written[0].sha256, written[1].sha256]
    assert read_records(root) == written
    assert read_head(root) == (3, written[2].sha256)
    assert stores.list_files(root / "ledger") == ["00000001.json", "00000002.json", "00000003.json", "HEAD"]


def test_a_record_is_canonical_json(root):
    record = append(root, "review", {"b": "ä\n", "a": [1.5, None, True]})
    data, start = stores.read_bytes(record_path(root, 1)), "0" * 64
    assert data == canonical_json(json.loads(data)) == (
        f'{{"at":"{record.at}","body":{{"a":[1.5,null,true],"b":"ä\\n"}},"kind":"review","number":1,"prev":"{start}"}}'
    ).encode()  # fmt: skip
    assert record.sha256 == ledger.sha256(data)


@pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": object()}, {"x": "\ud800"}])
def test_what_json_cannot_hold_is_not_recorded(root, body):
    with pytest.raises((ValueError, TypeError)):
        append(root, "run", body)
    assert read_records(root) == []


def test_a_kind_that_is_none_is_refused(root):
    with pytest.raises(ValueError, match="kind: got 'note', expected one of run"):
        append(root, "note", {})


@pytest.mark.parametrize("workers", [8])
def test_threads_that_write_at_once_lose_nothing(root, workers):
    with ThreadPoolExecutor(workers) as pool:
        written = list(pool.map(lambda number: append(root, "run", {"run_id": number}), range(40)))
    found = read_records(root)
    assert sorted(record.body["run_id"] for record in found) == list(range(40))
    assert sorted(record.number for record in written) == list(range(1, 41))
    append(root, "run", {"run_id": "last"})  # whoever writes next mends HEAD where it lags
    assert read_head(root)[0] == 41


def _write(folder, name):
    for number in range(10):
        append(Path(folder), "run", {"run_id": f"{name}-{number}"})


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(str(tmp_path), name)) for name in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len({record.body["run_id"] for record in read_records(tmp_path)}) == 30
    assert [path.name for path in (tmp_path / "ledger").iterdir() if path.suffix == ".tmp"] == []


def test_a_record_appears_whole_and_replaces_none(root):
    assert stores.create_file(root / "ledger" / "x", b"one")
    assert not stores.create_file(root / "ledger" / "x", b"two")
    assert stores.read_bytes(root / "ledger" / "x") == b"one"


def test_an_upload_that_was_asked_for_twice_is_ours(away):
    assert stores.create_file(away / "x", b"one")
    assert stores.create_file(away / "x", b"one")


def test_what_speaks_against_a_record_is_asked_before_each_attempt(root, monkeypatch):
    seen, create, others = [], stores.files.create_file, [True]

    def slow(path, data):
        if others.pop() if others else False:
            append(root, "run", {"run_id": "faster"})
        return create(path, data)

    monkeypatch.setattr(stores.files, "create_file", slow)
    append(root, "run", {"run_id": "ours"}, check=lambda before: seen.append(len(before)))
    assert seen == [0, 1]
    assert [record.body["run_id"] for record in read_records(root)] == ["faster", "ours"]

    def refuse(before):
        raise RuntimeError(f"{len(before)} are enough")

    with pytest.raises(RuntimeError, match="2 are enough"):
        append(root, "run", {}, check=refuse)


def test_head_may_lag_behind_and_is_mended(root):
    written = filled(root)
    stores.write_bytes(root / "ledger" / "HEAD", canonical_json({"number": 2, "sha256": written[1].sha256}))
    last = append(root, "run", {})
    assert read_head(root) == (4, last.sha256)


def spoil(change):
    def spoiled(root):
        path = record_path(root, 2)
        stores.write_bytes(path, change(stores.read_bytes(path)))

    return spoiled


def drop(number):
    return lambda root: stores.remove(root / "ledger", [f"{number:08d}.json"])


def swap(root):
    one, two = (stores.read_bytes(record_path(root, number)) for number in (1, 2))
    stores.write_bytes(record_path(root, 1), two)
    stores.write_bytes(record_path(root, 2), one)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (spoil(lambda data: data.replace(b"r1", b"rx")), "record 3 is chained to .* but record 2 is"),
        (spoil(lambda data: data + b"\n"), "record 2 is not in canonical form"),
        (spoil(lambda data: data[:-1]), "record 2 is not JSON"),
        (spoil(lambda data: data.replace(b'"kind"', b'"kine"')), "record 2 has keys"),
        (spoil(lambda data: data.replace(b'"run"', b'"nun"')), "record 2 is of kind 'nun'"),
        (spoil(lambda data: data.replace(b'"number":2', b'"number":"2"')), "record 2 has values of other types"),
        (drop(1), "record 1 of .* is missing"),
        (drop(2), "record 2 of .* is missing"),
        (drop(3), "HEAD of .* names record 3 .* which does not exist: the last records were deleted"),
        (swap, "record 1 has the number 2 in it"),
        (lambda root: stores.write_bytes(root / "ledger" / "HEAD", b"{}"), "HEAD is not in canonical form"),
        (lambda root: stores.remove(root / "ledger", ["HEAD"]), "HEAD is missing"),
    ],
)
def test_nothing_is_chained_to_what_was_changed(root, harm, said, monkeypatch):
    filled(root)
    harm(root)
    monkeypatch.setattr(ledger, "_cache", {})  # as another process sees it
    monkeypatch.setattr(ledger, "_HEAD_ATTEMPTS", 0)
    with pytest.raises(LedgerError, match=said):
        append(root, "run", {})
    with pytest.raises(LedgerError, match=said):
        read_records(root)


def test_an_end_that_this_process_has_read_and_that_was_cut_off_or_changed_is_missed(root):
    filled(root)
    read_records(root)
    data = stores.read_bytes(record_path(root, 3))
    stores.write_bytes(record_path(root, 3), data.replace(b"r2", b"rx"))
    with pytest.raises(LedgerError, match=r"HEAD of .* names record 3"):
        read_records(root)
    drop(3)(root)
    with pytest.raises(LedgerError, match=r"HEAD of .* names record 3"):
        read_records(root)
    stores.write_bytes(record_path(root, 3), data)
    assert len(read_records(root)) == 3


def test_readers_beside_writers_find_the_ledger_whole(root):
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(append, root, "run", {"run_id": number}) for number in range(20)]
        read = [pool.submit(read_records, root) for _ in range(40)]
        assert all(isinstance(job.result(), list) for job in read)
        assert len({job.result().number for job in jobs}) == 20


def test_a_report_that_is_noted_twice_at_once_is_one_record(root):
    with ThreadPoolExecutor(6) as pool:
        noted = list(pool.map(lambda _: ledger.record_report(root, "r", "html", b"page", by="a page"), range(6)))
    assert [record is not None for record in noted].count(True) == 1
    assert len(read_records(root)) == 1
    assert ledger.record_report(root, "r", "html", b"page", by="another") is None
    assert ledger.record_report(root, "r", "html", b"page", path="runs/r/report.html") is not None
    assert ledger.record_report(root, "r", "html", b"page") is None


def test_a_ledger_that_was_replaced_is_read_anew(root):
    filled(root)
    for name in stores.list_files(root / "ledger"):
        stores.remove(root / "ledger", [name])
    assert read_records(root) == []
    written = [append(root, "run", {"run_id": f"other {number}"}) for number in range(3)]
    assert read_records(root) == written


def test_a_file_system_without_hard_links_is_told(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    with pytest.raises(LakeError, match=r"hard links, or an object store"):
        append(tmp_path, "run", {})
    assert stores.list_files(tmp_path / "ledger") == []


def test_files_that_are_no_records_are_left_alone(root):
    filled(root, 1)
    stores.write_bytes(root / "ledger" / "notes.txt", b"mine")
    assert len(read_records(root)) == 1
    assert ledger.record_number("00000001.json") == 1
    for name in ("00000000.json", "1.json", "000000001.json", "HEAD"):
        assert ledger.record_number(name) is None


def test_in_s3_a_record_is_created_only_if_there_is_none(s3, monkeypatch):
    """As the driver says it to the store: If-None-Match, and an answer that the name is taken."""
    root = stores.lake_root(f"s3://{s3.bucket}/a-ledger")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: append(root, "run", {"run_id": number}), range(12)))
    assert sorted(record.body["run_id"] for record in read_records(root)) == list(range(12))
    assert not stores.create_file(record_path(root, 3), b"another")
    assert read_records(root)[2] == ledger.parse_record(3, stores.read_bytes(record_path(root, 3)))


@pytest.mark.parametrize(
    "name", ["ada  OKAFOR", "Ada Okafor.", "Ada Okafor\ufe0f", "\uff21da Okafor", "Ada\u200b Okafor"]
)
def test_spellings_of_a_name_are_one_person(name):
    assert ledger.normalize_person(name) == ledger.normalize_person("Ada Okafor")


def test_names_of_others_are_other_persons():
    assert len({ledger.normalize_person(name) for name in ("Ada Okafor", "Ada Okafór", "कि", "का", "Bo Li")}) == 5
