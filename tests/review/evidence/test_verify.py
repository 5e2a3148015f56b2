"""Whatever is changed, dropped, added or put in another order in a lake, verifying finds it and names the file."""

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
from review.evidence import verify as verifying
from review.evidence.decisions import Reviewer, countersign, decide, sign_off
from review.evidence.verify import VerifyError, WrittenReport, find_written_report, verify
from stores import ledger
from stores.keys import create_key, load_key
from tasks.lake.compact import compact_run
from tasks.lake.journal import record_report, record_run_end

ANN, BOB = Reviewer("Ann", "radiologist", "declared"), Reviewer("Bob", "quality", "declared")


def filled(nights, lake, signer=None):
    """Two runs that ended, one of them compacted; a report; decisions and signatures."""
    runs = [nights({"interval": (0.1, 0.2, 0.3)}, lake=lake, chained=True) for _ in range(2)]
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
def filled_once(nights_in, tmp_path_factory):
    """A lake in a folder in which everything is as it was written. Not to be changed: `whole` is a copy."""
    lake = tmp_path_factory.mktemp("whole") / "lake"
    lake.mkdir()
    filled(nights_in(lake), lake)
    return lake


@pytest.fixture
def whole(filled_once, tmp_path):
    return shutil.copytree(filled_once, tmp_path / "lake")


def files(lake):
    return sorted(path.relative_to(lake).as_posix() for path in lake.rglob("*") if path.is_file())


def named(lake, run_id="all", **options):
    return [difference.file for difference in verify(lake, run_id, **options).differences]


def test_a_lake_that_is_whole_is_said_to_be(whole):
    result = verify(whole, "all")
    assert (result.differences, result.notes) == ([], [])
    assert len(result.runs) == 2
    assert result.records == len(ledger.read_records(whole)) == 7
    assert result.head == ledger.read_records(whole)[-1].sha256
    assert result.files == len(files(whole))
    assert result.bytes == sum((whole / name).stat().st_size for name in files(whole))
    assert verify(whole, "latest").runs == result.runs[-1:]
    with pytest.raises(VerifyError, match="got 'none', expected latest, all, or a run of the lake"):
        verify(whole, "none")


def flipped(path, at, bit):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


@contextlib.contextmanager
def harmed(path):
    """Let a file be changed for a while."""
    data = path.read_bytes()
    try:
        yield path
    finally:
        path.write_bytes(data)


def test_a_flipped_bit_anywhere_is_found_and_its_file_named(whole):
    lot = random.Random(7)  # noqa: S311  # no secret
    for name in files(whole):
        size = (whole / name).stat().st_size
        for at in {0, size - 1, *(lot.randrange(size) for _ in range(3))}:
            with harmed(whole / name) as path:
                flipped(path, at, lot.randrange(8))
                found = named(whole)
            assert found, f"byte {at} of {name}"
            assert found[0] == name, f"byte {at} of {name}"


def test_bits_all_over_the_ledger_s_end_are_found(whole):
    for path in sorted((whole / "ledger").iterdir())[-2:]:  # the last record and HEAD, which nothing follows
        for at in range(0, path.stat().st_size, 3):
            with harmed(path):
                flipped(path, at, at % 7)
                assert named(whole, "latest")[:1] == [f"ledger/{path.name}"], at


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_put_anywhere_are_found(whole, data):
    name = data.draw(st.sampled_from(files(whole)))
    with harmed(whole / name) as path:
        before = path.read_bytes()
        start = data.draw(st.integers(0, len(before)))
        end = data.draw(st.integers(start, len(before)))
        after = before[:start] + data.draw(st.binary(max_size=8)) + before[end:]
        path.write_bytes(after)
        assert (name in named(whole)) == (after != before)


@pytest.mark.slow
def test_every_bit_of_every_byte_of_a_tiny_lake_is_found(lake_of_one_pair):
    for name in files(lake_of_one_pair):
        for at in range((lake_of_one_pair / name).stat().st_size):
            with harmed(lake_of_one_pair / name) as path:
                flipped(path, at, at % 8)
                assert named(lake_of_one_pair)[:1] == [name], (name, at)


