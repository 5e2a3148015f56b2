"""Prefect's temporary server, for commands that run a flow while the user's settings name no server.

Prefect would start one at the first request of the flow. This module starts it earlier and keeps it longer:

- It boots while the command imports PyTorch and the flow, and the command does not import Prefect's server itself.
- An interrupt of the command's process group does not end it, because the end of the run is still to be recorded.
- It ends with the command, even if that was killed. Its standard input is a pipe from the command, and it stops at the
  end of the file. Another process of the command can keep the pipe open, so it also stops when its parent is gone.
"""

import atexit
import contextlib
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

_SECONDS_TO_STOP = 5
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_ANSWER = 30


@contextlib.contextmanager
def start_server(temporary: bool = True, check: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Start the server, run the block, which imports the flow, then wait until the server answers.

    No server is started if `temporary` is false, or if the user has set PREFECT_API_URL in the environment, a profile
    or a file that Prefect reads; raises AuditError if the user's server does not answer.

    `check` is called before a server is started, so that its error is raised at once. With the user's server it is not
    called: there the flow makes the same check, and sends the event of an audit that cannot start.

    The garbage collector is off in the block: it took a fifth of the time that the imports need, although what they
    create stays. It ignores these objects afterwards, too.
    """
    gc.disable()
    try:
        started = _start(temporary, check)
        yield
        gc.freeze()
    finally:
        gc.enable()
    if started:
        _wait_until_ready()


def check_server() -> None:
    """Raise AuditError if the user's server does not answer. Prefect itself would wait for minutes.

    Any answer will do, so certificates are not verified here, and no credentials are sent.
    """
    import httpx
    from prefect.settings import get_current_settings

    from tasks.errors import AuditError

    url = get_current_settings().api.url
    try:
        httpx.get(f"{url}/health", timeout=_SECONDS_TO_ANSWER, verify=False)  # noqa: S501
    except httpx.HTTPError as error:
        late = isinstance(error, httpx.TimeoutException)
        reason = f"did not answer within {_SECONDS_TO_ANSWER} seconds" if late else f"cannot be reached ({error})"
        raise AuditError(
            f"the Prefect server {url} {reason}; check it, or unset PREFECT_API_URL, so that audits start a temporary "
            "server"
        ) from error


def _start(temporary: bool, check: Callable[[], object]) -> bool:
    """Start the server unless the user's settings name one. Return whether it was started."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url is not None:
        check_server()
        return False
    if not temporary or not settings.server.ephemeral.enabled:
        return False
    check()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, descriptor = listener.getsockname()[1], listener.fileno()
        # Run as a file and with -P, because the working directory may contain modules of the same names.
        process = subprocess.Popen(  # noqa: S603  # fixed arguments
            [sys.executable, "-P", __file__, str(descriptor), str(os.getpid())],
            stdin=subprocess.PIPE,
            pass_fds=[descriptor],
        )
    atexit.register(_stop, process)  # before Prefect registers what it still sends to the server at exit
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_UI_URL"] = ""  # it serves no user interface that a log could refer to
    refresh_global_settings_context()
    return True


def _wait_until_ready() -> None:
    import httpx
    from prefect.settings import get_current_settings

    from tasks.errors import AuditError

    settings = get_current_settings()
    try:
        # The socket already listens, so this request waits for its answer.
        httpx.get(
            f"{settings.api.url}/health", timeout=settings.server.ephemeral.startup_timeout_seconds
        ).raise_for_status()
    except httpx.HTTPError as error:
        raise AuditError(
            f"Prefect's temporary server did not start ({type(error).__name__}: {error}); see its messages above, or "
            "start a server of your own and set PREFECT_API_URL to its address"
        ) from error


def _stop(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.communicate(timeout=_SECONDS_TO_STOP)  # closes its standard input
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve(descriptor: int, parent: int) -> None:
    """Run the server in this process, on a listening socket, until standard input or the process `parent` ends."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    gc.disable()
    import uvicorn
    from prefect.server.api.server import create_app

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: object) -> None:
            """Ignore the signals that uvicorn listens to."""

    server = Server(uvicorn.Config(create_app(final=True, ephemeral=True), log_level="error", lifespan="on"))
    gc.freeze()
    gc.enable()

    def stop_with_command() -> None:
        # Nothing is ever written to the pipe, so it can be read only at the end of the file.
        while os.getppid() == parent and not select.select([sys.stdin], [], [], _SECONDS_BETWEEN_LOOKS)[0]:
            pass
        server.should_exit = True

    threading.Thread(target=stop_with_command, daemon=True).start()
    server.run([socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
