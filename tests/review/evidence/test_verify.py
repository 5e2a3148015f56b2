"""Verification reports the file of every change, removal, addition or reordering in a lake."""

import contextlib
import hashlib
import json
import random
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import sql
import stores
from flows import cli
from review.evidence.decisions import Reviewer, countersign, decide, sign_off
from review.evidence.verify import VerifyError, verify
from review.evidence.written_reports import WrittenReport, find_written_report
from stores import ledger
from stores.keys import create_key, load_key
from tasks.lake.compact import compact_run
from tasks.lake.journal import record_report, record_run_begin, record_run_end

ANN, BOB = Reviewer("Ann", "radiologist", "declared"), Reviewer("Bob", "quality", "declared")


def fill_lake(add_next_run, lake, signer=None):
    """Store two complete runs, one of them compacted, a report, decisions and signatures."""
    runs = [add_next_run({"interval": (0.1, 0.2, 0.3)}, lake=lake, chained=True) for _ in range(2)]
    for run in runs:
        run.write_table("attributions", [{"pair_id": "more"}], "part-00001")
        record_run_end(run, signer)
    stores.write_bytes(runs[0].folder / "report.html", b"<html>the report</html>")
    record_report(runs[0], "report.html", signer)
    first = decide(
        lake, ANN, runs[0].run_id, f"{runs[0].run_id}-0", "benign", "a marker", "review", four_eyes=True, signer=signer
    )
    countersign(lake, BOB, first.number, "approval", signer=signer)
    compact_run(runs[0], signer)
    sign_off(lake, BOB, runs[1].run_id, "responsibility", "fit for use", signer=signer)
    return runs


@pytest.fixture(scope="module")
def shared_intact_lake(make_add_next_run, tmp_path_factory):
    """An intact lake in a folder. Not to be changed: `intact_lake` is a copy."""
    lake = tmp_path_factory.mktemp("intact") / "lake"
    lake.mkdir()
    fill_lake(make_add_next_run(lake), lake)
    return lake


@pytest.fixture
def intact_lake(shared_intact_lake, tmp_path):
    return shutil.copytree(shared_intact_lake, tmp_path / "lake")


def list_files(lake):
    return sorted(path.relative_to(lake).as_posix() for path in lake.rglob("*") if path.is_file())


def list_differing_files(lake, run_id="all", **options):
    return [difference.file for difference in verify(lake, run_id, **options).differences]


def test_an_intact_lake_has_no_differences(intact_lake):
    result = verify(intact_lake, "all")
    assert (result.differences, result.notes) == ([], [])
    assert len(result.runs) == 2
    assert result.records == len(ledger.read_records(intact_lake)) == 7
    assert result.head == ledger.read_records(intact_lake)[-1].sha256
    assert result.files == len(list_files(intact_lake))
    assert result.bytes == sum((intact_lake / name).stat().st_size for name in list_files(intact_lake))
    assert verify(intact_lake, "latest").runs == result.runs[-1:]
    with pytest.raises(VerifyError, match=r"got 'none', expected a run of the lake .*: latest, all, "):
        verify(intact_lake, "none")


def flip_bit(path, at, bit):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


@contextlib.contextmanager
def restore_after(path):
    """Restore the content of a file when the block ends."""
    data = path.read_bytes()
    try:
        yield path
    finally:
        path.write_bytes(data)


def test_a_flipped_bit_is_reported_with_its_file(intact_lake):
    generator = random.Random(7)
    for name in list_files(intact_lake):
        size = (intact_lake / name).stat().st_size
        for at in {0, size - 1, generator.randrange(size)}:
            with restore_after(intact_lake / name) as path:
                flip_bit(path, at, generator.randrange(8))
                differing = list_differing_files(intact_lake)
            assert differing, f"byte {at} of {name}"
            assert differing[0] == name, f"byte {at} of {name}"


def test_flipped_bits_at_the_end_of_the_ledger_are_reported(intact_lake):
    for path in sorted(path for path in (intact_lake / "ledger").iterdir() if path.is_file())[
        -2:
    ]:  # the last record and HEAD, which nothing follows
        for at in range(0, path.stat().st_size, 7):
            with restore_after(path):
                flip_bit(path, at, at % 8)
                assert list_differing_files(intact_lake, "latest")[:1] == [f"ledger/{path.name}"], at


