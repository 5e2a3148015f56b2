"""Patches are captured on the way of the clean embedding, and kept as int8 vectors of the principal directions."""

import functools
from dataclasses import replace

import families
import numpy as np
import pytest
import torch

from m2ib import CalibrationError, PatchProjection, calibrate_patches, find_hot_cells, preset, start_attribution
from m2ib.attribution import _embed_clean, _find_distinct
from m2ib.patches import SCALE, resolve_depth
from m2ib.towers.base import CONTENT, HiddenTokens

FAMILIES = sorted({image: (image, text) for image, text in families.PAIRS}.values())
PAPER = replace(preset("paper"), steps=1, draws=2)


@functools.cache
def get_encoder(pair):
    return families.build(*pair)


def project_nothing(width, layer=0, largest=1e9):
    """A projection that keeps the first four features as they are."""
    return PatchProjection(torch.zeros(width), torch.eye(width)[:4], torch.tensor(largest), layer, "test")


@pytest.mark.parametrize("pair", FAMILIES, ids=lambda pair: pair[0])
def test_captured_states_are_those_of_the_prefix_and_leave_the_embedding_bit_equal(pair):
    encoder = get_encoder(pair)
    tower, pixels = encoder.image, families.pixels(encoder)
    with encoder.frozen(), torch.no_grad():
        for layer in range(-1, tower.num_blocks - 1):
            tokens = tower.run_prefix(pixels, layer)
            expected = tower.run_suffix(tokens.hidden[None], tokens, layer)[0]
            for deep in range(layer, tower.num_blocks - 1):
                embedding, captured = tower.embed_and_capture(pixels, tokens, layer, deep)
                prefix = tower.run_prefix(pixels, deep)
                assert torch.equal(embedding, expected)
                assert captured.grid == prefix.grid
                assert torch.equal(captured.kinds, prefix.kinds)
                torch.testing.assert_close(captured.hidden, prefix.hidden, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("pair", FAMILIES[:3], ids=lambda pair: pair[0])
def test_an_attribution_has_the_same_maps_with_and_without_patches(pair):
    encoder = get_encoder(pair)
    pixels = families.pixels(encoder)
    projection = calibrate_patches(encoder, pixels, PAPER.image, 0.5)
    plain, captured = (
        start_attribution(encoder, pixels, families.TEXTS[:2], PAPER, keys=["a", "b"], projection=given)()
        for given in (None, projection)
    )
    assert plain.patches is None
    assert torch.equal(plain.image_map, captured.image_map)
    assert captured[:1].patches.shape[0] == 1
    with encoder.frozen():
        hidden = encoder.image.run_prefix(pixels, projection.layer)
    rows, columns = hidden.grid
    assert captured.patches.shape == (len(pixels), rows, columns, min(32, hidden.hidden.shape[2]))
    lengths = captured.patches.float().norm(dim=-1)
    assert bool(((lengths - SCALE).abs() < 4).all() or (lengths == 0).any())


def test_an_image_that_occurs_twice_has_its_patches_twice():
    encoder = get_encoder(FAMILIES[0])
    pixels = families.pixels(encoder)[[0, 0, 1]]
    projection = calibrate_patches(encoder, families.pixels(encoder), PAPER.image, 0.5)
    with encoder.frozen():
        _, _, vectors = _embed_clean(encoder.image, pixels, _find_distinct(pixels), PAPER.image, projection)
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


def test_patches_are_captured_at_a_share_of_the_blocks_but_never_before_the_gate_or_at_the_last_block():
    encoder = get_encoder(("ViT", dict(FAMILIES)["ViT"]))
    assert encoder.image.num_blocks == 3
    gates = {layer: replace(PAPER.image, layer=layer) for layer in (-1, 0, 2)}
    assert resolve_depth(encoder, gates[-1], 0.4) == 0
    assert resolve_depth(encoder, gates[-1], 1.0) == 1
    assert resolve_depth(encoder, gates[0], 0.0) == 0
    assert resolve_depth(encoder, gates[2], 0.4) == 2


def test_the_projection_has_the_principal_directions_of_the_sample(tmp_path):
    encoder = get_encoder(FAMILIES[0])
    pixels = families.pixels(encoder)
    projection = calibrate_patches(encoder, pixels, PAPER.image, 0.5, batch_size=2)
    with encoder.frozen():
        tokens = encoder.image.run_prefix(pixels, projection.layer)
    hidden = tokens.hidden[tokens.kinds == CONTENT].double()
    centered = hidden - hidden.mean(dim=0)
    first = torch.linalg.svd(centered, full_matrices=False)[2][0]
    assert abs(float(first @ projection.directions[0].double())) == pytest.approx(1, abs=1e-4)
    path = tmp_path / "projection.safetensors"
    projection.save(path)
    loaded = PatchProjection.load(path)
    assert (loaded.layer, loaded.made_for) == (projection.layer, projection.made_for)
    assert encoder.digest[:12] in loaded.made_for
    assert torch.equal(loaded.project(tokens), projection.project(tokens))
    path.write_bytes(b"nothing")
    with pytest.raises(CalibrationError, match="cannot be read"):
        PatchProjection.load(path)


def make_tokens(hidden, grid):
    """Tokens of one image after a CLS token."""
    values = torch.cat([torch.full((1, 1, hidden.shape[1]), 99.0), hidden[None]], dim=1)
    kinds = torch.full(values.shape[:2], CONTENT)
    kinds[:, 0] = CONTENT + 1
    return HiddenTokens(values, torch.ones_like(kinds, dtype=torch.bool), kinds, grid, None, {})


def test_cells_with_a_very_large_norm_are_zero_vectors():
    hidden = torch.tensor([[3.0, 4, 0, 0], [0, 0, 30, 40], [0, 5, 0, 0], [0, 0, 0, -2]])
    vectors = project_nothing(4, largest=10).project(make_tokens(hidden, (2, 2)))[0]
    assert vectors.reshape(4, 4).tolist() == [[76, 102, 0, 0], [0, 0, 0, 0], [0, 127, 0, 0], [0, 0, 0, -127]]


def test_large_grids_are_averaged_without_the_cells_that_are_dropped():
    hidden = torch.zeros(32 * 32, 4)
    hidden[:, 0] = 1
    hidden.view(32, 32, 4)[0, 0] = torch.tensor([0.0, 50, 0, 0])  # dropped
    hidden.view(32, 32, 4)[2, 2] = torch.tensor([0.0, 3, 0, 0])  # averaged with three others
    vectors = project_nothing(4, largest=10).project(make_tokens(hidden, (32, 32)))[0]
    assert vectors.shape == (16, 16, 4)
    assert vectors[0, 0].tolist() == [127, 0, 0, 0]
    assert vectors[1, 1].tolist() == [90, 90, 0, 0]


def test_hot_cells_hold_most_of_the_nats_of_a_map():
    maps = np.zeros((3, 8, 8), np.float32)
    maps[0, 2, 3] = 5
    maps[1] = 1
    maps[2].flat[:8] = np.arange(8, 0, -1)
    hot = find_hot_cells(maps, (8, 8))
    assert hot[0][0] == 19
    assert [len(cells) for cells in hot] == [6, 12, 6]
    assert hot[2] == [0, 1, 2, 3, 4, 5]
    assert len(find_hot_cells(np.ones((1, 14, 14), np.float32), (14, 14))[0]) == 16


def test_nats_are_brought_to_another_grid_by_area():
    maps = np.zeros((1, 6, 6), np.float32)
    maps[0, 4:6, 0:2] = 1  # one cell of a grid of 3 x 3
    assert find_hot_cells(maps, (3, 3))[0][0] == 6
