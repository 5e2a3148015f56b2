"""Boxes that overlap become boxes that do not; masks become few boxes that cover exactly their cells."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from corpora import Limits
from m2ib.analysis.masks import rasterize_boxes
from tasks.errors import BadInputError
from tasks.regions import MAX_BOXES, cells_to_boxes, merge_boxes, read_mask
from tasks.settings import RegionsConfig
from tasks.store import region_rows


@pytest.fixture
def save_mask(tmp_path):
    """save_mask(array): save an image with these gray values and return its path."""

    def save(array, name="mask.png"):
        path = tmp_path / name
        Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)
        return path

    return save


@pytest.mark.parametrize(("shape", "seed"), [((1, 1), 0), ((5, 7), 1), ((16, 16), 2), ((64, 40), 3)])
def test_boxes_cover_each_cell_once(shape, seed):
    inside = np.random.default_rng(seed).random(shape) < 0.6
    boxes = cells_to_boxes(inside)
    assert (rasterize_boxes(boxes, *shape) == inside).all() or not inside.any()
    assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) == pytest.approx(inside.mean())


def test_a_simple_shape_needs_few_boxes():
    ring = np.ones((64, 64), dtype=bool)
    ring[8:-8, 8:-8] = False
    assert len(cells_to_boxes(ring)) == 4


def test_the_boxes_of_a_mask_are_shares_of_the_image(save_mask):
    array = np.zeros((200, 400))
    array[100:, 300:] = 255
    path = save_mask(array)
    sha256, boxes = read_mask("logo", path, Limits())
    assert boxes == [(0.75, 0.5, 1, 1)]
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_mask_that_needs_many_boxes_is_read_on_a_coarser_grid(save_mask):
    rows, columns = np.indices((64, 64))
    lace = (rows + columns) % 2 * ((rows - 32) ** 2 + (columns - 32) ** 2 < 400) + (rows < 8)
    assert len(cells_to_boxes(lace > 0)) > MAX_BOXES
    _, boxes = read_mask("lace", save_mask(255 * (lace > 0)), Limits())
    assert len(boxes) <= MAX_BOXES
    assert all((np.array(box) * 32 % 1 == 0).all() for box in boxes)


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (np.zeros((8, 8)), "got a mask that is all black once it is reduced to 8 x 8 cells"),
        (np.full((8, 9), 255), "got a mask that is all white once it is reduced to 9 x 8 cells"),
        (255 * (np.indices((16, 16)).sum(axis=0) % 2), "got a mask that takes 128 boxes once it is reduced to 16 x 16"),
        (np.eye(1000) * 255, "got a mask that is all black once it is reduced to 64 x 64 cells"),
    ],
)
def test_invalid_mask_is_bad_input(save_mask, array, fault):
    with pytest.raises(BadInputError, match=f"regions.masks.logo: .*mask.png: {fault}.*, expected"):
        read_mask("logo", save_mask(array), Limits())


def test_invalid_or_too_large_image_is_bad_input(tmp_path, save_mask):
    (tmp_path / "x.png").write_text("no image")
    for path, limits in ((tmp_path / "x.png", Limits()), (save_mask(np.zeros((20, 20))), Limits(max_pixels=399))):
        with pytest.raises(BadInputError, match=rf"regions.masks.logo: .*{path.name}: The "):
            read_mask("logo", path, limits)


def test_the_boxes_of_a_mask_are_clipped_to_the_view_of_each_pair():
    regions = RegionsConfig(frame=0, corner=0)
    cropped = {"pair_id": "p", "view_x0": 0.5, "view_y0": 0.0, "view_x1": 1.0, "view_y1": 1.0}
    masks = {"logo": [(0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)]}
    (row,) = region_rows(regions, masks, [cropped], {}, Counter())
    assert (row["region"], row["kind"], row["pair_id"]) == ("logo", "mask", "p")
    assert [row[key] for key in ("x0", "y0", "x1", "y1")] == [0, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], []),
        ([(0.1, 0.2, 0.3, 0.4)], [(0.1, 0.2, 0.3, 0.4)]),
        ([(0, 0, 0.5, 1), (0, 0, 0.5, 1)], [(0, 0, 0.5, 1)]),
        ([(0.1, 0.1, 0.9, 0.9), (0.2, 0.2, 0.3, 0.3)], [(0.1, 0.1, 0.9, 0.9)]),
        ([(0, 0, 0.5, 1), (0.5, 0, 1, 1)], [(0, 0, 1, 1)]),
        ([(0, 0, 0.2, 0.2), (0.7, 0.7, 0.9, 1)], [(0, 0, 0.2, 0.2), (0.7, 0.7, 0.9, 1)]),
        # A cross: a bar and the parts above and below it.
        ([(0.4, 0, 0.6, 1), (0, 0.4, 1, 0.6)], [(0.4, 0, 0.6, 0.4), (0, 0.4, 1, 0.6), (0.4, 0.6, 0.6, 1)]),
    ],
)
def test_merged_boxes_cover_each_point_once(boxes, expected):
    assert merge_boxes(boxes) == expected
