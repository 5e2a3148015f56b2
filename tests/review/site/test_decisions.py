"""Signing in, deciding and signing with the forms of the site, as a browser without scripts does."""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from starlette.testclient import TestClient

import sql
from review.site import users
from review.site.app import create_app
from review.site.settings import ReviewSettings
from stores import ledger
from stores.keys import create_key, load_key

PASSWORD = "four unrelated words"
pytestmark = pytest.mark.usefixtures("quick_hashing")
ORIGIN = "http://127.0.0.1:8765"


class Browser:
    """A browser without scripts: follows links, and fills in and sends forms."""

    def __init__(self, app, address="127.0.0.1"):
        self.client = TestClient(app, ORIGIN, headers={"Referer": ORIGIN}, client=(address, 50000))
        self.response = None

    def get(self, path, status=200):
        self.response = self.client.get(path)
        assert self.response.status_code == status, self.text
        return self

    def read_form(self, action):
        """Return the fields of the form with an action, with their present values."""
        (form,) = re.findall(
            rf'<form method="post" action="{re.escape(action)}".*?</form>', self.response.text, re.DOTALL
        )
        fields = {}
        for tag in re.findall(r"<input[^>]*>", form):
            name = re.search(r'name="([^"]*)"', tag)
            if name and ('type="radio"' not in tag or " checked" in tag):
                fields[name[1]] = unescape((re.search(r'value="([^"]*)"', tag) or ["", ""])[1])
        for name, value in re.findall(r'<textarea name="([^"]*)"[^>]*>(.*?)</textarea>', form, re.DOTALL):
            fields[name] = unescape(value)
        for name, options in re.findall(r'<select name="([^"]*)".*?>(.*?)</select>', form, re.DOTALL):
            selected = re.search(r'value="([^"]*)" selected', options) or re.search(r'value="([^"]*)"', options)
            fields[name] = selected[1]
        return fields

    def send(self, action, status=200, **values):
        self.response = self.client.post(action, data=self.read_form(action) | values, headers={"Origin": ORIGIN})
        assert self.response.status_code == status, self.text
        return self

    def sign_in(self, name, password=PASSWORD, status=200):
        """Sign in; the help page comes next because it needs no connection to the lake."""
        return self.get("/sign-in?next=/help").send("/sign-in", status, name=name, password=password)

    @property
    def text(self):
        body = re.sub(r"<(script|style).*?</\1>", "", self.response.text, flags=re.DOTALL)
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split()).replace(" ,", ",").replace(" .", ".")


@pytest.fixture(scope="module")
def shared_run(make_add_next_run, tmp_path_factory):
    return make_add_next_run(tmp_path_factory.mktemp("decided"))({"region": "corner"}, {"region": "left"})


@pytest.fixture
def run(shared_run, tmp_path):
    """A run with two alerts, in a lake that the test may change."""
    return type(shared_run)(shutil.copytree(shared_run.lake, tmp_path / "lake"), shared_run.run_id)


@pytest.fixture
def make_site(run, tmp_path):
    """make_site(with_users=True, ...): a function that opens browsers on one site over the lake of the run."""

    def build(with_users=False, **settings):
        if with_users:
            settings["users"] = tmp_path / "users.json"
            for name, role in (("ada", "reviewer"), ("bob", "approver"), ("rita", "reader")):
                users.add(settings["users"], name, f"{name.title()} Example", role, PASSWORD)
        app = create_app(run.lake, ReviewSettings(**settings))
        return lambda **options: Browser(app, **options)

    return build


@pytest.fixture
def browser_without_users(make_site):
    return make_site()()


@pytest.fixture
def alert(run):
    """The path of the first alert."""
    return f"/runs/{run.run_id}/alerts/{run.run_id}-0"


REVIEWER = {"name": "Ann Example", "role": "radiologist"}
DECISION = {"decision": "benign", "reason": "a marker of the machine", "meaning": "review"}


def read_decisions(run):
    with sql.connect(run.lake) as connection:
        return sql.read(connection, "FROM triage ORDER BY alert_id")


def test_the_form_of_a_sign_off_remembers_who_decided(browser_without_users, run, alert):
    browser, sign_off = browser_without_users, f"/runs/{run.run_id}/sign-off"
    browser.get(alert).send(f"{alert}/decide", **DECISION, **REVIEWER)
    browser.get(sign_off).send(sign_off, statement="Looked at.")
    fields = browser.read_form(sign_off)
    assert (fields["name"], fields["role"]) == (REVIEWER["name"], REVIEWER["role"])


