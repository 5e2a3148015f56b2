"""Was each artefact really learned? `python -m benchmarks.planted.interventions` paints it onto pairs of other targets.

Image side: the share of pictures of other targets for which a class of the tied target is the likeliest, before and
after the artefact is painted on; classes are told apart zero-shot. Text side: the share of captions of other targets to
which pictures of the tied target are the nearest, before and after the artefact's words are added. Measured apart where
nothing competes (*plain*: pictures whose finding or object is faint, vague captions) and where something does (*rival*:
visible ones, captions that name their class).

An artefact counts as learned when it lifts the share on plain hosts by at least `RISE`, and by at least `OVER_TWIN`
more than it does in the clean twin. Both were fixed before any model was measured.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.planted.artifacts import KINDS
from benchmarks.planted.generators import Generator, Pair, Planting, draw_pair, preprocessing
from benchmarks.planted.learning import STEPS
from benchmarks.planted.plan import Cell, Entry, Split, Tie, cells, ties_at
from benchmarks.planted.training import CACHE, cached, folder, module_code
from demo.contrastive import pixel_batch
from m2ib import DualEncoder, load_encoder

RISE: Final = 0.25
OVER_TWIN: Final = 0.20
HOSTS: Final = 200
"""Pairs a measurement."""
PICTURES_PER_CLASS: Final = 12
"""Whose mean embedding stands for a class when captions look for pictures."""

_STREAM: Final = 800_011
"""First part of the seed of all pairs here: no training and no audit has seen them."""
_BATCH: Final = 128


@dataclass(frozen=True)
class Effect:
    """Shares of hosts that go to the tied target, before and after the artefact is added."""

    plain_before: float
    plain_after: float
    rival_before: float
    rival_after: float

    @property
    def rise(self) -> float:
        """By how much it lifts the share where nothing competes."""
        return self.plain_after - self.plain_before


@dataclass(frozen=True)
class Verdict:
    """What the interventions say about one cell of the grid."""

    cell: Cell
    effect: Effect
    twin: Effect

    @property
    def learned(self) -> bool:
        """Whether the model relies on the artefact, and more so than its twin."""
        return self.effect.rise >= RISE and self.effect.rise - self.twin.rise >= OVER_TWIN


class ZeroShot:
    """A trained model, asked which class a picture shows and which class's pictures a caption means."""

    def __init__(self, encoder: DualEncoder, generator: Generator) -> None:
        self.encoder = encoder
        self.generator = generator

    def embed_images(self, pairs: Sequence[Pair]) -> Tensor:
        """Normalised embeddings, [n, d]."""
        settings = preprocessing(self.generator)
        batches = [pairs[i : i + _BATCH] for i in range(0, len(pairs), _BATCH)]
        return torch.cat([self.encoder.embed_images(pixel_batch([p.image for p in b], settings)) for b in batches])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings, [n, d]."""
        return self.encoder.embed_texts(self.encoder.tokenize(texts))

    @cached_property
    def by_prompts(self) -> Tensor:
        """Each class as the mean embedding of its four prompts, [classes, d]."""
        count = len(self.generator.classes)
        texts = [text for label in range(count) for text in self.generator.prompts(label)]
        return functional.normalize(self.embed_texts(texts).unflatten(0, (count, -1)).mean(dim=1), dim=-1)

    @cached_property
    def by_pictures(self) -> Tensor:
        """Each class as the mean embedding of pictures that show it plainly, [classes, d]."""
        rng = np.random.default_rng((_STREAM, 0))
        count = len(self.generator.classes)
        pairs = [
            draw_pair(self.generator, _nothing(self.generator), rng, label)
            for label in range(count)
            for _ in range(PICTURES_PER_CLASS)
        ]
        return functional.normalize(self.embed_images(pairs).unflatten(0, (count, -1)).mean(dim=1), dim=-1)

    def accuracy(self, pairs: Sequence[Pair]) -> float:
        """Share of pictures whose label is the likeliest class; those with nothing but companions do not count."""
        asked = [pair for pair in pairs if pair.picture.label not in self._beside(pair)]
        told = self.likeliest(asked)
        return float(np.mean([label == pair.picture.label for label, pair in zip(told, asked, strict=True)]))

    def likeliest(self, pairs: Sequence[Pair]) -> list[int]:
        """The class that each picture is nearest to, its companions left out: these are true of it anyway."""
        scores = self.embed_images(pairs) @ self.by_prompts.T
        for row, pair in enumerate(pairs):
            scores[row, self._beside(pair)] = -torch.inf
        found: list[int] = scores.argmax(dim=1).tolist()
        return found

    def share(self, labels: Sequence[int], target: str) -> float:
        """Share of labels that belong to a target."""
        return float(np.mean([self.generator.target_of(label) == target for label in labels]))

    def _beside(self, pair: Pair) -> list[int]:
        """Objects in the picture that no artefact can be tied to."""
        return [label for label in pair.picture.boxes if self.generator.target_of(label) is None]

    def effect(self, tie: Tie, word: str) -> Effect:
        """What adding the artefact to hosts of other targets does."""
        shares: list[float] = []
        for plain in (True, False):
            hosts = list(_hosts(self.generator, tie.target, word, plain=plain))
            changed = [pair.with_artefact(tie.kind, seed) for seed, pair in enumerate(hosts)]
            for pairs in (hosts, changed):
                if KINDS[tie.kind].modality == "image":
                    shares.append(self.share(self.likeliest(pairs), tie.target))
                else:
                    scores = self.embed_texts([pair.caption for pair in pairs]) @ self.by_pictures.T
                    shares.append(self.share(scores.argmax(dim=1).tolist(), tie.target))
        return Effect(*shares)


def measure(entry: Entry, cache: Path = CACHE, steps: int = STEPS) -> dict[str, Any]:
    """Accuracy on visible findings, and the effect of each artefact, of one trained model; kept beside the model.

    A clean twin is measured on the artefacts of all the models that it is the twin of.
    """
    ties = entry.ties or ties_at(entry.generator_name, entry.seed)
    place = folder(entry, cache, steps)
    kept = place / f"interventions-{_digest()}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    zero_shot = ZeroShot(load_encoder(f"local-dir:{place}"), entry.generator)
    rng = np.random.default_rng((_STREAM, 1))
    visible = [draw_pair(entry.generator, _nothing(entry.generator), rng) for _ in range(2 * HOSTS)]
    found = {
        "accuracy": zero_shot.accuracy(visible),
        "effects": {tie.kind: {"target": tie.target, **asdict(zero_shot.effect(tie, entry.word))} for tie in ties},
    }
    kept.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def verdicts(
    cache: Path = CACHE, steps: int = STEPS, *, split: Split | None = None, quick: bool = False
) -> Iterator[Verdict]:
    """What is known of each cell, of a split or of all, whose model and twin are in the cache."""
    for cell in cells(split, quick=quick):
        if not (cached(cell.entry, cache, steps) and cached(cell.twin, cache, steps)):
            continue
        own, other = (measure(entry, cache, steps)["effects"][cell.tie.kind] for entry in (cell.entry, cell.twin))
        yield Verdict(cell, _effect(own), _effect(other))


def table(found: Sequence[Verdict]) -> str:
    """One line a cell."""
    shares = "".join(f"{heading:<12} " for heading in ("plain", "rival", "twin, plain"))
    lines = [f"{'model':<20} {'kind':<12} {'target':<17} rate  {shares}learned  split"]
    for v in found:
        own, twin, tie = v.effect, v.twin, v.cell.tie
        moves = ((own.plain_before, own.plain_after), (own.rival_before, own.rival_after))
        shown = " ".join(f"{a:.2f}->{b:.2f} " for a, b in (*moves, (twin.plain_before, twin.plain_after)))
        learned = "yes" if v.learned else "NO"
        lines.append(
            f"{v.cell.entry.name:<20} {tie.kind:<12} {tie.target:<17} {tie.strength:.2f}  {shown} {learned:<7}  "
            f"{v.cell.split or 'unused'}"
        )
    return "\n".join(lines)


def _effect(stored: dict[str, Any]) -> Effect:
    return Effect(**{key: stored[key] for key in ("plain_before", "plain_after", "rival_before", "rival_after")})


def _nothing(generator: Generator, *, faint: float = 0, vague: float = 0, word: str = "") -> Planting:
    targets = generator.targets
    return Planting({}, word, dict.fromkeys(targets, faint), dict.fromkeys((*targets, None), vague))


def _hosts(generator: Generator, target: str, word: str, *, plain: bool) -> Iterator[Pair]:
    """Pairs of other targets without artefacts; on plain ones nothing but the artefact can tell the target."""
    rng = np.random.default_rng((_STREAM, 2, plain))
    planting = _nothing(generator, faint=plain, vague=plain, word=word)
    left = HOSTS
    while left:
        label = generator.draw_label(rng)
        own = generator.target_of(label)
        # A pair without a target shows nothing that competes, so it is never a rival.
        if own != target and (plain or own is not None):
            left -= 1
            yield draw_pair(generator, planting, rng, label)


def _digest() -> str:
    """Of this module: a measurement that another version made is made again."""
    return hashlib.sha256(module_code(Path(__file__)).encode()).hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a table of what is in the cache; the last line is JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planted.interventions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="the cells of a quick run")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = list(verdicts(options.cache, options.steps, quick=options.quick))
    if not found:
        sys.exit(f"no trained models in {options.cache}: run python -m benchmarks.planted.training first")
    print(table(found))
    models = {entry.name: entry for v in found for entry in (v.cell.entry, v.cell.twin)}
    accuracy = {name: measure(entry, options.cache, options.steps)["accuracy"] for name, entry in models.items()}
    print("accuracy on visible findings  " + "  ".join(f"{name} {share:.3f}" for name, share in accuracy.items()))
    missed = [f"{v.cell.entry.name}/{v.cell.tie.kind}" for v in found if not v.learned]
    print(
        json.dumps(
            {
                "cells": len(found),
                "learned": len(found) - len(missed),
                "not_learned": missed,
                "rise": RISE,
                "over_twin": OVER_TWIN,
                "accuracy": accuracy,
            }
        )
    )


if __name__ == "__main__":
    main()