def test_an_edited_head_is_reported_and_not_the_record_that_it_names(intact_lake):
    for edit in (lambda digest: digest[1:], lambda digest: digest[:-1] + "g", lambda digest: "0" * 8 + digest[8:]):
        with restore_after(intact_lake / "ledger/HEAD") as path:
            head = json.loads(path.read_bytes())
            path.write_bytes(ledger.canonical_json(head | {"sha256": edit(head["sha256"])}))
            assert list_differing_files(intact_lake) == ["ledger/HEAD"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_replaced_bytes_are_reported(intact_lake, data):
    name = data.draw(st.sampled_from(list_files(intact_lake)))
    with restore_after(intact_lake / name) as path:
        before = path.read_bytes()
        start = data.draw(st.integers(0, len(before)))
        end = data.draw(st.integers(start, len(before)))
        after = before[:start] + data.draw(st.binary(max_size=8)) + before[end:]
        path.write_bytes(after)
        assert (name in list_differing_files(intact_lake)) == (after != before)


@pytest.mark.slow
def test_every_flipped_bit_of_a_tiny_lake_is_reported(lake_of_one_pair):
    for name in list_files(lake_of_one_pair):
        for at in range((lake_of_one_pair / name).stat().st_size):
            with restore_after(lake_of_one_pair / name) as path:
                flip_bit(path, at, at % 8)
                assert list_differing_files(lake_of_one_pair)[:1] == [name], (name, at)


@pytest.fixture
def lake_of_one_pair(run_class, tmp_path):
    """A run of one table, its report, and a signature."""
    run = run_class(tmp_path, "20260101T000000-aaaaaa").begin(chained=True)
    run.add_pairs(["a caption"])
    run.finish("completed")
    record_run_end(run)
    stores.write_bytes(run.folder / "report.html", b"<html>the report</html>")
    record_report(run, "report.html")
    sign_off(tmp_path, ANN, run.run_id, "review", "seen")
    return tmp_path


def test_a_missing_file_is_reported(intact_lake):
    for name in list_files(intact_lake):
        with restore_after(intact_lake / name) as path:
            path.unlink()
            assert list_differing_files(intact_lake)[:1] == [name]


def test_a_missing_run_is_reported(intact_lake):
    run_id = verify(intact_lake, "latest").runs[0]
    shutil.rmtree(intact_lake / "runs" / run_id)
    for requested in ("all", run_id, "latest"):
        assert list_differing_files(intact_lake, requested) == [f"runs/{run_id}/manifest.json"]


def test_a_symbolic_link_is_reported_and_its_run_ignored(intact_lake, tmp_path):
    run_id = verify(intact_lake, "latest").runs[0]
    target = (intact_lake / "runs" / run_id).rename(tmp_path / run_id)
    (intact_lake / "runs" / run_id).symlink_to(target)
    assert list_differing_files(intact_lake) == list_differing_files(intact_lake, run_id) == [f"runs/{run_id}"]
    with sql.connect(intact_lake) as connection:
        assert run_id not in [row["run_id"] for row in sql.read(connection, "FROM runs")]
    (intact_lake / "runs" / run_id).unlink()
    target.rename(intact_lake / "runs" / run_id)
    (intact_lake / "runs" / run_id / "pairs").rename(tmp_path / "pairs")
    (intact_lake / "runs" / run_id / "pairs").symlink_to(tmp_path / "pairs")
    assert list_differing_files(intact_lake, run_id)[:1] == [f"runs/{run_id}/pairs"]
    (intact_lake / "runs" / run_id / "pairs").unlink()
    (tmp_path / "pairs").rename(intact_lake / "runs" / run_id / "pairs")
    assert list_differing_files(intact_lake) == []
    (intact_lake / "notes").symlink_to(tmp_path)
    assert list_differing_files(intact_lake) == ["notes"]
    assert list_differing_files(intact_lake, "latest") == []


def test_a_run_added_after_the_ledger_began_is_reported(add_next_run):
    old = add_next_run({})
    assert CliRunner().invoke(cli.app, ["adopt", "all", "--lake", str(old.lake)]).exit_code == 0
    assert verify(old.lake, "all").is_intact
    new = add_next_run({})
    (difference,) = verify(old.lake, "all").differences
    assert difference.file == f"runs/{new.run_id}/manifest.json"
    assert "the ledger has no record of this run" in difference.description
    assert verify(old.lake, "latest").notes[-1].startswith(f"runs/{new.run_id}/: the ledger has no record of this run")
    result = CliRunner().invoke(cli.app, ["adopt", "all", "--lake", str(old.lake)])
    assert (result.exit_code, f"run {new.run_id} was not recorded" in result.stderr) == (1, True)
    assert CliRunner().invoke(cli.app, ["adopt", new.run_id, "--lake", str(old.lake)]).exit_code == 0
    assert verify(old.lake, "all").is_intact


@pytest.mark.parametrize(
    "name", ["notes.txt", "runs/notes.txt", "ledger/notes.txt", "ledger/99/1.json", "runs/RUN/x.parquet",
             "runs/RUN/alerts/part-00009.parquet", "runs/RUN/manifest-0123456789abcdef.json", "runs/RUN/report.pdf",
             "runs/RUN/attributions/deep/part-00000.parquet", "runs/none/pairs/part-00000.parquet"],
)  # fmt: skip
def test_an_unlisted_file_is_reported(intact_lake, name):
    name = name.replace("RUN", verify(intact_lake, "latest").runs[0])
    stores.write_bytes(intact_lake / name, b"foreign")
    expected = "runs/none/manifest.json" if "none" in name else name
    assert list_differing_files(intact_lake) == [expected]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("runs/RUN/pairs/.part-00000.parquet.0a.tmp", "incomplete file of a killed process"),
        ("ledger/.00000009.json.0a.tmp", "incomplete file of a killed process"),
        ("runs/RUN/attributions/part-00009-0a.parquet", "of an interrupted attempt, for --resume"),
        ("runs/RUN/parts/confirm-00000-0a.json", "of an interrupted attempt, for --resume"),
        ("runs/RUN/lock.json", None),
    ],
)
def test_incomplete_files_of_killed_processes_are_notes(intact_lake, name, note):
    name = name.replace("RUN", verify(intact_lake, "latest").runs[0])
    stores.write_bytes(intact_lake / name, b"left")
    result = verify(intact_lake, "all")
    assert result.is_intact
    assert [note in text for text in result.notes] == ([] if note is None else [True])


