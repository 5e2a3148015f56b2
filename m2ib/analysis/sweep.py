"""Measure time and quality of attributions for several settings, as a basis for choosing depth, beta and draws."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from m2ib.attribution import attribute
from m2ib.config import BottleneckConfig
from m2ib.encoders import DualEncoder, Images
from m2ib.statistics import calibrate


@dataclass(frozen=True)
class SweepRow:
    """Results of one setting, as means over a sample of pairs.

    Attributes:
        depth: Share of the tower's blocks before the gate.
        beta: Weight of one nat in the loss; see `GateConfig`.
        draws: Number of noise samples in each step.
        image_stability: Correlation of a pair's image maps for two seeds.
        text_stability: Correlation of a pair's text maps for two seeds.
        image_retained: Mean cosine with the bottleneck in the image tower, divided by the mean cosine without it.
        text_retained: Mean cosine with the bottleneck in the text tower, divided by the mean cosine without it.
        image_nats: Sum of an image map.
        text_nats: Sum of a text map.
        seconds_per_pair: Time to compute both maps of a pair for one seed.
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


def make_variants(
    config: BottleneckConfig, depths: Iterable[float], betas: Iterable[float], draws: Iterable[int]
) -> list[BottleneckConfig]:
    """Return a variant of `config` for each combination of values.

    Args:
        config: Settings to vary.
        depths: Values of `depth` for both towers.
        betas: Values of `beta` for both towers.
        draws: Values of `draws`. Odd values turn off `antithetic`.
    """
    return [
        replace(
            config,
            image=replace(config.image, depth=depth, layer=None, beta=beta),
            text=replace(config.text, depth=depth, layer=None, beta=beta),
            draws=count,
            antithetic=config.antithetic and count % 2 == 0,
        )
        for depth, beta, count in product(depths, betas, draws)
    ]


def run_sweep(
    encoder: DualEncoder,
    images: Images,
    texts: Sequence[str],
    settings: Iterable[BottleneckConfig],
    batch_size: int | None = None,
) -> Iterator[SweepRow]:
    """Calibrate and attribute a sample of pairs with each setting, and yield the results.

    Args:
        encoder: Model.
        images: Images of the sample.
        texts: One caption for each image.
        settings: Settings to compare.
        batch_size: Number of pairs to process at once; see `attribute`.
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
        yield SweepRow(
            depth=config.image.depth,
            beta=config.image.beta,
            draws=config.draws,
            image_stability=float(image_stability.nanmean()),
            text_stability=float(text_stability.nanmean()),
            image_retained=float(result.image_cosine.mean()) / clean,
            text_retained=float(result.text_cosine.mean()) / clean,
            image_nats=float(result.image_nats.mean()),
            text_nats=sum(result.text_nats) / len(texts),
            seconds_per_pair=seconds / len(texts),
        )
