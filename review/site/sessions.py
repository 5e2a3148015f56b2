"""Sessions of signed-in users, and the throttle of password attempts. Both are only in the memory of the server."""

import hashlib
import ipaddress
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cachetools import TLRUCache, TTLCache

_MAX_ENTRIES = 10_000  # sessions, and keys of the throttle, so that nobody can fill the memory
_THROTTLE_SECONDS = 3600.0
_KNOWN_SECONDS = 30 * 86_400.0
IDLE_SECONDS = 30 * 60.0
"""Seconds without a request after which a user is signed out."""
SESSION_SECONDS = 12 * 3600.0
"""Seconds after which a user has to sign in again in any case."""

Clock = Callable[[], float]


class _Key(NamedTuple):
    """Key of a counter of attempts: what is counted, and the limits of this kind of counter."""

    free_attempts: int
    max_wait: float  # seconds
    kind: str
    name: str = ""  # of the user
    network: str = ""  # of the client


@dataclass(frozen=True)
class Session:
    """Session of a signed-in user; `start` is a time of the clock that `Sessions` uses."""

    user_name: str
    password_key: str
    """Hash of the password at sign-in; a different hash now means that the password was changed."""
    start: float


class Sessions:
    """Sessions by token. Only the sha256 of a token is stored."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Create an empty store of sessions."""

        def get_expiry(_: str, session: Session, now: float) -> float:
            return min(now + IDLE_SECONDS, session.start + SESSION_SECONDS)

        self._clock = clock
        self._sessions: TLRUCache[str, Session] = TLRUCache(_MAX_ENTRIES, get_expiry, clock)
        self._lock = threading.Lock()

    def start(self, user_name: str, password_key: str) -> str:
        """Start a session and return its token."""
        token = secrets.token_urlsafe(32)
        with self._lock:
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
    of a name only late and briefly, and not where the owner has signed in before, so that nobody can lock out somebody
    else. Signatures of a signed-in user are counted separately, with None as their address.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Create a throttle without recorded attempts."""
        self._clock = clock
        self._attempts: TTLCache[_Key, tuple[int, float]] = TTLCache(_MAX_ENTRIES, _THROTTLE_SECONDS, clock)
        self._known: TTLCache[tuple[str, str], bool] = TTLCache(_MAX_ENTRIES, _KNOWN_SECONDS, clock)
        self._lock = threading.Lock()

    def is_known(self, name: str, address: str | None) -> bool:
        """Return whether the user has signed in from this address before."""
        with self._lock:
            return address is not None and (_normalize(name), get_network(address)) in self._known

    def admit(self, name: str, address: str | None) -> float:
        """Return seconds to wait, or 0 to admit an attempt, which counts as failed until `record_success` is called."""
        now, keys = self._clock(), self._list_keys(name, address)
        with self._lock:
            wait = max(self._get_wait(key, now) for key in keys)
            if wait <= 0:
                for key in keys:
                    self._attempts[key] = self._attempts.get(key, (0, now))[0] + 1, now
            return max(wait, 0.0)

    def record_success(self, name: str, address: str | None) -> None:
        """Reset the count for this combination of name and address; attempts on other combinations still count."""
        together, *separate = self._list_keys(name, address)
        with self._lock:
            if address is not None:
                self._known[_normalize(name), get_network(address)] = True
            self._attempts.pop(together, None)
            for key in separate:
                count, last = self._attempts.pop(key, (0, 0.0))
                if count > 1:
                    self._attempts[key] = count - 1, last

    def _list_keys(self, name: str, address: str | None) -> list[_Key]:
        is_known, name = self.is_known(name, address), _normalize(name)
        if address is None:
            return [_Key(5, 900.0, "signing", name)]
        network = get_network(address)
        together = _Key(5, 900.0, "name and address", name, network)
        if is_known:
            return [together]
        return [
            together,
            _Key(50, 30.0, "name", name),
            _Key(30, 60.0, "address", network=network),
        ]

    def _get_wait(self, key: _Key, now: float) -> float:
        count, last = self._attempts.get(key, (0, now))
        excess = count - key.free_attempts
        return 0.0 if excess < 0 else last + min(2.0 ** min(excess, 20), key.max_wait) - now


def _normalize(name: str) -> str:
    return name.strip().casefold()[:64]


def get_network(address: str) -> str:
    """Return an IPv4 address as it is, and the /64 network of an IPv6 address, which one machine can use completely."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return str(ipaddress.ip_network((int(parsed), 64), strict=False)) if parsed.version == 6 else str(parsed)