def test_swapped_records_are_reported(intact_lake):
    one, two = (intact_lake / "ledger" / f"0000000{number}.json" for number in (2, 3))
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    assert list_differing_files(intact_lake)[:1] == ["ledger/00000002.json"]


def test_a_replaced_record_is_reported(intact_lake):
    record = json.loads((intact_lake / "ledger" / "00000003.json").read_bytes())
    record["body"]["reviewer"] = {"name": "Eve"}
    forged = ledger.canonical_json(record)
    (intact_lake / "ledger" / "00000003.json").write_bytes(forged)
    assert list_differing_files(intact_lake)[0] == "ledger/00000003.json"


def test_a_record_with_a_wrong_predecessor_is_reported(intact_lake):
    last = ledger.read_records(intact_lake)[-1]
    forged = {"number": last.number + 1, "kind": "review", "at": last.at, "body": {}, "prev": "0" * 64}
    stores.write_bytes(ledger.record_path(intact_lake, last.number + 1), ledger.canonical_json(forged))
    assert list_differing_files(intact_lake)[:1] == [f"ledger/{last.number + 1:08d}.json"]


def test_a_removed_last_record_is_reported_by_head_or_by_an_earlier_head(intact_lake):
    earlier_head = verify(intact_lake, "all").head
    before = ledger.read_records(intact_lake)[-2]
    (intact_lake / "ledger" / "00000007.json").unlink()
    assert list_differing_files(intact_lake) == ["ledger/00000007.json"]
    stores.write_bytes(intact_lake / "ledger" / "HEAD", ledger.canonical_json({"number": 6, "sha256": before.sha256}))
    assert list_differing_files(intact_lake) == []  # a hash chain cannot prove that it is complete
    assert list_differing_files(intact_lake, head=earlier_head) == ["ledger/HEAD"]
    assert list_differing_files(intact_lake, head=before.sha256) == []
    with pytest.raises(VerifyError, match="--head: got 'abc', expected the 64 hexadecimal digits"):
        verify(intact_lake, "all", head="abc")


