"""`verify` looks into records: schema of each kind, references, times, second signatures, and keys."""

import itertools
import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from flows import cli
from review.evidence.record_checks import _SCHEMAS, CLOCK_TOLERANCE
from review.evidence.verify import verify
from stores import ledger
from stores.keys import load_key, load_public_key, load_public_keys

WHO = {"name": "Ann", "role": "r", "identity": "declared"}


def list_faults(lake, **options):
    faults = {}
    for each in verify(lake, "all", **options).differences:
        faults[each.location] = "; ".join(filter(None, [faults.get(each.location), each.description]))
    return faults


def append_by_hand(lake, kind, body, at=None, signer=None):
    """Append a record as somebody with write access to the lake does, and move HEAD; return its location."""
    last = ledger.read_records(lake)[-1]
    at = at or datetime.now(UTC)
    fields = {"number": last.number + 1, "kind": kind, "at": at.isoformat(), "body": body, "prev": last.sha256}
    if signer is not None:
        fields |= {"key_id": signer.key_id}
        fields |= {"signature": signer.sign(ledger.canonical_json(fields))}
    data = ledger.canonical_json(fields)
    ledger.record_path(lake, last.number + 1).write_bytes(data)
    head = {"number": last.number + 1, "sha256": ledger.sha256(data)}
    (lake / "ledger" / "HEAD").write_bytes(ledger.canonical_json(head))
    return f"record {last.number + 1}"


def test_each_kind_has_a_schema():
    assert set(_SCHEMAS) == set(ledger.KINDS)


@pytest.mark.parametrize("kind", ledger.KINDS)
@pytest.mark.parametrize("body", [{"x": 1}, {}], ids=["other", "empty"])
def test_a_body_of_another_form_is_a_fault(runs, kind, body):
    number = append_by_hand(runs[0].lake, kind, body)
    assert f"is not a record of kind {kind}" in list_faults(runs[0].lake)[number]


def test_each_changed_value_of_a_record_is_a_fault(runs, tmp_path):
    """Each value of each kind of record is replaced by one of another type, in a new last record."""
    records = ledger.read_records(runs[0].lake)
    number = 0
    for record in {record.kind: record for record in records}.values():
        for key, changed in itertools.product(record.body, (1.5, [], {"x": 1})):
            number += 1
            lake = shutil.copytree(runs[0].lake / "ledger", tmp_path / str(number) / "ledger").parent
            name = append_by_hand(lake, record.kind, record.body | {key: changed})
            faults = [each.location for each in verify(lake, None).differences]
            assert faults == [name], (record.kind, key, changed)


BODIES = {
    "report": {"run_id": "gone", "format": "html", "sha256": "0" * 64},
    "sign_off": {
        "run_id": "gone", "meaning": "review", "statement": "fit", "four_eyes": False, "reviewer": WHO,
        "manifest_sha256": "0" * 64, "alerts": {"open": 0, "pending": 0, "decided": 0},
    },
    "rewrite": {"run_id": "gone", "what": "pruned", "before_sha256": "0" * 64, "manifest_sha256": "1" * 64},
    "notification": {
        "messages": [
            {"run_id": "gone", "event_id": "e", "event": "m", "life_ids": [], "recipient": None}
            | {"outcome": "nobody", "reason": None}
        ]
    },
    "name": {"run_id": "gone", "region": "stamp 1", "name": "PORT", "reviewer": WHO},
}  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in BODIES if kind != "rewrite"])
def test_a_record_of_a_run_that_does_not_exist_is_a_fault(runs, kind):
    number = append_by_hand(runs[0].lake, kind, BODIES[kind])
    assert list_faults(runs[0].lake) == {number: "speaks of run gone, which no earlier record introduced"}


def test_a_rewrite_of_a_run_that_does_not_exist_is_a_fault(runs):
    append_by_hand(runs[0].lake, "rewrite", BODIES["rewrite"])
    assert [each.file for each in verify(runs[0].lake, "all").differences] == ["runs/gone/manifest.json"]


def test_a_rewrite_of_another_manifest_is_a_fault(runs):
    body = BODIES["rewrite"] | {"run_id": runs[0].run_id}
    number = append_by_hand(runs[0].lake, "rewrite", body)
    assert "replaces a manifest" in list_faults(runs[0].lake)[number]


