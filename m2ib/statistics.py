"""Feature statistics over an unlabeled calibration sample: the distribution of the noise."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from m2ib.config import BottleneckConfig, GateConfig, TowerName
from m2ib.encoders import DualEncoder, Images
from m2ib.errors import CalibrationError
from m2ib.towers.base import KINDS, HiddenTokens, Tower

# A feature that (nearly) never varies would get unbounded standardized values. IBA limits the deviation for the same
# reason; here relative to the typical deviation, so that the limit has no unit.
RELATIVE_FLOOR = 0.01


@dataclass(frozen=True)
class TowerStatistics:
    """Mean and standard deviation, (cells, width) each. A token's cell is its kind or its grid position.

    Attributes:
        scope: Tower, model, layer and setting, in words. The statistics are valid for no other.
    """

    mean: Float[Tensor, "cells width"]
    std: Float[Tensor, "cells width"]
    scope: str

    def look_up(
        self, cells: Int[Tensor, "pairs tokens"]
    ) -> tuple[Float[Tensor, "pairs tokens width"], Float[Tensor, "pairs tokens width"]]:
        """Return mean and deviation (pairs, tokens, width) of each token.

        Raises:
            CalibrationError: If a cell has no statistics.
        """
        used = cells.unique().cpu()
        if int(used.max()) >= len(self.mean) or bool(self.mean[used].isnan().any()):
            raise CalibrationError(
                f"feature statistics: the input has cells {used.tolist()}, not all of which were calibrated; "
                "calibrate with the same model, layer and settings as in the attribution"
            )
        return self.mean.to(cells.device)[cells], self.std.to(cells.device)[cells]


class RunningMoments:
    """Mean and variance for each cell and feature, accumulated in float64 over batches."""

    def __init__(self, cells: int, width: int) -> None:
        self._count = torch.zeros(cells, dtype=torch.float64)
        self._sum = torch.zeros(cells, width, dtype=torch.float64)
        self._square = torch.zeros(cells, width, dtype=torch.float64)

    def add(self, values: Float[Tensor, "tokens width"], cells: Int[Tensor, " tokens"]) -> None:
        """Accumulate one batch of token features."""
        values, cells = values.detach().cpu().double(), cells.cpu()
        self._count.index_add_(0, cells, torch.ones(len(cells), dtype=torch.float64))
        self._sum.index_add_(0, cells, values)
        self._square.index_add_(0, cells, values.square())

    def finish(self, scope: str) -> TowerStatistics:
        """Return the statistics. A cell without a sample has NaN, which `look_up` refuses.

        Raises:
            CalibrationError: If values are not finite, or all the same.
        """
        if not bool(self._sum.isfinite().all() and self._square.isfinite().all()):
            raise CalibrationError(
                f"calibration sample: hidden states are not all finite ({scope}); look for NaN in images or weights"
            )
        sampled = self._count > 0
        mean = self._sum / self._count[:, None]  # 0 / 0 is the NaN
        variance = (self._square / self._count[:, None] - mean.square()).clamp_min(0.0)
        floor = RELATIVE_FLOOR * float(variance[sampled].mean().sqrt())
        if floor < 1e-6 * float(mean[sampled].abs().mean()):
            raise CalibrationError(
                f"calibration sample: it does not vary ({scope}), expected inputs that differ; take other ones"
            )
        return TowerStatistics(mean.float(), variance.sqrt().clamp_min(floor).float(), scope)


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of both towers; None where the setting is `unit`."""

    image: TowerStatistics | None = None
    text: TowerStatistics | None = None

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        parts = {name: part for name, part in (("image", self.image), ("text", self.text)) if part}
        save_file(
            {f"{name}.{key}": getattr(part, key) for name, part in parts.items() for key in ("mean", "std")},
            path,
            # One entry: safetensors writes several in any order, and the same statistics must give the same bytes.
            metadata={"made_for": json.dumps({name: part.scope for name, part in parts.items()})},
        )

    @classmethod
    def load(cls, path: Path) -> "FeatureStatistics":
        """Read a file that `save` wrote.

        Raises:
            CalibrationError: If it is anything else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
                scopes = json.loads((file.metadata() or {}).get("made_for", "{}"))
        except (OSError, ValueError, SafetensorError) as error:
            raise CalibrationError(f"statistics: {path} cannot be read ({error}); calibrate again") from error

        def part(name: str) -> TowerStatistics | None:
            if f"{name}.mean" not in tensors:
                return None
            return TowerStatistics(tensors[f"{name}.mean"], tensors[f"{name}.std"], scopes.get(name, "unknown"))

        return cls(part("image"), part("text"))


def calibrate(
    encoder: DualEncoder, images: Images, texts: Sequence[str], config: BottleneckConfig, batch_size: int = 64
) -> FeatureStatistics:
    """Estimate mean and deviation of the features at both bottlenecks (IBA, Schulz et al. 2020).

    Args:
        encoder: The model.
        images: PIL images, or (images, 3, height, width) preprocessed pixels. A few hundred, without labels.
        texts: Captions. They need not belong to the images.
        config: Settings of the attribution: layers, and the statistics of each tower.
        batch_size: Inputs at a time.

    Returns:
        Statistics of each tower; None for a tower with `unit` statistics.

    Raises:
        CalibrationError: If the sample is too small, does not vary or is not finite.
    """
    with encoder.frozen():
        image = text = None
        if config.image.statistics != "unit":
            batches = (encoder.prepare_images(images[rows]) for rows in batch_slices(len(images), batch_size))
            image = _calibrate_tower(encoder, "image", batches, config.image, len(images))
        if config.text.statistics != "unit":
            batches = (encoder.tokenize(texts[rows]) for rows in batch_slices(len(texts), batch_size))
            text = _calibrate_tower(encoder, "text", batches, config.text, len(texts))
    return FeatureStatistics(image, text)


def _calibrate_tower(
    encoder: DualEncoder, name: TowerName, batches: Iterable[Tensor], gate: GateConfig, count: int
) -> TowerStatistics:
    if count < 2:
        raise CalibrationError(f"calibration sample: got {count}, expected at least 2 and better a few hundred")
    moments: RunningMoments | None = None
    tower: Tower = getattr(encoder, name)
    layer = gate.resolve_layer(tower.num_blocks)
    for batch in batches:
        tokens = tower.run_prefix(batch, layer)
        if moments is None:
            _, positions, width = tokens.hidden.shape
            moments = RunningMoments(positions if gate.statistics == "position" else KINDS, width)
        moments.add(tokens.hidden[tokens.valid], cells_of(tokens, gate)[tokens.valid])
    if moments is None:
        raise CalibrationError("calibration sample: got no batch")
    return moments.finish(describe_scope(encoder, name, gate))


def cells_of(tokens: HiddenTokens, gate: GateConfig) -> Int[Tensor, "inputs tokens"]:
    """Return the cell of the statistics for each token."""
    if gate.statistics == "position":
        positions = torch.arange(tokens.hidden.shape[1], device=tokens.hidden.device)
        return positions.expand(tokens.kinds.shape)
    return tokens.kinds


def describe_scope(encoder: DualEncoder, name: TowerName, gate: GateConfig) -> str:
    """Describe what statistics with this gate are valid for. The text is stored with them and compared."""
    layer = gate.resolve_layer(getattr(encoder, name).num_blocks)
    return f"{name} tower of model {encoder.digest[:12]}, layer {layer}, per {gate.statistics}"


def batch_slices(count: int, batch_size: int) -> list[slice]:
    """Split `count` rows into batches."""
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    return [slice(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