def test_a_removed_ledger_is_reported_by_its_runs(intact_lake):
    shutil.rmtree(intact_lake / "ledger")
    assert [name.endswith("manifest.json") for name in list_differing_files(intact_lake)][:1] == [True]
    assert "the ledger has no record of this run" in str(verify(intact_lake, "latest").differences[0])


def test_without_a_run_only_the_ledger_is_listed(intact_lake, monkeypatch):
    listed, list_sizes = [], stores.list_sizes
    monkeypatch.setattr(stores, "list_sizes", lambda folder: listed.append(folder) or list_sizes(folder))
    latest, result = verify(intact_lake, "latest"), verify(intact_lake, None)
    assert listed == [intact_lake, intact_lake / "ledger"]
    assert (result.runs, result.differences, result.notes) == ([], [], [])
    assert (result.records, result.head) == (latest.records, latest.head)
    (intact_lake / "ledger" / "00000002.json").unlink()
    assert list_differing_files(intact_lake, None) == ["ledger/00000002.json"]


def test_an_outdated_head_is_a_note(intact_lake):
    before = ledger.read_records(intact_lake)[-2]
    stores.write_bytes(intact_lake / "ledger" / "HEAD", ledger.canonical_json({"number": 6, "sha256": before.sha256}))
    result = verify(intact_lake, "all")
    assert result.is_intact
    assert "HEAD names record 6 of 7" in result.notes[0]


def test_a_lake_without_a_ledger_is_reported(add_next_run):
    run = add_next_run({})
    stores.write_bytes(run.folder / "report.html", b"old")
    result = verify(run.lake, "all")
    assert [difference.file for difference in result.differences] == [f"runs/{run.run_id}/manifest.json", "ledger/"]
    assert "run once: m2ib-audit adopt all" in result.differences[1].description
    assert result.notes == ["ledger/: the lake has no ledger"]


def test_the_files_of_an_unfinished_run_are_verified(add_next_run):
    run = add_next_run({}, chained=True)
    record_run_end(run)
    run.update(status="running")
    assert "has sha256" in str(verify(run.lake, "all").differences[0])  # a complete run does not run again
    run = add_next_run({}, status="failed", chained=True)
    record_run_end(run)
    run.update(status="running", reason=None)
    result = verify(run.lake, run.run_id)
    assert result.is_intact
    assert "ended as failed (record 2) and is being resumed" in result.notes[0]
    run = add_next_run({}, status="running")
    record_run_begin(run)
    (run.folder / "parts").mkdir()
    (run.folder / "parts" / "confirm-00000-0a.json").write_text("{}")
    assert verify(run.lake, run.run_id).notes == [
        f"runs/{run.run_id}/: is running, or its process was killed",
        f"runs/{run.run_id}/: 1 file of stages that have not ended",
    ]
    (run.folder / "pairs" / "part-00000.parquet").write_bytes(b"x")
    assert list_differing_files(run.lake, run.run_id) == [f"runs/{run.run_id}/pairs/part-00000.parquet"]


def test_an_interrupted_rewrite_is_a_note(add_next_run, monkeypatch):
    run = add_next_run({}, chained=True)
    record_run_end(run)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(run), "_write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.rewrite("compacted", "why")
    result = verify(run.lake, run.run_id)
    assert result.differences == []
    assert "copy of the manifest, of an interrupted compaction" in result.notes[1]
    assert "record 2 says that the run was compacted, which was not completed" in result.notes[0]


