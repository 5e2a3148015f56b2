"""Every line of the ablation but the last gives the engine's maps; one that does not ends the run."""

from dataclasses import replace

import pytest
import torch

from benchmarks import ablation
from benchmarks.ablation import SHORTCUTS, measure, table


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(ablation, "PAPER", replace(ablation.PAPER, steps=2, draws=4))


def test_every_shortcut_gives_the_engine_s_maps(encoder, capsys):
    rows = table(measure(encoder, pairs=2, naive_pairs=1, rounds=1))
    exact = ["literal loop", "weights frozen", "towers once", *SHORTCUTS]
    assert list(rows) == [*exact, "closed-form gates", "antithetic draws"]
    assert all(rows[name]["max_relative_difference"] < 1e-4 for name in exact)
    assert rows["literal loop"]["vs_loop"] == 1.0
    assert capsys.readouterr().out.count("\n") == len(rows) + 1


def test_other_maps_end_the_run(encoder):
    def measured():
        for name, rate, maps in measure(encoder, pairs=1, naive_pairs=1, rounds=1):
            yield name, rate, [[torch.ones_like(side) for side in maps[0]]] if name == "text cut" else maps

    with pytest.raises(SystemExit, match="text cut"):
        table(measured())