# Signing in and out.


def test_user_signs_in_is_redirected_and_signs_out(make_site, alert):
    browser = make_site(with_users=True)()
    browser.get(f"{alert}?seed=3")
    assert browser.response.url.path == "/sign-in"
    browser.send("/sign-in", name=" Ada", password=PASSWORD)
    assert str(browser.response.url) == f"{ORIGIN}{alert}?seed=3"
    assert "Ada Example, reviewer" in browser.text
    token = browser.client.cookies["m2ib-8765-session"]
    browser.get("/sign-in")
    assert browser.response.url.path == "/"  # already signed in
    browser.send("/sign-out")
    assert browser.response.url.path == "/sign-in"
    browser.client.cookies.set("m2ib-8765-session", token)
    assert browser.get("/").response.url.path == "/sign-in"


def test_signing_in_always_starts_a_new_session(make_site):
    browser = make_site(with_users=True)().sign_in("ada")
    first = browser.client.cookies["m2ib-8765-session"]
    fields = {"name": "ada", "password": PASSWORD}
    browser.client.post("/sign-in", data=fields, headers={"Origin": ORIGIN})
    second = browser.client.cookies["m2ib-8765-session"]
    assert first != second
    browser.client.cookies.clear()
    browser.client.cookies.set("m2ib-8765-session", first)
    assert browser.get("/").response.url.path == "/sign-in"


def test_wrong_password_and_unknown_name_have_the_same_message(make_site):
    browser = make_site(with_users=True)()
    for name, password in (("ada", "wrong"), ("nobody", PASSWORD), ("", ""), ("ada", "x" * 5000)):
        browser.sign_in(name, password, 401)
        assert "The name or the password is wrong." in browser.text
        assert "m2ib-8765-session" not in browser.client.cookies


def test_too_many_attempts_must_wait(make_site):
    browser = make_site(with_users=True)()
    for _ in range(5):
        browser.sign_in("ada", "wrong", 401)
    browser.sign_in("ada", PASSWORD, 429)
    assert "Wait 1 seconds" in browser.text
    assert browser.response.headers["retry-after"] == "1"


def test_sign_in_redirects_only_within_the_site(make_site):
    browser = make_site(with_users=True)()
    browser.get("/sign-in?next=//evil.example/x")
    assert browser.read_form("/sign-in")["next"] == "/"
    browser.send("/sign-in", name="ada", password=PASSWORD, next="https://evil.example/")
    assert str(browser.response.url) == f"{ORIGIN}/"


def test_without_users_there_is_no_sign_in_form(browser_without_users):
    assert browser_without_users.get("/sign-in").response.url.path == "/"


# Deciding.


def test_decision_under_a_declared_name_is_shown_as_declared(browser_without_users, alert, run):
    browser_without_users.get(alert)
    assert "Nobody has decided about this alert" in browser_without_users.text
    browser_without_users.send(f"{alert}/decide", **DECISION, **REVIEWER)
    assert (browser_without_users.response.url.path, browser_without_users.response.url.fragment) == (
        alert,
        "decision",
    )  # reloading does not send the form again
    assert "Acceptable decided by Ann Example (radiologist; declared, not verified)" in browser_without_users.text
    assert "a marker of the machine" in browser_without_users.text
    assert "Recorded just now" in browser_without_users.text
    (record,) = ledger.read_records(run.lake)
    assert record.body["reviewer"] == {"name": "Ann Example", "role": "radiologist", "identity": "declared"}


def test_declared_name_is_filled_in_until_the_browser_closes(make_site, alert):
    browsers = make_site(four_eyes=True)
    browser = browsers().get(alert)
    browser.send(f"{alert}/decide", **DECISION, name="Zoë “Z” Example", role="radiologist; lead")
    fields = browser.get(alert[:-1] + "1").read_form(f"{alert[:-1]}1/decide")
    assert (fields["name"], fields["role"]) == ("Zoë “Z” Example", "radiologist; lead")
    assert "Expires" not in browser.client.cookies.jar._cookies["127.0.0.1"]["/"]["m2ib-8765-signer"]._rest
    second = browser.get(alert).read_form("/records/1/countersign")
    assert (second["name"], second["role"]) == ("", "")  # another person
    assert browsers().get(alert).read_form(f"{alert}/decide")["name"] == ""


