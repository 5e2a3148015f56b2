"""Notifications from alerts to a web hook on loopback, by a Prefect server and `m2ib-audit notify`."""

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
    """A web hook on loopback that stores the messages it receives."""

    def __init__(self):
        messages = self.messages = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
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

    def call(*arguments, code=0):
        process = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT, env=prefect_server.environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            timeout=600, check=False,
        )  # fmt: skip
        assert process.returncode == code, process.stdout + process.stderr
        return process.stdout

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


KINDS = ["new", "worse", "resolved"]


def test_each_change_of_an_alert_is_notified_once(prefect_server, hook, python, lake, begin_run, tmp_path):
    python("-c", CREATE_BLOCK_SCRIPT, hook.url, SECRET)
    command = ("-m", "flows.cli", "notify", "--block", "custom-webhook/my-hook")
    for change in ("created", "updated"):  # idempotent, by name
        entries = json.loads(python(*command, "--json").splitlines()[-1])["automations"]
        assert {entry["became"] for entry in entries} == {change}
        assert set(list_automations(prefect_server)) == {entry["name"] for entry in entries}
    assert len(entries) == 4

    # Two alerts; the slice of one contains untrusted text.
    untrusted = {"slice_kind": "attribute", "slice": UNTRUSTED}
    runs = [
        begin_run(1, {}, untrusted),
        begin_run(2, {}, untrusted),
        begin_run(3, {"state": "confirmed", "severity": "high", "interval": (0.4, 0.5, 0.6)}),
    ]
    script = ROOT / "tests" / "flows" / "notify_process.py"

    def notify(run, digest=False):
        return int(python(script, lake, json.dumps([[run.run_id, KINDS, digest]])))

    assert notify(runs[0]) == 2
    messages = hook.wait_for(2)
    assert [message["subject"] for message in messages] == ["c with m: new, corner"] * 2
    (text,) = [message["text"] for message in messages if "site = " in message["text"]]
    assert text.count(SECRET) == 1  # from the template of the hook, not from the caption
    assert 'site = { { token } } { % raw % } "quoted" \\ ‹!channel›' in text
    assert "NEW (suspected): attribution concentrates on the region “corner” in pairs with site = " in text
    assert f"report: {runs[0].folder / 'report.html'}" in text
    assert f"run: {runs[0].run_id}" in text

    runs[0].update(status="running")  # as if the process had died before the run was complete, and the run was resumed
    assert notify(runs[0]) == 0
    assert notify(runs[1]) == 0  # still firing
    assert notify(runs[2]) == 2
    messages = {message["subject"]: message["text"] for message in hook.wait_for(2)}
    assert set(messages) == {"c with m: worse, corner", "c with m: resolved, corner"}
    assert (
        "WORSE (confirmed, high severity): the score relies on the region “corner” in pairs whose caption contains "
        "“consolidation”; covering it reduces the margin of "
    ) in messages["c with m: worse, corner"]
    assert notify(begin_run(4, {}), digest=True) == 1
    (digest,) = hook.wait_for(1)
    assert digest["subject"] == "c with m: digest"
    assert (
        "0 new, 0 worse, 1 still firing, 0 not seen, 0 resolved\nSTILL FIRING (suspected): attribution"
        in digest["text"]
    )
    with sql.connect(lake) as connection:
        stored = sql.read(connection, "SELECT run_id[:8] AS day, event FROM notifications ORDER BY day, event")
    assert [(row["day"], row["event"].removeprefix("m2ib.")) for row in stored] == [
        ("20260101", "alert.new"), ("20260101", "alert.new"),
        ("20260103", "alert.resolved"), ("20260103", "alert.worse"), ("20260104", "audit.digest"),
    ]  # fmt: skip

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
    "lake": {{"path": {lake!r}}}}}, "test"))
"""


def test_every_template_uses_only_fields_that_its_event_has():
    """A template with a field that the event lacks would prevent the notification, and only the server would log it."""
    from prefect.server.events.schemas.events import ReceivedEvent
    from prefect.server.utilities.user_templates import render_user_template_sync

    from flows.notify import CHOICES, list_automations
    from tasks.messages import build_alert_event, build_run_event

    record = {
        "run_id": "r1", "corpus": "/c", "model": "m", "status": "failed", "reason": "{{ x }}",
        "counts": {"pairs": 9, "attributions": 8, "alerts": 0},
    }  # fmt: skip
    row = dict.fromkeys(sql.schema("lives").names, None) | {
        "run_id": "r1", "life_id": "abc", "life": "still_firing", "state": "suspected", "side": "image", "n": 3,
        "region": "corner", "slice_kind": "word", "slice": "{{ y }}", "share": 0.3, "area": 0.1, "effect": 3.0,
        "first_seen": datetime.now(UTC), "last_seen": datetime.now(UTC), "first_run": "r0",
    }  # fmt: skip
    flow_run = {"prefect.resource.id": "prefect.flow-run.x", "prefect.resource.name": "due"}
    alert, end = build_alert_event(row, record, "/report.html"), build_run_event(record, "/report.html")
    events = [
        (alert.event, alert.resource, alert.payload),
        (end.event, end.resource, end.payload),
        ("prefect.flow-run.Late", flow_run, {}),
        ("prefect.flow-run.Failed", flow_run, {}),
        ("prefect.flow-run.Late", flow_run, {}),
    ]
    cores = list_automations("custom-webhook/x", "6f0b7a6c-6b1e-4e0e-8a53-3ad5d0b1f0c1", CHOICES, False, 26)
    rendered = []
    for (_, core), (name, resource, payload) in zip(cores, events, strict=True):
        event = ReceivedEvent(
            id=uuid.uuid4(), event=name, resource=resource, payload=payload, occurred=datetime.now(UTC)
        )
        (action,) = core.actions
        rendered.append([render_user_template_sync(text, {"event": event}) for text in (action.subject, action.body)])
    assert [subject for subject, _ in rendered] == [
        "c with m: still firing, corner", "c with m: failed", "Late: flow run due", "Failed: flow run due",
        "no audit has completed in time",
    ]  # fmt: skip
    assert "first seen: " in rendered[0][1]
    assert "in pairs whose caption contains “{ { y } }”" in rendered[0][1]
    assert "run r1 failed: 8 of 9 pairs attributed, 0 alerts; { { x } }" in rendered[1][1]
    assert all(not line.endswith(": ") for _, body in rendered for line in body.splitlines())  # no field is empty


def test_silence_and_confirmed_alerts_only_can_be_notified(prefect_server, hook, python):
    python("-c", CREATE_BLOCK_SCRIPT, hook.url, SECRET)
    command = ("-m", "flows.cli", "notify", "--block", "custom-webhook/my-hook")
    python(*command, "--on", "new", "--confirmed", "--silent-after", "0.01")
    created = list_automations(prefect_server)
    assert set(created) == {f"m2ib-audit {about} to custom-webhook/my-hook" for about in ("alerts", "silence")}
    alerts = created["m2ib-audit alerts to custom-webhook/my-hook"]["trigger"]
    assert (alerts["expect"], alerts["match"]) == (["m2ib.alert.new"], {"m2ib.state": "confirmed"})
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
