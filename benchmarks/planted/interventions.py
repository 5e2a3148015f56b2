"""Test whether the models learned their artifacts: `python -m benchmarks.planted.interventions`.

Image side: the share of pictures of other targets that are classified zero-shot as the tied target, before and after
the artifact is painted on. Text side: the share of captions of other targets whose nearest pictures show the tied
target, before and after the artifact's words are added. Both are measured on *plain* hosts (pictures whose finding or
object is faint, vague captions) and on *rival* hosts (visible findings or objects, captions that name their class).

An artifact counts as learned if it raises the share on plain hosts by at least `RISE`, and by at least `OVER_TWIN` more
than in the clean twin. Both thresholds were fixed before any model was measured.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.commands import create_parser
from benchmarks.planted.artifacts import KINDS, KindName
from benchmarks.planted.generators import Generator, Pair, Planting, draw_pair, make_preprocessing
from benchmarks.planted.learning import STEPS
from benchmarks.planted.plan import SETS, Cell, Entry, Tie, list_cells, list_ties
from benchmarks.planted.training import (
    CACHE,
    add_options,
    get_folder,
    is_cached,
    load_or_compute,
    read_module_code,
)
from demo.contrastive import pixel_batch
from m2ib import DualEncoder, load_encoder

RISE: Final = 0.25
OVER_TWIN: Final = 0.20
HOSTS: Final = 200
"""Pairs per measurement."""
PICTURES_PER_CLASS: Final = 12
"""Pictures whose mean embedding represents a class when captions are classified."""

_STREAM: Final = 800_011
"""First part of the seed of all pairs here: differs from those of training and of audits."""
_BATCH: Final = 128


@dataclass(frozen=True)
class Effect:
    """Shares of hosts that are classified as the tied target, before and after the artifact is added."""

    plain_before: float
    plain_after: float
    rival_before: float
    rival_after: float

    @property
    def rise(self) -> float:
        """The increase of the share on plain hosts."""
        return self.plain_after - self.plain_before

    @property
    def rival_rise(self) -> float:
        """The increase of the share on rival hosts."""
        return self.rival_after - self.rival_before


@dataclass(frozen=True)
class Verdict:
    """The effects of one artifact in its model and in the clean twin."""

    cell: Cell
    effect: Effect
    twin: Effect

    @property
    def learned(self) -> bool:
        """Whether the model relies on the artifact, and more than its twin does."""
        return self.effect.rise >= RISE and self.effect.rise - self.twin.rise >= OVER_TWIN

    @property
    def lowers(self) -> bool:
        """The same on rival hosts: there the artifact lowers the score of what the picture shows."""
        own, twin = self.effect.rival_rise, self.twin.rival_rise
        return own >= RISE and own - twin >= OVER_TWIN


class ZeroShot:
    """A trained model that classifies pictures by prompts, and captions by pictures."""

    def __init__(self, encoder: DualEncoder, generator: Generator) -> None:
        self.encoder = encoder
        self.generator = generator

    def embed_images(self, pairs: Sequence[Pair]) -> Tensor:
        """Return normalized embeddings, [n, d]."""
        settings = make_preprocessing(self.generator)
        batches = [pairs[i : i + _BATCH] for i in range(0, len(pairs), _BATCH)]
        return torch.cat([self.encoder.embed_images(pixel_batch([p.image for p in b], settings)) for b in batches])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return normalized embeddings, [n, d]."""
        return self.encoder.embed_texts(self.encoder.tokenize(texts))

    @cached_property
    def prompt_embeddings(self) -> Tensor:
        """The mean embedding of the four prompts of each class, [classes, d]."""
        count = len(self.generator.classes)
        texts = [text for label in range(count) for text in self.generator.list_prompts(label)]
        return functional.normalize(self.embed_texts(texts).unflatten(0, (count, -1)).mean(dim=1), dim=-1)

    @cached_property
    def picture_embeddings(self) -> Tensor:
        """The mean embedding of visible pictures of each class, [classes, d]."""
        rng = np.random.default_rng((_STREAM, 0))
        count = len(self.generator.classes)
        pairs = [
            draw_pair(self.generator, _make_planting(self.generator), rng, label)
            for label in range(count)
            for _ in range(PICTURES_PER_CLASS)
        ]
        return functional.normalize(self.embed_images(pairs).unflatten(0, (count, -1)).mean(dim=1), dim=-1)

    def measure_accuracy(self, pairs: Sequence[Pair]) -> float:
        """Return the share of pictures that are classified as their label; pictures without a target do not count."""
        countable = [pair for pair in pairs if pair.picture.label not in self._list_companions(pair)]
        labels = self.predict_labels(countable)
        return float(np.mean([label == pair.picture.label for label, pair in zip(labels, countable, strict=True)]))

    def predict_labels(self, pairs: Sequence[Pair]) -> list[int]:
        """Return the nearest class of each picture, except its companions, which are true of it anyway."""
        scores = self.embed_images(pairs) @ self.prompt_embeddings.T
        for row, pair in enumerate(pairs):
            scores[row, self._list_companions(pair)] = -torch.inf
        labels: list[int] = scores.argmax(dim=1).tolist()
        return labels

    def compute_share(self, labels: Sequence[int], target: str) -> float:
        """Return the share of labels that belong to a target."""
        return float(np.mean([self.generator.get_target(label) == target for label in labels]))

    def _list_companions(self, pair: Pair) -> list[int]:
        """Return the objects in the picture that no artifact can be tied to."""
        return [label for label in pair.picture.boxes if self.generator.get_target(label) is None]

    def measure_effect(self, tie: Tie, word: str) -> Effect:
        """Measure the effect of adding the artifact to hosts of other targets, or of removing it if absence is the cue.

        Hosts have what pairs of other targets usually have: the artifacts of the same model whose absence is a cue.
        """
        shares: list[float] = []
        usual = [k for s in SETS.values() if tie.kind in s for k in s if KINDS[k].by_absence and k != tie.kind]
        for plain in (True, False):
            hosts = list(_draw_hosts(self.generator, tie.target, word, usual, plain=plain))
            changed = [pair.add_artifact(tie.kind, seed) for seed, pair in enumerate(hosts)]
            for pairs in (changed, hosts) if KINDS[tie.kind].by_absence else (hosts, changed):
                if KINDS[tie.kind].modality == "image":
                    shares.append(self.compute_share(self.predict_labels(pairs), tie.target))
                else:
                    scores = self.embed_texts([pair.caption for pair in pairs]) @ self.picture_embeddings.T
                    shares.append(self.compute_share(scores.argmax(dim=1).tolist(), tie.target))
        return Effect(*shares)


