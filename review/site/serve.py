"""Serve the site with uvicorn."""

import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI


class _Server(uvicorn.Server):
    """A server that calls back with its address once it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_ready(f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/")


def serve(app: FastAPI, host: str, port: int, on_ready: Callable[[str], None]) -> bool:
    """Serve until a signal ends it, and call `on_ready` with the URL; return False if the server could not start."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # `review.site.access` decides which proxy is trusted
        timeout_graceful_shutdown=5,
    )
    server = _Server(config, on_ready)
    try:
        server.run()
    except SystemExit:  # uvicorn exits so, after an error message, if the address is in use
        return False
    return server.started
