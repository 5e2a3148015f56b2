"""What a setting costs and buys on a model of one's own: the table behind the choice of depth, beta and draws."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from m2ib.attribution import attribute, calibrate
from m2ib.config import BottleneckConfig
from m2ib.encoders import DualEncoder, Images


@dataclass(frozen=True)
class SweepRow:
    """Means over the sample. Settings apply to both towers.

    stability: correlation of a pair's map between two seeds. retained: cosine after the bottleneck over the clean
    cosine, as a ratio of means. nats: per map. seconds_per_pair: both maps, one seed.
    """

    depth: float
    beta: float
    draws: int
    image_stability: float
    text_stability: float
    image_retained: float
    text_retained: float
    image_nats: float
    text_nats: float
    seconds_per_pair: float


def variants(
    config: BottleneckConfig, depths: Iterable[float], betas: Iterable[float], draws: Iterable[int]
) -> list[tuple[float, float, int, BottleneckConfig]]:
    """Every combination, as a variant of `config`; an odd number of draws is taken without antithetic pairs."""
    return [
        (
            depth,
            beta,
            count,
            replace(
                config,
                image=replace(config.image, depth=depth, layer=None, beta=beta),
                text=replace(config.text, depth=depth, layer=None, beta=beta),
                draws=count,
                antithetic=config.antithetic and count % 2 == 0,
            ),
        )
        for depth, beta, count in product(depths, betas, draws)
    ]


def sweep(
    encoder: DualEncoder,
    images: Images,
    texts: Sequence[str],
    settings: Iterable[tuple[float, float, int, BottleneckConfig]],
    batch_size: int | None = None,
) -> Iterator[SweepRow]:
    """One row a setting, as it is done. images, texts: a sample of pairs, which also serves to calibrate."""
    for depth, beta, draws, config in settings:
        statistics = calibrate(encoder, images, texts, config) if config.needs_statistics() else None
        keys = [str(i) for i in range(len(texts))]
        start = time.perf_counter()
        result = attribute(encoder, images, texts, config, statistics, keys=keys, batch_size=batch_size)
        seconds = time.perf_counter() - start
        other = replace(config, seed=config.seed + 1)
        again = attribute(encoder, images, texts, other, statistics, keys=keys, batch_size=batch_size)
        image_stability, text_stability = result.stability(again)
        clean = float(result.cosine.mean())
        yield SweepRow(
            depth=depth,
            beta=beta,
            draws=draws,
            image_stability=float(image_stability.nanmean()),
            text_stability=float(text_stability.nanmean()),
            image_retained=float(result.image_cosine.mean()) / clean,
            text_retained=float(result.text_cosine.mean()) / clean,
            image_nats=float(result.image_nats.mean()),
            text_nats=sum(result.text_nats) / len(texts),
            seconds_per_pair=seconds / len(texts),
        )
