"""Which decision is in force: decisions apply to later runs until the evidence changes."""

from datetime import UTC, datetime, timedelta

import pytest

import sql
from review.evidence.decisions import DecisionError, Reviewer, countersign, decide, find_decision
from stores import ledger
from tasks.lake.journal import record_run_end
from tasks.lake.prune import RetentionPolicy, plan_pruning

ANN, BOB = Reviewer("Ann", "radiologist", "declared"), Reviewer("Bob", "quality", "declared")
CONFIRMED = {"state": "confirmed", "severity": "medium", "interval": (0.3, 0.35, 0.4)}
NEAR = {"state": "confirmed", "severity": "medium", "interval": (0.42, 0.48, 0.54)}
UNKNOWN = {"state": "confirmed", "severity": "medium"}
OPEN, BENIGN = ("open", True), ("benign", False)
BEFORE = ", was 0.350, which is more than chance explains"


def decide_alert(run, decision="benign", who=ANN, number=0, **named):
    """Decide on an alert of a run, given by its number."""
    return decide(run.lake, who, run.run_id, f"{run.run_id}-{number}", decision, "a marker", "review", **named)


def read_standings(run):
    """Return the decision in force, and whether the evidence has changed, by region."""
    with sql.connect(run.lake) as connection:
        rows = sql.read(connection, "FROM triage WHERE run_id = $run", {"run": run.run_id})
    return {row["region"]: row for row in rows}


def read_standing(run, region="corner"):
    return read_standings(run)[region]


def read_decision(run, region="corner"):
    row = read_standing(run, region)
    return row["decision"], row["changed"]


def test_a_decision_applies_to_its_alert_in_its_run_and_later_ones(add_next_run):
    left, late = {"region": "left"}, {"region": "late"}
    first, second = add_next_run(CONFIRMED, left, late), add_next_run(CONFIRMED, left, late)
    record = decide_alert(first)
    decide_alert(second, number=2)
    before, after = read_standings(first), read_standings(second)
    assert [before[region]["decision"] for region in ("corner", "left", "late")] == ["benign", "open", "open"]
    assert [after[region]["decision"] for region in ("corner", "left", "late")] == ["benign", "open", "benign"]
    assert not any(row["changed"] for row in (*before.values(), *after.values()))
    row = after["corner"]
    assert (row["carried_over"], row["reviewed_run"], row["review"]) == (True, first.run_id, record.number)
    assert before["corner"]["carried_over"] is False
    with sql.connect(first.lake) as connection:
        rows = sql.rows(connection, "review/alerts", run_id=first.run_id)
    assert {row["region"]: row["decided_by"] for row in rows} == {"corner": "Ann", "left": None, "late": None}


CASES = [
    ({}, CONFIRMED, OPEN, "confirmed, was suspected"),
    ({}, CONFIRMED | {"interval": (0.01, 0.1, 0.19)}, BENIGN, None),  # the first comparison asks for more than 95 %
    (CONFIRMED, CONFIRMED | {"severity": "high", "interval": (0.55, 0.6, 0.65)}, OPEN, "severity high, was medium"),
    (CONFIRMED, CONFIRMED | {"severity": "low", "interval": (0.2, 0.28, 0.36)}, BENIGN, None),
    (NEAR, NEAR | {"severity": "high", "interval": (0.46, 0.52, 0.58)}, BENIGN, None),  # the interval had both
    (CONFIRMED, CONFIRMED | {"interval": (0.43, 0.48, 0.53)}, OPEN, f"its score loss is 0.480{BEFORE}"),
    (CONFIRMED, CONFIRMED | {"interval": (0.15, 0.2, 0.25)}, OPEN, f"its score loss is 0.200{BEFORE}"),
    (CONFIRMED, CONFIRMED | {"interval": (0.2, 0.3, 0.4)}, BENIGN, None),
    (CONFIRMED, CONFIRMED | {"interval": (0.38, 0.43, 0.48)}, BENIGN, None),  # outside of the interval then
    (CONFIRMED, CONFIRMED | {"effect": 30.0}, BENIGN, None),  # the effect of the test counts, not that of the mass
    ({"effect": 3.0}, {"effect": 3.7}, BENIGN, None),
    ({"effect": 3.0}, {"effect": 3.9}, OPEN, "its concentration is 1.3 times that at the time of the decision"),
    ({"effect": 3.0}, {"effect": 1.0}, BENIGN, None),
    (CONFIRMED, {"effect": 3.7}, BENIGN, None),
    (CONFIRMED, {"effect": 30.0}, OPEN, "its concentration is 10.0 times that at the time of the decision"),
    (UNKNOWN, UNKNOWN, BENIGN, None),
    (UNKNOWN, UNKNOWN | {"effect": 30.0}, OPEN, "its concentration is 10.0 times that at the time of the decision"),
    (UNKNOWN, CONFIRMED, OPEN, "its score loss was unknown before"),
    (CONFIRMED, UNKNOWN, OPEN, "its score loss is unknown now"),
    ({"effect": None}, {"effect": 3.0}, OPEN, "its concentration was unknown before"),
    ({"effect": 3.0}, {"effect": None}, OPEN, "its concentration is unknown now"),
]  # fmt: skip


