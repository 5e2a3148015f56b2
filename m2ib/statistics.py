"""Feature statistics over an unlabelled calibration sample: what the noise looks like where a gate is shut."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from m2ib.errors import CalibrationError

# A feature that (nearly) never varies would get unbounded standardised values: IBA floors the deviation for the
# same reason. Relative to the typical deviation, so that the floor has no unit.
RELATIVE_FLOOR = 0.01


@dataclass(frozen=True)
class TowerStatistics:
    """Mean and standard deviation, (cells, width) each; a token's cell is its kind or its grid position.

    made_for: model, layer and setting, in words; they serve no other.
    """

    mean: Float[Tensor, "cells width"]
    std: Float[Tensor, "cells width"]
    made_for: str

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

    def finish(self, made_for: str) -> TowerStatistics:
        """Statistics of all that was added; a cell without a sample holds NaN and is refused when it is asked for.

        Raises CalibrationError for values that are not finite, or that are the same throughout.
        """
        if not bool(self._sum.isfinite().all() and self._square.isfinite().all()):
            raise CalibrationError(
                f"calibration sample: its hidden states are not all finite ({made_for}); look for NaN in images or "
                "weights"
            )
        seen = self._count > 0
        mean = self._sum / self._count[:, None]  # 0 / 0 is the NaN
        variance = (self._square / self._count[:, None] - mean.square()).clamp_min(0.0)
        floor = RELATIVE_FLOOR * float(variance[seen].mean().sqrt())
        if floor < 1e-6 * float(mean[seen].abs().mean()):
            raise CalibrationError(
                f"calibration sample: it does not vary ({made_for}), expected inputs that differ; take other ones"
            )
        return TowerStatistics(mean.float(), variance.sqrt().clamp_min(floor).float(), made_for)


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of both towers; None where the setting is `unit`."""

    image: TowerStatistics | None = None
    text: TowerStatistics | None = None

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        parts = {name: part for name, part in (("image", self.image), ("text", self.text)) if part}
        save_file(
            {f"{name}.{key}": getattr(part, key) for name, part in parts.items() for key in ("mean", "std")},
            path,
            # One entry: safetensors writes several in any order, and the same statistics are to give the same bytes.
            metadata={"made_for": json.dumps({name: part.made_for for name, part in parts.items()})},
        )

    @classmethod
    def load(cls, path: Path) -> "FeatureStatistics":
        """Read what `save` wrote. Raises CalibrationError for anything else."""
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
                made_for = json.loads((file.metadata() or {}).get("made_for", "{}"))
        except (OSError, ValueError, SafetensorError) as error:
            raise CalibrationError(f"statistics: {path} cannot be read ({error}); calibrate again") from error

        def part(name: str) -> TowerStatistics | None:
            if f"{name}.mean" not in tensors:
                return None
            return TowerStatistics(tensors[f"{name}.mean"], tensors[f"{name}.std"], made_for.get(name, "unknown"))

        return cls(part("image"), part("text"))
