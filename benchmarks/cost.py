"""What attribution costs as pairs, prompts per image and captions grow; `python -m benchmarks.cost --help`.

Random weights, both maps of each pair, with the audit's settings (calibrated on random pairs) and the paper's. Cost is
per pair: seconds, the best of several rounds over the points of an axis, and the operations that PyTorch counts; each
also relative to the smallest point of the same run. Writes the plot of docs/speed.md and prints a table; the last line
is JSON. Takes about five minutes on two cores.
"""

import argparse
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

from benchmarks.engine import counted, random_encoder, timed
from m2ib import BottleneckConfig, DualEncoder, FeatureStatistics, attribute, calibrate, preset

# A token each in open_clip's own vocabulary; the first one makes captions differ.
WORDS = ("red", "blue", "green", "black", "white", "old", "young", "small")
TOKENS = 12
PAIRS_AT = {"prompts of one image": 4, "tokens of a caption": 2}

Workload = tuple[int, Tensor, list[str]]
Point = dict[str, float]


def captions(count: int, tokens: int) -> list[str]:
    """Different captions of so many tokens, SOS and EOS included."""
    if not (tokens >= 3 and count <= len(WORDS)):
        raise ValueError(f"got {count} captions of {tokens} tokens, expected up to {len(WORDS)} of at least 3")
    return [" ".join([word, *["door"] * (tokens - 3)]) for word in WORDS[:count]]


def workloads(image_size: tuple[int, int]) -> dict[str, list[Workload]]:
    """Per axis of the plot: what the point is called, images and captions."""
    images = torch.randn(len(WORDS), 3, *image_size, generator=torch.Generator().manual_seed(1))
    prompted, worded = PAIRS_AT["prompts of one image"], PAIRS_AT["tokens of a caption"]
    return {
        "pairs in a batch": [(pairs, images[:pairs], captions(pairs, TOKENS)) for pairs in (1, 2, 4, 8)],
        "prompts of one image": [
            (prompts, images[: prompted // prompts].repeat_interleave(prompts, dim=0), captions(prompted, TOKENS))
            for prompts in (1, 2, 4)
        ],
        "tokens of a caption": [(tokens, images[:worded], captions(worded, tokens)) for tokens in (5, 20, 40, 77)],
    }


def one_batch(
    encoder: DualEncoder,
    pixels: Tensor,
    texts: list[str],
    config: BottleneckConfig,
    statistics: FeatureStatistics | None,
) -> None:
    """Attribute all pairs at once; what is shared is shared inside a batch."""
    attribute(encoder, pixels, texts, config, statistics, batch_size=len(texts))


def operations(
    encoder: DualEncoder,
    pixels: Tensor,
    texts: list[str],
    config: BottleneckConfig,
    statistics: FeatureStatistics | None,
) -> float:
    """Operations of one call of `attribute`. Counted for one step and for two, as all steps are alike."""
    counts = [
        counted(partial(one_batch, encoder, pixels, texts, replace(config, steps=steps), statistics))
        for steps in (1, 2)
    ]
    return counts[0] + (config.steps - 1) * (counts[1] - counts[0])


def points(
    encoder: DualEncoder,
    loads: Sequence[Workload],
    config: BottleneckConfig,
    statistics: FeatureStatistics | None,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Point]:
    """Cost of each workload, and relative to the first."""
    best = [math.inf] * len(loads)
    for _ in range(rounds):
        for i, (_, pixels, texts) in enumerate(loads):
            seconds, _ = timed(partial(one_batch, encoder, pixels, texts, config, statistics), clock=clock)
            best[i] = min(best[i], seconds / len(texts))
    gflop = [operations(encoder, *load[1:], config, statistics) / len(load[2]) / 1e9 for load in loads]
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


def measure(
    encoder: DualEncoder, loads: dict[str, list[Workload]], rounds: int, clock: Callable[[], float]
) -> dict[str, dict[str, list[Point]]]:
    """All points of both presets, an axis printed as soon as it is measured."""
    found: dict[str, dict[str, list[Point]]] = {}
    _, pixels, texts = loads["pairs in a batch"][-1]
    print(f"{'':>8}{'':>22}{'':>4}{'s a pair':>10}{'x':>7}{'GFLOP':>8}{'x':>7}", flush=True)
    for name in ("audit", "paper"):
        config = preset(name)
        statistics = calibrate(encoder, pixels, texts, config) if config.needs_statistics() else None
        one_batch(encoder, pixels[:1], texts[:1], config, statistics)  # warm up
        found[name] = {}
        for axis, some in loads.items():
            found[name][axis] = points(encoder, some, config, statistics, rounds, clock)
            for row in found[name][axis]:
                print(
                    f"{name:>8}{axis:>22}{row['at']:>4}{row['seconds_per_pair']:10.2f}{row['relative_seconds']:7.2f}"
                    f"{row['gflop_per_pair']:8.0f}{row['relative_gflop']:7.2f}",
                    flush=True,
                )
    return found


def plot(found: dict[str, dict[str, list[Point]]], path: Path, model: str) -> None:
    """A panel an axis: cost per pair relative to its first point, seconds as dots and operations as a line."""
    # The salt keeps the ids inside an SVG alike from run to run.
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "cost"}):
        figure = Figure(figsize=(8.4, 2.7), layout="constrained", facecolor="white")
        panels = figure.subplots(1, 3, sharey=True)
        for panel, axis in zip(panels, next(iter(found.values())), strict=True):
            for (name, axes), colour in zip(found.items(), ("#1b6ca8", "#c8553d"), strict=True):
                at = [row["at"] for row in axes[axis]]
                panel.plot(at, [row["relative_gflop"] for row in axes[axis]], color=colour, label=f"{name}: operations")
                seconds = [row["relative_seconds"] for row in axes[axis]]
                panel.plot(at, seconds, "o", color=colour, markersize=4, label=f"{name}: seconds")
            if axis != "tokens of a caption":
                panel.set_xscale("log", base=2)
                panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xticks(at, [f"{value:g}" for value in at])
            panel.set_xlabel(axis)
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel("cost of a pair,\n× the leftmost point")
        panels[0].legend(frameon=False, loc="lower left", fontsize=8)
        panels[0].set_title(model, loc="left", fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Measure, print the table as it grows, write the plot, and last one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32", help="one with open_clip's own tokenizer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of which the best counts (default: %(default)s)")
    parser.add_argument(
        "--processor-time", action="store_true", help="for a machine that others use too; with OMP_NUM_THREADS=1"
    )
    parser.add_argument("--plot", type=Path, default=Path("docs/images/cost.svg"), help="default: %(default)s")
    arguments = parser.parse_args()
    encoder = random_encoder(arguments.model)
    clock = time.process_time if arguments.processor_time else time.perf_counter
    found = measure(encoder, workloads(encoder.image_size), arguments.rounds, clock)
    plot(found, arguments.plot, arguments.model)
    print(json.dumps({arguments.model: found}))


if __name__ == "__main__":
    main()
