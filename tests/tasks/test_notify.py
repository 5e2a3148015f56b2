"""Telling: rows before events, nothing twice, and never at the expense of the run."""

import pytest

import sql
from tasks import notify as stage
from tasks.notify import notify_alerts, notify_run_end, send_new_events
from tasks.settings import NotifyConfig

NEWS = NotifyConfig()


@pytest.fixture
def sent(monkeypatch):
    """Names and ids of the events that were handed over; nothing is sent."""
    events = []

    class Worker:
        @classmethod
        def instance(cls):
            return cls()

        def wait_until_empty(self):
            pass

    monkeypatch.setattr(stage, "EventsWorker", Worker)
    monkeypatch.setattr(
        stage, "emit_event", lambda event, *_, **given: events.append((event, str(given["id"]))) or event
    )
    return events


@pytest.fixture
def alerted(hand_written):
    """A run with an alert that stands on its own and one that follows from it."""
    hand_written.add_pairs(["a consolidation"] * 4)
    hand_written.add_attributions([[1.0] * 4] * 4, (2, 2))
    hand_written.add_alerts({}, {"slice": "a", "explained_by": "consolidation"})
    return hand_written


def stored(run, table):
    with run.connect() as connection:
        return sql.read(connection, f"FROM {table}")


def test_only_alerts_that_stand_on_their_own_are_told_after_they_are_stored(alerted, sent, monkeypatch):
    seen = []
    emit = stage.emit_event
    monkeypatch.setattr(
        stage, "emit_event", lambda *a, **k: seen.append(len(stored(alerted, "lives"))) or emit(*a, **k)
    )
    assert notify_alerts(alerted, NEWS, 3) == 1
    assert seen == [2]
    assert [event for event, _ in sent] == ["m2ib.alert.new"]
    (row,) = stored(alerted, "notifications")
    assert (row["event"], row["event_id"]) == sent[0]
    assert row["dedup_key"] == f"{row['life_id']}:new:{alerted.run_id}"


def test_nothing_is_told_twice_when_a_run_is_resumed(alerted, sent):
    assert [notify_alerts(alerted, NEWS, 3) for _ in range(3)] == [1, 0, 0]
    assert len(sent) == len(stored(alerted, "notifications")) == 1


def test_what_was_sent_before_the_process_died_is_sent_again_under_the_same_id(alerted, sent, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(alerted), "changes", lambda *_: pytest.fail("the process dies"))
        with pytest.raises(pytest.fail.Exception):
            send_new_events(alerted, [stage.build_run_event(alerted.read_manifest(), "")])
    assert send_new_events(alerted, [stage.build_run_event(alerted.read_manifest(), "")]) == 1
    assert len(sent) == 2
    assert len(set(sent)) == 1


def test_what_prefect_did_not_take_has_not_been_told(alerted, sent, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stage, "emit_event", lambda *_, **__: None)
        assert notify_alerts(alerted, NEWS, 3) == 0
    assert stored(alerted, "notifications") == []
    assert notify_alerts(alerted, NEWS, 3) == 1


@pytest.mark.parametrize(
    ("rules", "events"),
    [
        (NotifyConfig(tell=(), digest=False), []),
        (NotifyConfig(tell=("worse",), digest=False), []),
        (NotifyConfig(tell=("new", "worse"), digest=False), ["m2ib.alert.new"]),
        (NotifyConfig(tell=("new",), digest=True), ["m2ib.audit.digest"]),
    ],
)
def test_what_is_told_is_set(alerted, sent, rules, events):
    notify_alerts(alerted, rules, 3)
    assert [event for event, _ in sent] == events


def test_each_end_of_a_run_is_told_once(alerted, sent):
    for status, reason in [("failed", "a"), ("failed", "a"), ("failed", "b"), ("completed", None)]:
        alerted.finish(status, reason)
        notify_run_end(alerted)
    assert [event for event, _ in sent] == ["m2ib.audit.failed", "m2ib.audit.failed", "m2ib.audit.completed"]
    assert len(stored(alerted, "notifications")) == 3


def test_what_cannot_be_told_costs_no_run(alerted, monkeypatch, caplog):
    def broken(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(stage, "emit_event", broken)
    assert stage.notify.fn(alerted, NEWS, 3) == 0
    notify_run_end(alerted)
    stage.notify_failed_start({"corpus": "c", "model": "m"}, "x")
    assert caplog.text.count("no space left") >= 3
    assert len(stored(alerted, "lives")) == 2


def test_a_server_that_takes_no_events_does_not_hold_the_audit(alerted, sent, monkeypatch, caplog):
    import threading

    never = threading.Event()
    monkeypatch.setattr(stage.EventsWorker, "wait_until_empty", lambda _: never.wait())
    monkeypatch.setattr(stage, "_SEND_SECONDS", 0.1)
    assert notify_alerts(alerted, NEWS, 3) == 1
    assert "has not sent all events" in caplog.text
    never.set()
