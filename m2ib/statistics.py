"""Feature statistics over an unlabelled calibration sample: what the noise looks like where a gate is shut."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from m2ib.errors import CalibrationError

# A feature that (nearly) never varies would get unbounded standardised values: IBA floors the deviation for the
# same reason. Relative to the typical deviation, so that the floor has no unit.
RELATIVE_FLOOR = 0.01


@dataclass(frozen=True)
class TowerStatistics:
    """Mean and standard deviation, (cells, width) each; a token's cell is its kind or its grid position."""

    mean: Float[Tensor, "cells width"]
    std: Float[Tensor, "cells width"]

    def at(
        self, cells: Int[Tensor, "pairs tokens"]
    ) -> tuple[Float[Tensor, "pairs tokens width"], Float[Tensor, "pairs tokens width"]]:
        """Mean and deviation of each token. Raises CalibrationError if a cell was never calibrated."""
        used = cells.unique().cpu()
        if int(used.max()) >= len(self.mean) or bool(self.mean[used].isnan().any()):
            raise CalibrationError(
                f"feature statistics: the input has cells {used.tolist()}, not all of which were calibrated; "
                "calibrate with the same model, layer and settings as in the attribution"
            )
        return self.mean.to(cells.device)[cells], self.std.to(cells.device)[cells]


class RunningMoments:
    """Mean and variance per (cell, feature), accumulated in float64 over batches."""

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

    def finish(self) -> TowerStatistics:
        """Statistics of all that was added; a cell without a sample holds NaN and is refused when it is asked for."""
        seen = self._count > 0
        mean = self._sum / self._count[:, None]  # 0 / 0 is the NaN
        variance = (self._square / self._count[:, None] - mean.square()).clamp_min(0.0)
        floor = RELATIVE_FLOOR * float(variance[seen].mean().sqrt())
        return TowerStatistics(mean.float(), variance.sqrt().clamp_min(max(floor, 1e-6)).float())


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of both towers; None where the setting is `unit`."""

    image: TowerStatistics | None = None
    text: TowerStatistics | None = None

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        parts = {"image": self.image, "text": self.text}
        save_file(
            {f"{name}.{key}": getattr(part, key) for name, part in parts.items() if part for key in ("mean", "std")},
            path,
        )

    @classmethod
    def load(cls, path: Path) -> "FeatureStatistics":
        """Read what `save` wrote."""
        tensors = load_file(path)

        def part(name: str) -> TowerStatistics | None:
            if f"{name}.mean" not in tensors:
                return None
            return TowerStatistics(tensors[f"{name}.mean"], tensors[f"{name}.std"])

        return cls(part("image"), part("text"))
