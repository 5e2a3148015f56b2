"""Concepts of a demo's run against what was drawn."""

import pytest

from benchmarks.demo_concepts import compare

TRUTH = {
    "a": {"tag": True, "tag_box": [0, 0, 0.5, 0.1], "finding_box": [0.5, 0.5, 1, 1]},
    "b": {"tag": True, "tag_box": [0, 0, 0.5, 0.1], "finding_box": None},
    "c": {"tag": False, "tag_box": None, "finding_box": [0.5, 0.5, 1, 1]},
    "d": {"tag": False, "tag_box": None, "finding_box": None},
}


def test_regions_are_compared_with_tags_and_findings():
    regions = {"a": [[0, 0, 0.25, 0.1], [0, 0.1, 0.25, 0.2]], "c": [[0.5, 0.5, 0.75, 0.7]]}
    assert compare(regions, TRUTH) == pytest.approx(
        {"pairs": 2, "on_tag": 0.25, "on_finding": 0.5, "carriers": 0.5, "covered": 0.5, "without": 0.5}
    )
