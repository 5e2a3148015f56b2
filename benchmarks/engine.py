"""Naive loop against engine, as ratios within one run; `python -m benchmarks.engine --help`.

(a) the literal loop of benchmarks/naive.py with the paper's settings, (b) the engine with the same settings and noise,
(c) the engine with two antithetic draws at the same layer. Random weights, both maps of each pair.

`matmul_limit_share`: operations of (c), as PyTorch counts them, over what plain matrix products reach in the same run.
`demo_stability_*`: correlation of a map with that of another seed, on the trained demo models. Each row is printed when
it is measured, the last line is JSON. Each model gets a process of its own, so that its peak memory is its own; it is
read before the loop, which needs more.

The loop runs in full, as nothing less gives maps to compare: per pair about a minute for ViT-B-32 and five for ViT-B-16
on two cores, while all the rest takes one or two. It reports its steps on stderr.

On a GPU, in one call: python -m benchmarks.engine --device cuda --precision bfloat16 --compile --pairs 2048
--batch-size 256 --naive-pairs 0 --no-stability
"""

import argparse
import csv
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import demo.models
from benchmarks.naive import one_map
from demo.corpus import generate
from m2ib import Attribution, BottleneckConfig, DualEncoder, attribute, load_encoder, preset
from m2ib.config import REFERENCE_TOKENS, TowerName
from m2ib.noise import KeyedNoise

CAPTION = "a photograph of number {} beside the small red door"  # 12 tokens with SOS and EOS
PAPER = preset("paper")
ANTITHETIC = replace(PAPER, draws=2, antithetic=True)


def random_encoder(architecture: str, device: str = "cpu") -> DualEncoder:
    """An open_clip architecture with random weights: speed does not depend on their values."""
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, pretrained=None, load_weights=False, device=device)
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
        image, ids = encoder.prepare_images(pixels[i : i + 1]), encoder.tokenize(texts[i : i + 1])
        row = []
        for name, tower, blocks, inputs in (
            ("image", encoder.image, encoder.model.visual.transformer.resblocks, image),
            ("text", encoder.text, owner.transformer.resblocks, ids),
        ):
            gate = getattr(config, name)
            layer = gate.resolve_layer(tower.num_blocks)
            _, length, width = tower.run_prefix(inputs, layer).hidden.shape
            source = KeyedNoise(config.seed, [key], name, image.device)
            steps = range(1, config.steps + 1)
            noise = (source.draw(step, config.draws, config.antithetic, length, width)[:, 0] for step in steps)
            told = telling(noise, f"{key}, {name} map", config.steps)
            row.append(one_map(encoder, blocks[layer], image, ids, length, gate.beta, told))
        maps.append(row)
    return maps


def telling(noise: Iterable[Tensor], label: str, steps: int) -> Iterator[Tensor]:
    """The same noise; says on stderr which step takes it, as the loop needs minutes."""
    start = time.perf_counter()
    for step, draws in enumerate(noise, start=1):
        seconds = time.perf_counter() - start
        print(f"literal loop, {label}: step {step} of {steps}, after {seconds:.0f} s", file=sys.stderr, flush=True)
        yield draws


