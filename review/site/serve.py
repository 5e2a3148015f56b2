"""Serve the site with uvicorn."""

import functools
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from review.site.access import Access
from review.site.connections import BACKLOG, MAX_HEAD_BYTES, Connection
from review.site.logs import log_to_stderr


class Server(uvicorn.Server):
    """A server that drops slow connections, and calls back with its address once it listens."""

    def __init__(self, app: FastAPI, host: str, port: int, on_ready: Callable[[str], None] | None = None) -> None:
        """Create a server of an application that `review.site.app.create_app` made."""
        access: Access = app.state.access
        connection: Any = functools.partial(Connection, is_proxy=access.is_proxy)
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=connection,
                ws="none",
                backlog=BACKLOG,
                log_config=None,  # `review.site.logs` bounds the log
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # `review.site.access` decides which proxy is trusted
                timeout_graceful_shutdown=5,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            )
        )
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and call back."""
        await super().startup(sockets)
        if self.started and self._on_ready:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_ready(f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/")

    async def on_tick(self, counter: int) -> bool:
        """Drop slow connections every second; uvicorn calls this ten times as often."""
        if counter % 10 == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check()
        return await super().on_tick(counter)


def serve(app: FastAPI, host: str, port: int, on_ready: Callable[[str], None]) -> bool:
    """Serve until a signal ends it, and call `on_ready` with the URL; return False if the server could not start."""
    server = Server(app, host, port, on_ready)
    with log_to_stderr():
        try:
            server.run()
        except SystemExit:  # uvicorn exits so, after an error message, if the address is in use
            return False
    return server.started