@pytest.fixture
def lake_of_one_pair(hand_written_run, tmp_path):
    """A run of one table, its report, and a signature."""
    run = hand_written_run(tmp_path, "20260101T000000-aaaaaa").begin(chained=True)
    run.add_pairs(["a caption"])
    run.finish("completed")
    record_run_end(run)
    stores.write_bytes(run.folder / "report.html", b"<html>the report</html>")
    record_report(run, "report.html")
    sign_off(tmp_path, ANN, run.run_id, "review", "seen")
    return tmp_path


def test_a_file_that_is_gone_is_named(whole):
    for name in files(whole):
        with harmed(whole / name) as path:
            path.unlink()
            assert named(whole)[:1] == [name]


def test_a_run_that_is_gone_is_named(whole):
    run_id = verify(whole, "latest").runs[0]
    shutil.rmtree(whole / "runs" / run_id)
    assert named(whole) == [f"runs/{run_id}/manifest.json"]
    assert named(whole, run_id) == [f"runs/{run_id}/manifest.json"]


def test_the_newest_run_is_missed_by_latest_too(whole):
    run_id = verify(whole, "latest").runs[0]
    shutil.rmtree(whole / "runs" / run_id)
    assert named(whole, "latest") == [f"runs/{run_id}/manifest.json"]


def test_what_is_a_link_to_elsewhere_is_named_and_its_run_not_shown(whole, tmp_path):
    run_id = verify(whole, "latest").runs[0]
    elsewhere = (whole / "runs" / run_id).rename(tmp_path / run_id)
    (whole / "runs" / run_id).symlink_to(elsewhere)
    assert named(whole) == named(whole, run_id) == [f"runs/{run_id}"]
    with sql.connect(whole) as connection:
        assert run_id not in [row["run_id"] for row in sql.read(connection, "FROM runs")]
    (whole / "runs" / run_id).unlink()
    elsewhere.rename(whole / "runs" / run_id)
    (whole / "runs" / run_id / "pairs").rename(tmp_path / "pairs")
    (whole / "runs" / run_id / "pairs").symlink_to(tmp_path / "pairs")
    assert named(whole, run_id)[:1] == [f"runs/{run_id}/pairs"]
    (whole / "runs" / run_id / "pairs").unlink()
    (tmp_path / "pairs").rename(whole / "runs" / run_id / "pairs")
    assert named(whole) == []
    (whole / "notes").symlink_to(tmp_path)
    assert named(whole) == ["notes"]
    assert named(whole, "latest") == []


def test_a_run_that_was_put_there_after_the_ledger_began_is_named(nights):
    old, new = nights({}), nights({}, started_at="2999-01-01T00:00:00+00:00")
    assert verify(old.lake, "all").is_intact
    ledger.append(old.lake, "report", {"run_id": "x"})
    (difference,) = verify(old.lake, "all").differences
    assert difference.file == f"runs/{new.run_id}/manifest.json"
    assert "the ledger has no record of it" in difference.description
    done = CliRunner().invoke(cli.app, ["adopt", "all", "--lake", str(old.lake)])
    assert (done.exit_code, f"left out {new.run_id}" in done.stderr) == (1, True)
    assert CliRunner().invoke(cli.app, ["adopt", new.run_id, "--lake", str(old.lake)]).exit_code == 0
    assert verify(old.lake, "all").is_intact


