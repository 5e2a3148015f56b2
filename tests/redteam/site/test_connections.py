"""Nobody starves the site by slow connections, nor fills the disk with its log."""

import contextlib
import io
import logging
import resource
import socket
import threading

import pytest

from review.site import connections, guard
from review.site.logs import MAX_KINDS, MAX_LINES, BoundedHandler
from review.site.pages import overview

HEAD = b"GET /help HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\nname="
CHUNKED = b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nname="


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4000:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def dial(site, data=b""):
    client = socket.create_connection(("127.0.0.1", site.port), timeout=60)
    with contextlib.suppress(OSError):  # it may have been dropped already
        client.sendall(data)
    return client


def is_dropped(client):
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        return True
    return True  # the server closed it; a timeout is an error


@pytest.mark.usefixtures("many_files")
def test_slow_connections_do_not_keep_others_out(serve, monkeypatch, caplog):
    site = serve()
    monkeypatch.setitem(connections.SECONDS, "head", 3600)  # dropped for their number, not for their slowness
    with contextlib.ExitStack() as stack:
        for number in range(1100):
            stack.enter_context(dial(site, HEAD))
            if number % 100 == 99:
                assert site.get("/help").status == 200
        assert len(site.server.server_state.connections) <= connections.MAX_PER_ADDRESS
    assert caplog.text.count("dropped a connection") >= 1000


@pytest.mark.usefixtures("many_files")
def test_the_address_with_most_connections_makes_room(serve, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 12)
    monkeypatch.setattr(connections, "get_network", lambda address: address)
    site = serve(proxy_header="X-User", proxy_from=("127.0.0.1",))  # a proxy has no limit of its own
    others = ("127.0.0.2", 0)
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.create_connection(("127.0.0.1", site.port), 60, others))
        other.sendall(HEAD)
        for _ in range(60):
            stack.enter_context(dial(site, HEAD))
        assert site.get("/help", {"X-User": "Ada"}).status == 200
        other.sendall(b"Connection: close\r\n\r\n")
        assert b"HTTP/1.1 403" in other.recv(65536)


def test_pages_that_are_worked_on_make_room_for_another_address(serve, monkeypatch):
    """Many slow pages of one address are no reason to turn others away."""
    release, started = threading.Event(), threading.Semaphore(0)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 12)
    monkeypatch.setattr(overview, "reader_terms", lambda: started.release() or release.wait(60) or [])
    site = serve()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", site.port), 60, ("127.0.0.2", 0)))
            slow.sendall(HEAD + b"\r\n")
        for _ in range(guard.MAX_AT_ONCE):
            assert started.acquire(timeout=60)
        assert site.get("/runs").status == 200
        release.set()


@pytest.mark.parametrize("phase", ["head", "body"])
@pytest.mark.parametrize("trickle", [False, True])
def test_slow_requests_are_dropped(serve, monkeypatch, phase, trickle):
    monkeypatch.setitem(connections.SECONDS, phase, 0.5)
    site = serve()
    for start in (HEAD,) if phase == "head" else (POST, CHUNKED):
        with dial(site, start) as client:
            client.settimeout(0.1)
            for _ in range(200):
                with contextlib.suppress(TimeoutError):
                    assert is_dropped(client)
                    break
                if trickle:
                    with contextlib.suppress(OSError):
                        client.sendall({HEAD: b"X", POST: b"a", CHUNKED: b"1\r\na\r\n"}[start])
            else:
                pytest.fail("the connection is still open")
    assert site.get("/help").status == 200


def test_client_that_does_not_read_its_answer_is_dropped(serve, monkeypatch):
    monkeypatch.setitem(connections.SECONDS, "answer", 0.5)
    site = serve()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", site.port))
        client.settimeout(60)
        # Many requests in one connection, whose answers fill the buffers of the system.
        with pytest.raises(ConnectionError):
            while True:
                client.sendall(b"GET /static/page.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20)
    assert site.get("/help").status == 200


def test_too_large_heads_are_refused(serve):
    site = serve()
    cookies = b"Cookie: " + b"x" * 200_000 + b"\r\n\r\n"
    with dial(site, HEAD + cookies) as client, contextlib.suppress(ConnectionError):
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    assert site.get("/help", {"Cookie": "x" * 8000}).status == 200


def test_number_of_connections_follows_the_limit_on_open_files(monkeypatch):
    for files, allowed in ((1024, 256), (256, 64), (20, 8), (resource.RLIM_INFINITY, 256)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert connections.count_allowed() == allowed


def test_log_is_bounded():
    now, stream = [0.0], io.StringIO()
    handler = BoundedHandler(stream, lambda: now[0])
    log = logging.Logger("site")
    log.addHandler(handler)
    for number in range(10_000):
        error = ValueError("x" * 5000)
        log.error("failed %d times %s", number, "y" * 100_000, exc_info=error)
        log.warning(f"a kind of its own: {number}" + "z" * 5000)
    text = stream.getvalue()
    assert text.count("ValueError") == 1
    assert len(text) < (MAX_LINES + MAX_KINDS) * 1100 + 10_000
    now[0] += 61
    log.warning("quiet again")
    assert "quiet again (" in stream.getvalue()
    assert "messages before this one were left out)" in stream.getvalue()
