import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from review.site import users
from review.site.users import UsersError

PASSWORD = "four unrelated words"
pytestmark = pytest.mark.usefixtures("quick_hashing")
COST = users._COST


@pytest.fixture
def users_file(tmp_path):
    path = tmp_path / "clinic" / "users.json"
    users.add(path, "ada", "Ada Lovelace", "reviewer", PASSWORD)
    return path


def test_user_is_authenticated_by_name_and_password(users_file):
    loaded = users.load(users_file)
    assert users.authenticate(loaded, " ADA ", PASSWORD) == loaded["ada"]
    assert (loaded["ada"].full_name, loaded["ada"].role, loaded["ada"].disabled) == ("Ada Lovelace", "reviewer", False)
    for name, password in (("ada", "four unrelated word"), ("ada", ""), ("bob", PASSWORD), ("", PASSWORD)):
        assert users.authenticate(loaded, name, password) is None


def test_users_file_is_private_and_contains_no_password(users_file):
    assert stat.S_IMODE(users_file.stat().st_mode) == 0o600
    assert PASSWORD not in users_file.read_text()
    assert PASSWORD not in repr(users.load(users_file))
    assert [path.name for path in users_file.parent.iterdir()] == ["users.json"]  # no temporary file is left


def test_equal_passwords_have_different_salts_and_keys(users_file):
    users.add(users_file, "bob", "Bob", "approver", PASSWORD)
    ada, bob = (entry["password"] for entry in json.loads(users_file.read_text())["users"].values())
    assert ada["salt"] != bob["salt"]
    assert ada["key"] != bob["key"]
    assert (ada["n"], ada["r"], ada["p"]) == (2**4, 8, 1)


def test_passwords_hashed_with_other_parameters_are_accepted(users_file, monkeypatch):
    monkeypatch.setattr(users, "_COST", (2**5, 8, 1))
    assert users.authenticate(users.load(users_file), "ada", PASSWORD)


def test_hashing_cost_is_at_least_the_recommended_one():
    n, r, p = COST
    assert n * r * p >= 2**16 * 8 * 2


def test_passwords_are_normalized(users_file):
    users.change_password(users_file, "ada", "Zürcher Geschnetzeltes")
    assert users.authenticate(users.load(users_file), "ada", "Zu\u0308rcher Geschnetzeltes")


def test_changed_password_replaces_the_earlier_one(users_file):
    users.change_password(users_file, "Ada", "another dozen letters")
    loaded = users.load(users_file)
    assert users.authenticate(loaded, "ada", "another dozen letters")
    assert users.authenticate(loaded, "ada", PASSWORD) is None


def test_disabled_user_cannot_sign_in_until_enabled(users_file):
    users.set_disabled(users_file, "ada", True)
    assert users.authenticate(users.load(users_file), "ada", PASSWORD) is None
    users.set_disabled(users_file, "ada", False)
    assert users.authenticate(users.load(users_file), "ada", PASSWORD)


@pytest.mark.parametrize(
    ("name", "full_name", "role", "password", "message"),
    [
        ("ada", "Another Ada", "reader", PASSWORD, "which is in"),
        ("Ada ", "Another Ada", "reader", PASSWORD, "is in"),
        ("bob", "ada  lovelace", "reader", PASSWORD, "which looks like 'Ada Lovelace' of user 'ada'"),
        ("bob/../x", "Bob", "reader", PASSWORD, "name: String should match"),
        ("", "Bob", "reader", PASSWORD, "name: String should match"),
        ("bob", " ", "reader", PASSWORD, "full name: got 0 characters"),
        ("bob", "Bob \u202eroot", "reader", PASSWORD, "invisible characters"),
        ("bob", "Bob\x1b[2J", "reader", PASSWORD, "invisible characters"),
        ("bob", "Bob", "admin", PASSWORD, "role: Input should be 'reader', 'reviewer' or 'approver'"),
        ("bob", "Bob", "reader", "eleven char", "got 11 characters, expected 12"),
        ("bob", "Bob", "reader", "x" * 1025, "got 1025 characters"),
        ("bob", "Bob", "reader", "ababababababab", "at least 5 different ones, without the user name"),
        ("bob", "Bob", "reader", "my name is Bob!", "at least 5 different ones, without the user name"),
    ],
)
def test_invalid_user_is_rejected_and_the_file_is_unchanged(users_file, name, full_name, role, password, message):
    before = users_file.read_bytes()
    with pytest.raises(UsersError, match=message) as raised:
        users.add(users_file, name, full_name, role, password)
    assert password not in str(raised.value)
    assert users_file.read_bytes() == before


@pytest.mark.parametrize("change", [users.change_password, users.set_disabled])
def test_error_for_unknown_user_lists_known_users(users_file, change):
    with pytest.raises(UsersError, match=r"got 'bob', expected one of .*: ada"):
        change(users_file, "bob", "a password of some length")


def edit_entry(users_file, **changes):
    record = json.loads(users_file.read_text())
    for key, value in changes.items():
        if key in ("salt", "key", "n", "r", "p", "q"):
            record["users"]["ada"]["password"][key] = value
        else:
            record["users"]["ada"][key] = value
    return json.dumps(record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": "root"}, "role: Input should be 'reader', 'reviewer' or 'approver'"),
        ({"disabled": "no"}, "disabled: Input should be a valid boolean"),
        ({"admin": True}, "admin: Extra inputs are not permitted"),
        ({"full_name": "\u202eada"}, "invisible characters"),
        ({"salt": "00"}, "password.salt: String should match"),
        ({"salt": "zz" * 16}, "password.salt: String should match"),
        ({"key": ""}, "password.key: String should match"),
        ({"n": 3}, "scrypt parameters"),
        ({"n": 0}, "password.n: Input should be greater"),
        ({"r": True}, "password.r: Input should be a valid integer"),
        ({"n": 2**30}, "too costly"),
        ({"q": 1}, "password.q: Extra inputs"),
    ],
)
def test_file_with_an_invalid_entry_is_rejected(users_file, changes, message):
    users_file.write_text(edit_entry(users_file, **changes))
    with pytest.raises(UsersError, match=f"got an invalid file .*{message}.*restore it"):
        users.load(users_file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2, "users": {}}', '{"version": 1, "users": []}', "\xff"])
def test_invalid_users_file_is_rejected(users_file, text):
    users_file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsersError, match="got an invalid file"):
        users.load(users_file)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_file_that_others_can_read_or_change_is_rejected(users_file, mode):
    users_file.chmod(mode)
    with pytest.raises(UsersError, match=f"mode {mode:03o}.*chmod 600"):
        users.load(users_file)


def test_error_for_missing_file_names_the_command_to_create_it(tmp_path):
    with pytest.raises(UsersError, match="users add NAME --users"):
        users.load(tmp_path / "none.json")


def test_folder_that_cannot_be_created_is_an_error(users_file):
    with pytest.raises(UsersError, match="cannot be written"):
        users.add(users_file / "below a file" / "users.json", "bob", "Bob", "reader", PASSWORD)


def test_concurrently_added_users_are_all_stored(users_file):
    names = [f"user{number}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: users.add(users_file, name, f"Person {name}", "reader", PASSWORD), names))
    assert set(users.load(users_file)) == {"ada", *names}