@pytest.mark.parametrize(
    "name", ["notes.txt", "runs/notes.txt", "ledger/notes.txt", "ledger/99/1.json", "runs/RUN/x.parquet",
             "runs/RUN/alerts/part-00009.parquet", "runs/RUN/manifest-0123456789abcdef.json", "runs/RUN/report.pdf",
             "runs/RUN/attributions/deep/part-00000.parquet", "runs/none/pairs/part-00000.parquet"],
)  # fmt: skip
def test_a_file_that_nobody_wrote_is_named(whole, name):
    name = name.replace("RUN", verify(whole, "latest").runs[0])
    stores.write_bytes(whole / name, b"foreign")
    expected = "runs/none/manifest.json" if "none" in name else name
    assert named(whole) == [expected]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("runs/RUN/pairs/.part-00000.parquet.0a.tmp", "incomplete file of a killed process"),
        ("ledger/.00000009.json.0a.tmp", "incomplete file of a killed process"),
        ("runs/RUN/attributions/part-00009-0a.parquet", "left over from an interrupted attempt"),
        ("runs/RUN/lock.json", None),
    ],
)
def test_what_a_killed_process_leaves_is_a_note(whole, name, said):
    name = name.replace("RUN", verify(whole, "latest").runs[0])
    stores.write_bytes(whole / name, b"left")
    result = verify(whole, "all")
    assert result.is_intact
    assert [said in note for note in result.notes] == ([] if said is None else [True])


def test_records_that_changed_places_are_named(whole):
    one, two = (whole / "ledger" / f"0000000{number}.json" for number in (2, 3))
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    assert named(whole)[:1] == ["ledger/00000002.json"]


def test_a_record_put_in_between_is_named(whole):
    record = json.loads((whole / "ledger" / "00000003.json").read_bytes())
    record["body"]["reviewer"] = {"name": "Eve"}
    forged = ledger.canonical_json(record)
    (whole / "ledger" / "00000003.json").write_bytes(forged)
    assert named(whole)[0] == "ledger/00000003.json"


def test_a_record_that_was_appended_by_hand_is_not_chained(whole):
    last = ledger.read_records(whole)[-1]
    forged = {"number": last.number + 1, "kind": "review", "at": last.at, "body": {}, "prev": "0" * 64}
    stores.write_bytes(ledger.record_path(whole, last.number + 1), ledger.canonical_json(forged))
    assert named(whole)[:1] == [f"ledger/{last.number + 1:08d}.json"]


def test_an_end_that_was_cut_off_shows_at_head_alone_and_by_a_head_noted_elsewhere(whole):
    noted = verify(whole, "all").head
    before = ledger.read_records(whole)[-2]
    (whole / "ledger" / "00000007.json").unlink()
    assert named(whole) == ["ledger/00000007.json"]
    stores.write_bytes(whole / "ledger" / "HEAD", ledger.canonical_json({"number": 6, "sha256": before.sha256}))
    assert named(whole) == []  # a chain cannot prove its own end
    assert named(whole, head=noted) == ["ledger/HEAD"]
    assert named(whole, head=before.sha256) == []
    with pytest.raises(VerifyError, match="--head: got 'abc', expected the 64 hexadecimal digits"):
        verify(whole, "all", head="abc")


def test_a_ledger_that_was_removed_is_missed_by_the_runs(whole):
    shutil.rmtree(whole / "ledger")
    assert [name.endswith("manifest.json") for name in named(whole)][:1] == [True]
    assert "the ledger has no record of its end" in str(verify(whole, "latest").differences[0])


def test_head_that_lags_is_a_note(whole):
    before = ledger.read_records(whole)[-2]
    stores.write_bytes(whole / "ledger" / "HEAD", ledger.canonical_json({"number": 6, "sha256": before.sha256}))
    result = verify(whole, "all")
    assert result.is_intact
    assert "HEAD names record 6 of 7" in result.notes[0]


def test_a_run_of_an_earlier_release_is_not_chained_and_said_to_be(nights):
    run = nights({})
    stores.write_bytes(run.folder / "report.html", b"old")
    result = verify(run.lake, "all")
    assert result.is_intact
    assert [note.partition(": ")[2] for note in result.notes] == [
        "the lake has no ledger", "not chained: it was written before the lake had a ledger",
        "not chained: it was written before the lake had a ledger",
    ]  # fmt: skip


