"""Whether beta means the same on a coarse and a fine grid: `python -m benchmarks.portable`.

The clean demo model reads the same phantoms with its patches 10, 5 and 3 pixels apart, so on grids of 8x8, 15x15 and
24x24: same weights, same content, more tokens. The patches overlap, and the embedding stays close to the model's own.
With `portable` the price of a nat does not depend on the grid; the paper's beta divides it by the number of tokens.
Printed: nats of the whole map and cosine retained, each relative to the model's own grid. The last line is JSON.
"""

import argparse
import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

import demo.models
from demo.corpus import generate
from m2ib import BottleneckConfig, DualEncoder, GateConfig, attribute, calibrate, load_encoder

STRIDES = (10, 5, 3)


def denser(encoder: DualEncoder, stride: int) -> DualEncoder:
    """The same model with its patches `stride` pixels apart."""
    visual = encoder.model.visual
    patch = visual.conv1.kernel_size[0]
    cells = (encoder.image_size[0] - patch) // stride + 1
    visual.conv1.stride = (stride, stride)
    old = visual.positional_embedding.detach()
    side = visual.grid_size[0]
    grid = old[1:].T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, size=(cells, cells), mode="bicubic", align_corners=True)
    visual.positional_embedding = torch.nn.Parameter(torch.cat([old[:1], grid.flatten(2)[0].T]))
    visual.grid_size = (cells, cells)
    return DualEncoder(encoder.model, encoder.tokenizer, encoder.preprocess)


def main() -> None:
    """Measure, print a table, and last one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64, help="(default: %(default)s)")
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        corpus = generate(Path(folder), pairs=pairs, seed=17)
        rows = list(csv.DictReader((corpus / "metadata.csv").open(encoding="utf-8")))
        images = [Image.open(corpus / row["file_name"]).convert("RGB") for row in rows]
    texts = [row["text"] for row in rows]
    found: dict[str, dict[str, list[float]]] = {}
    audit = BottleneckConfig()
    gates = {"audit": audit.image, "paper": GateConfig()}
    for stride in STRIDES:
        encoder = denser(load_encoder(f"local-dir:{demo.models.find_folder('demo/clean')}"), stride)
        pixels = encoder.prepare_images(images)
        for depth, gate in gates.items():
            for portable in (False, True):
                config = replace(audit, image=replace(gate, portable=portable))
                statistics = calibrate(encoder, pixels, texts, config)
                result = attribute(encoder, pixels, texts, config, statistics)
                row = found.setdefault(f"{depth}{' portable' if portable else ''}", {"nats": [], "retained": []})
                row["nats"].append(float(result.image_nats.mean()))
                row["retained"].append(float(result.image_cosine.mean() / result.cosine.mean()))
        print(
            f"stride {stride}: grid {encoder.model.visual.grid_size}, clean cosine {result.cosine.mean():.3f}",
            flush=True,
        )
    for name, row in found.items():
        nats = "  ".join(f"{value / row['nats'][0]:6.2f}" for value in row["nats"])
        print(f"{name:>16}  nats x {nats}   retained  " + "  ".join(f"{value:.3f}" for value in row["retained"]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
