"""Keys: files, signatures and errors."""

import os
import stat
from pathlib import Path

import pytest

from stores import ledger
from stores.keys import KeyFileError, create_key, load_key, load_public_key


def test_a_new_key_can_be_read_by_its_owner_only(tmp_path):
    public = create_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert load_key(tmp_path / "key").key_id == load_public_key(tmp_path / "key.pub").key_id == public.key_id
    assert b"PRIVATE" in (tmp_path / "key").read_bytes()
    assert b"PRIVATE" not in (tmp_path / "key.pub").read_bytes()
    assert "PRIVATE" not in repr(load_key(tmp_path / "key"))


@pytest.mark.parametrize("existing", ["key", "key.pub"])
def test_no_key_is_overwritten(tmp_path, existing):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(KeyFileError, match=rf"{existing} cannot be written \(File exists\)"):
        create_key(tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"


def test_a_signature_belongs_to_one_key_and_its_data(tmp_path):
    one, other = create_key(tmp_path / "one"), create_key(tmp_path / "other")
    signature = load_key(tmp_path / "one").sign(b"text")
    assert one.verify(b"text", signature)
    assert not one.verify(b"test", signature)
    assert not other.verify(b"text", signature)
    assert not one.verify(b"text", "no base64!")
    assert signature.endswith("==")
    assert not one.verify(
        b"text", signature[:-3] + chr(ord(signature[-3]) + 1) + "=="
    )  # the same bytes in another encoding


def test_the_signature_of_a_record_covers_its_place_in_the_chain(tmp_path):
    public = create_key(tmp_path / "key")
    ledger.append(tmp_path, "run", {"run_id": "r"})
    ledger.append(tmp_path, "run", {"run_id": "s"}, load_key(tmp_path / "key"))
    bare, signed = ledger.read_records(tmp_path)
    assert (bare.key_id, bare.signature) == (None, None)
    assert signed.key_id == public.key_id
    assert public.verify(signed.signed_bytes(), signed.signature)
    assert bare.sha256.encode() in signed.signed_bytes()


def test_an_invalid_key_is_an_error_that_does_not_repeat_it(tmp_path):
    create_key(tmp_path / "key")
    (tmp_path / "other").write_text("-----BEGIN hidden-----")
    (tmp_path / "other").chmod(0o600)
    for load in (load_key, load_public_key):
        with pytest.raises(KeyFileError, match="from `m2ib-audit key new`") as caught:
            load(tmp_path / "other")
        assert "hidden" not in str(caught.value)
        with pytest.raises(KeyFileError, match=r"none cannot be read \(No such file"):
            load(tmp_path / "none")
    with pytest.raises(KeyFileError, match="not an Ed25519 public key"):
        load_public_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(KeyFileError, match=r"may be used by others \(mode 040 for"):
        load_key(tmp_path / "key")


def test_a_key_of_another_kind_is_an_error(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = X25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for load, name in ((load_key, "key"), (load_public_key, "pub")):
        with pytest.raises(KeyFileError, match="is not an Ed25519 "):
            load(tmp_path / name)


def test_the_mode_of_the_file_that_was_read_counts(tmp_path):
    """The mode of a file that replaces it meanwhile is not used."""
    create_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    opened = Path.open

    class Swapped(type(tmp_path)):
        def open(self, *arguments, **named):
            file = opened(self, *arguments, **named)
            create_key(Path(f"{self}2"))
            Path(f"{self}2").replace(self)
            return file

    with pytest.raises(KeyFileError, match="may be used by others"):
        load_key(Swapped(tmp_path / "key"))


def test_a_new_key_is_flushed_to_disk(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.fstat(number).st_size) or fsync(number))
    create_key(tmp_path / "key")
    assert flushed == [(tmp_path / name).stat().st_size for name in ("key", "key.pub")]
