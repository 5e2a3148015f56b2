"""Which decision is in force, rows in and rows out: what carries over to later runs, and what opens an alert again."""

from datetime import UTC, datetime, timedelta

import pytest

import sql
from review.evidence.decisions import DecisionError, Reviewer, countersign, decide, find_decision
from stores import ledger
from tasks.lake.prune import RetentionPolicy, plan_pruning

ANN, BOB = Reviewer("Ann", "radiologist", "declared"), Reviewer("Bob", "quality", "declared")
CONFIRMED = {"state": "confirmed", "severity": "medium", "interval": (0.1, 0.2, 0.3)}
UNKNOWN = {"state": "confirmed", "severity": "medium"}
OPEN, BENIGN = ("open", True), ("benign", False)
JUDGED = ", was judged at 0.100 to 0.300"


def judge(run, decision="benign", who=ANN, **named):
    return decide(run.lake, who, run.run_id, f"{run.run_id}-0", decision, "a marker", "review", **named)


def standing(run):
    """Decision in force, and whether the evidence has changed, of the alert on the corner."""
    with sql.connect(run.lake) as connection:
        rows = sql.read(connection, "FROM triage WHERE run_id = $run AND region = 'corner'", {"run": run.run_id})
    return rows[0]


def decision(run):
    row = standing(run)
    return row["decision"], row["changed"]


def test_an_alert_that_nobody_judged_is_open(nights):
    assert decision(nights({})) == ("open", False)


def test_a_decision_carries_over_to_the_next_run(nights):
    first = nights(CONFIRMED)
    record = judge(first)
    row = standing(nights(CONFIRMED))
    assert (row["decision"], row["carried_over"], row["reviewed_run"], row["review"]) == (
        "benign", True, first.run_id, record.number,
    )  # fmt: skip
    assert standing(first)["carried_over"] is False


def test_a_decision_says_nothing_about_runs_before(nights):
    first, second = nights({}), nights({})
    judge(second)
    assert decision(first) == ("open", False)
    assert decision(second) == BENIGN


@pytest.mark.parametrize(
    ("before", "after", "expected", "why"),
    [
        ({}, CONFIRMED, OPEN, "confirmed, was suspected"),
        (CONFIRMED, CONFIRMED | {"severity": "high"}, OPEN, "severity high, was medium"),
        (CONFIRMED, CONFIRMED | {"severity": "low"}, BENIGN, None),
        (CONFIRMED, CONFIRMED | {"interval": (0.2, 0.31, 0.4)}, OPEN, f"its effect is 0.310{JUDGED}"),
        (CONFIRMED, CONFIRMED | {"interval": (0.0, 0.09, 0.2)}, OPEN, f"its effect is 0.090{JUDGED}"),
        (CONFIRMED, CONFIRMED | {"interval": (0.2, 0.29, 0.4)}, BENIGN, None),
        (CONFIRMED, CONFIRMED | {"effect": 30.0}, BENIGN, None),  # the test counts, not the mass
        ({"effect": 3.0}, {"effect": 3.7}, BENIGN, None),
        ({"effect": 3.0}, {"effect": 3.9}, OPEN, "its share has 1.3 times the effect that was judged"),
        ({"effect": 3.0}, {"effect": 1.0}, BENIGN, None),
        (CONFIRMED, {"effect": 3.7}, BENIGN, None),
        (CONFIRMED, {"effect": 30.0}, OPEN, "its share has 10.0 times the effect that was judged"),
        (UNKNOWN, UNKNOWN, BENIGN, None),
        (UNKNOWN, UNKNOWN | {"effect": 30.0}, OPEN, "its share has 10.0 times the effect that was judged"),
        (UNKNOWN, CONFIRMED, OPEN, "its effect was not known, and is"),
        (CONFIRMED, UNKNOWN, OPEN, "its effect is not known any more"),
        ({"effect": None}, {"effect": 3.0}, OPEN, "the effect of its share was not known, and is"),
        ({"effect": 3.0}, {"effect": None}, OPEN, "the effect of its share is not known any more"),
    ],
)  # fmt: skip
def test_what_opens_an_alert_again(nights, before, after, expected, why):
    judge(nights(before))
    second = nights(after)
    assert decision(second) == expected
    row = standing(second)
    assert (row["why"], row["decided"], row["reviewer"]) == (why, "benign", "Ann")


def test_another_text_of_the_rule_opens_it_again(nights):
    judge(nights({}))
    row = standing(nights({}, rules={"region_mass": "other"}))
    assert (row["decision"], row["why"]) == ("open", "the text of the rule region_mass is another")


def test_a_rule_whose_text_was_not_known_opens_it_again(nights):
    judge(nights({}, rules={}))
    assert decision(nights({}, rules={})) == BENIGN
    row = standing(nights({}))
    assert (row["decision"], row["why"]) == ("open", "the text of the rule region_mass is another")


def test_other_weights_under_the_model_s_name_open_it_again(nights):
    first = nights({}, model_digest="a" * 64)
    judge(first)
    assert decision(nights({}, model_digest="a" * 64)) == BENIGN
    beside = nights({}, model_digest="b" * 64, reflags=first.run_id)
    assert decision(beside) == OPEN
    assert decision(nights({}, model_digest="a" * 64)) == BENIGN
    third = nights({}, model_digest="b" * 64)
    row = standing(third)
    assert (row["decision"], row["why"]) == (
        "open",
        f"the weights of the model are others ({'b' * 12}, were {'a' * 12})",
    )
    judge(third)
    assert decision(nights({}, model_digest="b" * 64)) == BENIGN
    assert decision(nights({}, model_digest=None)) == OPEN


