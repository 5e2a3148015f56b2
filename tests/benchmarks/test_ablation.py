"""Every row of the ablation except the last computes the maps of the engine; different maps are an error."""

from dataclasses import replace

import pytest
import torch

from benchmarks import ablation
from benchmarks.ablation import SHORTCUTS, measure_variants, print_table


@pytest.fixture(autouse=True)
def _use_few_steps(monkeypatch):
    monkeypatch.setattr(ablation, "PAPER", replace(ablation.PAPER, steps=2, draws=4))


def test_every_shortcut_computes_the_maps_of_the_engine(encoder, capsys):
    rows = print_table(measure_variants(encoder, pairs=2, naive_pairs=1, rounds=1))
    exact = ["literal loop", "weights frozen", "towers once", *SHORTCUTS]
    assert list(rows) == [*exact, "closed-form gates", "antithetic draws"]
    assert all(rows[name]["max_relative_difference"] < 1e-4 for name in exact)
    assert rows["literal loop"]["vs_loop"] == 1.0
    assert capsys.readouterr().out.count("\n") == len(rows) + 1


@pytest.mark.slow
def test_different_maps_raise(encoder):
    def replace_maps():
        for name, rate, maps in measure_variants(encoder, pairs=1, naive_pairs=1, rounds=1):
            yield name, rate, [[torch.ones_like(side) for side in maps[0]]] if name == "text cut" else maps

    with pytest.raises(SystemExit, match="text cut: the maps differ from the engine's"):
        print_table(replace_maps())
