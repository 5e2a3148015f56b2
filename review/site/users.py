"""Users of the site: a file with names, roles and hashed passwords on the machine that serves it.

The file is JSON that only its owner can read, and it is written atomically. Users are disabled, never removed,
because signatures in the ledger contain their names, and no other person may get the same name.
"""

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from precis_i18n import get_profile
from pydantic import AfterValidator, BaseModel, Field, StrictBool, StrictInt, ValidationError, model_validator

import stores
from stores import InputError, ledger
from stores.look_alikes import is_alike

MIN_PASSWORD_CHARS = 12
MAX_PASSWORD_CHARS = 1024
"""Hashing longer passwords costs time and adds no security."""
_MIN_DISTINCT_CHARS = 5
_MAX_NAME_CHARS = 64
_COST = (2**16, 8, 2)  # n, r, p: 64 MiB and a third of a second per password


class UsersError(InputError):
    """The users file cannot be read or changed; the message says what was wrong and what to do next."""


def normalize_name(text: str) -> str:
    """Return a name to sign in with in its only form, by PRECIS (RFC 8265); "" for text that cannot be a name."""
    try:
        name: str = get_profile("UsernameCaseMapped").enforce(text[: _MAX_NAME_CHARS + 1].strip())
    except UnicodeError:
        return ""
    return name


def normalize_full_name(text: str) -> str:
    """Return a full name in its only form, by PRECIS (RFC 8266). Raises ValueError for an invalid name."""
    name = " ".join(unicodedata.normalize("NFC", text).split())
    # Cf contains marks that reverse the reading direction, with which one name could look like another.
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn") for letter in name):
        raise ValueError("got invisible characters, expected letters, spaces and periods; enter it again")
    if (disguise := ledger.describe_disguise(name)) is not None:
        raise ValueError(f"got {disguise}, expected letters of one script; enter it again")
    if not 1 <= len(name) <= 200:
        raise ValueError(f"got {len(name)} characters, expected 1 to 200; enter it again")
    try:
        normalized: str = get_profile("NicknameCasePreserved").enforce(name)
    except UnicodeError as error:
        raise ValueError("got characters that names do not have, expected letters; enter it again") from error
    return normalized


UserName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._@-]{0,62}[a-z0-9])?$")]


class Scrypt(BaseModel, frozen=True, extra="forbid"):
    """A hashed password: parameters of scrypt, a random salt and the derived key (both hexadecimal)."""

    salt: str = Field(pattern="^(?:[0-9a-f]{2}){16,}$")
    key: str = Field(pattern="^(?:[0-9a-f]{2}){32,}$")
    n: StrictInt = Field(ge=2)
    r: StrictInt = Field(ge=1)
    p: StrictInt = Field(ge=1)

    @model_validator(mode="after")
    def _check_cost(self) -> "Scrypt":
        # n must be a power of two, and hashing must not fill the memory (128 n r bytes).
        if self.n & (self.n - 1) or self.n * self.r * self.p > 2**24:
            raise ValueError(f"got invalid or too costly scrypt parameters {(self.n, self.r, self.p)}")
        return self

    def matches(self, password: str) -> bool:
        """Return whether a password is the hashed one, compared in constant time."""
        return hmac.compare_digest(_derive_key(password, self.salt, self.n, self.r, self.p), self.key)


class User(BaseModel, frozen=True, extra="forbid"):
    """A person who may sign in; signatures show `full_name`, which is unique."""

    name: UserName = ""  # in the file, it is the key of the user
    full_name: Annotated[str, AfterValidator(normalize_full_name)]
    role: Literal["reader", "reviewer", "approver"]
    """A reader only reads; a reviewer also decides and signs; an approver's signature may also mean approval."""
    disabled: StrictBool = False
    password: Scrypt = Field(repr=False)


class _Content(BaseModel):
    """Content of a users file, as a pydantic model."""

    version: Literal[1] = 1
    users: dict[UserName, User]


def hash_password(password: str) -> Scrypt:
    """Hash a password with a new salt."""
    salt, (n, r, p) = secrets.token_hex(16), _COST
    return Scrypt(salt=salt, key=_derive_key(password, salt, n, r, p), n=n, r=r, p=p)


def _derive_key(password: str, salt: str, n: int, r: int, p: int) -> str:
    text = unicodedata.normalize("NFKC", password).encode()
    return hashlib.scrypt(text, salt=bytes.fromhex(salt), n=n, r=r, p=p, maxmem=256 * n * r, dklen=32).hex()


@cache
def _make_dummy_hash() -> Scrypt:
    """Return a hash for unknown users, so that checking their passwords takes as long as that of known users."""
    return hash_password(secrets.token_hex())


