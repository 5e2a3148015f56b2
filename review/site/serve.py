"""Serve the site with uvicorn."""

from collections.abc import Callable

import uvicorn
from fastapi import FastAPI


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
    try:
        socket = config.bind_socket()
    except SystemExit:  # uvicorn exits so, after an error message, if the address is in use
        return False
    socket.listen()  # so that a request that comes before the server runs waits for it
    host, port = socket.getsockname()[:2]
    on_ready(f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/")
    uvicorn.Server(config).run(sockets=[socket])
    return True
