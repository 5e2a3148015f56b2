"""Nobody gets an account whose name others mistake for somebody else's."""

import pytest
from typer.testing import CliRunner

from flows import cli
from review.site import users
from review.site.users import UsersError
from stores.look_alikes import is_alike

from .conftest import PASSWORD


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("ada", "a.da", True),
        ("ada", "\uff41\uff44\uff41", True),  # full-width
        ("ada", "\u0430da", True),  # a Cyrillic letter
        ("Copa", "\u0421\u043e\u0440\u0430", True),  # all of it Cyrillic
        ("Avva", "\u0391\u03bd\u03bd\u03b1", True),  # all of it Greek
        ("Ann Example", "\u0410NN \u0415\u0425\u0410\u041c\u0420L\u0415", True),  # Cyrillic capitals
        ("Ina Bo", "lna Bo", True),
        ("mary", "rnary", True),
        ("user1", "userl", True),
        ("O'Neil", "0\u2019Neil", True),
        ("Jo Anna", "Joanna", True),
        ("Ada Okafor", "Ada Okaf\u00f3r", False),
        ("Bob", "Bod", False),
        ("Ann", "Anna", False),
        ("\u674e", "\u738b", False),
    ],
)
def test_names_that_look_alike(one, other, alike):
    assert is_alike(one, other) == is_alike(other, one) == alike


@pytest.mark.parametrize(
    ("name", "full_name", "field"),
    [
        ("a.da", "Grace Hopper", "name"),
        ("\uff41d\uff41", "Grace Hopper", "name"),
        ("a-d-a", "Grace Hopper", "name"),
        ("grace", "Ada L. ovelace", "full name"),
        ("grace", "\uff21da Lovelace", "full name"),
        ("grace", "Ada Iovelace", "full name"),
        ("grace", "\u0410da Lovelace", "full name"),
    ],
)
def test_look_alikes_are_refused_at_creation(users_file, name, full_name, field):
    before = users_file.read_bytes()
    with pytest.raises(UsersError, match=rf"^{field}: got .*(looks like|is in|look alike)"):
        users.add(users_file, name, full_name, "reviewer", PASSWORD)
    assert users_file.read_bytes() == before


def test_names_have_one_form(users_file):
    user = users.add(users_file, "\uff27race", "Grace \uff28opper", "reviewer", PASSWORD)
    assert (user.name, user.full_name) == ("grace", "Grace Hopper")
    loaded = users.load(users_file)
    assert users.authenticate(loaded, " \uff27RACE ", PASSWORD).name == "grace"
    for name in ("gr\u0430ce", "grace\u200b", "x" * 100_000, "\ud800", "grace\x00"):
        assert users.authenticate(loaded, name, PASSWORD) is None


def test_password_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "users.json"
    command = ["users", "add", "ada", "--users", str(path), "--full-name", "Ada Lovelace", "--role", "reader"]
    result = CliRunner().invoke(
        cli.app, [*command, "--password-stdin"], input="Zürcher Geschnetzeltes\n".encode("latin-1")
    )
    assert result.exit_code == 2
    assert "password: standard input is not UTF-8" in result.stderr
    assert "Traceback" not in result.output
    assert not path.exists()
