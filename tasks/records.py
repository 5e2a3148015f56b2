"""Records that stages exchange: small frozen dataclasses of strings, numbers and paths."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m2ib import BottleneckConfig

Claim = tuple[str, str, str]
"""What a finding is about: its region, the kind of its slice, and the name of its slice."""


def claim_of(row: Mapping[str, Any]) -> Claim:
    """Return the claim (region, slice kind, slice) of a row of `findings`, `confirmations` or a similar table."""
    return row["region"], row["slice_kind"], row["slice"]


Test = tuple[str, str, str, str, str]
"""What is tested: a claim, its direction (`raises`, `lowers`) and the kind of reliance (`needed`, `sufficient`)."""


def key_of_test(row: Mapping[str, Any]) -> Test:
    """Return what a row of `findings` or `confirmations` tests. Early versions had one direction and one kind."""
    return *claim_of(row), row.get("direction") or "raises", row.get("reliance") or "needed"


Box = tuple[float, float, float, float]
"""The edges x0, y0, x1, y1 as shares of width and height; the origin is the top-left corner."""


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
    """All settings that determine the maps of a pair."""

    bottleneck: BottleneckConfig
    calibration_pairs: int  # sampled to estimate the feature statistics
    second_seed: bool  # attribute each pair with the next seed as well, and store the correlation of both maps
    key: str  # part of the file names of shards
    capture_depth: float | None = None  # share of the blocks after which patches are captured; None: they are not


@dataclass(frozen=True)
class Shard:
    """A consecutive part of the run's pairs: one row group of the stored pairs."""

    index: int
    pairs: int


@dataclass(frozen=True)
class ShardResult:
    """The result of a shard: how many of its pairs were attributed, and how many became error rows."""

    shard: Shard
    name: str  # of its files
    attributions: int
    errors: int
    reused: bool  # an earlier attempt had finished the shard
    failure: str | None = None  # one sentence, if the shard failed and all its pairs became error rows
    files: Mapping[str, str] = field(default_factory=dict, compare=False)  # sha256 by path relative to the lake
    by: str = field(default_factory=lambda: f"process {os.getpid()} on {socket.gethostname()}", compare=False)


@dataclass(frozen=True)
class GateOutcome:
    """The result of the gates: a sentence for each check that failed, by severity."""

    critical: tuple[str, ...]
    warnings: tuple[str, ...]
