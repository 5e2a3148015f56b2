"""Measure time and quality of attributions for several settings, as a basis for choosing depth, beta and draws."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

from m2ib.attribution import attribute
from m2ib.config import BottleneckConfig
from m2ib.encoders import DualEncoder, Images
from m2ib.statistics import calibrate


def make_variants(
    config: BottleneckConfig, depths: Iterable[float], betas: Iterable[float], draws: Iterable[int]
) -> list[BottleneckConfig]:
    """Return a variant of `config` for each combination of depth (see `GateConfig`), beta and number of noise draws.

    Both towers get the same values.

    An odd number of draws turns off `antithetic`.
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
) -> Iterator[dict[str, float]]:
    """Calibrate and attribute a sample of pairs with each setting, and yield a row of results for each.

    A row has the varied settings (`depth`, `beta`, `draws`) and means over the sample. The stability is the correlation
    of a pair's maps for two seeds. The retained cosine is the cosine with the bottleneck in one tower, relative to that
    without a bottleneck. The nats are the sum of a map. The time is that of both maps of a pair for one seed.
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
            "depth": config.image.depth,
            "beta": config.image.beta,
            "draws": config.draws,
            "image_stability": float(image_stability.nanmean()),
            "text_stability": float(text_stability.nanmean()),
            "image_retained": float(result.image_cosine.mean()) / clean,
            "text_retained": float(result.text_cosine.mean()) / clean,
            "image_nats": float(result.image_nats.mean()),
            "text_nats": sum(result.text_nats) / len(texts),
            "seconds_per_pair": seconds / len(texts),
        }
