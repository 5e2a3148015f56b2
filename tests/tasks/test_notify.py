"""Messages are sent when a run has ended, once each; what was not delivered is recorded and sent by the next run."""

import contextlib
import threading

import httpx
import pytest

import sql
from stores import ledger
from tasks import notify as stage
from tasks import outbox, recipients
from tasks.messages import Links, build_run_event
from tasks.notify import notify_run_end, send_new_events, store_alert_history
from tasks.recipients import Recipient
from tasks.settings import NotifyConfig

SETTINGS = NotifyConfig(enabled=True)
HOOK = Recipient("custom-webhook/hook", ("new", "worse", "resolved", "digest", "failed"))


class Block:
    """A notification block that takes messages, or raises the error that is set."""

    def __init__(self):
        self.attempts, self.messages, self.error = 0, [], None

    def raise_on_failure(self):
        return contextlib.nullcontext()

    def notify(self, body, subject=None):
        self.attempts += 1
        if self.error:
            raise self.error
        self.messages.append(f"{subject}\n{body}")


@pytest.fixture
def block(monkeypatch):
    """A block that all recipients have."""
    made = Block()
    monkeypatch.setattr(recipients, "_load", lambda _: made)
    monkeypatch.setattr(recipients, "_RETRY_SECONDS", (0.0, 0.0))
    return made


@pytest.fixture
def everyone(monkeypatch):
    """The recipients that the server knows."""
    known = [HOOK]
    monkeypatch.setattr(outbox.recipients, "read_recipients", lambda: list(known))
    return known


@pytest.fixture(autouse=True)
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
    store_alert_history(hand_written_run, 3)
    hand_written_run.finish("completed")
    return hand_written_run


def read_table(run, table):
    with run.connect() as connection:
        return sql.read(connection, f"FROM {table}")


def read_deliveries(lake):
    with sql.connect(lake) as connection:
        return sql.read(connection, "SELECT * FROM deliveries ORDER BY number, event")


def subjects(block):
    return [message.splitlines()[0] for message in block.messages]


def refused(status=None):
    request = httpx.Request("POST", "https://hooks.example.org/secret-token")
    if status is None:
        return httpx.ConnectError("[Errno 111] Connection refused", request=request)
    response = httpx.Response(status, request=request)
    return httpx.HTTPStatusError(f"Error {status} for url '{request.url}'", request=request, response=response)


def test_only_independent_alerts_are_sent(run_with_alerts, block, everyone, sent_events):
    notify_run_end(run_with_alerts, SETTINGS)
    assert [event for event, _ in sent_events] == ["m2ib.alert.new", "m2ib.audit.completed"]
    assert subjects(block) == ["c with m: new, corner"]  # nobody wants to know that the run completed
    (row,) = read_deliveries(run_with_alerts.lake)
    assert (row["recipient"], row["outcome"], row["reason"]) == (HOOK.block, "delivered", None)
    assert row["life_ids"] == [life["life_id"] for life in read_table(run_with_alerts, "lives") if life["announced"]]


def test_a_resumed_run_sends_each_message_once(run_with_alerts, block, everyone, sent_events):
    for _ in range(3):
        notify_run_end(run_with_alerts, SETTINGS)
    assert len(sent_events) == len(read_table(run_with_alerts, "notifications")) == 2
    assert len(block.messages) == len(read_deliveries(run_with_alerts.lake)) == 1


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({"tell": ()}, []),
        ({"tell": ("worse",)}, []),
        ({"tell": ("new", "worse")}, ["c with m: new, corner"]),
        ({"tell": ("new",), "digest": True}, ["c with m: digest"]),
        ({"enabled": False}, []),
        ({"enabled": None}, []),  # this is not the run of a deployment
    ],
)
def test_settings_select_the_messages(run_with_alerts, block, everyone, settings, sent):
    notify_run_end(run_with_alerts, NotifyConfig(**({"enabled": True} | settings)))
    assert subjects(block) == sent


def test_runs_of_deployments_notify(run_with_alerts, block, everyone, monkeypatch):
    monkeypatch.setattr(recipients.runtime.deployment, "id", "x", raising=False)
    notify_run_end(run_with_alerts, NotifyConfig())
    assert subjects(block) == ["c with m: new, corner"]


def test_messages_link_the_page_of_the_alert(run_with_alerts, block, everyone):
    notify_run_end(run_with_alerts, NotifyConfig(enabled=True, review_url="https://review.example.org/"))
    run_id, (alert, _) = run_with_alerts.run_id, read_table(run_with_alerts, "alerts ORDER BY alert_id")
    assert f"url: https://review.example.org/runs/{run_id}/alerts/{alert['alert_id']}\n" in block.messages[0]
    assert str(run_with_alerts.lake) not in block.messages[0]  # a path of this machine


