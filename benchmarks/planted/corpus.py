"""The audited corpora of a model: pairs as in training and, from the same distribution, what makes audits hard."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from PIL import Image

from benchmarks.planted.artifacts import KINDS
from benchmarks.planted.generators import Pair, Planting, Wording, draw_pair, plant_artifacts
from benchmarks.planted.plan import Entry

Variant: TypeAlias = Literal["planted", "bare", "crossed", "repeated", "binary"]
"""planted: as in training, on new images. bare: the same pairs without artifacts. crossed: each artifact is with the
target of another artifact, whose score it lowers, and never with its own. repeated: five captions an image, and one or
two images a patient, which share the finding and the artifacts. binary: pictures of two classes, with one caption
each."""
VARIANTS: Final = get_args(Variant)

CAPTIONS: Final = 5
"""Captions an image of a repeated corpus."""
SUBJECT: Final = "subject"
"""The column with the file of the subject's mask, for models with the kind `background`."""

_STREAM: Final = 900_001
"""First part of the seed of audited pairs: differs from those of training and of interventions."""


class Row(NamedTuple):
    """One row of a corpus; rows with the same file have the same image."""

    pair: Pair
    file_name: str
    patient: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the row in the lake."""
        return self.file_name, self.pair.caption


def draw_rows(entry: Entry, variant: Variant, count: int) -> list[Row]:
    """Draw the rows of a corpus; they depend only on the entry's name, seed and ties.

    A binary corpus has half of `count` rows, a repeated one half as many again.

    Raises:
        ValueError: for a clean entry, which is audited on the corpora of its twins.
    """
    if entry.clean:
        raise ValueError(f"entry: got {entry.name}, expected one with ties")
    stream = {"planted": 0, "bare": 0, "crossed": 1, "repeated": 2, "binary": 3}[variant]
    rng = np.random.default_rng((_STREAM, entry.seed, stream, *entry.name.encode()))
    if variant == "repeated":
        return list(_draw_repeated(entry, rng, count * 3 // 2))
    planting = _cross_targets(entry) if variant == "crossed" else entry.planting
    if variant == "binary":
        pairs = list(_draw_binary(entry, rng, count // 2))
    else:
        pairs = [draw_pair(entry.generator, planting, rng) for _ in range(count)]
    if variant == "bare":
        pairs = [pair.remove_artifacts(*entry.kinds) for pair in pairs]
    return [Row(pair, f"pair_{index:05d}.png") for index, pair in enumerate(pairs)]


def write_rows(entry: Entry, rows: list[Row], folder: Path) -> dict[str, dict[str, Any]]:
    """Write rows as a corpus folder: images and metadata.csv, without the ground truth.

    Returns:
        The sections of an AUDIT.toml that a user of this corpus would write: its path, its patients and its masks.
    """
    folder.mkdir(parents=True)
    has_masks, has_patients = "background" in entry.kinds, rows[0].patient is not None
    images = {row.file_name: row.pair for row in rows}
    for name, pair in images.items():
        Image.fromarray(pair.image).save(folder / name)
        if has_masks:
            (folder / SUBJECT).mkdir(exist_ok=True)
            Image.fromarray(pair.picture.subject).save(folder / SUBJECT / name)
    columns = ["file_name", "text", *["patient"] * has_patients, *[SUBJECT] * has_masks]
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            values = {"file_name": row.file_name, "text": row.pair.caption, "patient": row.patient}
            writer.writerow([values.get(column, f"{SUBJECT}/{row.file_name}") for column in columns])
    sections: dict[str, dict[str, Any]] = {"corpus": {"path": str(folder)}}
    if has_patients:
        sections["corpus"]["unit"] = "patient"
    if has_masks:
        sections["regions"] = {"columns": {SUBJECT: SUBJECT}, "outside": [SUBJECT]}
    return sections


def _draw_repeated(entry: Entry, rng: np.random.Generator, count: int) -> Iterator[Row]:
    """Yield the rows of patients; an artifact in the caption is in each of its captions or not, as in training."""
    generator, planting = entry.generator, entry.planting
    patients = images = 0
    while count > 0:
        first = draw_pair(generator, planting, rng)
        own = [(p.kind, p.seed) for p in first.artifacts if KINDS[p.kind].modality == "image"]
        for _ in range(int(rng.integers(1, 3))):
            picture = draw_pair(generator, planting, rng, first.picture.label).picture
            written: dict[str, Row] = {}
            while len(written) < CAPTIONS:
                wording = generator.draw_caption(rng, picture, vague=bool(rng.random() < planting.vague[first.target]))
                added = [
                    (kind, 0)
                    for kind, rates in planting.rates.items()
                    if KINDS[kind].modality == "text" and rng.random() < rates[first.target]
                ]
                pair = plant_artifacts(picture, wording, first.target, planting.word, [*own, *added])
                written[pair.caption] = Row(pair, f"image_{images:05d}.png", f"patient {patients:04d}")
            yield from written.values()
            count -= len(written)
            images += 1
        patients += 1


def _draw_binary(entry: Entry, rng: np.random.Generator, count: int) -> Iterator[Pair]:
    """Yield pairs of two classes with one caption each; both targets have an artifact in the image."""
    generator = entry.generator
    ties = [tie for tie in entry.ties if KINDS[tie.kind].modality == "image"]
    chosen = [ties[(entry.seed + step) % len(ties)].target for step in range(2)]
    labels = [
        next(label for label in range(len(generator.classes)) if generator.get_target(label) == target)
        for target in chosen
    ]
    kinds = [tie.kind for tie in ties]
    image_side = replace(entry.planting, rates={kind: entry.planting.rates[kind] for kind in kinds}, vague={})
    for index in range(count):
        label = labels[index % 2]
        pair = draw_pair(generator, image_side, rng, label)
        wording = Wording(generator.list_prompts(label)[0], frozenset({label}), vague=False)
        yield plant_artifacts(
            pair.picture, wording, pair.target, pair.rendered_word, [(p.kind, p.seed) for p in pair.artifacts]
        )


def _cross_targets(entry: Entry) -> Planting:
    """Return the entry's planting with each artifact moved to the target of the next one."""
    following = dict(zip(entry.kinds, (*entry.ties[1:], entry.ties[0]), strict=True))
    rates = {}
    for tie in entry.ties:
        moved = replace(tie, target=following[tie.kind].target)
        without = tie.strength if KINDS[tie.kind].by_absence else 0.0
        rates[tie.kind] = {
            target: without if target == tie.target else moved.get_rate(target)
            for target in entry.planting.rates[tie.kind]
        }
    return replace(entry.planting, rates=rates)
