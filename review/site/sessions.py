"""Who is signed in, and how often somebody may try: kept in the memory of the process that serves the page."""

import hashlib
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

_MOST = 10_000  # sessions, and keys of the throttle: so that nobody fills the memory
_FORGOTTEN = 3600.0

Clock = Callable[[], float]


@dataclass(frozen=True)
class Session:
    """Of a user who has signed in; proof: what the user's password was kept as then."""

    name: str
    proof: str
    began: float
    seen: float


class Sessions:
    """Sessions by token. The tokens themselves are not kept, only their sha256."""

    def __init__(self, idle: float, absolute: float, clock: Clock = time.monotonic) -> None:
        """Seconds after which a session ends: without a request, and whatever its user does."""
        self._idle, self._absolute, self._clock = idle, absolute, clock
        self._held: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, name: str, proof: str, instead_of: str | None = None) -> str:
        """A new session's token; the session before, if any, ends."""
        token, now = secrets.token_urlsafe(32), self._clock()
        with self._lock:
            if instead_of is not None:
                self._held.pop(_digest(instead_of), None)
            self._held[_digest(token)] = Session(name, proof, now, now)
            while len(self._held) > _MOST:
                self._held.popitem(last=False)
        return token

    def find(self, token: str) -> Session | None:
        """The session of a token, which is in use now; None if there is none or it has expired."""
        key, now = _digest(token), self._clock()
        with self._lock:
            session = self._held.get(key)
            if session is None:
                return None
            if now - session.seen > self._idle or now - session.began > self._absolute:
                del self._held[key]
                return None
            self._held[key] = replace(session, seen=now)
            self._held.move_to_end(key)
            return session

    def end(self, token: str) -> None:
        """End the session of a token, if there is one."""
        with self._lock:
            self._held.pop(_digest(token), None)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Throttle:
    """How long to wait for the next try at a password, by name and by the address that it comes from.

    A few tries are free, then each one costs twice the wait of the one before. Tries from elsewhere slow the owner of a
    name down late and a little only, for otherwise anyone could shut anyone out. So it matters that addresses tell
    people apart: behind a proxy, they are what it says (`--proxy-from`). Who signs in a live session is slowed down by
    wrong passwords of such signatures alone: their place is None.
    """

    # What is counted: free tries, longest wait in seconds.
    _PAIR, _NAME, _ADDRESS = (5, 900.0), (50, 30.0), (30, 60.0)

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Clock: seconds."""
        self._clock = clock
        self._tries: OrderedDict[tuple[str, ...], tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, name: str, address: str | None) -> float:
        """0 if a try may be made now: it counts as a failed one until `succeeded`; else the seconds to wait."""
        now = self._clock()
        with self._lock:
            wait = max(self._wait(key, limit, now) for key, limit in self._keys(name, address))
            if wait <= 0:
                for key, _ in self._keys(name, address):
                    tries, _ = self._fresh(key, now)
                    self._tries[key] = tries + 1, now
                    self._tries.move_to_end(key)
                while len(self._tries) > _MOST:
                    self._tries.popitem(last=False)
            return max(wait, 0.0)

    def succeeded(self, name: str, address: str | None) -> None:
        """The try was right. Others' tries of the same name or from the same address still count."""
        with self._lock:
            for key, limit in self._keys(name, address):
                tries, last = self._tries.pop(key, (0, 0.0))
                if limit is not self._PAIR and tries > 1:
                    self._tries[key] = tries - 1, last

    def _keys(self, name: str, address: str | None) -> list[tuple[tuple[str, ...], tuple[int, float]]]:
        name = name.strip().casefold()[:64]
        if address is None:
            return [(("signing", name), self._PAIR)]
        place = _network(address)
        return [(("pair", name, place), self._PAIR), (("name", name), self._NAME), (("place", place), self._ADDRESS)]

    def _fresh(self, key: tuple[str, ...], now: float) -> tuple[int, float]:
        tries, last = self._tries.get(key, (0, now))
        return (0, now) if now - last > _FORGOTTEN else (tries, last)

    def _wait(self, key: tuple[str, ...], limit: tuple[int, float], now: float) -> float:
        tries, last = self._fresh(key, now)
        free, longest = limit
        if tries < free:
            return 0.0
        return last + min(2.0 ** min(tries - free, 20), longest) - now


def _network(address: str) -> str:
    """An address, or of IPv6 the network that one machine may choose its addresses from."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((int(found), 64), strict=False)) if found.version == 6 else address