def test_a_recipient_that_is_down_costs_one_line_and_gets_its_messages_from_the_next_run(
    add_next_run, block, everyone, caplog
):
    block.error = refused()
    first = add_next_run({}, {"region": "frame"})
    notify_run_end(first, SETTINGS)
    assert block.attempts == 3  # for the first message; the second one is not tried
    assert len(caplog.records) == 1
    assert caplog.messages == [
        "2 of 2 messages not delivered to custom-webhook/hook (no connection: [Errno 111] Connection refused); "
        "the next run tries again"
    ]
    assert [row["outcome"] for row in read_deliveries(first.lake)] == ["failed", "failed"]

    notify_run_end(add_next_run({}, {"region": "frame"}), SETTINGS)
    with sql.connect(first.lake) as connection:
        undelivered = sql.rows(connection, "review/undelivered_messages")
    assert [(row["attempts"], row["run_id"], row["region"]) for row in undelivered] == [
        (2, first.run_id, "corner"), (2, first.run_id, "frame"),
    ]  # fmt: skip

    block.error = None
    notify_run_end(add_next_run({}, {"region": "frame"}), SETTINGS)
    assert sorted(subjects(block)) == ["c with m: new, corner", "c with m: new, frame"]
    assert all(f"run id: {first.run_id}" in message for message in block.messages)
    with sql.connect(first.lake) as connection:
        assert sql.rows(connection, "review/undelivered_messages") == []
    notify_run_end(add_next_run({}, {"region": "frame"}), SETTINGS)
    assert len(block.messages) == 2


def test_an_alert_that_was_resolved_before_its_message_arrived_is_not_sent(add_next_run, block, everyone):
    block.error = refused()
    notify_run_end(add_next_run({}, {"region": "frame"}), SETTINGS)
    block.error = None
    last = add_next_run({})
    notify_run_end(last, SETTINGS)
    assert subjects(block) == ["c with m: new, corner"]
    assert sorted(row["outcome"] for row in read_deliveries(last.lake)) == ["delivered", "dropped", "failed", "failed"]


def test_alerts_of_runs_by_hand_are_sent_by_the_next_run_that_notifies(add_next_run, block, everyone):
    by_hand = add_next_run({}, {"region": "frame"})
    notify_run_end(by_hand, NotifyConfig(enabled=False))
    assert [(row["outcome"], row["recipient"]) for row in read_deliveries(by_hand.lake)] == [("nobody", None)] * 2
    notify_run_end(add_next_run({}, {"region": "hottest corner"}), NotifyConfig(enabled=False))

    nightly = add_next_run({}, {"region": "hottest corner"}, {"region": "stripe"})
    notify_run_end(nightly, SETTINGS)
    assert subjects(block) == [
        "c with m: open alerts",
        "c with m: new, stripe",
    ]
    assert "2 alerts of earlier runs, open and not notified before:\nSTILL FIRING (suspected)" in block.messages[0]
    notify_run_end(add_next_run({}, {"region": "hottest corner"}, {"region": "stripe"}), SETTINGS)
    assert len(block.messages) == 2
    notify_run_end(add_next_run(), SETTINGS)
    assert sorted(subjects(block)[2:]) == [
        "c with m: resolved, " + name for name in ("corner", "hottest corner", "stripe")
    ]


def test_alerts_that_an_earlier_release_notified_are_not_sent_again(add_next_run, block, everyone):
    add_next_run({})  # stores no deliveries
    notify_run_end(add_next_run({}), SETTINGS)
    assert block.messages == []


def test_a_recipient_gets_only_what_it_wants(add_next_run, block, everyone):
    everyone[:] = [Recipient("custom-webhook/hook", ("new", "worse"), confirmed=True)]
    notify_run_end(add_next_run({}), SETTINGS)
    notify_run_end(add_next_run({}), SETTINGS)
    assert block.messages == []  # suspected
    notify_run_end(add_next_run({"state": "confirmed", "severity": "low"}), SETTINGS)
    assert subjects(block) == ["c with m: worse, corner"]


@pytest.mark.parametrize("days", [6, 8])
def test_messages_are_dropped_after_a_week(add_next_run, block, everyone, monkeypatch, days):
    block.error = refused()
    notify_run_end(add_next_run({}), SETTINGS)
    block.error = None
    monkeypatch.setattr(outbox, "RETRY_DAYS", 7 - days)  # a week has passed, or not
    notify_run_end(add_next_run({}), SETTINGS)
    run = add_next_run({})
    assert [row["outcome"] for row in read_deliveries(run.lake)][:2] == [
        "failed",
        "delivered" if days < 7 else "dropped",
    ]


