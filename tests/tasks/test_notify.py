"""Alert events are sent after their rows are stored, once each, and a failure never fails the run."""

import pytest

import sql
from tasks import notify as stage
from tasks.messages import build_run_event
from tasks.notify import notify, notify_run_end, send_new_events
from tasks.settings import NotifyConfig

NEWS = NotifyConfig()


@pytest.fixture
def sent(monkeypatch):
    """Names and ids of the events handed to Prefect; nothing is sent."""
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
def alerted(hand_written_run):
    """A run with an alert that stands on its own and one that follows from it."""
    hand_written_run.add_pairs(["a consolidation"] * 4)
    hand_written_run.add_attributions([[1.0] * 4] * 4, (2, 2))
    hand_written_run.add_alerts({}, {"slice": "a", "explained_by": "consolidation"})
    return hand_written_run


def stored(run, table):
    with run.connect() as connection:
        return sql.read(connection, f"FROM {table}")


def test_only_independent_alerts_are_sent_after_they_are_stored(alerted, sent, monkeypatch):
    seen = []
    emit = stage.emit_event
    monkeypatch.setattr(
        stage, "emit_event", lambda *a, **k: seen.append(len(stored(alerted, "lives"))) or emit(*a, **k)
    )
    assert notify.fn(alerted, NEWS, 3) == 1
    assert seen == [2]
    assert [event for event, _ in sent] == ["m2ib.alert.new"]
    (row,) = stored(alerted, "notifications")
    assert (row["event"], row["event_id"]) == sent[0]
    assert row["dedup_key"] == f"{row['life_id']}:new:{alerted.run_id}"


def test_a_resumed_run_sends_nothing_twice(alerted, sent):
    assert [notify.fn(alerted, NEWS, 3) for _ in range(3)] == [1, 0, 0]
    assert len(sent) == len(stored(alerted, "notifications")) == 1


def test_an_event_sent_before_the_process_died_is_sent_again_with_the_same_id(alerted, sent, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(type(alerted), "changes", lambda *_: pytest.fail("the process dies"))
        with pytest.raises(pytest.fail.Exception):
            send_new_events(alerted, [build_run_event(alerted.read_manifest(), "")])
    assert send_new_events(alerted, [build_run_event(alerted.read_manifest(), "")]) == 1
    assert len(sent) == 2
    assert len(set(sent)) == 1


def test_an_event_that_prefect_did_not_accept_is_not_stored_as_sent(alerted, sent, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stage, "emit_event", lambda *_, **__: None)
        assert notify.fn(alerted, NEWS, 3) == 0
    assert stored(alerted, "notifications") == []
    assert notify.fn(alerted, NEWS, 3) == 1


@pytest.mark.parametrize(
    ("rules", "events"),
    [
        (NotifyConfig(tell=(), digest=False), []),
        (NotifyConfig(tell=("worse",), digest=False), []),
        (NotifyConfig(tell=("new", "worse"), digest=False), ["m2ib.alert.new"]),
        (NotifyConfig(tell=("new",), digest=True), ["m2ib.audit.digest"]),
    ],
)
def test_settings_select_the_events(alerted, sent, rules, events):
    notify.fn(alerted, rules, 3)
    assert [event for event, _ in sent] == events


def test_each_end_of_a_run_is_sent_once(alerted, sent):
    for status, reason in [("failed", "a"), ("failed", "a"), ("failed", "b"), ("completed", None)]:
        alerted.finish(status, reason)
        notify_run_end(alerted)
    assert [event for event, _ in sent] == ["m2ib.audit.failed", "m2ib.audit.failed", "m2ib.audit.completed"]
    assert len(stored(alerted, "notifications")) == 3


def test_a_failure_to_send_does_not_fail_the_run(alerted, monkeypatch, caplog):
    def broken(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(stage, "emit_event", broken)
    stage.notify.fn(alerted, NEWS, 3)
    notify_run_end(alerted)
    stage.notify_failed_start({"corpus": "c", "model": "m"}, "x")
    assert caplog.text.count("no space left") >= 3
    assert len(stored(alerted, "lives")) == 2


def test_a_server_that_accepts_no_events_does_not_block_the_audit(alerted, sent, monkeypatch, caplog):
    import threading

    never = threading.Event()
    monkeypatch.setattr(stage.EventsWorker, "wait_until_empty", lambda _: never.wait())
    monkeypatch.setattr(stage, "_SEND_SECONDS", 0.1)
    assert notify.fn(alerted, NEWS, 3) == 1
    assert "has not sent all events" in caplog.text
    never.set()
