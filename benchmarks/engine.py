"""Compare the speed of the engine with that of a literal loop, within one run.

Measured are (a) the loop of benchmarks/naive.py with the paper's settings, (b) the engine with the same settings and
the same noise, (c) the engine with two antithetic draws at the same layer. Weights are random; both maps of each pair
are computed.

`matmul_limit_share` is the rate of operations of (c), as PyTorch counts them, relative to that of plain matrix
products in the same run. Each row is printed when it is measured; the last line is JSON. Each model runs in its own
process, so that its peak memory can be read; it is read before the loop, which needs more. How stable maps are is
measured by benchmarks/stability.py.

The loop runs all steps, because its maps are compared with the engine's. On two cores it takes about a minute per pair
for ViT-B-32 and five for ViT-B-16; everything else takes one or two minutes. It logs its steps to stderr.

On a GPU: python -m benchmarks.engine --device cuda --precision bfloat16 --compile --pairs 2048
--batch-size 256 --naive-pairs 0
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.commands import create_parser
from benchmarks.naive import compute_map
from m2ib import Attribution, BottleneckConfig, DualEncoder, attribute, preset
from m2ib.config import REFERENCE_TOKENS, TowerName
from m2ib.noise import KeyedNoise

CAPTION = "a photograph of number {} beside the small red door"  # 12 tokens with SOS and EOS
PAPER = preset("paper")
ANTITHETIC = replace(PAPER, draws=2, antithetic=True)


def create_random_encoder(architecture: str, device: str = "cpu") -> DualEncoder:
    """Return an open_clip architecture with random weights: speed does not depend on their values."""
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, pretrained=None, load_weights=False, device=device)
    return DualEncoder(model, open_clip.get_tokenizer(architecture), name=architecture)


def generate_inputs(encoder: DualEncoder, count: int) -> tuple[Tensor, list[str], list[str]]:
    """Return random images, captions and keys."""
    pixels = torch.randn(count, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1))
    return pixels, [CAPTION.format(i) for i in range(count)], [f"pair-{i}" for i in range(count)]


def compute_naive_maps(
    encoder: DualEncoder, pixels: Tensor, texts: list[str], keys: list[str], config: BottleneckConfig
) -> list[Any]:
    """Return both maps of each pair, computed by the literal loop with the engine's noise."""
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
            logged = log_steps(noise, f"{key}, {name} map", config.steps)
            row.append(compute_map(encoder, blocks[layer], image, ids, length, gate.beta, logged))
        maps.append(row)
    return maps


def log_steps(noise: Iterable[Tensor], label: str, steps: int) -> Iterator[Tensor]:
    """Yield the noise of each step, and log the step to stderr."""
    start = time.perf_counter()
    for step, draws in enumerate(noise, start=1):
        seconds = time.perf_counter() - start
        print(f"literal loop, {label}: step {step} of {steps}, after {seconds:.0f} s", file=sys.stderr, flush=True)
        yield draws


