"""The bench compares like with like: the loop gives the engine's maps, and a row is out as soon as it is known."""

from argparse import Namespace
from dataclasses import replace

import pytest
import torch

from benchmarks import engine
from benchmarks.engine import PAPER, difference, measure, naive, pairs_for, printed, telling
from m2ib import attribute

ARGUMENTS = Namespace(device="cpu", pairs=2, naive_pairs=1, batch_size=2, precision="float32", compile=False)
LOOP_KEYS = [
    "loop_pairs_per_second", "paper_vs_loop", "default_vs_loop", "max_abs_difference", "max_relative_difference",
]  # fmt: skip


def test_the_loop_gives_the_engine_s_maps(encoder):
    config = replace(PAPER, steps=2, draws=3)
    pixels, texts, keys = pairs_for(encoder, 2)
    maps = attribute(encoder, pixels, texts, config, keys=keys)
    loop = naive(encoder, pixels, texts, keys, config)
    assert difference(loop, maps, relative=True) < 1e-4
    assert difference(naive(encoder, pixels, texts, keys[::-1], config), maps, relative=True) > 1e-3


def test_the_difference_is_the_largest_of_any_map(encoder):
    pixels, texts, keys = pairs_for(encoder, 2)
    maps = attribute(encoder, pixels, texts, replace(PAPER, steps=1, draws=1), keys=keys)
    rows = [[torch.cat([torch.zeros(1), maps.image_map[i].flatten()]), maps.text_map[i].clone()] for i in range(2)]
    assert difference(rows, maps, relative=False) == 0.0
    rows[1][1][0] += 0.5
    assert difference(rows, maps, relative=False) == pytest.approx(0.5)


@pytest.mark.parametrize("naive_pairs", [0, 1])
def test_a_model_s_rows(encoder, naive_pairs, monkeypatch):
    monkeypatch.setattr(
        engine, "matmul_rate", lambda device, dtype, rows: 1e12
    )  # the machine's takes ten seconds to measure
    monkeypatch.setattr(engine, "PAPER", replace(PAPER, steps=2))
    row = dict(measure(encoder, Namespace(**vars(ARGUMENTS) | {"naive_pairs": naive_pairs})))
    assert [key for key in LOOP_KEYS if key in row] == (LOOP_KEYS if naive_pairs else [])
    assert all(value > 0.0 for value in row.values())


def test_rows_are_printed_as_they_come(capsys):
    def rows():
        yield "first", 1.0
        assert "first" in capsys.readouterr().out
        yield "second", 2.0

    assert printed("model", rows()) == {"first": 1.0, "second": 2.0}


def test_the_loop_tells_its_steps(capsys):
    noise = [torch.zeros(1), torch.ones(1)]
    assert list(telling(noise, "image map", steps=2)) == noise
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "image map: step 2 of 2" in captured.err
