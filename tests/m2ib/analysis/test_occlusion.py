"""Fills change only masked pixels and leak nothing, controls have equal area, margins compare with the best foil."""

import numpy as np
import pytest
import torch
from scipy.ndimage import find_objects, label

from m2ib.analysis.controls import make_control_masks
from m2ib.analysis.masks import count_touched_borders, is_frame, rasterize_boxes
from m2ib.analysis.occlusion import (
    embed_images,
    embed_occluded,
    fill_masks,
    foil_margin,
)


def box_mask(boxes, height, width):
    return rasterize_boxes([tuple(map(float, box)) for box in boxes], height, width)


CORNER = [(0, 0, 0.25, 0.25)]
FRAME = [(0, 0, 1, 0.05), (0, 0.95, 1, 1), (0, 0.05, 0.05, 0.95), (0.95, 0.05, 1, 0.95)]
ISLAND = [(0.4, 0.3, 0.55, 0.45)]
SHAPES = {
    "corner": CORNER,
    "wide corner": [(0.8, 0, 1, 0.1)],
    "frame": FRAME,
    "at the border": [(0.4, 0, 0.6, 0.1)],
    "strip": [(0, 0.9, 1, 1)],
    "middle strip": [(0, 0.45, 1, 0.55)],
    "island": ISLAND,
    "two boxes": [(0.3, 0.3, 0.4, 0.4), (0.5, 0.3, 0.6, 0.4)],
}


@pytest.fixture
def images():
    return torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def stack_masks(*shapes, size=40):
    return torch.from_numpy(np.stack([box_mask(SHAPES[shape], size, size) for shape in shapes]))


def test_box_mask_has_at_least_one_pixel():
    assert np.argwhere(box_mask([(0, 0, 0.5, 0.25)], 4, 4)).tolist() == [[0, 0], [0, 1]]
    assert box_mask([(0.99, 0.99, 1, 1)], 4, 4).sum() == 1
    assert box_mask([(0.5, 0.5, 0.501, 0.501)], 4, 4).sum() == 1
    assert box_mask(FRAME, 40, 40).sum() == 40 * 40 - 36 * 36


@pytest.mark.parametrize("how", ["mean", "blur", "swap"])
@pytest.mark.parametrize("shape", SHAPES)
def test_fill_changes_only_masked_pixels_and_does_not_depend_on_them(images, how, shape):
    masks = stack_masks(shape, shape, shape)
    filled = fill_masks(images, masks, how, donors=images.flip(0))
    outside = ~masks[:, None].expand_as(images)
    assert torch.equal(filled[outside], images[outside])
    assert not torch.equal(filled, images)
    other = torch.where(masks[:, None], torch.full_like(images, 1e4), images)
    filled_other = fill_masks(other, masks, how, donors=images.flip(0))
    torch.testing.assert_close(filled_other, filled, rtol=0, atol=0)
    assert filled.isfinite().all()


def test_mean_and_blur_of_a_uniform_image_are_its_color():
    plain = torch.tensor([0.5, -1.0, 2.0])[None, :, None, None].expand(2, 3, 40, 40)
    for how in ("mean", "blur"):
        torch.testing.assert_close(fill_masks(plain, stack_masks("corner", "frame"), how), plain)


def test_mean_is_computed_over_the_ring():
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, :, 16:] = 1.0
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, 8:12, 14:18] = True  # half of it on each side of the edge
    assert fill_masks(image, mask, "mean")[0, 0, 9, 15] == pytest.approx(0.5)


def test_swap_takes_the_donor_s_pixels_and_an_empty_mask_nothing(images):
    masks = stack_masks("corner", "island", "frame")
    masks[1] = False
    filled = fill_masks(images, masks, "swap", donors=images + 5)
    assert torch.equal(filled[0, :, :10, :10], images[0, :, :10, :10] + 5)
    assert torch.equal(filled[1], images[1])
    assert torch.equal(fill_masks(images, masks & False, "blur"), images)


def test_impossible_fill_is_an_error(images):
    with pytest.raises(ValueError, match="donors: got None, expected another image for each image"):
        fill_masks(images, stack_masks("corner", "corner", "corner"), "swap")
    for how in ("mean", "blur"):
        with pytest.raises(ValueError, match="covers the whole image, expected some unmasked pixels"):
            fill_masks(images, torch.ones(len(images), *images.shape[2:], dtype=torch.bool), how)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(40, 40), (40, 60), (33, 47)])
