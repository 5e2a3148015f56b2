"""Signing in, deciding and signing by way of the page's forms, as a browser without scripts does it."""

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
HERE = "http://127.0.0.1:8765"


class Browser:
    """Follows links and sends forms as they are, with what is typed into them."""

    def __init__(self, app, address="127.0.0.1"):
        self.client = TestClient(app, HERE, follow_redirects=True, client=(address, 50000))
        self.answer = None

    def get(self, path, status=200):
        self.answer = self.client.get(path)
        assert self.answer.status_code == status, self.text
        return self

    def form(self, action):
        """The fields of the form that leads to an action, as they stand; ticked boxes of other places included."""
        (found,) = re.findall(
            rf'<form method="post" action="{re.escape(action)}".*?</form>', self.answer.text, re.DOTALL
        )
        fields = {}
        for tag in re.findall(r"<input[^>]*>", found):
            name = re.search(r'name="([^"]*)"', tag)
            if name and ('type="radio"' not in tag or " checked" in tag):
                fields[name[1]] = unescape((re.search(r'value="([^"]*)"', tag) or ["", ""])[1])
        for name, value in re.findall(r'<textarea name="([^"]*)"[^>]*>(.*?)</textarea>', found, re.DOTALL):
            fields[name] = unescape(value)
        for name, options in re.findall(r'<select name="([^"]*)".*?>(.*?)</select>', found, re.DOTALL):
            chosen = re.search(r'value="([^"]*)" selected', options) or re.search(r'value="([^"]*)"', options)
            fields[name] = chosen[1]
        return fields

    def send(self, action, status=200, **typed):
        self.answer = self.client.post(action, data=self.form(action) | typed, headers={"Origin": HERE})
        assert self.answer.status_code == status, self.text
        return self

    def sign_in(self, name, password=PASSWORD, status=200):
        """Sign in; the help page comes next because it needs no connection to the lake."""
        return self.get("/sign-in?next=/help").send("/sign-in", status, name=name, password=password)

    @property
    def text(self):
        body = re.sub(r"<(script|style).*?</\1>", "", self.answer.text, flags=re.DOTALL)
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split()).replace(" ,", ",").replace(" .", ".")


@pytest.fixture(scope="module")
def run_once(make_add_next_run, tmp_path_factory):
    return make_add_next_run(tmp_path_factory.mktemp("decided"))({"region": "corner"}, {"region": "left"})


@pytest.fixture
def run(run_once, tmp_path):
    """A run with two alerts, in a lake of the test's own."""
    return type(run_once)(shutil.copytree(run_once.lake, tmp_path / "lake"), run_once.run_id)


@pytest.fixture
def page_of(run, tmp_path):
    """page_of(users=True, ...): a way to open browsers on one page over the run's lake."""

    def build(with_users=False, **settings):
        if with_users:
            settings["users"] = tmp_path / "users.json"
            for name, role in (("ada", "reviewer"), ("bob", "approver"), ("rita", "reader")):
                users.add(settings["users"], name, f"{name.title()} Example", role, PASSWORD)
        app = create_app(run.lake, ReviewSettings(**settings))
        return lambda **named: Browser(app, **named)

    return build


@pytest.fixture
def declared(page_of):
    return page_of()()


@pytest.fixture
def alert(run):
    """The path of the first alert."""
    return f"/runs/{run.run_id}/alerts/{run.run_id}-0"


WHO = {"name": "Ann Example", "role": "radiologist"}
SAID = {"decision": "benign", "reason": "a marker of the machine", "meaning": "review"}


def triage(run):
    with sql.connect(run.lake) as connection:
        return sql.read(connection, "FROM triage ORDER BY alert_id")


# Signing in and out.


def test_a_user_signs_in_is_led_on_and_signs_out(page_of, alert):
    browser = page_of(with_users=True)()
    browser.get(f"{alert}?seed=3")
    assert browser.answer.url.path == "/sign-in"
    browser.send("/sign-in", name=" Ada", password=PASSWORD)
    assert str(browser.answer.url) == f"{HERE}{alert}?seed=3"
    assert "Ada Example, reviewer" in browser.text
    token = browser.client.cookies["m2ib-8765-session"]
    browser.get("/sign-in")
    assert browser.answer.url.path == "/"  # there already
    browser.send("/sign-out")
    assert browser.answer.url.path == "/sign-in"
    browser.client.cookies.set("m2ib-8765-session", token)
    assert browser.get("/").answer.url.path == "/sign-in"


