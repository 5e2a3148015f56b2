"""What crosses the borders between stages: small, frozen, made of strings, numbers and paths."""

import os
import socket
from dataclasses import dataclass, field

from m2ib import BottleneckConfig

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in shares of width and height, the origin in the top-left corner."""


def parse_box(text: str) -> Box:
    """A box from `x0,y0,x1,y1` in shares of the image. Raises ValueError."""
    numbers = [float(part) for part in text.strip().strip("[]()").replace(",", " ").split()]
    if len(numbers) != 4:
        raise ValueError(f"got {len(numbers)} numbers in {text!r}, expected x0,y0,x1,y1")
    x0, y0, x1, y1 = numbers
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"got {text!r}, expected 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, in shares of the image")
    return x0, y0, x1, y1


@dataclass(frozen=True)
class AttributionPlan:
    """All that decides a map besides the pair; `key` names it in file names.

    second_seed: attribute each pair with the next seed as well, and keep the correlation of the two maps.
    """

    bottleneck: BottleneckConfig
    calibration_pairs: int
    second_seed: bool
    key: str


@dataclass(frozen=True)
class Shard:
    """A consecutive part of the run's pairs: one row group of the stored pairs."""

    index: int
    pairs: int


def this_process() -> str:
    """Which process of which host this is."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard's pairs. `name` is that of its files; `reused` when an earlier attempt had finished it.

    failure: one sentence, if the shard was set aside and all its pairs became error rows. by: the process that says so.
    """

    shard: Shard
    name: str
    attributions: int
    errors: int
    reused: bool
    failure: str | None = None
    by: str = field(default_factory=this_process, compare=False)


@dataclass(frozen=True)
class GateOutcome:
    """Checks of the gates: how many ran, and the sentences of those that failed."""

    checks: int
    critical: tuple[str, ...]
    warnings: tuple[str, ...]