def test_controls_have_the_region_s_area_and_none_of_its_pixels(shape, size):
    mask = box_mask(SHAPES[shape], *size)
    controls = make_control_masks(mask, 4, "pair")
    assert 2 <= len(controls) <= 4
    for control in controls:
        assert control.sum() == mask.sum()
        assert not (control & mask).any()
    assert len({control.tobytes() for control in controls}) == len(controls)


def test_controls_of_a_corner_are_the_other_corners():
    mask = box_mask(CORNER, 40, 40)
    corners = [box_mask([box], 40, 40) for box in [(0.75, 0, 1, 0.25), (0, 0.75, 0.25, 1), (0.75, 0.75, 1, 1)]]
    controls = make_control_masks(mask, 4, "pair")
    assert {control.tobytes() for control in controls} == {corner.tobytes() for corner in corners}


def test_controls_have_the_same_distance_from_the_border():
    for control in make_control_masks(box_mask(SHAPES["at the border"], 40, 40), 8, "pair"):
        assert count_touched_borders(control) >= 1
    rings = make_control_masks(box_mask(FRAME, 40, 40), 3, "pair")
    assert [count_touched_borders(ring) for ring in rings] == [0, 0, 0]
    assert rings[0][2, 2:38].all()  # the first ring is just inside the frame


def test_controls_of_a_strip_have_its_distance_from_the_border():
    strip = box_mask([(0, 0.9, 1, 1)], 40, 40)
    controls = make_control_masks(strip, 4, "pair")
    assert len(controls) == 3
    for control in controls:
        assert control.sum() == strip.sum()
        assert not (control & strip).any()
        assert count_touched_borders(control) >= 2
        assert (~control[5:-5, 5:-5]).all()  # at most a pixel deeper than the strip, which has the corners of the image


TAGS = {
    "top-left": (0.05, 0.05, 0.35, 0.15), "top-right": (0.65, 0.075, 0.95, 0.175),
    "bottom-left": (0.025, 0.85, 0.325, 0.95), "bottom-right": (0.675, 0.825, 0.975, 0.925),
}  # fmt: skip


@pytest.mark.parametrize(
    "places",
    [
        ("top-left", "bottom-right"), ("top-left", "top-right"), ("top-left", "bottom-left"),
        ("top-left", "top-right", "bottom-left"), tuple(TAGS),
    ],
)  # fmt: skip
def test_copies_of_a_tag_are_moved_each_on_its_own(places):
    boxes = [TAGS[place] for place in places]
    mask = box_mask(boxes, 80, 80)
    controls = make_control_masks(mask, 4, "pair")
    assert len(controls) >= 3
    for control in controls:
        assert control.sum() == mask.sum()
        assert not (control & mask).any()
        moved = find_objects(label(control)[0])
        assert all(min(y.start, 80 - y.stop, x.start, 80 - x.stop) <= 6 for y, x in moved)  # as near to the border


def test_controls_depend_only_on_the_key():
    mask = box_mask(ISLAND, 40, 40)
    first, repeated, other = (np.stack(make_control_masks(mask, 4, key)) for key in ("a", "a", "b"))
    assert np.array_equal(first, repeated)
    assert not np.array_equal(first, other)


def test_too_large_region_has_no_controls():
    assert make_control_masks(box_mask([(0.1, 0.1, 0.9, 0.9)], 40, 40), 4, "pair") == []
    assert make_control_masks(np.ones((40, 40), dtype=bool), 4, "pair") == []
    assert make_control_masks(np.zeros((40, 40), dtype=bool), 4, "pair") == []


def test_the_margin_is_over_the_best_foil_of_each_version():
    own, foils = np.array([[1.0, 0, 0]]), np.array([[[0, 1.0, 0], [0, 0, 1.0]]])
    versions = np.array([[[0.6, 0.8, 0.0], [0.0, 0.6, 0.8], [1.0, 0.0, 0.0]]])
    assert foil_margin(versions, own, foils)[0] == pytest.approx([-0.2, -0.8, 1.0])
    assert foil_margin(versions[:, 0], own, foils).tolist() == pytest.approx([-0.2])


