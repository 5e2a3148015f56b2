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
def file(tmp_path):
    path = tmp_path / "of the clinic" / "users.json"
    users.add(path, "ada", "Ada Lovelace", "reviewer", PASSWORD)
    return path


def test_a_user_is_known_by_name_and_password_and_no_other(file):
    known = users.load(file)
    assert users.authenticate(known, " ADA ", PASSWORD) == known["ada"]
    assert (known["ada"].full_name, known["ada"].role, known["ada"].disabled) == ("Ada Lovelace", "reviewer", False)
    for name, password in (("ada", "four unrelated word"), ("ada", ""), ("bob", PASSWORD), ("", PASSWORD)):
        assert users.authenticate(known, name, password) is None


def test_the_file_is_for_its_owner_alone_and_holds_no_password(file):
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert PASSWORD not in file.read_text()
    assert PASSWORD not in repr(users.load(file))
    assert [path.name for path in file.parent.iterdir()] == ["users.json"]  # nothing is left aside


def test_equal_passwords_are_kept_unequally_with_their_parameters(file):
    users.add(file, "bob", "Bob", "approver", PASSWORD)
    ada, bob = (entry["password"] for entry in json.loads(file.read_text())["users"].values())
    assert ada["salt"] != bob["salt"]
    assert ada["key"] != bob["key"]
    assert (ada["n"], ada["r"], ada["p"]) == (2**4, 8, 1)


def test_passwords_hashed_at_another_cost_still_fit(file, monkeypatch):
    monkeypatch.setattr(users, "_COST", (2**5, 8, 1))
    assert users.authenticate(users.load(file), "ada", PASSWORD)


def test_the_cost_of_a_password_is_what_is_recommended():
    n, r, p = COST
    assert n * r * p >= 2**16 * 8 * 2


def test_a_password_is_the_same_however_its_letters_are_composed(file):
    users.change_password(file, "ada", "Zürcher Geschnetzeltes")
    assert users.authenticate(users.load(file), "ada", "Zu\u0308rcher Geschnetzeltes")


def test_a_changed_password_replaces_the_one_before(file):
    users.change_password(file, "Ada", "another dozen letters")
    known = users.load(file)
    assert users.authenticate(known, "ada", "another dozen letters")
    assert users.authenticate(known, "ada", PASSWORD) is None


def test_a_disabled_user_is_out_until_enabled_again(file):
    users.set_disabled(file, "ada", True)
    assert users.authenticate(users.load(file), "ada", PASSWORD) is None
    users.set_disabled(file, "ada", False)
    assert users.authenticate(users.load(file), "ada", PASSWORD)


@pytest.mark.parametrize(
    ("name", "full_name", "role", "password", "said"),
    [
        ("ada", "Another Ada", "reader", PASSWORD, "which is in"),
        ("Ada ", "Another Ada", "reader", PASSWORD, "is in"),
        ("bob", "ada  lovelace", "reader", PASSWORD, "which user 'ada' has"),
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
def test_what_cannot_be_a_user_is_refused_and_nothing_changes(file, name, full_name, role, password, said):
    before = file.read_bytes()
    with pytest.raises(UsersError, match=said) as caught:
        users.add(file, name, full_name, role, password)
    assert password not in str(caught.value)
    assert file.read_bytes() == before


@pytest.mark.parametrize("change", [users.change_password, users.set_disabled])
def test_an_unknown_user_is_told_with_those_that_are_known(file, change):
    with pytest.raises(UsersError, match=r"got 'bob', expected one of .*: ada"):
        change(file, "bob", "a password of some length")


def entry(file, **changes):
    record = json.loads(file.read_text())
    for key, value in changes.items():
        if key in ("salt", "key", "n", "r", "p", "q"):
            record["users"]["ada"]["password"][key] = value
        else:
            record["users"]["ada"][key] = value
    return json.dumps(record)


@pytest.mark.parametrize(
    ("changes", "said"),
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
def test_a_file_that_was_tampered_with_is_refused(file, changes, said):
    file.write_text(entry(file, **changes))
    with pytest.raises(UsersError, match=f"got an invalid file .*{said}.*restore it"):
        users.load(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2, "users": {}}', '{"version": 1, "users": []}', "\xff"])
def test_what_is_no_users_file_is_refused(file, text):
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsersError, match="got an invalid file"):
        users.load(file)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_read_or_change_is_refused(file, mode):
    file.chmod(mode)
    with pytest.raises(UsersError, match=f"mode {mode:03o}.*chmod 600"):
        users.load(file)


def test_a_file_that_is_not_there_says_how_to_begin(tmp_path):
    with pytest.raises(UsersError, match="users add NAME --users"):
        users.load(tmp_path / "none.json")


def test_a_folder_that_cannot_be_made_is_told(file):
    with pytest.raises(UsersError, match="cannot be written"):
        users.add(file / "below a file" / "users.json", "bob", "Bob", "reader", PASSWORD)


def test_users_added_at_once_are_all_there(file):
    names = [f"user{number}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: users.add(file, name, f"Person {name}", "reader", PASSWORD), names))
    assert set(users.load(file)) == {"ada", *names}