def test_next_undecided_alert_follows_a_decision(browser_without_users, alert, run):
    other = alert[:-1] + "1"
    browser_without_users.get(alert).send(f"{alert}/decide", **DECISION, **REVIEWER)
    assert f'<a data-undecided href="{other}">' in browser_without_users.response.text
    assert "1 other alert of this run is undecided" in browser_without_users.text
    browser_without_users.get(other).send(f"{other}/decide", **DECISION, **REVIEWER)
    assert "All alerts of this run are decided. Sign off the run" in browser_without_users.text
    sign_off = f"/runs/{run.run_id}/sign-off"
    browser_without_users.get(sign_off).send(sign_off, statement="Looked.").send(sign_off, **REVIEWER)
    assert "All alerts of this run are decided. The run is signed off." in browser_without_users.get(other).text


def test_signed_in_reviewer_signs_with_the_password(make_site, alert, run):
    browser = make_site(with_users=True)().sign_in("ada").get(alert)
    for values in ({}, {"password": ""}, {"password": "wrong"}):
        browser.send(f"{alert}/decide", 409, **DECISION, **values)
        assert "enter your password again to sign" in browser.text
        assert browser.read_form(f"{alert}/decide")["reason"] == DECISION["reason"]  # the reason is not lost
        assert browser.read_form(f"{alert}/decide")["decision"] == "benign"
        assert PASSWORD not in browser.response.text
    assert ledger.read_records(run.lake) == []
    # With sign-in, fields of the form cannot change the signer.
    browser.send(f"{alert}/decide", **DECISION, password=PASSWORD, name="Bob Example", role="approver")
    (record,) = ledger.read_records(run.lake)
    assert record.body["reviewer"] == {"name": "Ada Example", "role": "reviewer", "identity": "password"}


def test_wrong_passwords_of_signatures_are_throttled(make_site, alert, run):
    browser = make_site(with_users=True)().sign_in("ada").get(alert)
    for _ in range(5):
        browser.send(f"{alert}/decide", 409, **DECISION, password="wrong")
    browser.send(f"{alert}/decide", 429, **DECISION, password=PASSWORD)
    assert "Too many attempts" in browser.text
    assert ledger.read_records(run.lake) == []


def test_reader_has_no_forms_and_no_permissions(make_site, alert, run):
    browsers = make_site(with_users=True)
    browser = browsers().sign_in("rita").get(alert)
    assert f"{alert}/decide" not in browser.response.text
    assert "Only reviewers and approvers can decide" in browser.text
    for path in (f"{alert}/decide", "/alerts/decide", "/records/1/countersign", f"/runs/{run.run_id}/sign-off"):
        response = browser.client.post(path, data={**DECISION, "password": PASSWORD}, headers={"Origin": ORIGIN})
        assert response.status_code == 403
    assert ledger.read_records(run.lake) == []


def test_approval_requires_the_role_approver(make_site, alert, run):
    browsers = make_site(with_users=True)
    browser = browsers().sign_in("ada").get(alert)
    assert "Approval" not in browser.text
    browser.send(f"{alert}/decide", 409, **DECISION | {"meaning": "approval"}, password=PASSWORD)
    assert "which needs the role approver" in browser.text
    browsers().sign_in("bob").get(alert).send(
        f"{alert}/decide", **DECISION | {"meaning": "approval"}, password=PASSWORD
    )
    assert [record.body["meaning"] for record in ledger.read_records(run.lake)] == ["approval"]


def test_invalid_forms_are_rejected_and_keep_their_values(browser_without_users, alert, run):
    browser_without_users.get(f"{alert}/decide")
    for changes, message in (
        ({"reason": "  "}, "reason: got nothing"),
        ({"decision": "spurious"}, "decision: got 'spurious'"),
        ({"decision": "waived"}, "until: got nothing"),
        ({"decision": "waived", "until": "soon"}, "until: got 'soon'"),
        ({"meaning": "fun"}, "meaning: got 'fun'"),
        ({"name": ""}, "name: got ''"),
        ({"role": " "}, "role: got ''"),
    ):
        values = DECISION | REVIEWER | changes
        browser_without_users.send(f"{alert}/decide", 409, **values)
        assert "Nothing was recorded" in browser_without_users.text
        assert message in browser_without_users.text
        fields = browser_without_users.read_form(f"{alert}/decide")
        assert (fields["reason"], fields["name"]) == (values["reason"], values["name"])
    assert ledger.read_records(run.lake) == []