def authenticate(users: Mapping[str, User], name: str, password: str) -> User | None:
    """Return the user with this name and password; None if either is wrong or the user is disabled.

    The time that this takes does not depend on the reason.
    """
    user = users.get(normalize_name(name))
    matches = (user.password if user else _make_dummy_hash()).matches(password[: MAX_PASSWORD_CHARS + 1])
    return user if user and matches and not user.disabled and len(password) <= MAX_PASSWORD_CHARS else None


def load(path: Path) -> dict[str, User]:
    """Load the users of a file, by name. Raises UsersError if the file cannot be used."""
    try:
        with stores.open_regular(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read()
    except OSError as error:
        raise UsersError(
            f"users file {path}: {error.strerror or error}, expected a readable file; add a first user with: "
            f"m2ib-audit users add NAME --users {path}"
        ) from error
    if mode & 0o077:
        raise UsersError(
            f"users file {path}: got mode {mode:03o}, which lets other users of this machine access it, expected 600; "
            f"run: chmod 600 {path}"
        )
    try:
        content = _Content.model_validate_json(data)
    except ValidationError as error:
        raise UsersError(
            f"users file {path}: got an invalid file ({_format_reason(error)}), expected one that m2ib-audit users "
            "wrote; restore it from a backup, or use another file"
        ) from None  # the error itself has the content of the file, which must not get into a log
    return {name: user.model_copy(update={"name": name}) for name, user in content.users.items()}


def _format_reason(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"])).replace("_", " ")
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"


def check_password(password: str, name: str) -> None:
    """Raise UsersError for a password that is too short, too long or too easy to guess."""
    is_guessable = name in password.casefold() or len(set(password)) < _MIN_DISTINCT_CHARS
    if is_guessable or not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        raise UsersError(
            f"password: got {len(password)} characters, expected {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS}, "
            f"at least {_MIN_DISTINCT_CHARS} different ones, without the user name; use a few unrelated words"
        )


def add(path: Path, name: str, full_name: str, role: str, password: str) -> User:
    """Add a user; the first user creates the file. Raises UsersError if the name is taken or any value is invalid."""
    name = normalize_name(name)
    try:
        user = User(name=name, full_name=full_name, role=role, password=hash_password(password))
    except ValidationError as error:
        raise UsersError(_format_reason(error)) from None
    check_password(password, name)
    with _edit(path) as users:
        if name in users:
            raise UsersError(
                f"name: got {name!r}, which is in {path} already, expected a new name; to change the password run: "
                f"m2ib-audit users passwd {name}"
            )
        for other in users.values():
            for field in ("full_name", "name"):
                got, taken = getattr(user, field), getattr(other, field)
                if is_alike(got, taken):
                    raise UsersError(
                        f"{field.replace('_', ' ')}: got {got!r}, which looks like {taken!r} of user {other.name!r}, "
                        "expected one that nobody can mistake for it; add a middle name or a department"
                    )
        users[name] = user
    return user


def change_password(path: Path, name: str, password: str) -> User:
    """Change the password of a user, which also ends the user's sessions. Raises UsersError."""
    name = normalize_name(name)
    check_password(password, name)
    return _update(path, name, password=hash_password(password))


def set_disabled(path: Path, name: str, disabled: bool) -> User:
    """Disable a user, which also ends the user's sessions, or enable the user again. Raises UsersError."""
    return _update(path, normalize_name(name), disabled=disabled)


def _update(path: Path, name: str, **changes: Any) -> User:
    with _edit(path) as users:
        if name not in users:
            raise UsersError(f"user: got {name!r}, expected one of {path}: {', '.join(sorted(users)) or 'none'}")
        users[name] = users[name].model_copy(update=changes)
        return users[name]


@contextlib.contextmanager
def _edit(path: Path) -> Iterator[dict[str, User]]:
    """Yield the users of a file for a `with` block to change; write them when it ends without an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # against concurrent edits; the lock ends with the process
            users = load(path) if path.exists() else {}
            yield users
            content = _Content(users=dict(sorted(users.items())))
            text = content.model_dump_json(indent=1, exclude={"users": {"__all__": {"name"}}}) + "\n"
            with stores.write_atomically(path) as temporary:
                temporary.touch(0o600, exist_ok=False)  # nobody else can read it at any time, whatever the umask
                temporary.write_text(text, encoding="utf-8")
        finally:
            os.close(folder)
    except OSError as error:
        raise UsersError(
            f"users file {path}: cannot be written ({error.strerror or error}), expected a writable folder; choose "
            "another file with --users"
        ) from error
