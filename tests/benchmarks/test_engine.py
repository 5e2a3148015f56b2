"""The loop computes the engine's maps, and each row is printed as soon as it is measured."""

from argparse import Namespace
from dataclasses import replace

import pytest
import torch

from benchmarks import engine
from benchmarks.engine import (
    PAPER,
    compute_difference,
    compute_naive_maps,
    generate_inputs,
    log_steps,
    measure_encoder,
    print_rows,
)  # fmt: skip
from m2ib import attribute

ARGUMENTS = Namespace(device="cpu", pairs=2, naive_pairs=1, batch_size=2, precision="float32", compile=False)
LOOP_KEYS = [
    "loop_pairs_per_second", "paper_vs_loop", "default_vs_loop", "max_abs_difference", "max_relative_difference",
]  # fmt: skip


def test_the_loop_computes_the_maps_of_the_engine(encoder):
    config = replace(PAPER, steps=2, draws=3)
    pixels, texts, keys = generate_inputs(encoder, 2)
    maps = attribute(encoder, pixels, texts, config, keys=keys)
    loop = compute_naive_maps(encoder, pixels, texts, keys, config)
    assert compute_difference(loop, maps, relative=True) < 1e-4
    assert (
        compute_difference(compute_naive_maps(encoder, pixels, texts, keys[::-1], config), maps, relative=True) > 1e-3
    )


def test_the_difference_is_the_largest_of_any_map(encoder):
    pixels, texts, keys = generate_inputs(encoder, 2)
    maps = attribute(encoder, pixels, texts, replace(PAPER, steps=1, draws=1), keys=keys)
    rows = [[torch.cat([torch.zeros(1), maps.image_map[i].flatten()]), maps.text_map[i].clone()] for i in range(2)]
    assert compute_difference(rows, maps, relative=False) == 0.0
    rows[1][1][0] += 0.5
    assert compute_difference(rows, maps, relative=False) == pytest.approx(0.5)


@pytest.mark.parametrize("naive_pairs", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_rows_of_a_model_have_all_devices(encoder, naive_pairs, monkeypatch):
    monkeypatch.setattr(
        engine, "measure_matmul_rate", lambda device, dtype, rows: 1e12
    )  # measuring it takes ten seconds
    monkeypatch.setattr(engine, "PAPER", replace(PAPER, steps=2))
    row = dict(measure_encoder(encoder, Namespace(**vars(ARGUMENTS) | {"naive_pairs": naive_pairs})))
    assert [key for key in LOOP_KEYS if key in row] == (LOOP_KEYS if naive_pairs else [])
    assert all(value > 0.0 for value in row.values())


def test_rows_are_printed_as_soon_as_they_are_measured(capsys):
    def rows():
        yield "first", 1.0
        assert "first" in capsys.readouterr().out
        yield "second", 2.0

    assert print_rows("model", rows()) == {"first": 1.0, "second": 2.0}


def test_the_loop_logs_its_steps(capsys):
    noise = [torch.zeros(1), torch.ones(1)]
    assert list(log_steps(noise, "image map", steps=2)) == noise
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "image map: step 2 of 2" in captured.err
