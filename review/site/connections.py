"""Connections of the site's server: deadlines, and limits for one address and for all.

This adds to uvicorn what it lacks: a deadline for a whole request head and body, for a client that does not read its
answer, and limits by address. The alternatives lack it as well. Hypercorn times out single reads only, so one byte in
time holds a connection for ever; granian has a deadline for heads, but none for bodies, no limit by address, and serves
from other processes, which share no sessions. Waitress serves WSGI. `limit_concurrency` of uvicorn answers 503 to
everybody once strangers hold all connections. Here the connection that has waited longest makes room instead.

The rest is uvicorn's and h11's own: the time between two requests, backpressure, and the size of a head that arrives in
pieces. `review.site.guard` limits one that arrives whole.
"""

import logging
import resource
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from review.site.sessions import get_network

log = logging.getLogger("m2ib_audit.review")

MAX_CONNECTIONS: Final = 256
"""Maximum number of open connections; less if the process may open fewer than four times as many files."""
MAX_PER_ADDRESS: Final = 64
"""Maximum number of open connections from one address, or one /64 network of IPv6. A browser opens six."""
BACKLOG: Final = 128
"""Connections that the system may hold before they are accepted. asyncio accepts as many at once."""
MAX_HEAD_BYTES: Final = 64 * 1024
"""Maximum size of the head of a request. The longest query that the SQL page takes must fit into its address."""
SECONDS: Final = {"head": 10.0, "body": 30.0, "answer": 30.0, "close": 10.0}
"""Seconds that a client may take to send a request head, or a body, to read 64 KiB of an answer, and to close."""
_PROGRESS_BYTES: Final = 64 * 1024


class Connection(H11Protocol):
    """A connection that the server drops if its client is too slow, or to make room for others."""

    def __init__(self, *args: Any, is_proxy: Callable[[str], bool], **named: Any) -> None:
        """Create a connection; `is_proxy` says whether an address is that of a proxy, which has many clients."""
        super().__init__(*args, **named)
        self._is_proxy = is_proxy
        self._since = self.loop.time()
        self._state: tuple[object, ...] = ("head", None, 0)

    def connection_made(self, transport: Any) -> None:
        """Accept a connection, and drop one that waits if there are too many."""
        super().connection_made(transport)
        if (connection := self._choose_dropped()) is not None:
            connection.drop("there are too many")

    @property
    def network(self) -> str:
        """Address of the client, or its network; empty for a proxy."""
        address = self.client[0] if self.client else ""
        return "" if self._is_proxy(address) else get_network(address)

    @property
    def waits_for(self) -> str | None:
        """What the client has to do next, a key of SECONDS; None while the site works on an answer."""
        if self.transport.is_closing():
            return "close"
        if self.flow.write_paused:
            return "answer"
        return {h11.IDLE: "head", h11.SEND_BODY: "body"}.get(self.conn.their_state)

    def check(self) -> None:
        """Drop the connection if its client has been too slow. The server calls this every second."""
        waits_for, now = self.waits_for, self.loop.time()
        state = (waits_for, self.cycle, self.transport.get_write_buffer_size() // _PROGRESS_BYTES)
        if state != self._state:
            self._state, self._since = state, now
        elif waits_for is not None and now - self._since > SECONDS[waits_for]:
            self.drop(f"its {waits_for} took more than {SECONDS[waits_for]:g} seconds")

    def drop(self, reason: str) -> None:
        """Close the connection at once."""
        log.warning("dropped a connection from %s: %s", self.client[0] if self.client else "?", reason)
        # Counted no longer: the transport reports the end only at the next turn of the loop.
        self.connections.discard(self)
        self.transport.abort()

    def _choose_dropped(self) -> "Connection | None":
        """Return the connection that makes room for this one: the longest waiting of the address that has most.

        If none waits, it is the newest of that address.
        """
        everybody = [each for each in self.connections if isinstance(each, Connection)]
        counts = Counter(each.network for each in everybody)
        if self.network and counts[self.network] > MAX_PER_ADDRESS:
            crowd = self.network
        elif len(everybody) > count_allowed():
            crowd = counts.most_common(1)[0][0]
        else:
            return None
        members = [each for each in everybody if each.network == crowd]
        waiting = [each for each in members if each is not self and each.waits_for]
        if not waiting:
            return max(members, key=lambda each: each._since)
        return min(waiting, key=lambda each: each._since)


def count_allowed() -> int:
    """Return the number of connections that may be open at the same time."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, max(8, files // 4))
