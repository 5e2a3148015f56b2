"""Measure how attribution's cost grows with pairs, prompts per image and caption length: `python -m benchmarks.cost`.

Weights are random. Both maps of each pair are computed, with the audit's settings (calibrated on random pairs) and with
the paper's. Cost is per pair: seconds (the best of several rounds over the points of an axis) and operations as PyTorch
counts them, each also relative to the first point of the axis. The command writes a plot and prints a table; the last
line is JSON. It takes about five minutes on two cores.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from benchmarks.commands import add_processor_time, create_parser
from benchmarks.engine import count_operations, create_random_encoder, measure_time
from m2ib import BottleneckConfig, DualEncoder, FeatureStatistics, attribute, calibrate, preset

# Each is one token of open_clip's vocabulary; as the first word it makes captions differ.
WORDS = ("red", "blue", "green", "black", "white", "old", "young", "small")
TOKENS = 12

Workload = tuple[int, Tensor, list[str]]
Point = dict[str, float]


def make_captions(count: int, tokens: int) -> list[str]:
    """Return different captions with this number of tokens, including SOS and EOS."""
    if not (tokens >= 3 and count <= len(WORDS)):
        raise ValueError(f"got {count} captions of {tokens} tokens, expected up to {len(WORDS)} of at least 3")
    return [" ".join([word, *["door"] * (tokens - 3)]) for word in WORDS[:count]]


def make_workloads(image_size: tuple[int, int]) -> dict[str, list[Workload]]:
    """Return the value, the images and the captions of each point, by axis of the plot."""
    images = torch.randn(len(WORDS), 3, *image_size, generator=torch.Generator().manual_seed(1))
    return {
        "pairs in a batch": [(pairs, images[:pairs], make_captions(pairs, TOKENS)) for pairs in (1, 2, 4, 8)],
        "prompts of one image": [
            (prompts, images[: 4 // prompts].repeat_interleave(prompts, dim=0), make_captions(4, TOKENS))
            for prompts in (1, 2, 4)
        ],
        "tokens of a caption": [(tokens, images[:2], make_captions(2, tokens)) for tokens in (5, 20, 40, 77)],
    }


def count_attribution(
    encoder: DualEncoder,
    pixels: Tensor,
    texts: list[str],
    config: BottleneckConfig,
    statistics: FeatureStatistics | None,
) -> float:
    """Return the operations of attributing the pairs in one batch.

    All steps cost the same, so operations are counted for one step and for two.
    """
    counts = [
        count_operations(
            partial(attribute, encoder, pixels, texts, replace(config, steps=steps), statistics, batch_size=len(texts))
        )
        for steps in (1, 2)
    ]
    return counts[0] + (config.steps - 1) * (counts[1] - counts[0])


def measure_points(
    encoder: DualEncoder,
    loads: Sequence[Workload],
    config: BottleneckConfig,
    statistics: FeatureStatistics | None,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Point]:
    """Return the cost of each workload, also relative to the first."""
    best = [math.inf] * len(loads)
    for _ in range(rounds):
        for i, (_, pixels, texts) in enumerate(loads):
            work = partial(attribute, encoder, pixels, texts, config, statistics, batch_size=len(texts))
            best[i] = min(best[i], measure_time(work, clock=clock)[0] / len(texts))
    gflop = [count_attribution(encoder, *load[1:], config, statistics) / len(load[2]) / 1e9 for load in loads]
    return [
        {
            "at": load[0],
            "seconds_per_pair": best[i],
            "relative_seconds": best[i] / best[0],
            "gflop_per_pair": gflop[i],
            "relative_gflop": gflop[i] / gflop[0],
        }
        for i, load in enumerate(loads)
    ]


def measure_presets(
    encoder: DualEncoder, loads: dict[str, list[Workload]], rounds: int, clock: Callable[[], float]
) -> dict[str, dict[str, list[Point]]]:
    """Return all points of both presets; print each axis as soon as it is measured."""
    costs: dict[str, dict[str, list[Point]]] = {}
    _, pixels, texts = loads["pairs in a batch"][-1]
    print(f"{'':>8}{'':>22}{'':>4}{'s/pair':>10}{'x':>7}{'GFLOP':>8}{'x':>7}", flush=True)
    for name in ("audit", "paper"):
        config = preset(name)
        statistics = calibrate(encoder, pixels, texts, config) if config.needs_statistics() else None
        attribute(encoder, pixels[:1], texts[:1], config, statistics)  # warm up
        costs[name] = {}
        for axis, axis_loads in loads.items():
            costs[name][axis] = measure_points(encoder, axis_loads, config, statistics, rounds, clock)
            for row in costs[name][axis]:
                print(
                    f"{name:>8}{axis:>22}{row['at']:>4}{row['seconds_per_pair']:10.2f}{row['relative_seconds']:7.2f}"
                    f"{row['gflop_per_pair']:8.0f}{row['relative_gflop']:7.2f}",
                    flush=True,
                )
    return costs


def plot_costs(costs: dict[str, dict[str, list[Point]]], path: Path, model: str) -> None:
    """Plot the relative cost per pair, one panel per axis: seconds as dots, operations as a line."""
    # The salt makes the ids inside an SVG reproducible.
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "cost"}):
        figure = Figure(figsize=(8.4, 2.7), layout="constrained", facecolor="white")
        panels = figure.subplots(1, 3, sharey=True)
        for panel, axis in zip(panels, next(iter(costs.values())), strict=True):
            for (name, axes), color in zip(costs.items(), ("#1b6ca8", "#c8553d"), strict=True):
                at = [row["at"] for row in axes[axis]]
                panel.plot(at, [row["relative_gflop"] for row in axes[axis]], color=color, label=f"{name}: operations")
                seconds = [row["relative_seconds"] for row in axes[axis]]
                panel.plot(at, seconds, "o", color=color, markersize=4, label=f"{name}: seconds")
            if axis != "tokens of a caption":
                panel.set_xscale("log", base=2)
                panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xticks(at, [f"{value:g}" for value in at])
            panel.set_xlabel(axis)
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel("cost per pair,\nrelative to the first point")
        panels[0].legend(frameon=False, loc="lower left", fontsize=8)
        panels[0].set_title(model, loc="left", fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Measure all points, print the table, write the plot and print a last line of JSON."""
    parser = create_parser("cost", __doc__)
    parser.add_argument(
        "--model", default="ViT-B-32", help="open_clip architecture with CLIP's tokenizer (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="rounds, of which the best counts (default: %(default)s)")
    add_processor_time(parser)
    parser.add_argument("--plot", type=Path, default=Path("docs/images/cost.svg"), help="default: %(default)s")
    options = parser.parse_args()
    encoder = create_random_encoder(options.model)
    costs = measure_presets(encoder, make_workloads(encoder.image_size), options.rounds, options.clock)
    plot_costs(costs, options.plot, options.model)
    print(json.dumps({options.model: costs}))


if __name__ == "__main__":
    main()
