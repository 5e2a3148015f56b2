"""Settings of an attribution. The module does not import PyTorch.

The table in m2ib/README.md maps the symbols of the M2IB paper (Wang et al., NeurIPS 2023) to names in the code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

Statistics = Literal["unit", "feature", "position"]
SpecialGate = Literal["learned", "closed", "open"]
TowerName = Literal["image", "text"]
Precision = Literal["float32", "bfloat16"]

# Tokens of the ViT-B/32 for which the paper chose beta: 7 x 7 patches and CLS.
REFERENCE_TOKENS = 50


def _check(config: Any, name: str, kind: Any, is_valid: Callable[[Any], bool], expected: str) -> None:
    """Raise ValueError unless the setting `name` has the type `kind` and is valid. A boolean is not a valid number."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, kind) or not is_valid(value):
        raise ValueError(f"{name}: got {value!r}, expected {expected}")


def _check_choice(config: Any, name: str, choices: Any) -> None:
    _check(config, name, str, lambda value: value in get_args(choices), f"one of {', '.join(get_args(choices))}")


@dataclass(frozen=True)
class GateConfig:
    """Settings of the information bottleneck in one tower (the image encoder or the text encoder).

    The bottleneck is inserted after one transformer block. Its gate is a learned weight from 0 to 1 for each token
    and feature: 1 passes the hidden state unchanged, 0 replaces the hidden state by noise.

    Attributes:
        depth: Share of the tower's blocks that run before the gate, from 0 (the gate follows the token embeddings) to
            1 (the gate follows the last block).
        layer: 0-based index of the block whose output is gated, or -1 for the token embeddings. Overrides `depth`.
        beta: Weight of the information that passes the gate in the loss, in cosine per nat (the paper's beta). The
            information is the mean KL divergence over gated tokens and features.
        portable: Whether to divide the information by `REFERENCE_TOKENS` instead of by the number of gated tokens.
            With True a nat costs the same for image grids and captions of any size.
        statistics: Distribution of the noise, which is also the prior of the KL divergence. `unit`: N(0, 1), as in the
            paper. `feature`: normal with the mean and standard deviation of each feature and kind of token over a
            calibration sample (IBA, Schulz et al. 2020). `position`: the same for each feature and token position.
        special: How to gate tokens that are neither patches nor words (CLS, SOS, EOS). `learned`: like all other
            tokens, as in the paper. `closed`: replace these tokens by noise. `open`: pass these tokens unchanged.
    """

    depth: float = 10 / 12
    layer: int | None = None
    beta: float = 0.1
    portable: bool = False
    statistics: Statistics = "unit"
    special: SpecialGate = "learned"

    def __post_init__(self) -> None:
        expected = "None, -1 for the token embeddings or the 0-based index of a block"
        _check(self, "layer", int | None, lambda layer: layer is None or layer >= -1, expected)
        _check(
            self,
            "depth",
            int | float,
            lambda depth: 0 <= depth <= 1,
            "a number from 0 to 1, the share of the blocks before the gate",
        )
        _check(self, "beta", int | float, lambda beta: 0 <= beta < math.inf, "a finite number >= 0")
        _check_choice(self, "statistics", Statistics)
        _check_choice(self, "special", SpecialGate)

    def resolve_layer(self, blocks: int) -> int:
        """Return the 0-based index of the gated block in a tower with this number of blocks, or -1 for the embeddings.

        Raises:
            ValueError: If `layer` is not below `blocks`.
        """
        if self.layer is None:
            return round(self.depth * blocks) - 1
        if self.layer >= blocks:
            raise ValueError(f"layer: got {self.layer}, expected -1 to {blocks - 1}, as the tower has {blocks} blocks")
        return self.layer


@dataclass(frozen=True)
class BottleneckConfig:
    """Settings of `m2ib.attribute`.

    An attribution inserts a gate into each tower of the model and fits the gates by Adam, separately for each
    image-caption pair. The defaults are those of the audit. m2ib/README.md explains how they differ from the paper's.

    Attributes:
        image: Settings of the gate in the image tower.
        text: Settings of the gate in the text tower.
        steps: Number of Adam steps.
        draws: Number of noise samples in each step. Must be even if `antithetic` is True.
        antithetic: Whether to use each noise sample with both signs, which reduces the variance of the gradient.
        learning_rate: Learning rate of Adam.
        initial_alpha: Initial logit of all gates (the paper's alpha).
        tolerance: Stop the fit of a pair once a step changes no value of its map by more than this share of the map's
            largest value. None runs all steps.
        precision: Precision of the blocks after the gate. `float32` uses the precision of the weights. Gates, KL
            divergence and cosine are always float32, or float64 for a float64 model.
        seed: Seed of the noise. The noise of a pair depends only on this seed, the pair's key and the tower.
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
        if self.text.statistics == "position":
            raise ValueError("text.statistics: got 'position', expected 'unit' or 'feature', as captions have no grid")
        _check(self, "steps", int, lambda steps: steps >= 1, "an integer >= 1")
        _check(self, "draws", int, lambda draws: draws >= 1, "an integer >= 1")
        _check(self, "seed", int, lambda _seed: True, "an integer")
        _check(self, "learning_rate", int | float, lambda rate: 0 < rate < math.inf, "a finite number > 0")
        _check(self, "initial_alpha", int | float, math.isfinite, "a finite number")
        expected = "None or a number >= 0 and < 1"
        _check(self, "tolerance", int | float | None, lambda share: share is None or 0 <= share < 1, expected)
        _check_choice(self, "precision", Precision)
        if self.antithetic and self.draws % 2:
            raise ValueError(f"draws: got {self.draws}, expected an even number, because antithetic is True")

    def check_layers(self, image_blocks: int, text_blocks: int) -> None:
        """Check that the `layer` of each gate exists in a tower with this number of blocks.

        Raises:
            ValueError: If a layer does not exist. The message names the tower.
        """
        for name, gate, blocks in (("image", self.image, image_blocks), ("text", self.text, text_blocks)):
            try:
                gate.resolve_layer(blocks)
            except ValueError as error:
                raise ValueError(f"{name}.{error}") from error

    def needs_statistics(self) -> bool:
        """Return True if `attribute` needs feature statistics from `calibrate` with these settings."""
        return self.image.statistics != "unit" or self.text.statistics != "unit"


PRESETS: dict[str, BottleneckConfig] = {
    "audit": BottleneckConfig(),
    "paper": BottleneckConfig(image=GateConfig(), text=GateConfig(), draws=10, antithetic=False),
}


def preset(name: str, seed: int = 0) -> BottleneckConfig:
    """Return a predefined configuration.

    Args:
        name: `audit` for the defaults, or `paper` for the settings of the code released with Wang et al., NeurIPS 2023.
        seed: Seed of the noise.

    Raises:
        ValueError: If no preset has this name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: got {name!r}, expected one of {sorted(PRESETS)}")
    return replace(PRESETS[name], seed=seed)
