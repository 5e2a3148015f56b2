"""Ed25519 keys that sign records of the ledger: one file with the private key, one file with the public key.

A signature proves that the writer of a record had the private key. It does not prove who signed the record, or when.
"""

import base64
import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stores.files import open_regular
from stores.urls import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# cryptography is imported where it is needed: most commands sign nothing.


class KeyFileError(InputError):
    """A key file cannot be read or written. The message never contains key material."""


@dataclass(frozen=True, repr=False)
class SigningKey:
    """An Ed25519 private key, which signs records of the ledger."""

    key: "Ed25519PrivateKey"

    @property
    def key_id(self) -> str:
        """Identifier of the public key; see `PublicKey.key_id`."""
        return PublicKey(self.key.public_key()).key_id

    def sign(self, data: bytes) -> str:
        """Sign data, and return the signature in base64."""
        return base64.b64encode(self.key.sign(data)).decode()


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key, which verifies signatures."""

    key: "Ed25519PublicKey"

    @property
    def key_id(self) -> str:
        """Identifier of the key: the first 32 hexadecimal digits of the sha256 of its raw bytes."""
        return hashlib.sha256(self.key.public_bytes_raw()).hexdigest()[:32]

    def encode(self) -> str:
        """Return the raw bytes of the key in base64, as a record of the ledger contains them."""
        return base64.b64encode(self.key.public_bytes_raw()).decode()

    def verify(self, data: bytes, signature: str) -> bool:
        """Return whether a base64 signature of data was created with the matching private key."""
        from cryptography.exceptions import InvalidSignature

        try:
            raw = base64.b64decode(signature, validate=True)
            if base64.b64encode(raw).decode() != signature:  # base64 with modified padding bits is rejected
                return False
            self.key.verify(raw, data)
        except (ValueError, InvalidSignature):
            return False
        return True


def create_key(path: Path) -> PublicKey:
    """Create a key pair. The private key is written to `path`, and the public key to `path` with `.pub` appended.

    Only the owner of the private key's file can read it. Existing files are never overwritten.

    Raises:
        KeyFileError: One of the files exists or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    created = []
    try:
        for name, data, mode in ((path, private, 0o600), (path.with_name(f"{path.name}.pub"), public, 0o644)):
            with os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                created.append(name)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # the key must be durable before it signs records
    except OSError as error:
        for name in created:
            with contextlib.suppress(OSError):
                name.unlink()
        raise KeyFileError(
            f"key: {error.filename or path} cannot be written ({error.strerror}), expected a new file in an existing "
            "folder; choose another path"
        ) from error
    return PublicKey(key.public_key())


def load_key(path: Path) -> SigningKey:
    """Read a private key from a file. Raises KeyFileError if it is invalid, or if other users can access the file."""
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data, mode = _read(path)
    if (others := mode & 0o077) != 0:
        raise KeyFileError(
            f"key: {path} may be used by others (mode {others:03o} for group and others), expected only by its owner; "
            "run chmod 600 on it"
        )
    with contextlib.suppress(TypeError, ValueError, UnsupportedAlgorithm, InternalError):
        if isinstance(key := load_pem_private_key(data, None), Ed25519PrivateKey):
            return SigningKey(key)
    raise KeyFileError(
        f"key: {path} is not an Ed25519 private key in PEM without a password, expected one from `m2ib-audit key new`"
    )


def parse_public_key(text: str) -> PublicKey:
    """Parse a key from its raw bytes in base64. Raises KeyFileError if it is invalid."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        return PublicKey(Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True)))
    except ValueError as error:
        raise KeyFileError("key: got other text than an Ed25519 public key in base64; restore it") from error


def load_public_keys(name: str | Path) -> list[PublicKey]:
    """Read a public key from a file, or all from the files *.pub of a folder. Raises KeyFileError."""
    if name == "":  # an unset variable must not mean the current folder
        raise KeyFileError("key: got an empty path, expected a public key or a folder of public keys; name it")
    path = Path(name)
    if not path.is_dir():
        return [load_public_key(path)]
    if not (files := sorted(path.glob("*.pub"))):
        raise KeyFileError(f"key: the folder {path} has no file *.pub, expected public keys; choose another folder")
    return [load_public_key(file) for file in files]


def load_public_key(path: Path) -> PublicKey:
    """Read a public key from a file. Raises KeyFileError if it is invalid or cannot be read."""
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    with contextlib.suppress(ValueError, UnsupportedAlgorithm, InternalError):
        if isinstance(key := load_pem_public_key(_read(path)[0]), Ed25519PublicKey):
            return PublicKey(key)
    raise KeyFileError(
        f"key: {path} is not an Ed25519 public key in PEM, expected the .pub file from `m2ib-audit key new`"
    )


def _read(path: Path) -> tuple[bytes, int]:
    """Return the bytes and the permission mode of a file.

    Both are read from the same open file, so they match even if the path is replaced concurrently.
    """
    try:
        with open_regular(path) as file:
            return file.read(), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise KeyFileError(
            f"key: {path} cannot be read ({error.strerror}), expected a key file in PEM; correct its path"
        ) from error
