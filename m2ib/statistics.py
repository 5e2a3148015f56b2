"""Estimate the mean and standard deviation of hidden states on an unlabeled sample; the noise has the same ones."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from m2ib.arguments import IMAGES, TEXTS, check_argument
from m2ib.config import BottleneckConfig, GateConfig, TowerName
from m2ib.encoders import DualEncoder, Images
from m2ib.errors import CalibrationError
from m2ib.towers.base import KINDS, HiddenTokens, Tower

# A feature that hardly varies would have unbounded standardized values. IBA limits the standard deviation for the same
# reason. Here the limit is relative to the typical standard deviation, so that it has no unit.
RELATIVE_FLOOR = 0.01


@dataclass(frozen=True)
class TowerStatistics:
    """Mean and standard deviation of the hidden states of one tower, for each group of tokens.

    Tokens of a group (a cell) share a mean and standard deviation. A group is a kind of tokens (patch or word, CLS or
    SOS, EOS, padding) with `statistics="feature"`, or a position with `statistics="position"`.
    """

    mean: Float[Tensor, "cells width"] = field(repr=False)
    std: Float[Tensor, "cells width"] = field(repr=False)
    scope: str  # description of the tower, model, layer and setting that they were computed for

    def look_up(
        self, cells: Int[Tensor, "pairs tokens"]
    ) -> tuple[Float[Tensor, "pairs tokens width"], Float[Tensor, "pairs tokens width"]]:
        """Return the mean and the standard deviation that apply to each token.

        `cells` is the index of each token's group. Tokens of a group share their statistics (see `cells_of`).

        Raises:
            CalibrationError: If the calibration sample contained no token of one of these groups.
        """
        used = cells.unique().cpu()
        if int(used.max()) >= len(self.mean) or bool(self.mean[used].isnan().any()):
            raise CalibrationError(
                f"statistics: got tokens of the kinds or at the positions {used.tolist()}, expected only those of the "
                "calibration sample; calibrate with longer texts, or with the model and settings of the attribution"
            )
        return self.mean.to(cells.device)[cells], self.std.to(cells.device)[cells]


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of the hidden states of both towers.

    Attributes:
        image: Statistics of the image tower, or None if its noise is N(0, 1) (`statistics="unit"`).
        text: Statistics of the text tower, or None if its noise is N(0, 1).
    """

    image: TowerStatistics | None = None
    text: TowerStatistics | None = None

    def save(self, path: str | Path) -> None:
        """Write the statistics to a safetensors file."""
        parts = {name: part for name, part in (("image", self.image), ("text", self.text)) if part}
        data = save(
            {f"{name}.{key}": getattr(part, key) for name, part in parts.items() for key in ("mean", "std")},
            # Use a single entry: safetensors writes entries in any order, and equal statistics must give equal bytes.
            metadata={"made_for": json.dumps({name: part.scope for name, part in parts.items()})},
        )
        Path(path).write_bytes(data)  # `save_file` would give it mode 600, unlike all other files of a lake

    @classmethod
    def load(cls, path: str | Path) -> "FeatureStatistics":
        """Read statistics from a file that `save` wrote.

        Raises:
            CalibrationError: If the file cannot be read.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
                scopes = json.loads((file.metadata() or {}).get("made_for", "{}"))
            return cls(**_parse(tensors, scopes))
        except (OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
            raise CalibrationError(f"The statistics file {path} cannot be read: {error}. Calibrate again.") from error


def _parse(tensors: dict[str, Tensor], scopes: dict[str, str]) -> dict[str, TowerStatistics]:
    """Return the statistics of each tower in a file. Raises LookupError, TypeError or ValueError if it is damaged."""
    parts = {
        name: TowerStatistics(tensors.pop(f"{name}.mean"), tensors.pop(f"{name}.std"), str(scopes[name]))
        for name in ("image", "text")
        if f"{name}.mean" in tensors
    }
    shapes = [part.mean.ndim == 2 and part.mean.shape == part.std.shape for part in parts.values()]
    if tensors or not all(shapes):
        raise ValueError("it has other tensors than statistics")
    return parts


def calibrate(
    encoder: DualEncoder,
    images: Images,
    texts: Sequence[str],
    config: BottleneckConfig | None = None,
    batch_size: int = 64,
) -> FeatureStatistics:
    """Estimate the mean and standard deviation of the hidden states at the gates of both towers (Schulz et al. 2020).

    Args:
        encoder: Model to explain.
        images: A few hundred PIL images, or a tensor (images, 3, height, width) of preprocessed images.
        texts: A few hundred captions. They do not have to belong to the images.
        config: Settings of the attribution, which contain the gated layers and the kind of statistics of each tower.
            Defaults to `BottleneckConfig()`.
        batch_size: Number of images or texts to process at once.

    Returns:
        Statistics of both towers. None for a tower with `statistics="unit"`.

    Raises:
        ValueError: If `batch_size` is below 1, or a gated layer does not exist.
        TypeError: If an argument has the wrong type.
        CalibrationError: If the sample has fewer than two inputs, does not vary, or has values that are not finite.
    """
    config = config or BottleneckConfig()
    check_inputs(encoder, images, texts, config)
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}, expected at least 1")
    with encoder.frozen():
        image = _calibrate_tower(encoder, "image", images, config.image, batch_size)
        text = _calibrate_tower(encoder, "text", texts, config.text, batch_size)
    return FeatureStatistics(image, text)


def check_inputs(encoder: DualEncoder, images: Images, texts: Sequence[str], config: BottleneckConfig) -> None:
    """Raise TypeError if an argument of `calibrate` or `attribute` has the wrong type."""
    check_argument("encoder", encoder, DualEncoder, "a model that m2ib.load_encoder(name) returns")
    if not isinstance(images, np.ndarray | Tensor):
        check_argument("images", images, Image.Image, IMAGES, is_list=True)
    check_argument("texts", texts, str, TEXTS, is_list=True)
    check_argument("config", config, BottleneckConfig, "a BottleneckConfig, such as m2ib.preset('paper')")


def _calibrate_tower(
    encoder: DualEncoder, name: TowerName, inputs: Images | Sequence[str], gate: GateConfig, batch_size: int
) -> TowerStatistics | None:
    """Estimate the statistics of one tower in float64. Groups of tokens that the sample lacks get the value NaN."""
    if gate.statistics == "unit":
        return None
    if len(inputs) < 2:
        raise CalibrationError(f"calibration sample: got {len(inputs)} inputs, expected at least 2; use a few hundred")
    tower: Tower = getattr(encoder, name)
    prepare: Callable[[Any], Tensor] = encoder.prepare_images if name == "image" else encoder.tokenize
    scope = describe_scope(encoder, name, gate)
    moments: Tensor | None = None  # sums of powers 0 to 2 for each group of tokens and feature
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
            f"The hidden states of the calibration sample are not all finite ({scope}). Check images and weights."
        )
    sampled = moments[0] > 0
    mean = moments[1] / moments[0]  # NaN for groups without a token
    variance = (moments[2] / moments[0] - mean.square()).clamp_min(0.0)
    floor = RELATIVE_FLOOR * float(variance[sampled].mean().sqrt())
    if floor < 1e-6 * float(mean[sampled].abs().mean()):
        raise CalibrationError(
            f"The calibration sample does not vary ({scope}). Use inputs that differ from each other."
        )
    return TowerStatistics(mean.float(), variance.sqrt().clamp_min(floor).float(), scope)


def cells_of(tokens: HiddenTokens, gate: GateConfig) -> Int[Tensor, "inputs tokens"]:
    """Return the index of each token's group. Tokens of a group share a mean and standard deviation.

    The index is the token's position with `statistics="position"`, and its kind (such as `CONTENT`) otherwise.
    """
    if gate.statistics == "position":
        positions = torch.arange(tokens.hidden.shape[1], device=tokens.hidden.device)
        return positions.expand(tokens.kinds.shape)
    return tokens.kinds


def describe_scope(encoder: DualEncoder, name: TowerName, gate: GateConfig) -> str:
    """Describe the tower, model, layer and kind of statistics in one line.

    The line is stored with calibrated statistics. `attribute` rejects statistics with a different line.
    """
    layer = gate.resolve_layer(getattr(encoder, name).num_blocks)
    return f"{name} tower of model {encoder.digest[:12]}, layer {layer}, per {gate.statistics}"
