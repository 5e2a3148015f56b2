"""The model is loaded once per process, and each device has one lock."""

import threading

import pytest

import m2ib
from tasks import inputs
from tasks.errors import BadInputError
from tasks.inputs import device_lock, load_model
from tasks.settings import ModelConfig


def test_a_model_is_loaded_once(shared_phantom_audit, monkeypatch):
    source = shared_phantom_audit.config.models()[0]
    first = load_model(source)
    monkeypatch.setattr(m2ib, "load_encoder", lambda *_: pytest.fail("loaded again"))
    assert load_model(source.model_copy(update={"batch_size": 3})) is first


@pytest.mark.parametrize(
    ("architecture", "pretrained", "message"),
    [
        ("ViT-B-32", None, "otherwise a tag from"),
        ("ViT-B-32", "/nowhere/weights.safetensors", "not a known tag or valid file path"),
        ("local-dir:/nowhere", None, "could not be loaded"),
        ("no-such-model", "openai", "expected a name from"),
    ],
)
def test_a_model_that_does_not_load_is_bad_input(architecture, pretrained, message):
    with pytest.raises(BadInputError, match=message):
        load_model(ModelConfig(architecture=architecture, pretrained=pretrained, device="cpu"))


def test_each_device_has_one_lock(monkeypatch):
    monkeypatch.setattr(inputs, "_device_locks", {})
    assert device_lock("cuda:0") is device_lock("cuda:0")
    assert device_lock("cuda:0") is not device_lock("cuda:1")
    assert isinstance(device_lock("cpu"), type(threading.Lock()))
