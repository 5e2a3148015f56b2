"""Compare the maps of a GPU with those of a CPU: `python -m benchmarks.agreement --device cuda`.

The two trained demo models attribute phantom pairs with the audit's settings. Float32, bfloat16 and another seed on
the device are compared with float32 on the CPU; the other seed shows which size of a difference matters. Correlation
is that of `Attribution.stability`. The last line is JSON.
"""

import json
from dataclasses import replace

import torch

import demo.models
from benchmarks import demo_pairs
from benchmarks.commands import create_parser
from m2ib import Attribution, BottleneckConfig, attribute, calibrate, load_encoder


def compare_attributions(reference: Attribution, other: Attribution) -> dict[str, float]:
    """Return the lowest and mean correlation of the maps and the largest differences.

    `largest_relative_difference` is that of an image map, relative to the maximum of the reference.
    """
    figures: dict[str, float] = {}
    for side, correlation in zip(("image", "text"), reference.stability(other), strict=True):
        defined = correlation[~correlation.isnan()]
        figures |= {f"{side}_lowest": float(defined.min()), f"{side}_mean": float(defined.mean())}
    difference = (reference.image_map - other.image_map).abs().amax(dim=(1, 2))
    figures["largest_relative_difference"] = float((difference / reference.image_map.amax(dim=(1, 2))).max())
    figures["largest_cosine_difference"] = float((reference.cosine - other.cosine).abs().max())
    return figures


def compare_devices(name: str, device: str, pairs: int) -> dict[str, dict[str, float]]:
    """Return the figures of one demo model for each variant on the device."""
    cpu, gpu = load_encoder(name), load_encoder(name, device=device)
    images, texts = demo_pairs.generate_pairs(pairs, seed=11)
    pixels, config = cpu.prepare_images(images), BottleneckConfig()
    reference = attribute(cpu, pixels, texts, config, calibrate(cpu, pixels, texts, config))
    statistics = calibrate(gpu, pixels, texts, config)
    variants = {
        "float32": config,
        "bfloat16": replace(config, precision="bfloat16"),
        "another seed": replace(config, seed=config.seed + 1),
    }
    return {
        label: compare_attributions(reference, attribute(gpu, pixels, texts, variant, statistics))
        for label, variant in variants.items()
    }


def main() -> None:
    """Compare both demo models, print a table and a last line of JSON."""
    parser = create_parser("agreement", __doc__)
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=64, help="number of phantoms (default: %(default)s)")
    options = parser.parse_args()
    torch.empty(0, device=options.device)  # fail early where the device does not exist
    figures = {name: compare_devices(name, options.device, options.pairs) for name in demo.models.TWINS}
    for name, rows in figures.items():
        for label, row in rows.items():
            print(f"{name:<14} {label:<12}", "  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