def measure_model(entry: Entry, cache: Path = CACHE, steps: int = STEPS) -> dict[str, Any]:
    """Measure the accuracy on visible findings and the effect of each artifact; the result is stored with the model.

    A clean twin is measured on the artifacts of all its models.
    """
    ties = entry.ties or list_ties(entry.generator_name, entry.seed)
    folder = get_folder(entry, cache, steps)

    def compute() -> dict[str, Any]:
        zero_shot = ZeroShot(load_encoder(f"local-dir:{folder}"), entry.generator)
        rng = np.random.default_rng((_STREAM, 1))
        usual = [tie.kind for tie in entry.ties if KINDS[tie.kind].by_absence]
        visible = [draw_pair(entry.generator, _make_planting(entry.generator, usual), rng) for _ in range(2 * HOSTS)]
        effects = {tie.kind: asdict(zero_shot.measure_effect(tie, entry.word)) for tie in ties}
        return {"accuracy": zero_shot.measure_accuracy(visible), "effects": effects}

    # The digest makes other versions of this module measure again.
    digest = hashlib.sha256(read_module_code(Path(__file__)).encode()).hexdigest()[:12]
    return load_or_compute(folder / f"interventions-{digest}.json", compute)


def list_verdicts(cells: Iterable[Cell], cache: Path = CACHE, steps: int = STEPS) -> Iterator[Verdict]:
    """Yield the verdict of each cell whose model and twin are in the cache."""
    for cell in cells:
        if not (is_cached(cell.entry, cache, steps) and is_cached(cell.twin, cache, steps)):
            continue
        own, other = (measure_model(entry, cache, steps)["effects"][cell.tie.kind] for entry in (cell.entry, cell.twin))
        yield Verdict(cell, Effect(**own), Effect(**other))