def test_changed_evidence_opens_an_alert_again(add_next_run):
    first = add_next_run(*({"region": f"case {number}", **before} for number, (before, *_) in enumerate(CASES)))
    for number in range(len(CASES)):
        decide_alert(first, number=number)
    rows = read_standings(
        add_next_run(*({"region": f"case {number}", **after} for number, (_, after, *_) in enumerate(CASES)))
    )
    for number, (before, after, expected, why) in enumerate(CASES):
        row = rows[f"case {number}"]
        assert ((row["decision"], row["changed"]), row["why"]) == (expected, why), (before, after)
        assert (row["decided"], row["reviewer"]) == ("benign", "Ann")


def test_changed_or_unknown_rule_text_opens_an_alert_again(add_next_run):
    decide_alert(add_next_run({}, rules={}))
    assert read_decision(add_next_run({}, rules={})) == BENIGN
    second, why = add_next_run({}), "the text of the rule region_mass has changed"
    assert (read_standing(second)["decision"], read_standing(second)["why"]) == ("open", why)
    decide_alert(second)
    assert read_decision(second) == BENIGN
    row = read_standing(add_next_run({}, rules={"region_mass": "other"}))
    assert (row["decision"], row["why"]) == ("open", why)


def test_changed_weights_open_an_alert_again(add_next_run):
    first = add_next_run({}, model_digest="a" * 64)
    decide_alert(first)
    assert read_decision(add_next_run({}, model_digest="a" * 64)) == BENIGN
    beside = add_next_run({}, model_digest="b" * 64, reflags=first.run_id)
    assert read_decision(beside) == OPEN
    assert read_decision(add_next_run({}, model_digest="a" * 64)) == BENIGN
    third = add_next_run({}, model_digest="b" * 64)
    row = read_standing(third)
    assert (row["decision"], row["why"]) == (
        "open",
        f"the weights of the model have changed ({'b' * 12}, were {'a' * 12})",
    )
    decide_alert(third)
    assert read_decision(add_next_run({}, model_digest="b" * 64)) == BENIGN
    assert read_decision(add_next_run({}, model_digest=None)) == OPEN


def test_reopened_alert_stays_open_until_the_next_decision(add_next_run):
    """This includes resolved alerts that come back and slow growth. A re-flagged run opens only its own alerts."""
    first = add_next_run({"region": "peak", "effect": 3.0}, {"region": "slow", "effect": 3.0}, {"region": "back"})
    for number in range(3):
        decide_alert(first, number=number)
    reflagged = add_next_run({"region": "slow", "effect": 9.0}, reflags=first.run_id)
    second = add_next_run({"region": "peak", "effect": 9.0}, {"region": "slow", "effect": 3.6})
    third = add_next_run({"region": "peak", "effect": 3.0}, {"region": "slow", "effect": 4.2}, {"region": "back"})
    assert read_decision(reflagged, "slow") == OPEN
    rows = read_standings(second)
    assert {region: (row["decision"], row["changed"]) for region, row in rows.items()} == {
        "peak": OPEN, "slow": BENIGN, "back": BENIGN,
    }  # fmt: skip
    assert (rows["back"]["life"], rows["back"]["alert_id"]) == ("resolved", None)
    rows = read_standings(third)
    assert {region: (row["decision"], row["changed"]) for region, row in rows.items()} == dict.fromkeys(rows, OPEN)
    assert rows["back"]["why"] == f"it was raised anew in run {third.run_id}"
    decide_alert(third, "confirmed")
    assert read_decision(third, "peak") == ("confirmed", False)
    assert read_decision(add_next_run({"region": "peak", "effect": 3.5}), "peak") == ("confirmed", False)


