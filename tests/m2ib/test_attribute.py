"""The engine against the oracle, and what a map may depend on."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import jaxtyping
import numpy as np
import pytest
import torch
from conftest import make_encoder, tiny_model
from families import oracle_map

from m2ib import (
    BottleneckConfig,
    CalibrationError,
    GateConfig,
    ModelLoadError,
    attribute,
    calibrate,
    estimate_batch_size,
    preset,
    start_attribution,
)
from m2ib.bottleneck import price_per_nat

AUDIT = BottleneckConfig()
PAPER = preset("paper")
DEEP = BottleneckConfig(
    image=GateConfig(layer=1, beta=0.5, statistics="feature", special="closed"),
    text=GateConfig(layer=1, beta=0.3, statistics="feature", special="open"),
    seed=7,
)
EMBEDDINGS = replace(DEEP, image=replace(DEEP.image, layer=-1), text=replace(DEEP.text, layer=-1), steps=4)


@pytest.mark.parametrize("config", [AUDIT, PAPER, DEEP, EMBEDDINGS], ids=["audit", "paper", "deep", "embeddings"])
def test_maps_equal_the_oracle(float64_encoder, pairs, config):
    encoder = float64_encoder
    images, texts = pairs[0][:2], pairs[1][:2]
    statistics = calibrate(encoder, *pairs, config) if config.needs_statistics() else None
    keys = [f"pair-{i}" for i in range(2)]
    result = attribute(encoder, images, texts, config, statistics, keys=keys)
    for i, (image, text, key) in enumerate(zip(images, texts, keys, strict=True)):
        pixels, ids = encoder.prepare_images([image]).double(), encoder.tokenize([text])
        nats, cosine = oracle_map(encoder, "image", config, pixels, encoder.embed_texts(ids), key, statistics)
        _close(result.image_map[i].flatten(), nats[1:])
        _close(result.image_special_nats[i], nats[0])
        _close(result.image_cosine[i], cosine)
        nats, cosine = oracle_map(encoder, "text", config, ids, encoder.embed_images(pixels), key, statistics)
        _close(result.text_map[i], nats)
        _close(result.text_cosine[i], cosine)


def _close(got, expected):
    tolerance = 1e-8 if got.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("config", [AUDIT, PAPER], ids=["audit", "paper"])
def test_float32_gives_the_map_of_float64(pairs, config):
    images, texts = pairs
    encoder, float64_encoder = make_encoder(tiny_model()), make_encoder(tiny_model().double())
    keys = [str(i) for i in range(len(texts))]
    single, double = (
        attribute(model, images, texts, config, calibrate(model, *pairs, config), keys=keys)
        for model in (encoder, float64_encoder)
    )
    assert double.image_map.dtype == torch.float64
    scale = double.image_map.amax(dim=(1, 2), keepdim=True)
    assert float(((single.image_map - double.image_map).abs() / scale).max()) < 1e-3


def test_clean_cosine_is_the_models_own(encoder, pairs):
    result = attribute(encoder, *pairs, PAPER)
    with torch.no_grad():
        image = encoder.model.encode_image(encoder.prepare_images(pairs[0]), normalize=True)
        text = encoder.model.encode_text(encoder.tokenize(pairs[1]), normalize=True)
    torch.testing.assert_close(result.cosine, (image * text).sum(dim=1))


@pytest.mark.parametrize("config", [AUDIT, PAPER], ids=["audit", "paper"])
def test_same_seed_gives_identical_bits(encoder, pairs, config):
    statistics = calibrate(encoder, *pairs, config) if config.needs_statistics() else None
    first, second = (attribute(encoder, *pairs, config, statistics) for _ in range(2))
    assert torch.equal(first.image_map, second.image_map)
    assert all(torch.equal(a, b) for a, b in zip(first.text_map, second.text_map, strict=True))


def test_another_seed_gives_another_map(encoder, pairs):
    first, second = (attribute(encoder, *pairs, replace(PAPER, seed=seed)) for seed in (0, 1))
    assert not torch.allclose(first.image_map, second.image_map, atol=1e-4)


@pytest.mark.parametrize("config", [AUDIT, PAPER], ids=["audit", "paper"])
def test_batch_size_and_neighbors_do_not_matter(float64_encoder, pairs, config):
    encoder = float64_encoder
    statistics = calibrate(encoder, *pairs, config) if config.needs_statistics() else None
    one_batch = attribute(encoder, *pairs, config, statistics, batch_size=64)
    for batch_size in (1, 7):
        parts = attribute(encoder, *pairs, config, statistics, batch_size=batch_size)
        _close(parts.image_map, one_batch.image_map)
        for a, b in zip(parts.text_map, one_batch.text_map, strict=True):
            _close(a, b)
    backwards = attribute(encoder, pairs[0][::-1], pairs[1][::-1], config, statistics)
    _close(backwards.image_map.flip(0), one_batch.image_map)


def test_closed_special_tokens_have_no_nats(encoder, pairs):
    statistics = calibrate(encoder, *pairs, AUDIT)
    result = attribute(encoder, *pairs, AUDIT, statistics)
    for nats, special in zip(result.text_map, result.special, strict=True):
        assert special[0]
        assert special[-1]
        assert nats[0] == nats[-1] == 0
        assert (nats[1:-1] > 0).all()


def test_message_of_invalid_input_has_the_expected_values(encoder, pairs):
    images, texts = pairs
    with pytest.raises(ValueError, match="got 11 and 10, expected one text per image"):
        attribute(encoder, images, texts[:-1], PAPER)
    with pytest.raises(ValueError, match="at least one image"):
        attribute(encoder, [], [], PAPER)
    with pytest.raises(CalibrationError, match="calibrate"):
        attribute(encoder, images, texts, AUDIT)
    with pytest.raises(ValueError, match="the tower has 3 blocks"):
        attribute(encoder, images, texts, replace(PAPER, image=GateConfig(layer=3)))


def test_statistics_can_be_used_only_with_their_model_layer_and_setting(encoder, float64_encoder, pairs, tmp_path):
    statistics = calibrate(encoder, *pairs, AUDIT)
    statistics.save(str(tmp_path / "s.safetensors"))
    assert len(repr(statistics)) < 300
    (tmp_path / "other").touch()
    assert (tmp_path / "s.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
    assert type(statistics).load(str(tmp_path / "s.safetensors")).image.scope == statistics.image.scope
    deeper = replace(AUDIT, image=replace(AUDIT.image, layer=1))
    otherwise = replace(AUDIT, image=replace(AUDIT.image, statistics="position"))
    for model, config in ((float64_encoder, AUDIT), (encoder, deeper), (encoder, otherwise)):
        with pytest.raises(
            CalibrationError, match=r"got statistics for the image tower .*, expected statistics for the image tower"
        ):
            attribute(model, *pairs, config, statistics)
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(CalibrationError, match="cannot be read"):
        type(statistics).load(tmp_path / "junk")


def test_sample_without_variance_is_rejected(encoder, pairs):
    by_position = replace(AUDIT, image=replace(AUDIT.image, statistics="position"))
    with pytest.raises(CalibrationError, match="does not vary"):
        calibrate(encoder, [pairs[0][0]] * 3, [pairs[1][0]] * 3, by_position)
    broken = encoder.prepare_images(pairs[0][:3]).clone()
    broken[1, 0, 0, 0] = torch.nan
    with pytest.raises(CalibrationError, match="not all finite"):
        calibrate(encoder, broken, pairs[1][:3], AUDIT)


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ("tensor", "abcd", "texts: got one string, expected a list"),
        (
            torch.zeros(4, 3, 48, 40),
            ["a"] * 4,
            r"shape \(4, 3, 48, 40\), expected floating point and \(pairs, 3, 40, 40\)",
        ),
        (torch.full((4, 3, 40, 40), torch.nan), ["a"] * 4, "NaN or infinite"),
    ],
)
def test_message_names_the_invalid_input(encoder, pairs, images, texts, message):
    images = encoder.prepare_images(pairs[0][:4]) if isinstance(images, str) else images
    with pytest.raises((TypeError, ValueError), match=message):
        attribute(encoder, images, texts, PAPER)


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "bf16"}, {"seed": "x"}, {"steps": 2.5}, {"initial_alpha": float("nan")}, {"draws": True},
        {"draws": 0}, {"tolerance": 1.0}, {"learning_rate": 0},
    ],
)  # fmt: skip
def test_message_names_the_invalid_setting(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got"):
        BottleneckConfig(**{"antithetic": False, **wrong})
    with pytest.raises(ValueError, match=r"layer: got 1\.5"):
        GateConfig(layer=1.5)


def test_converged_pair_stops_early_and_others_continue(encoder, pairs):
    strict = attribute(encoder, *pairs, replace(PAPER, steps=6))
    never = attribute(encoder, *pairs, replace(PAPER, steps=6, tolerance=0.0))
    _close(never.image_map, strict.image_map)
    early = attribute(encoder, *pairs, replace(PAPER, steps=6, tolerance=0.3))
    assert early.image_steps.min() < 6
    alone = attribute(encoder, pairs[0][:1], pairs[1][:1], replace(PAPER, steps=6, tolerance=0.3))
    _close(alone.image_map[0], early.image_map[0])


def test_portable_beta_weighs_nats_equally_in_short_and_long_captions():
    gate = GateConfig(beta=0.5, portable=True)
    assert price_per_nat(gate, torch.tensor([5, 60]), 8).tolist() == pytest.approx([0.5 / 400, 0.5 / 400])
    assert price_per_nat(GateConfig(beta=0.5), torch.tensor([5, 60]), 8).tolist() == pytest.approx(
        [0.5 / 40, 0.5 / 480]
    )


def test_out_of_memory_halves_the_batch_and_continues(encoder, pairs, monkeypatch):
    one_batch = attribute(encoder, *pairs, PAPER)
    tried = []
    monkeypatch.setattr(encoder, "max_batch_size", encoder.max_batch_size)

    def memory_for_three(codes, *rest):
        tried.append(codes.shape[1])
        if codes.shape[1] > 3:
            raise torch.OutOfMemoryError("no memory for more than three")
        return encoder.image.run_suffix(codes, *rest)

    monkeypatch.setattr(encoder, "kernels", replace(encoder.kernels, image=memory_for_three))
    _close(attribute(encoder, *pairs, PAPER, batch_size=64).image_map, one_batch.image_map)
    assert tried[:2] == [11, 6]
    assert max(tried[2:]) == 3
    tried.clear()
    attribute(encoder, *pairs, PAPER, batch_size=64)
    assert max(tried) == 3, "what was learned is kept"
    never = replace(encoder.kernels, image=lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    monkeypatch.setattr(encoder, "kernels", never)
    with pytest.raises(torch.OutOfMemoryError):
        attribute(encoder, *pairs, PAPER, batch_size=64)


def test_stability_compares_maps_of_two_seeds(encoder, pairs):
    first = attribute(encoder, *pairs, PAPER)
    same = first.stability(first)
    assert torch.allclose(same[0], torch.ones(11))
    other = first.stability(attribute(encoder, *pairs, replace(PAPER, seed=1)))
    assert (other[0] < 1 - 1e-6).all()
    expected = torch.corrcoef(torch.stack([first.text_map[0], first.text_map[0].flip(0)]))[0, 1]
    flipped = replace(first, text_map=[row.flip(0) for row in first.text_map])
    torch.testing.assert_close(first.stability(flipped)[1][0], expected)


def test_closed_gates_do_not_count_as_stable(encoder, pairs):
    statistics = calibrate(encoder, *pairs, AUDIT)
    first, second = (attribute(encoder, *pairs, replace(AUDIT, seed=seed), statistics) for seed in (0, 1))
    stability = first.stability(second)[1]
    for i, special in enumerate(first.special):
        words = ~torch.tensor(special)
        if words.sum() < 3:
            assert stability[i].isnan(), "two words always correlate"
            continue
        expected = torch.corrcoef(torch.stack([first.text_map[i][words], second.text_map[i][words]]))[0, 1]
        torch.testing.assert_close(stability[i], expected)


class OnDevice(torch.Tensor):
    """A tensor that lists the calls for which the host would wait for a GPU."""

    waits: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = func.__name__
        by_mask = name == "__getitem__" and isinstance(args[1], cls) and args[1].dtype == torch.bool
        to_host = "cpu" in [each for each in args if isinstance(each, str)]
        if name not in ("cpu", "numpy", "tolist", "item", "__bool__") and not to_host and not by_mask:
            return super().__torch_function__(func, types, args, kwargs)
        cls.waits.append(name)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        return result.as_subclass(torch.Tensor) if isinstance(result, torch.Tensor) and not by_mask else result


def test_results_of_a_batch_are_copied_from_the_device_at_once(encoder, pairs, monkeypatch):
    images, keys = np.stack([encoder.resize(image) for image in pairs[0]]), [str(i) for i in range(11)]
    plain = attribute(encoder, images, pairs[1], PAPER, keys=keys)
    for module in ("attribution", "encoders", "noise"):
        monkeypatch.setattr(f"m2ib.{module}.copy_to", lambda _device, batch: batch.as_subclass(OnDevice))
    OnDevice.waits.clear()
    finish = start_attribution(encoder, images, pairs[1], PAPER, keys=keys, batch_size=6)
    # In each of two batches: which images are distinct, whether all gates of the text are learned, and the results.
    assert Counter(OnDevice.waits) == {"tolist": 2, "__bool__": 2, "to": 2}
    result = finish()
    assert len(OnDevice.waits) == 6
    assert type(result.image_map) is torch.Tensor
    _close(result.image_map, plain.image_map)
    assert (result.tokens, result.special, result.truncated) == (plain.tokens, plain.special, plain.truncated)


def test_bfloat16_suffix_keeps_the_map(encoder, pairs):
    float64_encoder = attribute(encoder, *pairs, PAPER)
    rounded = attribute(encoder, *pairs, replace(PAPER, precision="bfloat16"))
    assert not torch.equal(float64_encoder.image_map, rounded.image_map)
    assert float64_encoder.stability(rounded)[0].median() > 0.9


def test_prompts_of_one_image_share_its_prefix(encoder, pairs, monkeypatch):
    images, texts = [pairs[0][0]] * 3 + [pairs[0][1]], [pairs[1][0], pairs[1][1], pairs[1][0], pairs[1][0]]
    keys = list("abcd")
    alone = [attribute(encoder, [i], [t], PAPER, keys=[k]) for i, t, k in zip(images, texts, keys, strict=True)]
    batch_sizes = []
    prefix = type(encoder.image).run_prefix
    monkeypatch.setattr(
        type(encoder.image),
        "run_prefix",
        lambda self, inputs, layer: batch_sizes.append(len(inputs)) or prefix(self, inputs, layer),
    )
    together = attribute(encoder, images, texts, PAPER, keys=keys, batch_size=64)
    assert batch_sizes == [2]
    for i, single in enumerate(alone):
        _close(together.image_map[i], single.image_map[0])
        _close(together.text_map[i], single.text_map[0])


def test_batches_fit_the_budget(encoder):
    sizes = [estimate_batch_size(encoder, PAPER, budget) for budget in (1, 2**20, 2**21, 2**40)]
    assert sizes[0] == 1
    assert sizes[-1] == 16, "more bring nothing on a CPU"
    assert 1 <= sizes[1] <= sizes[2] <= 16
    more_draws, budget = replace(PAPER, draws=40), 2**22
    assert estimate_batch_size(encoder, more_draws, budget) < estimate_batch_size(encoder, PAPER, budget)


def test_callers_inference_mode_and_autocast_do_not_matter(encoder, pairs):
    plain = attribute(encoder, *pairs, PAPER)
    with torch.inference_mode():
        _close(attribute(encoder, *pairs, PAPER).image_map.clone(), plain.image_map)
    with torch.autocast("cpu", torch.bfloat16):
        _close(attribute(encoder, *pairs, PAPER).image_map, plain.image_map)


def test_threads_take_turns(encoder, pairs):
    plain = attribute(encoder, *pairs, PAPER)
    encoder.model.train()
    with ThreadPoolExecutor(3) as pool:
        for result in pool.map(lambda _: attribute(encoder, *pairs, PAPER), range(3)):
            _close(result.image_map, plain.image_map)
    assert encoder.model.training
    assert all(parameter.requires_grad for parameter in encoder.model.parameters())
    encoder.model.eval()


def test_compiled_kernels_are_used_and_have_separate_code(pairs, monkeypatch):
    compiled, calls = [], []

    def compile_nothing(function, **options):
        compiled.append((function, options))
        return lambda *arguments, **named: calls.append(function) or function(*arguments, **named)

    monkeypatch.setattr(torch, "compile", compile_nothing)
    config = replace(PAPER, steps=2, draws=2, image=GateConfig(layer=0), text=GateConfig(layer=0))
    for seed in range(2):
        encoder = make_encoder(tiny_model(seed=seed))
        plain = attribute(encoder, *pairs, config)
        encoder.compile()
        calls.clear()
        result = attribute(encoder, *pairs, config)
        assert len({id(function) for function in calls}) == 5, "noise, code, step, and a block of each tower"
        assert torch.equal(result.image_map, plain.image_map)
        assert all(torch.equal(a, b) for a, b in zip(result.text_map, plain.text_map, strict=True))
    assert len({id(function.__code__) for function, _ in compiled}) == len(compiled) == 10
    assert [options.get("dynamic") for _, options in compiled[:5]] == [True, True, True, None, None]


def recording_backend(graphs):
    """A compiler that records its graphs and leaves them as they are, which takes no minutes."""
    return lambda graph, _inputs: graphs.append(graph) or graph.forward


@pytest.mark.slow
def test_compiled_kernels_give_the_same_maps_and_models_do_not_share_recompilations(pairs, monkeypatch):
    # The code that checks shapes in tests is the same for all models, and would reach the limit of recompilations.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    config, graphs = replace(PAPER, steps=2, draws=2), []
    backend = recording_backend(graphs)
    torch._dynamo.reset()
    for seed in range(5):
        encoder = make_encoder(tiny_model(seed=seed, layers=2))
        plain = attribute(encoder, *pairs, config)
        encoder.compile(backend=backend)
        before = len(graphs)
        compiled = attribute(encoder, *pairs, config)
        assert len(graphs) > before, "another model's graphs were used, or none"
        _close(compiled.image_map, plain.image_map)
        for a, b in zip(compiled.text_map, plain.text_map, strict=True):
            _close(a, b)


@pytest.mark.slow
def test_one_block_is_compiled_for_all_of_them(pairs):
    def pieces(layers):
        graphs = []
        torch._dynamo.reset()
        encoder = make_encoder(tiny_model(layers=layers))
        encoder.compile(backend=recording_backend(graphs))
        attribute(encoder, *pairs, replace(PAPER, image=GateConfig(layer=0), text=GateConfig(layer=0)))
        return len(graphs)

    assert pieces(4) == pieces(7)


def test_message_names_the_missing_compiler(pairs):
    def broken(_graph, _inputs):
        raise RuntimeError("no g++")

    encoder = make_encoder(tiny_model())
    torch._dynamo.reset()
    with pytest.raises(ModelLoadError, match=r"install a C\+\+ compiler"):
        encoder.compile(backend=broken)
    attribute(encoder, pairs[0][:1], pairs[1][:1], replace(PAPER, steps=1))


@pytest.mark.slow
def test_compiled_code_gives_the_same_maps(pairs):
    encoder = make_encoder(tiny_model())
    plain = attribute(encoder, *pairs, PAPER)
    encoder.compile()
    compiled = attribute(encoder, *pairs, PAPER)
    scale = plain.image_map.amax(dim=(1, 2), keepdim=True)
    assert float(((compiled.image_map - plain.image_map).abs() / scale).max()) < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_gives_the_same_maps(pairs, precision):
    here = attribute(make_encoder(tiny_model()), *pairs, PAPER)
    there = attribute(make_encoder(tiny_model().cuda()), *pairs, replace(PAPER, precision=precision))
    assert float(here.stability(there)[0].min()) > (0.999 if precision == "float32" else 0.9)
