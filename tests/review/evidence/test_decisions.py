"""Decisions and signatures: what is taken, what is refused, and what they look like in the lake."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

import sql
from review.evidence import decisions as triage
from review.evidence.decisions import DecisionError, Reviewer, countersign, decide, sign_off
from stores import ledger

ANN = Reviewer("Ann Example", "radiologist", "declared")
BOB = Reviewer("Bob Other", "quality manager", "password")
LATER = datetime.now(UTC).date() + timedelta(days=30)


def alert_of(run, number=0):
    return f"{run.run_id}-{number}"


def judge(run, decision="benign", reviewer=ANN, number=0, **named):
    named = {"reason": "a marker of the machine", "meaning": "review"} | named
    return decide(run.lake, reviewer, run.run_id, alert_of(run, number), decision, **named)


def rows(run, view="triage"):
    with sql.connect(run.lake) as connection:
        return sql.read(connection, f"FROM {view} ORDER BY ALL")


@pytest.fixture(params=["here", "elsewhere"])
def place(request, tmp_path):
    return tmp_path if request.param == "here" else request.getfixturevalue("away")


def test_a_decision_is_a_record_and_in_force(nights, place):
    run = nights({"state": "confirmed", "severity": "high", "interval": (0.1, 0.2, 0.3)}, lake=place)
    assert [(row["decision"], row["decided"], row["changed"]) for row in rows(run)] == [("open", None, False)]
    record = judge(run)
    (row,) = rows(run)
    assert (row["decision"], row["decided"], row["why"], row["review"]) == ("benign", "benign", None, record.number)
    assert (row["reviewer"], row["role"], row["identity"], row["meaning"]) == (
        "Ann Example", "radiologist", "declared", "review",
    )  # fmt: skip
    assert (row["carried_over"], row["changed"], row["second_needed"]) == (False, False, False)
    assert row["decided_at"] == record.time
    evidence = record.body["evidence"]
    assert (evidence["state"], evidence["severity"], evidence["rule_digest"]) == ("confirmed", "high", "r")
    assert (evidence["score_low"], evidence["score_effect"], evidence["score_high"]) == (0.1, 0.2, 0.3)
    (review,) = rows(run, "reviews")
    assert (review["score_high"], review["reason"], review["sha256"]) == (0.3, "a marker of the machine", record.sha256)


def test_a_correction_is_a_new_record(nights):
    run = nights({})
    first, second = judge(run), judge(run, "confirmed", reviewer=BOB)
    assert ledger.read_records(run.lake) == [first, second]
    (row,) = rows(run)
    assert (row["decision"], row["reviewer"], row["review"]) == ("confirmed", "Bob Other", 2)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"reason": " \n"}, "reason: got nothing, expected a text"),
        ({"reason": "x" * 4001}, "reason: got 4001 characters, expected 4000 at most"),
        ({"reason": "a\x00b"}, "reason: got control characters"),
        ({"reason": "a\ud800b"}, "reason: got control characters"),
        ({"meaning": "fun"}, "meaning: got 'fun', expected one of review, approval, responsibility, authorship"),
        ({"decision": "spurious"}, "decision: got 'spurious', expected one of confirmed, benign, needs_data"),
        ({"decision": "waived"}, "until: got nothing, expected the last day of the waiver"),
        ({"decision": "waived", "until": date(2020, 1, 1)}, "until: got 2020-01-01, expected the last day"),
        ({"until": LATER}, "until: got .* with decision 'benign', expected a day only with `waived`"),
        ({"reviewer": replace(ANN, name=" ")}, "name: got ' ', expected one line"),
        ({"reviewer": replace(ANN, role="a\nb")}, "role: got .*expected one line"),
        ({"reviewer": replace(ANN, identity="guessed")}, "identity: got 'guessed', expected one of declared"),
        ({"number": 7}, "alert: got '.*-7', expected an alert of run"),
    ],
)
def test_what_is_no_decision_is_refused(nights, named, said):
    run = nights({})
    with pytest.raises(DecisionError, match=said):
        judge(run, **named)
    assert ledger.read_records(run.lake) == []


@pytest.mark.parametrize("run_id", ["none", "../runs", "20260101T000000-aaaaaa"])
def test_only_alerts_of_complete_runs_are_judged(nights, run_id):
    run = nights({}, status="failed")
    with pytest.raises(DecisionError, match=f"run: got '{run_id}'.* expected a complete run of .*: none"):
        decide(run.lake, ANN, run_id, alert_of(run), "benign", "x", "review")


def test_a_waiver_holds_through_its_last_day(nights):
    run = nights({})
    judge(run, "waived", until=datetime.now(UTC).date())
    (row,) = rows(run)
    assert (row["decision"], row["until"]) == ("waived", datetime.now(UTC).date())


def test_of_two_reviewers_at_once_nobody_is_lost(nights):
    run = nights({}, {"region": "left"})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: judge(run, reviewer=(ANN, BOB)[n % 2], number=n % 2, reason=f"as {n}"), range(8)))
    assert sorted(row["reason"] for row in rows(run, "reviews")) == [f"as {n}" for n in range(8)]


def test_who_has_not_seen_a_decision_does_not_replace_it(nights):
    run = nights({}, {"region": "left"})
    judge(run, number=1, seen=0)  # another alert's
    first = judge(run, seen=0)
    with pytest.raises(DecisionError, match=r"Ann Example has decided 'benign' meanwhile \(record 2\)"):
        judge(run, "confirmed", reviewer=BOB, seen=0)
    judge(run, "confirmed", reviewer=BOB, seen=first.number)


def test_with_four_eyes_a_decision_waits_for_a_second_person(nights):
    run = nights({}, four_eyes=True)
    record = judge(run)
    assert record.body["four_eyes"] is True
    (row,) = rows(run)
    assert (row["decision"], row["decided"], row["second_needed"]) == ("pending", "benign", True)
    assert row["why"] == "a second person has to countersign record 1"
    countersign(run.lake, BOB, record.number, "approval")
    (row,) = rows(run)
    assert (row["decision"], row["second_needed"], row["countersigned_by"]) == ("benign", False, "Bob Other")


def test_the_page_may_ask_for_four_eyes_too(nights):
    run = nights({})
    judge(run, four_eyes=True)
    assert rows(run)[0]["decision"] == "pending"


@pytest.mark.parametrize("decision", ["needs_data", "open"])
def test_what_closes_nothing_needs_no_second_person(nights, decision):
    run = nights({}, four_eyes=True)
    judge(run, decision)
    assert (rows(run)[0]["decision"], rows(run)[0]["second_needed"]) == (decision, False)


@pytest.mark.parametrize("name", ["Ann Example", "ann  EXAMPLE ", "\uff21nn Example"])
def test_nobody_countersigns_their_own(nights, name):
    run = nights({}, four_eyes=True)
    record = judge(run)
    with pytest.raises(DecisionError, match=r"signed by .*, expected another signer"):
        countersign(run.lake, replace(BOB, name=name), record.number, "review")


def test_a_countersignature_under_one_s_own_that_was_forged_counts_for_nothing(nights):
    run = nights({}, four_eyes=True)
    record = judge(run)
    forged = {"record": 1, "record_sha256": record.sha256, "meaning": "review", "statement": ""}
    for name in ("ANN  Example", "\uff21nn Example"):
        ledger.append(
            run.lake, "countersign", forged | {"reviewer": {"name": name, "role": "x", "identity": "declared"}}
        )
    assert rows(run)[0]["decision"] == "pending"


def test_what_cannot_be_countersigned(nights):
    run = nights({}, four_eyes=True)
    first = judge(run)
    with pytest.raises(DecisionError, match="got 9, which is no record of that number"):
        countersign(run.lake, BOB, 9, "review")
    second = judge(run, "confirmed")
    with pytest.raises(DecisionError, match=r"record 1 is not in force, Ann Example has decided since \(record 2\)"):
        countersign(run.lake, BOB, first.number, "review")
    done = countersign(run.lake, BOB, second.number, "review", "looked at the same pairs")
    with pytest.raises(DecisionError, match="which is a record of kind countersign"):
        countersign(run.lake, BOB, done.number, "review")
    with pytest.raises(DecisionError, match=r"was countersigned by Bob Other \(record 3\)"):
        countersign(run.lake, replace(BOB, name="Cy"), second.number, "review")


def test_a_second_signature_is_known_as_well_as_the_first(nights):
    run = nights({}, four_eyes=True)
    record = judge(run, reviewer=BOB)
    with pytest.raises(DecisionError, match=r"got a declared identity, expected a verified one.* \(password\)"):
        countersign(run.lake, ANN, record.number, "review")
    said = {"name": "Ann Example", "role": "x", "identity": "declared"}
    body = {"record": 1, "record_sha256": record.sha256, "meaning": "review", "statement": "", "reviewer": said}
    ledger.append(run.lake, "countersign", body)  # by other means: it counts for nothing, and stops nobody
    assert rows(run)[0]["decision"] == "pending"
    countersign(run.lake, replace(ANN, identity="proxy"), record.number, "review")
    assert rows(run)[0]["decision"] == "benign"


def test_a_decision_between_counting_and_signing_is_not_signed(nights, monkeypatch):
    run = nights({}, {"region": "left"})
    counted = triage._count_decisions

    def slowly(*given):
        found = counted(*given)
        judge(run)
        return found

    monkeypatch.setattr(triage, "_count_decisions", slowly)
    with pytest.raises(DecisionError, match=r"Ann Example has decided or signed meanwhile \(record 1\)"):
        sign_off(run.lake, BOB, run.run_id, "responsibility", "fit for use")
    monkeypatch.setattr(triage, "_count_decisions", counted)
    with pytest.raises(DecisionError, match="meanwhile"):
        sign_off(run.lake, BOB, run.run_id, "responsibility", "fit for use", seen=0)
    assert sign_off(run.lake, BOB, run.run_id, "review", "seen").body["alerts"] == {
        "open": 1,
        "pending": 0,
        "decided": 1,
    }


@pytest.mark.parametrize("place", ["manifest.json", "alerts/part-00000.parquet"])
def test_a_run_that_is_damaged_stops_nobody_from_signing_another(nights, place):
    first, second, third = nights({}), nights({}, corpus="another"), nights({})
    judge(first)
    (second.folder / place).write_bytes(b"{")
    judge(third, "confirmed")
    record = sign_off(third.lake, ANN, third.run_id, "review", "seen")
    assert record.body["alerts"] == {"open": 0, "pending": 0, "decided": 1}
    assert ("gap" in record.body) == (place == "manifest.json")  # whose run it is, nobody can tell
    (first.folder / place).write_bytes(b"{")
    assert "gap" in sign_off(third.lake, ANN, third.run_id, "review", "seen").body
    with pytest.raises((DecisionError, sql.LakeError)):
        sign_off(first.lake, ANN, first.run_id, "review", "seen")


def test_a_run_is_signed_off_with_what_was_open_then(nights):
    run = nights({}, {"region": "left"}, {"region": "right", "explained_by": "all"}, four_eyes=True)
    judge(run)
    record = sign_off(run.lake, ANN, run.run_id, "responsibility", "fit for use at site a")
    assert record.body["alerts"] == {"open": 1, "pending": 1, "decided": 0}
    (row,) = rows(run, "sign_offs")
    assert (row["statement"], row["open"], row["four_eyes"]) == ("fit for use at site a", 1, True)
    signed = {row["kind"]: row["second_needed"] for row in rows(run, "signatures")}
    assert signed == {"review": True, "sign_off": True}
    countersign(run.lake, BOB, record.number, "approval")
    signed = {row["kind"]: row["second_needed"] for row in rows(run, "signatures")}
    assert signed == {"review": True, "sign_off": False}


def test_a_run_is_opened_alone_without_what_people_said(nights):
    run = nights({})
    judge(run)
    with sql.connect(run.lake, run.run_id) as connection:
        assert sql.read(connection, "FROM reviews") == []
    with sql.connect(run.lake, run.run_id, with_decisions=True) as connection:
        assert [row["decision"] for row in sql.read(connection, "FROM triage")] == ["benign"]


def test_a_full_disk_is_told(nights, monkeypatch):
    run = nights({})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stores.files.create_file", full)
    with pytest.raises(sql.LakeError, match=r"nothing was recorded \(No space left on device\)"):
        judge(run)


def test_a_record_of_another_form_is_named(nights):
    run = nights({})
    ledger.append(run.lake, "review", {"life_id": "x"})
    with pytest.raises(sql.LakeError, match="record 1 is no review as this release writes it"):
        rows(run)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Ada Okafor\ufe0f", "cannot be seen"),
        ("Ada\u3164 Okafor", "cannot be seen"),
        ("\u0410da Okafor", "Latin and Cyrillic"),
    ],
)
def test_a_name_that_looks_like_anothers_is_refused(nights, name, said):
    run = nights({})
    with pytest.raises(DecisionError, match=said):
        judge(run, reviewer=Reviewer(name, "reader", "declared"))