def test_a_decision_about_an_alert_that_the_run_lacks_is_a_fault(runs):
    lake = runs[0].lake
    (review,) = ledger.select_kinds(ledger.read_records(lake), "review")
    number = append_by_hand(lake, "review", review.body | {"alert_id": "another"})
    assert list_faults(lake) == {number: "speaks of 'another', which table alerts of the run lacks"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"reviewer": {**WHO, "name": "Bea"}}, None),
        ({"reviewer": {**WHO, "name": " ANN\u200b"}}, "not by another person"),
        ({"reviewer": {**WHO, "name": "\u0410nn"}}, "not by another person"),  # a Cyrillic letter
        ({"record": 99}, "which is no earlier decision or sign-off"),
        ({"record": 1}, "which is no earlier decision or sign-off"),
        ({"record_sha256": "0" * 64}, "with another sha256 than it has"),
    ],
)
def test_a_second_signature_needs_another_person_and_its_record(runs, changes, problem):
    lake = runs[0].lake
    (review,) = ledger.select_kinds(ledger.read_records(lake), "review")
    body = {"record": review.number, "record_sha256": review.sha256, "meaning": "approval", "statement": ""}
    number = append_by_hand(lake, "countersign", body | {"reviewer": WHO} | changes)
    faults = list_faults(lake)
    assert problem in faults[number] if problem else faults == {}


@pytest.mark.parametrize(
    ("shift", "problem"),
    [
        (timedelta(0), None),
        (-CLOCK_TOLERANCE / 2, None),
        (-2 * CLOCK_TOLERANCE, "before an earlier record"),
        (-timedelta(days=9999), "before an earlier record"),
        (2 * CLOCK_TOLERANCE, "in the future"),
    ],
)
def test_times_go_back_by_at_most_the_tolerance(runs, shift, problem):
    lake = runs[0].lake
    (review,) = ledger.select_kinds(ledger.read_records(lake), "review")
    number = append_by_hand(lake, "review", review.body, datetime.now(UTC) + shift)
    faults = list_faults(lake)
    assert problem in faults[number] if problem else faults == {}


@pytest.mark.parametrize("at", ["1999-01-01T00:00:00+00:00", "yesterday", "2026-01-01T00:00:00", "0001-01-01T00:00:00"])
def test_a_time_that_is_none_is_a_fault(runs, at):
    lake = runs[0].lake
    (review,) = ledger.select_kinds(ledger.read_records(lake), "review")
    number = int(append_by_hand(lake, "review", review.body).split()[1])
    data = ledger.canonical_json(json.loads(ledger.record_path(lake, number).read_bytes()) | {"at": at})
    ledger.record_path(lake, number).write_bytes(data)
    (lake / "ledger" / "HEAD").write_bytes(ledger.canonical_json({"number": number, "sha256": ledger.sha256(data)}))
    assert "is dated" in list_faults(lake)[f"record {number}"]


# Keys


def run_command(*arguments, lake):
    return CliRunner().invoke(cli.app, [*map(str, arguments), "--lake", str(lake)])


REPORT = {"run_id": "r", "format": "html", "sha256": "0" * 64}


def append(lake, signer):
    return ledger.append(lake, "report", REPORT, signer)


def append_report_by_hand(lake, signer):
    return int(append_by_hand(lake, "report", REPORT, signer=signer).split()[1])


@pytest.fixture
def signed(tmp_path, keys):
    """A ledger: records 1 and 2 are unsigned, 3 and 5 introduce keys one and two, which then sign 4 and 6."""
    lake = tmp_path / "signed"
    lake.mkdir()
    ledger.append(lake, "begun", {"run_id": "r"})
    append(lake, None)
    one, two = load_key(keys / "one"), load_key(keys / "two")
    assert run_command("key", "add", keys / "one.pub", "--key", keys / "one", lake=lake).exit_code == 0
    append(lake, one)
    assert run_command("key", "add", keys / "two.pub", "--key", keys / "one", lake=lake).exit_code == 0
    append(lake, two)
    return lake


def check(lake, *public):
    result = verify(lake, None, public)
    return {int(each.location.split()[1]): each.description for each in result.differences}, list(map(str, result.keys))


def test_signing_may_begin_later_and_a_key_introduces_the_next(signed, keys):
    one, two = (load_public_key(keys / f"{name}.pub") for name in ("one", "two"))
    assert check(signed, one)[0] == check(signed, one, two)[0] == check(signed)[0] == {}
    assert check(signed, one)[1] == [
        f"key {one.key_id}: signed records 3-5 (given; introduced by record 3)",
        f"key {two.key_id}: signed records 6 (introduced by record 5)",
    ]
    assert set(check(signed, two)[0]) == {3, 4, 5}  # it does not vouch for the one before
    assert set(check(signed, load_public_key(keys / "evil.pub"))[0]) == {3, 4, 5, 6}
    assert check(signed, *load_public_keys(keys))[0] == {}
    options = ["--public-key", keys / "one.pub", "--public-key", keys / "two.pub"]
    done = run_command("verify", "latest", *options, lake=signed)
    assert f"key {two.key_id}" in done.output