def test_signing_in_makes_a_new_session_of_whatever_was_there(page_of):
    browser = page_of(with_users=True)().sign_in("ada")
    first = browser.client.cookies["m2ib-8765-session"]
    fields = {"name": "ada", "password": PASSWORD}
    browser.client.post("/sign-in", data=fields, headers={"Origin": HERE})
    second = browser.client.cookies["m2ib-8765-session"]
    assert first != second
    browser.client.cookies.clear()
    browser.client.cookies.set("m2ib-8765-session", first)
    assert browser.get("/").answer.url.path == "/sign-in"


def test_a_wrong_password_and_an_unknown_name_look_the_same(page_of):
    browser = page_of(with_users=True)()
    for name, password in (("ada", "wrong"), ("nobody", PASSWORD), ("", ""), ("ada", "x" * 5000)):
        browser.sign_in(name, password, 401)
        assert "The name or the password is wrong." in browser.text
        assert "m2ib-8765-session" not in browser.client.cookies


def test_too_many_tries_are_told_to_wait(page_of):
    browser = page_of(with_users=True)()
    for _ in range(5):
        browser.sign_in("ada", "wrong", 401)
    browser.sign_in("ada", PASSWORD, 429)
    assert "Wait 1 seconds" in browser.text
    assert browser.answer.headers["retry-after"] == "1"


def test_the_sign_in_leads_nowhere_else(page_of):
    browser = page_of(with_users=True)()
    browser.get("/sign-in?next=//evil.example/x")
    assert browser.form("/sign-in")["next"] == "/"
    browser.send("/sign-in", name="ada", password=PASSWORD, next="https://evil.example/")
    assert str(browser.answer.url) == f"{HERE}/"


def test_where_nobody_signs_in_there_is_no_form_for_it(declared):
    assert declared.get("/sign-in").answer.url.path == "/"


# Deciding.


def test_who_declares_a_name_decides_and_is_shown_as_declared(declared, alert, run):
    declared.get(alert)
    assert "Nobody has decided about this alert" in declared.text
    declared.send(f"{alert}/decide", **SAID, **WHO)
    assert (declared.answer.url.path, declared.answer.url.fragment) == (
        alert,
        "decision",
    )  # reloading sends nothing again
    assert "Benign decided by Ann Example (radiologist; declared, not verified)" in declared.text
    assert "a marker of the machine" in declared.text
    assert "Recorded just now" in declared.text
    (record,) = ledger.read_records(run.lake)
    assert record.body["reviewer"] == {"name": "Ann Example", "role": "radiologist", "identity": "declared"}


def test_a_signed_in_reviewer_signs_with_the_password_once_more(page_of, alert, run):
    browser = page_of(with_users=True)().sign_in("ada").get(alert)
    for typed in ({}, {"password": ""}, {"password": "wrong"}):
        browser.send(f"{alert}/decide", 409, **SAID, **typed)
        assert "enter your password again to sign" in browser.text
        assert browser.form(f"{alert}/decide")["reason"] == SAID["reason"]  # nothing lost
        assert browser.form(f"{alert}/decide")["decision"] == "benign"
        assert PASSWORD not in browser.answer.text
    assert ledger.read_records(run.lake) == []
    # What the form says of who signs means nothing where people sign in.
    browser.send(f"{alert}/decide", **SAID, password=PASSWORD, name="Bob Example", role="approver")
    (record,) = ledger.read_records(run.lake)
    assert record.body["reviewer"] == {"name": "Ada Example", "role": "reviewer", "identity": "password"}


def test_guessing_the_password_of_signatures_is_slowed_down_too(page_of, alert, run):
    browser = page_of(with_users=True)().sign_in("ada").get(alert)
    for _ in range(5):
        browser.send(f"{alert}/decide", 409, **SAID, password="wrong")
    browser.send(f"{alert}/decide", 409, **SAID, password=PASSWORD)
    assert "Too many attempts" in browser.text
    assert ledger.read_records(run.lake) == []


def test_a_reader_has_no_forms_and_no_rights(page_of, alert, run):
    browsers = page_of(with_users=True)
    browser = browsers().sign_in("rita").get(alert)
    assert f"{alert}/decide" not in browser.answer.text
    assert "Only reviewers and approvers can decide" in browser.text
    for path in (f"{alert}/decide", "/alerts/decide", "/records/1/countersign", f"/runs/{run.run_id}/sign-off"):
        done = browser.client.post(path, data={**SAID, "password": PASSWORD}, headers={"Origin": HERE})
        assert done.status_code == 403
    assert ledger.read_records(run.lake) == []


