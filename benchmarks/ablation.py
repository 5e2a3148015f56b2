"""What each shortcut of the engine brings, one after the other in one run; `python -m benchmarks.ablation --help`.

Random weights, the paper's settings, both maps of each pair. Every line keeps what the lines above it do, and what it
brings depends on them:

1. `literal loop`: benchmarks/naive.py.
2. `weights frozen`: no gradients of weights; nothing else changes.
3. `towers once`: the blocks before the gate and the other tower run once a pair, no longer at every draw. The two are
   not separated. From here on each line also measures the retained cosine, as the engine does.
4. `draws packed`: a step's draws in one batch, no longer one by one.
5. `pairs batched`: all pairs in one batch, their losses summed.
6. `plain attention`: the blocks' own numbers without the copies of nn.MultiheadAttention's batch-first path.
7. `pooled token only`: the last block computes the query of the pooled token alone.
8. `text cut`: texts end at their last token, not at position 77.
9. `closed-form gates`: autograd sees the suffix only. This is the engine, `m2ib.attribute`.
10. `antithetic draws`: two draws, mirrored, for ten. The only line that changes the maps.

Lines 1 and 2 are timed once, on few pairs; the others in rounds, of which the median counts. A line whose maps leave
the engine's by more than a 10,000th of their largest value ends the run with an error. Takes about ten minutes on
two cores; the loop reports its steps on stderr. The last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.engine import ANTITHETIC, PAPER, difference, naive, pairs_for, random_encoder, timed
from m2ib import Attribution, BottleneckConfig, DualEncoder, GateConfig, attribute
from m2ib.bottleneck import GatedTokens, noisy_code, price_per_nat
from m2ib.config import TowerName
from m2ib.noise import KeyedNoise
from m2ib.towers.attention import run_blocks
from m2ib.towers.base import HiddenTokens, Tower
from m2ib.towers.text import OpenClipTextTower

SHORTCUTS = ("draws packed", "pairs batched", "plain attention", "pooled token only", "text cut")
TOLERANCE = 1e-4


def autograd_maps(
    encoder: DualEncoder, pixels: Tensor, texts: list[str], keys: list[str], on: Collection[str]
) -> list[list[Tensor]]:
    """Both maps of each pair, with autograd through the gates and only those shortcuts that are `on`."""
    size = len(keys) if "pairs batched" in on else 1
    owner = getattr(encoder.model, "text", encoder.model)
    full_length = OpenClipTextTower(owner, cut=False)
    text = encoder.text if "text cut" in on else full_length
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
                suffix = suffix_with(on, tower, blocks, tokens, layer)
                nats = fit_by_autograd(tokens, suffix, target, noise, gate, PAPER.draws if "draws packed" in on else 1)
                sides.append([row[valid] for row, valid in zip(nats, tokens.valid, strict=True)])
            maps += [list(pair) for pair in zip(*sides, strict=True)]
    return maps


def suffix_with(
    on: Collection[str], tower: Tower, blocks: Any, tokens: HiddenTokens, layer: int
) -> Callable[[Tensor], Tensor]:
    """From codes to embeddings."""
    if "pooled token only" in on:
        return lambda codes: tower.run_suffix(codes, tokens, layer)
    mask = tokens.shared.get("mask")

    def suffix(codes: Tensor) -> Tensor:
        x = codes.flatten(0, 1)
        if "plain attention" in on:
            x = run_blocks(blocks[layer + 1 :], x, mask)
        else:
            for block in blocks[layer + 1 :]:
                x = block(x, attn_mask=mask)
        return tower.run_suffix(
            x.unflatten(0, codes.shape[:2]), tokens, tower.num_blocks - 1
        )  # no block is left: the head

    return suffix


def fit_by_autograd(
    tokens: HiddenTokens,
    suffix: Callable[[Tensor], Tensor],
    target: Tensor,
    noise: KeyedNoise,
    gate: GateConfig,
    at_once: int,
) -> Tensor:
    """Nats (pairs, tokens) of the final gates; draws go through the suffix `at_once` at a time."""
    x, valid = tokens.hidden, tokens.valid
    gates = GatedTokens(
        x, torch.zeros_like(x), torch.ones_like(x), learned_mask=valid, closed_mask=torch.zeros_like(valid)
    )
    alpha = torch.full_like(x, PAPER.initial_alpha).requires_grad_()
    optimizer = torch.optim.Adam([alpha], lr=PAPER.learning_rate)
    price = price_per_nat(gate, valid.sum(dim=1), x.shape[2])[:, None]

    def draw(step: int) -> tuple[Tensor, ...]:
        return noise.draw(step, PAPER.draws, PAPER.antithetic, x.shape[1], x.shape[2]).split(at_once)

    def cosine(eps: Tensor) -> Tensor:
        """Summed over draws and pairs."""
        return F.cosine_similarity(suffix(noisy_code(gates.gate_inputs, alpha, eps)), target, dim=-1).sum()

    for step in range(1, PAPER.steps + 1):
        loss = (price * gates.nats(alpha)).sum()
        for eps in draw(step):
            loss = loss - cosine(eps) / PAPER.draws
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for eps in draw(PAPER.steps + 1):
            cosine(eps)
        return gates.nats(alpha)


def measure(
    encoder: DualEncoder, pairs: int, naive_pairs: int, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> Iterator[tuple[str, float, Any]]:
    """Each line's name, pairs per second, and maps."""
    pixels, texts, keys = pairs_for(encoder, pairs)
    few = pixels[:naive_pairs], texts[:naive_pairs], keys[:naive_pairs]

    def loop() -> tuple[float, Any]:
        return timed(lambda: naive(encoder, *few, PAPER), clock=clock)

    def engine(config: BottleneckConfig) -> Attribution:
        return attribute(encoder, pixels, texts, config, keys=keys, batch_size=pairs)

    encoder.model.eval()
    engine(ANTITHETIC)  # warm up
    seconds, maps = loop()
    yield "literal loop", naive_pairs / seconds, maps
    with encoder.frozen():
        seconds, maps = loop()
    yield "weights frozen", naive_pairs / seconds, maps
    lines: dict[str, Callable[[], Any]] = {
        name: partial(autograd_maps, encoder, pixels, texts, keys, SHORTCUTS[:count])
        for count, name in enumerate(("towers once", *SHORTCUTS))
    }
    lines |= {"closed-form gates": partial(engine, PAPER), "antithetic draws": partial(engine, ANTITHETIC)}
    taken = [{name: timed(line, clock=clock) for name, line in lines.items()} for _ in range(rounds)]
    for name in lines:
        yield name, pairs / median(one[name][0] for one in taken), taken[0][name][1]


