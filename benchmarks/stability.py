"""Measure how stable maps are from seed to seed, by draws: `python -m benchmarks.stability`.

Both trained demo models attribute phantom pairs with two seeds. Each row is a number of noise draws per step, plain or
antithetic, with the closed CLS token of the audit's settings or a learned one, and the other settings of an audit.
Printed are the correlation of the two image maps of a pair (`Attribution.stability`): mean, lowest, and the share of
pairs below .95; the mean of the text maps; and processor time per map relative to the first row, which is the default.
The last line is JSON.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

import demo.models
from benchmarks import demo_pairs
from benchmarks.commands import create_parser
from m2ib import BottleneckConfig, attribute, calibrate, load_encoder

DEFAULT = BottleneckConfig()
LEARNED = replace(DEFAULT, image=replace(DEFAULT.image, special="learned"))


def _variants() -> Iterator[tuple[str, BottleneckConfig]]:
    for token, config in (("closed CLS", DEFAULT), ("learned CLS", LEARNED)):
        for draws, antithetic in ((2, True), (4, True), (8, True), (2, False), (10, False)):
            kind = "antithetic" if antithetic else "plain"
            yield f"{draws} {kind}, {token}", replace(config, draws=draws, antithetic=antithetic)


def measure_stability(pairs: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the name and the figures of each variant."""
    images, texts = demo_pairs.generate_pairs(pairs, seed=12)
    encoders = [load_encoder(name) for name in demo.models.TWINS]
    for label, config in _variants():
        image_side, text_side, start = [], [], time.process_time()
        for encoder in encoders:
            pixels = encoder.prepare_images(images)
            statistics = calibrate(encoder, pixels, texts, config)
            maps = [attribute(encoder, pixels, texts, replace(config, seed=seed), statistics) for seed in (0, 1)]
            image, text = maps[0].stability(maps[1])
            image_side.append(image)
            text_side.append(text)
        image, text = torch.cat(image_side), torch.cat(text_side)
        image = image[~image.isnan()]
        yield (
            label,
            {
                "mean": float(image.mean()),
                "lowest": float(image.min()),
                "below_95": float((image < 0.95).float().mean()),
                "text_mean": float(np.nanmean(text.numpy())),
                "seconds": (time.process_time() - start) / (4 * pairs),
            },
        )


def main() -> None:
    """Print a row for each variant and a last line of JSON."""
    parser = create_parser("stability", __doc__)
    parser.add_argument("--pairs", type=int, default=128, help="number of phantoms (default: %(default)s)")
    options = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    print(f"{'draws':<26} {'mean':>6} {'lowest':>7} {'< .95':>6} {'text':>6} {'cost':>5}")
    for label, row in measure_stability(options.pairs):
        figures[label] = row
        cost = row["seconds"] / next(iter(figures.values()))["seconds"]
        print(
            f"{label:<26} {row['mean']:6.3f} {row['lowest']:7.3f} {row['below_95']:6.1%} {row['text_mean']:6.3f} "
            f"{cost:5.2f}",
            flush=True,
        )
    print(json.dumps({"pairs": options.pairs, "models": len(demo.models.TWINS), "variants": figures}))


if __name__ == "__main__":
    main()