def test_last_day_is_ignored_unless_the_decision_is_a_waiver(browser_without_users, alert, run):
    day = (datetime.now(UTC) + timedelta(days=9)).date().isoformat()
    browser_without_users.get(alert).send(f"{alert}/decide", **DECISION, **REVIEWER, until=day)
    browser_without_users.send(f"{alert}/decide", **DECISION | {"decision": "waived"}, **REVIEWER, until=day)
    assert [record.body["until"] for record in ledger.read_records(run.lake)] == [None, day]
    assert f"Waived until {day} decided by Ann Example" in browser_without_users.text


def test_outdated_form_shows_both_decisions_and_keeps_its_values(make_site, alert, run):
    browsers = make_site()
    ann, bob = browsers().get(alert), browsers().get(alert)
    ann.send(f"{alert}/decide", **DECISION, **REVIEWER)
    values = {
        "decision": "confirmed",
        "reason": "it is the tag",
        "meaning": "review",
        "name": "Bob",
        "role": "physicist",
    }
    bob.send(f"{alert}/decide", 409, **values)
    assert "Ann Example has decided 'acceptable' meanwhile (record 1)" in bob.text
    assert "Acceptable decided by Ann Example" in bob.text
    fields = bob.read_form(f"{alert}/decide")
    assert {key: fields[key] for key in values} == values
    assert read_decisions(run)[0]["decision"] == "benign"
    bob.send(f"{alert}/decide")  # the form now names the decision that he has seen
    assert (read_decisions(run)[0]["decision"], read_decisions(run)[0]["reviewer"]) == ("confirmed", "Bob")
    assert "it is the tag" in bob.text
    assert "a marker of the machine" in bob.text  # in the history of decisions


def test_decision_on_another_alert_does_not_outdate_a_form(make_site, alert, run):
    browsers = make_site()
    ann, bob = browsers().get(alert), browsers().get(alert[:-1] + "1")
    ann.send(f"{alert}/decide", **DECISION, **REVIEWER)
    bob.send(f"{alert[:-1]}1/decide", **DECISION, **REVIEWER)
    assert [row["decision"] for row in read_decisions(run)] == ["benign", "benign"]


def test_one_of_two_concurrent_decisions_is_rejected(make_site, alert, run):
    browsers = make_site()
    opened_browsers = [browsers().get(alert), browsers().get(alert)]

    def decide(browser, reason):
        fields = browser.read_form(f"{alert}/decide") | DECISION | REVIEWER | {"reason": reason}
        return browser.client.post(f"{alert}/decide", data=fields, headers={"Origin": ORIGIN}).status_code

    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(decide, opened_browsers, ("mine", "yours")))
    assert sorted(codes) == [200, 409]
    assert len(ledger.read_records(run.lake)) == 1


def test_text_of_reviewers_is_escaped(browser_without_users, alert):
    browser_without_users.get(alert).send(
        f"{alert}/decide",
        **DECISION | {"reason": "<script>alert(1)</script> & \u202eso"},
        name="<b>Ann</b>",
        role="{{ 7*7 }}",
    )
    assert "<script>alert" not in browser_without_users.response.text
    assert "<b>Ann" not in browser_without_users.response.text
    assert "{{ 7*7 }}" in browser_without_users.text
    assert "<script>alert(1)</script>" in browser_without_users.text


def test_missing_alert_or_run_is_not_found(browser_without_users, alert):
    browser_without_users.get(alert)
    fields = browser_without_users.read_form(f"{alert}/decide") | DECISION | REVIEWER
    for path in (f"{alert}x/decide", "/runs/none/alerts/x/decide", "/runs/..%2f..%2fetc/alerts/x/decide"):
        assert browser_without_users.client.post(path, data=fields, headers={"Origin": ORIGIN}).status_code == 404


def test_decision_is_carried_over_until_new_evidence(add_next_run):
    run = add_next_run({"region": "corner"}, {"region": "left"})
    app = create_app(run.lake)

    def browsers():
        return Browser(app)

    first = f"/runs/{run.run_id}/alerts/{run.run_id}-0"
    browsers().get(first).send(f"{first}/decide", **DECISION, **REVIEWER)
    second = add_next_run({"region": "corner"}, {"region": "left"})
    path = f"/runs/{second.run_id}/alerts/{second.run_id}-0"
    assert f"carried over from run {run.run_id}" in browsers().get(path).text
    third = add_next_run({"region": "corner", "state": "confirmed", "severity": "high", "interval": (0.1, 0.2, 0.3)})
    path = f"/runs/{third.run_id}/alerts/{third.run_id}-0"
    text = browsers().get(path).text
    assert "Open again, because the evidence has changed: confirmed, was suspected" in text
    assert "Earlier decision: acceptable, decided by Ann Example" in text