def test_an_unfinished_run_has_nothing_to_be_held_against_but_its_files(nights):
    run = nights({}, chained=True)
    record_run_end(run)
    run.update(status="running")
    assert "has sha256" in str(verify(run.lake, "all").differences[0])  # a complete run does not run again
    run = nights({}, status="failed", chained=True)
    record_run_end(run)
    run.update(status="running", reason=None)
    result = verify(run.lake, run.run_id)
    assert result.is_intact
    assert "was failed (record 2) and is being resumed" in result.notes[0]
    run = nights({}, status="running", chained=True)
    assert verify(run.lake, run.run_id).notes == [f"runs/{run.run_id}/: has not ended, so it has no record yet"]
    (run.folder / "pairs" / "part-00000.parquet").write_bytes(b"x")
    assert named(run.lake, run.run_id) == [f"runs/{run.run_id}/pairs/part-00000.parquet"]


def test_a_rewrite_that_was_cut_off_is_a_note(nights, monkeypatch):
    run = nights({}, chained=True)
    record_run_end(run)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(run), "_write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        run.rewrite("compacted", "why")
    result = verify(run.lake, run.run_id)
    assert [difference.file.rpartition("/")[2][:9] for difference in result.differences] == ["manifest-"]
    assert "record 2 says compacted, which was not completed" in result.notes[0]


def test_a_changed_digest_in_a_manifest_is_reported_for_manifest_and_file(whole):
    run_id = verify(whole, "latest").runs[0]
    path = whole / "runs" / run_id / "manifest.json"
    entry = json.loads(path.read_bytes())["files"][2]
    path.write_bytes(path.read_bytes().replace(entry["sha256"].encode(), b"0" * 64))
    manifest, file, *_ = verify(whole, run_id).differences
    assert manifest.file == f"runs/{run_id}/manifest.json"
    assert file.file == entry["path"]
    assert f"has sha256 {entry['sha256']} (" in file.description
    assert file.description.endswith(f"expected {'0' * 64}")


def test_a_review_of_another_manifest_is_named(whole):
    record = next(record for record in ledger.read_records(whole) if record.kind == "sign_off")
    ledger.append(whole, "sign_off", record.body | {"manifest_sha256": "0" * 64})
    assert named(whole, record.body["run_id"]) == ["ledger/00000008.json"]


def test_signed_records_are_checked_with_the_public_key(nights, tmp_path):
    public, other = create_key(tmp_path / "key"), create_key(tmp_path / "other")
    lake = tmp_path / "lake"
    lake.mkdir()
    filled(nights, lake, load_key(tmp_path / "key"))
    assert verify(lake, "all").notes == [
        f"7 of 7 records are signed (key {public.key_id}); --public-key checks the signatures"
    ]  # fmt: skip
    assert named(lake, public=public) == []
    assert len(named(lake, public=other)) == 7
    ledger.append(lake, "report", {"run_id": "x"})
    assert named(lake, public=public) == ["ledger/00000008.json"]
    forged = json.loads((lake / "ledger" / "00000008.json").read_bytes()) | {
        "key_id": public.key_id,
        "signature": "AAAA",
    }
    data = ledger.canonical_json(forged)
    (lake / "ledger" / "00000008.json").write_bytes(data)
    stores.write_bytes(lake / "ledger" / "HEAD", ledger.canonical_json({"number": 8, "sha256": ledger.sha256(data)}))
    assert [difference.description for difference in verify(lake, "all", public).differences] == [
        "has an invalid signature"
    ]


def test_a_lake_in_a_store_is_verified_too(nights, away, forget):
    runs = filled(nights, away)
    forget()
    assert verify(away, "all").differences == []
    assert verify(away, "all").files > 20
    path = runs[1].path("pairs")
    data = bytearray(stores.read_bytes(path))
    data[30] ^= 1
    stores.write_bytes(path, bytes(data))
    (difference,) = verify(away, "all").differences
    assert difference.file == f"runs/{runs[1].run_id}/pairs/part-00000.parquet"
    assert hashlib.sha256(data).hexdigest() in difference.description