def test_a_changed_digest_in_a_manifest_is_reported_for_manifest_and_file(intact_lake):
    run_id = verify(intact_lake, "latest").runs[0]
    path = intact_lake / "runs" / run_id / "manifest.json"
    entry = json.loads(path.read_bytes())["files"][2]
    path.write_bytes(path.read_bytes().replace(entry["sha256"].encode(), b"0" * 64))
    manifest, file, *_ = verify(intact_lake, run_id).differences
    assert manifest.file == f"runs/{run_id}/manifest.json"
    assert file.file == entry["path"]
    assert f"has sha256 {entry['sha256']} (" in file.description
    assert file.description.endswith(f"expected {'0' * 64}")


def test_a_review_of_an_unknown_manifest_is_reported(intact_lake):
    record = next(record for record in ledger.read_records(intact_lake) if record.kind == "sign_off")
    ledger.append(intact_lake, "sign_off", record.body | {"manifest_sha256": "0" * 64})
    assert list_differing_files(intact_lake, record.body["run_id"]) == ["ledger/00000008.json"]


def test_signed_records_are_checked_with_the_public_key(add_next_run, tmp_path):
    public, other = create_key(tmp_path / "key"), create_key(tmp_path / "other")
    lake = tmp_path / "lake"
    lake.mkdir()
    fill_lake(add_next_run, lake, load_key(tmp_path / "key"))
    assert verify(lake, "all").notes == [
        "7 of 7 records are signed; --public-key checks who signed them"
    ]  # fmt: skip
    assert [str(key) for key in verify(lake, "all").keys] == [f"key {public.key_id}: signed records 1-7"]
    assert list_differing_files(lake, public_keys=[public]) == []
    assert len(list_differing_files(lake, public_keys=[other])) == 7
    body = next(record.body for record in ledger.read_records(lake) if record.kind == "report")
    ledger.append(lake, "report", body)
    assert list_differing_files(lake, public_keys=[public]) == ["ledger/00000008.json"]
    unsigned = json.loads((lake / "ledger" / "00000008.json").read_bytes()) | {
        "key_id": public.key_id,
        "signature": "AAAA",
    }
    data = ledger.canonical_json(unsigned)
    (lake / "ledger" / "00000008.json").write_bytes(data)
    stores.write_bytes(lake / "ledger" / "HEAD", ledger.canonical_json({"number": 8, "sha256": ledger.sha256(data)}))
    assert [difference.description for difference in verify(lake, "all", [public]).differences] == [
        "has an invalid signature"
    ]


def test_a_remote_lake_is_verified(add_next_run, remote_folder, remove_copies):
    runs = fill_lake(add_next_run, remote_folder)
    remove_copies()
    assert verify(remote_folder, "all").differences == []
    assert verify(remote_folder, "all").files > 20
    path = runs[1].path("pairs")
    data = bytearray(stores.read_bytes(path))
    data[30] ^= 1
    stores.write_bytes(path, bytes(data))
    (difference,) = verify(remote_folder, "all").differences
    assert difference.file == f"runs/{runs[1].run_id}/pairs/part-00000.parquet"
    assert hashlib.sha256(data).hexdigest() in difference.description


def test_command_exits_with_1_if_there_are_differences(intact_lake):
    def verify_lake(*arguments):
        return CliRunner().invoke(cli.app, ["verify", *arguments, "--lake", str(intact_lake)])

    result = verify_lake("all", "--json")
    assert result.exit_code == 0, result.output
    head = json.loads(result.stdout.splitlines()[-1])["head"]
    assert f"ledger: 7 records, head {head}" in result.stdout
    assert verify_lake("latest", "--head", head).exit_code == 0
    assert verify_lake("latest", "--head", "0" * 64).exit_code == 1
    assert verify_lake("none").exit_code == 2
    flip_bit(intact_lake / "ledger" / "00000002.json", 40, 0)
    result = verify_lake("all")
    assert result.exit_code == 1
    assert result.stdout.startswith("DIFFERS ledger/00000002.json: ")
    assert "differences, the first in ledger/00000002.json" in result.stdout


def test_the_command_creates_a_key(tmp_path):
    result = CliRunner().invoke(cli.app, ["key", "new", str(tmp_path / "key")])
    assert result.exit_code == 0
    assert load_key(tmp_path / "key").key_id in result.stdout
    assert CliRunner().invoke(cli.app, ["key", "new", str(tmp_path / "key")]).exit_code == 2


