"""The workloads are what their axes say, operations are counted exactly, and a plot comes out."""

from dataclasses import replace

import pytest
import torch

from benchmarks.cost import captions, operations, plot, points, workloads
from benchmarks.engine import counted
from m2ib import attribute, preset

PAPER = preset("paper")


@pytest.mark.parametrize("tokens", [3, 12, 20])
def test_captions_have_so_many_tokens(encoder, tokens):
    texts = captions(8, tokens)
    assert len(set(texts)) == 8
    assert ((encoder.tokenize(texts) != 0).sum(dim=1) == tokens).all()


@pytest.mark.parametrize(("count", "tokens"), [(9, 12), (1, 2)])
def test_captions_that_cannot_be_made_are_refused(count, tokens):
    with pytest.raises(ValueError, match="expected up to 8"):
        captions(count, tokens)


def test_prompts_of_one_image_share_it():
    for prompts, pixels, texts in workloads((4, 4))["prompts of one image"]:
        assert len(pixels) == len(set(texts)) == 4
        assert len(torch.unique(pixels, dim=0)) == 4 // prompts


def test_counted_operations_are_those_of_all_steps(encoder):
    config = replace(PAPER, steps=4, draws=2)
    _, pixels, texts = workloads(encoder.image_size)["pairs in a batch"][1]
    whole = counted(lambda: attribute(encoder, pixels, texts, config, batch_size=2))
    assert operations(encoder, pixels, texts, config, None) == whole


def test_shared_images_cost_fewer_operations(encoder):
    loads = [workloads(encoder.image_size)["prompts of one image"][at] for at in (0, 2)]
    rows = points(encoder, loads, replace(PAPER, steps=1, draws=1), None, rounds=1)
    assert rows[0]["relative_gflop"] == rows[0]["relative_seconds"] == 1.0
    assert rows[1]["relative_gflop"] < 1.0


def test_the_plot_is_the_same_for_the_same_numbers(tmp_path):
    row = {"at": 1, "relative_seconds": 1.0, "relative_gflop": 1.0}
    axes = {axis: [row, row | {"at": 8, "relative_gflop": 2.0}] for axis in workloads((4, 4))}
    for name in ("one.svg", "two.svg"):
        plot({"audit": axes, "paper": axes}, tmp_path / "new folder" / name, "a model")
    one, two = ((tmp_path / "new folder" / name).read_text() for name in ("one.svg", "two.svg"))
    assert one.startswith("<?xml")
    assert one == two
