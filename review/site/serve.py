"""Serving the page with uvicorn."""

import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI


class _Server(uvicorn.Server):
    """A server that says when it can be reached, and where."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/")


def serve(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> bool:
    """Serve until a signal ends it; `ready` is told the address. False if it could not begin."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # what a proxy says about people is for the page itself to judge
        timeout_graceful_shutdown=5,
    )
    server = _Server(config, ready)
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that the address is taken; it has said why
        return False
    return server.started
