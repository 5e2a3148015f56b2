import base64
import io

import numpy as np
import pytest
from PIL import Image

from review.presentation import drawing


def compute_lightness(image):
    return np.asarray(image.convert("L"), dtype=float)


def test_the_view_is_the_box_of_the_image():
    image = Image.fromarray(np.repeat(np.arange(100, dtype=np.uint8)[None, :, None], 100, axis=0).repeat(3, axis=2))
    view = np.asarray(drawing.draw_view(image, (0.5, 0.0, 1.0, 1.0), (50, 50)))
    assert np.abs(view[:, :, 0] - np.arange(50, 100)).max() <= 1


def test_the_area_outside_the_image_is_gray():
    view = np.asarray(drawing.draw_view(Image.new("RGB", (10, 10), "white"), (-0.5, 0.0, 1.5, 1.0), (40, 20)))
    assert (view[:, :10] == 128).all()
    assert (view[:, 10:30] == 255).all()
    assert (view[:, 30:] == 128).all()
    nothing = np.asarray(drawing.draw_view(Image.new("RGB", (10, 10), "white"), (1.0, 0.0, 2.0, 1.0), (8, 8)))
    assert (nothing == 128).all()


def test_patches_are_drawn_as_squares_in_place():
    nats = np.zeros((2, 3))
    nats[1, 2] = 5
    overlay = np.asarray(drawing.draw_overlay(Image.new("RGB", (30, 20)), nats, 5.0, []))
    cell = drawing.SIDE // 3
    assert overlay.shape == (2 * cell, 3 * cell, 3)
    inside = overlay[cell:, 2 * cell :].reshape(-1, 3)
    assert (inside == inside[0]).all()
    assert inside[0].sum() > 400
    assert overlay.sum() == inside.sum(dtype=int)  # on black, no other pixel is tinted


def test_more_nats_are_lighter_and_invalid_values_can_be_drawn():
    assert (np.diff(compute_lightness(drawing.draw_color_scale())[0]) >= -1).all()
    nats = np.array([[np.nan, np.inf, -np.inf, -1.0, 2.0]])
    overlay = compute_lightness(drawing.draw_overlay(None, nats, 1.0, []))[0, :: drawing.SIDE // 5]
    assert overlay[0] == overlay[2] == overlay[3] < overlay[1] == overlay[4]


def test_the_union_of_boxes_is_outlined():
    boxes = [(0.0, 0.0, 0.5, 0.25), (0.0, 0.25, 0.5, 0.5)]  # two halves of a quarter
    overlay = np.asarray(drawing.draw_overlay(None, np.zeros((4, 4)), 1.0, [boxes]))
    side = overlay.shape[0]
    assert (overlay[1, 1 : side // 2 - 1] == 255).all()
    assert (overlay[side // 2 - 2, 1 : side // 2 - 1] == 255).all()
    assert (overlay[side // 4 - 4 : side // 4 + 4, 10 : side // 2 - 10] == 40).all()
    assert (overlay[side // 2 :, side // 2 :] == 40).all()
    separate = np.asarray(drawing.draw_overlay(None, np.zeros((4, 4)), 1.0, [[box] for box in boxes]))
    assert (separate[side // 4 - 2, 1 : side // 2 - 1] == 255).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 7), (14, 14), (16, 9), (2, 50), (400, 1)])
def test_mean_maps_of_any_shape_are_drawn(rows, columns):
    image = drawing.draw_mean_map(np.ones((rows, columns)), 1.0, [(0.0, 0.0, 0.01, 1.0)])
    assert image.width * rows == image.height * columns


def test_incomplete_template_is_not_drawn():
    overlay = {"channels": 1, "height": 2, "width": 2, "template": [0.0, 0.0, float("nan"), 0.0]}
    assert drawing.draw_template(overlay).getextrema() == (128, 128)
    for change in ({"template": [0.0]}, {"template": None}, {"height": 0}):
        assert drawing.draw_template(overlay | change) is None


def test_large_pictures_are_stored_as_jpeg():
    noise = np.random.default_rng(0).integers(0, 256, (288, 288, 3), dtype=np.uint8)
    uri = drawing.encode_data_uri(Image.fromarray(noise))
    assert uri.startswith("data:image/jpeg;base64,")
    flat = drawing.encode_data_uri(Image.new("RGB", (288, 288), (9, 9, 9)))
    assert flat.startswith("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(flat.split(",")[1]))).mode == "L"