def test_occluded_embeddings_are_those_of_the_filled_images_in_any_batch(encoder, images, monkeypatch):
    masks = np.stack([np.stack([box_mask(boxes, 40, 40) for boxes in (CORNER, ISLAND)])] * 3)
    embeddings = embed_occluded(encoder, images, masks, "mean")
    assert embeddings.shape == (3, 2, 24)
    alone = embed_images(encoder, fill_masks(images, torch.from_numpy(masks[:, 1]), "mean"))
    np.testing.assert_allclose(embeddings[:, 1], alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=-1), 1, atol=1e-6)
    monkeypatch.setattr("m2ib.analysis.occlusion.BATCH", 2)
    np.testing.assert_allclose(embed_occluded(encoder, images, masks, "mean"), embeddings, atol=1e-6)
    chosen = np.array([[True, False], [False, False], [False, True]])
    some = embed_occluded(encoder, images, masks, "mean", chosen=chosen)
    np.testing.assert_allclose(some[chosen], embeddings[chosen], atol=1e-6)
    assert not some[~chosen].any()


def test_model_is_unchanged_after_an_exception(encoder, images):
    before = {key: value.clone() for key, value in encoder.model.state_dict().items()}
    encoder.model.train()
    masks = np.stack([box_mask(CORNER, 40, 40)[None]] * 3)
    embed_occluded(encoder, images, masks, "blur")
    with pytest.raises(ValueError, match="donors"):
        embed_occluded(encoder, images, masks, "swap")
    assert encoder.model.training
    assert all(parameter.requires_grad for parameter in encoder.model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in encoder.model.state_dict().items())
    encoder.model.eval()


def make_lattice(side=40, pitch=8):
    """Return crosses three pixels wide over the whole image: every shifted copy overlaps it."""
    mask = np.zeros((side, side), dtype=bool)
    for y in range(0, side, pitch):
        for x in range(0, side, pitch):
            mask[y : y + 3, x + 1] = mask[y + 1, x : x + 3] = True
    return mask


def test_frame_is_recognized():
    assert is_frame(box_mask(FRAME, 40, 40))
    assert not is_frame(make_lattice())
    assert not is_frame(np.ones((40, 40), dtype=bool))


def test_controls_of_a_pattern_over_the_image_are_between_its_strokes():
    mask = make_lattice()
    mask[0] = mask[-1] = mask[:, 0] = mask[:, -1] = True  # touches all four sides, but is not a frame
    controls = make_control_masks(mask, 4, "a")
    assert len({control.tobytes() for control in controls}) == 4
    for control in controls:
        assert not (control & mask).any()
        assert 0.9 * mask.sum() <= control.sum() <= mask.sum()


@pytest.mark.parametrize("seed", [1, 2])
def test_controls_of_a_pattern_over_the_image_differ(seed):
    # Strokes so broad that where one copy fits, those a pixel beside it fit too.
    mask = np.kron(np.random.default_rng(seed).random((16, 16)) < 0.2, np.ones((5, 5), dtype=bool))
    assert count_touched_borders(mask) == 4
    controls = make_control_masks(mask, 4, "a")
    assert len(controls) == 4
    for number, one in enumerate(controls):
        for other in controls[:number]:
            assert (one & other).sum() <= 0.5 * mask.sum()
    assert all((one == again).all() for one, again in zip(controls, make_control_masks(mask, 4, "a"), strict=True))


def test_a_pattern_that_leaves_no_room_between_its_strokes_has_no_controls():
    assert make_control_masks(np.random.default_rng(0).random((40, 40)) < 0.45, 4, "a") == []


@pytest.mark.parametrize("how", ["mean", "blur"])
def test_strokes_are_filled_from_neighboring_pixels(how):
    slope = torch.linspace(0, 1, 40).expand(1, 3, 40, 40).contiguous()
    mask = torch.from_numpy(make_lattice())[None]
    filled = fill_masks(slope + 5 * mask[:, None], mask, how)
    assert (filled - slope).abs().max() < 0.1  # the mean of the whole image would differ by 0.5
