"""The audited corpora: pairs as in training, the same pairs without artifacts, and artifacts under wrong captions."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image

from benchmarks.planted.generators import Pair, Planting, draw_pair
from benchmarks.planted.plan import ELSEWHERE, Entry

Variant: TypeAlias = Literal["planted", "bare", "crossed"]
"""planted: as in training, on new images. bare: the same pairs without artifacts. crossed: each artifact occurs with
the target of another artifact and never with its own."""
VARIANTS: Final = get_args(Variant)

_STREAM: Final = 900_001
"""First part of the seed of audited pairs: differs from those of training and of interventions."""


def format_file_name(index: int) -> str:
    """Return the file name of the image of the pair at this index."""
    return f"pair_{index:05d}.png"


def draw_pairs(entry: Entry, variant: Variant, count: int) -> list[Pair]:
    """Draw the pairs of a corpus; they depend only on the entry's name, seed and ties.

    Raises:
        ValueError: for a clean entry, which is audited on the corpora of its twins.
    """
    if entry.clean:
        raise ValueError(f"entry: got {entry.name}, expected one with ties")
    rng = np.random.default_rng((_STREAM, entry.seed, variant == "crossed", *entry.name.encode()))
    planting = _cross_targets(entry) if variant == "crossed" else entry.planting
    pairs = [draw_pair(entry.generator, planting, rng) for _ in range(count)]
    return [pair.remove_artifacts(*entry.kinds) for pair in pairs] if variant == "bare" else pairs


def write_pairs(pairs: list[Pair], folder: Path) -> None:
    """Write pairs as a corpus folder: images and metadata.csv, without the ground truth."""
    folder.mkdir(parents=True)
    for index, pair in enumerate(pairs):
        Image.fromarray(pair.image).save(folder / format_file_name(index))
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("file_name", "text"))
        rows.writerows((format_file_name(index), pair.caption) for index, pair in enumerate(pairs))


def _cross_targets(entry: Entry) -> Planting:
    """Return the entry's planting with each artifact moved to the target of the next one."""
    following = dict(zip(entry.kinds, (*entry.ties[1:], entry.ties[0]), strict=True))
    rates = {
        tie.kind: {
            target: 0.0 if target == tie.target else tie.strength if target == following[tie.kind].target else ELSEWHERE
            for target in entry.planting.rates[tie.kind]
        }
        for tie in entry.ties
    }
    return replace(entry.planting, rates=rates)