def test_a_message_that_is_refused_does_not_stop_others(add_next_run, block, everyone, caplog):
    block.error = refused(400)
    notify_run_end(add_next_run({}, {"region": "frame"}), SETTINGS)
    assert block.attempts == 2  # each once: to repeat it at once is no use
    assert "HTTP 400 Bad Request" in caplog.text
    assert "secret-token" not in caplog.text


def test_a_slow_recipient_does_not_hold_up_the_run(add_next_run, block, everyone, monkeypatch):
    monkeypatch.setattr(recipients, "_MAX_SECONDS", -1)
    run = add_next_run({})
    notify_run_end(run, SETTINGS)
    assert [row["outcome"] for row in read_deliveries(run.lake)] == ["failed"]


def test_a_server_that_does_not_answer_costs_one_line(add_next_run, block, everyone, monkeypatch, caplog):
    def raise_error():
        raise recipients.RecipientsError("the Prefect server did not answer (ConnectError)")

    with monkeypatch.context() as patch:
        patch.setattr(outbox.recipients, "read_recipients", raise_error)
        notify_run_end(add_next_run({}), SETTINGS)
    assert caplog.messages == ["nobody is notified: the Prefect server did not answer (ConnectError)"]
    notify_run_end(add_next_run({}), SETTINGS)
    assert subjects(block) == ["c with m: open alerts"]


def test_a_damaged_ledger_costs_repeated_messages_only(run_with_alerts, block, everyone, monkeypatch, caplog):
    notify_run_end(run_with_alerts, SETTINGS)
    (run_with_alerts.lake / "ledger" / "00000001.json").write_text("{}")
    ledger._cache.clear()
    notify_run_end(run_with_alerts, SETTINGS)
    assert subjects(block) == ["c with m: new, corner"] * 2
    assert "messages may be repeated" in caplog.text


def test_an_event_sent_before_the_process_died_is_sent_again_with_the_same_id(
    run_with_alerts, sent_events, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(type(run_with_alerts), "changes", lambda *_: pytest.fail("the process dies"))
        with pytest.raises(pytest.fail.Exception):
            send_new_events(run_with_alerts, [build_run_event(run_with_alerts.read_manifest(), Links(""))])
    assert send_new_events(run_with_alerts, [build_run_event(run_with_alerts.read_manifest(), Links(""))]) == 1
    assert len(sent_events) == 2
    assert len(set(sent_events)) == 1


def test_an_event_that_prefect_did_not_accept_is_not_stored_as_sent(run_with_alerts, everyone, block, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stage, "emit_event", lambda *_, **__: None)
        notify_run_end(run_with_alerts, SETTINGS)
    assert read_table(run_with_alerts, "notifications") == []
    notify_run_end(run_with_alerts, SETTINGS)
    assert len(read_table(run_with_alerts, "notifications")) == 2


def test_each_end_of_a_run_is_sent_once(hand_written_run, block, everyone):
    for status, reason in [("failed", "a"), ("failed", "a"), ("failed", "b"), ("completed", None)]:
        hand_written_run.finish(status, reason)
        notify_run_end(hand_written_run, SETTINGS)
    assert subjects(block) == ["c with m: failed", "c with m: failed"]
    assert len(read_table(hand_written_run, "notifications")) == 3


def test_an_audit_that_cannot_begin_is_notified(block, everyone):
    stage.notify_failed_start({"audit": "chest-prod", "corpus": "c", "model": "m"}, "no such folder", SETTINGS)
    stage.notify_failed_start({"corpus": "c", "model": "m"}, "no such folder", NotifyConfig())
    assert len(block.messages) == 1
    assert subjects(block) == ["chest-prod: failed"]
    assert "the audit could not begin: no such folder" in block.messages[0]


def test_a_failure_to_send_does_not_fail_the_run(run_with_alerts, monkeypatch, caplog):
    def raise_error(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(stage, "emit_event", raise_error)
    notify_run_end(run_with_alerts, SETTINGS)
    stage.notify_failed_start({"corpus": "c", "model": "m"}, "x", SETTINGS)
    assert caplog.text.count("no space left") >= 2
    assert len(read_table(run_with_alerts, "lives")) == 2


def test_a_server_that_accepts_no_events_does_not_block_the_audit(
    run_with_alerts, block, everyone, monkeypatch, caplog
):
    never = threading.Event()
    monkeypatch.setattr(stage.EventsWorker, "wait_until_empty", lambda _: never.wait())
    monkeypatch.setattr(stage, "_SEND_SECONDS", 0.1)
    notify_run_end(run_with_alerts, SETTINGS)
    assert "has not sent all events" in caplog.text
    assert len(block.messages) == 1
    never.set()
