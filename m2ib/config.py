"""Settings of the engine, without torch. Paper symbols are mapped to these names in m2ib/README.md."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

Statistics = Literal["unit", "feature", "position"]
SpecialGate = Literal["learned", "closed", "open"]
TowerName = Literal["image", "text"]
Precision = Literal["float32", "bfloat16"]

# The ViT-B/32 on which the paper chose beta: a 7x7 grid and CLS.
REFERENCE_TOKENS = 50


def _check_types(config: Any, whole: Sequence[str], real: Sequence[str], choices: Mapping[str, Any]) -> None:
    for name, literal in choices.items():
        if getattr(config, name) not in get_args(literal):
            raise ValueError(f"{name}: got {getattr(config, name)!r}, expected one of {get_args(literal)}")
    for name in (*whole, *real):
        value = getattr(config, name)
        expected: Any = int if name in whole else int | float
        if value is not None and (isinstance(value, bool) or not isinstance(value, expected)):
            kind = "an integer" if name in whole else "a number"
            raise TypeError(f"{name}: got {value!r}, expected {kind}")


@dataclass(frozen=True)
class GateConfig:
    """Settings of the bottleneck of one tower.

    Attributes:
        depth: Share of the tower's blocks before the gate, from 0 (token embeddings) to 1 (output of the last block).
        layer: 0-based block whose output is gated, -1 for the embeddings; overrides `depth`.
        beta: Price of the mean nat over gated tokens and features, in units of cosine (the paper's beta).
        portable: Take the mean over `REFERENCE_TOKENS` instead of the input's own gated tokens, so that a nat costs
            the same on grids and in captions of any size.
        statistics: Distribution of the noise and of the KL's prior. `unit`: N(0, 1), as in the paper. `feature`: mean
            and deviation for each feature and kind of token over a calibration sample (IBA, Schulz et al. 2020).
            `position`: for each feature and position of the image grid.
        special: Gate of the tokens that are neither patch nor word (CLS, SOS, EOS). `learned`: like all others, as in
            the paper. `closed`: replaced by noise. `open`: passed unchanged.
    """

    depth: float = 10 / 12
    layer: int | None = None
    beta: float = 0.1
    portable: bool = False
    statistics: Statistics = "unit"
    special: SpecialGate = "learned"

    def __post_init__(self) -> None:
        _check_types(self, ("layer",), ("depth", "beta"), {"statistics": Statistics, "special": SpecialGate})
        if not 0.0 <= self.depth <= 1.0:
            raise ValueError(f"depth is the share of blocks before the gate: got {self.depth}, expected 0 to 1")
        if self.layer is not None and self.layer < -1:
            raise ValueError(f"layer: got {self.layer}, expected -1 (embeddings) or a 0-based block")
        if not (math.isfinite(self.beta) and self.beta >= 0.0):
            raise ValueError(f"beta: got {self.beta}, expected a finite number >= 0")

    def resolve_layer(self, blocks: int) -> int:
        """Return the 0-based block whose output is gated (-1: embeddings) in a tower of `blocks` blocks."""
        if self.layer is None:
            return round(self.depth * blocks) - 1
        if self.layer >= blocks:
            raise ValueError(f"layer: got {self.layer}, but the tower has {blocks} blocks: expected -1 to {blocks - 1}")
        return self.layer


@dataclass(frozen=True)
class BottleneckConfig:
    """Settings of an attribution. Defaults are the audit's; m2ib/README.md says why they differ from the paper's.

    Attributes:
        image, text: Bottleneck of each tower.
        steps: Steps of Adam on the gates.
        draws: Noise draws in each step; even if antithetic.
        antithetic: Use each draw with both signs.
        learning_rate: Learning rate of Adam.
        initial_alpha: Initial logit of the gates.
        tolerance: A pair stops when a step moves its map by less than this share of the map's largest value; None:
            never.
        precision: Precision of the suffix; `float32` means that of the weights. Gates, KL and cosine are float32, or
            float64 for a float64 model.
        seed: Seed of the keyed noise.
    """

    image: GateConfig = field(
        default_factory=lambda: GateConfig(depth=0.4, beta=1.0, statistics="feature", special="closed")
    )
    text: GateConfig = field(
        default_factory=lambda: GateConfig(depth=0.0, beta=0.1, statistics="feature", special="closed")
    )
    steps: int = 10
    draws: int = 2
    antithetic: bool = True
    learning_rate: float = 1.0
    initial_alpha: float = 5.0
    tolerance: float | None = None
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        real = ("learning_rate", "initial_alpha", "tolerance")
        _check_types(self, ("steps", "draws", "seed"), real, {"precision": Precision})
        if self.text.statistics == "position":
            raise ValueError("text.statistics: got 'position', expected 'unit' or 'feature': captions have no grid")
        if self.steps < 1 or self.draws < 1:
            raise ValueError(f"steps and draws: got {self.steps} and {self.draws}, expected at least 1 each")
        if self.antithetic and self.draws % 2:
            raise ValueError(f"draws: got {self.draws}, expected an even number, as antithetic draws come in pairs")
        if self.tolerance is not None and not 0.0 <= self.tolerance < 1.0:
            raise ValueError(f"tolerance: got {self.tolerance}, expected a share from 0 to 1, or None")
        if not 0.0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate: got {self.learning_rate}, expected a finite number above 0")
        if not math.isfinite(self.initial_alpha):
            raise ValueError(f"initial_alpha: got {self.initial_alpha}, expected a finite number")

    def check_layers(self, image_blocks: int, text_blocks: int) -> None:
        """Check that both towers have the gated layer.

        Raises:
            ValueError: If one does not; the message names the tower.
        """
        for name, gate, blocks in (("image", self.image, image_blocks), ("text", self.text, text_blocks)):
            try:
                gate.resolve_layer(blocks)
            except ValueError as error:
                raise ValueError(f"{name}.{error}") from error

    def needs_statistics(self) -> bool:
        """Return whether `attribute` needs calibrated feature statistics."""
        return self.image.statistics != "unit" or self.text.statistics != "unit"


PRESETS: dict[str, BottleneckConfig] = {
    "audit": BottleneckConfig(),
    "paper": BottleneckConfig(image=GateConfig(), text=GateConfig(), draws=10, antithetic=False),
}


def preset(name: str, seed: int = 0) -> BottleneckConfig:
    """Return settings by name.

    Args:
        name: `audit` (the defaults) or `paper` (Wang et al., NeurIPS 2023, as released).
        seed: Seed of the noise.

    Raises:
        ValueError: If there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: got {name!r}, expected one of {sorted(PRESETS)}")
    return replace(PRESETS[name], seed=seed)
