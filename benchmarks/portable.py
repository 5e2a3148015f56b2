"""Check that beta has the same effect on coarse and on fine grids: `python -m benchmarks.portable`.

The clean demo model reads the same phantoms with its patches 10, 5 and 3 pixels apart, which gives grids of 8x8, 15x15
and 24x24: same weights, same content, more tokens. The patches overlap, and the embedding stays close to the model's
own. With `portable` the price of a nat does not depend on the grid; the paper's beta divides it by the number of
tokens. The table shows the nats of the whole map relative to the model's own grid, and the retained cosine. The last
line is JSON.
"""

import json
from dataclasses import replace

import torch
import torch.nn.functional as F

from benchmarks import demo_pairs
from benchmarks.commands import create_parser
from m2ib import BottleneckConfig, DualEncoder, GateConfig, attribute, calibrate, load_encoder

STRIDES = (10, 5, 3)


def set_stride(encoder: DualEncoder, stride: int) -> DualEncoder:
    """Return the same model with its patches `stride` pixels apart."""
    visual = encoder.model.visual
    patch = visual.conv1.kernel_size[0]
    cells = (encoder.image_size[0] - patch) // stride + 1
    visual.conv1.stride = (stride, stride)
    positions = visual.positional_embedding.detach()
    side = visual.grid_size[0]
    grid = positions[1:].T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, size=(cells, cells), mode="bicubic", align_corners=True)
    visual.positional_embedding = torch.nn.Parameter(torch.cat([positions[:1], grid.flatten(2)[0].T]))
    visual.grid_size = (cells, cells)
    return DualEncoder(encoder.model, encoder.tokenizer)


def main() -> None:
    """Measure all strides, print a table and a last line of JSON."""
    parser = create_parser("portable", __doc__)
    parser.add_argument("--pairs", type=int, default=64, help="(default: %(default)s)")
    images, texts = demo_pairs.generate_pairs(parser.parse_args().pairs, seed=17)
    figures: dict[str, dict[str, list[float]]] = {}
    audit = BottleneckConfig()
    gates = {"audit": audit.image, "paper": GateConfig()}
    for stride in STRIDES:
        encoder = set_stride(load_encoder("demo/clean"), stride)
        pixels = encoder.prepare_images(images)
        for depth, gate in gates.items():
            for portable in (False, True):
                config = replace(audit, image=replace(gate, portable=portable))
                statistics = calibrate(encoder, pixels, texts, config)
                result = attribute(encoder, pixels, texts, config, statistics)
                row = figures.setdefault(f"{depth}{' portable' if portable else ''}", {"nats": [], "retained": []})
                row["nats"].append(float(result.image_nats.mean()))
                row["retained"].append(float(result.image_cosine.mean() / result.cosine.mean()))
        grid = encoder.model.visual.grid_size
        print(f"stride {stride}: grid {grid}, clean cosine {result.cosine.mean():.3f}", flush=True)
    for name, row in figures.items():
        nats = "  ".join(f"{value / row['nats'][0]:6.2f}" for value in row["nats"])
        print(f"{name:>16}  nats x {nats}   retained  " + "  ".join(f"{value:.3f}" for value in row["retained"]))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
