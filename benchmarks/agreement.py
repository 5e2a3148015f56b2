"""Whether a GPU gives the maps that a CPU gives; `python -m benchmarks.agreement --device cuda`.

The demo's two trained models and phantom pairs, the audit's settings, float32 and bfloat16, against the CPU's float32;
and against another seed on the same device, which says how much of a difference matters. Correlation is that of
`Attribution.stability`. The last line is JSON.
"""

import argparse
import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

import demo.models
from demo.corpus import generate
from m2ib import Attribution, BottleneckConfig, attribute, calibrate, load_encoder


def agreement(here: Attribution, there: Attribution) -> dict[str, float]:
    """Lowest and mean correlation of the maps, and the largest difference of an image map relative to its maximum."""
    found: dict[str, float] = {}
    for side, correlation in zip(("image", "text"), here.stability(there), strict=True):
        known = correlation[~correlation.isnan()]
        found |= {f"{side}_lowest": float(known.min()), f"{side}_mean": float(known.mean())}
    apart = (here.image_map - there.image_map).abs().amax(dim=(1, 2)) / here.image_map.amax(dim=(1, 2))
    cosine = (here.cosine - there.cosine).abs()
    return found | {"largest_relative_difference": float(apart.max()), "largest_cosine_difference": float(cosine.max())}


def measure(name: str, device: str, pairs: int) -> dict[str, dict[str, float]]:
    """One model's rows, by what is held against the CPU's float32."""
    source = f"local-dir:{demo.models.find_folder(name)}"
    cpu, gpu = load_encoder(source), load_encoder(source, device=device)
    with tempfile.TemporaryDirectory() as folder:
        corpus = generate(Path(folder), pairs=pairs, seed=11)
        rows = list(csv.DictReader((corpus / "metadata.csv").open(encoding="utf-8")))
        pixels = cpu.prepare_images([Image.open(corpus / row["file_name"]).convert("RGB") for row in rows])
    texts, config = [row["text"] for row in rows], BottleneckConfig()
    here = attribute(cpu, pixels, texts, config, calibrate(cpu, pixels, texts, config))
    statistics = calibrate(gpu, pixels, texts, config)
    variants = {
        "float32": config,
        "bfloat16": replace(config, precision="bfloat16"),
        "another seed": replace(config, seed=config.seed + 1),
    }
    return {
        label: agreement(here, attribute(gpu, pixels, texts, variant, statistics))
        for label, variant in variants.items()
    }


def main() -> None:
    """Measure, print a table, and last one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=64, help="phantoms (default: %(default)s)")
    arguments = parser.parse_args()
    torch.empty(0, device=arguments.device)  # a machine without the device says so here
    found = {name: measure(name, arguments.device, arguments.pairs) for name in demo.models.NAMES}
    for name, rows in found.items():
        for label, row in rows.items():
            print(f"{name:<14} {label:<12}", "  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
