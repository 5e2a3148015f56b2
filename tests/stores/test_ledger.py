"""The ledger: a hash chain of records, concurrent writers, and changes that are detected."""

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


@pytest.fixture(params=["local", "remote"])
def root(request, tmp_path, monkeypatch):
    if request.param == "local":
        return tmp_path
    one_at_a_time, pipe = threading.Lock(), MemoryFileSystem.pipe_file

    def locked(*arguments, **named):  # requests to a store are atomic, unlike those to this dictionary
        with one_at_a_time:
            return pipe(*arguments, **named)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", locked)
    return request.getfixturevalue("remote_folder")


def append_runs(root, count=3):
    return [append(root, "run", {"run_id": f"r{number}"}) for number in range(count)]


def test_a_lake_without_a_ledger_has_no_records(root):
    assert read_records(root) == []
    assert read_head(root) is None


def test_records_are_numbered_and_chained(root):
    written = append_runs(root)
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
def test_a_body_that_json_cannot_hold_is_an_error(root, body):
    with pytest.raises((ValueError, TypeError)):
        append(root, "run", body)
    assert read_records(root) == []


def test_an_unknown_kind_is_an_error(root):
    with pytest.raises(ValueError, match="kind: got 'note', expected one of begun, run"):
        append(root, "note", {})


@pytest.mark.parametrize("workers", [8])
def test_concurrent_threads_lose_no_record(root, workers):
    with ThreadPoolExecutor(workers) as pool:
        written = list(pool.map(lambda number: append(root, "run", {"run_id": number}), range(40)))
    records = read_records(root)
    assert sorted(record.body["run_id"] for record in records) == list(range(40))
    assert sorted(record.number for record in written) == list(range(1, 41))
    append(root, "run", {"run_id": "last"})  # the next writer corrects HEAD if it lags behind
    assert read_head(root)[0] == 41


def _write(folder, name):
    for number in range(10):
        append(Path(folder), "run", {"run_id": f"{name}-{number}"})


def test_concurrent_processes_lose_no_record(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(str(tmp_path), name)) for name in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len({record.body["run_id"] for record in read_records(tmp_path)}) == 30
    assert [path.name for path in (tmp_path / "ledger").iterdir() if path.suffix == ".tmp"] == []


def test_a_file_is_created_only_once(root):
    assert stores.create_file(root / "ledger" / "x", b"one")
    assert not stores.create_file(root / "ledger" / "x", b"two")
    assert stores.read_bytes(root / "ledger" / "x") == b"one"


def test_an_upload_that_the_driver_repeats_succeeds(remote_folder):
    assert stores.create_file(remote_folder / "x", b"one")
    assert stores.create_file(remote_folder / "x", b"one")


def test_the_check_of_a_record_is_called_before_each_attempt(root, monkeypatch):
    num_records, create, others = [], stores.files.create_file, [True]

    def slow(path, data):
        if others.pop() if others else False:
            append(root, "run", {"run_id": "faster"})
        return create(path, data)

    monkeypatch.setattr(stores.files, "create_file", slow)
    append(root, "run", {"run_id": "ours"}, check=lambda before: num_records.append(len(before)))
    assert num_records == [0, 1]
    assert [record.body["run_id"] for record in read_records(root)] == ["faster", "ours"]

    def refuse(before):
        raise RuntimeError(f"{len(before)} are enough")

    with pytest.raises(RuntimeError, match="2 are enough"):
        append(root, "run", {}, check=refuse)


def test_head_may_lag_behind_and_is_corrected(root):
    written = append_runs(root)
    stores.write_bytes(root / "ledger" / "HEAD", canonical_json({"number": 2, "sha256": written[1].sha256}))
    last = append(root, "run", {})
    assert read_head(root) == (4, last.sha256)


def change_record(change):
    def apply(root):
        path = record_path(root, 2)
        stores.write_bytes(path, change(stores.read_bytes(path)))

    return apply


def delete_record(number):
    return lambda root: stores.remove(root / "ledger", [f"{number:08d}.json"])


def swap_records(root):
    one, two = (stores.read_bytes(record_path(root, number)) for number in (1, 2))
    stores.write_bytes(record_path(root, 1), two)
    stores.write_bytes(record_path(root, 2), one)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            change_record(lambda data: data.replace(b"r1", b"rx")),
            "record 3 states .* sha256 of the previous record",
        ),
        (change_record(lambda data: data + b"\n"), "record 2 is not in canonical JSON"),
        (change_record(lambda data: data[:-1]), "record 2 is not in canonical JSON"),
        (change_record(lambda data: data.replace(b'"kind"', b'"kine"')), "record 2 holds .* or its fields"),
        (change_record(lambda data: data.replace(b'"run"', b'"nun"')), "record 2 is of kind 'nun'"),
        (change_record(lambda data: data.replace(b'"number":2', b'"number":"2"')), "record 2 holds .* types"),
        (delete_record(1), "record 1 of .* is missing"),
        (delete_record(2), "record 2 of .* is missing"),
        (delete_record(3), "HEAD of .* names record 3 .* which does not exist: the last records were deleted"),
        (swap_records, "record 1 holds another number"),
        (lambda root: stores.write_bytes(root / "ledger" / "HEAD", b"{}"), "HEAD does not have the number"),
        (lambda root: stores.remove(root / "ledger", ["HEAD"]), "HEAD is missing"),
    ],
)
def test_nothing_is_appended_to_a_ledger_that_was_changed(root, damage, message, monkeypatch):
    append_runs(root)
    damage(root)
    monkeypatch.setattr(ledger, "_cache", {})  # as if read by another process
    monkeypatch.setattr(ledger, "_HEAD_ATTEMPTS", 0)
    with pytest.raises(LedgerError, match=message):
        append(root, "run", {})
    with pytest.raises(LedgerError, match=message):
        read_records(root)


