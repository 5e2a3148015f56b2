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
from tasks.lake.journal import record_run_end
from tasks.lake.run import Run
from tasks.records import GateOutcome
from tasks.settings import NotifyConfig


@pytest.fixture
def reflag_run(no_prefect, monkeypatch, hand_written_run):
    """reflag_run(): re-flag the hand-written run with stages that find nothing."""
    monkeypatch.setattr(lifecycle, "write_report", lambda *_: None)
    monkeypatch.setattr(flow, "validate", lambda _: GateOutcome((), ("a gate's warning",)))
    for stage in ("copy_attributions", "cluster", "phrases", "carry_over_tests", "alert", "update_history"):
        monkeypatch.setattr(flow, stage, lambda *_: None)
    monkeypatch.setattr(flow, "flag", lambda *_: ["a rule's warning"])
    return lambda run_id=hand_written_run.run_id: flow.reflag.fn(hand_written_run.lake, run_id)


def test_a_re_flagged_run_with_errors_completes_with_errors(reflag_run, hand_written_run):
    hand_written_run.finish("completed_with_errors", "1 of 3 shards were set aside: shard 1")
    with pytest.raises(ShardsError) as raised:
        reflag_run()
    result = raised.value.outcome
    assert (
        result.status == Run(hand_written_run.lake, result.run_id).read_manifest()["status"] == "completed_with_errors"
    )
    assert result.reason == (
        f"run {hand_written_run.run_id} completed with errors: 1 of 3 shards were set aside: shard 1; "
        "a gate's warning; a rule's warning"
    )


def test_a_re_flagged_run_without_errors_completes(reflag_run, hand_written_run):
    hand_written_run.finish("completed", "an earlier warning")
    result = reflag_run()
    assert (result.status, result.reason) == ("completed", "a gate's warning; a rule's warning")


def test_re_flagging_that_cannot_begin_is_notified(reflag_run, hand_written_run, monkeypatch):
    notified = []
    monkeypatch.setattr(flow, "notify_failed_start", lambda *args: notified.append(args))
    with pytest.raises(BadInputError):
        reflag_run()  # the run is not complete yet
    hand_written_run.finish("completed")
    monkeypatch.setattr(flow, "check_rules", lambda _: (_ for _ in ()).throw(BadInputError("rule mine: wrong")))
    with pytest.raises(BadInputError):
        reflag_run()
    (first, first_reason, _), (*second, _) = notified
    assert first == {"corpus": str(hand_written_run.lake), "model": f"run {hand_written_run.run_id}"}
    assert first_reason.startswith(f"reflag: got '{hand_written_run.run_id}', expected a complete run")
    assert second == [{"audit": None, "corpus": "c", "model": "m"}, "rule mine: wrong"]


def test_the_end_is_notified_while_the_run_is_locked(reflag_run, hand_written_run, monkeypatch):
    """The notification is stored in the manifest, which only the process with the lock writes."""
    locked = []
    monkeypatch.setattr(lifecycle, "notify_run_end", lambda run, *_: locked.append((run.folder / "lock.json").exists()))
    hand_written_run.finish("completed")
    record_run_end(hand_written_run)
    reflag_run()
    monkeypatch.setattr(flow, "copy_attributions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reflag_run()
    assert locked == [True, True]


@pytest.fixture
def remote_run(no_prefect, run_class, remote_folder):
    """A run in object storage."""
    return run_class(remote_folder, "20260101T000000-aaaaaa").begin(incremental=None)


def test_an_interrupt_while_the_lake_is_unreachable_exits_as_interrupted(remote_run, monkeypatch, capsys):
    def fail(_):
        raise sql.LakeError("no route to host")

    def interrupt(*_):
        for listener in begin._listeners:
            listener(remote_run)
        with lifecycle.run_lifecycle(remote_run, NotifyConfig()):
            monkeypatch.setattr(type(remote_run), "read_manifest", fail)
            raise KeyboardInterrupt

    monkeypatch.setattr(audits, "prepare_prefect", lambda _: None)
    monkeypatch.setattr(audits.signal, "signal", lambda *_: None)
    monkeypatch.setattr(audit_flow, "audit", interrupt)
    with pytest.raises(typer.Exit) as raised:
        audits.run_audit(MagicMock(), None, False, False, "resume with {}".format)
    assert raised.value.exit_code == Exit.INTERRUPTED
    assert f"interrupted; resume with {remote_run.run_id}" in capsys.readouterr().err
    assert begin._listeners == []


@pytest.mark.parametrize("error", [GateError, ShardsError])
def test_the_result_of_a_run_that_did_not_complete_is_printed(hand_written_run, monkeypatch, capsys, error):
    hand_written_run.finish("stopped", "because")
    counts = dict.fromkeys(("pairs", "attributions", "errors", "alerts", "confirmed", "raised"), 0)
    result = lifecycle.AuditResult(hand_written_run.run_id, "stopped", "because", report=None, **counts)
    monkeypatch.setattr(audits, "prepare_prefect", lambda _: None)
    monkeypatch.setattr(audits.signal, "signal", lambda *_: None)
    monkeypatch.setattr(audit_flow, "audit", MagicMock(side_effect=error("stopped", result)))
    config = MagicMock()
    config.lake.root = hand_written_run.lake
    assert audits.run_audit(config, None, False, False, str) is result
    assert f"run {hand_written_run.run_id} stopped: 0 of 0 pairs" in capsys.readouterr().out


def test_a_run_that_has_ended_is_not_aborted(remote_run):
    remote_run.finish("completed")
    lifecycle.abort(remote_run, KeyboardInterrupt(), NotifyConfig())
    assert remote_run.read_manifest()["status"] == "completed"
