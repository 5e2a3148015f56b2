"""Decisions and signatures: which are recorded, which are rejected, and how the views show them."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

import sql
from review.evidence import decisions
from review.evidence.decisions import DecisionError, Reviewer, countersign, decide, sign_off
from stores import ledger

ANN = Reviewer("Ann Example", "radiologist", "declared")
BOB = Reviewer("Bob Other", "quality manager", "password")
LATER = datetime.now(UTC).date() + timedelta(days=30)


def make_alert_id(run, number=0):
    return f"{run.run_id}-{number}"


def judge(run, decision="benign", reviewer=ANN, number=0, **options):
    options = {"reason": "a marker of the machine", "meaning": "review"} | options
    return decide(run.lake, reviewer, run.run_id, make_alert_id(run, number), decision, **options)


def read_view(run, view="triage"):
    with sql.connect(run.lake) as connection:
        return sql.read(connection, f"FROM {view} ORDER BY ALL")


@pytest.fixture(scope="module")
def shared_runs(make_add_next_run, tmp_path_factory):
    """Runs with one alert, with two alerts, and with one alert and the four-eyes principle, each in a separate lake."""

    def make(name, *alerts, **facts):
        return make_add_next_run(tmp_path_factory.mktemp(name))(*alerts, **facts)

    return {
        "one": make("one", {}),
        "two": make("two", {}, {"region": "left"}),
        "eyes": make("eyes", {}, four_eyes=True),
    }


@pytest.fixture
def copy_run(shared_runs, tmp_path):
    """copy_run(name): return a run of `shared_runs` in a copy of its lake."""

    def copy(name):
        original = shared_runs[name]
        return type(original)(shutil.copytree(original.lake, tmp_path / name), original.run_id)

    return copy


@pytest.fixture
def run(copy_run):
    return copy_run("one")


@pytest.fixture
def run_of_two(copy_run):
    return copy_run("two")


@pytest.fixture
def four_eyes_run(copy_run):
    return copy_run("eyes")


@pytest.fixture(params=["local", "remote"])
def lake_folder(request, tmp_path):
    return tmp_path if request.param == "local" else request.getfixturevalue("remote_folder")


def test_a_decision_is_a_record_and_in_force(add_next_run, lake_folder):
    run = add_next_run({"state": "confirmed", "severity": "high", "interval": (0.1, 0.2, 0.3)}, lake=lake_folder)
    assert [(row["decision"], row["decided"], row["changed"]) for row in read_view(run)] == [("open", None, False)]
    record = judge(run)
    (row,) = read_view(run)
    assert (row["decision"], row["decided"], row["why"], row["review"]) == ("benign", "benign", None, record.number)
    assert (row["reviewer"], row["role"], row["identity"], row["meaning"]) == (
        "Ann Example", "radiologist", "declared", "review",
    )  # fmt: skip
    assert (row["carried_over"], row["changed"], row["second_needed"]) == (False, False, False)
    assert row["decided_at"] == record.time
    evidence = record.body["evidence"]
    assert (evidence["state"], evidence["severity"], evidence["rule_digest"]) == ("confirmed", "high", "r")
    assert (evidence["score_low"], evidence["score_effect"], evidence["score_high"]) == (0.1, 0.2, 0.3)
    (review,) = read_view(run, "reviews")
    assert (review["score_high"], review["reason"], review["sha256"]) == (0.3, "a marker of the machine", record.sha256)


def test_a_correction_is_a_new_record(run):
    first, second = judge(run), judge(run, "confirmed", reviewer=BOB)
    assert ledger.read_records(run.lake) == [first, second]
    (row,) = read_view(run)
    assert (row["decision"], row["reviewer"], row["review"]) == ("confirmed", "Bob Other", 2)


def test_invalid_decisions_are_refused(run):
    for options, message in (
        ({"reason": " \n"}, "reason: got nothing, expected a text"),
        ({"reason": "x" * 4001}, "reason: got 4001 characters, expected a text of at most 4000"),
        ({"reason": "a\x00b"}, "reason: got control characters"),
        ({"reason": "a\ud800b"}, "reason: got control characters"),
        ({"meaning": "fun"}, "meaning: got 'fun', expected one of review, approval, responsibility, authorship"),
        ({"decision": "spurious"}, "decision: got 'spurious', expected one of confirmed, benign, needs_data"),
        ({"decision": "waived"}, "until: got nothing with decision 'waived', expected the last day of the waiver"),
        (
            {"decision": "waived", "until": date(2020, 1, 1)},
            "until: got 2020-01-01 with decision 'waived', expected the last day",
        ),
        ({"until": LATER}, "until: got .* with decision 'acceptable', expected .* nothing with other decisions"),
        ({"reviewer": replace(ANN, name=" ")}, "name: got ' ', expected one line"),
        ({"reviewer": replace(ANN, role="a\nb")}, "role: got .*expected one line"),
        ({"reviewer": replace(ANN, identity="guessed")}, "identity: got 'guessed', expected one of declared"),
        ({"reviewer": replace(ANN, name="Ada Okafor\ufe0f")}, "invisible characters"),
        ({"reviewer": replace(ANN, name="Ada\u3164 Okafor")}, "invisible characters"),
        ({"reviewer": replace(ANN, name="\u0410da Okafor")}, "Latin and Cyrillic"),
        ({"number": 7}, "alert: got '.*-7', expected an alert of run"),
    ):
        with pytest.raises(DecisionError, match=message):
            judge(run, **options)
    assert ledger.read_records(run.lake) == []


def test_only_alerts_of_complete_runs_can_be_decided(add_next_run):
    run = add_next_run({}, status="failed")
    for run_id in ("none", "../runs", "20260101T000000-aaaaaa"):
        with pytest.raises(DecisionError, match=f"run: got '{run_id}'.* expected a complete run of .*: none"):
            decide(run.lake, ANN, run_id, make_alert_id(run), "benign", "x", "review")


def test_a_waiver_is_in_force_through_its_last_day(run):
    judge(run, "waived", until=datetime.now(UTC).date())
    (row,) = read_view(run)
    assert (row["decision"], row["until"]) == ("waived", datetime.now(UTC).date())


def test_concurrent_decisions_are_all_recorded(run_of_two):
    run = run_of_two
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: judge(run, reviewer=(ANN, BOB)[n % 2], number=n % 2, reason=f"as {n}"), range(8)))
    assert sorted(row["reason"] for row in read_view(run, "reviews")) == [f"as {n}" for n in range(8)]


def test_decision_that_the_reviewer_has_not_seen_is_not_replaced(run_of_two):
    run = run_of_two
    judge(run, number=1, seen=0)  # another alert
    first = judge(run, seen=0)
    with pytest.raises(DecisionError, match=r"Ann Example has decided 'acceptable' meanwhile \(record 2\)"):
        judge(run, "confirmed", reviewer=BOB, seen=0)
    judge(run, "confirmed", reviewer=BOB, seen=first.number)


def test_with_four_eyes_a_decision_requires_a_second_signature(four_eyes_run):
    run = four_eyes_run
    record = judge(run)
    assert record.body["four_eyes"] is True
    (row,) = read_view(run)
    assert (row["decision"], row["decided"], row["second_needed"]) == ("pending", "benign", True)
    assert row["why"] == "a second person has to countersign record 1"
    countersign(run.lake, BOB, record.number, "approval")
    (row,) = read_view(run)
    assert (row["decision"], row["second_needed"], row["countersigned_by"]) == ("benign", False, "Bob Other")


def test_four_eyes_can_be_required_for_one_decision(run):
    judge(run, four_eyes=True)
    assert read_view(run)[0]["decision"] == "pending"


def test_decisions_that_leave_an_alert_open_need_no_second_signature(four_eyes_run):
    for decision in ("needs_data", "open"):
        judge(four_eyes_run, decision)
        (row,) = read_view(four_eyes_run)
        assert (row["decision"], row["second_needed"]) == (decision, False)


def test_reviewers_cannot_countersign_their_own_records(four_eyes_run):
    record = judge(four_eyes_run)
    for name in ("Ann Example", "ann  EXAMPLE ", "\uff21nn Example"):
        with pytest.raises(DecisionError, match=r"signed by .*, expected a second signer"):
            countersign(four_eyes_run.lake, replace(BOB, name=name), record.number, "review")


def test_a_forged_countersignature_of_the_same_person_has_no_effect(four_eyes_run):
    run = four_eyes_run
    record = judge(run)
    forged = {"record": 1, "record_sha256": record.sha256, "meaning": "review", "statement": ""}
    for name in ("ANN  Example", "\uff21nn Example", "\u0410nn Example"):  # the last with a Cyrillic letter
        ledger.append(
            run.lake, "countersign", forged | {"reviewer": {"name": name, "role": "x", "identity": "declared"}}
        )
    assert read_view(run)[0]["decision"] == "pending"


def test_invalid_countersignatures_are_refused(four_eyes_run):
    run = four_eyes_run
    first = judge(run)
    with pytest.raises(DecisionError, match="got record 9, which does not exist"):
        countersign(run.lake, BOB, 9, "review")
    second = judge(run, "confirmed")
    with pytest.raises(DecisionError, match=r"record 1 is not in force, since Ann Example decided later \(record 2\)"):
        countersign(run.lake, BOB, first.number, "review")
    countersignature = countersign(run.lake, BOB, second.number, "review", "looked at the same pairs")
    with pytest.raises(DecisionError, match="which is of kind countersign"):
        countersign(run.lake, BOB, countersignature.number, "review")
    with pytest.raises(DecisionError, match=r"was countersigned by Bob Other \(record 3\)"):
        countersign(run.lake, replace(BOB, name="Cy"), second.number, "review")


def test_a_second_signature_needs_an_identity_as_strong_as_the_first(four_eyes_run):
    run = four_eyes_run
    record = judge(run, reviewer=BOB)
    with pytest.raises(DecisionError, match=r"got a declared identity, expected a verified one.* \(password\)"):
        countersign(run.lake, ANN, record.number, "review")
    declared = {"name": "Ann Example", "role": "x", "identity": "declared"}
    body = {"record": 1, "record_sha256": record.sha256, "meaning": "review", "statement": "", "reviewer": declared}
    ledger.append(run.lake, "countersign", body)  # without the check: it has no effect
    assert read_view(run)[0]["decision"] == "pending"
    countersign(run.lake, replace(ANN, identity="proxy"), record.number, "review")
    assert read_view(run)[0]["decision"] == "benign"


def test_a_sign_off_is_refused_if_a_decision_was_made_meanwhile(run_of_two, monkeypatch):
    run = run_of_two
    original = decisions.query_decisions

    def decide_meanwhile(*args):
        rows = original(*args)
        judge(run)
        return rows

    monkeypatch.setattr(decisions, "query_decisions", decide_meanwhile)
    with pytest.raises(DecisionError, match=r"Ann Example has decided or signed meanwhile \(record 1\)"):
        sign_off(run.lake, BOB, run.run_id, "responsibility", "fit for use")
    monkeypatch.setattr(decisions, "query_decisions", original)
    with pytest.raises(DecisionError, match="meanwhile"):
        sign_off(run.lake, BOB, run.run_id, "responsibility", "fit for use", seen=0)
    counts = sign_off(run.lake, BOB, run.run_id, "review", "seen").body["alerts"]
    assert counts == {"open": 1, "pending": 0, "decided": 1}


@pytest.mark.parametrize("lake_folder", ["manifest.json", "alerts/part-00000.parquet"])
def test_a_damaged_run_does_not_prevent_sign_off_of_another(add_next_run, lake_folder):
    first, second, third = add_next_run({}), add_next_run({}, corpus="another"), add_next_run({})
    judge(first)
    (second.folder / lake_folder).write_bytes(b"{")
    judge(third, "confirmed")
    record = sign_off(third.lake, ANN, third.run_id, "review", "seen")
    assert record.body["alerts"] == {"open": 0, "pending": 0, "decided": 1}
    assert ("gap" in record.body) == (lake_folder == "manifest.json")  # it may be a run of the same audit
    (first.folder / lake_folder).write_bytes(b"{")
    assert "gap" in sign_off(third.lake, ANN, third.run_id, "review", "seen").body
    with pytest.raises((DecisionError, sql.LakeError)):
        sign_off(first.lake, ANN, first.run_id, "review", "seen")


def test_a_sign_off_records_the_numbers_of_open_and_decided_alerts(add_next_run):
    run = add_next_run({}, {"region": "left"}, {"region": "right", "explained_by": "all"}, four_eyes=True)
    judge(run)
    record = sign_off(run.lake, ANN, run.run_id, "responsibility", "fit for use at site a")
    assert record.body["alerts"] == {"open": 1, "pending": 1, "decided": 0}
    (row,) = read_view(run, "sign_offs")
    assert (row["statement"], row["open"], row["four_eyes"]) == ("fit for use at site a", 1, True)
    signed = {row["kind"]: row["second_needed"] for row in read_view(run, "signatures")}
    assert signed == {"review": True, "sign_off": True}
    countersign(run.lake, BOB, record.number, "approval")
    signed = {row["kind"]: row["second_needed"] for row in read_view(run, "signatures")}
    assert signed == {"review": True, "sign_off": False}


def test_connection_to_a_run_has_decisions_only_if_requested(run):
    judge(run)
    with sql.connect(run.lake, run.run_id) as connection:
        assert sql.read(connection, "FROM reviews") == []
    with sql.connect(run.lake, run.run_id, with_decisions=True) as connection:
        assert [row["decision"] for row in sql.read(connection, "FROM triage")] == ["benign"]


def test_a_full_disk_is_reported(run, monkeypatch, caplog):

    def raise_disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stores.files.create_file", raise_disk_full)
    with pytest.raises(sql.LakeError, match=r"nothing was recorded \(No space left on device\)"):
        judge(run)
    monkeypatch.undo()
    count = len(ledger.read_records(run.lake))
    monkeypatch.setattr("stores.files.write_bytes", raise_disk_full)
    judge(run)
    assert "was written, but HEAD was not ([Errno 28] No space left on device)" in caplog.text
    assert len(ledger.read_records(run.lake)) == count + 1


def test_an_invalid_record_is_reported(run):
    ledger.append(run.lake, "review", {"life_id": "x"})
    with pytest.raises(sql.LakeError, match=r"record \d+ \(review\) is damaged, or another release wrote it"):
        read_view(run)


def test_a_record_with_a_value_of_another_type_is_not_converted(run):
    judge(run)
    (record,) = [record for record in ledger.read_records(run.lake) if record.kind == "review"]
    ledger.append(run.lake, "review", {**record.body, "meaning": {"text": "fine"}})
    with pytest.raises(sql.LakeError, match="is damaged, or another release wrote it"):
        read_view(run)
