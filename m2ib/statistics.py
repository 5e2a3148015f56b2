"""Feature statistics over an unlabeled calibration sample: the distribution of the noise."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    with encoder.frozen():
        image = _calibrate_tower(encoder, "image", images, config.image, batch_size)
        text = _calibrate_tower(encoder, "text", texts, config.text, batch_size)
    return FeatureStatistics(image, text)


def _calibrate_tower(
    encoder: DualEncoder, name: TowerName, inputs: Images | Sequence[str], gate: GateConfig, batch_size: int
) -> TowerStatistics | None:
    """Accumulate moments in float64. A cell without a sample has NaN, which `look_up` refuses."""
    if gate.statistics == "unit":
        return None
    if len(inputs) < 2:
        raise CalibrationError(f"calibration sample: got {len(inputs)}, expected at least 2 and better a few hundred")
    tower: Tower = getattr(encoder, name)
    prepare: Callable[[Any], Tensor] = encoder.prepare_images if name == "image" else encoder.tokenize
    scope = describe_scope(encoder, name, gate)
    moments: Tensor | None = None  # sums of powers 0 to 2 for each cell and feature
    for start in range(0, len(inputs), batch_size):
        tokens = tower.run_prefix(prepare(inputs[start : start + batch_size]), gate.resolve_layer(tower.num_blocks))
        if moments is None:
            _, positions, width = tokens.hidden.shape
            cells = positions if gate.statistics == "position" else KINDS
            moments = torch.zeros(3, cells, width, dtype=torch.float64)
        values = tokens.hidden[tokens.valid].detach().cpu().double()
        for power, moment in enumerate(moments):
            moment.index_add_(0, cells_of(tokens, gate)[tokens.valid].cpu(), values**power)
    if moments is None or not bool(moments.isfinite().all()):
        raise CalibrationError(
            f"calibration sample: hidden states are not all finite ({scope}); look for NaN in images or weights"
        )
    sampled = moments[0] > 0
    mean = moments[1] / moments[0]  # 0 / 0 is the NaN
    variance = (moments[2] / moments[0] - mean.square()).clamp_min(0.0)
    floor = RELATIVE_FLOOR * float(variance[sampled].mean().sqrt())
    if floor < 1e-6 * float(mean[sampled].abs().mean()):
        raise CalibrationError(
            f"calibration sample: it does not vary ({scope}), expected inputs that differ; take other ones"
        )
    return TowerStatistics(mean.float(), variance.sqrt().clamp_min(floor).float(), scope)


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
