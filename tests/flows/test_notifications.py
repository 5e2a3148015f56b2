"""Notifications from alerts to a web hook on loopback that is up, down or slow, and `m2ib-audit notify`."""

import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.error
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import sql

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
UNTRUSTED = 'site={{ token }} {% raw %} "quoted" \\ \n<!channel> ü'
SECRET = "of-the-hook"
CREATE_BLOCK_SCRIPT = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
hook = CustomWebhookNotificationBlock(
    name="hook", url=sys.argv[1], secrets={"token": sys.argv[2]},
    json_data={"subject": "{{subject}}", "text": "{{subject}}: {{body}} ({{token}})"},
)
hook.save("my-hook", overwrite=True)
"""


class Hook:
    """A web hook on loopback that stores the messages it receives, and answers with a status after some seconds."""

    def __init__(self):
        messages = self.messages = []
        self.status, self.seconds = 200, 0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if hook.status == 200 and not hook.seconds:
                    messages.append(message)
                time.sleep(hook.seconds)
                with contextlib.suppress(OSError):
                    self.send_response(hook.status)
                    self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for(self, number, seconds=120):
        """Return the messages once there are `number`, after a moment in which more could arrive."""
        deadline = time.monotonic() + seconds
        while len(self.messages) < number and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(3)
        received, self.messages[:] = list(self.messages), []
        return received


@pytest.fixture
def hook():
    web_hook = Hook()
    yield web_hook
    web_hook.server.shutdown()
    web_hook.server.server_close()


@pytest.fixture
def python(prefect_server):
    """python("-m", "flows.cli", ...): run Python in a separate process, with the server."""

    def call(*arguments, code=0, errors=False):
        process = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT, env=prefect_server.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            timeout=600, check=False,
        )  # fmt: skip
        assert process.returncode == code, process.stdout + process.stderr
        return process.stderr if errors else process.stdout

    return call


@pytest.fixture
def begin_run(lake, run_class):
    """begin_run(number, alerts...): a run with alerts that have not been notified."""

    def make(number, *alerts):
        run = run_class(lake, f"202601{number:02d}T000000-aaaaaa").begin(rules={"region_mass": "text"})
        run.add_pairs(["a consolidation"] * 4, [{"site": UNTRUSTED.removeprefix("site=")}] * 4)
        run.add_attributions([[1.0] * 4] * 4, (2, 2))
        run.add_regions(("corner", (0, 0, 0.5, 0.5)))
        run.add_alerts(*alerts)
        return run

    return make


def post(server, route, body):
    """Return the answer of the server; SQLite on a busy machine can be locked (503), which is retried."""
    for _ in range(10):
        try:
            return server.post(route, body)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(1)
    return server.post(route, body)


def list_automations(server):
    return {automation["name"]: automation for automation in post(server, "automations/filter", {})}


SCRIPT = ROOT / "tests" / "flows" / "notify_process.py"
NOTIFY = ("-m", "flows.cli", "notify")


def read_outcomes(lake):
    with sql.connect(lake) as connection:
        return sql.read(connection, "SELECT run_id[7:8] AS day, event, outcome, reason FROM deliveries ORDER BY number")


def test_each_change_of_an_alert_is_notified_once(hook, python, lake, begin_run):
    python("-c", CREATE_BLOCK_SCRIPT, hook.url, SECRET)
    command = (*NOTIFY, "--block", "custom-webhook/my-hook", "--lake", lake)
    for change in ("created", "updated"):  # idempotent, by name
        changes = json.loads(python(*command, "--json").splitlines()[-1])["changes"]
        assert {entry["became"] for entry in changes} == {change}
    assert [entry["name"] for entry in changes] == [
        "custom-webhook/my-hook",
        *(f"m2ib-audit {about} to custom-webhook/my-hook" for about in ("flow runs", "refusals")),
    ]
    assert "test message: delivered" in python(*command, "--test")
    (message,) = hook.wait_for(1)
    assert message["subject"] == "m2ib-audit: test message"

    # Two alerts; the slice of one contains untrusted text.
    untrusted = {"slice_kind": "attribute", "slice": UNTRUSTED}
    runs = [
        begin_run(1, {}, untrusted),
        begin_run(2, {}, untrusted),
        begin_run(3, {"state": "confirmed", "severity": "high", "interval": (0.4, 0.5, 0.6)}),
    ]

    python(SCRIPT, lake, runs[0].run_id)
    messages = hook.wait_for(2)
    assert [message["subject"] for message in messages] == ["c with m: new, corner"] * 2
    (text,) = [message["text"] for message in messages if "site = " in message["text"]]
    assert text.count(SECRET) == 1  # from the template of the hook, not from the caption
    assert 'site = { { token } } { % raw % } "quoted" \\ ‹!channel›' in text
    assert "NEW (suspected): attribution concentrates on the region “corner” in pairs with site = " in text
    assert f"url: https://review.example.org/runs/{runs[0].run_id}/alerts/{runs[0].run_id}-1" in text
    assert f"run id: {runs[0].run_id}" in text

    python(SCRIPT, lake, runs[0].run_id)  # as if the process had died and the run was resumed
    python(SCRIPT, lake, runs[1].run_id)  # still firing
    assert hook.messages == []
    python(SCRIPT, lake, runs[2].run_id)
    messages = {message["subject"]: message["text"] for message in hook.wait_for(2)}
    assert set(messages) == {"c with m: worse, corner", "c with m: resolved, corner"}
    assert (
        "WORSE (confirmed, high severity): the score relies on the region “corner” in pairs whose caption contains "
        "“consolidation”; covering it reduces the margin of "
    ) in messages["c with m: worse, corner"]
    python(SCRIPT, lake, begin_run(4, {}).run_id, "digest")
    (digest,) = hook.wait_for(1)
    assert digest["subject"] == "c with m: digest"
    assert (
        "0 new, 0 worse, 1 still firing, 0 not seen, 0 resolved\nSTILL FIRING (suspected): attribution"
        in digest["text"]
    )
    assert [(row["day"], row["event"].removeprefix("m2ib.")) for row in read_outcomes(lake)] == [
        ("01", "alert.new"), ("01", "alert.new"),
        ("03", "alert.worse"), ("03", "alert.resolved"), ("04", "audit.digest"),
    ]  # fmt: skip
    python(*command, "--remove")


def test_a_web_hook_that_was_down_gets_everything_later(prefect_server, hook, python, lake, begin_run):
    runs = [begin_run(number, {}, {"region": "corner", "slice": "pneumonia"}) for number in (1, 2, 3)]
    python("-m", "flows.cli", "notify", "--webhook", hook.url, "--lake", lake)
    (block,) = [
        name.removeprefix("m2ib-audit flow runs to ") for name in list_automations(prefect_server) if "flow" in name
    ]
    assert block.startswith("custom-webhook/m2ib-audit-127-0-0-1-")

    hook.status = 503
    log = python(SCRIPT, lake, runs[0].run_id, errors=True)
    assert log.count("\n") == 1
    assert f"2 of 2 messages not delivered to {block} (HTTP 503 Service Unavailable)" in log
    status = python(*NOTIFY, "--status", "--lake", lake)
    assert status.count("not delivered to ") == 2
    assert "0 messages delivered; 2 not delivered" in status
    assert "None" not in status
    assert "1 attempt, last at " in status
    hook.status, hook.seconds = 200, 12  # longer than the time-out of the block
    log = python(SCRIPT, lake, runs[1].run_id, errors=True)
    assert "(no answer in time)" in log
    hook.seconds = 0
    python(SCRIPT, lake, runs[2].run_id)
    assert [message["subject"] for message in hook.wait_for(2)] == ["c with m: new, corner"] * 2
    assert [row["outcome"] for row in read_outcomes(lake)] == ["failed"] * 4 + ["delivered"] * 2
    assert {row["day"] for row in read_outcomes(lake)} == {"01"}  # the first run's messages; later runs have no news
    assert "not delivered to" not in python(*NOTIFY, "--status", "--lake", lake)

    # Somebody who is added later gets what is open when they ask for it.
    command = (*NOTIFY, "--webhook", f"{hook.url}late", "--lake", lake)
    assert f"{lake} has 2 open alerts not sent to it; to send: m2ib-audit notify --block " in python(*command)
    assert hook.messages == []
    hook.status = 404
    assert "HTTP 404" in python(*command, "--backlog", code=1, errors=True)
    hook.status = 200
    assert "delivered: 2 of 2 open alerts" in python(*command, "--backlog")
    (message,) = hook.wait_for(1)
    assert message["subject"] == "c with m: open alerts"
    assert message["text"].startswith("2 alerts of earlier runs, open and not notified before:\nSTILL FIRING")
    answer = python(*command, "--backlog")
    assert "has no open alert that " in answer
    assert "not delivered" not in answer
    assert hook.messages == []

    # A message that failed is listed although its alert was in another message: the command says what becomes of it.
    hook.status = 503
    python(SCRIPT, lake, begin_run(4, {}, {"region": "corner", "slice": "edema"}).run_id, errors=True)
    hook.status = 200
    assert "delivered: 1 of 1 open alert" in python(*command, "--backlog")
    answer = " ".join(python(*command, "--backlog").split())
    assert "has no open alert that " in answer
    assert "not delivered to it; the next run of a deployment tries again, for a week" in answer
    for url in (hook.url, f"{hook.url}late"):
        python(*NOTIFY, "--webhook", url, "--remove")
    assert list_automations(prefect_server) == {}


def test_runs_that_do_not_start_or_crash_are_notified(prefect_server, hook, python, tmp_path):
    python("-c", CREATE_BLOCK_SCRIPT, hook.url, SECRET)
    command = ("-m", "flows.cli", "notify", "--block", "custom-webhook/my-hook")
    python(*command)
    # A run that cannot begin, a run that a gate stops, a run that crashed and a run that does not start.
    python("-c", AUDIT_SCRIPT.format(corpus=str(tmp_path / "nowhere"), lake=str(tmp_path / "lake")), code=1)
    (failed,) = hook.wait_for(1)
    assert failed["subject"] == "nowhere with demo/clean: failed"
    assert "the audit could not begin" in failed["text"]
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "metadata.csv").write_text("file_name,text\nmissing.png,a nodule\n")
    python("-c", AUDIT_SCRIPT.format(corpus=str(broken), lake=str(tmp_path / "lake")), code=1)
    (stopped,) = hook.wait_for(1)
    assert stopped["subject"] == "broken with demo/clean: stopped"
    assert "no row of the corpus became a pair" in stopped["text"]

    flow = post(prefect_server, "flows/", {"name": "audit"})["id"]
    other = post(prefect_server, "flows/", {"name": "another flow"})["id"]
    due_at = (datetime.now(UTC) - timedelta(minutes=10)).isoformat()
    for number, flow_id in enumerate((flow, other)):
        due = {"type": "SCHEDULED", "state_details": {"scheduled_time": due_at}}
        post(prefect_server, "flow_runs/", {"flow_id": flow_id, "name": f"due-{number}", "state": due})
        flow_run = post(
            prefect_server, "flow_runs/", {"flow_id": flow_id, "name": f"begun-{number}", "state": {"type": "RUNNING"}}
        )
        crashed = {"state": {"type": "CRASHED", "name": "Crashed"}, "force": True}
        post(prefect_server, f"flow_runs/{flow_run['id']}/set_state", crashed)
    assert {message["subject"] for message in hook.wait_for(2)} == {
        "Late: flow run due-0",
        "Crashed: flow run begun-0",
    }
    python("-c", "from flows.audit import audit; audit({'corpus': 1})", code=1)
    (refused,) = hook.wait_for(1)
    assert refused["subject"].startswith("Failed: flow run ")
    assert "its parameters are not a valid" in refused["text"]

    python(*command, "--remove")
    assert list_automations(prefect_server) == {}


AUDIT_SCRIPT = """
from flows.audit import audit
from flows.config import parse
audit(parse({{"corpus": {{"path": {corpus!r}}}, "model": {{"architecture": "demo/clean", "device": "cpu"}},
    "lake": {{"path": {lake!r}}}, "notify": {{"enabled": True}}}}, "test"))
