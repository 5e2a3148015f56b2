"""The bottleneck settings that are compared, by name; each varies the gate of one tower."""

from dataclasses import replace
from typing import Final

from m2ib import BottleneckConfig, GateConfig, preset
from m2ib.config import SpecialGate, Statistics

PAPER: Final = preset("paper")
IDLE: Final = GateConfig(depth=1.0)
"""The gate of the other tower: it lies behind the last block, so that it costs almost nothing."""


def _image(depth: float, beta: float, statistics: Statistics, special: SpecialGate = "learned") -> BottleneckConfig:
    return BottleneckConfig(image=GateConfig(depth, beta=beta, statistics=statistics, special=special), text=IDLE)


def _text(
    depth: float, beta: float = 0.1, statistics: Statistics = "feature", special: SpecialGate = "closed"
) -> BottleneckConfig:
    return BottleneckConfig(image=IDLE, text=GateConfig(depth, beta=beta, statistics=statistics, special=special))


# A name states depth, statistics and, if it is not learned, the gate of the pooled token. Depths are shares of the
# blocks: in the benchmark's models, which have five, 20% leaves one block before the gate.
IMAGE: Final[dict[str, BottleneckConfig]] = {
    "paper": replace(PAPER, text=IDLE),
    "embeddings position": _image(0.0, 1.0, "position"),
    **{
        f"{depth:.0%} {statistics}{' closed' if special == 'closed' else ''}": _image(depth, 1.0, statistics, special)
        for depth in (0.2, 0.4, 0.6)
        for statistics in ("position", "feature")
        for special in ("learned", "closed")
    },
    **{
        f"20% {statistics} beta {beta:g}": _image(0.2, beta, statistics)
        for statistics in ("position", "feature")
        for beta in (0.3, 3.0)
    },
    **{
        f"80% {statistics} closed beta 0.1": _image(0.8, 0.1, statistics, "closed")
        for statistics in ("position", "feature")
    },
}
TEXT: Final[dict[str, BottleneckConfig]] = {
    "paper": replace(PAPER, image=IDLE),
    "embeddings closed": _text(0.0),
    "embeddings closed beta 1": _text(0.0, beta=1.0),
    "embeddings learned": _text(0.0, special="learned"),
    "embeddings unit closed": _text(0.0, statistics="unit"),
    "33% closed": _text(1 / 3),
    "33% learned": _text(1 / 3, special="learned"),
}
