"""How runs end, and which notifications are sent: the flows with stages that do nothing, on a hand-written run."""

from unittest.mock import MagicMock

import pytest
import typer

import sql
from flows import audit as audit_flow
from flows import begin, lifecycle
from flows import reflag as flow
from flows.commands import audits
from flows.commands.output import Exit
from tasks.errors import BadInputError, GateError, ShardsError
from tasks.lake.run import Run
from tasks.records import GateOutcome


@pytest.fixture
def reflagged(plain, monkeypatch, hand_written):
    """reflagged(): re-flags the hand-written run; its stages find nothing."""
    monkeypatch.setattr(lifecycle, "write_report", lambda *_: None)
    monkeypatch.setattr(flow, "validate", lambda _: GateOutcome((), ("a gate's warning",)))
    for stage in ("copy_attributions", "cluster", "phrases", "carry_over_tests", "alert", "notify"):
        monkeypatch.setattr(flow, stage, lambda *_: None)
    monkeypatch.setattr(flow, "flag", lambda *_: ["a rule's warning"])
    return lambda run_id=hand_written.run_id: flow.reflag.fn(hand_written.lake, run_id)


def test_a_re_flagged_run_with_errors_completes_with_errors(reflagged, hand_written):
    hand_written.finish("completed_with_errors", "1 of 3 shards were set aside: shard 1")
    with pytest.raises(ShardsError) as ended:
        reflagged()
    result = ended.value.outcome
    assert result.status == Run(hand_written.lake, result.run_id).read_manifest()["status"] == "completed_with_errors"
    assert result.reason == (
        f"run {hand_written.run_id} completed with errors: 1 of 3 shards were set aside: shard 1; "
        "a gate's warning; a rule's warning"
    )


def test_a_re_flagged_run_without_errors_completes(reflagged, hand_written):
    hand_written.finish("completed", "an earlier warning")
    result = reflagged()
    assert (result.status, result.reason) == ("completed", "a gate's warning; a rule's warning")


def test_a_re_flagging_that_cannot_begin_is_notified(reflagged, hand_written, monkeypatch):
    notified = []
    monkeypatch.setattr(flow, "notify_failed_start", lambda *given: notified.append(given))
    with pytest.raises(BadInputError):
        reflagged()  # it is not complete yet
    hand_written.finish("completed")
    monkeypatch.setattr(flow, "check_rules", lambda _: (_ for _ in ()).throw(BadInputError("rule mine: wrong")))
    with pytest.raises(BadInputError):
        reflagged()
    (unknown, why), known = notified
    assert unknown == {"corpus": str(hand_written.lake), "model": f"run {hand_written.run_id}"}
    assert why.startswith(f"reflag: got '{hand_written.run_id}', expected a complete run")
    assert known == ({"corpus": "c", "model": "m"}, "rule mine: wrong")


def test_the_end_is_notified_while_the_run_is_locked(reflagged, hand_written, monkeypatch):
    """The notification is stored in the manifest, which only the process with the lock writes."""
    locked = []
    monkeypatch.setattr(lifecycle, "notify_run_end", lambda run: locked.append((run.folder / "lock.json").exists()))
    hand_written.finish("completed")
    reflagged()
    monkeypatch.setattr(flow, "copy_attributions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reflagged()
    assert locked == [True, True]


@pytest.fixture
def away_run(plain, hand_written_run, away):
    """A run in object storage."""
    return hand_written_run(away, "20260101T000000-aaaaaa").begin(incremental=None)


def test_an_interrupt_while_the_lake_is_unreachable_exits_as_interrupted(away_run, monkeypatch, capsys):
    def away(_):
        raise sql.LakeError("no route to host")

    def interrupted(*_):
        for listener in begin._listeners:
            listener(away_run)
        with lifecycle.run_lifecycle(away_run):
            monkeypatch.setattr(type(away_run), "read_manifest", away)
            raise KeyboardInterrupt

    monkeypatch.setattr(audits, "prepare_prefect", lambda _: None)
    monkeypatch.setattr(audits.signal, "signal", lambda *_: None)
    monkeypatch.setattr(audit_flow, "audit", interrupted)
    with pytest.raises(typer.Exit) as ended:
        audits.run_audit(MagicMock(), None, False, False)
    assert ended.value.exit_code == Exit.INTERRUPTED
    assert f"interrupted; resume with: --resume {away_run.run_id}" in capsys.readouterr().err
    assert begin._listeners == []


@pytest.mark.parametrize("error", [GateError, ShardsError])
def test_the_result_of_a_run_that_did_not_complete_is_printed(hand_written, monkeypatch, capsys, error):
    hand_written.finish("stopped", "because")
    counts = dict.fromkeys(("pairs", "attributions", "errors", "alerts", "confirmed"), 0)
    result = lifecycle.AuditResult(hand_written.run_id, "stopped", "because", report=None, **counts)
    monkeypatch.setattr(audits, "prepare_prefect", lambda _: None)
    monkeypatch.setattr(audits.signal, "signal", lambda *_: None)
    monkeypatch.setattr(audit_flow, "audit", MagicMock(side_effect=error("stopped", result)))
    config = MagicMock()
    config.lake.root = hand_written.lake
    assert audits.run_audit(config, None, False, False) is result
    assert f"run {hand_written.run_id} stopped: 0 of 0 pairs" in capsys.readouterr().out


def test_a_run_that_has_ended_is_not_aborted(away_run):
    away_run.finish("completed")
    lifecycle.abort(away_run, KeyboardInterrupt())
    assert away_run.read_manifest()["status"] == "completed"