def format_table(verdicts: Sequence[Verdict]) -> str:
    """Return a table with a row per cell."""
    shares = "".join(f"{heading:<12} " for heading in ("plain", "rival", "twin, plain"))
    lines = [f"{'model':<20} {'kind':<12} {'target':<17} rate  {shares}learned  split"]
    for v in verdicts:
        own, twin, tie = v.effect, v.twin, v.cell.tie
        moves = ((own.plain_before, own.plain_after), (own.rival_before, own.rival_after))
        columns = " ".join(f"{a:.2f}->{b:.2f} " for a, b in (*moves, (twin.plain_before, twin.plain_after)))
        learned = "yes" if v.learned else "NO"
        lines.append(
            f"{v.cell.entry.name:<20} {tie.kind:<12} {tie.target:<17} {tie.strength:.2f}  {columns} {learned:<7}  "
            f"{v.cell.split}"
        )
    return "\n".join(lines)


def _make_planting(
    generator: Generator, kinds: Sequence[KindName] = (), *, faint: float = 0, vague: float = 0, word: str = ""
) -> Planting:
    targets = generator.targets
    rates: dict[KindName, Mapping[str | None, float]] = {kind: dict.fromkeys((*targets, None), 1.0) for kind in kinds}
    return Planting(rates, word, dict.fromkeys(targets, faint), dict.fromkeys((*targets, None), vague))


def _draw_hosts(
    generator: Generator, target: str, word: str, kinds: Sequence[KindName], *, plain: bool
) -> Iterator[Pair]:
    """Draw pairs of other targets with these artifacts; on plain ones only a changed one indicates the target."""
    rng = np.random.default_rng((_STREAM, 2, plain))
    planting = _make_planting(generator, kinds, faint=plain, vague=plain, word=word)
    left = HOSTS
    while left:
        label = generator.draw_label(rng)
        own = generator.get_target(label)
        # A pair without a target shows no finding or object, so it is never a rival.
        if own != target and (plain or own is not None):
            left -= 1
            yield draw_pair(generator, planting, rng, label)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all cached models, print a table and a last line of JSON."""
    parser = create_parser("planted.interventions", __doc__)
    add_options(parser, "--cache", "--steps")
    parser.add_argument("--quick", action="store_true", help="measure the models of a quick run only")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    verdicts = list(list_verdicts(list_cells(quick=options.quick), options.cache, options.steps))
    if not verdicts:
        sys.exit(
            f"{options.cache}: got no trained models, expected some; run python -m benchmarks.planted.training first"
        )
    print(format_table(verdicts))
    models = {entry.name: entry for v in verdicts for entry in (v.cell.entry, v.cell.twin)}
    accuracy = {name: measure_model(entry, options.cache, options.steps)["accuracy"] for name, entry in models.items()}
    print("accuracy on visible findings  " + "  ".join(f"{name} {share:.3f}" for name, share in accuracy.items()))
    not_learned = [f"{v.cell.entry.name}/{v.cell.tie.kind}" for v in verdicts if not v.learned]
    print(
        json.dumps(
            {
                "cells": len(verdicts),
                "learned": len(verdicts) - len(not_learned),
                "not_learned": not_learned,
                "rise": RISE,
                "over_twin": OVER_TWIN,
                "accuracy": accuracy,
            }
        )
    )


if __name__ == "__main__":
    main()
