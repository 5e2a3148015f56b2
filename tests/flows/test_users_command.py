import json
import logging

import pytest
from typer.testing import CliRunner

from flows import cli
from review.site import users

PASSWORD = "four unrelated words"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Hashing that costs nothing."""
    monkeypatch.setattr(users, "_COST", (2**4, 8, 1))


@pytest.fixture
def users_command(tmp_path):
    """users_command(subcommand, ..., typed=...) on a file of its own."""

    def run(*arguments, typed=None):
        return CliRunner().invoke(cli.app, ["users", *arguments, "--users", str(tmp_path / "users.json")], input=typed)

    run.path = tmp_path / "users.json"
    return run


def test_users_are_added_changed_disabled_and_listed(users_command, caplog):
    caplog.set_level(logging.DEBUG)
    described = ("--full-name", "Ada Lovelace", "--role", "reviewer", "--password-stdin")
    done = users_command("add", "ada", *described, typed=f"{PASSWORD}\nsomething else\n")
    assert (done.exit_code, done.stdout) == (0, "added ada: Ada Lovelace, reviewer\n")
    assert users.authenticate(users.load(users_command.path), "ada", PASSWORD)
    changed = users_command("passwd", "ada", "--password-stdin", typed="another dozen letters\r\n")
    assert changed.exit_code == 0
    assert users.authenticate(users.load(users_command.path), "ada", "another dozen letters")
    assert users_command("disable", "ada").stdout == "disabled ada\n"
    listed = users_command("list", "--json")
    assert json.loads(listed.stdout) == {
        "users": [{"name": "ada", "full_name": "Ada Lovelace", "role": "reviewer", "disabled": True}]
    }
    assert users_command("disable", "ada", "--undo").stdout == "enabled ada\n"
    assert "Ada Lovelace" in users_command("list").stdout
    for said in (done.output, changed.output, caplog.text):
        assert PASSWORD not in said
        assert "another dozen letters" not in said


def test_a_password_is_no_argument_and_without_a_terminal_says_how(users_command):
    described = ("--full-name", "Ada", "--role", "reader")
    assert users_command("add", "ada", *described, "--password", PASSWORD).exit_code == 2
    done = users_command("add", "ada", *described, typed=f"{PASSWORD}\n")
    assert done.exit_code == 2
    assert "--password-stdin" in done.stderr
    assert not users_command.path.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("passwd", "bob", "--password-stdin"), "got 'bob', expected one of"),
        (("disable", "bob"), "got 'bob', expected one of"),
        (("add", "bob", "--full-name", "Bob", "--role", "root", "--password-stdin"), "role: Input should be 'reader'"),
        (("list",), "users file"),
    ],
)
def test_what_cannot_be_done_is_bad_input(users_command, arguments, said):
    done = users_command(*arguments, typed=f"{PASSWORD}\n")
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "0.0.0.0"), "which other machines can reach, but nobody has to sign in"),
        (("--users", "none.json"), "users add NAME --users none.json"),
        (("--proxy-header", "X-User"), "--proxy-from"),
        (("--proxy-header", "X-User", "--proxy-from", "proxy"), "an address or network"),
        (("--allow-anonymous-read", "--proxy-header", "X-User", "--proxy-from", "::1"), "leave one of them out"),
    ],
)
def test_the_page_does_not_start_where_anyone_could_write(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("review.site.serve.serve", lambda *_: pytest.fail("it listens"))
    done = CliRunner().invoke(cli.app, ["review", "--lake", str(tmp_path), *options])
    assert done.exit_code == 2
    assert said in done.stderr


def test_the_page_is_told_who_may_write(tmp_path, monkeypatch, users_command):
    described = ("--full-name", "Ada Lovelace", "--role", "reviewer", "--password-stdin")
    users_command("add", "ada", *described, typed=f"{PASSWORD}\n")
    started = []
    monkeypatch.setattr("review.site.serve.serve", lambda app, *_: started.append(app.state.settings) or True)
    options = ["--users", str(users_command.path), "--host", "0.0.0.0", "--four-eyes"]
    proxy = [
        "--proxy-header",
        "X-User",
        "--proxy-role-header",
        "X-Role",
        "--proxy-from",
        "::1",
        "--proxy-from",
        "10.0.0.1",
    ]
    done = CliRunner().invoke(
        cli.app, ["review", "--lake", str(tmp_path), *options, *proxy, "--public-url", "https://audit.example"]
    )
    assert done.exit_code == 0, done.output
    (settings,) = started
    assert (settings.users, settings.four_eyes) == (users_command.path, True)
    assert (settings.proxy_header, settings.proxy_role_header) == ("X-User", "X-Role")
    assert (settings.proxy_from, settings.public_url) == (("::1", "10.0.0.1"), "https://audit.example")
