"""Deployed models: their field of view, their digest, and the files that they load from."""

import dataclasses
import itertools

import numpy as np
import open_clip
import pytest
import torch
from conftest import CONTEXT, make_encoder, tiny_model
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

import demo.models
from m2ib import DualEncoder, ModelLoadError, load_encoder

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 40, "patch_size": 10, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}


def deployed(model, **preprocess):
    model.visual.preprocess_cfg = model.visual.preprocess_cfg | preprocess
    return make_encoder(model)


MEANS_AND_STDS = sorted(
    {
        (tuple(config["mean"]), tuple(config["std"]))
        for name, tag in open_clip.list_pretrained()
        if (config := open_clip.get_pretrained_cfg(name, tag)).get("mean") is not None
    }
)
"""Of all models of open_clip."""


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(400, 800), (800, 400), (600, 600), (1000, 410)], ids=str)
def test_field_of_view_equals_the_part_that_preprocessing_keeps(mode, size):
    """Preprocess an image of its coordinates: the visible part must have the coordinates of the box."""
    width, height = size
    encoder = deployed(tiny_model(), resize_mode=mode, mean=(0.0,) * 3, std=(1.0,) * 3)
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width)[None, :].astype(np.uint8)
    ramp[..., 1] = np.linspace(0, 255, height)[:, None].astype(np.uint8)
    ramp[..., 2] = 255  # marks the image, as opposed to padding
    visible = encoder.prepare_images([Image.fromarray(ramp)])[0].numpy()
    x0, y0, x1, y1 = encoder.field_of_view(width, height)
    rows, columns = visible.shape[1:]
    xs = x0 + (np.arange(columns) + 0.5) / columns * (x1 - x0)
    ys = y0 + (np.arange(rows) + 0.5) / rows * (y1 - y0)
    inside = (xs[None, :] > 0.05) & (xs[None, :] < 0.95) & (ys[:, None] > 0.05) & (ys[:, None] < 0.95)
    assert inside.any()
    tolerance = 1.5 / min(rows, columns)  # rounding to whole pixels
    assert np.abs(visible[0] - xs[None, :])[inside].max() < tolerance
    assert np.abs(visible[1] - ys[:, None])[inside].max() < tolerance
    padding = (xs[None, :] < -0.05) | (xs[None, :] > 1.05) | (ys[:, None] < -0.05) | (ys[:, None] > 1.05)
    assert (visible[2][padding] < 0.5).all()


PREPROCESSING = list(
    itertools.product(MEANS_AND_STDS, ["shortest", "longest", "squash"], ["bicubic", "bilinear"], [40, (40, 20)])
)


@pytest.mark.parametrize(
    ("mean_and_std", "mode", "interpolation", "size"),
    [  # every fifth combination has each value at least once
        pytest.param(*each, marks=[] if number % 5 == 0 else pytest.mark.slow)
        for number, each in enumerate(PREPROCESSING)
    ],
    ids=str,
)
def test_prepared_images_equal_those_of_open_clip_to_the_bit(mean_and_std, mode, interpolation, size):
    mean, std = mean_and_std
    config = {"size": size, "resize_mode": mode, "interpolation": interpolation, "mean": mean, "std": std}
    model = tiny_model(image_size=size)
    encoder = deployed(model, **config)
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8))
        for shape in ((40, 40), (61, 97), (97, 61), (17, 200))
    ]
    expected = torch.stack([transform(image) for image in images])
    assert torch.equal(encoder.prepare_images(images), expected)
    assert torch.equal(encoder.prepare_images(np.stack([encoder.resize(image) for image in images])), expected)


