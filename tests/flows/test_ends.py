"""How runs end, and who is told: the flows around stages that do nothing, on a run filled by hand."""

import pytest

from flows import audit as audit_flow
from flows import reflag as flow
from tasks.errors import ShardsError
from tasks.lake import Run
from tasks.records import GateOutcome


@pytest.fixture
def reflagged(plain, monkeypatch, hand_written):
    """reflagged(): re-flags the hand-written run; its stages find nothing."""
    plain(flow, audit_flow)
    monkeypatch.setattr(audit_flow, "write_report", lambda *_: None)
    monkeypatch.setattr(flow, "validate", lambda _: GateOutcome(1, (), ("a gate's warning",)))
    for stage in ("take_over", "cluster", "phrases", "carry_over", "alert", "tell"):
        monkeypatch.setattr(flow, stage, lambda *_: None)
    monkeypatch.setattr(flow, "flag", lambda *_: ["a rule's warning"])
    return lambda run_id=hand_written.run_id: flow.reflag.fn(hand_written.lake, run_id)


def test_a_run_with_errors_is_flagged_again_with_errors(reflagged, hand_written):
    hand_written.finish("completed_with_errors", "1 of 3 shards were set aside: shard 1")
    with pytest.raises(ShardsError) as ended:
        reflagged()
    result = ended.value.outcome
    assert result.status == Run(hand_written.lake, result.run_id).manifest()["status"] == "completed_with_errors"
    assert result.reason == (
        f"run {hand_written.run_id} completed with errors: 1 of 3 shards were set aside: shard 1; "
        "a gate's warning; a rule's warning"
    )


def test_a_whole_run_is_flagged_again_whole(reflagged, hand_written):
    hand_written.finish("completed", "an earlier warning")
    result = reflagged()
    assert (result.status, result.reason) == ("completed", "a gate's warning; a rule's warning")


def test_the_end_is_told_while_the_run_is_held(reflagged, hand_written, monkeypatch):
    """What was told is stored in the manifest, which is written by the holder only."""
    held = []
    monkeypatch.setattr(audit_flow, "tell_end", lambda run: held.append((run.folder / "lock.json").exists()))
    hand_written.finish("completed")
    reflagged()
    monkeypatch.setattr(flow, "take_over", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reflagged()
    assert held == [True, True]