def measure_time(
    work: Callable[[], Any], device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> tuple[float, Any]:
    """Return the seconds that `work` takes on a clock, and its result; waits for an asynchronous device."""
    start = clock()
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return clock() - start, result


def compute_difference(loop: list[Any], engine: Attribution, relative: bool) -> float:
    """Return the largest difference of the maps in nats, or relative to the largest value of each map."""
    worst = 0.0
    for i, (image, text) in enumerate(loop):
        for found, expected in ((engine.image_map[i].flatten(), image[1:].cpu()), (engine.text_map[i], text.cpu())):
            scale = float(expected.abs().max()) if relative else 1.0
            worst = max(worst, float((found - expected).abs().max()) / scale)
    return worst


def count_operations(work: Callable[[], Any]) -> int:
    """Return the number of floating-point operations of `work`, as PyTorch counts them."""
    torch.backends.mha.set_fastpath_enabled(False)  # its operations are not counted
    try:
        with FlopCounterMode(display=False) as counter:
            work()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


def measure_matmul_rate(device: str, dtype: torch.dtype, rows: int) -> float:
    """Return the operations per second of matrix products as large as a suffix's, best of ten repetitions."""
    a, b = (torch.randn(*shape, device=device, dtype=dtype) for shape in ((rows, 768), (768, 3072)))
    seconds = min(measure_time(lambda: [a @ b for _ in range(10)], device)[0] for _ in range(10))
    return 10 * 2 * rows * 768 * 3072 / seconds


def measure_encoder(encoder: DualEncoder, options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Yield the name and the value of each measurement of a model."""
    device, count = options.device, options.pairs
    pixels, texts, keys = generate_inputs(encoder, count)
    few = slice(0, min(options.naive_pairs, count))
    encoder.model.eval()

    def run_engine(config: BottleneckConfig) -> Attribution:
        config = replace(config, precision=options.precision)
        return attribute(encoder, pixels, texts, config, keys=keys, batch_size=options.batch_size)

    attribute(encoder, pixels[:2], texts[:2], ANTITHETIC, keys=keys[:2], batch_size=2)  # warm up
    operations = count_operations(lambda: run_engine(ANTITHETIC))
    yield "default_gflop_per_pair", operations / count / 1e9
    if options.compile:  # after counting, because operations of compiled code are not counted
        encoder.compile()
        for config in (PAPER, ANTITHETIC):
            run_engine(replace(config, steps=1))  # compile before the time is measured
    paper_seconds, paper = measure_time(lambda: run_engine(PAPER), device)
    yield "paper_pairs_per_second", count / paper_seconds
    default_seconds, _ = measure_time(lambda: run_engine(ANTITHETIC), device)
    yield "default_pairs_per_second", count / default_seconds
    rows = options.batch_size * ANTITHETIC.draws * REFERENCE_TOKENS
    limit = measure_matmul_rate(device, getattr(torch, options.precision), rows)
    yield "default_tflop_per_second", operations / default_seconds / 1e12
    yield "matmul_limit_share", operations / default_seconds / limit
    yield "peak_memory_gib", read_peak_memory(device) / 2**30
    if options.naive_pairs:
        loop_seconds, loop = measure_time(
            lambda: compute_naive_maps(encoder, pixels[few], texts[few], keys[few], PAPER), device
        )
        loop_rate = len(loop) / loop_seconds
        yield "loop_pairs_per_second", loop_rate
        yield "paper_vs_loop", count / paper_seconds / loop_rate
        yield "default_vs_loop", count / default_seconds / loop_rate
        yield "max_abs_difference", compute_difference(loop, paper, relative=False)
        yield "max_relative_difference", compute_difference(loop, paper, relative=True)


def print_rows(title: str, rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Print each row as soon as it is measured; return all rows."""
    print(title, flush=True)
    values = {}
    for key, value in rows:
        print(f"{key:>26} {value:12.4g}", flush=True)
        values[key] = value
    return values


def measure_architecture(architecture: str, options: argparse.Namespace) -> dict[str, float]:
    """Print and return the rows of one architecture."""
    return print_rows(architecture, measure_encoder(create_random_encoder(architecture, options.device), options))


def read_peak_memory(device: str) -> int:
    """Return the peak in bytes of the device's allocations, or on a CPU of the resident set."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure all models, print their tables and a last line of JSON."""
    parser = create_parser("engine", __doc__)
    parser.add_argument("--models", nargs="+", default=["ViT-B-32", "ViT-B-16"], help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=16, help="number of pairs for the engine (default: %(default)s)")
    parser.add_argument("--naive-pairs", type=int, default=1, help="number of pairs for the loop; 0 skips it")
    parser.add_argument("--batch-size", type=int, default=16, help="pairs per batch (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the suffix")
    parser.add_argument("--compile", action="store_true", help="compile the suffixes and the noise by torch.compile")
    options = parser.parse_args()
    results = {}
    for name in options.models:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            results[name] = process.submit(measure_architecture, name, options).result()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