def test_approval_is_for_approvers_to_mean(page_of, alert, run):
    browsers = page_of(with_users=True)
    browser = browsers().sign_in("ada").get(alert)
    assert "Approval" not in browser.text
    browser.send(f"{alert}/decide", 409, **SAID | {"meaning": "approval"}, password=PASSWORD)
    assert "which needs the role approver" in browser.text
    browsers().sign_in("bob").get(alert).send(f"{alert}/decide", **SAID | {"meaning": "approval"}, password=PASSWORD)
    assert [record.body["meaning"] for record in ledger.read_records(run.lake)] == ["approval"]


def test_incomplete_forms_are_refused_with_what_was_entered(declared, alert, run):
    declared.get(f"{alert}/decide")
    for typed, message in (
        ({"reason": "  "}, "reason: got nothing"),
        ({"decision": "spurious"}, "decision: got 'spurious'"),
        ({"decision": "waived"}, "until: got nothing"),
        ({"decision": "waived", "until": "soon"}, "until: got 'soon'"),
        ({"meaning": "fun"}, "meaning: got 'fun'"),
        ({"name": ""}, "name: got ''"),
        ({"role": " "}, "role: got ''"),
    ):
        entered = SAID | WHO | typed
        declared.send(f"{alert}/decide", 409, **entered)
        assert "Nothing was recorded" in declared.text
        assert message in declared.text
        fields = declared.form(f"{alert}/decide")
        assert (fields["reason"], fields["name"]) == (entered["reason"], entered["name"])
    assert ledger.read_records(run.lake) == []


def test_a_day_that_was_typed_for_another_decision_does_no_harm(declared, alert, run):
    day = (datetime.now(UTC) + timedelta(days=9)).date().isoformat()
    declared.get(alert).send(f"{alert}/decide", **SAID, **WHO, until=day)
    declared.send(f"{alert}/decide", **SAID | {"decision": "waived"}, **WHO, until=day)
    assert [record.body["until"] for record in ledger.read_records(run.lake)] == [None, day]
    assert f"Waived until {day}, decided by Ann Example" in declared.text


def test_a_form_that_is_stale_shows_both_views_and_loses_nothing(page_of, alert, run):
    browsers = page_of()
    ann, bob = browsers().get(alert), browsers().get(alert)
    ann.send(f"{alert}/decide", **SAID, **WHO)
    his = {"decision": "confirmed", "reason": "it is the tag", "meaning": "review", "name": "Bob", "role": "physicist"}
    bob.send(f"{alert}/decide", 409, **his)
    assert "Ann Example has decided 'benign' meanwhile (record 1)" in bob.text
    assert "Benign decided by Ann Example" in bob.text
    fields = bob.form(f"{alert}/decide")
    assert {key: fields[key] for key in his} == his
    assert triage(run)[0]["decision"] == "benign"
    bob.send(f"{alert}/decide")  # having seen hers, he sends the form as it is
    assert (triage(run)[0]["decision"], triage(run)[0]["reviewer"]) == ("confirmed", "Bob")
    assert "it is the tag" in bob.text
    assert "a marker of the machine" in bob.text  # in the history


def test_a_decision_about_another_alert_makes_no_form_stale(page_of, alert, run):
    browsers = page_of()
    ann, bob = browsers().get(alert), browsers().get(alert[:-1] + "1")
    ann.send(f"{alert}/decide", **SAID, **WHO)
    bob.send(f"{alert[:-1]}1/decide", **SAID, **WHO)
    assert [row["decision"] for row in triage(run)] == ["benign", "benign"]


def test_of_two_who_decide_at_once_one_is_told_of_the_other(page_of, alert, run):
    browsers = page_of()
    both = [browsers().get(alert), browsers().get(alert)]

    def decide(browser, reason):
        fields = browser.form(f"{alert}/decide") | SAID | WHO | {"reason": reason}
        return browser.client.post(f"{alert}/decide", data=fields, headers={"Origin": HERE}).status_code

    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(decide, both, ("mine", "yours")))
    assert sorted(codes) == [200, 409]
    assert len(ledger.read_records(run.lake)) == 1


def test_what_reviewers_write_stays_text(declared, alert):
    declared.get(alert).send(
        f"{alert}/decide",
        **SAID | {"reason": "<script>alert(1)</script> & \u202eso"},
        name="<b>Ann</b>",
        role="{{ 7*7 }}",
    )
    assert "<script>alert" not in declared.answer.text
    assert "<b>Ann" not in declared.answer.text
    assert "{{ 7*7 }}" in declared.text
    assert "<script>alert(1)</script>" in declared.text


