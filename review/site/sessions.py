"""Sessions of signed-in users, and the throttle of password attempts. Both are only in the memory of the server."""

import hashlib
import ipaddress
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TLRUCache, TTLCache

_MAX_ENTRIES = 10_000  # sessions, and keys of the throttle, so that nobody can fill the memory
_THROTTLE_SECONDS = 3600.0

Clock = Callable[[], float]


@dataclass(frozen=True)
class Session:
    """Session of a signed-in user; `start` is a time of the clock that `Sessions` uses."""

    user_name: str
    password_key: str
    """Hash of the password at sign-in; another one means that the password was changed."""
    start: float


class Sessions:
    """Sessions by token. Only the sha256 of a token is stored."""

    def __init__(self, idle_seconds: float, max_seconds: float, clock: Clock = time.monotonic) -> None:
        """Create an empty store of sessions.

        A session ends `idle_seconds` after its last request, and `max_seconds` after sign-in in any case.
        """

        def get_expiry(_: str, session: Session, now: float) -> float:
            return min(now + idle_seconds, session.start + max_seconds)

        self._clock = clock
        self._sessions: TLRUCache[str, Session] = TLRUCache(_MAX_ENTRIES, get_expiry, clock)
        self._lock = threading.Lock()

    def start(self, user_name: str, password_key: str, old_token: str | None = None) -> str:
        """Start a session, end the one of `old_token`, and return the new token."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            if old_token is not None:
                self._sessions.pop(_hash_token(old_token), None)
            self._sessions[_hash_token(token)] = Session(user_name, password_key, self._clock())
        return token

    def find(self, token: str) -> Session | None:
        """Return the session of a token and renew its idle time; None if it does not exist or has expired."""
        key = _hash_token(token)
        with self._lock:
            session = self._sessions.get(key)
            if session is not None:
                self._sessions[key] = session  # starts the idle time again
            return session

    def end(self, token: str) -> None:
        """End the session of a token, if it exists."""
        with self._lock:
            self._sessions.pop(_hash_token(token), None)


def _hash_token(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Throttle:
    """Throttle of password attempts, by user name and by client address.

    The first attempts are free; after them, each attempt doubles the wait. Attempts from many addresses delay the owner
    of a name only late and briefly, so that nobody can lock out somebody else. Signatures of a signed-in user are
    counted separately, with None as their address.
    """

    # Free attempts, and the longest wait in seconds.
    _BY_NAME_AND_ADDRESS, _BY_NAME, _BY_ADDRESS = (5, 900.0), (50, 30.0), (30, 60.0)

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Create a throttle without recorded attempts."""
        self._clock = clock
        self._attempts: TTLCache[tuple[str, ...], tuple[int, float]] = TTLCache(_MAX_ENTRIES, _THROTTLE_SECONDS, clock)
        self._lock = threading.Lock()

    def admit(self, name: str, address: str | None) -> float:
        """Return the seconds to wait. 0 admits the attempt, which counts as failed until `record_success` is called."""
        now, keys = self._clock(), self._list_keys(name, address)
        with self._lock:
            wait = max(self._get_wait(key, limit, now) for key, limit in keys)
            if wait <= 0:
                for key, _ in keys:
                    self._attempts[key] = self._attempts.get(key, (0, now))[0] + 1, now
            return max(wait, 0.0)

    def record_success(self, name: str, address: str | None) -> None:
        """Reset the count for this name and address together; attempts on other combinations still count."""
        with self._lock:
            for key, limit in self._list_keys(name, address):
                count, last = self._attempts.pop(key, (0, 0.0))
                if limit is not self._BY_NAME_AND_ADDRESS and count > 1:
                    self._attempts[key] = count - 1, last

    def _list_keys(self, name: str, address: str | None) -> list[tuple[tuple[str, ...], tuple[int, float]]]:
        name = name.strip().casefold()[:64]
        if address is None:
            return [(("signing", name), self._BY_NAME_AND_ADDRESS)]
        network = _get_network(address)
        return [
            (("name and address", name, network), self._BY_NAME_AND_ADDRESS),
            (("name", name), self._BY_NAME),
            (("address", network), self._BY_ADDRESS),
        ]

    def _get_wait(self, key: tuple[str, ...], limit: tuple[int, float], now: float) -> float:
        count, last = self._attempts.get(key, (0, now))
        free, longest = limit
        return 0.0 if count < free else last + min(2.0 ** min(count - free, 20), longest) - now


def _get_network(address: str) -> str:
    """Return an IPv4 address as it is, and the /64 network of an IPv6 address, which one machine can use completely."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((int(parsed), 64), strict=False)) if parsed.version == 6 else address