def test_records_after_the_first_signature_are_signed(signed, keys):
    append(signed, None)
    public = load_public_key(keys / "one.pub")
    assert check(signed, public)[0] == {7: "is not signed, although record 3 before it is"}
    number = append_report_by_hand(signed, load_key(keys / "evil"))
    assert "expected" in check(signed, public)[0][number]


def test_a_ledger_cut_back_to_its_unsigned_records_is_a_fault(signed, keys):
    for number in range(3, 7):
        ledger.record_path(signed, number).unlink()
    last = ledger.record_path(signed, 2).read_bytes()
    (signed / "ledger" / "HEAD").write_bytes(ledger.canonical_json({"number": 2, "sha256": ledger.sha256(last)}))
    assert list(check(signed, load_public_key(keys / "one.pub"))[0]) == [2]


def test_nobody_introduces_a_key_without_an_earlier_one(signed, keys):
    done = run_command("key", "add", keys / "evil.pub", "--key", keys / "evil", lake=signed)
    assert (done.exit_code, "expected one that the ledger trusts" in done.output) == (2, True)
    public = load_public_key(keys / "evil.pub")
    body = {"key_id": public.key_id, "public_key": public.encode()}
    number = int(append_by_hand(signed, "key", body, signer=load_key(keys / "evil")).split()[1])
    later = append_report_by_hand(signed, load_key(keys / "evil"))
    assert set(check(signed, load_public_key(keys / "one.pub"))[0]) == {number, later}
    assert "although records before it are signed" in check(signed)[0][number]


def test_a_revoked_key_signs_nothing_from_a_date_on(signed, keys):
    one = load_public_key(keys / "one.pub")
    done = run_command("key", "revoke", one.key_id, "--key", keys / "one", lake=signed)
    assert (done.exit_code, "expected another key of the ledger" in done.output) == (2, True)
    assert run_command("key", "revoke", one.key_id, "--key", keys / "two", lake=signed).exit_code == 0
    assert check(signed, one)[0] == {}
    number = append_report_by_hand(signed, load_key(keys / "one"))
    faults, uses = check(signed, one)
    assert f"which record {number - 1} revokes from" in faults[number]
    assert "revoked from" in uses[0]
    done = run_command("key", "add", keys / "evil.pub", "--key", keys / "one", lake=signed)
    assert (done.exit_code, "expected one that the ledger trusts" in done.output) == (2, True)


def test_a_key_that_was_revoked_from_an_earlier_date_on_did_not_sign_since_then(signed, keys):
    one, two = (load_public_key(keys / f"{name}.pub") for name in ("one", "two"))
    since = ledger.read_records(signed)[3].at
    assert run_command("key", "revoke", one.key_id, "--since", since, "--key", keys / "two", lake=signed).exit_code == 0
    assert set(check(signed, one, two)[0]) == {4, 5}


def test_the_head_that_a_run_noted_is_checked(signed, tmp_path, keys):
    from tasks.lake.journal import note_head
    from tasks.lake.run import Run

    heads = tmp_path / "heads.txt"
    note_head(Run(signed, "r"), heads)
    append(signed, load_key(keys / "two"))
    note_head(Run(signed, "r"), heads)
    assert [line.split()[1] for line in heads.read_text().splitlines()] == ["6", "7"]
    assert verify(signed, None, head=str(heads)).is_intact
    assert verify(signed, None, head=ledger.read_records(signed)[-1].sha256.upper()).is_intact
    heads.write_text(heads.read_text().upper())
    assert verify(signed, None, head=str(heads)).is_intact
    ledger.record_path(signed, 7).unlink()
    last = ledger.record_path(signed, 6).read_bytes()
    (signed / "ledger" / "HEAD").write_bytes(ledger.canonical_json({"number": 6, "sha256": ledger.sha256(last)}))
    assert verify(signed, None).is_intact
    ((file, what),) = [(each.file, each.description) for each in verify(signed, None, head=str(heads)).differences]
    assert (file, "given by --head" in what) == ("ledger/HEAD", True)
    done = run_command("verify", "latest", "--head", tmp_path / "nothing", lake=signed)
    assert (done.exit_code, "or a file that [ledger] head_file names" in done.output) == (2, True)


@pytest.mark.parametrize("option", ["--public-key", "--head"])
@pytest.mark.parametrize("what", [("latest",), ("--report", "report.html")], ids=["run", "report"])
def test_an_empty_path_is_not_the_current_folder(runs, keys, monkeypatch, option, what):
    monkeypatch.chdir(keys)  # with files *.pub
    (keys / "report.html").write_bytes((runs[0].folder / "report.html").read_bytes())
    done = run_command("verify", *what, option, "", lake=runs[0].lake)
    assert (done.exit_code, "got an empty path" in done.output or "--head: got ''" in done.output) == (2, True)