# The four-eyes principle.


def test_only_a_second_person_can_countersign(make_site, alert, run):
    browsers = make_site(with_users=True, four_eyes=True)
    ada, bob = browsers().sign_in("ada"), browsers().sign_in("bob")
    ada.get(alert).send(f"{alert}/decide", **DECISION, password=PASSWORD)
    assert read_decisions(run)[0]["decision"] == "pending"
    assert "takes effect once a second person has countersigned record 1" in ada.text
    assert "/records/1/countersign" not in ada.response.text
    fields = ada.read_form(f"{alert}/decide") | {"password": PASSWORD, "next": alert}
    refused = ada.client.post("/records/1/countersign", data=fields, headers={"Origin": ORIGIN})
    assert refused.status_code == 409
    assert "expected a second signer" in unescape(refused.text)
    bob.get(alert).send("/records/1/countersign", 409, password="wrong", statement="seen <it>")
    assert bob.read_form("/records/1/countersign")["statement"] == "seen <it>"
    bob.send("/records/1/countersign", password=PASSWORD)
    assert bob.response.url.path == alert
    assert "Countersigned by Bob Example (approver)" in bob.text
    assert read_decisions(run)[0]["decision"] == "benign"


def test_missing_record_cannot_be_countersigned(browser_without_users, alert):
    browser_without_users.get(alert)
    fields = browser_without_users.read_form(f"{alert}/decide") | REVIEWER
    response = browser_without_users.client.post("/records/7/countersign", data=fields, headers={"Origin": ORIGIN})
    assert response.status_code == 409
    assert "which does not exist" in response.text
    for number in ("x", "1e1", "9" * 5000):
        path = f"/records/{number}/countersign"
        response = browser_without_users.client.post(path, data=fields, headers={"Origin": ORIGIN})
        assert response.status_code == 404
        assert "This page does not exist." in response.text


# Decisions on several alerts.


def test_decision_on_several_alerts_is_one_record_for_each(browser_without_users, run):
    browser_without_users.get("/alerts")
    boxes = re.findall(r'name="alert" form="bulk" value="([^"]*)"', browser_without_users.response.text)
    assert sorted(boxes) == [f"{run.run_id}/{run.run_id}-{number}" for number in range(2)]
    browser_without_users.send("/alerts/decide", **DECISION, **REVIEWER, alert=boxes)
    assert browser_without_users.response.url.path == "/alerts"
    assert [row["decision"] for row in read_decisions(run)] == ["benign", "benign"]


def test_rejected_decisions_are_listed_and_the_others_recorded(make_site, run, alert):
    browsers = make_site()
    ann, bob = browsers().get("/alerts?follow=all"), browsers().get(alert)
    bob.send(f"{alert}/decide", **DECISION, name="Bob", role="physicist")
    alerts = [f"{run.run_id}/{run.run_id}-{number}" for number in range(2)] + ["none/x", "../etc/passwd"]
    ann.send("/alerts/decide", 409, **DECISION | {"decision": "confirmed"}, **REVIEWER, alert=alerts)
    assert "Recorded: 1 decision" in ann.text
    assert "Not recorded: 3 decisions" in ann.text
    assert "Bob has decided 'acceptable' meanwhile" in ann.text
    assert [row["decision"] for row in read_decisions(run)] == ["benign", "confirmed"]
    fields = ann.read_form("/alerts/decide")
    assert (fields["reason"], fields["next"]) == (DECISION["reason"], "/alerts?follow=all")
    ann.send("/alerts/decide", alert=alerts[:1])
    assert [row["decision"] for row in read_decisions(run)] == ["confirmed", "confirmed"]


def test_decision_without_selected_alerts_is_rejected(browser_without_users, run):
    browser_without_users.get("/alerts").send("/alerts/decide", 409, **DECISION, **REVIEWER)
    assert "alerts: got 0, expected 1 to 200" in browser_without_users.text
    assert ledger.read_records(run.lake) == []


# Signing off a run.