def test_an_alert_that_was_resolved_and_comes_back_is_open(nights):
    judge(nights({}))
    gone = nights({"region": "left"})
    with sql.connect(gone.lake) as connection:
        (row,) = sql.read(connection, "FROM triage WHERE life = 'resolved'")
    assert (row["decision"], row["alert_id"]) == ("benign", None)
    back = nights({})
    assert (standing(back)["decision"], standing(back)["why"]) == ("open", f"it came up anew in run {back.run_id}")


def test_what_is_open_again_stays_so_until_somebody_decides(nights):
    judge(nights({"effect": 3.0}))
    nights({"effect": 9.0})
    third = nights({"effect": 3.0})
    assert decision(third) == OPEN
    judge(third, "confirmed")
    assert decision(third) == ("confirmed", False)
    assert decision(nights({"effect": 3.5})) == ("confirmed", False)


def test_creeping_adds_up(nights):
    judge(nights({"effect": 3.0}))
    assert decision(nights({"effect": 3.6})) == BENIGN
    assert decision(nights({"effect": 4.2})) == OPEN


def test_a_re_flagged_run_opens_only_itself(nights):
    first = nights({"effect": 3.0})
    judge(first)
    beside = nights({"effect": 9.0}, reflags=first.run_id)
    assert decision(beside) == OPEN
    assert decision(nights({"effect": 3.0})) == BENIGN


def test_the_decision_upon_the_newest_run_counts_then_the_last(nights):
    first, second = nights({}), nights({})
    judge(second, "confirmed")
    judge(first, "needs_data")
    assert standing(first)["decision"] == "needs_data"
    assert standing(second)["decision"] == "confirmed"
    judge(second, "open", BOB)
    row = standing(second)
    assert (row["decision"], row["reviewer"], row["changed"]) == ("open", "Bob", False)


def test_a_decision_upon_an_earlier_run_is_countersigned_there(nights):
    """The rule by which one is in force is the same in the view and where signatures are taken."""
    first, second = nights({}, four_eyes=True), nights({}, four_eyes=True)
    upon_second = judge(second)
    upon_first = judge(first, "confirmed", BOB)  # later, but upon the earlier run
    for run in (first, second):
        row, record = (
            standing(run),
            find_decision(ledger.read_records(run.lake), upon_first.body["life_id"], run.run_id),
        )
        assert row["review"] == record.number
    judge(second, "confirmed", seen=upon_second.number)
    countersign(first.lake, ANN, upon_first.number, "review")
    assert standing(first)["decision"] == "confirmed"
    assert standing(second)["decision"] == "pending"
    with pytest.raises(DecisionError, match=f"record {upon_second.number} is not in force"):
        countersign(first.lake, BOB, upon_second.number, "review")
    countersign(first.lake, BOB, 3, "review")
    assert standing(second)["decision"] == "confirmed"


def test_a_waiver_that_is_over_opens_the_alert(nights):
    run, today = nights({}), datetime.now(UTC).date()
    record = judge(run, "waived", until=today)
    assert decision(nights({})) == ("waived", False)
    yesterday = (today - timedelta(days=1)).isoformat()
    ledger.append(run.lake, "review", record.body | {"until": yesterday})
    row = standing(run)
    assert (row["decision"], row["changed"], row["why"]) == ("open", True, f"it was waived until {yesterday}")


def test_a_second_signature_carries_over_with_the_decision(nights):
    first = nights({}, four_eyes=True)
    record = judge(first)
    assert standing(nights({}, four_eyes=True))["decision"] == "pending"
    countersign(first.lake, BOB, record.number, "approval")
    row = standing(nights({}, four_eyes=True))
    assert (row["decision"], row["countersigned_by"], row["carried_over"]) == ("benign", "Bob", True)


def test_a_run_that_asks_for_four_eyes_asks_it_of_earlier_decisions_too(nights):
    judge(nights({}))
    row = standing(nights({}, four_eyes=True))
    assert (row["decision"], row["second_needed"]) == ("pending", True)


def test_what_is_open_again_needs_no_second_person(nights):
    judge(nights({"effect": 3.0}, four_eyes=True))
    row = standing(nights({"effect": 9.0}, four_eyes=True))
    assert (row["decision"], row["second_needed"]) == ("open", False)


def test_two_alerts_are_judged_apart(nights):
    run = nights({}, {"region": "left"})
    judge(run)
    with sql.connect(run.lake) as connection:
        found = sql.read(connection, "SELECT region, decision FROM triage ORDER BY region")
        beside = sql.rows(connection, "review/alerts", run_id=run.run_id)
    assert [(row["region"], row["decision"]) for row in found] == [("corner", "benign"), ("left", "open")]
    assert {row["region"]: row["decided_by"] for row in beside} == {"corner": "Ann", "left": None}


def test_what_was_judged_is_not_pruned(nights):
    runs = [nights({}), nights({"region": "left"}), nights({"region": "left"})]
    judge(runs[0])
    fates = {fate.run_id: fate for fate in plan_pruning(runs[0].lake, RetentionPolicy(keep=1))}
    assert fates[runs[0].run_id].why == "record 1 of the ledger is about it"
    assert not fates[runs[0].run_id].pruned
