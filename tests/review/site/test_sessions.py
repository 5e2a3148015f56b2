import pytest

from review.site.sessions import Sessions, Throttle


class Clock:
    """A clock whose time a test sets."""

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


def test_session_is_found_only_by_its_token(sessions):
    token = sessions.start("ada", "proof")
    assert len(token) >= 43  # 256 bits
    assert (sessions.find(token).user_name, sessions.find(token).password_key) == ("ada", "proof")
    assert sessions.find("") is None
    assert sessions.find(token + "x") is None
    assert token not in str(vars(sessions))  # only its hash is in memory


def test_idle_session_expires(sessions, clock):
    token = sessions.start("ada", "proof")
    for _ in range(5):
        clock.now += 59
        assert sessions.find(token)
    clock.now += 61
    assert sessions.find(token) is None


def test_active_session_expires_after_its_maximum_time(sessions, clock):
    token = sessions.start("ada", "proof")
    for _ in range(20):
        clock.now += 30
        sessions.find(token)
    clock.now += 1
    assert sessions.find(token) is None


def test_ended_session_is_not_found(sessions):
    first, second = sessions.start("ada", "proof"), sessions.start("ada", "proof")
    assert first != second
    sessions.end(first)
    assert sessions.find(first) is None
    assert sessions.find(second)


def test_number_of_sessions_is_limited(clock, monkeypatch):
    monkeypatch.setattr("review.site.sessions._MAX_ENTRIES", 3)
    sessions = Sessions(clock)
    tokens = [sessions.start("ada", "proof") for _ in range(5)]
    assert [sessions.find(token) is not None for token in tokens] == [False, False, True, True, True]


@pytest.fixture
def throttle(clock):
    return Throttle(clock)


def test_wait_doubles_after_five_wrong_attempts(throttle, clock):
    assert [throttle.admit("ada", "10.0.0.1") for _ in range(5)] == [0] * 5
    waits = []
    for _ in range(6):
        waits.append(throttle.admit("ada", "10.0.0.1"))
        clock.now += waits[-1]
        assert throttle.admit("ada", "10.0.0.1") == 0
    assert waits == [1, 2, 4, 8, 16, 32]


def test_throttled_attempt_does_not_count(throttle):
    for _ in range(5):
        throttle.admit("ada", "10.0.0.1")
    assert [throttle.admit("ada", "10.0.0.1") for _ in range(50)] == [1] * 50


def test_correct_password_clears_only_attempts_of_its_user(throttle):
    for _ in range(4):
        throttle.admit("ada", "10.0.0.1")
    throttle.record_success("ada", "10.0.0.1")
    assert [throttle.admit("ada", "10.0.0.1") for _ in range(5)] == [0] * 5
    for _ in range(5):
        throttle.admit("bob", "10.0.0.1")
    throttle.admit("mallory", "10.0.0.1")
    throttle.record_success("mallory", "10.0.0.1")
    assert throttle.admit("bob", "10.0.0.1") > 0


def test_others_cannot_lock_a_user_out_for_long(throttle, clock):
    for number in range(200):
        throttle.admit("ada", f"10.0.{number}.1")
    assert 0 < throttle.admit("ada", "192.0.2.1") <= 30
    clock.now += 31
    assert throttle.admit("ada", "192.0.2.1") == 0


def test_one_address_cannot_try_many_names(throttle):
    admitted = sum(throttle.admit(f"user{number}", "10.0.0.1") == 0 for number in range(200))
    assert admitted == 30


def test_ipv6_network_counts_as_one_address(throttle):
    admitted = sum(throttle.admit(f"user{number}", f"2001:db8::{number:x}") == 0 for number in range(200))
    assert admitted == 30
    assert throttle.admit("ada", "2001:db8:0:1::1") == 0


def test_attempts_are_counted_by_normalized_name(throttle):
    for name in ("ada", "ADA", " Ada ", "aDa", "adA"):
        throttle.admit(name, "10.0.0.1")
    assert throttle.admit("ada", "10.0.0.1") > 0


def test_attempts_expire_after_an_hour_and_their_number_is_limited(throttle, clock, monkeypatch):
    for _ in range(5):
        throttle.admit("ada", "10.0.0.1")
    clock.now += 3601
    assert [throttle.admit("ada", "10.0.0.1") for _ in range(5)] == [0] * 5
    monkeypatch.setattr("review.site.sessions._MAX_ENTRIES", 30)
    throttle = Throttle(clock)
    for number in range(100):
        throttle.admit(f"user{number}", f"10.1.{number}.1")
    assert len(throttle._attempts) <= 30


def test_signatures_are_throttled_separately_from_sign_ins(throttle):
    for _ in range(60):  # attempts of a stranger from the shared address of a proxy
        throttle.admit("ada", "127.0.0.1")
    assert throttle.admit("ada", "127.0.0.1") > 0
    assert [throttle.admit("ada", None) for _ in range(5)] == [0] * 5
    assert throttle.admit("ada", None) > 0
    assert throttle.admit("bob", None) == 0
