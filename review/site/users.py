"""Who may use the page: a file of names, roles and hashed passwords, kept on the machine that serves it.

The file is JSON, readable by its owner alone, and written aside. Users are disabled, never removed: the ledger holds
their names for good, and another person must not inherit one.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from stores import ledger

ROLES = ("reader", "reviewer", "approver")
"""reader: looks; reviewer: decides, countersigns and signs too; approver: may also mean approval by a signature."""
MINIMUM = 12
"""Characters of a password, at least."""
MAXIMUM = 1024
"""Characters of a password, at most: hashing longer ones would cost, and add nothing."""
_DISTINCT = 5
_COST = (2**16, 8, 2)  # n, r, p: 64 MiB and a third of a second a password
_VERSION = 1
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._@-]{0,62}[a-z0-9])?")
_KEYS = {"full_name", "role", "disabled", "password"}
_hashing = threading.Lock()  # one at a time: many sign-ins at once must not fill the memory


class UsersError(Exception):
    """The users file cannot be used as it is, or not be changed so; the message says what, got, expected, next step."""


@dataclass(frozen=True)
class Scrypt:
    """A password as it is kept: scrypt's parameters, a salt of its own, and what came out (both hexadecimal)."""

    salt: str
    key: str
    n: int
    r: int
    p: int

    def fits(self, password: str) -> bool:
        """Whether this is the password; takes as long either way."""
        return hmac.compare_digest(_derived(password, self), self.key)


@dataclass(frozen=True)
class User:
    """A person who may sign in. full_name is what signatures bear, and no two users have the same."""

    name: str
    full_name: str
    role: str
    password: Scrypt = field(repr=False)
    disabled: bool = False


def _derived(password: str, how: Scrypt) -> str:
    text = unicodedata.normalize("NFKC", password).encode()
    with _hashing:
        return hashlib.scrypt(
            text, salt=bytes.fromhex(how.salt), n=how.n, r=how.r, p=how.p, maxmem=256 * how.n * how.r, dklen=32
        ).hex()


def hashed(password: str) -> Scrypt:
    """A password as it is kept, under a new salt."""
    how = Scrypt(secrets.token_hex(16), "", *_COST)
    return replace(how, key=_derived(password, how))


@cache
def _nobody() -> Scrypt:
    """What the passwords of unknown users are held against, so that they take as long as those of known ones."""
    return hashed(secrets.token_hex())


def verified(users: Mapping[str, User], name: str, password: str) -> User | None:
    """The user of this name and password; None for a wrong one, an unknown or a disabled user, all equally fast."""
    user = users.get(name.strip().casefold())
    fits = (user.password if user else _nobody()).fits(password[: MAXIMUM + 1])
    return user if user and fits and not user.disabled and len(password) <= MAXIMUM else None


