"""Keep the features of image patches at a deep block, in few bytes: what is in the place of each patch.

The hidden states are those that the clean embedding computes anyhow (`Tower.embed_and_capture`). They are projected to
the principal directions of a calibration sample, scaled to length 1 and rounded to int8, so that products of two of
them are exact integers. Some patches of large models hold global information in place of their own, with an unusually
large norm (registers; Darcet et al., "Vision transformers need registers", ICLR 2024). They become zero vectors.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from m2ib.analysis.masks import measure_overlaps
from m2ib.config import GateConfig
from m2ib.encoders import DualEncoder, Images
from m2ib.errors import CalibrationError
from m2ib.towers.base import CONTENT, HiddenTokens

SCALE: Final = 127
"""Length of a stored vector."""
SIDE: Final = 16
"""Largest number of rows and columns that is kept. Larger grids are averaged."""
CALIBRATION_IMAGES: Final = 256
_DIRECTIONS: Final = 32
_WIDE: Final = 512  # width of hidden states from which twice as many directions are kept
_LARGEST_DEVIATION: Final = 6  # median absolute deviations of a norm above the median
_HOT_SHARE: Final = 0.6  # of a map's nats
_FEWEST_HOT: Final = 6
_MOST_HOT: Final = 12
_MOST_HOT_LARGE: Final = 16  # from grids of 14 x 14


@dataclass(frozen=True)
class PatchProjection:
    """Mean, principal directions and largest norm of the hidden states of patches after a block of the image tower."""

    mean: Float[Tensor, " width"] = field(repr=False)
    directions: Float[Tensor, "dims width"] = field(repr=False)
    largest_norm: Float[Tensor, ""]
    layer: int
    made_for: str  # model and layer; vectors of different ones cannot be compared

    def project(self, tokens: HiddenTokens) -> Int8[Tensor, "inputs grid_h grid_w dims"]:
        """Return the vectors of the patches of each input: length `SCALE`, or 0 if the norm is too large."""
        grid = tokens.grid or (0, 0)
        hidden = tokens.hidden[:, -grid[0] * grid[1] :].float().unflatten(1, grid)  # patches follow special tokens
        kept = (hidden.norm(dim=-1, keepdim=True) <= self.largest_norm.to(hidden)).to(hidden)
        vectors = (hidden - self.mean.to(hidden)) @ self.directions.to(hidden).T
        if max(grid) > SIDE:
            side = min(grid[0], SIDE), min(grid[1], SIDE)
            vectors, kept = (
                F.adaptive_avg_pool2d(each.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)
                for each in (vectors * kept, kept)
            )
        return (F.normalize(vectors, dim=-1) * (kept > 0) * SCALE).round().to(torch.int8)

    def save(self, path: str | Path) -> None:
        """Write the projection to a safetensors file."""
        tensors = {name: getattr(self, name) for name in ("mean", "directions", "largest_norm")}
        about = json.dumps({"made_for": self.made_for, "layer": self.layer})  # one entry, whose bytes have one order
        Path(path).write_bytes(save(tensors, metadata={"about": about}))

    @classmethod
    def load(cls, path: str | Path) -> "PatchProjection":
        """Read a file that `save` wrote. Raises CalibrationError if it cannot be read."""
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("mean", "directions", "largest_norm")}
                return cls(**tensors, **json.loads((file.metadata() or {})["about"]))
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            raise CalibrationError(f"The file {path} of a projection cannot be read: {error}. Audit again.") from error


def resolve_depth(encoder: DualEncoder, gate: GateConfig, depth: float) -> int:
    """Return the block after which patches are captured: at a share of the blocks, and not before the gate.

    It is not the last one, of which many models compute only the pooled token, unless the gate follows the last one.
    """
    blocks = encoder.image.num_blocks
    return max(gate.resolve_layer(blocks), min(GateConfig(depth=depth).resolve_layer(blocks), blocks - 2))


def calibrate_patches(
    encoder: DualEncoder, images: Images, gate: GateConfig, depth: float, batch_size: int = 64
) -> PatchProjection:
    """Compute mean, principal directions and largest norm of patches, from the first `CALIBRATION_IMAGES` images.

    Args:
        encoder: Model whose image tower is read.
        images: PIL images, an array of resized images, or a tensor of preprocessed ones, as `attribute` takes them.
        gate: Settings of the gate in the image tower.
        depth: Share of the blocks of the image tower after which patches are captured.
        batch_size: Number of images to process at once.

    Raises:
        CalibrationError: If the hidden states are not finite, or do not vary.
    """
    layer, number = resolve_depth(encoder, gate, depth), min(len(images), CALIBRATION_IMAGES)
    count, total, products, norms = 0, torch.zeros(()).double(), torch.zeros(()).double(), []
    with encoder.frozen():
        for start in range(0, number, batch_size):
            pixels = encoder.prepare_images(images[start : min(start + batch_size, number)])
            tokens = encoder.image.run_prefix(pixels, layer)
            hidden = tokens.hidden[tokens.kinds == CONTENT].cpu().double()
            count, total, products = count + len(hidden), total + hidden.sum(dim=0), products + hidden.T @ hidden
            norms.append(hidden.norm(dim=-1))
    mean = total / count
    covariance = products / count - torch.outer(mean, mean)
    if not bool(covariance.isfinite().all()) or float(covariance.trace()) <= 0:
        raise CalibrationError(f"The hidden states after block {layer} are not finite, or do not vary. Check images.")
    directions = torch.linalg.eigh(covariance)[1].T.flip(0)[: _DIRECTIONS * (1 + (len(mean) > _WIDE))]
    signs = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
    every_norm = torch.cat(norms)
    median = every_norm.median()
    largest = median + _LARGEST_DEVIATION * (every_norm - median).abs().median()
    made_for = f"image tower of model {encoder.digest[:12]}, layer {layer}"
    return PatchProjection(mean.float(), (directions * signs).float().contiguous(), largest.float(), layer, made_for)


def find_hot_cells(
    maps: Float[np.ndarray, "pairs h w"], grid: tuple[int, int], share: float = _HOT_SHARE
) -> list[list[int]]:
    """Return the cells of a feature grid that hold most of each image map, hottest first.

    They are as many as hold `share` of the map's nats, at least 6 and at most 12 (16 from grids of 14 x 14). A patch of
    the map counts by the part of it that lies in a cell.

    Args:
        maps: Image maps in nats, on a grid of their own.
        grid: Rows and columns of the features.
        share: Share of the nats of the map.
    """
    down, across = (
        measure_overlaps(np.linspace(0, size, cells + 1), np.arange(size + 1))
        for size, cells in zip(maps.shape[1:], grid, strict=True)
    )
    nats = np.maximum(np.einsum("ay,nyx,bx->nab", down, maps.astype(np.float64), across).reshape(len(maps), -1), 0)
    order = np.argsort(-nats, axis=1, kind="stable")
    reached = np.cumsum(np.take_along_axis(nats, order, axis=1), axis=1) / np.maximum(nats.sum(axis=1), 1e-30)[:, None]
    most = _MOST_HOT_LARGE if min(grid) >= 14 else _MOST_HOT
    numbers = np.clip((reached < share).sum(axis=1) + 1, _FEWEST_HOT, most)
    return [cells[:number].tolist() for cells, number in zip(order, numbers, strict=True)]