def test_an_alert_or_run_that_is_not_there_is_not_found(declared, alert):
    declared.get(alert)
    fields = declared.form(f"{alert}/decide") | SAID | WHO
    for path in (f"{alert}x/decide", "/runs/none/alerts/x/decide", "/runs/..%2f..%2fetc/alerts/x/decide"):
        assert declared.client.post(path, data=fields, headers={"Origin": HERE}).status_code == 404


def test_a_decision_is_carried_over_and_opened_again_by_new_evidence(add_next_run):
    run = add_next_run({"region": "corner"}, {"region": "left"})
    app = create_app(run.lake)

    def browsers():
        return Browser(app)

    first = f"/runs/{run.run_id}/alerts/{run.run_id}-0"
    browsers().get(first).send(f"{first}/decide", **SAID, **WHO)
    second = add_next_run({"region": "corner"}, {"region": "left"})
    path = f"/runs/{second.run_id}/alerts/{second.run_id}-0"
    assert f"carried over from run {run.run_id}" in browsers().get(path).text
    third = add_next_run({"region": "corner", "state": "confirmed", "severity": "high", "interval": (0.1, 0.2, 0.3)})
    path = f"/runs/{third.run_id}/alerts/{third.run_id}-0"
    text = browsers().get(path).text
    assert "Open again, because the evidence has changed: confirmed, was suspected" in text
    assert "Earlier decision: benign, decided by Ann Example" in text


# The second pair of eyes.


def test_a_second_person_countersigns_and_the_first_cannot(page_of, alert, run):
    browsers = page_of(with_users=True, four_eyes=True)
    ada, bob = browsers().sign_in("ada"), browsers().sign_in("bob")
    ada.get(alert).send(f"{alert}/decide", **SAID, password=PASSWORD)
    assert triage(run)[0]["decision"] == "pending"
    assert "takes effect once a second person has countersigned record 1" in ada.text
    assert "/records/1/countersign" not in ada.answer.text
    fields = ada.form(f"{alert}/decide") | {"password": PASSWORD, "next": alert}
    refused = ada.client.post("/records/1/countersign", data=fields, headers={"Origin": HERE})
    assert refused.status_code == 409
    assert "expected a second signer" in unescape(refused.text)
    bob.get(alert).send("/records/1/countersign", 409, password="wrong", statement="seen <it>")
    assert bob.form("/records/1/countersign")["statement"] == "seen <it>"
    bob.send("/records/1/countersign", password=PASSWORD)
    assert bob.answer.url.path == alert
    assert "Countersigned by Bob Example (approver)" in bob.text
    assert triage(run)[0]["decision"] == "benign"


def test_a_record_that_is_not_there_is_not_countersigned(declared, alert):
    declared.get(alert)
    fields = declared.form(f"{alert}/decide") | WHO
    done = declared.client.post("/records/7/countersign", data=fields, headers={"Origin": HERE})
    assert done.status_code == 409
    assert "which does not exist" in done.text


# Many at once.


def test_one_decision_about_many_is_a_record_each(declared, run):
    declared.get("/alerts")
    boxes = re.findall(r'name="alert" form="bulk" value="([^"]*)"', declared.answer.text)
    assert sorted(boxes) == [f"{run.run_id}/{run.run_id}-{number}" for number in range(2)]
    declared.send("/alerts/decide", **SAID, **WHO, alert=boxes)
    assert declared.answer.url.path == "/alerts"
    assert [row["decision"] for row in triage(run)] == ["benign", "benign"]


def test_of_many_those_that_are_refused_are_named_and_the_others_recorded(page_of, run, alert):
    browsers = page_of()
    ann, bob = browsers().get("/alerts?follow=all"), browsers().get(alert)
    bob.send(f"{alert}/decide", **SAID, name="Bob", role="physicist")
    both = [f"{run.run_id}/{run.run_id}-{number}" for number in range(2)] + ["none/x", "../etc/passwd"]
    ann.send("/alerts/decide", 409, **SAID | {"decision": "confirmed"}, **WHO, alert=both)
    assert "Recorded: 1 decision" in ann.text
    assert "Not recorded: 3 decisions" in ann.text
    assert "Bob has decided 'benign' meanwhile" in ann.text
    assert [row["decision"] for row in triage(run)] == ["benign", "confirmed"]
    fields = ann.form("/alerts/decide")
    assert (fields["reason"], fields["next"]) == (SAID["reason"], "/alerts?follow=all")
    ann.send("/alerts/decide", alert=both[:1])
    assert [row["decision"] for row in triage(run)] == ["confirmed", "confirmed"]


