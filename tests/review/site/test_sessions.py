import pytest

from review.site.sessions import Sessions, Throttle


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sessions(clock, monkeypatch):
    monkeypatch.setattr("review.site.sessions.IDLE_SECONDS", 60)
    monkeypatch.setattr("review.site.sessions.SESSION_SECONDS", 600)
    return Sessions(clock)


def test_a_session_is_found_by_its_token_and_by_nothing_else(sessions):
    token = sessions.start("ada", "proof")
    assert len(token) >= 43  # 256 bits
    assert (sessions.find(token).user_name, sessions.find(token).password_key) == ("ada", "proof")
    assert sessions.find("") is None
    assert sessions.find(token + "x") is None
    assert token not in str(vars(sessions))  # not even the memory holds it


def test_a_session_ends_when_it_is_idle(sessions, clock):
    token = sessions.start("ada", "proof")
    for _ in range(5):
        clock.now += 59
        assert sessions.find(token)
    clock.now += 61
    assert sessions.find(token) is None


def test_a_session_ends_whatever_its_user_does(sessions, clock):
    token = sessions.start("ada", "proof")
    for _ in range(20):
        clock.now += 30
        sessions.find(token)
    clock.now += 1
    assert sessions.find(token) is None


def test_a_session_that_was_ended_is_not_found(sessions):
    first, second = sessions.start("ada", "proof"), sessions.start("ada", "proof")
    assert first != second
    sessions.end(first)
    assert sessions.find(first) is None
    assert sessions.find(second)


def test_sessions_do_not_fill_the_memory(clock, monkeypatch):
    monkeypatch.setattr("review.site.sessions._MAX_ENTRIES", 3)
    sessions = Sessions(clock)
    tokens = [sessions.start("ada", "proof") for _ in range(5)]
    assert [sessions.find(token) is not None for token in tokens] == [False, False, True, True, True]


@pytest.fixture
def throttle(clock):
    return Throttle(clock)


def test_after_five_wrong_tries_each_waits_twice_as_long(throttle, clock):
    assert [throttle.admit("ada", "10.0.0.1") for _ in range(5)] == [0] * 5
    waits = []
    for _ in range(6):
        waits.append(throttle.admit("ada", "10.0.0.1"))
        clock.now += waits[-1]
        assert throttle.admit("ada", "10.0.0.1") == 0
    assert waits == [1, 2, 4, 8, 16, 32]


def test_a_refused_try_does_not_count(throttle):
    for _ in range(5):
        throttle.admit("ada", "10.0.0.1")
    assert [throttle.admit("ada", "10.0.0.1") for _ in range(50)] == [1] * 50


def test_a_right_password_clears_the_tries_of_its_user_alone(throttle):
    for _ in range(4):
        throttle.admit("ada", "10.0.0.1")
    throttle.record_success("ada", "10.0.0.1")
    assert [throttle.admit("ada", "10.0.0.1") for _ in range(5)] == [0] * 5
    for _ in range(5):
        throttle.admit("bob", "10.0.0.1")
    throttle.admit("mallory", "10.0.0.1")
    throttle.record_success("mallory", "10.0.0.1")
    assert throttle.admit("bob", "10.0.0.1") > 0


def test_others_cannot_shut_a_user_out_for_long(throttle, clock):
    for number in range(200):
        throttle.admit("ada", f"10.0.{number}.1")
    assert 0 < throttle.admit("ada", "192.0.2.1") <= 30
    clock.now += 31
    assert throttle.admit("ada", "192.0.2.1") == 0


def test_one_address_cannot_try_many_names(throttle):
    admitted = sum(throttle.admit(f"user{number}", "10.0.0.1") == 0 for number in range(200))
    assert admitted == 30


def test_a_network_of_ipv6_addresses_counts_as_one(throttle):
    admitted = sum(throttle.admit(f"user{number}", f"2001:db8::{number:x}") == 0 for number in range(200))
    assert admitted == 30
    assert throttle.admit("ada", "2001:db8:0:1::1") == 0


def test_names_are_one_however_they_are_typed(throttle):
    for name in ("ada", "ADA", " Ada ", "aDa", "adA"):
        throttle.admit(name, "10.0.0.1")
    assert throttle.admit("ada", "10.0.0.1") > 0


def test_tries_are_forgotten_after_an_hour_and_do_not_fill_the_memory(throttle, clock, monkeypatch):
    for _ in range(5):
        throttle.admit("ada", "10.0.0.1")
    clock.now += 3601
    assert [throttle.admit("ada", "10.0.0.1") for _ in range(5)] == [0] * 5
    monkeypatch.setattr("review.site.sessions._MAX_ENTRIES", 30)
    throttle = Throttle(clock)
    for number in range(100):
        throttle.admit(f"user{number}", f"10.1.{number}.1")
    assert len(throttle._attempts) <= 30


def test_who_signs_is_slowed_down_by_own_signatures_alone(throttle):
    for _ in range(60):  # a stranger, from the one address that everybody has behind a proxy
        throttle.admit("ada", "127.0.0.1")
    assert throttle.admit("ada", "127.0.0.1") > 0
    assert [throttle.admit("ada", None) for _ in range(5)] == [0] * 5
    assert throttle.admit("ada", None) > 0
    assert throttle.admit("bob", None) == 0
