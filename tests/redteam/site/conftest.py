"""A lake with two audited runs, and servers of it with the users ada (reviewer) and rita (reader)."""

import contextlib
import http.client
import threading
import time

import pytest

from review.site import users
from review.site.app import create_app
from review.site.serve import Server
from review.site.settings import ReviewSettings

PASSWORD = "four unrelated words"
_ALERT = {"slice": "consolidation", "state": "confirmed", "severity": "high", "interval": (1.0, 2.0, 3.0)}


@pytest.fixture(scope="session")
def audited_lake(tmp_path_factory, make_add_next_run):
    """A lake with two runs, each with four pairs and an alert. Not to be changed."""
    lake = tmp_path_factory.mktemp("redteam") / "lake"
    add = make_add_next_run(lake)
    add(_ALERT)
    add(_ALERT)
    return lake


@pytest.fixture
def users_file(tmp_path, monkeypatch):
    monkeypatch.setattr(users, "_COST", (2**4, 8, 1))
    path = tmp_path / "accounts" / "users.json"
    users.add(path, "ada", "Ada Lovelace", "reviewer", PASSWORD)
    users.add(path, "rita", "Rita Reader", "reader", PASSWORD)
    return path


class Site:
    """A server in a thread of this process, on loopback."""

    def __init__(self, app):
        self.access = app.state.access
        self.server = Server(app, "127.0.0.1", 0)
        self._thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self._thread.start()
        while not self.server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def sign_in(self, name="ada"):
        """Start a session; returns the headers of a request in it."""
        user = users.load(self.access.settings.users)[name]
        return {"Cookie": f"{self.access.session_cookie}={self.access.sessions.start(name, user.password.key)}"}

    def request(self, method, path, body=None, headers=None, timeout=60):
        """Send one request on a connection of its own; returns the response, with its body as `text`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            response.text = response.read().decode("utf-8", "replace")
            return response

    def get(self, path, headers=None):
        return self.request("GET", path, headers=headers)

    def post(self, path, body, headers=None):
        """Send a form, as a page of the site does."""
        own = {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"}
        return self.request("POST", path, body, own | (headers or {}))


@pytest.fixture
def serve(audited_lake):
    """serve(lake=, **settings): a `Site` until the test ends."""
    with contextlib.ExitStack() as stack:

        def start(lake=audited_lake, **settings):
            return stack.enter_context(Site(create_app(lake, ReviewSettings(port=0, **settings))))

        yield start