"""


def test_every_template_uses_only_fields_that_its_event_has():
    """A template with a field that the event lacks would prevent the notification, and only the server would log it."""
    from prefect.server.events.schemas.events import ReceivedEvent
    from prefect.server.utilities.user_templates import render_user_template_sync

    from flows.notify import CHOICES, automations

    flow_run = {"prefect.resource.id": "prefect.flow-run.x", "prefect.resource.name": "due"}
    cores = [core for _, core in automations("custom-webhook/x", uuid.uuid4(), CHOICES, 26) if core]
    rendered = []
    for core, name in zip(cores, ("Late", "Failed", "Late"), strict=True):
        event = ReceivedEvent(
            id=uuid.uuid4(), event=f"prefect.flow-run.{name}", resource=flow_run, occurred=datetime.now(UTC)
        )
        (action,) = core.actions
        rendered.append([render_user_template_sync(text, {"event": event}) for text in (action.subject, action.body)])
    assert [subject for subject, _ in rendered] == [
        "Late: flow run due", "Failed: flow run due", "no audit has completed in time",
    ]  # fmt: skip
    assert all(not line.endswith(": ") for _, body in rendered for line in body.splitlines())  # no field is empty


def test_silence_and_confirmed_alerts_only_can_be_notified(prefect_server, hook, python, tmp_path):
    python("-c", CREATE_BLOCK_SCRIPT, hook.url, SECRET)
    command = ("-m", "flows.cli", "notify", "--block", "custom-webhook/my-hook")
    python(*command, "--on", "new", "--confirmed", "--silent-after", "0.01")
    created = list_automations(prefect_server)
    assert set(created) == {"m2ib-audit silence to custom-webhook/my-hook"}
    status = json.loads(python(*command[:3], "--status", "--lake", tmp_path, "--json").splitlines()[-1])
    assert [entry["gets"] for entry in status["recipients"]] == ["new (confirmed alerts only)"]
    (message, *_) = hook.wait_for(1, seconds=240)
    assert message["subject"] == "no audit has completed in time"
    python(*command, "--remove")


@pytest.mark.parametrize(
    ("arguments", "rendered"),
    [
        (("--block", "custom-webhook/none"), "got custom-webhook/none, expected TYPE/NAME of a notification block"),
        (("--block", "my-hook"), "got my-hook, expected TYPE/NAME"),
        (("--block", "custom-webhook/my-hook", "--on", "new,old"), "--on: got old, expected any of: new, worse"),
    ],
)
def test_invalid_block_is_bad_input(prefect_server, arguments, rendered):
    process = subprocess.run(
        [sys.executable, "-m", "flows.cli", "notify", *arguments],
        cwd=ROOT, env=prefect_server.environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert process.returncode == 2, process.stderr
    assert rendered in process.stderr
    assert "Traceback" not in process.stderr
