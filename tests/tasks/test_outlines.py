"""Boxes, mask files, polygons and run lengths become boxes of a region; errors say what is expected."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from m2ib.analysis.masks import rasterize_boxes
from tasks.outlines import parse_region
from tasks.regions import complement_boxes

SIZE = (200, 100)  # width and height of the image
TRIANGLE = [20, 10, 180, 10, 100, 90]


def draw(*polygons):
    image = Image.new("L", SIZE)
    for polygon in polygons:
        ImageDraw.Draw(image).polygon(polygon, fill=255)
    return image


def encode_runs(mask):
    """Return COCO's run lengths of a mask, column by column, beginning with zeros."""
    flat = np.concatenate(([False], mask.T.ravel(), [not mask[-1, -1]]))
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate(([0], changes))).tolist()


def encode_text(runs):
    """Compress run lengths as COCO does."""
    text = ""
    for place, run in enumerate(runs):
        number, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 * more))
    return text


def read(text, mask=None, size=SIZE):
    def read_mask(name):
        assert name == text
        return mask

    boxes = parse_region(text, size, read_mask, 10**6)
    return boxes, rasterize_boxes(boxes, SIZE[1], SIZE[0])


def share(one, other):
    """Return intersection over union."""
    return (one & other).sum() / (one | other).sum()


def test_several_boxes_of_one_image():
    boxes, _ = read("0,0,0.5,0.5; [0.25 0 0.75 0.25];")
    assert boxes == [(0, 0, 0.75, 0.25), (0, 0.25, 0.5, 0.5)]


def test_polygons_and_run_lengths_and_mask_files_give_the_same_region():
    square = [150, 40, 190, 40, 190, 80, 150, 80]
    expected = np.asarray(draw(TRIANGLE, square)) > 0
    runs = encode_runs(expected)
    for value in (
        [TRIANGLE, square],
        [[TRIANGLE], [square]],  # of two objects
        {"size": [100, 200], "counts": runs},
        {"size": [100, 200], "counts": encode_text(runs)},
        [[TRIANGLE], {"size": [100, 200], "counts": encode_runs(np.asarray(draw(square)) > 0)}],
    ):
        boxes, mask = read(json.dumps(value))
        assert share(mask, expected) > 0.9
        assert len(boxes) <= 64
    for file in (
        draw(TRIANGLE, square),
        draw(TRIANGLE, square).point(lambda value: value // 255),
    ):  # of 0 and 1 as well
        assert share(read("masks/one.png", file)[1], expected) > 0.9


def test_a_mask_of_another_size_is_scaled_and_a_small_region_is_kept():
    large = draw(TRIANGLE).resize((2000, 1000))
    assert share(read("mask.png", large)[1], np.asarray(draw(TRIANGLE)) > 0) > 0.9
    small = Image.new("L", SIZE)
    small.putpixel((50, 50), 255)
    assert read("mask.png", small)[0] == [(0.25, 0.5, 0.255, 0.51)]
    assert read("mask.png", Image.new("L", SIZE))[0] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0,1", "got 3 numbers"),
        ('{"size": [100, 200]}', "do not sum up"),
        ('{"size": [100, 200], "counts": [5, 5]}', "do not sum up to 200 x 100"),
        ('{"size": [100, 200], "counts": [-5, 20005]}', "do not sum up"),
        ('{"size": [100, 200], "counts": "\\u20ac"}', "expected those of COCO"),
        ('{"size": [100000, 100000], "counts": [10000000000]}', "expected at most 1000000 pixels"),
        ('{"size": ["a", 200], "counts": []}', "expected \\[height, width\\]"),
        ("[[1, 2, 3, 4]]", "expected boxes x0,y0,x1,y1"),
        ("[[1, 2, 3, 4, 5, 1e999]]", "expected boxes"),
        ("[" * 5000, "which is no JSON"),
        ("[[[[[[1, 1, 2, 2, 3, 1]]]]]]", "expected boxes"),
        ("{", "which is no JSON"),
    ],
)
def test_an_invalid_region_says_what_is_expected(text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


def test_a_region_that_is_too_complex_is_refused():
    board = Image.fromarray((255 * (np.indices((16, 16)).sum(axis=0) % 2)).astype(np.uint8))
    with pytest.raises(ValueError, match="takes 128 boxes, expected at most 64"):
        read("mask.png", board)


@pytest.mark.parametrize(
    "boxes", [[(0.25, 0.25, 0.5, 0.75)], [(0.0, 0.0, 1.0, 0.5)], [(0.0, 0.0, 0.5, 1.0), (0.6, 0.2, 0.9, 0.3)]]
)
def test_the_complement_of_boxes_is_the_rest_of_the_image(boxes):
    rest = complement_boxes(boxes)
    assert (rasterize_boxes(rest, 40, 40) ^ rasterize_boxes(boxes, 40, 40)).all()
    assert complement_boxes(rest + boxes) == []


@pytest.mark.parametrize("text", ["[]", " [ ] ", "[[]]"])
def test_an_empty_list_is_no_region(text):
    assert read(text)[0] == []


@pytest.mark.parametrize(
    ("polygon", "reason"),
    [
        ([20, 10, 260, 10, 100, 90], "expected one within the image of 200 x 100 pixels"),
        ([-9, 10, 180, 10, 100, 90], "got a polygon from x = -9 to 180"),
        ([20, 10, 100, 10, 180, 10], "a polygon without an area"),
        ([20, 10, 20, 10, 20, 10], "a polygon without an area"),
    ],
)
def test_polygons_outside_of_the_image_or_without_an_area_are_refused(polygon, reason):
    with pytest.raises(ValueError, match=reason):
        read(json.dumps([polygon]))


def test_a_polygon_may_leave_the_image_by_a_rounded_pixel():
    boxes, _ = read(json.dumps([[0, 0, 201, 0, 201, 100.5, -0.5, 100]]))
    assert min(min(box) for box in boxes) >= 0
    assert max(max(box) for box in boxes) <= 1
