"""The model, loaded once a process, and the one lock of a device."""

import dataclasses
import threading

import pytest

import m2ib
from tasks import inputs
from tasks.errors import BadInputError
from tasks.inputs import device_lock, encoder
from tasks.records import ModelSource


def test_a_model_is_loaded_once(audited_once, monkeypatch):
    source = audited_once.config.model_sources()[0]
    first = encoder(source)
    monkeypatch.setattr(m2ib, "load_encoder", lambda *_: pytest.fail("loaded again"))
    assert encoder(dataclasses.replace(source, batch_size=3)) is first


@pytest.mark.parametrize(
    ("architecture", "pretrained", "message"),
    [
        ("ViT-B-32", None, "no weights named"),
        ("ViT-B-32", "/nowhere/weights.safetensors", "no file at"),
        ("local-dir:/nowhere", None, "could not be loaded"),
        ("no-such-model", "openai", "expected a name of"),
    ],
)
def test_a_model_that_does_not_load_is_bad_input(architecture, pretrained, message):
    with pytest.raises(BadInputError, match=message):
        encoder(ModelSource(architecture, pretrained))


def test_one_shard_at_a_time_on_a_device(monkeypatch):
    monkeypatch.setattr(inputs, "_in_use", {})
    assert device_lock("cuda:0") is device_lock("cuda:0")
    assert device_lock("cuda:0") is not device_lock("cuda:1")
    assert isinstance(device_lock("cpu"), type(threading.Lock()))