def load(path: Path) -> dict[str, User]:
    """The users of a file, by name.

    Raises UsersError if there is none, others may read or change it, or it is not as it was written.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read()
    except OSError as error:
        raise UsersError(
            f"users file {path}: {error.strerror or error}, expected a file that may be read; add a first user with: "
            f"m2ib-audit users add NAME --users {path}"
        ) from error
    if mode & 0o077:
        raise UsersError(
            f"users file {path}: mode {mode:03o} lets other users of this machine at it, expected 600; chmod 600 {path}"
        )
    try:
        return _parsed(json.loads(data.decode()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsersError(
            f"users file {path}: not one that m2ib-audit users wrote ({_said(error)}); restore it from a backup, or "
            "name another"
        ) from error


def _said(error: Exception) -> str:
    # The file's content must not end up in a log: a KeyError names a key, the others' messages are about form.
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _parsed(record: Any) -> dict[str, User]:
    if record["version"] != _VERSION:
        raise ValueError(f"version {record['version']!r}, expected {_VERSION}")
    users = {}
    for name, entry in record["users"].items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"a user called {name!r}")
        if unknown := set(entry) - _KEYS:
            raise ValueError(f"user {name!r} has {', '.join(sorted(unknown))}")
        if entry["role"] not in ROLES:
            raise ValueError(f"user {name!r} has the role {entry['role']!r}, expected one of {', '.join(ROLES)}")
        if entry["disabled"] not in (True, False):
            raise ValueError(f"user {name!r} has disabled {entry['disabled']!r}, expected true or false")
        full_name, password = printed_name(entry["full_name"]), Scrypt(**entry["password"])
        _check_scrypt(name, password)
        users[name] = User(name, full_name, entry["role"], password, entry["disabled"])
    return users


def _check_scrypt(name: str, how: Scrypt) -> None:
    for label, digits, length in (("salt", how.salt, 16), ("key", how.key, 32)):
        if not isinstance(digits, str) or len(bytes.fromhex(digits)) < length:
            raise ValueError(f"user {name!r} has a {label} of fewer than {length} bytes")
    numbers = (how.n, how.r, how.p)
    # A power of two, and no more memory than a machine that serves pages has to spare.
    if any(type(number) is not int or number < 1 for number in numbers) or how.n & (how.n - 1) or how.n < 2:
        raise ValueError(f"user {name!r} has scrypt parameters {numbers}")
    if how.n * how.r * how.p > 2**24:
        raise ValueError(f"user {name!r} has scrypt parameters {numbers}, which would take minutes")


def printed_name(text: str) -> str:
    """A name as signatures bear it: spaces put in order, nothing that is not seen. Raises ValueError for others."""
    name = " ".join(unicodedata.normalize("NFC", text).split())
    # Cf: among them marks that reverse the reading direction, by which one name could look like another.
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn") for letter in name):
        raise ValueError("a full name holds characters that nobody sees; write it with letters, spaces and points")
    if (hidden := ledger.describe_disguise(name)) is not None:
        raise ValueError(f"a full name holds {hidden}; write it in one script")
    if not 1 <= len(name) <= 200:
        raise ValueError(f"a full name has {len(name)} characters, expected 1 to 200")
    return name


def check_password(password: str, name: str) -> None:
    """Raise UsersError for a password that is too short or too easily guessed."""
    if not MINIMUM <= len(password) <= MAXIMUM:
        raise UsersError(
            f"password: got {len(password)} characters, expected {MINIMUM} to {MAXIMUM}; a few unrelated words make a "
            "good one"
        )
    if name in password.casefold() or len(set(password)) < _DISTINCT:
        raise UsersError(
            f"password: got one that holds the user's name, or fewer than {_DISTINCT} different characters, expected "
            "one that is hard to guess; a few unrelated words make a good one"
        )


def add(path: Path, name: str, full_name: str, role: str, password: str) -> User:
    """Add a user; the first one makes the file. Raises UsersError."""
    name = name.strip().casefold()
    if not _NAME.fullmatch(name):
        raise UsersError(
            f"name: got {name!r}, expected 1 to 64 of a-z, 0-9, point, hyphen, underscore and @, with a letter or "
            "digit at both ends"
        )
    if role not in ROLES:
        raise UsersError(f"role: got {role!r}, expected one of {', '.join(ROLES)}")
    try:
        full_name = printed_name(full_name)
    except ValueError as error:
        raise UsersError(f"full name: {error}") from error
    check_password(password, name)
    user = User(name, full_name, role, hashed(password))
    with _changed(path) as users:
        if name in users:
            raise UsersError(
                f"user {name!r} is in {path} already; change the password with: m2ib-audit users passwd {name}, or "
                f"add another name"
            )
        for other in users.values():
            if other.full_name.casefold() == full_name.casefold():
                raise UsersError(
                    f"full name: got {full_name!r}, which is {other.name!r}'s; signatures bear it, so it must tell "
                    "people apart: add a middle name or a department"
                )
        users[name] = user
    return user


def change_password(path: Path, name: str, password: str) -> User:
    """Give a user another password, which ends the user's sessions. Raises UsersError."""
    name = name.strip().casefold()
    check_password(password, name)
    password_kept = hashed(password)
    with _changed(path) as users:
        users[name] = replace(_known(users, name, path), password=password_kept)
        return users[name]


def set_disabled(path: Path, name: str, disabled: bool) -> User:
    """Shut a user out, sessions included, or let them in again. Raises UsersError."""
    name = name.strip().casefold()
    with _changed(path) as users:
        users[name] = replace(_known(users, name, path), disabled=disabled)
        return users[name]


def _known(users: Mapping[str, User], name: str, path: Path) -> User:
    if name not in users:
        raise UsersError(f"user: got {name!r}, expected one of {path}: {', '.join(sorted(users)) or 'none'}")
    return users[name]


@contextlib.contextmanager
def _changed(path: Path) -> Iterator[dict[str, User]]:
    """The users of a file, to be changed in place; they are written when the block ends without an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(path.parent):
            users = load(path) if path.exists() else {}
            yield users
            _write(path, users)
    except OSError as error:
        raise UsersError(
            f"users file {path}: cannot be written ({error.strerror or error}), expected a folder that may be written "
            "to; name another with --users"
        ) from error


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder against others who would change the users at the same time; ends with the process, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, users: Mapping[str, User]) -> None:
    entries = {}
    for name, user in sorted(users.items()):
        entries[name] = {key: value for key, value in asdict(user).items() if key != "name"}
    text = json.dumps({"version": _VERSION, "users": entries}, indent=1, ensure_ascii=False) + "\n"
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        # Nobody else may read it at any time, whatever the umask.
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


class UsersFile:
    """A users file that is followed while it changes: who is disabled is out at the next request."""

    def __init__(self, path: Path) -> None:
        """Raises UsersError as `load`."""
        self.path = path
        self._reading = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._users: dict[str, User] = {}
        self.users()

    def users(self) -> dict[str, User]:
        """The users by name. Raises UsersError if the file is not what it was: then nobody is let in."""
        with self._reading:
            try:
                said = self.path.stat()
            except OSError:
                said = None
            seen = (said.st_ino, said.st_mtime_ns, said.st_size, said.st_mode) if said else ()
            if not seen or seen != self._seen:
                self._users, self._seen = load(self.path), seen
            return self._users
