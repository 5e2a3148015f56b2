"""Measure what each shortcut of the engine saves, one after the other in one run: `python -m benchmarks.ablation`.

Weights are random, the settings are the paper's, and both maps of each pair are computed. Each row keeps the shortcuts
of the rows above it, so what it saves depends on them:

1. `literal loop`: benchmarks/naive.py.
2. `weights frozen`: no gradients of weights.
3. `towers once`: the blocks before the gate and the other tower run once per pair instead of once per draw. From here
   on each row also measures the retained cosine, as the engine does.
4. `draws packed`: the draws of a step run in one batch.
5. `pairs batched`: all pairs run in one batch, and their losses are summed.
6. `plain attention`: the same attention without the copies of nn.MultiheadAttention's batch-first path.
7. `pooled token only`: the last block computes the query of the pooled token alone.
8. `text cut`: texts end at their last token instead of at position 77.
9. `closed-form gates`: autograd sees the suffix only. This is the engine, `m2ib.attribute`.
10. `antithetic draws`: two mirrored draws instead of ten. Only this row changes the maps.

Rows 1 and 2 are timed once, on few pairs; the others in rounds, of which the median counts. The run ends with an error
if the maps of a row differ from the engine's by more than a 10,000th of their largest value. It takes about ten minutes
on two cores; the loop logs its steps to stderr. The last line is JSON.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.commands import add_processor_time, create_parser
from benchmarks.engine import (
    ANTITHETIC,
    PAPER,
    compute_difference,
    compute_naive_maps,
    create_random_encoder,
    generate_inputs,
    measure_time,
)
from m2ib import Attribution, BottleneckConfig, DualEncoder, GateConfig, attribute
from m2ib.bottleneck import GatedTokens, noisy_code, price_per_nat
from m2ib.config import TowerName
from m2ib.noise import KeyedNoise
from m2ib.towers.attention import run_blocks
from m2ib.towers.base import HiddenTokens, Tower
from m2ib.towers.text import OpenClipTextTower, Vocabulary

SHORTCUTS = ("draws packed", "pairs batched", "plain attention", "pooled token only", "text cut")
TOLERANCE = 1e-4


def compute_maps_by_autograd(
    encoder: DualEncoder, pixels: Tensor, texts: list[str], keys: list[str], shortcuts: Collection[str]
) -> list[list[Tensor]]:
    """Return both maps of each pair, computed with these shortcuts and with autograd through the gates."""
    size = len(keys) if "pairs batched" in shortcuts else 1
    owner = getattr(encoder.model, "text", encoder.model)
    full_length = OpenClipTextTower(owner, Vocabulary(), cut=False)
    text = encoder.text if "text cut" in shortcuts else full_length
    maps: list[list[Tensor]] = []
    name: TowerName
    with encoder.frozen():
        for rows in (slice(start, start + size) for start in range(0, len(keys), size)):
            image, ids = encoder.prepare_images(pixels[rows]), encoder.tokenize(texts[rows])
            sides = []
            for name, tower, blocks, inputs, target in (
                ("image", encoder.image, encoder.model.visual.transformer.resblocks, image, encoder.embed_texts(ids)),
                ("text", text, owner.transformer.resblocks, ids, encoder.embed_images(image)),
            ):
                gate: GateConfig = getattr(PAPER, name)
                layer = gate.resolve_layer(tower.num_blocks)
                tokens = tower.run_prefix(inputs, layer)
                noise = KeyedNoise(PAPER.seed, keys[rows], name)
                suffix = build_suffix(shortcuts, tower, blocks, tokens, layer)
                draws = PAPER.draws if "draws packed" in shortcuts else 1
                nats = fit_by_autograd(tokens, suffix, target, noise, gate, draws)
                sides.append([row[valid] for row, valid in zip(nats, tokens.valid, strict=True)])
            maps += [list(pair) for pair in zip(*sides, strict=True)]
    return maps


def build_suffix(
    shortcuts: Collection[str], tower: Tower, blocks: Any, tokens: HiddenTokens, layer: int
) -> Callable[[Tensor], Tensor]:
    """Return the function from codes to embeddings, with these shortcuts."""
    if "pooled token only" in shortcuts:
        return lambda codes: tower.run_suffix(codes, tokens, layer)
    mask = tokens.shared.get("mask")

    def suffix(codes: Tensor) -> Tensor:
        x = codes.flatten(0, 1)
        if "plain attention" in shortcuts:
            x = run_blocks(blocks[layer + 1 :], x, mask)
        else:
            for block in blocks[layer + 1 :]:
                x = block(x, attn_mask=mask)
        # All blocks have run: this applies the head.
        return tower.run_suffix(x.unflatten(0, codes.shape[:2]), tokens, tower.num_blocks - 1)

    return suffix


def fit_by_autograd(
    tokens: HiddenTokens,
    suffix: Callable[[Tensor], Tensor],
    target: Tensor,
    noise: KeyedNoise,
    gate: GateConfig,
    draws_per_batch: int,
) -> Tensor:
    """Return the nats of the final gates, (pairs, tokens); the suffix receives `draws_per_batch` draws at a time."""
    x, valid = tokens.hidden, tokens.valid
    gates = GatedTokens(
        x, torch.zeros_like(x), torch.ones_like(x), learned_mask=valid, closed_mask=torch.zeros_like(valid)
    )
    alpha = torch.full_like(x, PAPER.initial_alpha).requires_grad_()
    optimizer = torch.optim.Adam([alpha], lr=PAPER.learning_rate)
    price = price_per_nat(gate, valid.sum(dim=1), x.shape[2])[:, None]

    def draw_noise(step: int) -> tuple[Tensor, ...]:
        return noise.draw(step, PAPER.draws, PAPER.antithetic, x.shape[1], x.shape[2]).split(draws_per_batch)

    def sum_cosines(eps: Tensor) -> Tensor:
        """Return the sum over draws and pairs."""
        return F.cosine_similarity(suffix(noisy_code(gates.gate_inputs, alpha, eps)), target, dim=-1).sum()

    for step in range(1, PAPER.steps + 1):
        loss = (price * gates.nats(alpha)).sum()
        for eps in draw_noise(step):
            loss = loss - sum_cosines(eps) / PAPER.draws
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for eps in draw_noise(PAPER.steps + 1):
            sum_cosines(eps)
        return gates.nats(alpha)


def measure_variants(
    encoder: DualEncoder, pairs: int, naive_pairs: int, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> Iterator[tuple[str, float, Any]]:
    """Yield the name, the pairs per second and the maps of each row."""
    pixels, texts, keys = generate_inputs(encoder, pairs)
    few = pixels[:naive_pairs], texts[:naive_pairs], keys[:naive_pairs]

    def run_loop() -> tuple[float, Any]:
        return measure_time(lambda: compute_naive_maps(encoder, *few, PAPER), clock=clock)

    def run_engine(config: BottleneckConfig) -> Attribution:
        return attribute(encoder, pixels, texts, config, keys=keys, batch_size=pairs)

    encoder.model.eval()
    run_engine(ANTITHETIC)  # warm up
    seconds, maps = run_loop()
    yield "literal loop", naive_pairs / seconds, maps
    with encoder.frozen():
        seconds, maps = run_loop()
    yield "weights frozen", naive_pairs / seconds, maps
    variants: dict[str, Callable[[], Any]] = {
        name: partial(compute_maps_by_autograd, encoder, pixels, texts, keys, SHORTCUTS[:count])
        for count, name in enumerate(("towers once", *SHORTCUTS))
    }
    variants |= {
        "closed-form gates": partial(run_engine, PAPER),
        "antithetic draws": partial(run_engine, ANTITHETIC),
    }
    timings = [{name: measure_time(work, clock=clock) for name, work in variants.items()} for _ in range(rounds)]
    for name in variants:
        yield name, pairs / median(timing[name][0] for timing in timings), timings[0][name][1]


def print_table(measurements: Iterable[tuple[str, float, Any]]) -> dict[str, dict[str, float]]:
    """Print and return the ratios and the agreement of each row.

    Raises:
        SystemExit: if the maps of a row differ from the engine's.
    """
    variants = list(measurements)
    engine = next(maps for name, _, maps in variants if name == "closed-form gates")
    rows = {}
    above = first = variants[0][1]
    print(f"{'':>20}{'pairs/s':>12}{'x loop':>12}{'x above':>12}{'difference':>12}")
    for name, rate, maps in variants:
        row = {"pairs_per_second": rate, "vs_loop": rate / first, "vs_line_above": rate / above}
        if not isinstance(maps, Attribution):
            row["max_relative_difference"] = compute_difference(maps, engine, relative=True)
        print(f"{name:>20}" + "".join(f"{value:12.3g}" for value in row.values()), flush=True)
        if (found := row.get("max_relative_difference", 0.0)) > TOLERANCE:
            raise SystemExit(
                f"{name}: the maps differ from the engine's: got {found:g}, expected at most {TOLERANCE:g}"
            )
        rows[name], above = row, rate
    return rows


def main() -> None:
    """Measure all rows, print the table and a last line of JSON."""
    parser = create_parser("ablation", __doc__)
    parser.add_argument("--model", default="ViT-B-32", help="open_clip architecture (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--naive-pairs", type=int, default=1, help="pairs for rows 1 and 2 (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds for rows 3 to 10 (default: %(default)s)")
    add_processor_time(parser)
    options = parser.parse_args()
    encoder = create_random_encoder(options.model)
    rows = print_table(measure_variants(encoder, options.pairs, options.naive_pairs, options.rounds, options.clock))
    print(json.dumps({options.model: rows}))


if __name__ == "__main__":
    main()
