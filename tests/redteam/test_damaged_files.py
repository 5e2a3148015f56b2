"""Damaged files beside a lake are errors with a message: keys, users and feature statistics."""

import contextlib
import json
import random
import warnings

import pytest
import torch

from m2ib import CalibrationError, FeatureStatistics
from m2ib.statistics import TowerStatistics
from review.site import users
from stores.keys import KeyFileError, create_key, load_key, load_public_key

CHANGES = 400
VALUES = (None, True, -1, 10**30, 1.5, "", "x" * 300, [], [None], {}, {"x": [1]})


def change(data, generator, within):
    """Flip bits, mostly one."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 5))):
        changed[generator.randrange(min(len(changed), within))] ^= 1 << generator.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("load", [load_key, load_public_key])
def test_damaged_key_is_refused(tmp_path, load):
    create_key(tmp_path / "key")
    path = tmp_path / ("key" if load is load_key else "key.pub")
    data, generator = path.read_bytes(), random.Random(0)  # which bits
    others = (b"", bytes(100), b"-----BEGIN X-----", data.replace(b"MCowBQYDK2Vw", b"MCowBQYDK2Vo"))
    with warnings.catch_warnings(action="ignore"):
        for changed in (*others, *(change(data, generator, len(data)) for _ in range(CHANGES))):
            path.write_bytes(changed)
            with contextlib.suppress(KeyFileError):  # not every change is damage
                load(path)


def test_damaged_statistics_are_refused(tmp_path):
    path = tmp_path / "calibration.safetensors"
    parts = [TowerStatistics(torch.ones(2, 4), torch.ones(2, 4), "scope") for _ in range(2)]
    FeatureStatistics(*parts).save(path)
    assert FeatureStatistics.load(path).text.scope == "scope"
    data, generator = path.read_bytes(), random.Random(0)  # which bits
    renamed = [data.replace(b"text.std", b"text.sta"), data.replace(b"scope", b"sco\\e"), data[:40], b""]
    for changed in (*renamed, *(change(data, generator, 300) for _ in range(CHANGES))):
        path.write_bytes(changed)
        with contextlib.suppress(CalibrationError):  # not every change is damage
            FeatureStatistics.load(path)
    path.write_bytes(renamed[0])
    with pytest.raises(CalibrationError):
        FeatureStatistics.load(path)


def test_damaged_users_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(users, "_COST", (2**4, 8, 1))
    path = tmp_path / "users.json"
    users.add(path, "ann", "Ann Bee", "reader", "some unrelated words 12")
    content = json.loads(path.read_text())
    for key in ("full_name", "role", "password"):
        for value in VALUES:
            path.write_text(json.dumps({**content, "users": {"ann": content["users"]["ann"] | {key: value}}}))
            if key != "full_name" or value != "x" * 300:
                with pytest.raises(users.UsersError, match="restore it from a backup"):
                    users.load(path)
    for text in ("", "{", "[]", "null", '{"users": []}', '{"users": {"A B": {}}}', "\x00", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(users.UsersError, match="restore it from a backup"):
            users.load(path)
