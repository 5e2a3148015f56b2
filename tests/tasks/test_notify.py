"""Alert events are sent after their rows are stored, once each, and a failure never fails the run."""

import pytest

import sql
from tasks import notify as stage
from tasks.messages import build_run_event
from tasks.notify import notify, notify_run_end, send_new_events
from tasks.settings import NotifyConfig

SETTINGS = NotifyConfig()


@pytest.fixture
def sent_events(monkeypatch):
    """Names and ids of the events that were passed to Prefect, which sends none of them."""
    events = []

    class Worker:
        @classmethod
        def instance(cls):
            return cls()

        def wait_until_empty(self):
            pass

    monkeypatch.setattr(stage, "EventsWorker", Worker)
    monkeypatch.setattr(
        stage, "emit_event", lambda event, *_, **kwargs: events.append((event, str(kwargs["id"]))) or event
    )
    return events


@pytest.fixture
def run_with_alerts(hand_written_run):
    """A run with an independent alert and one that it explains."""
    hand_written_run.add_pairs(["a consolidation"] * 4)
    hand_written_run.add_attributions([[1.0] * 4] * 4, (2, 2))
    hand_written_run.add_alerts({}, {"slice": "a", "explained_by": "consolidation"})
    return hand_written_run


def read_table(run, table):
    with run.connect() as connection:
        return sql.read(connection, f"FROM {table}")


def test_only_independent_alerts_are_sent_after_they_are_stored(run_with_alerts, sent_events, monkeypatch):
    num_stored = []
    emit = stage.emit_event
    monkeypatch.setattr(
        stage,
        "emit_event",
        lambda *a, **k: num_stored.append(len(read_table(run_with_alerts, "lives"))) or emit(*a, **k),
    )
    assert notify.fn(run_with_alerts, SETTINGS, 3) == 1
    assert num_stored == [2]
    assert [event for event, _ in sent_events] == ["m2ib.alert.new"]
    (row,) = read_table(run_with_alerts, "notifications")
    assert (row["event"], row["event_id"]) == sent_events[0]
    assert row["dedup_key"] == f"{row['life_id']}:new:{run_with_alerts.run_id}"


def test_resumed_run_sends_each_event_once(run_with_alerts, sent_events):
    assert [notify.fn(run_with_alerts, SETTINGS, 3) for _ in range(3)] == [1, 0, 0]
    assert len(sent_events) == len(read_table(run_with_alerts, "notifications")) == 1


def test_an_event_sent_before_the_process_died_is_sent_again_with_the_same_id(
    run_with_alerts, sent_events, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(type(run_with_alerts), "changes", lambda *_: pytest.fail("the process dies"))
        with pytest.raises(pytest.fail.Exception):
            send_new_events(run_with_alerts, [build_run_event(run_with_alerts.read_manifest(), "")])
    assert send_new_events(run_with_alerts, [build_run_event(run_with_alerts.read_manifest(), "")]) == 1
    assert len(sent_events) == 2
    assert len(set(sent_events)) == 1


def test_an_event_that_prefect_did_not_accept_is_not_stored_as_sent(run_with_alerts, sent_events, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stage, "emit_event", lambda *_, **__: None)
        assert notify.fn(run_with_alerts, SETTINGS, 3) == 0
    assert read_table(run_with_alerts, "notifications") == []
    assert notify.fn(run_with_alerts, SETTINGS, 3) == 1


@pytest.mark.parametrize(
    ("rules", "events"),
    [
        (NotifyConfig(tell=(), digest=False), []),
        (NotifyConfig(tell=("worse",), digest=False), []),
        (NotifyConfig(tell=("new", "worse"), digest=False), ["m2ib.alert.new"]),
        (NotifyConfig(tell=("new",), digest=True), ["m2ib.audit.digest"]),
    ],
)
def test_settings_select_the_events(run_with_alerts, sent_events, rules, events):
    notify.fn(run_with_alerts, rules, 3)
    assert [event for event, _ in sent_events] == events


def test_each_end_of_a_run_is_sent_once(run_with_alerts, sent_events):
    for status, reason in [("failed", "a"), ("failed", "a"), ("failed", "b"), ("completed", None)]:
        run_with_alerts.finish(status, reason)
        notify_run_end(run_with_alerts)
    assert [event for event, _ in sent_events] == ["m2ib.audit.failed", "m2ib.audit.failed", "m2ib.audit.completed"]
    assert len(read_table(run_with_alerts, "notifications")) == 3


def test_a_failure_to_send_does_not_fail_the_run(run_with_alerts, monkeypatch, caplog):
    def raise_error(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(stage, "emit_event", raise_error)
    stage.notify.fn(run_with_alerts, SETTINGS, 3)
    notify_run_end(run_with_alerts)
    stage.notify_failed_start({"corpus": "c", "model": "m"}, "x")
    assert caplog.text.count("no space left") >= 3
    assert len(read_table(run_with_alerts, "lives")) == 2


def test_a_server_that_accepts_no_events_does_not_block_the_audit(run_with_alerts, sent_events, monkeypatch, caplog):
    import threading

    never = threading.Event()
    monkeypatch.setattr(stage.EventsWorker, "wait_until_empty", lambda _: never.wait())
    monkeypatch.setattr(stage, "_SEND_SECONDS", 0.1)
    assert notify.fn(run_with_alerts, SETTINGS, 3) == 1
    assert "has not sent all events" in caplog.text
    never.set()
