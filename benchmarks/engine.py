"""Naive loop against engine, as ratios within one run; `python -m benchmarks.engine --help`.

(a) the literal loop of benchmarks/naive.py with the paper's settings, (b) the engine with the same settings and
noise, (c) the engine with two antithetic draws at the same layer. Random weights, both maps of each pair. The last line
is one JSON object.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import open_clip
import torch
from torch import Tensor

from benchmarks.naive import one_map
from m2ib import Attribution, BottleneckConfig, DualEncoder, attribute, preset
from m2ib.noise import KeyedNoise
from m2ib.types import TowerName

CAPTION = "a photograph of number {} beside the small red door"  # 12 tokens with SOS and EOS
PAPER = preset("paper")
ANTITHETIC = replace(PAPER, draws=2, antithetic=True)


def random_encoder(architecture: str) -> DualEncoder:
    """An open_clip architecture with random weights: speed does not depend on their values."""
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, pretrained=None, load_weights=False)
    return DualEncoder(model, open_clip.get_tokenizer(architecture), name=architecture)


def pairs_for(encoder: DualEncoder, count: int) -> tuple[Tensor, list[str], list[str]]:
    """Random images, captions and keys."""
    pixels = torch.randn(count, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1))
    return pixels, [CAPTION.format(i) for i in range(count)], [f"pair-{i}" for i in range(count)]


def naive(
    encoder: DualEncoder, pixels: Tensor, texts: list[str], keys: list[str], config: BottleneckConfig
) -> list[Any]:
    """Both maps of each pair by the literal loop, with the engine's noise."""
    maps = []
    name: TowerName
    owner = getattr(encoder.model, "text", encoder.model)
    for i, key in enumerate(keys):
        image, ids = pixels[i : i + 1], encoder.token_ids(texts[i : i + 1])
        row = []
        for name, tower, blocks, inputs in (
            ("image", encoder.image, encoder.model.visual.transformer.resblocks, image),
            ("text", encoder.text, owner.transformer.resblocks, ids),
        ):
            gate = getattr(config, name)
            layer = gate.resolve_layer(tower.blocks)
            _, length, width = tower.prefix(inputs, layer).hidden.shape
            source = KeyedNoise(config.seed, [key], name, [length])
            noise = [
                source.draw(config.draws, config.antithetic, length, width)[:, 0] for _ in range(config.steps)
            ]
            row.append(one_map(encoder, blocks[layer], image, ids, length, gate.beta, noise))
        maps.append(row)
    return maps


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def difference(loop: list[Any], engine: Attribution, relative: bool) -> float:
    """Largest difference of the maps in nats, or relative to each map's largest value."""
    worst = 0.0
    for i, (image, text) in enumerate(loop):
        for mine, theirs in ((engine.image_map[i].flatten(), image[1:]), (engine.text_map[i], text)):
            scale = float(theirs.abs().max()) if relative else 1.0
            worst = max(worst, float((mine - theirs).abs().max()) / scale)
    return worst


def measure(architecture: str, count: int, naive_count: int, batch_size: int) -> dict[str, float]:
    """One row of the table."""
    encoder = random_encoder(architecture)
    pixels, texts, keys = pairs_for(encoder, count)
    few = slice(0, naive_count)
    encoder.model.eval()
    attribute(encoder, pixels[few], texts[few], ANTITHETIC, keys=keys[few])  # warm up

    def engine(config: BottleneckConfig) -> Attribution:
        return attribute(encoder, pixels, texts, config, keys=keys, batch_size=batch_size)

    loop_seconds, loop = timed(lambda: naive(encoder, pixels[few], texts[few], keys[few], PAPER))
    paper_seconds, paper = timed(lambda: engine(PAPER))
    default_seconds, _ = timed(lambda: engine(ANTITHETIC))
    loop_rate, paper_rate, default_rate = naive_count / loop_seconds, count / paper_seconds, count / default_seconds
    return {
        "loop_pairs_per_second": loop_rate,
        "paper_pairs_per_second": paper_rate,
        "default_pairs_per_second": default_rate,
        "paper_vs_loop": paper_rate / loop_rate,
        "default_vs_loop": default_rate / loop_rate,
        "max_abs_difference": difference(loop, paper, relative=False),
        "max_relative_difference": difference(loop, paper, relative=True),
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    """Measure, print a table, and last one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["ViT-B-32"], help="open_clip architectures (default: %(default)s)"
    )
    parser.add_argument("--pairs", type=int, default=16, help="pairs for the engine (default: %(default)s)")
    parser.add_argument("--naive-pairs", type=int, default=1, help="pairs for the slow loop (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="pairs at a time (default: %(default)s)")
    arguments = parser.parse_args()
    results = {
        name: measure(name, arguments.pairs, min(arguments.naive_pairs, arguments.pairs), arguments.batch_size)
        for name in arguments.models
    }
    print(f"{'':>26}" + "".join(f"{name:>14}" for name in results))
    for key in next(iter(results.values())):
        print(f"{key:>26}" + "".join(f"{row[key]:14.4g}" for row in results.values()))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