def test_runs_without_a_record_can_be_adopted(add_next_run):
    runs = [add_next_run({}), add_next_run({}, chained=True), add_next_run({}, status="running"), add_next_run({})]
    stores.write_bytes(runs[0].folder / "report.html", b"old")
    record_run_end(runs[3])
    done = CliRunner().invoke(cli.app, ["adopt", "all", "--lake", str(runs[0].lake), "--json"])
    assert done.exit_code == 1, done.output
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "adopted": [runs[0].run_id, runs[2].run_id], "left": [runs[1].run_id]
    }  # fmt: skip
    assert not verify(runs[0].lake, "all").is_intact
    done = CliRunner().invoke(cli.app, ["adopt", runs[1].run_id, "--lake", str(runs[0].lake)])
    assert done.exit_code == 0, done.output
    result = verify(runs[0].lake, "all")
    assert result.is_intact
    assert ["was adopted as stored on" in note for note in result.notes] == [True, True, True, False]
    assert "runs recorded: 0" in CliRunner().invoke(cli.app, ["adopt", "all", "--lake", str(runs[0].lake)]).stdout
    assert CliRunner().invoke(cli.app, ["adopt", "none", "--lake", str(runs[0].lake)]).exit_code == 2
    with restore_after(runs[0].folder / "report.html") as path:
        path.write_bytes(b"new")
        assert list_differing_files(runs[0].lake) == [f"runs/{runs[0].run_id}/report.html"]


def test_records_later_than_a_report_are_listed(add_next_run, monkeypatch):
    earlier, run = add_next_run({}, four_eyes=True, chained=True), add_next_run({}, four_eyes=True, chained=True)
    later = add_next_run({}, {"region": "left"}, chained=True)
    for judged_run in (earlier, run, later):
        record_run_end(judged_run)
    today = datetime.now(UTC).date()

    def judge(judged_run, decision="benign", reviewer=ANN, number=0, **options):
        return decide(
            judged_run.lake,
            reviewer,
            judged_run.run_id,
            f"{judged_run.run_id}-{number}",
            decision,
            "a marker",
            "review",
            **options,
        )

    before = judge(earlier)
    record = ledger.record_report(run.lake, run.run_id, "html", b"a report")
    assert find_written_report(run.lake, b"a report") == WrittenReport(record, [], [])
    numbers = [
        countersign(run.lake, BOB, before.number, "review").number,
        judge(earlier, "waived", until=today).number,
        sign_off(run.lake, ANN, run.run_id, "review", "seen").number,
    ]
    judge(later, number=1)  # another alert, in a run after
    sign_off(run.lake, ANN, later.run_id, "review", "seen")
    run.rewrite("compacted", "as a test")
    numbers.append(ledger.read_records(run.lake)[-1].number)
    assert ledger.read_records(run.lake)[-1].kind == "rewrite"
    written = find_written_report(run.lake, b"a report")
    assert ([judged_run.number for judged_run in written.later_records], written.expired_waivers) == (numbers, [])

    ledger.record_report(run.lake, run.run_id, "html", b"another")
    assert find_written_report(run.lake, b"another").expired_waivers == []

    class Tomorrow(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) + timedelta(days=1)

    monkeypatch.setattr("review.evidence.written_reports.datetime", Tomorrow)
    assert [judged_run.number for judged_run in find_written_report(run.lake, b"another").expired_waivers] == numbers[
        1:2
    ]


def test_a_report_is_verified_with_a_key_and_a_head(intact_lake, tmp_path):
    create_key(tmp_path / "key")
    copy = tmp_path / "copy.html"
    copy.write_bytes(b"<html>the report</html>")

    def verify_report(*options):
        return CliRunner().invoke(cli.app, ["verify", "--report", str(copy), "--lake", str(intact_lake), *options])

    head = ledger.read_records(intact_lake)[-1].sha256
    assert verify_report("--head", head).exit_code == 0
    assert verify_report("--head", "0" * 64).exit_code == 1
    assert verify_report("--head", "short").exit_code == 2
    result = verify_report("--public-key", str(tmp_path / "key.pub"))
    assert (result.exit_code, "is not signed, like all records before it, expected key" in result.stdout) == (1, True)
