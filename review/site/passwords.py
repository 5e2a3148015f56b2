"""Checks of passwords, in threads of their own: a hash takes a third of a second, and pages must not wait for it."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from review.site.sessions import Throttle, get_network
from review.site.users import User, authenticate, normalize_name

MAX_WAITING: Final = 16
"""Number of passwords of each kind that may wait for their hash, including the one that is hashed."""
MAX_WAITING_PER_ADDRESS: Final = 4
MAX_WAITING_PER_NAME: Final = 2
_BUSY_SECONDS: Final = 5
"""Seconds after which to try again if too many wait: as long as they take, at most."""


class ThrottledError(Exception):
    """There were too many passwords to check; the next attempt is possible after `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = max(1, round(seconds))
        super().__init__(f"Too many attempts. Wait {self.seconds} seconds, then try again.")


class Passwords:
    """Checks of passwords of one server, one of each kind at a time. Methods run in its event loop."""

    def __init__(self) -> None:
        """Create checks without recorded attempts."""
        self.throttle = Throttle()
        # Strangers who sign in delay neither those who sign, nor those who sign in where they have done so before.
        self._pools = {kind: ThreadPoolExecutor(1, f"password-{kind}") for kind in ("stranger", "known", "signature")}
        self._waiting: Counter[tuple[str, ...]] = Counter()

    async def check(self, users: Mapping[str, User], name: str, password: str, address: str | None) -> User | None:
        """Return the user with this name and password; None if either is wrong. Raises ThrottledError.

        Attempts are counted by name and address. Without an address, a signed-in user signs. Then only wrong passwords
        on this user's signatures count, so that nobody else can prevent the user from signing.
        """
        name = normalize_name(name)
        kind = "signature" if address is None else "known" if self.throttle.is_known(name, address) else "stranger"
        limits = {(kind,): MAX_WAITING, (kind, "name", name): MAX_WAITING_PER_NAME}
        if address is not None:
            limits[kind, "address", get_network(address)] = MAX_WAITING_PER_ADDRESS
        if any(self._waiting[key] >= limit for key, limit in limits.items()):
            raise ThrottledError(_BUSY_SECONDS)
        if (wait := self.throttle.admit(name, address)) > 0:
            raise ThrottledError(wait)
        self._waiting.update(limits.keys())
        try:
            loop = asyncio.get_running_loop()
            user = await loop.run_in_executor(self._pools[kind], authenticate, users, name, password)
        finally:
            self._waiting -= Counter(limits.keys())  # drops keys that nobody waits under
        if user is not None:
            self.throttle.record_success(name, address)
        return user
