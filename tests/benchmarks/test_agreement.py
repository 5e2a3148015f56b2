import pytest
import torch

from benchmarks.agreement import agreement
from m2ib import Attribution


def attribution(image_map, cosine):
    nothing = torch.zeros(1)
    return Attribution(
        cosine=torch.tensor([cosine]),
        image_map=torch.tensor([image_map]),
        image_special_nats=nothing,
        image_cosine=nothing,
        tokens=[["a", "b", "c"]],
        special=[[False] * 3],
        text_map=[torch.tensor([1.0, 2.0, 4.0])],
        text_padding_nats=nothing,
        text_cosine=nothing,
        image_steps=nothing.int(),
        text_steps=nothing.int(),
    )


def test_it_says_how_far_two_devices_are_apart():
    found = agreement(attribution([[1.0, 2.0], [3.0, 4.0]], 0.5), attribution([[1.0, 2.0], [4.0, 3.0]], 0.25))
    assert found["image_lowest"] == found["image_mean"] == pytest.approx(0.8)
    assert found["text_lowest"] == pytest.approx(1.0)
    assert found["largest_relative_difference"] == pytest.approx(0.25)
    assert found["largest_cosine_difference"] == pytest.approx(0.25)
