"""Strangers who try passwords starve nobody who is signed in."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from urllib.parse import urlencode

import pytest

from review.site import connections, passwords
from review.site.passwords import MAX_WAITING_PER_ADDRESS
from review.site.sessions import get_network

from .conftest import PASSWORD


def sign_in_form(name, password=None):
    return urlencode({"name": name, "password": password or "wrong password"})


@pytest.fixture
def hashing(monkeypatch):
    """Hashes of sign-ins do not end before `hashing.set()`."""
    release, authenticate = threading.Event(), passwords.authenticate

    def wait_and_authenticate(*arguments):
        if threading.current_thread().name.startswith("password-stranger"):
            assert release.wait(120)
        return authenticate(*arguments)

    monkeypatch.setattr(passwords, "authenticate", wait_and_authenticate)
    yield release
    release.set()


def test_pages_and_signatures_do_not_wait_for_sign_ins(serve, users_file, hashing, monkeypatch):
    monkeypatch.setattr(connections, "MAX_PER_ADDRESS", 200)
    site = serve(users=users_file)
    ada = site.sign_in()
    run = site.get("/runs", ada).text.split('href="/runs/')[1].split('"')[0]
    with ThreadPoolExecutor(80) as pool:
        attempts = [pool.submit(site.post, "/sign-in", sign_in_form(f"stranger{number}")) for number in range(80)]
        refused = 80 - MAX_WAITING_PER_ADDRESS
        while sum(attempt.done() for attempt in attempts) < refused:
            wait([attempt for attempt in attempts if not attempt.done()], 0.05, "FIRST_COMPLETED")
        # All hashes are still waiting.
        assert site.get("/", ada).status == 200
        assert site.get("/alerts", ada).status == 200
        form = {"statement": "checked", "meaning": "review", "confirmed": "yes", "state": "x", "password": "wrong"}
        assert "Somebody else has decided" in site.post(f"/runs/{run}/sign-off", urlencode(form), ada).text
        form = {"meaning": "review", "decision": "acceptable", "reason": "x", "alert": f"{run}/x", "password": "wrong"}
        assert "got a wrong password" in site.post("/alerts/decide", urlencode(form), ada).text
        assert sum(attempt.done() for attempt in attempts) == refused
        hashing.set()
    answers = [attempt.result() for attempt in attempts]
    assert sorted({answer.status for answer in answers}) == [401, 429]
    assert sum(answer.status == 401 for answer in answers) == MAX_WAITING_PER_ADDRESS
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers if answer.status == 429)


def test_sign_ins_are_limited_by_name_and_in_total(serve, users_file, hashing):
    site = serve(users=users_file, proxy_from=("127.0.0.1",))

    def sign_in(address, name):
        return site.post("/sign-in", sign_in_form(name), {"X-Forwarded-For": address})

    with ThreadPoolExecutor(80) as pool:
        same_name = [pool.submit(sign_in, f"192.0.2.{number}", "ada") for number in range(1, 21)]
        others = [pool.submit(sign_in, f"198.51.100.{number}", f"name{number}") for number in range(1, 41)]
        waiting = 20 - passwords.MAX_WAITING_PER_NAME + 40 - passwords.MAX_WAITING + passwords.MAX_WAITING_PER_NAME
        attempts = [*same_name, *others]
        while sum(attempt.done() for attempt in attempts) < waiting:
            wait([attempt for attempt in attempts if not attempt.done()], 0.05, "FIRST_COMPLETED")
        hashing.set()
    assert sum(attempt.result().status == 401 for attempt in same_name) == passwords.MAX_WAITING_PER_NAME
    assert sum(attempt.result().status == 401 for attempt in attempts) == passwords.MAX_WAITING
    assert site.post("/sign-in", sign_in_form("ada", PASSWORD)).status == 303


def test_strangers_do_not_keep_a_user_from_signing_in_where_the_user_did_before(serve, users_file, hashing):
    site = serve(users=users_file, proxy_from=("127.0.0.1",))
    home = {"X-Forwarded-For": "192.0.2.1"}
    site.access.passwords.throttle.record_success("ada", "192.0.2.1")
    with ThreadPoolExecutor(80) as pool:
        attempts = [
            pool.submit(site.post, "/sign-in", sign_in_form("ada"), {"X-Forwarded-For": f"198.51.{number}.1"})
            for number in range(60)
        ]
        while sum(attempt.done() for attempt in attempts) < 60 - passwords.MAX_WAITING_PER_NAME:
            wait([attempt for attempt in attempts if not attempt.done()], 0.05, "FIRST_COMPLETED")
        assert site.post("/sign-in", sign_in_form("ada", PASSWORD), home).status == 303
        hashing.set()
    statuses = [site.post("/sign-in", sign_in_form("ada"), home).status for _ in range(7)]
    assert statuses == [401] * 5 + [429] * 2  # known or not, passwords cannot be guessed there


def test_ipv4_addresses_in_ipv6_form_are_not_one_network():
    assert len({get_network(f"::ffff:192.0.2.{number}") for number in range(9)}) == 9
    assert get_network("::ffff:192.0.2.1") == get_network("192.0.2.1")


def test_wrong_signatures_are_answered_429_and_keep_the_form(serve, users_file):
    site = serve(users=users_file)
    ada = site.sign_in()
    form = urlencode({"meaning": "review", "decision": "acceptable", "reason": "because of x", "password": "wrong"})
    answers = [site.post("/alerts/decide", f"{form}&alert=a/b", ada) for _ in range(7)]
    assert [answer.status for answer in answers] == [409] * 5 + [429] * 2
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert "because of x" in answers[-1].text
