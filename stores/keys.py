"""Keys that sign the ledger's records: Ed25519, one file that stays secret and one that everybody may have.

A signature says that whoever wrote the record had the key. It does not say who that was, nor when.
"""

import base64
import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# cryptography is imported where it is needed: most commands sign nothing.


class KeyFileError(Exception):
    """A file is no key, or cannot be one; the message says what, got, expected, next step, and nothing of the key."""


@dataclass(frozen=True, repr=False)
class SigningKey:
    """A private key, as `stores.ledger` wants a signer."""

    key: "Ed25519PrivateKey"

    @property
    def key_id(self) -> str:
        """By which a reader finds the public key."""
        return self.public.key_id

    @property
    def public(self) -> "PublicKey":
        """The half that may be shown."""
        return PublicKey(self.key.public_key())

    def sign(self, data: bytes) -> str:
        """A signature over bytes, in base64."""
        return base64.b64encode(self.key.sign(data)).decode()


@dataclass(frozen=True)
class PublicKey:
    """A public key: tells whose signature is one of its own."""

    key: "Ed25519PublicKey"

    @property
    def key_id(self) -> str:
        """Start of the sha256 of the key's 32 bytes."""
        return hashlib.sha256(self.key.public_bytes_raw()).hexdigest()[:32]

    def verify(self, data: bytes, signature: str) -> bool:
        """Whether a signature over bytes was made with the private half."""
        from cryptography.exceptions import InvalidSignature

        try:
            raw = base64.b64decode(signature, validate=True)
            if base64.b64encode(raw).decode() != signature:  # spare bits that could be flipped unseen
                return False
            self.key.verify(raw, data)
        except (ValueError, InvalidSignature):
            return False
        return True


def create_key(path: Path) -> PublicKey:
    """Write a new key to a file that only its owner may read, and its public half beside it, as `.pub`.

    Raises KeyFileError if one of the two is there or cannot be written: no key is ever overwritten.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    beside = path.with_name(f"{path.name}.pub")
    written = []
    try:
        for file, data, mode in ((path, secret, 0o600), (beside, shown, 0o644)):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
                written.append(file)
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())  # what it signs must not outlive it
    except OSError as error:
        for file in written:
            with contextlib.suppress(OSError):
                file.unlink()
        raise KeyFileError(
            f"key: {error.filename or path} cannot be written ({error.strerror}), expected a new file in a folder that "
            "is there; name another"
        ) from error
    return PublicKey(key.public_key())


def load_key(path: Path) -> SigningKey:
    """Read a private key. Raises KeyFileError for what is none, and for one that others may read."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data, bits = _read(path)
    if (mode := bits & 0o077) != 0:
        raise KeyFileError(f"key: {path} may be used by others (mode {mode:03o}), expected by its owner: chmod 600 it")
    try:
        key = load_pem_private_key(data, None)
    except (TypeError, ValueError) as error:
        raise KeyFileError(
            f"key: {path} is no private key in PEM without a password, expected one as `m2ib-audit key new` writes it"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"key: {path} is a key of another kind, expected Ed25519; make one: m2ib-audit key new PATH")
    return SigningKey(key)


def load_public_key(path: Path) -> PublicKey:
    """Read a public key. Raises KeyFileError for what is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path)[0])
    except ValueError as error:
        raise KeyFileError(
            f"key: {path} is no public key in PEM, expected one as `m2ib-audit key new` writes it beside the other"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"key: {path} is a key of another kind, expected Ed25519; name the .pub file of the signer")
    return PublicKey(key)


def _read(path: Path) -> tuple[bytes, int]:
    """A file's bytes, and the mode of that very file: the name may be another one's a moment later."""
    try:
        with path.open("rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise KeyFileError(f"key: {path} cannot be read ({error.strerror}), expected a key in PEM; name one") from error