def timed(
    work: Callable[[], Any], device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> tuple[float, Any]:
    """Seconds and result; waits for an asynchronous device."""
    start = clock()
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return clock() - start, result


def difference(loop: list[Any], engine: Attribution, relative: bool) -> float:
    """Largest difference of the maps in nats, or relative to each map's largest value."""
    worst = 0.0
    for i, (image, text) in enumerate(loop):
        for mine, theirs in ((engine.image_map[i].flatten(), image[1:].cpu()), (engine.text_map[i], text.cpu())):
            scale = float(theirs.abs().max()) if relative else 1.0
            worst = max(worst, float((mine - theirs).abs().max()) / scale)
    return worst


def counted(work: Callable[[], Any]) -> int:
    """Operations of some work, as PyTorch counts them."""
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into it
    try:
        with FlopCounterMode(display=False) as counter:
            work()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


def matmul_rate(device: str, dtype: torch.dtype, rows: int) -> float:
    """Operations per second of plain matrix products of a suffix's shapes, the best of several repetitions."""
    a, b = (torch.randn(*shape, device=device, dtype=dtype) for shape in ((rows, 768), (768, 3072)))
    best = 0.0
    for _ in range(10):
        seconds, _ = timed(lambda: [a @ b for _ in range(10)], device)
        best = max(best, 10 * 2 * rows * 768 * 3072 / seconds)
    return best


def demo_stability() -> dict[str, float]:
    """Correlation between two seeds on the trained demo models: ten plain draws against two antithetic ones."""
    rows = {}
    for label, config in (("paper", PAPER), ("default", ANTITHETIC)):
        found = []
        for name in demo.models.NAMES:
            encoder = load_encoder(f"local-dir:{demo.models.find_folder(name)}")
            with tempfile.TemporaryDirectory() as folder:
                corpus = generate(Path(folder), pairs=32, seed=11)
                rows_read = list(csv.DictReader((corpus / "metadata.csv").open(encoding="utf-8")))
                pixels = encoder.prepare_images([Image.open(corpus / row["file_name"]) for row in rows_read])
            texts = [row["text"] for row in rows_read]
            first, second = (attribute(encoder, pixels, texts, replace(config, seed=seed)) for seed in (0, 1))
            found += [float(side.nanmean()) for side in first.stability(second)]
        rows[f"demo_stability_{label}"] = sum(found) / len(found)
    return rows


def measure(encoder: DualEncoder, arguments: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """One model's rows, each as soon as it is known."""
    device, count = arguments.device, arguments.pairs
    pixels, texts, keys = pairs_for(encoder, count)
    few = slice(0, min(arguments.naive_pairs, count))
    encoder.model.eval()

    def engine(config: BottleneckConfig) -> Attribution:
        config = replace(config, precision=arguments.precision)
        return attribute(encoder, pixels, texts, config, keys=keys, batch_size=arguments.batch_size)

    attribute(encoder, pixels[:2], texts[:2], ANTITHETIC, keys=keys[:2], batch_size=2)  # warm up
    operations = counted(lambda: engine(ANTITHETIC))
    yield "default_gflop_per_pair", operations / count / 1e9
    if arguments.compile:  # after counting: the counter does not see into compiled code
        encoder.compile()
        for config in (PAPER, ANTITHETIC):
            engine(replace(config, steps=1))  # the compiler's time is not the engine's
    paper_seconds, paper = timed(lambda: engine(PAPER), device)
    yield "paper_pairs_per_second", count / paper_seconds
    default_seconds, _ = timed(lambda: engine(ANTITHETIC), device)
    yield "default_pairs_per_second", count / default_seconds
    rows = arguments.batch_size * ANTITHETIC.draws * REFERENCE_TOKENS
    limit = matmul_rate(device, getattr(torch, arguments.precision), rows)
    yield "default_tflop_per_second", operations / default_seconds / 1e12
    yield "matmul_limit_share", operations / default_seconds / limit
    yield "peak_memory_gib", peak_memory(device) / 2**30
    if arguments.naive_pairs:
        loop_seconds, loop = timed(lambda: naive(encoder, pixels[few], texts[few], keys[few], PAPER), device)
        loop_rate = len(loop) / loop_seconds
        yield "loop_pairs_per_second", loop_rate
        yield "paper_vs_loop", count / paper_seconds / loop_rate
        yield "default_vs_loop", count / default_seconds / loop_rate
        yield "max_abs_difference", difference(loop, paper, relative=False)
        yield "max_relative_difference", difference(loop, paper, relative=True)


def printed(title: str, rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The rows, each printed as it comes."""
    print(title, flush=True)
    found = {}
    for key, value in rows:
        print(f"{key:>26} {value:12.4g}", flush=True)
        found[key] = value
    return found


def measure_one(architecture: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One model's part of the table."""
    return printed(architecture, measure(random_encoder(architecture, arguments.device), arguments))


def peak_memory(device: str) -> int:
    """Bytes: the device's allocations, or the process's resident set."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure, print tables as they grow, and last one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "ViT-B-16"], help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=16, help="pairs for the engine (default: %(default)s)")
    parser.add_argument("--naive-pairs", type=int, default=1, help="pairs for the slow loop, 0: leave it out")
    parser.add_argument("--batch-size", type=int, default=16, help="pairs at a time (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the suffix")
    parser.add_argument("--no-stability", action="store_true", help="leave the demo models out")
    parser.add_argument("--compile", action="store_true", help="the suffixes and the noise, by torch.compile")
    arguments = parser.parse_args()
    stability = {} if arguments.no_stability else printed("demo models", demo_stability().items())
    results = {}
    for name in arguments.models:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own_process:
            results[name] = own_process.submit(measure_one, name, arguments).result() | stability
    print(json.dumps(results))


if __name__ == "__main__":
    main()
