"""Boxes that overlap become boxes that do not."""

import pytest

from tasks.regions.boxes import merge_boxes


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], []),
        ([(0.1, 0.2, 0.3, 0.4)], [(0.1, 0.2, 0.3, 0.4)]),
        ([(0, 0, 0.5, 1), (0, 0, 0.5, 1)], [(0, 0, 0.5, 1)]),
        ([(0.1, 0.1, 0.9, 0.9), (0.2, 0.2, 0.3, 0.3)], [(0.1, 0.1, 0.9, 0.9)]),
        ([(0, 0, 0.5, 1), (0.5, 0, 1, 1)], [(0, 0, 1, 1)]),
        ([(0, 0, 0.2, 0.2), (0.7, 0.7, 0.9, 1)], [(0, 0, 0.2, 0.2), (0.7, 0.7, 0.9, 1)]),
        # A cross: a bar, and what sticks out of it above and below.
        ([(0.4, 0, 0.6, 1), (0, 0.4, 1, 0.6)], [(0.4, 0, 0.6, 0.4), (0, 0.4, 1, 0.6), (0.4, 0.6, 0.6, 1)]),
    ],
)
def test_merged_boxes_cover_each_point_once(boxes, expected):
    assert merge_boxes(boxes) == expected