def test_the_last_decision_about_the_newest_run_counts(add_next_run):
    first, second = add_next_run({}), add_next_run({})
    decide_alert(second, "confirmed")
    decide_alert(first, "needs_data")
    assert read_standing(first)["decision"] == "needs_data"
    assert read_standing(second)["decision"] == "confirmed"
    decide_alert(second, "open", BOB)
    row = read_standing(second)
    assert (row["decision"], row["reviewer"], row["changed"]) == ("open", "Bob", False)


def test_a_decision_about_an_earlier_run_is_countersigned_there(add_next_run):
    """The view and the check of signatures use the same rule for the decision in force."""
    first, second = add_next_run({}, four_eyes=True), add_next_run({}, four_eyes=True)
    about_second = decide_alert(second)
    about_first = decide_alert(first, "confirmed", BOB)  # later, but on the earlier run
    for run in (first, second):
        row, record = (
            read_standing(run),
            find_decision(ledger.read_records(run.lake), about_first.body["life_id"], run.run_id),
        )
        assert row["review"] == record.number
    decide_alert(second, "confirmed", seen=about_second.number)
    countersign(first.lake, ANN, about_first.number, "review")
    assert read_standing(first)["decision"] == "confirmed"
    assert read_standing(second)["decision"] == "pending"
    with pytest.raises(DecisionError, match=f"record {about_second.number} is not in force"):
        countersign(first.lake, BOB, about_second.number, "review")
    countersign(first.lake, BOB, 3, "review")
    assert read_standing(second)["decision"] == "confirmed"


def test_a_waiver_that_has_expired_opens_the_alert(add_next_run):
    run, today = add_next_run({}), datetime.now(UTC).date()
    record = decide_alert(run, "waived", until=today)
    assert read_decision(add_next_run({})) == ("waived", False)
    yesterday = (today - timedelta(days=1)).isoformat()
    ledger.append(run.lake, "review", record.body | {"until": yesterday})
    row = read_standing(run)
    assert (row["decision"], row["changed"], row["why"]) == ("open", True, f"it was waived until {yesterday}")


def test_the_four_eyes_principle(add_next_run):
    """A second signature carries over with its decision, but not to an alert that is open again."""
    early, grows = {"region": "early"}, {"region": "grows", "effect": 3.0}
    decide_alert(add_next_run(early))
    first = add_next_run({}, grows, early, four_eyes=True)
    record = decide_alert(first)
    decide_alert(first, number=1)
    row = read_standing(first, "early")
    assert (row["decision"], row["second_needed"]) == ("pending", True)
    second = add_next_run({}, grows | {"effect": 9.0}, early, four_eyes=True)
    assert read_standing(second)["decision"] == "pending"
    row = read_standing(second, "grows")
    assert (row["decision"], row["second_needed"]) == ("open", False)
    countersign(first.lake, BOB, record.number, "approval")
    row = read_standing(second)
    assert (row["decision"], row["countersigned_by"], row["carried_over"]) == ("benign", "Bob", True)


def test_a_run_with_a_decision_is_not_pruned(add_next_run):
    runs = [add_next_run({}), add_next_run({"region": "left"}), add_next_run({"region": "left"})]
    for run in runs:
        record_run_end(run)
    decide_alert(runs[0])
    plans = {plan.run_id: plan for plan in plan_pruning(runs[0].lake, RetentionPolicy(keep=1))}
    assert plans[runs[0].run_id].why == "record 4 of the ledger is about it"
    assert not plans[runs[0].run_id].pruned