def test_digest_identifies_the_model_and_not_only_its_weights():
    other = open_clip.SimpleTokenizer(context_length=CONTEXT, clean="canonicalize")
    digests = {
        "same": make_encoder(tiny_model()).digest,
        "again": make_encoder(tiny_model()).digest,
        "weights": make_encoder(tiny_model(seed=1)).digest,
        "heads": make_encoder(tiny_model(heads=4)).digest,
        "pool": make_encoder(tiny_model(pool_type="eos", eos_id=49407)).digest,
        "preprocessing": deployed(tiny_model(), resize_mode="squash").digest,
        "tokenizer": DualEncoder(tiny_model(), other).digest,
    }
    assert digests.pop("same") == digests["again"]
    assert len(set(digests.values())) == len(digests)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_local_checkpoint_of_a_named_architecture_loads(tmp_path, suffix, monkeypatch):
    """The most common case; a tiny architecture is registered so that the test is fast."""
    preprocess = dataclasses.asdict(PreprocessCfg(size=40))
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-test-model", TINY)
    weights = tiny_model().state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    encoder = load_encoder("tiny-test-model", str(path))
    assert encoder.preprocess_cfg.size in (preprocess["size"], (40, 40))
    assert all(torch.equal(value, weights[key]) for key, value in encoder.model.state_dict().items())


def test_message_of_a_failed_load_says_what_to_check(tmp_path, caplog):
    with pytest.raises(ModelLoadError, match=r"nearest: .*ViT-B-32"):
        load_encoder("ViT-B-23")
    with pytest.raises(ModelLoadError, match=r"got None for the model 'ViT-B-32', .*or a tag: openai, laion400m_e31"):
        load_encoder("ViT-B-32")
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ModelLoadError, match=f"device: got '{device}', expected a CPU or CUDA device of this mach"):
            load_encoder("demo/clean", device=device)
    with pytest.raises(ModelLoadError, match="there is no such file"):
        load_encoder("ViT-B-32", str(tmp_path / "gone.pt"))
    with pytest.raises(ModelLoadError, match=r"or a model of a package .*demo/clean, demo/shortcut"):
        load_encoder("demo/clear")
    with pytest.raises(ModelLoadError, match="expected None for hf-hub:, local-dir: and models of packages"):
        load_encoder("demo/clean", "openai")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'echo'\ntR.")
    with pytest.raises(ModelLoadError, match=r"got the file .*pickle.pt', which cannot be loaded as weights .*check"):
        load_encoder("ViT-B-32", str(tmp_path / "pickle.pt"))
    with pytest.raises(
        ModelLoadError, match=r"got 'laion' for the model 'ViT-B-32', .*or a tag: openai, laion400m_e31"
    ):
        load_encoder("ViT-B-32", "laion")
    assert caplog.messages == []


def test_a_model_of_an_installed_package_is_found_by_its_name():
    encoder = load_encoder("demo/clean")
    assert (encoder.name, encoder.image_size) == ("demo/clean", (80, 80))
    assert encoder.digest == load_encoder(f"local-dir:{demo.models.CLEAN}").digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights | {"visual.conv1.weight": torch.zeros(32, 3, 5, 5)},
            r"of another shape: 1 \(visual.conv1.weight: got \[32, 3, 5, 5\], expected \[32, 3, 10, 10\]\)",
        ),
        (
            lambda weights: {key: value for key, value in weights.items() if "ln_" not in key},
            r"missing: 30 \(visual.ln_pre.weight, visual.ln_pre.bias, .*, \.\.\.\). Name the architecture",
        ),
        (
            lambda weights: {f"model.{key}": value for key, value in weights.items()},
            r"missing: 86 .*; unexpected: 86 .* Remove the prefix 'model\.' from the keys",
        ),
    ],
    ids=["shape", "missing", "prefix"],
)
def test_a_checkpoint_that_does_not_fit_is_described(tmp_path, monkeypatch, change, message):
    model = tiny_model()
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-test-model", TINY)
    torch.save(change(model.state_dict()), tmp_path / "weights.pt")
    with pytest.raises(ModelLoadError, match=f"the weights do not fit the architecture. Tensors {message}") as raised:
        load_encoder("tiny-test-model", str(tmp_path / "weights.pt"))
    assert len(str(raised.value)) < 800