def test_sign_off_first_shows_undecided_alerts(browser_without_users, run, alert):
    browser_without_users.get(alert).send(f"{alert}/decide", **DECISION, **REVIEWER)
    action = f"/runs/{run.run_id}/sign-off"
    browser_without_users.get(f"/runs/{run.run_id}/sign-off").send(action, statement="I have looked at this run.")
    assert "Undecided: 1 alert" in browser_without_users.text
    assert ledger.select_kinds(ledger.read_records(run.lake), "sign_off") == []  # shown for confirmation, not signed
    browser_without_users.send(action, **REVIEWER, meaning="responsibility")
    (record,) = ledger.select_kinds(ledger.read_records(run.lake), "sign_off")
    assert record.body["meaning"] == "responsibility"
    assert ledger.read_texts(run.lake, [record])[0].body["statement"] == "I have looked at this run."
    assert record.body["alerts"] == {"open": 1, "pending": 0, "decided": 1}
    assert browser_without_users.response.url.path == action
    assert "Signed by Ann Example, radiologist" in browser_without_users.text
    assert "Alerts at that time: 1 decided, 1 open" in browser_without_users.text


def test_sign_off_without_statement_or_password_is_rejected(make_site, run):
    action = f"/runs/{run.run_id}/sign-off"
    browser = make_site(with_users=True)().sign_in("ada").get(f"/runs/{run.run_id}/sign-off")
    browser.send(action, 409, statement=" ")
    assert "statement: got nothing" in browser.text
    browser.send(action, 409, statement="I have looked.", password="wrong")
    assert browser.read_form(action)["statement"] == "I have looked."
    assert ledger.read_records(run.lake) == []
    browser.send(action, password=PASSWORD)
    assert ledger.read_records(run.lake)[0].body["reviewer"]["name"] == "Ada Example"


def test_decision_made_meanwhile_is_shown_before_sign_off(make_site, run, alert):
    browsers, action = make_site(), f"/runs/{run.run_id}/sign-off"
    ann = browsers().get(f"/runs/{run.run_id}/sign-off").send(action, statement="All of it.")
    browsers().get(alert).send(f"{alert}/decide", **DECISION, name="Bob", role="physicist")
    ann.send(action, 409, **REVIEWER)
    assert "decided or signed since" in ann.text
    assert "Undecided: 1 alert" in ann.text
    assert ann.read_form(action)["name"] == REVIEWER["name"]
    ann.send(action)
    assert [record.kind for record in ledger.read_records(run.lake)] == ["review", "sign_off"]


def test_sign_off_can_need_a_second_person(make_site, run):
    browsers, action = make_site(with_users=True, four_eyes=True), f"/runs/{run.run_id}/sign-off"
    ada, bob = browsers().sign_in("ada"), browsers().sign_in("bob")
    waits = "sign-off by Ada Example waits for a second signature"
    assert waits not in ada.get("/").text
    ada.get(f"/runs/{run.run_id}/sign-off").send(action, statement="Looked.").send(action, password=PASSWORD)
    assert "takes effect once a second person has countersigned" in ada.text
    ada.get(action).send(action, statement="Again.").send(action, password=PASSWORD)
    assert ada.get("/").text.count(f"Run {run.run_id} : the {waits}") == 1
    bob.get(f"/runs/{run.run_id}/sign-off").send("/records/1/countersign", password=PASSWORD, meaning="approval")
    assert bob.response.url.path == action
    assert "Countersigned by Bob Example" in bob.text
    assert waits not in ada.get("/").text


def test_anonymous_readers_see_decisions_but_no_forms(make_site, alert):
    browser = make_site(allow_anonymous_read=True)().get(alert)
    assert "Nobody has decided" in browser.text
    assert "Read-only" in browser.text
    assert '<form method="post"' not in browser.response.text
    assert 'type="checkbox"' not in browser.get("/alerts").response.text


def test_key_of_the_site_signs_its_records(make_site, alert, run, tmp_path):
    public = create_key(tmp_path / "key")
    browser = make_site(signer=load_key(tmp_path / "key"), four_eyes=True)()
    browser.get(alert).send(f"{alert}/decide", **DECISION, **REVIEWER)
    browser.get(alert).send("/records/1/countersign", name="Bob Other", role="quality", meaning="review")
    path = f"/runs/{run.run_id}/sign-off"
    browser.get(path).send(path, statement="seen", meaning="review", **REVIEWER).send(path)
    records = ledger.read_records(run.lake)
    assert [record.kind for record in records] == ["review", "countersign", "sign_off"]
    assert [public.verify(record.signed_bytes(), record.signature or "") for record in records] == [True] * 3
