import json
import logging

import pytest
from typer.testing import CliRunner

from flows import cli
from review.site import users

PASSWORD = "four unrelated words"


@pytest.fixture(autouse=True)
def fast_hashing(monkeypatch):
    """Hash passwords at low cost."""
    monkeypatch.setattr(users, "_COST", (2**4, 8, 1))


@pytest.fixture
def users_command(tmp_path):
    """users_command(subcommand, ..., typed=...): run the command on a temporary users file."""

    def run(*arguments, typed=None):
        return CliRunner().invoke(cli.app, ["users", *arguments, "--users", str(tmp_path / "users.json")], input=typed)

    run.path = tmp_path / "users.json"
    return run


def test_users_are_added_changed_disabled_and_listed(users_command, caplog):
    caplog.set_level(logging.DEBUG)
    options = ("--full-name", "Ada Lovelace", "--role", "reviewer", "--password-stdin")
    added = users_command("add", "ada", *options, typed=f"{PASSWORD}\nsomething else\n")
    assert (added.exit_code, added.stdout) == (0, "added ada: Ada Lovelace, reviewer\n")
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
    for output in (added.output, changed.output, caplog.text):
        assert PASSWORD not in output
        assert "another dozen letters" not in output


def test_password_is_not_an_argument_and_the_error_names_the_option(users_command):
    options = ("--full-name", "Ada", "--role", "reader")
    assert users_command("add", "ada", *options, "--password", PASSWORD).exit_code == 2
    result = users_command("add", "ada", *options, typed=f"{PASSWORD}\n")
    assert result.exit_code == 2
    assert "--password-stdin" in result.stderr
    assert not users_command.path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("passwd", "bob", "--password-stdin"), "got 'bob', expected one of"),
        (("disable", "bob"), "got 'bob', expected one of"),
        (("add", "bob", "--full-name", "Bob", "--role", "root", "--password-stdin"), "role: Input should be 'reader'"),
        (("list",), "users file"),
    ],
)
def test_unknown_user_or_role_is_bad_input(users_command, arguments, message):
    result = users_command(*arguments, typed=f"{PASSWORD}\n")
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--host", "0.0.0.0"), "which other machines can reach, but nobody has to sign in"),
        (("--users", "none.json"), "users add NAME --users none.json"),
        (("--proxy-header", "X-User"), "--proxy-from"),
        (("--proxy-header", "X-User", "--proxy-from", "proxy"), "an address or network"),
        (("--allow-anonymous-read", "--proxy-header", "X-User", "--proxy-from", "::1"), "leave one of them out"),
    ],
)
def test_site_does_not_start_if_anyone_could_write(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("review.site.serve.serve", lambda *_: pytest.fail("the server was started"))
    result = CliRunner().invoke(cli.app, ["review", "--lake", str(tmp_path), *options])
    assert result.exit_code == 2
    assert message in result.stderr


def test_options_of_access_reach_the_site(tmp_path, monkeypatch, users_command):
    user = ("--full-name", "Ada Lovelace", "--role", "reviewer", "--password-stdin")
    users_command("add", "ada", *user, typed=f"{PASSWORD}\n")
    started = []
    monkeypatch.setattr("review.site.serve.serve", lambda app, *_: started.append(app.state.settings) or True)
    options = ["--users", str(users_command.path), "--host", "0.0.0.0", "--four-eyes", "--reads", f"{tmp_path}.r"]
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
    result = CliRunner().invoke(
        cli.app, ["review", "--lake", str(tmp_path), *options, *proxy, "--public-url", "https://audit.example"]
    )
    assert result.exit_code == 0, result.output
    (settings,) = started
    assert (settings.users, settings.four_eyes, str(settings.reads)) == (users_command.path, True, f"{tmp_path}.r")
    assert (settings.proxy_header, settings.proxy_role_header) == ("X-User", "X-Role")
    assert (settings.proxy_from, settings.public_url) == (("::1", "10.0.0.1"), "https://audit.example")
