"""The sweep measures the figures of each setting."""

import pytest

from m2ib import BottleneckConfig, attribute, preset
from m2ib.analysis.sweep import make_variants, run_sweep


def test_row_has_the_figures_of_its_setting(encoder, pairs):
    settings = make_variants(preset("paper"), depths=[0.0, 0.67], betas=[0.1], draws=[2])
    rows = list(run_sweep(encoder, *pairs, settings))
    assert [(row["image_depth"], row["draws"]) for row in rows[1:]] == [(0.0, 2), (0.67, 2)]
    keys = [str(i) for i in range(len(pairs[1]))]
    direct = attribute(encoder, *pairs, settings[2], keys=keys)
    assert rows[2]["image_nats"] == pytest.approx(float(direct.image_nats.mean()))
    assert rows[2]["text_retained"] == pytest.approx(float(direct.text_cosine.mean() / direct.cosine.mean()))
    assert 0 < rows[1]["image_stability"] < 1
    assert rows[1]["seconds_per_pair"] > 0


def test_odd_number_of_draws_disables_antithetic_pairs():
    _, odd, even = make_variants(BottleneckConfig(), depths=[0.5], betas=[1.0], draws=[1, 4])
    assert (odd.draws, odd.antithetic) == (1, False)
    assert (even.draws, even.antithetic) == (4, True)
