"""Records that stages exchange: small frozen dataclasses of strings, numbers and paths."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m2ib import BottleneckConfig

Claim = tuple[str, str, str]
"""Region, kind and name of the slice of a finding, whichever rule proposed it."""


def claim_of(row: Mapping[str, Any]) -> Claim:
    """Return the claim of a row of `findings`, `confirmations` or a table with the same columns."""
    return row["region"], row["slice_kind"], row["slice"]


Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of width and height; the origin is the top-left corner."""


def parse_box(text: str) -> Box:
    """Parse a box `x0,y0,x1,y1` in shares of the image. Raises ValueError if the text is not a valid box."""
    numbers = [float(part) for part in text.strip().strip("[]()").replace(",", " ").split()]
    if len(numbers) != 4:
        raise ValueError(f"got {len(numbers)} numbers in {text!r}, expected x0,y0,x1,y1")
    x0, y0, x1, y1 = numbers
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"got {text!r}, expected 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, in shares of the image")
    return x0, y0, x1, y1


def box_columns(box: Box) -> dict[str, float]:
    """Return a box as columns of the table `regions`."""
    return dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))


@dataclass(frozen=True)
class AttributionPlan:
    """All settings that determine the maps of a pair.

    Attributes:
        bottleneck: settings of `m2ib.attribute`.
        calibration_pairs: pairs sampled to estimate the feature statistics.
        second_seed: attribute each pair with the next seed as well, and store the correlation of both maps.
        key: part of the file names of shards.
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


@dataclass(frozen=True)
class ShardResult:
    """The result of a shard.

    Attributes:
        shard: the shard.
        name: name of its files.
        attributions: number of attributed pairs.
        errors: number of pairs that became error rows.
        reused: whether an earlier attempt had finished the shard.
        failure: reason in one sentence, if the shard failed and all its pairs became error rows.
        by: id and host of the process that returned the result.
    """

    shard: Shard
    name: str
    attributions: int
    errors: int
    reused: bool
    failure: str | None = None
    by: str = field(default_factory=lambda: f"process {os.getpid()} on {socket.gethostname()}", compare=False)


@dataclass(frozen=True)
class GateOutcome:
    """The result of the gates: number of checks, and a sentence for each check that failed."""

    checks: int
    critical: tuple[str, ...]
    warnings: tuple[str, ...]