def test_the_command_tells_and_ends_with_1_if_anything_differs(whole):
    def command(*arguments):
        return CliRunner().invoke(cli.app, ["verify", *arguments, "--lake", str(whole)])

    done = command("all", "--json")
    assert done.exit_code == 0, done.output
    head = json.loads(done.stdout.splitlines()[-1])["head"]
    assert f"ledger: 7 records, head {head}" in done.stdout
    assert command("latest", "--head", head).exit_code == 0
    assert command("latest", "--head", "0" * 64).exit_code == 1
    assert command("none").exit_code == 2
    flipped(whole / "ledger" / "00000002.json", 40, 0)
    done = command("all")
    assert done.exit_code == 1
    assert done.stdout.startswith("DIFFERS ledger/00000002.json: ")
    assert "differences, the first in ledger/00000002.json" in done.stdout


def test_a_key_is_made_by_the_command(tmp_path):
    done = CliRunner().invoke(cli.app, ["key", "new", str(tmp_path / "key")])
    assert done.exit_code == 0
    assert load_key(tmp_path / "key").key_id in done.stdout
    assert CliRunner().invoke(cli.app, ["key", "new", str(tmp_path / "key")]).exit_code == 2


def test_runs_that_the_ledger_does_not_know_can_be_adopted_and_are_said_to_be(nights):
    runs = [nights({}), nights({}, chained=True), nights({}, status="running"), nights({})]
    stores.write_bytes(runs[0].folder / "report.html", b"old")
    record_run_end(runs[3])
    done = CliRunner().invoke(cli.app, ["adopt", "all", "--lake", str(runs[0].lake), "--json"])
    assert done.exit_code == 1, done.output
    assert json.loads(done.stdout.splitlines()[-1]) == {"adopted": [runs[0].run_id], "left": [runs[1].run_id]}
    assert not verify(runs[0].lake, "all").is_intact
    done = CliRunner().invoke(cli.app, ["adopt", runs[1].run_id, "--lake", str(runs[0].lake)])
    assert done.exit_code == 0, done.output
    result = verify(runs[0].lake, "all")
    assert result.is_intact
    assert ["was adopted as stored on" in note for note in result.notes] == [True, True, False]
    assert "0 recorded" in CliRunner().invoke(cli.app, ["adopt", "all", "--lake", str(runs[0].lake)]).stdout
    assert CliRunner().invoke(cli.app, ["adopt", "none", "--lake", str(runs[0].lake)]).exit_code == 2
    with harmed(runs[0].folder / "report.html") as path:
        path.write_bytes(b"new")
        assert named(runs[0].lake) == [f"runs/{runs[0].run_id}/report.html"]


def test_what_has_changed_what_a_report_says_is_counted(nights, monkeypatch):
    earlier, run = nights({}, four_eyes=True, chained=True), nights({}, four_eyes=True, chained=True)
    later = nights({}, {"region": "left"}, chained=True)
    for one in (earlier, run, later):
        record_run_end(one)
    today = datetime.now(UTC).date()

    def judge(one, decision="benign", who=ANN, number=0, **named):
        return decide(one.lake, who, one.run_id, f"{one.run_id}-{number}", decision, "a marker", "review", **named)

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
    found = find_written_report(run.lake, b"a report")
    assert ([one.number for one in found.later_records], found.expired_waivers) == (numbers, [])

    ledger.record_report(run.lake, run.run_id, "html", b"another")
    assert find_written_report(run.lake, b"another").expired_waivers == []

    class Tomorrow(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.now(zone) + timedelta(days=1)

    monkeypatch.setattr(verifying, "datetime", Tomorrow)
    assert [one.number for one in find_written_report(run.lake, b"another").expired_waivers] == numbers[1:2]


def test_a_report_is_held_against_a_key_and_a_head_too(whole, tmp_path):
    create_key(tmp_path / "key")
    copy = tmp_path / "copy.html"
    copy.write_bytes(b"<html>the report</html>")

    def command(*more):
        return CliRunner().invoke(cli.app, ["verify", "--report", str(copy), "--lake", str(whole), *more])

    head = ledger.read_records(whole)[-1].sha256
    assert command("--head", head).exit_code == 0
    assert command("--head", "0" * 64).exit_code == 1
    assert command("--head", "short").exit_code == 2
    done = command("--public-key", str(tmp_path / "key.pub"))
    assert (done.exit_code, "is not signed, expected a signature with key" in done.stdout) == (1, True)