def table(measured: Iterable[tuple[str, float, Any]]) -> dict[str, dict[str, float]]:
    """Ratios and agreement, printed. Raises SystemExit where maps differ from the engine's."""
    lines = list(measured)
    engine = next(maps for name, _, maps in lines if name == "closed-form gates")
    rows = {}
    above = first = lines[0][1]
    print(f"{'':>20}{'pairs/s':>12}{'x loop':>12}{'x above':>12}{'difference':>12}")
    for name, rate, maps in lines:
        row = {"pairs_per_second": rate, "vs_loop": rate / first, "vs_line_above": rate / above}
        if not isinstance(maps, Attribution):
            row["max_relative_difference"] = difference(maps, engine, relative=True)
        print(f"{name:>20}" + "".join(f"{value:12.3g}" for value in row.values()), flush=True)
        if row.get("max_relative_difference", 0.0) > TOLERANCE:
            raise SystemExit(f"{name}: these maps are not the engine's, expected them within {TOLERANCE:g}")
        rows[name], above = row, rate
    return rows


def main() -> None:
    """Measure, print the table, and last one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32", help="towers of open_clip's own (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--naive-pairs", type=int, default=1, help="pairs for lines 1 and 2 (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of lines 3 to 10 (default: %(default)s)")
    parser.add_argument(
        "--processor-time", action="store_true", help="for a machine that others use too; with OMP_NUM_THREADS=1"
    )
    arguments = parser.parse_args()
    encoder = random_encoder(arguments.model)
    clock = time.process_time if arguments.processor_time else time.perf_counter
    rows = table(measure(encoder, arguments.pairs, arguments.naive_pairs, arguments.rounds, clock))
    print(json.dumps({arguments.model: rows}))


if __name__ == "__main__":
    main()
