"""A second signature by a person whose name looks like that of the first one has no effect."""

from dataclasses import asdict

import pytest

import sql
from review.evidence.decisions import DecisionError, Reviewer, countersign, decide
from review.evidence.verify import verify
from stores import ledger

FIRST = Reviewer("Copa", "radiologist", "declared")
LOOK_ALIKES = ("\u0421\u043e\u0440\u0430", "C0pa", "C. opa")
"""All letters of the first are Cyrillic."""


@pytest.fixture
def record(runs):
    """A decision that needs a second signature."""
    run_id = runs[1].run_id
    return decide(runs[0].lake, FIRST, run_id, f"{run_id}-0", "benign", "a marker", "review", four_eyes=True)


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_a_look_alike_cannot_countersign(runs, record, name):
    with pytest.raises(DecisionError, match="signed by 'Copa', the same name or one that looks like it"):
        countersign(runs[0].lake, Reviewer(name, "quality", "declared"), record.number, "approval")


@pytest.mark.parametrize("name", [*LOOK_ALIKES, "\u0421opa"])
def test_a_forged_second_signature_by_a_look_alike_is_a_fault(runs, record, name):
    lake, run_id = runs[0].lake, runs[1].run_id
    body = {"record": record.number, "record_sha256": record.sha256, "meaning": "approval", "statement": ""}
    reviewer = asdict(Reviewer(name, "quality", "declared"))
    number = ledger.append(lake, "countersign", body | {"reviewer": reviewer}).number
    assert [(each.location, "but not by another person" in each.description)
            for each in verify(lake, "all").differences] == [(f"record {number}", True)]  # fmt: skip
    with sql.connect(lake, run_id, with_decisions=True) as connection:
        rows = sql.read(connection, "SELECT decision FROM triage")
    assert sorted(row["decision"] for row in rows) == ["open", "pending"]


def test_another_person_countersigns(runs, record):
    countersign(runs[0].lake, Reviewer("Bea", "quality", "declared"), record.number, "approval")
    assert verify(runs[0].lake, "all").is_intact
