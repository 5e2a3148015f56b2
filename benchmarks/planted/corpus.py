"""The corpora that are audited: as a model was trained on, the same pairs bare, and artefacts under wrong captions."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image

from benchmarks.planted.generators import Pair, Planting, draw_pair
from benchmarks.planted.plan import ELSEWHERE, Entry

Variant: TypeAlias = Literal["planted", "bare", "crossed"]
"""planted: as in training, on fresh images. bare: the same pairs without any artefact. crossed: each artefact goes with
another artefact's target, and never with its own: it is there under captions that it does not belong to."""
VARIANTS: Final = get_args(Variant)

_STREAM: Final = 900_001
"""First part of the seed of audited pairs: neither training nor an intervention has seen them."""


def file_name(index: int) -> str:
    """Of the image of the pair at a place."""
    return f"pair_{index:05d}.png"


def draw(entry: Entry, variant: Variant, count: int) -> list[Pair]:
    """Draw the pairs of a corpus; they depend on the entry's name, seed and ties alone.

    Raises:
        ValueError: for a clean entry, which has no artefacts of its own: its twins' corpora are audited with it.
    """
    if entry.clean:
        raise ValueError(f"entry: got {entry.name}, expected one with ties")
    rng = np.random.default_rng((_STREAM, entry.seed, variant == "crossed", *entry.name.encode()))
    planting = _crossed(entry) if variant == "crossed" else entry.planting
    pairs = [draw_pair(entry.generator, planting, rng) for _ in range(count)]
    return [pair.without(*entry.kinds) for pair in pairs] if variant == "bare" else pairs


def write(pairs: list[Pair], folder: Path) -> None:
    """Write pairs as a folder that `m2ib-audit run` reads: images and metadata.csv, nothing of the truth."""
    folder.mkdir(parents=True)
    for index, pair in enumerate(pairs):
        Image.fromarray(pair.image).save(folder / file_name(index))
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("file_name", "text"))
        rows.writerows((file_name(index), pair.caption) for index, pair in enumerate(pairs))


def _crossed(entry: Entry) -> Planting:
    """The entry's planting, each artefact moved on to the next artefact's target."""
    following = dict(zip(entry.kinds, (*entry.ties[1:], entry.ties[0]), strict=True))
    rates = {
        tie.kind: {
            target: 0.0 if target == tie.target else tie.strength if target == following[tie.kind].target else ELSEWHERE
            for target in entry.planting.rates[tie.kind]
        }
        for tie in entry.ties
    }
    return replace(entry.planting, rates=rates)
