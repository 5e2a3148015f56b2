"""What crosses the borders between stages: small, frozen, made of strings, numbers and paths."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from corpora import Limits, Root, Sampling
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
class CorpusSource:
    """Where the pairs come from; None: as the corpus tells (format), as its format calls it (columns), all rows.

    sampling: which of the rows are read.
    """

    path: Root
    format: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    limits: Limits = field(default_factory=Limits)
    sampling: Sampling | None = None


@dataclass(frozen=True)
class ModelSource:
    """Which model, in open_clip's terms, and how it runs; batch_size None: as the device's memory allows."""

    architecture: str
    pretrained: str | None = None
    device: str = "cpu"
    batch_size: int | None = None
    compile: bool = False


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
class SuspectRegions:
    """Regions to weigh. frame and corner are shares of width and height; 0 leaves them out.

    boxes: region name -> box of the original image, for all pairs. columns: region name -> column of the
    metadata that holds `x0,y0,x1,y1` for its pair (empty: the image has no such region). masks: region name ->
    boxes of the original image that do not overlap, for all pairs.
    """

    frame: float
    corner: float
    boxes: Mapping[str, Box]
    columns: Mapping[str, str]
    masks: Mapping[str, Sequence[Box]] = field(default_factory=dict)


@dataclass(frozen=True)
class DiscoverRules:
    """How stamps are sought: in a sample of `pairs`, drawn by `seed`; see `m2ib.analysis.overlays.RecurrenceConfig`."""

    pairs: int
    peaks: int
    min_images: int
    seed: int


@dataclass(frozen=True)
class ClusterRules:
    """Which clusters of maps become slices: those of at least `min_pairs` pairs; `seed` draws from a large corpus."""

    min_pairs: int
    seed: int


@dataclass(frozen=True)
class PhraseRules:
    """Which phrases are looked at: those `listed`, and what at least `min_pairs` pairs have, as a slice must."""

    listed: tuple[str, ...]
    min_pairs: int


@dataclass(frozen=True)
class AlertRules:
    """When a finding becomes an alert; `examples` is how many telling pairs it carries.

    own: the user's rules, name -> text, run beside those of sql/rules.
    """

    factor: float
    min_pairs: int
    examples: int
    own: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TellRules:
    """What is told about alerts: an event for each whose life is one of `lives`, or one digest a run.

    min_pairs: smallest slice in which an alert that is gone could have been seen.
    """

    lives: tuple[str, ...]
    digest: bool
    min_pairs: int


@dataclass(frozen=True)
class ConfirmRules:
    """How findings are put to the test; `negatives` is how many random regions the audit tries on itself.

    pairs: sample of a slice. controls: equal regions elsewhere, at most. foils: other captions a pair, at most.
    level: of q. floor_share: part of the clean margin that an effect must exceed.
    """

    enabled: bool
    pairs: int
    controls: int
    foils: int
    level: float
    floor_share: float
    negatives: int
    min_pairs: int
    seed: int


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
