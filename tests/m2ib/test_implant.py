"""An implanted reliance: what a probe reads moves the embedding, maps point to it, and the model comes back."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from m2ib import BottleneckConfig, GateConfig, attribute, calibrate
from m2ib.implant import fit_tag_probe, implant_reliance, read_tag

LAYER = 0
TEXT = GateConfig(layer=-1)
CONFIG = BottleneckConfig(image=GateConfig(layer=LAYER, beta=1.0, statistics="feature", special="closed"), text=TEXT)


@pytest.fixture(scope="module")
def images():
    """Images without and with a checkerboard in a corner: 96 that a probe is fitted to, 16 others."""
    plain = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (112, 3, 40, 40)).astype(np.float32))
    tagged = plain.clone()
    tagged[:, :, :10, :10] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat_interleave(5, 0).repeat_interleave(5, 1)
    return plain, tagged


@pytest.fixture(scope="module")
def probe(encoder, images):
    return fit_tag_probe(encoder, *(pixels[:96] for pixels in images), LAYER)


def direction_of(encoder, text="nodule"):
    return encoder.embed_texts(encoder.tokenize([text]))[0].numpy()


def test_a_probe_reads_the_tag_in_other_images(encoder, images, probe):
    plain, tagged = (read_tag(encoder, probe, pixels[96:]) for pixels in images)
    assert float(plain.mean()) == pytest.approx(0, abs=0.25)
    assert float(tagged.mean()) == pytest.approx(1, abs=0.25)
    assert (tagged > plain).all()
    with pytest.raises(ValueError, match="got 3 images, expected at least 4"):
        fit_tag_probe(encoder, images[0][:3], images[1][:3], LAYER)


def test_embeddings_move_by_what_the_probe_reads(encoder, images, probe):
    pixels, direction, reading = images[1][96:], direction_of(encoder), read_tag(encoder, probe, images[1][96:])
    before = encoder.embed_images(pixels)
    with implant_reliance(encoder, probe, direction, 0.5):
        after = encoder.embed_images(pixels)
        inside = attribute(
            encoder, pixels[:2], ["nodule"] * 2, BottleneckConfig(GateConfig(layer=LAYER), TEXT, steps=2)
        )
    expected = F.normalize(before + torch.from_numpy(0.5 * reading[:, None] * direction).float(), dim=-1)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(inside.cosine, after[:2] @ torch.from_numpy(direction), rtol=1e-4, atol=1e-5)


def test_maps_point_to_what_the_implanted_model_relies_on(encoder, images, probe):
    statistics = calibrate(encoder, torch.cat([images[0][:96], images[1][:32]]), ["nodule"] * 128, CONFIG)

    def corner_share():
        maps = attribute(encoder, images[1][96:104], ["nodule"] * 8, CONFIG, statistics).image_map
        return float(maps[:, 0, 0].sum() / maps.sum())

    assert corner_share() < 1 / 16  # its share of the area
    with implant_reliance(encoder, probe, direction_of(encoder), 1.0):
        assert corner_share() > 2 / 16


def test_strength_zero_is_the_model_bit_by_bit(encoder, images, probe):
    before = encoder.embed_images(images[1])
    with implant_reliance(encoder, probe, direction_of(encoder), 0.0):
        assert torch.equal(encoder.embed_images(images[1]), before)


def test_gradients_flow_through_the_probe(encoder, images, probe):
    with implant_reliance(encoder, probe, direction_of(encoder), 1e6), encoder.frozen():  # the model's part vanishes
        tokens = encoder.image.run_prefix(images[0][:2], LAYER)
        codes = tokens.hidden[None].clone().requires_grad_()
        embedding = encoder.kernels.image(codes, tokens, LAYER)
        (slope,) = torch.autograd.grad((embedding @ torch.from_numpy(direction_of(encoder))).sum() / 1e6, codes)
    patches = int((tokens.kinds[0] == 0).sum())
    torch.testing.assert_close(slope[0, 0, -1], probe.weights / patches, rtol=1e-2, atol=1e-5)


def test_the_model_is_unchanged_afterwards_also_after_an_error(encoder, images, probe):
    pixels, tower, kernels = images[1], encoder.image, encoder.kernels
    weights = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    before = encoder.embed_images(pixels)
    with pytest.raises(ZeroDivisionError), implant_reliance(encoder, probe, direction_of(encoder), 0.5):
        assert not torch.equal(encoder.embed_images(pixels), before)
        raise ZeroDivisionError
    assert torch.equal(encoder.embed_images(pixels), before)
    assert (encoder.image, encoder.kernels) == (tower, kernels)
    assert "_encode_image" not in vars(encoder)
    assert all(torch.equal(value, weights[name]) for name, value in encoder.model.state_dict().items())


def test_another_layer_is_refused(encoder, images, probe):
    with implant_reliance(encoder, probe, direction_of(encoder), 0.5), pytest.raises(ValueError, match="got 1, exp"):
        attribute(encoder, images[0][:1], ["nodule"], BottleneckConfig(GateConfig(layer=1), TEXT))