def test_a_change_of_the_last_record_is_detected_although_it_was_read_before(root):
    append_runs(root)
    read_records(root)
    data = stores.read_bytes(record_path(root, 3))
    stores.write_bytes(record_path(root, 3), data.replace(b"r2", b"rx"))
    with pytest.raises(LedgerError, match=r"HEAD of .* names record 3"):
        read_records(root)
    delete_record(3)(root)
    with pytest.raises(LedgerError, match=r"HEAD of .* names record 3"):
        read_records(root)
    stores.write_bytes(record_path(root, 3), data)
    assert len(read_records(root)) == 3


def test_readers_during_writes_find_an_intact_ledger(root):
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(append, root, "run", {"run_id": number}) for number in range(20)]
        read = [pool.submit(read_records, root) for _ in range(40)]
        assert all(isinstance(job.result(), list) for job in read)
        assert len({job.result().number for job in jobs}) == 20


def test_a_report_that_is_recorded_concurrently_is_one_record(root):
    with ThreadPoolExecutor(6) as pool:
        recorded = list(pool.map(lambda _: ledger.record_report(root, "r", "html", b"page", by="a page"), range(6)))
    assert [record is not None for record in recorded].count(True) == 1
    assert len(read_records(root)) == 1
    assert ledger.record_report(root, "r", "html", b"page", by="another") is None
    assert ledger.record_report(root, "r", "html", b"page", path="runs/r/report.html") is not None
    assert ledger.record_report(root, "r", "html", b"page") is None


def test_a_ledger_that_was_replaced_is_read_again(root):
    append_runs(root)
    for name in stores.list_files(root / "ledger"):
        stores.remove(root / "ledger", [name])
    assert read_records(root) == []
    written = [append(root, "run", {"run_id": f"other {number}"}) for number in range(3)]
    assert read_records(root) == written


def test_a_file_system_without_hard_links_is_an_error(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    with pytest.raises(LakeError, match=r"hard links, or an object store"):
        append(tmp_path, "run", {})
    assert stores.list_files(tmp_path / "ledger") == []


def test_other_files_in_the_folder_are_ignored(root):
    append_runs(root, 1)
    stores.write_bytes(root / "ledger" / "notes.txt", b"mine")
    assert len(read_records(root)) == 1
    assert ledger.record_number("00000001.json") == 1
    for name in ("00000000.json", "1.json", "000000001.json", "HEAD"):
        assert ledger.record_number(name) is None


def test_in_s3_a_record_is_created_only_once(s3, monkeypatch):
    """The driver sends If-None-Match, and the store responds that the name exists."""
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


def test_different_names_are_different_persons():
    assert len({ledger.normalize_person(name) for name in ("Ada Okafor", "Ada Okafór", "कि", "का", "Bo Li")}) == 5


def test_a_text_is_a_file_of_its_own_that_can_be_erased(tmp_path):
    first = append(tmp_path, "review", {"reason": "Mrs Doe", "life_id": "l"})
    second = append(tmp_path, "review", {"reason": "Mrs Doe", "life_id": "l"})
    assert set(first.body) == {"reason_sha256", "life_id"}
    assert first.body["reason_sha256"] != second.body["reason_sha256"]  # salted
    assert [record.body["reason"] for record in ledger.read_texts(tmp_path, read_records(tmp_path))] == ["Mrs Doe"] * 2
    path = ledger.text_path(tmp_path, first.body["reason_sha256"])
    files = [{"path": path.relative_to(tmp_path).as_posix()}]
    append(tmp_path, "rewrite", {"what": "erased", "run_id": None, "files": files})
    path.unlink()
    texts = [record.body.get("reason") for record in ledger.read_texts(tmp_path, read_records(tmp_path))]
    assert texts == [ledger.ERASED, "Mrs Doe", None]


def test_a_missing_or_changed_text_is_reported(tmp_path):
    record = append(tmp_path, "sign_off", {"statement": "fit for use"})
    path = ledger.text_path(tmp_path, record.body["statement_sha256"])
    path.write_bytes(path.read_bytes().replace(b"fit", b"bad"))
    with pytest.raises(LedgerError, match="it was changed; restore it"):
        ledger.read_texts(tmp_path, [record])
    path.unlink()
    with pytest.raises(LedgerError, match="the text of record 1 is missing; restore it"):
        ledger.read_texts(tmp_path, [record])