def test_nothing_ticked_is_told(declared, run):
    declared.get("/alerts").send("/alerts/decide", 409, **SAID, **WHO)
    assert "alerts: got 0, expected 1 to 200" in declared.text
    assert ledger.read_records(run.lake) == []


# Signing a run off.


def test_a_run_is_signed_off_after_it_was_shown_what_is_undecided(declared, run, alert):
    declared.get(alert).send(f"{alert}/decide", **SAID, **WHO)
    action = f"/runs/{run.run_id}/sign-off"
    declared.get(f"/runs/{run.run_id}/sign-off").send(action, statement="I have looked at this run.")
    assert "Undecided: 1 alert" in declared.text
    assert ledger.select_kinds(ledger.read_records(run.lake), "sign_off") == []  # shown, not signed
    declared.send(action, **WHO, meaning="responsibility")
    (record,) = ledger.select_kinds(ledger.read_records(run.lake), "sign_off")
    assert (record.body["statement"], record.body["meaning"]) == ("I have looked at this run.", "responsibility")
    assert record.body["alerts"] == {"open": 1, "pending": 0, "decided": 1}
    assert declared.answer.url.path == action
    assert "Signed by Ann Example, radiologist" in declared.text
    assert "Alerts at that time: 1 decided, 1 open" in declared.text


def test_a_sign_off_without_a_statement_or_password_is_not_taken(page_of, run):
    action = f"/runs/{run.run_id}/sign-off"
    browser = page_of(with_users=True)().sign_in("ada").get(f"/runs/{run.run_id}/sign-off")
    browser.send(action, 409, statement=" ")
    assert "statement: got nothing" in browser.text
    browser.send(action, 409, statement="I have looked.", password="wrong")
    assert browser.form(action)["statement"] == "I have looked."
    assert ledger.read_records(run.lake) == []
    browser.send(action, password=PASSWORD)
    assert ledger.read_records(run.lake)[0].body["reviewer"]["name"] == "Ada Example"


def test_what_was_decided_meanwhile_is_shown_before_it_is_signed(page_of, run, alert):
    browsers, action = page_of(), f"/runs/{run.run_id}/sign-off"
    ann = browsers().get(f"/runs/{run.run_id}/sign-off").send(action, statement="All of it.")
    browsers().get(alert).send(f"{alert}/decide", **SAID, name="Bob", role="physicist")
    ann.send(action, 409, **WHO)
    assert "decided or signed since" in ann.text
    assert "Undecided: 1 alert" in ann.text
    assert ann.form(action)["name"] == WHO["name"]
    ann.send(action)
    assert [record.kind for record in ledger.read_records(run.lake)] == ["review", "sign_off"]


def test_a_sign_off_too_can_need_a_second_person(page_of, run):
    browsers, action = page_of(with_users=True, four_eyes=True), f"/runs/{run.run_id}/sign-off"
    ada, bob = browsers().sign_in("ada"), browsers().sign_in("bob")
    ada.get(f"/runs/{run.run_id}/sign-off").send(action, statement="Looked.").send(action, password=PASSWORD)
    assert "takes effect once a second person has countersigned" in ada.text
    bob.get(f"/runs/{run.run_id}/sign-off").send("/records/1/countersign", password=PASSWORD, meaning="approval")
    assert bob.answer.url.path == action
    assert "Countersigned by Bob Example" in bob.text


def test_anonymous_readers_see_decisions_and_no_forms(page_of, alert):
    browser = page_of(allow_anonymous_read=True)().get(alert)
    assert "Nobody has decided" in browser.text
    assert "Read-only" in browser.text
    assert '<form method="post"' not in browser.answer.text
    assert 'type="checkbox"' not in browser.get("/alerts").answer.text


def test_a_key_of_the_page_signs_its_records(page_of, alert, run, tmp_path):
    public = create_key(tmp_path / "key")
    browser = page_of(signer=load_key(tmp_path / "key"), four_eyes=True)()
    browser.get(alert).send(f"{alert}/decide", **SAID, **WHO)
    browser.get(alert).send("/records/1/countersign", name="Bob Other", role="quality", meaning="review")
    off = f"/runs/{run.run_id}/sign-off"
    browser.get(off).send(off, statement="seen", meaning="review", **WHO).send(off)
    found = ledger.read_records(run.lake)
    assert [record.kind for record in found] == ["review", "countersign", "sign_off"]
    assert [public.verify(record.signed_bytes(), record.signature or "") for record in found] == [True] * 3
