"""Measure time and quality of attributions for several settings, and recommend depth, beta and draws."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Final

from m2ib.attribution import attribute
from m2ib.config import BottleneckConfig, GateConfig, TowerName
from m2ib.encoders import DualEncoder, Images
from m2ib.statistics import calibrate

MIN_STABILITY: Final = 0.95
"""Lowest mean correlation of the maps of two seeds that is recommended."""
MIN_RETAINED: Final = 0.9
"""Lowest share of the cosine, with the bottleneck, that is recommended."""
MIN_COSINE: Final = 0.05
"""Mean cosine without a bottleneck below which the retained share means nothing."""
TOWERS: Final[tuple[TowerName, TowerName]] = ("image", "text")


def make_variants(
    config: BottleneckConfig, depths: Iterable[float], betas: Iterable[float], draws: Iterable[int]
) -> list[BottleneckConfig]:
    """Return `config`, and a variant for each combination of depth (see `GateConfig`), beta and number of noise draws.

    Both towers of a variant get the same values. An odd number of draws turns off `antithetic`.
    """
    variants = [
        replace(
            config,
            image=replace(config.image, depth=depth, layer=None, beta=beta),
            text=replace(config.text, depth=depth, layer=None, beta=beta),
            draws=count,
            antithetic=config.antithetic and count % 2 == 0,
        )
        for depth, beta, count in product(depths, betas, draws)
    ]
    return [config, *(variant for variant in variants if variant != config)]


def run_sweep(
    encoder: DualEncoder,
    images: Images,
    texts: Sequence[str],
    settings: Iterable[BottleneckConfig],
    batch_size: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Calibrate and attribute a sample of pairs with each setting, and yield a row of results for each.

    A row has the settings (`draws`; `depth` and `beta` of each tower) and means over the sample. The stability is the
    correlation of a pair's maps for two seeds. The retained cosine is the cosine with the bottleneck in one tower,
    relative to that without a bottleneck (`cosine`). The nats are the sum of a map. The time is that of both maps of a
    pair for one seed.
    """
    for config in settings:
        statistics = calibrate(encoder, images, texts, config) if config.needs_statistics() else None
        keys = [str(i) for i in range(len(texts))]
        start = time.perf_counter()
        result = attribute(encoder, images, texts, config, statistics, keys=keys, batch_size=batch_size)
        seconds = time.perf_counter() - start
        other = replace(config, seed=config.seed + 1)
        again = attribute(encoder, images, texts, other, statistics, keys=keys, batch_size=batch_size)
        image_stability, text_stability = result.stability(again)
        clean = float(result.cosine.mean())
        yield {
            "image_depth": _depth(config.image, encoder.image.num_blocks),
            "image_beta": config.image.beta,
            "text_depth": _depth(config.text, encoder.text.num_blocks),
            "text_beta": config.text.beta,
            "draws": config.draws,
            "cosine": clean,
            "image_stability": float(image_stability.nanmean()),
            "text_stability": float(text_stability.nanmean()),
            "image_retained": float(result.image_cosine.mean()) / clean,
            "text_retained": float(result.text_cosine.mean()) / clean,
            "image_nats": float(result.image_nats.mean()),
            "text_nats": sum(result.text_nats) / len(texts),
            "seconds_per_pair": seconds / len(texts),
        }


def _depth(gate: GateConfig, blocks: int) -> Any:
    return gate.depth if gate.layer is None else (gate.layer + 1) / blocks


def recommend(rows: Sequence[Mapping[str, Any]]) -> dict[TowerName, Mapping[str, Any] | None]:
    """Return the recommended row for each tower, None if no row qualifies. The first row has the present settings.

    A row qualifies for a tower if its maps are stable and retain the cosine (`MIN_STABILITY`, `MIN_RETAINED`). Of
    these, a row with the fewest draws, the largest beta and the depth next to the present one is recommended. Depths
    are not ranked, because none of the measures shows whether a map points at the right place.
    """
    present = rows[0]

    def choose(name: TowerName, draws: int) -> Mapping[str, Any] | None:
        good = [
            row
            for row in rows
            if row["draws"] == draws
            and row["cosine"] >= MIN_COSINE
            and row[f"{name}_stability"] >= MIN_STABILITY
            and row[f"{name}_retained"] >= MIN_RETAINED
        ]
        key = f"{name}_depth"
        return max(good, key=lambda row: (row[f"{name}_beta"], -abs(row[key] - present[key])), default=None)

    choices: list[dict[TowerName, Any]] = [
        {name: choose(name, draws) for name in TOWERS} for draws in sorted({row["draws"] for row in rows})
    ]
    return max(choices, key=lambda choice: sum(row is not None for row in choice.values()))
