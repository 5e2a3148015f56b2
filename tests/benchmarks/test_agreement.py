import pytest
import torch

from benchmarks.agreement import compare_attributions
from m2ib import Attribution


def make_attribution(image_map, cosine):
    empty = torch.zeros(1)
    return Attribution(
        cosine=torch.tensor([cosine]),
        image_map=torch.tensor([image_map]),
        image_special_nats=empty,
        image_cosine=empty,
        tokens=[["a", "b", "c"]],
        special=[[False] * 3],
        text_map=[torch.tensor([1.0, 2.0, 4.0])],
        text_padding_nats=empty,
        text_cosine=empty,
        image_steps=empty.int(),
        text_steps=empty.int(),
        truncated=[0],
    )


def test_correlation_and_largest_differences_are_computed():
    figures = compare_attributions(
        make_attribution([[1.0, 2.0], [3.0, 4.0]], 0.5), make_attribution([[1.0, 2.0], [4.0, 3.0]], 0.25)
    )
    assert figures["image_lowest"] == figures["image_mean"] == pytest.approx(0.8)
    assert figures["text_lowest"] == pytest.approx(1.0)
    assert figures["largest_relative_difference"] == pytest.approx(0.25)
    assert figures["largest_cosine_difference"] == pytest.approx(0.25)
