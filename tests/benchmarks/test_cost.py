"""Workloads match their axes, operations are counted exactly, and plots are reproducible."""

from dataclasses import replace

import pytest
import torch

from benchmarks.cost import count_attribution, make_captions, make_workloads, measure_points, plot_costs
from benchmarks.engine import count_operations
from m2ib import attribute, preset

PAPER = preset("paper")


@pytest.mark.parametrize("tokens", [3, 12, 20])
def test_captions_have_the_requested_number_of_tokens(encoder, tokens):
    texts = make_captions(8, tokens)
    assert len(set(texts)) == 8
    assert ((encoder.tokenize(texts) != 0).sum(dim=1) == tokens).all()


@pytest.mark.parametrize(("count", "tokens"), [(9, 12), (1, 2)])
def test_impossible_captions_raise(count, tokens):
    with pytest.raises(ValueError, match="expected up to 8"):
        make_captions(count, tokens)


def test_prompts_of_one_image_share_it():
    for prompts, pixels, texts in make_workloads((4, 4))["prompts of one image"]:
        assert len(pixels) == len(set(texts)) == 4
        assert len(torch.unique(pixels, dim=0)) == 4 // prompts


def test_operations_of_all_steps_are_counted(encoder):
    config = replace(PAPER, steps=4, draws=2)
    _, pixels, texts = make_workloads(encoder.image_size)["pairs in a batch"][1]
    operations = count_operations(lambda: attribute(encoder, pixels, texts, config, batch_size=2))
    assert count_attribution(encoder, pixels, texts, config, None) == operations


def test_shared_images_cost_fewer_operations(encoder):
    loads = [make_workloads(encoder.image_size)["prompts of one image"][at] for at in (0, 2)]
    rows = measure_points(encoder, loads, replace(PAPER, steps=1, draws=1), None, rounds=1)
    assert rows[0]["relative_gflop"] == rows[0]["relative_seconds"] == 1.0
    assert rows[1]["relative_gflop"] < 1.0


def test_the_same_costs_give_the_same_plot(tmp_path):
    row = {"at": 1, "relative_seconds": 1.0, "relative_gflop": 1.0}
    axes = {axis: [row, row | {"at": 8, "relative_gflop": 2.0}] for axis in make_workloads((4, 4))}
    for name in ("one.svg", "two.svg"):
        plot_costs({"audit": axes, "paper": axes}, tmp_path / "new folder" / name, "a model")
    one, two = ((tmp_path / "new folder" / name).read_text() for name in ("one.svg", "two.svg"))
    assert one.startswith("<?xml")
    assert one == two
